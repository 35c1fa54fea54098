//! How far the walk through jobs that were inserted by SQL has come. `intake` walks.

use std::collections::HashMap;

use super::outbox_table::Target;

/// A walk through the outbox, from queue to queue. It goes on from transaction to transaction, and is repeated as long
/// as there may be more.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// The queue it has come to; `None` if it begins.
    pub(super) at: Option<Target>,
    /// True if it has left something behind, or something may have come since.
    pub(super) is_to_be_repeated: bool,
    /// How many walks there were.
    pub(super) walk: u64,
    /// The queues that did not take their first row. One whose rows have gone is forgotten with the walk.
    pub(super) waiting: HashMap<Target, Waiting>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    /// When its first row is tried again; `None` is when the queue is declared.
    pub(super) until: Option<i64>,
    /// The last walk that met it.
    pub(super) walk: u64,
}
