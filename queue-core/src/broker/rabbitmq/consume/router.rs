//! Runs the due router while a worker or client needs it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::due::{self, Routing};
use crate::broker::rabbitmq::connection::runtime::Tasks;

/// The due router.
pub(crate) struct DueRouter {
    routing: Routing,
    tasks: Arc<Tasks>,
    /// How many consumers need it, and what stops it.
    running: Mutex<(usize, Option<CancellationToken>)>,
}

impl DueRouter {
    pub(crate) fn new(routing: Routing, tasks: Arc<Tasks>) -> Self {
        Self { routing, tasks, running: Mutex::default() }
    }

    fn running(&self) -> MutexGuard<'_, (usize, Option<CancellationToken>)> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the due router running while it lives.
pub(crate) struct NeedsRouter(Arc<DueRouter>);

impl NeedsRouter {
    pub(crate) fn new(router: &Arc<DueRouter>) -> Self {
        let mut running = router.running();
        running.0 += 1;
        if running.1.is_none() {
            let stop = CancellationToken::new();
            running.1 = Some(stop.clone());
            router.tasks.spawn(due::route(router.routing.clone(), stop));
        }
        drop(running);
        Self(router.clone())
    }
}

impl Drop for NeedsRouter {
    fn drop(&mut self) {
        let mut running = self.0.running();
        running.0 -= 1;
        if running.0 == 0
            && let Some(stop) = running.1.take()
        {
            stop.cancel();
        }
    }
}
