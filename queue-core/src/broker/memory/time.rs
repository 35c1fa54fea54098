//! What happens by the clock: delayed jobs fall due, messages and unused queues expire.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::queue::QueueId;
use super::ready::Message;
use super::state::State;
use crate::broker::amqp::QueueRules;
use crate::envelope::{Envelope, header};
use crate::topology::{Name, QueueDecl, Route};

/// How long a message waits before it is tried again on a queue that could not take it.
const AGAIN: Duration = Duration::from_secs(1);

/// A message that waits for its time outside of any queue.
#[derive(Debug)]
pub(super) enum Delayed {
    /// A job for a queue.
    Job {
        target: Arc<str>,
        envelope: Envelope,
        /// Where it goes if its queue has gone.
        unroutable: Name,
    },
    /// A message that died in `queue` and could not be dead-lettered yet.
    Dead { queue: Arc<str>, route: Route, envelope: Envelope },
}

impl Delayed {
    /// The queue it is for, or the one it died in.
    pub(super) fn queue(&self) -> &str {
        match self {
            Self::Job { target: queue, .. } | Self::Dead { queue, .. } => queue,
        }
    }

    pub(super) fn envelope(&self) -> &Envelope {
        match self {
            Self::Job { envelope, .. } | Self::Dead { envelope, .. } => envelope,
        }
    }
}

/// All that waits for its time, by due time and then in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct Delays {
    by_time: BTreeMap<(SystemTime, u64), Delayed>,
    /// How many jobs wait for each queue, so that nobody has to count them.
    by_queue: HashMap<Arc<str>, u64>,
}

impl Delays {
    fn insert(&mut self, due: SystemTime, order: u64, delayed: Delayed) {
        if let Delayed::Job { target, .. } = &delayed {
            *self.by_queue.entry(target.clone()).or_default() += 1;
        }
        self.by_time.insert((due, order), delayed);
    }

    fn pop(&mut self) -> Option<Delayed> {
        let (_, delayed) = self.by_time.pop_first()?;
        if let Delayed::Job { target, .. } = &delayed
            && let Entry::Occupied(mut count) = self.by_queue.entry(target.clone())
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(delayed)
    }

    pub(super) fn len(&self) -> u64 {
        self.by_time.len() as u64
    }

    /// How many jobs wait for a queue.
    pub(super) fn jobs_for(&self, queue: &str) -> u64 {
        self.by_queue.get(queue).copied().unwrap_or(0)
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<SystemTime> {
        self.by_time.keys().next().map(|(due, _)| *due)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SystemTime, &Delayed)> {
        self.by_time.iter().map(|((due, _), delayed)| (*due, delayed))
    }
}

impl State {
    /// Lets a job for a queue wait until `due`.
    pub(super) fn delay_job(
        &mut self,
        due: Option<SystemTime>,
        target: Arc<str>,
        envelope: Envelope,
        unroutable: Name,
    ) {
        // Where an operator looks for what went astray is there before anything can.
        self.unroutable_queue(&unroutable);
        self.delay(due, Delayed::Job { target, envelope, unroutable });
    }

    /// Lets it wait until `due`; `None` is beyond all time.
    fn delay(&mut self, due: Option<SystemTime>, delayed: Delayed) {
        let order = self.next();
        // A century is as good as for ever, and a time that the system can tell.
        let due = due.unwrap_or_else(|| self.now() + Duration::from_secs(100 * 365 * 24 * 3600));
        self.delayed.insert(due, order, delayed);
    }

    /// Waits from the present on, also while the past is being replayed: else a clock that was moved far ahead would
    /// try again for every second in between.
    pub(super) fn wait_again(&mut self, delayed: Delayed) {
        let due = self.clock.now() + AGAIN;
        self.delay(Some(due), delayed);
    }

    /// When something happens by itself next.
    pub(super) fn deadline(&self) -> Option<SystemTime> {
        let delayed = self.delayed.next_due();
        let alarm = self.alarms.first().map(|(at, _)| *at);
        [delayed, alarm].into_iter().flatten().min()
    }

    /// Lets everything happen that is due, in the order in which it was due, and as if at that moment: a job that was
    /// due an hour ago in a queue with a shorter time to live has expired since. Says whether anything was due.
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
                        self.fall_due(delayed);
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
            tracing::info!(
                queue = &*queue.name,
                "deleted a queue that nobody used, as its `x-expires` wants"
            );
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

    fn fall_due(&mut self, delayed: Delayed) {
        let (target, mut envelope, unroutable) = match delayed {
            Delayed::Job { target, envelope, unroutable } => (target, envelope, unroutable),
            Delayed::Dead { queue, route, envelope } => {
                return self.dead_letter(queue, route, envelope, true);
            }
        };
        let queue = match self.names.get(&target) {
            Some(queue) => *queue,
            None => {
                tracing::warn!(
                    queue = &*target,
                    job = envelope.id.as_str(),
                    kept_in = &*unroutable,
                    "the queue of a delayed job has gone"
                );
                envelope.headers.insert(header::TARGET, &*target);
                let Some(queue) = self.unroutable_queue(&unroutable) else {
                    return self.wait_again(Delayed::Job { target, envelope, unroutable });
                };
                queue
            }
        };
        let is_full = |id| self.queues.get(id).is_some_and(|queue| queue.refuses(envelope.payload.len()));
        if is_full(&queue) {
            return self.wait_again(Delayed::Job { target, envelope, unroutable });
        }
        let routing_key = Name::Owned(target.to_string());
        self.enqueue(queue, Arc::new(Message { envelope, exchange: Name::Borrowed(""), routing_key }));
    }

    /// The queue for delayed jobs whose own queue has gone, declared if need be.
    fn unroutable_queue(&mut self, name: &Name) -> Option<QueueId> {
        if let Some(id) = self.names.get(&**name) {
            return Some(*id);
        }
        let decl = QueueDecl::new(name.clone()).argument("x-queue-type", "quorum");
        let rules = QueueRules::read(&decl).ok()?;
        Some(self.add_queue(decl, rules, None))
    }
}
