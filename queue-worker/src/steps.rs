//! The steps in which a worker stops: it stops fetching, tells running jobs to end, cuts them off. Each step includes the
//! one before it. `stop` carries them out.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

/// Stops a worker from anywhere in the program. Made by [`Worker::handle`](crate::Worker::handle). Clones stop the same worker;
/// dropping a handle does not stop it.
///
/// ```
/// # use leveret::{Client, Worker, task};
/// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
/// let worker = Worker::new(&client);
/// # let worker = worker.task::<SendEmail>();
/// let handle = worker.handle();
/// let working = tokio::spawn(worker.run());
///
/// handle.shutdown();
/// working.await.expect("the worker does not panic")?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    steps: Arc<Steps>,
}

impl WorkerHandle {
    pub(crate) fn new(steps: Arc<Steps>) -> Self {
        Self { steps }
    }

    /// Asks the worker to stop: it fetches no more jobs, gives back those that it has not started, and waits for the running
    /// ones, at most for its shutdown timeout. Then [`Worker::run`](crate::Worker::run) returns. A
    /// worker that has not begun yet returns as soon as it is run.
    pub fn shutdown(&self) {
        self.steps.stop();
    }

    /// Asks the worker to stop at once, like a second signal: running jobs are cut off and given back to their queue. The
    /// process goes on in any case, and with it functions without `async`, which cannot be stopped.
    pub fn shutdown_now(&self) {
        self.steps.cut_off();
    }
}

/// The steps of a stop that a worker has reached.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// No more jobs are fetched.
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
