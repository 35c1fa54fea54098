//! The delivery tags of a channel: which are settled, and which acks follow. Pure; used by `ledger`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A channel's deliveries that RabbitMQ has not been told about.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// In the worker's hands: never more than the prefetch. `None` until the next look.
    out: BTreeMap<u64, Option<Seen>>,
    /// To be acked.
    done: Vec<u64>,
    /// Taken back by the server, which ignores what it is told of them.
    timed_out: BTreeSet<u64>,
}

/// Since when a delivery has been out, and since when its job runs, as far as looks have shown: to ask the clock for each
/// delivery would slow all of them down for the sake of a line in the log.
#[derive(Debug, Clone, Copy)]
struct Seen {
    out: Instant,
    begun: Option<Instant>,
}

/// For how long a delivery has been out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// How long it waited for its job to begin.
    pub(super) waited: Duration,
    /// How long its job has been running.
    pub(super) ran: Duration,
}

impl Tags {
    /// One more is out.
    pub(super) fn deliver(&mut self, tag: u64) {
        self.out.insert(tag, None);
    }

    /// Notes since when what is out has been out, and that the channel's first `begun` deliveries have begun.
    pub(super) fn look(&mut self, begun: u64, now: Instant) {
        for (tag, seen) in &mut self.out {
            let seen = seen.get_or_insert(Seen { out: now, begun: None });
            if *tag <= begun {
                seen.begun.get_or_insert(now);
            }
        }
    }

    /// How long the oldest has been out: the one that RabbitMQ loses patience with first.
    pub(super) fn oldest(&self, now: Instant) -> Option<Held> {
        let (_, seen) = self.out.first_key_value()?;
        let Seen { out, begun } = seen.unwrap_or(Seen { out: now, begun: None });
        let begun = begun.unwrap_or(now);
        Some(Held { waited: begun.duration_since(out), ran: now.duration_since(begun) })
    }

    /// The server has taken back what has been out for `limit`.
    pub(super) fn time_out(&mut self, limit: Duration, now: Instant) {
        let is_late = |seen: Option<Seen>| seen.is_some_and(|seen| now.duration_since(seen.out) >= limit);
        self.timed_out.extend(self.out.iter().filter(|(_, seen)| is_late(**seen)).map(|(tag, _)| *tag));
    }

    /// True if the server has taken a delivery back.
    pub(super) fn is_timed_out(&self, tag: u64) -> bool {
        self.timed_out.contains(&tag)
    }

    /// True if none is in the worker's hands.
    pub(super) fn is_none_out(&self) -> bool {
        self.out.is_empty()
    }

    /// The last of those that are out.
    pub(super) fn last_out(&self) -> Option<u64> {
        self.out.last_key_value().map(|(tag, _)| *tag)
    }

    /// One is to be acked. Whether it was the last that was out: there is nothing to wait for to ack it with.
    pub(super) fn done(&mut self, tag: u64) -> bool {
        if self.out.remove(&tag).is_some() {
            self.done.push(tag);
        }
        self.out.is_empty()
    }

    /// RabbitMQ has been told of one by itself.
    pub(super) fn gone(&mut self, tag: u64) {
        self.out.remove(&tag);
    }

    /// Takes out the acks to send, each with whether it is for all before it as well. That must not include one that is
    /// out: it would be lost with its worker.
    pub(super) fn acks(&mut self, mut send: impl FnMut(u64, bool)) {
        self.done.sort_unstable();
        let first_out = self.out.first_key_value().map_or(u64::MAX, |(tag, _)| *tag);
        let before = self.done.partition_point(|tag| *tag < first_out);
        // Up to one that is to be acked, not up to one that is gone: RabbitMQ closes the channel for acks of nothing.
        if let Some(last) = self.done[..before].last() {
            send(*last, before > 1);
        }
        for tag in &self.done[before..] {
            send(*tag, false);
        }
        self.done.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn acks(tags: &mut Tags) -> Vec<(u64, bool)> {
        let mut acks = Vec::new();
        tags.acks(|tag, multiple| acks.push((tag, multiple)));
        acks
    }

    fn delivered(count: u64) -> Tags {
        let mut tags = Tags::default();
        (1..=count).for_each(|tag| tags.deliver(tag));
        tags
    }

    #[test]
    fn acks_in_a_row_are_one() {
        let mut tags = delivered(4);
        let _ = [2, 1, 3].map(|tag| tags.done(tag));

        assert_eq!(acks(&mut tags), [(3, true)]);
        assert!(tags.done(4));
        assert_eq!(acks(&mut tags), [(4, false)]);
        assert_eq!(acks(&mut tags), []);
    }

    #[test]
    fn one_that_is_out_is_not_acked_by_those_after_it() {
        let mut tags = delivered(4);
        assert!(!tags.done(2));
        assert!(!tags.done(4));

        assert_eq!(acks(&mut tags), [(2, false), (4, false)]);
        tags.done(1);
        tags.done(3);
        assert_eq!(acks(&mut tags), [(3, true)]);
    }

    #[test]
    fn nothing_is_acked_that_was_given_back() {
        let mut tags = delivered(3);
        tags.done(1);
        tags.gone(2);
        tags.gone(3);

        assert_eq!(acks(&mut tags), [(1, false)]);
    }

    #[test]
    fn only_what_was_out_for_long_times_out() {
        let (mut tags, start) = (delivered(2), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        tags.look(1, at(0));
        tags.deliver(3);
        tags.look(1, at(6));
        tags.deliver(4);

        tags.done(1);
        tags.time_out(Duration::from_secs(9), at(10));

        assert_eq!([1, 2, 3, 4].map(|tag| tags.is_timed_out(tag)), [false, true, false, false]);
    }

    #[test]
    fn oldest_delivery_says_how_long_it_waited_and_ran() {
        let (mut tags, start) = (delivered(3), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let held =
            |waited, ran| Some(Held { waited: Duration::from_secs(waited), ran: Duration::from_secs(ran) });
        assert_eq!(tags.oldest(at(0)), held(0, 0));

        tags.look(1, at(0));
        assert_eq!(tags.oldest(at(5)), held(0, 5));
        tags.done(1);
        assert_eq!(tags.oldest(at(5)), held(5, 0));

        tags.look(2, at(6));
        assert_eq!(tags.oldest(at(7)), held(6, 1));
        tags.gone(2);
        tags.gone(3);
        assert_eq!(tags.oldest(at(7)), None);
    }

    proptest! {
        /// Against a RabbitMQ in a few lines.
        #[test]
        fn exactly_what_is_done_is_acked(steps in proptest::collection::vec((0..4_u8, 0..1000_usize), 0..200)) {
            let mut tags = Tags::default();
            let (mut last, mut out, mut done) = (0, BTreeSet::new(), BTreeSet::new());
            let mut unacked = BTreeSet::new();
            for (step, which) in steps {
                let tag = out.iter().nth(which % out.len().max(1)).copied();
                match (step, tag) {
                    (0, _) => {
                        last += 1;
                        tags.deliver(last);
                        out.insert(last);
                        unacked.insert(last);
                    }
                    (1, Some(tag)) => {
                        out.remove(&tag);
                        done.insert(tag);
                        prop_assert_eq!(tags.done(tag), out.is_empty());
                    }
                    (2, Some(tag)) => {
                        out.remove(&tag);
                        unacked.remove(&tag);
                        tags.gone(tag);
                    }
                    _ => {
                        tags.acks(|tag, multiple| {
                            assert!(unacked.contains(&tag), "RabbitMQ knows no delivery {tag}");
                            unacked.retain(|other| !(*other == tag || multiple && *other < tag));
                        });
                        done.clear();
                        prop_assert_eq!(&unacked, &out);
                    }
                }
            }
            prop_assert!(done.is_subset(&unacked));
        }
    }
}
