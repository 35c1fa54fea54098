//! The steps in which a worker stops: it stops fetching, tells running jobs to end, cuts them off. Each step includes the
//! one before it. Who carries them out is `stop`.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

/// Stops a worker from anywhere in the program. Clones stop the same worker; dropping one stops nothing.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    steps: Arc<Steps>,
}

impl WorkerHandle {
    pub(crate) fn new(steps: Arc<Steps>) -> Self {
        Self { steps }
    }

    /// Asks the worker to stop: it fetches nothing more, gives back what it has not started, and waits for what
    /// runs, at most for its shutdown timeout. [`Worker::run`](crate::Worker::run) returns when that is done. A
    /// worker that has not begun yet returns as soon as it is run.
    pub fn shutdown(&self) {
        self.steps.stop();
    }

    /// Asks the worker to stop at once, like a second signal: what runs is cut off and given back to its queue. The
    /// process goes on in any case, and with it functions without `async`, which nobody can stop.
    pub fn shutdown_now(&self) {
        self.steps.cut_off();
    }
}

/// How far a worker has gone in stopping.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// Nothing more is fetched.
    stop: CancellationToken,
    /// Running jobs are told to end, through their `Context`.
    cancel: CancellationToken,
    /// Running jobs are dropped and released.
    cut_off: CancellationToken,
}

impl Steps {
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    pub(crate) fn cancel(&self) {
        self.stop.cancel();
        self.cancel.cancel();
    }

    pub(crate) fn cut_off(&self) {
        self.stop.cancel();
        self.cancel.cancel();
        self.cut_off.cancel();
    }

    pub(crate) fn is_cancelling(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Cancel safe, like the two below.
    pub(crate) async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    pub(crate) async fn cancelling(&self) {
        self.cancel.cancelled().await;
    }

    pub(crate) async fn cutting_off(&self) {
        self.cut_off.cancelled().await;
    }
}

/// Cuts everything off when the future of `run()` is dropped half-way, so that no job goes on without an owner.
pub(crate) struct CutOffOnDrop(pub(crate) Arc<Steps>);

impl Drop for CutOffOnDrop {
    fn drop(&mut self) {
        self.0.cut_off();
    }
}
