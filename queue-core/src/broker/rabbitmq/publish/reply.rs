//! Direct replies. Requests have a publisher of their own: RabbitMQ wants a request on the very channel that consumes
//! the replies, and on a shared one a publish to a missing exchange, which closes the channel, would cost every caller
//! its reply.
//!
//! A reply's address dies with that channel. So what was asked on it is never sent again by itself: it fails, and the
//! reader is told that it has to begin anew.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::wire::Wire;
use crate::broker::{ConsumerHandle, reply};
use crate::error::{Error, ErrorKind, Result};

/// The reader of the replies to a publisher's requests.
#[derive(Default)]
pub(super) struct Replies {
    /// Only while there is a channel.
    reader: Option<Reader>,
    /// The next reader, until there is a channel.
    waiting: Option<Waiting>,
}

struct Reader {
    handle: ConsumerHandle,
    /// Ends when it wants no more.
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A reader without a channel.
struct Waiting {
    reader: ConsumerHandle,
    since: Instant,
    answer: oneshot::Sender<Result<()>>,
}

impl Replies {
    /// True if requests may be sent.
    pub(super) fn are_read(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| !reader.handle.is_stopped())
    }

    /// Adds a reader, at once or when there is a channel.
    pub(super) fn read(
        &mut self,
        reader: ConsumerHandle,
        answer: oneshot::Sender<Result<()>>,
        wire: Option<&mut Wire>,
    ) {
        let is_awaited = self.waiting.as_ref().is_some_and(|waiting| !waiting.answer.is_closed());
        if self.are_read() || is_awaited {
            // One that has gone does not want to know, here and below.
            let _ = answer.send(Err(reply::taken()));
            return;
        }
        self.waiting = Some(Waiting { reader, since: Instant::now(), answer });
        if let Some(wire) = wire {
            self.opened(wire);
        }
    }

    /// There is a channel.
    pub(super) fn opened(&mut self, wire: &mut Wire) {
        if let Some(Waiting { reader, answer, .. }) = self.waiting.take()
            && answer.send(Ok(())).is_ok()
        {
            wire.read_replies(&reader);
            let handle = reader.clone();
            let stopped = Box::pin(async move { handle.stopped().await });
            self.reader = Some(Reader { handle: reader, stopped });
        }
    }

    /// There will be no channel for who waits.
    pub(super) fn refused(&mut self, error: Error) {
        if let Some(waiting) = self.waiting.take() {
            let _ = waiting.answer.send(Err(error));
        }
    }

    /// The channel is gone. The reader hears it as the last item.
    pub(super) fn ended(&mut self, error: impl FnOnce() -> Error) {
        if let Some(reader) = self.reader.take() {
            reader.handle.send(Err(error()));
        }
    }

    /// Lets go of everybody: a reader hears that nothing more will come.
    pub(super) fn let_go(&mut self) {
        self.reader = None;
        self.waiting = None;
    }

    /// Lets go of a reader that has stopped, which then hears that nothing more will come, and has `cx` woken when it
    /// stops. Whether it has.
    pub(super) fn poll_stopped(&mut self, wire: Option<&mut Wire>, cx: &mut Context<'_>) -> bool {
        let has_stopped =
            self.reader.as_mut().is_some_and(|reader| reader.stopped.as_mut().poll(cx).is_ready());
        has_stopped && self.leave_stopped(wire)
    }

    /// Lets go of a reader, if it has stopped. Whether it has.
    pub(super) fn leave_stopped(&mut self, wire: Option<&mut Wire>) -> bool {
        let left = self.reader.take_if(|reader| reader.handle.is_stopped());
        if left.is_some() {
            wire.into_iter().for_each(Wire::leave_replies);
        }
        left.is_some()
    }

    /// When who waits has waited long enough.
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        self.waiting.as_ref().map(|waiting| waiting.since + timeout)
    }

    /// Answers who has waited long enough.
    pub(super) fn expire(&mut self, timeout: Duration, down: Option<impl Into<crate::error::BoxError>>) {
        if self.deadline(timeout).is_some_and(|deadline| Instant::now() >= deadline) {
            let words = format!("RabbitMQ has been away for {timeout:?}; replies cannot be read");
            let error = Error::new(ErrorKind::Connection, words);
            self.refused(match down {
                Some(down) => error.with_source(down),
                None => error,
            });
        }
    }
}
