//! The queue beside a queue, where those of its jobs wait that are to run alone. Only brokers have one that cannot mark a job in its
//! place.

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
    /// Nothing is known about lost holders: the queue goes with the connection that consumes it.
    is_exclusive: bool,
    /// It would have one, but is only to be used as it is there.
    is_passive: bool,
    is_declared: AtomicBool,
    /// The broker does not let it be declared.
    is_refused: AtomicBool,
    /// This worker has put a job there, or takes them from there.
    is_used: AtomicBool,
    /// It is known if it is there.
    is_seen: AtomicBool,
    /// Told when a job goes there.
    filled: Notify,
}

impl SuspectQueue {
    /// The one of `queue`. A queue that is only to be used as it is there gets none beside it.
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

    /// Says in the log if jobs cannot be set apart although they could in another queue.
    pub(crate) fn tell(&self, queue: &Name) {
        if self.is_passive {
            tracing::info!(
                target: "leveret", %queue,
                "the queue is used as it is there, so a job that ends its workers' processes again and again runs alone in it, and \
                 the queue's delivery limit ends it"
            );
        }
    }

    /// Its name; `None` where jobs run alone in their own queue.
    pub(crate) fn name(&self) -> Option<&Name> {
        let decl = self.decl.as_ref().filter(|_| !self.is_refused.load(Ordering::Relaxed));
        decl.map(|decl| &decl.name)
    }

    /// Has jobs run alone in their own queue from now on.
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
                        "jobs that may end their worker cannot be set apart, and run alone in their own queue, where only its \
                         delivery limit ends them; let this user configure the queue"
                    );
                }
                None
            }
        }
    }

    /// Says that a job has gone there.
    pub(crate) fn fill(&self) {
        self.use_it();
        self.filled.notify_one();
    }

    /// Notes that it is there, and may hold jobs.
    pub(crate) fn use_it(&self) {
        self.is_used.store(true, Ordering::Relaxed);
    }

    /// Notes that it has been looked for.
    pub(crate) fn see(&self) {
        self.is_seen.store(true, Ordering::Relaxed);
    }

    /// Says if it has been looked for, or there is none.
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
