//! How far the broker has been closed.

use tokio_util::sync::CancellationToken;

use crate::broker::closed;
use crate::error::Result;

/// How far the broker has been closed.
#[derive(Clone, Default)]
pub(crate) struct Closing {
    /// The broker is closed: nothing new begins.
    pub(crate) closed: CancellationToken,
    /// The publisher has sent and heard all it will: connections may close.
    pub(crate) flushed: CancellationToken,
}

impl Closing {
    /// # Errors
    /// If the broker is closed.
    pub(crate) fn ensure_open(&self) -> Result<()> {
        if self.closed.is_cancelled() { Err(closed()) } else { Ok(()) }
    }
}
