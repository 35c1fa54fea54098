//! The queue beside a queue, in which jobs wait to run alone. Only a broker that cannot mark a job in its place needs one.

use std::sync::atomic::{AtomicBool, Ordering};

use queue_core::client::Client;
use queue_core::error::{ErrorKind, chain};
use queue_core::topology::{Name, QueueDecl, QueueSpec, Topology};
use tokio::sync::Notify;

/// The queue of suspects of one queue, as one worker sees it.
#[derive(Debug)]
pub(crate) struct SuspectQueue {
    /// `None` where the jobs stay in their own queue.
    decl: Option<QueueDecl>,
    /// True for a queue that is deleted with the connection that consumes it, so that no holder is ever lost.
    is_exclusive: bool,
    /// True for a queue that is used as it is, and so gets no queue beside it.
    is_passive: bool,
    is_declared: AtomicBool,
    /// True once the broker has refused to declare it.
    is_refused: AtomicBool,
    /// True once this worker has put a job there, or takes jobs from there.
    is_used: AtomicBool,
    /// True once this worker has looked for it.
    is_seen: AtomicBool,
    /// Notified when a job goes there.
    filled: Notify,
}

impl SuspectQueue {
    /// The queue of suspects of `spec`. A queue that is used as it is gets none beside it.
    pub(crate) fn of(spec: &QueueSpec, client: &Client) -> Self {
        let topology = spec.topology(client.namespace()).ok();
        let own =
            topology.iter().flat_map(|topology| &topology.queues).find(|queue| queue.name == *spec.name());
        let is_exclusive = own.is_some_and(|queue| queue.exclusive);
        let is_passive = own.is_some_and(|queue| queue.passive);
        let decl = client.broker().suspects_of(spec.name()).filter(|_| !is_exclusive && !is_passive);
        Self {
            decl,
            is_exclusive,
            is_passive: is_passive && client.broker().suspects_of(spec.name()).is_some(),
            is_declared: AtomicBool::new(false),
            is_refused: AtomicBool::new(false),
            is_used: AtomicBool::new(false),
            is_seen: AtomicBool::new(false),
            filled: Notify::new(),
        }
    }

    pub(crate) fn is_exclusive(&self) -> bool {
        self.is_exclusive
    }

    /// Logs that jobs of a queue that is used as it is cannot be set apart.
    pub(crate) fn tell(&self, queue: &Name) {
        if self.is_passive {
            tracing::info!(
                target: "leveret", %queue,
                "queue is used as it is: a job that ends its workers' processes again and again runs alone in it, and becomes a \
                 dead letter at the queue's delivery limit"
            );
        }
    }

    /// Its name; `None` where jobs run alone in their own queue.
    pub(crate) fn name(&self) -> Option<&Name> {
        let decl = self.decl.as_ref().filter(|_| !self.is_refused.load(Ordering::Relaxed));
        decl.map(|decl| &decl.name)
    }

    /// Makes jobs run alone in their own queue from now on.
    pub(crate) fn refuse(&self) {
        self.is_refused.store(true, Ordering::Relaxed);
    }

    /// Declares it, unless that has been done. `None` if it cannot be used, which the log says once.
    pub(crate) async fn declared(&self, client: &Client) -> Option<&Name> {
        let name = self.name()?;
        if self.is_declared.load(Ordering::Relaxed) {
            return Some(name);
        }
        let topology = Topology::new().queue(self.decl.clone()?);
        match client.declare(&topology).await {
            Ok(()) => {
                self.is_declared.store(true, Ordering::Relaxed);
                Some(name)
            }
            Err(error) => {
                let is_away = matches!(error.kind(), ErrorKind::Connection | ErrorKind::Closed);
                if !is_away && !self.is_refused.swap(true, Ordering::Relaxed) {
                    let error = chain(&error);
                    tracing::error!(
                        target: "leveret", queue = %name, %error,
                        "queue for jobs that may end their worker cannot be declared: they run alone in their own queue, and become \
                         dead letters at its delivery limit; let this user configure the queue"
                    );
                }
                None
            }
        }
    }

    /// Notifies that a job has gone there.
    pub(crate) fn fill(&self) {
        self.use_it();
        self.filled.notify_one();
    }

    /// Records that it exists and may hold jobs.
    pub(crate) fn use_it(&self) {
        self.is_used.store(true, Ordering::Relaxed);
    }

    /// Records that this worker has looked for it.
    pub(crate) fn see(&self) {
        self.is_seen.store(true, Ordering::Relaxed);
    }

    /// True if this worker has looked for it, or there is none.
    pub(crate) fn is_seen(&self) -> bool {
        self.name().is_none() || self.is_seen.load(Ordering::Relaxed)
    }

    /// Its name, if it may hold jobs that this worker knows of.
    pub(crate) fn used(&self) -> Option<&Name> {
        self.name().filter(|_| self.is_used.load(Ordering::Relaxed))
    }

    /// Waits until a job has gone there. Cancel safe.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }
}
