//! How long a publisher waits: when time is up for what it has sent, for what it has not, and for a channel that says
//! nothing.

use tokio::time::Instant;

use super::{Publisher, SharedPublisher, TICK};
use crate::broker::rabbitmq::publish::wire::{Late, OPEN};
use crate::broker::rabbitmq::supervise::probe::Listener;
use crate::error::{Error, ErrorKind, PublishError};

impl Listener for SharedPublisher {
    fn silent_since(&self) -> Option<Instant> {
        self.lock().silent_since()
    }
}

impl Publisher {
    /// The moment since which nothing has been heard from the server, if a task waits for that.
    fn silent_since(&mut self) -> Option<Instant> {
        match (&mut self.wire, &self.opening) {
            (Some(wire), _) => wire.silent_since(),
            (None, Some(opening)) if !self.backlog.is_empty() => Some(opening.since),
            _ => None,
        }
    }

    pub(super) fn earliest_deadline(&self) -> Option<Instant> {
        let is_tick = self.wire.as_ref().is_some_and(|wire| {
            // Nothing wakes us for a request that comes back, nor for a confirm behind another.
            if self.replies.is_some() { wire.is_busy() } else { wire.are_some_behind() }
        });
        let tick = is_tick.then(|| Instant::now() + TICK);
        // All have the same timeout: what has come since the timer was set is due later.
        if self.armed.is_some() {
            return tick;
        }
        let sent = self.wire.as_ref().and_then(|wire| wire.deadline(self.timeout));
        let reader = self.replies.as_ref().and_then(|replies| replies.deadline(self.timeout));
        sent.into_iter().chain(self.backlog.deadline(self.timeout)).chain(reader).chain(tick).min()
    }

    /// Answers those whose time is up.
    pub(super) fn expire(&mut self) {
        let timeout = self.timeout;
        if let Some(replies) = &mut self.replies {
            replies.expire(timeout, self.state.borrow().down.clone());
        }
        let late = self.wire.as_mut().and_then(|wire| wire.expire(timeout));
        for mut outgoing in self.backlog.expired(timeout) {
            self.one_by_one = self.one_by_one.saturating_sub(1);
            let state = self.state.borrow();
            outgoing.tell(Err(if outgoing.sent {
                PublishError::Unconfirmed { waited: timeout }
            } else if let Some(reason) = &state.blocked {
                PublishError::Blocked { waited: timeout, reason: reason.clone() }
            } else if state.session.is_some() {
                PublishError::Silent { waited: timeout }
            } else {
                let source = state.down.as_ref().map(|error| error.clone().into());
                PublishError::Unavailable { waited: timeout, source }
            }));
        }
        if let Some(late) = late
            && self.state.borrow().blocked.is_none()
        {
            self.get_past(&late);
        }
    }

    /// Sees to it that what follows a late message need not wait behind it for ever.
    fn get_past(&mut self, late: &Late) {
        let Some(session) = self.wire.as_ref().map(|wire| wire.session.clone()) else { return };
        let is_very_late = late.waited >= self.timeout * 2 + OPEN;
        // Another channel costs all requests their replies, so there it is left later.
        if late.is_alone && session.is_connected() && (is_very_late || self.replies.is_none()) {
            self.one_by_one = 0;
            self.take_back();
            let words = "RabbitMQ does not confirm a request, and its channel was left";
            self.end_requests(Some(Error::new(ErrorKind::Connection, words)));
            self.open(session);
        } else if is_very_late {
            session.fail("it confirms nothing");
        }
    }
}
