//! The job that all contenders publish and work: about 256 bytes of JSON.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use leveret::task;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::measure::{Sample, Stopwatch};

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

/// Counts jobs, and measures from the first to the last: connecting and declaring is not what is compared.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    first: OnceLock<Stopwatch>,
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
        self.first.get_or_init(Stopwatch::start);
        if self.done.fetch_add(1, Ordering::Relaxed) + 1 == self.wanted.load(Ordering::Relaxed) {
            self.reached.notify_one();
        }
    }

    /// Returns when all are done.
    pub(crate) async fn all_done(&self) -> Sample {
        self.reached.notified().await;
        let first = self.first.get().expect("the last job is not the first");
        first.stop(self.wanted.load(Ordering::Relaxed) - 1)
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
