//! Direct replies. Requests have a publisher of their own: RabbitMQ wants a request on the very channel that consumes
//! the replies, and on a shared one a publish to a missing exchange, which closes the channel, would cost every caller
//! its reply.
//!
//! A reply's address dies with that channel. So what was asked on it is never sent again by itself: it fails, and the
//! reader is told that it has to begin anew.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::convert;
use crate::broker::{ConsumerHandle, reply};
use crate::error::{Error, ErrorKind, Result};

/// Who reads the replies to a publisher's requests.
#[derive(Default)]
pub(super) struct Replies {
    /// Only while there is a channel.
    reader: Option<ConsumerHandle>,
    /// Who will read them once there is one.
    waiting: Option<Waiting>,
}

/// A reader without a channel.
struct Waiting {
    reader: ConsumerHandle,
    since: Instant,
    answer: oneshot::Sender<Result<()>>,
}

impl Replies {
    /// Whether requests may be sent.
    pub(super) fn are_read(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| !reader.is_stopped())
    }

    /// Lets somebody read, at once or when there is a channel.
    pub(super) fn read(
        &mut self,
        reader: ConsumerHandle,
        answer: oneshot::Sender<Result<()>>,
        is_open: bool,
    ) {
        let is_awaited = self.waiting.as_ref().is_some_and(|waiting| !waiting.answer.is_closed());
        if self.are_read() || is_awaited {
            // One that has gone does not want to know, here and below.
            let _ = answer.send(Err(reply::taken()));
            return;
        }
        self.waiting = Some(Waiting { reader, since: Instant::now(), answer });
        if is_open {
            self.opened();
        }
    }

    /// There is a channel.
    pub(super) fn opened(&mut self) {
        if let Some(Waiting { reader, answer, .. }) = self.waiting.take()
            && answer.send(Ok(())).is_ok()
        {
            self.reader = Some(reader);
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
            reader.send(Err(error()));
        }
    }

    /// Hands a reply to its reader.
    pub(super) fn deliver(&self, message: lapin::message::Delivery) {
        let mut delivery = reply::delivery(convert::envelope(message.properties, message.data));
        delivery.routing_key = message.routing_key.into();
        match &self.reader {
            Some(reader) => reader.send(Ok(delivery)),
            None => {
                let id = delivery.envelope.correlation_id;
                tracing::debug!(correlation_id = id, "a reply came that nobody reads any more");
            }
        }
    }

    /// Waits until nobody wants to read any more. Cancel safe.
    pub(super) async fn stopped(replies: &Option<Self>) {
        match replies.as_ref().and_then(|replies| replies.reader.as_ref()) {
            Some(reader) => reader.stopped().await,
            None => std::future::pending().await,
        }
    }

    /// Lets go of a reader that has stopped: it then hears that nothing more will come.
    pub(super) fn let_go(&mut self) {
        self.reader = None;
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
