//! What the parts of a broker find each other by.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::aside::Aside;
use super::caller::PublisherHandle;
use super::exact::Exact;
use super::replier::Replier;
use super::restore::Restored;
use super::runtime::Tasks;
use super::server_clock::ServerClock;
use super::session::State;
use super::shared::Shared;
use super::supervise::{self, supervise};
use super::turn::Turns;
use crate::broker::closed;
use crate::declaring::Declaring;
use crate::error::Result;
use crate::topology::Name;

/// What the broker's own tasks need, without owning the runtime that they run on.
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) exact: Exact,
    pub(super) publisher: PublisherHandle,
    /// Publishes requests, once somebody reads the replies.
    pub(super) requester: OnceLock<PublisherHandle>,
    /// Sends direct replies.
    pub(super) replier: Replier,
    /// Where queues are asked about.
    pub(super) aside: Aside,
    /// Whose turn it is to walk through a queue.
    pub(super) turns: Turns,
    pub(super) publishing: watch::Receiver<State>,
    /// Opened by the first consumer.
    pub(super) consuming: OnceLock<watch::Receiver<State>>,
    /// Queues that were given up because of a message that ends connections: consumed again, they get one of their
    /// own from the beginning.
    pub(super) unparsable: Mutex<HashSet<Name>>,
    /// Set when the delay ladder has been declared.
    pub(super) ladder: OnceLock<()>,
    pub(super) declaring_ladder: Declaring,
    /// What was deleted and has been declared again.
    pub(super) restored: Restored,
    /// The server's clock, by which delays go.
    pub(super) server_clock: ServerClock,
    /// How many consumers need the due router, and what stops it.
    pub(super) router: Mutex<(usize, Option<CancellationToken>)>,
    pub(super) handle: Handle,
    /// What feeds consumers, and what else is to end before the connections do.
    pub(super) tasks: Tasks,
    /// What keeps connections.
    pub(super) connections: Tasks,
}

impl Core {
    /// Runs a task on the broker's runtime that `close` waits for.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(&self.handle, task);
    }

    /// The connection for consuming, opened when it is first asked for. Exclusive queues belong to it.
    pub(super) fn consuming(&self) -> watch::Receiver<State> {
        self.consuming.get_or_init(|| self.keep_consuming(supervise::CONSUMER)).clone()
    }

    pub(super) fn unparsable(&self) -> MutexGuard<'_, HashSet<Name>> {
        self.unparsable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another connection for consuming, which owns no exclusive queues.
    pub(super) fn new_apart(&self) -> watch::Receiver<State> {
        self.keep_consuming(supervise::APART)
    }

    /// A connection for consuming that lives as long as somebody looks at its state.
    pub(super) fn keep_consuming(&self, role: &'static str) -> watch::Receiver<State> {
        let (state, receiver) = watch::channel(State::default());
        let keeping = supervise(self.shared.clone(), role, state, None);
        self.connections.spawn(&self.handle, keeping);
        receiver
    }

    pub(super) fn ensure_open(&self) -> Result<()> {
        if self.shared.closed.is_cancelled() { Err(closed()) } else { Ok(()) }
    }
}
