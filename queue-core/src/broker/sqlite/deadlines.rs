//! When something happens by itself next. `time` lets it happen.

use std::time::{Duration, SystemTime};

use super::row::{micros, moment};

/// How long finished jobs outstay their time, so that many go at once.
const PRUNING: Duration = Duration::from_secs(1);

/// When something happens by itself, in microseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    pub(super) is_known: bool,
    pub(super) due: Option<i64>,
    pub(super) expiry: Option<i64>,
    pub(super) unused: Option<i64>,
    /// When that was read from the file, for which each queue that expires is looked at.
    pub(super) unused_read_at: Option<i64>,
    pub(super) prune: Option<i64>,
    pub(super) outbox: Option<i64>,
    /// True if some of what is over its time still lies in its queue.
    pub(super) has_overdue: bool,
}

impl Deadlines {
    /// Reads them from the file at the next look.
    pub(super) fn forget(&mut self) {
        self.is_known = false;
    }

    /// Reads the expiry of unused queues at the next look.
    pub(super) fn forget_unused(&mut self) {
        self.unused_read_at = None;
    }

    pub(super) fn due_at(&mut self, due: i64) {
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    pub(super) fn expiry_at(&mut self, expiry: i64) {
        self.expiry = Some(self.expiry.map_or(expiry, |before| before.min(expiry)));
    }

    /// Schedules pruning for this moment, together with others of the same second.
    pub(super) fn prune_after(&mut self, until: i64) {
        let prune = until.saturating_add(PRUNING.as_micros() as i64);
        self.prune = Some(self.prune.map_or(prune, |before| before.min(prune)));
    }

    /// When jobs that were inserted by SQL are tried again.
    pub(super) fn outbox_at(&mut self, again: Option<i64>) {
        self.outbox = again;
    }

    pub(super) fn is_outbox_due(&self, now: SystemTime) -> bool {
        Self::has_come(self.outbox, micros(now))
    }

    /// The next one; `None` if nothing happens by itself.
    pub(super) fn next(&self) -> Option<SystemTime> {
        [self.due, self.expiry, self.unused, self.prune, self.outbox].into_iter().flatten().min().map(moment)
    }

    pub(super) fn has_come(deadline: Option<i64>, now: i64) -> bool {
        deadline.is_some_and(|at| at <= now)
    }
}
