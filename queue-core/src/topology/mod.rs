//! Queues as a user describes them ([`QueueSpec`]), and what that means in AMQP's terms ([`Topology`]).
//!
//! The arguments are frozen at 1.0: RabbitMQ refuses to redeclare a queue with others. Everything here is pure;
//! brokers declare what [`QueueSpec::topology`] says.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};

mod declaration;
mod ladder;
mod spec;
mod subscription;

pub use declaration::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Route, Topology};
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
pub(crate) use ladder::unroutable;
pub use ladder::{delay_ladder, rung_for, rung_wait};
pub use spec::{Declare, Difference, Overflow, QueueSpec, QueueType};
pub use subscription::Subscription;

/// The name of a queue, exchange or routing key; most are literals and cost no allocation.
pub type Name = Cow<'static, str>;

/// The longest name that AMQP carries, in bytes.
pub const MAX_NAME: usize = 255;

/// The prefix of all names that Leveret declares for itself: `leveret` unless the client says otherwise. One per
/// application where several share a vhost.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// How many rungs the delay ladder has: 0.125 s, 0.25 s … 36 h.
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

    /// Where delayed jobs arrive when their time has come.
    pub fn due(&self) -> Name {
        format!("{}.due", self.0).into()
    }

    /// Where delayed jobs end whose queue has gone.
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

/// Checks a name that crosses the wire as an AMQP short string.
fn check_name(what: &str, name: &str) -> Result<()> {
    if name.len() > MAX_NAME {
        let start = crate::envelope::truncate(name, 40);
        let len = name.len();
        return Err(Error::config(format!(
            "{what} `{start}…` has {len} bytes; AMQP carries names of at most {MAX_NAME}: shorten it"
        )));
    }
    if name.is_empty() {
        return Err(Error::config(format!("the {what} has an empty name: give it one")));
    }
    if name.starts_with("amq.") {
        return Err(Error::config(format!(
            "{what} `{name}` begins with `amq.`, which AMQP reserves: rename it"
        )));
    }
    Ok(())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
