//! Which of a channel's deliveries are settled, and which acks that makes. Pure; used by `ledger`.

use std::collections::BTreeSet;

/// A channel's deliveries that RabbitMQ has not been told about.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// In the worker's hands: never more than the prefetch.
    out: BTreeSet<u64>,
    /// To be acked.
    done: Vec<u64>,
}

impl Tags {
    /// One more is out.
    pub(super) fn deliver(&mut self, tag: u64) {
        self.out.insert(tag);
    }

    /// One is to be acked. Whether it was the last that was out: there is nothing to wait for to ack it with.
    pub(super) fn done(&mut self, tag: u64) -> bool {
        if self.out.remove(&tag) {
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
        let first_out = self.out.first().copied().unwrap_or(u64::MAX);
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
