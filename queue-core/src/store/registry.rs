//! The trait by which workers and clients are registered: who is there, since when, and what runs.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::member::{Member, RunningJob};
use crate::error::Result;

/// How often a member gives a sign of life.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// A member counts as gone when its last sign of life is older than this: six heartbeats.
pub const GONE_AFTER: Duration = Duration::from_secs(30);
/// An entry is taken out when its last sign of life is older than this. Until then it shows who has died.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(60 * 60);

/// Lists the workers and clients of a broker. People ask by [`Admin::workers`](crate::admin::Admin::workers); implemented by
/// a [`Store`](super::Store).
///
/// Moments come from the caller's clock, and never from the store's. All methods may be called at the same time from any
/// task, and are cancel safe in that a dropped future leaves the store usable.
#[async_trait]
pub trait Registry: fmt::Debug + Send + Sync {
    /// Enters a member; an entry of the same id is replaced. Takes out the entries whose last sign of life is older than
    /// [`FORGOTTEN_AFTER`] at the member's [`last_seen`](Member::last_seen).
    ///
    /// # Errors
    /// If the store cannot be reached or written, or is closed.
    async fn register(&self, member: &Member) -> Result<()>;

    /// Notes a sign of life, and what runs. `false` if no entry has the id, since it was taken out: then the caller registers
    /// again. Takes out what is forgotten, as [`register`](Self::register) does.
    ///
    /// # Errors
    /// As `register`.
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<bool>;

    /// All entries, those that registered first before the others. [`is_gone`](Member::is_gone) is `false` in all of them:
    /// whoever lists them judges by a clock of its own.
    ///
    /// # Errors
    /// If the store cannot be reached, or is closed.
    async fn members(&self) -> Result<Vec<Member>>;

    /// Takes a member out, at its orderly end. One that is not there is no error.
    ///
    /// # Errors
    /// As `register`.
    async fn leave(&self, id: &str) -> Result<()>;
}

/// A sign of life of one [`Member`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Heartbeat {
    /// The member's id.
    pub id: String,
    /// The moment, by the member's clock.
    pub at: SystemTime,
    /// How many jobs the member works on.
    pub busy: u32,
    /// Those of them that are shown.
    pub running: Vec<RunningJob>,
}

impl Heartbeat {
    /// A sign of life of a member that works on nothing.
    pub fn new(id: impl Into<String>, at: SystemTime) -> Self {
        Self { id: id.into(), at, busy: 0, running: Vec::new() }
    }
}
