//! Which of a channel's deliveries are settled, and which acks that makes. Pure; used by `ledger`.

use std::collections::VecDeque;

/// A channel's delivery tags, which begin at 1 and have no gaps.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// All up to this one are settled, and RabbitMQ has been told.
    settled: u64,
    /// Those after it.
    after: VecDeque<Tag>,
    /// How many are out.
    out: usize,
    /// How many are to be acked.
    done: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Tag {
    /// In the worker's hands.
    Out,
    /// To be acked.
    Done,
    /// RabbitMQ has been told.
    Gone,
}

impl Tags {
    /// One more is out.
    pub(super) fn deliver(&mut self, tag: u64) {
        while self.end() < tag {
            self.after.push_back(if self.end() + 1 == tag { Tag::Out } else { Tag::Gone });
        }
        self.out += 1;
    }

    /// One is to be acked. Whether it was the last that was out: there is nothing to wait for to ack it with.
    pub(super) fn done(&mut self, tag: u64) -> bool {
        if self.set(tag, Tag::Done) {
            self.done += 1;
        }
        self.out == 0
    }

    /// RabbitMQ has been told of one by itself.
    pub(super) fn gone(&mut self, tag: u64) {
        self.set(tag, Tag::Gone);
    }

    /// Takes out the acks to send, each with whether it is for all before it as well. That must not include one that is
    /// out: it would be lost with its worker.
    pub(super) fn acks(&mut self, mut send: impl FnMut(u64, bool)) {
        let (mut last, mut count) = (None, 0);
        while let Some(Tag::Done | Tag::Gone) = self.after.front() {
            self.settled += 1;
            if self.after.pop_front() == Some(Tag::Done) {
                last = Some(self.settled);
                count += 1;
            }
        }
        self.done -= count;
        // Up to one that is to be acked, not up to one that is gone: RabbitMQ closes the channel for acks of nothing.
        if let Some(tag) = last {
            send(tag, count > 1);
        }
        if self.done == 0 {
            return;
        }
        for (tag, state) in (self.settled + 1..).zip(&mut self.after) {
            if *state == Tag::Done {
                *state = Tag::Gone;
                send(tag, false);
            }
        }
        self.done = 0;
    }

    /// The highest that there has been.
    fn end(&self) -> u64 {
        self.settled + self.after.len() as u64
    }

    /// Whether it was out.
    fn set(&mut self, tag: u64, state: Tag) -> bool {
        let at = tag.checked_sub(self.settled + 1).and_then(|at| usize::try_from(at).ok());
        match at.and_then(|at| self.after.get_mut(at)) {
            Some(old @ Tag::Out) => {
                *old = state;
                self.out -= 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
