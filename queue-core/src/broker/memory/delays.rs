//! Jobs and messages that wait for their time outside of any queue.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::broker::Mark;
use crate::broker::amqp::Delayed;
use crate::envelope::Envelope;

/// All that waits for its time, by due time and then in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct Delays {
    by_time: BTreeMap<(SystemTime, u64), Delayed>,
    /// How many jobs wait for each queue, so that they need not be counted.
    by_queue: HashMap<Arc<str>, u64>,
}

impl Delays {
    pub(super) fn insert(&mut self, due: SystemTime, order: u64, delayed: Delayed) {
        if let Delayed::Job { target, .. } = &delayed {
            *self.by_queue.entry(target.clone()).or_default() += 1;
        }
        self.by_time.insert((due, order), delayed);
    }

    pub(super) fn pop(&mut self) -> Option<Delayed> {
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

    /// The jobs that wait for a queue, each with the mark of its due time in microseconds and its place in the order.
    pub(super) fn jobs<'a>(&'a self, queue: &str) -> impl Iterator<Item = (Mark, SystemTime, &'a Envelope)> {
        let micros = |due: SystemTime| {
            let since = due.duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        };
        self.by_time.iter().filter_map(move |((due, order), delayed)| match delayed {
            Delayed::Job { target, envelope, .. } if **target == *queue => {
                Some((Mark { level: micros(*due), place: *order }, *due, envelope))
            }
            _ => None,
        })
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<SystemTime> {
        self.by_time.keys().next().map(|(due, _)| *due)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SystemTime, &Delayed)> {
        self.by_time.iter().map(|((due, _), delayed)| (*due, delayed))
    }
}
