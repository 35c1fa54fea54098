//! What all connections of one broker share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio_util::sync::CancellationToken;

use super::declared::Declared;
use super::dial::Dialer;
use super::pause::Waiters;
use super::silence::Listeners;
use crate::broker::Settings;

/// What sessions need.
pub(super) struct Shared {
    pub(super) dialer: Arc<Dialer>,
    pub(super) declared: Declared,
    pub(super) settings: Settings,
    /// Who waits for a connection.
    pub(super) waiters: Arc<Waiters>,
    /// What may be owed confirms by the node that is published to.
    pub(super) publishers: Listeners,
    /// How many sessions there have been.
    pub(super) sessions: AtomicU64,
    /// The broker is closed: nothing new begins.
    pub(super) closed: CancellationToken,
    /// The publisher has sent and heard all it will: connections may close.
    pub(super) flushed: CancellationToken,
}
