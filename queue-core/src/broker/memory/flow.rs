//! How messages move through the memory: AMQP's rules (`amqp::flow`) on deques, and how queues hand messages out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::ids::QueueId;
use super::ready::Entry;
use super::state::State;
use crate::broker::amqp::{self, Death, DeathReason, Delayed, Message, QueueRules, Queues};
use crate::broker::missing::Complaints;
use crate::routing::Exchanges;
use crate::topology::{self, Name};

/// Nothing fails here.
pub(super) type Never = std::convert::Infallible;

impl Queues for State {
    type Queue = QueueId;
    type Fault = Never;

    fn now(&self) -> SystemTime {
        self.replaying.unwrap_or_else(|| self.clock.now())
    }

    fn exchanges(&self) -> &Exchanges<QueueId> {
        &self.exchanges
    }

    fn find(&self, name: &str) -> Option<QueueId> {
        self.names.get(name).copied()
    }

    fn describe(&self, queue: QueueId) -> Option<(Arc<str>, &QueueRules)> {
        self.queues.get(&queue).map(|queue| (queue.name.clone(), &queue.rules))
    }

    fn refuses(&mut self, queue: QueueId, bytes: usize) -> Result<bool, Never> {
        Ok(self.queues.get(&queue).is_some_and(|queue| queue.refuses(bytes)))
    }

    fn enqueue(&mut self, id: QueueId, message: &Arc<Message>) -> Result<(), Never> {
        let position = self.next();
        let Some(queue) = self.queues.get_mut(&id) else { return Ok(()) };
        let time_to_live = queue.rules.time_to_live(message.envelope.expiration);
        let level = queue.rules.level(message.envelope.priority);
        let expires =
            time_to_live.and_then(|ttl| self.replaying.unwrap_or_else(|| self.clock.now()).checked_add(ttl));
        queue.ready.push(Entry {
            message: message.clone(),
            position,
            level,
            expires,
            is_redelivered: false,
            losses: 0,
        });
        self.flow(id);
        Ok(())
    }

    fn delay(&mut self, due: SystemTime, delayed: Delayed) -> Result<(), Never> {
        self.wait_until(due, delayed);
        Ok(())
    }

    /// Waits from the present on, also while the past is being replayed: else a clock that was moved far ahead would
    /// try again for every second in between.
    fn wait_again(&mut self, delayed: Delayed, pause: Duration) -> Result<(), Never> {
        let due = self.clock.now() + pause;
        self.wait_until(due, delayed);
        Ok(())
    }

    fn unroutable(&mut self, name: &Name) -> Result<Option<QueueId>, Never> {
        if let Some(id) = self.names.get(&**name) {
            return Ok(Some(*id));
        }
        let decl = topology::unroutable(name.clone());
        let rules = QueueRules::read(&decl).ok();
        Ok(rules.map(|rules| self.add_queue(decl, rules, None)))
    }

    fn deaths(&mut self) -> &mut VecDeque<Death> {
        &mut self.deaths
    }

    fn complaints(&mut self) -> &mut Complaints {
        &mut self.complaints
    }
}

impl State {
    /// Puts a message back to where it stood.
    pub(super) fn put_back(&mut self, id: QueueId, mut entry: Entry) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        entry.is_redelivered = true;
        queue.ready.put_back(entry);
    }

    /// Puts a message back whose holder was lost, unless that has happened too often.
    pub(super) fn put_back_lost(&mut self, id: QueueId, mut entry: Entry) {
        let Some(queue) = self.queues.get(&id) else { return };
        entry.losses += 1;
        if queue.rules.is_lost_too_often(entry.losses) {
            self.die(id, DeathReason::DeliveryLimit, entry);
        } else {
            self.put_back(id, entry);
        }
    }

    /// After a queue has got messages or room: hands out what it can, drops what is too much or too old, and sees to
    /// it that it is looked at again in time.
    pub(super) fn flow(&mut self, id: QueueId) {
        // What has just come counts, also if it may not wait; what it has stood before may have expired meanwhile.
        while self.queues.get_mut(&id).is_some_and(|queue| queue.dispatch_one(id, &mut self.consumers)) {
            self.drop_expired(id);
        }
        while let Some(entry) = self.queues.get_mut(&id).and_then(|queue| queue.pop_overflow()) {
            self.die(id, DeathReason::MaxLength, entry);
        }
        self.drop_expired(id);
        self.arm(id);
    }

    fn drop_expired(&mut self, id: QueueId) {
        if self.queues.get(&id).is_none_or(|queue| queue.ready.next_expiry().is_none()) {
            return;
        }
        let now = self.now();
        while let Some(entry) = self.queues.get_mut(&id).and_then(|queue| queue.ready.pop_expired(now)) {
            self.die(id, DeathReason::Expired, entry);
        }
    }

    fn die(&mut self, id: QueueId, reason: DeathReason, entry: Entry) {
        amqp::dies(self, id, reason, entry.message);
    }

    /// Dead-letters all that has died, also what dies of that.
    pub(super) fn bury(&mut self) {
        let Ok(()) = amqp::bury(self);
    }
}
