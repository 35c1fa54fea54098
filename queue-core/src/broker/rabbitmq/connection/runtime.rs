//! The runtime that the broker runs on, and the tasks on it that closing waits for.
//!
//! A handler that blocks its thread must not hold up heartbeats and acks, so connections are not on the runtime of the
//! application. That costs something where no core is free: the kernel lets this thread, which hears of what arrives,
//! interrupt the application's at once, before more has arrived. Under Linux's `SCHED_BATCH` it waits for a core instead.
//! With that 64 calls at a time were a fifth faster, but beside other busy programs one call at a time was ten times
//! slower, so it is not used.

use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc;

use crate::error::{Error, ErrorKind, Result};

/// The broker's own runtime. Dropped, it shuts down without waiting, so that it may be dropped anywhere.
pub(crate) struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    pub(crate) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            // Nothing here computes or blocks; with two, each would wake the other for half of what there is to do.
            .worker_threads(1)
            .thread_name("leveret-rabbitmq")
            .enable_all()
            .build()
            .map_err(|error| Error::new(ErrorKind::Connection, "cannot start threads").with_source(error))?;
        Ok(Self(Some(runtime)))
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("taken only by drop").handle()
    }

    /// Runs a future here and waits for it; dropping the wait stops it.
    pub(crate) async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        on(self.handle(), future).await
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Runs a future on the broker's runtime, to which lapin binds itself.
pub(crate) async fn on<T: Send + 'static>(
    handle: &Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    let mut task = AbortOnDrop(handle.spawn(future));
    match (&mut task.0).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down, and drops the waiting task as well.
            Err(_) => std::future::pending().await,
        },
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tasks of the broker that closing waits for.
pub(crate) struct Tasks {
    handle: Handle,
    running: Mutex<Option<mpsc::Sender<()>>>,
    ended: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

impl Tasks {
    pub(crate) fn new(handle: &Handle) -> Self {
        let (running, ended) = mpsc::channel(1);
        Self {
            handle: handle.clone(),
            running: Mutex::new(Some(running)),
            ended: tokio::sync::Mutex::new(ended),
        }
    }

    /// The runtime that they run on.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Kept by what [`wait`](Self::wait) waits for; none after that.
    pub(crate) fn token(&self) -> Option<mpsc::Sender<()>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a task that [`wait`](Self::wait) waits for; after that, none.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(running) = self.token() else { return };
        self.handle.spawn(async move {
            task.await;
            drop(running);
        });
    }

    pub(crate) async fn wait(&self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Nothing is ever sent: it ends when the last task has dropped its sender.
        while self.ended.lock().await.recv().await.is_some() {}
    }
}
