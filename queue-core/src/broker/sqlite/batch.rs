//! A batch on its way to the writer: a few commands at a time, so that others have their turn in between.

use std::vec;

use super::command::{Outcome, Progress};
use crate::broker::Publish;
use crate::broker::amqp::{self, Published};

/// How many messages of a batch are one command.
pub(super) const CHUNK: usize = 1024;
/// How many commands of a batch are on their way: two that are written in one transaction, and two that wait for the disk.
pub(super) const IN_FLIGHT: usize = 4;

pub(super) struct Batch {
    left: vec::IntoIter<Publish>,
    /// One for each message taken from `left`; `Ok` also for those on their way.
    results: Vec<Outcome>,
    /// How many results, from the first on, will not change any more.
    answered: usize,
    pub(super) progress: Progress,
}

impl Batch {
    pub(super) fn new(publishes: Vec<Publish>) -> Self {
        let results = Vec::with_capacity(publishes.len());
        Self { left: publishes.into_iter(), results, answered: 0, progress: Progress::begin() }
    }

    /// The next messages to send. Those that cannot be published get their result here.
    pub(super) fn next_chunk(&mut self) -> Option<Vec<Published>> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK
            && let Some(publish) = self.left.next()
        {
            let checked = amqp::check_publish(&publish);
            if checked.is_ok() {
                chunk.push(Published::from(publish));
            }
            self.results.push(checked);
        }
        (!chunk.is_empty()).then_some(chunk)
    }

    /// Enters the outcomes of the oldest chunk that has none.
    pub(super) fn answer(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            // Those are the messages that were not sent.
            while self.results.get(self.answered).is_some_and(Result::is_err) {
                self.answered += 1;
            }
            if let Some(result) = self.results.get_mut(self.answered) {
                *result = outcome;
            }
            self.answered += 1;
        }
    }

    pub(super) fn into_results(self) -> Vec<Outcome> {
        self.results
    }
}
