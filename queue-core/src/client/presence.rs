//! Keeps a client and its workers in the registry of the broker's store. Begun by `builder` and by workers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::broker::{Broker, Settings};
use crate::store::{Doing, HEARTBEAT, Member, Presence};

/// How long `close` waits until the client's own entry is removed: its task may be on a runtime that does not run.
const FAREWELL: Duration = Duration::from_secs(2);

/// A client's own entry, and how many workers have one beside it.
#[derive(Debug, Default)]
pub(super) struct Listed {
    presence: Mutex<Option<Presence>>,
    workers: Arc<AtomicUsize>,
}

/// Counts a worker of the client while it is held.
#[derive(Debug)]
pub(super) struct Serving(Arc<AtomicUsize>);

impl Listed {
    /// Lists a client from its first heartbeat on, 5 s from now, so that connecting costs nothing. While a worker uses the
    /// client, the worker is listed in its place. Without a store, or outside of a tokio runtime, the client is not listed.
    pub(super) fn begin(broker: &dyn Broker, settings: &Settings) -> Self {
        let listed = Self::default();
        let Some((store, runtime)) = broker.store().zip(Handle::try_current().ok()) else { return listed };
        let (clock, name, workers) =
            (settings.clock.clone(), settings.name.clone(), Arc::clone(&listed.workers));
        let began = clock.now();
        let look = move || (workers.load(Ordering::Relaxed) == 0).then(Doing::default);
        let member = move || Member::client(name, began);
        let presence = Presence::begin(&runtime, store, clock, member, HEARTBEAT, look);
        *listed.presence.lock().unwrap_or_else(PoisonError::into_inner) = Some(presence);
        listed
    }

    /// A worker begins to use the client.
    pub(super) fn serve(&self) -> Serving {
        self.workers.fetch_add(1, Ordering::Relaxed);
        Serving(Arc::clone(&self.workers))
    }

    /// Takes the client out of the registry.
    pub(super) async fn end(&self) {
        let presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(presence) = presence else { return };
        // Outside of a runtime there is no timer. The broker removes the entry itself when it is closed.
        if Handle::try_current().is_ok() {
            let _ = tokio::time::timeout(FAREWELL, presence.end()).await;
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
