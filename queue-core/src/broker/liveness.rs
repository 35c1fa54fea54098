//! Tells processes that live from those that have ended.

use async_trait::async_trait;

use crate::error::Result;

/// Tells whether the process that held a job lives. A worker asks before it concludes that a job has ended one.
#[async_trait]
pub trait Liveness: Send + Sync {
    /// The name of this process for [`is_alive`](Self::is_alive), without white space. No other process ever has it, and from now
    /// on it counts as alive until its client is closed.
    ///
    /// # Errors
    /// If the broker does not let it be known.
    async fn name(&self) -> Result<String>;

    /// True if the process of that name lives. An unknown name counts as that of a process that has ended. May take as long
    /// as a process that lives could need to show itself again: ten seconds, where it has lost its connection.
    ///
    /// # Errors
    /// If that cannot be found out at the moment.
    async fn is_alive(&self, name: &str) -> Result<bool>;
}
