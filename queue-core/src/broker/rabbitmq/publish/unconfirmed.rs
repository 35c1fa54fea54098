//! Requests that are sent without confirms: their callers wait for replies, and want to hear of a request only what
//! keeps its reply from coming. Owned by `wire`.
//!
//! RabbitMQ returns what reaches no queue without being asked for a confirm, and a lost channel ends its requests anyway.
//! Only what a queue refuses, because it is full above all, is told by a nack alone: so requests to queues that may are
//! sent with confirms.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker, ready};

use futures_util::FutureExt;
use lapin::Channel;

use super::flight::AHEAD;
use super::outgoing::{Outgoing, Writing};
use super::returns::Returns;

/// The requests of one channel.
#[derive(Default)]
pub(super) struct Unconfirmed {
    /// The messages that wait until they are written. lapin writes them in their order.
    writing: VecDeque<Writing>,
    /// Those that have waited, for their memory's sake.
    spares: Vec<Writing>,
    /// Those whose callers wait, and some whose callers had their reply.
    waiting: Vec<Outgoing>,
    /// The error that ends the channel, to be returned by [`poll_written`](Self::poll_written).
    failed: Option<lapin::Error>,
}

impl Unconfirmed {
    /// A box that is free.
    pub(super) fn spare(&mut self) -> Option<Writing> {
        self.spares.pop()
    }

    /// Sends one, by the first poll of `writing`.
    pub(super) fn send(&mut self, outgoing: Outgoing, mut writing: Writing) {
        match writing.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => self.writing.push_back(writing),
            Poll::Ready(Ok(_)) => self.spares.push(writing),
            Poll::Ready(Err(error)) => drop(self.failed.get_or_insert(error)),
        }
        self.waiting.push(outgoing);
    }

    /// True if one more may be sent, as far as is known without waiting. A caller that [waits](Self::poll_written) knows no more.
    pub(super) fn has_room(&mut self) -> bool {
        let _ = self.poll_all_written(&mut Context::from_waker(Waker::noop()));
        self.failed.is_none() && !self.is_full()
    }

    /// True if there was no room when it was last looked.
    pub(super) fn is_full(&self) -> bool {
        self.writing.len() >= AHEAD
    }

    /// Ready when all that was sent is written.
    ///
    /// # Errors
    /// If the channel is of no more use.
    pub(super) fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<lapin::Result<()>> {
        let written = self.poll_all_written(cx);
        match self.failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => written.map(Ok),
        }
    }

    fn poll_all_written(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(first) = self.writing.front_mut() {
            // It returns a confirm, which is not needed.
            let written = ready!(first.poll(cx));
            let spare = self.writing.pop_front();
            match written {
                Ok(_) => self.spares.extend(spare),
                Err(error) => drop(self.failed.get_or_insert(error)),
            }
        }
        Poll::Ready(())
    }

    /// Tells the callers whose requests have come back, and lets go of those that have gone.
    ///
    /// # Errors
    /// If the channel is of no more use.
    pub(super) fn poll(&mut self, channel: &Channel, returns: &mut Returns) -> lapin::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        // Twice: once the channel is in confirm mode, the first may wait for the last confirm. What comes back then is
        // handed out with confirms, but for what came before.
        for _ in 0..2 {
            if let Some(Ok(returned)) = channel.wait_for_confirms().now_or_never() {
                returned.iter().for_each(|message| returns.note(&message.properties));
            }
        }
        self.waiting.retain_mut(|outgoing| {
            let has_returned = returns.has(outgoing);
            let is_over = has_returned || outgoing.is_unheard();
            if is_over {
                returns.take(outgoing);
            }
            if has_returned {
                outgoing.tell_unroutable();
            }
            !is_over
        });
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Those whose callers wait, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Outgoing> {
        self.waiting.iter().filter(|outgoing| !outgoing.is_unheard())
    }

    /// True if there are none to look after.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Gives back all whose callers may still wait.
    pub(super) fn take(&mut self, returns: &mut Returns) -> Vec<Outgoing> {
        let waiting = std::mem::take(&mut self.waiting);
        for outgoing in &waiting {
            returns.take(outgoing);
        }
        waiting
    }
}
