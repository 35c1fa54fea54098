//! The names that Leveret declares for itself.

use std::fmt;

use super::name::Name;
use crate::error::{Error, Result};

/// The prefix of all names that Leveret declares for itself: `leveret` unless the client says otherwise. One per
/// application where several share a vhost.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// The number of rungs of the delay ladder: 0.125 s, 0.25 s … 36 h.
    pub const RUNGS: u32 = 21;

    /// A namespace. At most 200 bytes, so that every name under it fits AMQP's 255.
    ///
    /// # Errors
    /// If it is empty, longer than that, or begins with `amq.`, which AMQP reserves.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if name.is_empty() || name.len() > 200 || name.starts_with("amq.") {
            return Err(Error::config(format!(
                "namespace `{name}` cannot be used: take 1 to 200 bytes that do not begin with `amq.`"
            )));
        }
        Ok(Self(name))
    }

    /// The namespace as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The dead-letter exchange of queues that name none.
    pub fn dlx(&self) -> Name {
        format!("{}.dlx", self.0).into()
    }

    /// The queue of rung `k` of the delay ladder.
    pub fn rung(&self, k: u32) -> Name {
        format!("{}.delay.{k:02}", self.0).into()
    }

    /// The queue in which delayed jobs arrive when they are due.
    pub fn due(&self) -> Name {
        format!("{}.due", self.0).into()
    }

    /// The queue that keeps delayed jobs whose own queue is missing.
    pub fn unroutable(&self) -> Name {
        format!("{}.unroutable", self.0).into()
    }
}

impl Default for Namespace {
    /// `leveret`.
    fn default() -> Self {
        Self("leveret".to_owned())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
