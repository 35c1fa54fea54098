//! The work that is left in a memory broker, for tests.

use std::time::SystemTime;

use crate::envelope::Envelope;

/// A job that waits: ready in its queue, or delayed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Waiting {
    /// The queue it is in or for.
    pub queue: String,
    /// The job.
    pub envelope: Envelope,
    /// When it is due; `None` if it is ready.
    pub not_before: Option<SystemTime>,
}

/// The work that is left in a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Activity {
    /// Messages ready in queues that have a consumer.
    pub ready: u64,
    /// Ready messages in queues without a consumer, such as dead letters.
    pub parked: u64,
    /// Messages delivered and not yet settled.
    pub unsettled: u64,
    /// Messages that wait for their time.
    pub delayed: u64,
    /// When the next of those is due.
    pub next_due: Option<SystemTime>,
}

impl Activity {
    /// True if consumers have nothing to do before the clock moves on.
    pub fn is_idle(&self) -> bool {
        self.ready == 0 && self.unsettled == 0
    }
}
