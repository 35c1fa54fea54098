//! The job that all contenders publish and work: about 256 bytes of JSON.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use leveret::task;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// The payload of the hand-written loops, field for field that of the task below.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Raw {
    /// Which one it is.
    pub(crate) number: u64,
    /// What makes it 256 bytes.
    pub(crate) text: String,
}

/// The text that makes a payload 256 bytes.
pub(crate) fn text() -> String {
    "x".repeat(223)
}

/// Counts jobs, and says when the last one is done.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    done: AtomicUsize,
    wanted: AtomicUsize,
    reached: Notify,
}

impl Counter {
    /// Waits for `wanted` jobs.
    pub(crate) fn new(wanted: usize) -> Arc<Self> {
        Arc::new(Self { wanted: wanted.into(), ..Self::default() })
    }

    /// One more is done.
    pub(crate) fn count(&self) {
        if self.done.fetch_add(1, Ordering::Relaxed) + 1 == self.wanted.load(Ordering::Relaxed) {
            self.reached.notify_one();
        }
    }

    /// Returns when all are done.
    pub(crate) async fn all_done(&self) {
        self.reached.notified().await;
    }
}

/// Ours, on a classic queue.
#[task(queue = "bench.classic", queue_type = "classic")]
pub(crate) async fn classic_job(counter: &Counter, number: u64, text: String) {
    std::hint::black_box((number, text));
    counter.count();
}

/// Ours, on a quorum queue.
#[task(queue = "bench.quorum")]
pub(crate) async fn quorum_job(counter: &Counter, number: u64, text: String) {
    std::hint::black_box((number, text));
    counter.count();
}
