//! A worker at work, and its events one by one.

use std::time::Duration;

use leveret::{JobEvent, JobEvents, JobInfo, Worker, WorkerHandle};
use queue_core::settlement::Reason;
use tokio::task::JoinHandle;

/// A worker on a tokio task of its own.
pub(crate) struct Work {
    events: JobEvents,
    handle: WorkerHandle,
    ended: JoinHandle<leveret::Result<()>>,
}

impl Work {
    /// Runs a worker that leaves signals alone.
    pub(crate) fn start(worker: Worker) -> Self {
        let worker = worker.signals(false);
        let (events, handle) = (worker.events(), worker.handle());
        Self { events, handle, ended: tokio::spawn(worker.run()) }
    }

    /// What became of the next attempt.
    pub(crate) async fn fate(&mut self) -> JobEvent {
        loop {
            match self.events.next().await {
                Some(JobEvent::Started { .. }) => {}
                Some(fate) => return fate,
                None => panic!("the worker has stopped: {:?}", (&mut self.ended).await),
            }
        }
    }

    pub(crate) async fn succeeded(&mut self) -> JobInfo {
        match self.fate().await {
            JobEvent::Succeeded { job, .. } => job,
            other => panic!("expected a success: {other:?}"),
        }
    }

    /// After how long at least the job runs again, and why.
    pub(crate) async fn retried(&mut self) -> (Duration, Reason) {
        match self.fate().await {
            JobEvent::Retried { after, reason, .. } => (after, reason),
            other => panic!("expected a retry: {other:?}"),
        }
    }

    /// Why the job is a dead letter.
    pub(crate) async fn dead(&mut self) -> Reason {
        match self.fate().await {
            JobEvent::Dead { reason, .. } => reason,
            other => panic!("expected a dead letter: {other:?}"),
        }
    }

    /// Stops the worker in the orderly way.
    pub(crate) async fn stop(self) {
        self.handle.shutdown();
        self.ended.await.expect("the worker did not panic").expect("the worker stopped in order");
    }
}
