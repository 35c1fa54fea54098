//! The work that is due by the clock: delayed jobs fall due, messages and unused queues expire.

use std::time::SystemTime;

use super::ids::QueueId;
use super::state::State;
use crate::broker::amqp::{self, Delayed};

impl State {
    /// Lets it wait until `due`.
    pub(super) fn wait_until(&mut self, due: SystemTime, delayed: Delayed) {
        let order = self.next();
        self.delayed.insert(due, order, delayed);
    }

    /// When something happens by itself next.
    pub(super) fn deadline(&self) -> Option<SystemTime> {
        let delayed = self.delayed.next_due();
        let alarm = self.alarms.first().map(|(at, _)| *at);
        [delayed, alarm].into_iter().flatten().min()
    }

    /// Lets everything happen that is due, in the order in which it was due, and as if at that moment: a job that was
    /// due an hour ago in a queue with a shorter time to live has expired since. Returns true if anything was due.
    pub(super) fn catch_up(&mut self) -> bool {
        let mut has_changed = false;
        while let Some(next) = self.deadline() {
            if next > self.clock.now() {
                break;
            }
            has_changed = true;
            self.replaying = Some(next);
            match self.alarms.first().copied() {
                // A queue is looked at first, so that what is due at the same moment finds it as it then is.
                Some((at, queue)) if at <= next => self.ring(at, queue),
                _ => {
                    if let Some(delayed) = self.delayed.pop() {
                        let Ok(()) = amqp::fall_due(self, delayed);
                    }
                }
            }
            self.bury();
            self.replaying = None;
        }
        has_changed
    }

    /// Looks at a queue whose alarm has gone off.
    fn ring(&mut self, at: SystemTime, id: QueueId) {
        self.alarms.remove(&(at, id));
        let Some(queue) = self.queues.get_mut(&id) else { return };
        queue.alarm = None;
        if queue.unused_until().is_some_and(|until| until <= at) {
            tracing::info!(queue = &*queue.name, "queue was unused and is deleted, as its `x-expires` says");
            self.remove_queue(id);
        } else {
            self.flow(id);
        }
    }

    /// Sees to it that a queue is looked at when something happens there by itself.
    pub(super) fn arm(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let next = queue.next_alarm();
        let before = std::mem::replace(&mut queue.alarm, next);
        if before == next {
            return;
        }
        if let Some(before) = before {
            self.alarms.remove(&(before, id));
        }
        if let Some(next) = next {
            self.alarms.insert((next, id));
        }
    }
}
