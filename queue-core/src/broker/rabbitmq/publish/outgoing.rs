//! A message on its way to RabbitMQ, and who waits to hear what became of it. Made by `publisher`, sent by `wire`.

use std::sync::{Arc, Mutex, PoisonError};

use lapin::PublisherConfirm;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::ReusableBoxFuture;

use crate::broker::Publish;
use crate::broker::tries::is_refusal;
use crate::error::PublishError;

pub(super) type Outcome = Result<(), PublishError>;

/// Waits until a message is written, and gives its confirm. A box that is used again: lapin's future is so large that
/// allocating it is slow.
pub(super) type Writing = ReusableBoxFuture<'static, lapin::Result<PublisherConfirm>>;

/// A message that is to be published, and who waits for its outcome.
pub(super) struct One {
    pub(super) publish: Box<Publish>,
    pub(super) reply: oneshot::Sender<Outcome>,
    /// See [`Outgoing::wants_confirm`].
    pub(super) wants_confirm: bool,
}

/// A message on its way.
pub(super) struct Outgoing {
    source: Source,
    /// Unique to each publish, so that one is known when it [comes back](super::returns).
    pub(super) id: i64,
    /// Since when it has been waited for it. That begins anew when it is sent, if others were answered meanwhile.
    pub(super) since: Instant,
    /// True if it has been sent in an earlier session, or in this one: it may exist.
    pub(super) sent: bool,
    /// True if its caller has been told; that no confirm came in time, for example. The confirm is awaited nevertheless.
    pub(super) is_told: bool,
    /// RabbitMQ's confirm, once it has arrived: `true` is an ack. It counts when it is [released](super::flight), or `is_sure`.
    pub(super) acked: Option<bool>,
    /// True if its confirm came without any returned message: then none was waiting to be handed out, and this one, had it
    /// come back, was handed out with a confirm that was completed before.
    pub(super) is_sure: bool,
    /// True if its caller wants to know that RabbitMQ has it. Otherwise it [waits for something else](super::unconfirmed).
    pub(super) wants_confirm: bool,
}

/// Where a message came from.
enum Source {
    One(Box<Publish>, Option<oneshot::Sender<Outcome>>),
    /// The one of that index.
    Many(Arc<Batch>, usize),
}

/// The messages of a `publish_all` that are not taken for sending yet.
pub(super) struct Remainder {
    batch: Arc<Batch>,
    /// The index of the next one, and its [`Outgoing::id`].
    next: usize,
    id: i64,
    /// When the batch came.
    since: Instant,
}

/// The messages of a `publish_all`, which stay where they are, and their outcomes, told when the last is in.
struct Batch {
    messages: Vec<Publish>,
    state: Mutex<BatchState>,
}

struct BatchState {
    left: usize,
    /// When the broker last answered one of them.
    answered: Option<Instant>,
    /// Those that failed, by index.
    failed: Vec<(usize, PublishError)>,
    reply: Option<oneshot::Sender<Vec<Outcome>>>,
}

impl Outgoing {
    pub(super) fn one(One { publish, reply, wants_confirm }: One, id: i64) -> Self {
        Self { wants_confirm, ..Self::new(Source::One(publish, Some(reply)), id, Instant::now()) }
    }

    fn new(source: Source, id: i64, since: Instant) -> Self {
        let (sent, is_told, acked, is_sure) = (false, false, None, false);
        Self { source, id, since, sent, is_told, acked, is_sure, wants_confirm: true }
    }

    /// RabbitMQ's confirm, where it counts: in its turn, or by itself. A nack always does.
    pub(super) fn confirmed(&self, is_in_turn: bool) -> Option<bool> {
        self.acked.filter(|acked| is_in_turn || self.is_sure || !acked)
    }

    pub(super) fn publish(&self) -> &Publish {
        match &self.source {
            Source::One(publish, _) => publish,
            Source::Many(batch, at) => &batch.messages[*at],
        }
    }

    /// True if no caller waits for its result.
    pub(super) fn is_unheard(&self) -> bool {
        self.is_told
            || match &self.source {
                Source::One(_, reply) => reply.as_ref().is_none_or(oneshot::Sender::is_closed),
                Source::Many(batch, _) => {
                    let state = batch.state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
                }
            }
    }

    /// Tells the caller what became of it, the first time.
    pub(super) fn tell(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.is_told, true) {
            return;
        }
        match &mut self.source {
            // A caller that has gone does not want to know.
            Source::One(_, reply) => drop(reply.take().map(|reply| reply.send(outcome))),
            Source::Many(batch, at) => batch.tell(*at, outcome),
        }
    }

    /// Tells what RabbitMQ confirmed.
    pub(super) fn tell_confirmed(&mut self, acked: bool) {
        let outcome = if acked { Ok(()) } else { Err(self.full()) };
        self.tell(outcome);
    }

    pub(super) fn tell_unroutable(&mut self) {
        let error = self.unroutable();
        self.tell(Err(error));
    }

    pub(super) fn unroutable(&self) -> PublishError {
        let route = &self.publish().route;
        PublishError::Unroutable {
            exchange: route.exchange.to_string(),
            routing_key: route.routing_key.to_string(),
        }
    }

    /// RabbitMQ nacks what a full queue refuses.
    fn full(&self) -> PublishError {
        PublishError::QueueFull { routing_key: self.publish().route.routing_key.to_string() }
    }
}

impl Remainder {
    /// All of a batch, with ids from `id` on. There is at least one.
    pub(super) fn new(messages: Vec<Publish>, reply: oneshot::Sender<Vec<Outcome>>, id: i64) -> Self {
        let left = messages.len();
        let state = Mutex::new(BatchState { left, answered: None, failed: Vec::new(), reply: Some(reply) });
        Self { batch: Arc::new(Batch { messages, state }), next: 0, id, since: Instant::now() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next >= self.batch.messages.len()
    }

    /// The next one.
    pub(super) fn take(&mut self) -> Option<Outgoing> {
        if self.is_empty() {
            return None;
        }
        let (at, id, since) = (self.next, self.id, self.since());
        self.next += 1;
        self.id = id.wrapping_add(1);
        Some(Outgoing::new(Source::Many(self.batch.clone(), at), id, since))
    }

    /// Since when the broker has answered none of the batch.
    pub(super) fn since(&self) -> Instant {
        let state = self.batch.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.answered.map_or(self.since, |answered| answered.max(self.since))
    }
}

impl Batch {
    fn tell(&self, at: usize, outcome: Outcome) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.left -= 1;
        if outcome.as_ref().err().is_none_or(is_refusal) {
            state.answered = Some(Instant::now());
        }
        state.failed.extend(outcome.err().map(|error| (at, error)));
        if state.left == 0
            && let Some(reply) = state.reply.take()
        {
            let mut outcomes: Vec<_> = self.messages.iter().map(|_| Ok(())).collect();
            for (at, error) in state.failed.drain(..) {
                outcomes[at] = Err(error);
            }
            // As above.
            let _ = reply.send(outcomes);
        }
    }
}
