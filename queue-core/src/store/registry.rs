//! The trait that lists workers and clients: their names, since when they run, and their jobs.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::member::{Member, RunningJob};
use crate::error::Result;

/// The time between two heartbeats of a member.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// A member counts as gone when its last heartbeat is older than this: six heartbeats.
pub const GONE_AFTER: Duration = Duration::from_secs(30);
/// An entry is removed when its last heartbeat is older than this. Until then it shows that the member has died.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(60 * 60);

/// Lists the workers and clients of a broker. A [`Store`](super::Store) implements it; people ask
/// [`Admin::workers`](crate::admin::Admin::workers).
///
/// ```
/// # use leveret::Client;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
/// let store = client.store()?;
/// for member in store.registry().members().await? {
///     println!("{} ({:?})", member.name, member.kind);
/// }
/// # Ok(()) }
/// ```
///
/// Moments come from the caller's clock, and never from the store's. All methods may be called at the same time from any
/// task. They are cancel safe in that a dropped future leaves the store usable.
#[async_trait]
pub trait Registry: fmt::Debug + Send + Sync {
    /// Enters a member, or replaces its entry. Removes the entries whose last heartbeat is older than
    /// [`FORGOTTEN_AFTER`] at the member's [`last_seen`](Member::last_seen).
    ///
    /// # Errors
    /// If the store cannot be reached or written, or is closed.
    async fn register(&self, member: &Member) -> Result<()>;

    /// Records a heartbeat and the running jobs. Returns `false` if no entry has the id, because it was removed: then the caller
    /// registers again. Removes old entries, as [`register`](Self::register) does.
    ///
    /// # Errors
    /// As `register`.
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<bool>;

    /// All entries, in the order of registration. [`is_gone`](Member::is_gone) is `false` in all of them: the caller sets it by
    /// its own clock.
    ///
    /// # Errors
    /// If the store cannot be reached, or is closed.
    async fn members(&self) -> Result<Vec<Member>>;

    /// Removes a member that stops normally. A missing one is no error.
    ///
    /// # Errors
    /// As `register`.
    async fn leave(&self, id: &str) -> Result<()>;
}

/// A heartbeat of one [`Member`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Heartbeat {
    /// The member's id.
    pub id: String,
    /// The moment, by the member's clock.
    pub at: SystemTime,
    /// The number of jobs that the member runs.
    pub busy: u32,
    /// The running jobs that its entry shows.
    pub running: Vec<RunningJob>,
}

impl Heartbeat {
    /// A heartbeat of a member that runs no jobs.
    pub fn new(id: impl Into<String>, at: SystemTime) -> Self {
        Self { id: id.into(), at, busy: 0, running: Vec::new() }
    }
}
