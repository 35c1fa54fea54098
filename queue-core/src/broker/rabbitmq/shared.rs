//! What all connections of one broker share.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::exact::Exact;
use super::hosts::Hosts;
use super::pause::Waiters;
use super::publisher::SharedPublisher;
use super::url::Target;
use crate::broker::Settings;
use crate::broker::amqp::Remembered;

/// What sessions need.
pub(super) struct Shared {
    pub(super) target: Target,
    pub(super) exact: Exact,
    pub(super) settings: Settings,
    /// Declared on every connect.
    pub(super) remembered: Mutex<Remembered>,
    /// Declared on every connect of the shared consuming connection: its exclusive queues go with it.
    pub(super) exclusive: Mutex<Remembered>,
    /// How the target's hosts did.
    pub(super) hosts: Hosts,
    /// Who waits for a connection.
    pub(super) waiters: Arc<Waiters>,
    /// What may be owed confirms by the node that is published to.
    pub(super) publishers: Mutex<Vec<SharedPublisher>>,
    /// How many sessions there have been.
    pub(super) sessions: AtomicU64,
    /// The broker is closed: nothing new begins.
    pub(super) closed: CancellationToken,
    /// The publisher has sent and heard all it will: connections may close.
    pub(super) flushed: CancellationToken,
}

impl Shared {
    pub(super) fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares this queue no more.
    pub(super) fn forget(&self, queue: &str) {
        self.remembered().forget(queue);
        self.exclusive().forget(queue);
    }

    /// Has a publisher asked what the node owes it.
    pub(super) fn watch(&self, publisher: SharedPublisher) {
        self.publishers.lock().unwrap_or_else(PoisonError::into_inner).push(publisher);
    }

    /// Since when nothing has been heard from the node that is published to, if somebody waits for it.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        let publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        publishers.iter().filter_map(|publisher| publisher.lock().silent_since()).min()
    }
}
