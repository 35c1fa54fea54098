//! A retry or dead letter that is refused, because its exchange or queue is missing or full, is published again a few
//! times before the original goes back: given back at once, it would come again at once, and its handler would run in a
//! hot loop.

use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::{PublishError, SettleError};

/// How often a copy is published.
const TRIES: u32 = 4;
/// The pause after the first; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// Counts the tries of one settlement.
#[derive(Debug)]
pub(super) struct Tries {
    left: u32,
    pause: Duration,
}

impl Tries {
    pub(super) fn new() -> Self {
        Self { left: TRIES - 1, pause: PAUSE }
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// If there is none, and the original goes back now: also outside of a tokio runtime, where nothing can wait.
    pub(super) async fn pause_after(&mut self, error: PublishError) -> Result<(), SettleError> {
        if !is_refusal(&error) || self.left == 0 || Handle::try_current().is_err() {
            return Err(SettleError::Republish(error));
        }
        self.left -= 1;
        tokio::time::sleep(self.pause).await;
        self.pause *= 2;
        Ok(())
    }
}

/// True if the broker answered at once. All other errors have waited long enough.
pub(super) fn is_refusal(error: &PublishError) -> bool {
    !matches!(
        error,
        PublishError::Unconfirmed { .. }
            | PublishError::Unavailable { .. }
            | PublishError::Silent { .. }
            | PublishError::Blocked { .. }
            | PublishError::Closed
    )
}
