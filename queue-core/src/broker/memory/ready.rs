//! The messages of a queue that wait to be delivered, in their order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use crate::broker::amqp::Message;

/// A message in one queue.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Arc<Message>,
    /// Where it stands in its level; a message that comes back stands there again.
    pub(super) position: u64,
    /// Higher levels are delivered first.
    pub(super) level: u8,
    /// When it dies, if it is at the head of its level by then.
    pub(super) expires: Option<SystemTime>,
    /// It was delivered before, and came back.
    pub(super) is_redelivered: bool,
    /// How often it came back because its holder was lost. What is given back in order does not count.
    pub(super) losses: u64,
}

impl Entry {
    fn bytes(&self) -> u64 {
        self.message.envelope.payload.len() as u64
    }
}

/// One deque for each level of priority, so that every operation at a head costs the same however many wait.
#[derive(Debug)]
pub(super) struct Ready {
    levels: Vec<VecDeque<Entry>>,
    /// One bit for each level that is not empty.
    occupied: [u64; 4],
    len: u64,
    bytes: u64,
    /// How many may expire; with none, the time is not read.
    timed: u64,
}

impl Ready {
    pub(super) fn new(top_level: u8) -> Self {
        let levels = (0..=top_level).map(|_| VecDeque::new()).collect();
        Self { levels, occupied: [0; 4], len: 0, bytes: 0, timed: 0 }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a new message behind all others of its level.
    pub(super) fn push(&mut self, entry: Entry) {
        self.count(&entry);
        self.levels[usize::from(entry.level)].push_back(entry);
    }

    /// Puts a message back where it stood. Messages come back near the head, where inserting is cheap.
    pub(super) fn put_back(&mut self, entry: Entry) {
        self.count(&entry);
        let level = &mut self.levels[usize::from(entry.level)];
        let at = level.partition_point(|other| other.position < entry.position);
        level.insert(at, entry);
    }

    /// The message that is delivered next.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let word = self.occupied.iter().rposition(|bits| *bits != 0)?;
        let level = word * 64 + 63 - self.occupied[word].leading_zeros() as usize;
        self.pop_level(level)
    }

    /// A message that has reached the head of its level and whose time is over.
    pub(super) fn pop_expired(&mut self, now: SystemTime) -> Option<Entry> {
        if self.timed == 0 {
            return None;
        }
        let level = self.heads().find(|(_, head)| head.expires.is_some_and(|at| at <= now))?.0;
        self.pop_level(level)
    }

    /// When the next message expires, if nothing else happens.
    pub(super) fn next_expiry(&self) -> Option<SystemTime> {
        if self.timed == 0 {
            return None;
        }
        self.heads().filter_map(|(_, head)| head.expires).min()
    }

    /// The messages that are delivered after the one that stood at this level and position, in that order; all if `None`.
    pub(super) fn after(&self, last: Option<(u8, u64)>) -> impl Iterator<Item = &Entry> {
        let levels = last.map_or(self.levels.len(), |(level, _)| usize::from(level) + 1);
        self.levels[..levels.min(self.levels.len())].iter().enumerate().rev().flat_map(
            move |(level, entries)| {
                let passed = match last {
                    Some((last, position)) if usize::from(last) == level => {
                        entries.partition_point(|entry| entry.position <= position)
                    }
                    _ => 0,
                };
                entries.range(passed..)
            },
        )
    }

    /// Takes out the message that stands at this position, whichever its level.
    pub(super) fn take_at(&mut self, position: u64) -> Option<Entry> {
        let (level, at) = self.levels.iter().enumerate().find_map(|(level, entries)| {
            let at = entries.binary_search_by_key(&position, |entry| entry.position);
            at.ok().map(|at| (level, at))
        })?;
        let entry = self.levels[level].remove(at)?;
        self.uncount(level, &entry);
        Some(entry)
    }

    /// Takes out the first message, in the order of delivery, for which `wanted` is true.
    pub(super) fn take(&mut self, wanted: impl Fn(&Message) -> bool) -> Option<Entry> {
        let (level, at) = self.levels.iter().enumerate().rev().find_map(|(level, entries)| {
            entries.iter().position(|entry| wanted(&entry.message)).map(|at| (level, at))
        })?;
        let entry = self.levels[level].remove(at)?;
        self.uncount(level, &entry);
        Some(entry)
    }

    /// Drops all, and says how many there were.
    pub(super) fn clear(&mut self) -> u64 {
        let top_level = self.levels.len() - 1;
        let cleared = std::mem::replace(self, Self::new(u8::try_from(top_level).unwrap_or(u8::MAX)));
        cleared.len
    }

    /// All messages in the order of delivery.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.levels.iter().rev().flatten()
    }

    fn heads(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.levels
            .iter()
            .enumerate()
            .filter_map(|(level, entries)| entries.front().map(|head| (level, head)))
    }

    fn pop_level(&mut self, level: usize) -> Option<Entry> {
        let entry = self.levels[level].pop_front()?;
        self.uncount(level, &entry);
        Some(entry)
    }

    fn count(&mut self, entry: &Entry) {
        self.len += 1;
        self.bytes += entry.bytes();
        self.timed += u64::from(entry.expires.is_some());
        self.occupied[usize::from(entry.level) / 64] |= 1 << (entry.level % 64);
    }

    fn uncount(&mut self, level: usize, entry: &Entry) {
        self.len -= 1;
        self.bytes -= entry.bytes();
        self.timed -= u64::from(entry.expires.is_some());
        if self.levels[level].is_empty() {
            self.occupied[level / 64] &= !(1 << (level % 64));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::envelope::Envelope;

    fn entry(position: u64, level: u8, expires: Option<u64>) -> Entry {
        let message = Message { envelope: Envelope::new("{}"), exchange: "".into(), routing_key: "q".into() };
        Entry {
            message: Arc::new(message),
            position,
            level,
            expires: expires.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)),
            is_redelivered: false,
            losses: 0,
        }
    }

    fn drain(ready: &mut Ready) -> Vec<u64> {
        std::iter::from_fn(|| ready.pop()).map(|entry| entry.position).collect()
    }

    #[test]
    fn higher_level_first_then_order_of_arrival() {
        let mut ready = Ready::new(255);
        for (position, level) in [(0, 0), (1, 255), (2, 64), (3, 255), (4, 63)] {
            ready.push(entry(position, level, None));
        }

        assert_eq!(ready.iter().map(|entry| entry.position).collect::<Vec<_>>(), [1, 3, 2, 4, 0]);
        assert_eq!(drain(&mut ready), [1, 3, 2, 4, 0]);
        assert_eq!((ready.len(), ready.bytes()), (0, 0));
    }

    #[test]
    fn message_goes_back_to_where_it_stood() {
        let mut ready = Ready::new(0);
        (0..4).for_each(|position| ready.push(entry(position, 0, None)));
        let (first, second) = (ready.pop().unwrap(), ready.pop().unwrap());

        ready.put_back(second);
        ready.put_back(first);

        assert_eq!(drain(&mut ready), [0, 1, 2, 3]);
    }

    #[test]
    fn walk_goes_on_after_what_it_passed_though_that_is_gone() {
        let mut ready = Ready::new(31);
        for (position, level) in [(0, 4), (1, 9), (2, 4), (3, 0), (4, 9)] {
            ready.push(entry(position, level, None));
        }
        let after = |ready: &Ready, last| ready.after(last).map(|entry| entry.position).collect::<Vec<_>>();

        assert_eq!(after(&ready, None), [1, 4, 0, 2, 3]);
        assert_eq!(after(&ready, Some((9, 4))), [0, 2, 3]);
        assert_eq!(ready.take_at(0).map(|entry| entry.position), Some(0));
        assert!(ready.take_at(0).is_none());
        assert_eq!(after(&ready, Some((4, 0))), [2, 3]);
        assert_eq!(after(&ready, Some((0, 3))), [0; 0]);
        assert_eq!(ready.len(), 4);
    }

    #[test]
    fn expired_message_behind_a_living_one_stays() {
        let mut ready = Ready::new(1);
        ready.push(entry(0, 0, Some(60)));
        ready.push(entry(1, 0, Some(1)));
        ready.push(entry(2, 1, Some(2)));
        let now = UNIX_EPOCH + Duration::from_secs(5);

        assert_eq!(ready.next_expiry(), Some(UNIX_EPOCH + Duration::from_secs(2)));
        assert_eq!(ready.pop_expired(now).map(|entry| entry.position), Some(2));
        assert!(ready.pop_expired(now).is_none());
        assert_eq!(ready.len(), 2);
    }
}
