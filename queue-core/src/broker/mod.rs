//! The traits of a broker, and their types. The implementations stand beside this file, and one
//! contract suite (`tests/brokers`) holds them all to the same behaviour.
//!
//! A broker speaks AMQP's terms: exchanges, queues, bindings, messages. It knows no tasks and decides nothing
//! about a job; it carries out a [`Settlement`](crate::settlement::Settlement).

#[cfg(any(feature = "memory", feature = "rabbitmq", feature = "sqlite-system"))]
pub(crate) mod amqp;
mod api;
mod consumer;
mod delivery;
mod info;
mod liveness;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(any(feature = "memory", feature = "rabbitmq", feature = "sqlite-system"))]
mod missing;
mod operator;
mod publish;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
pub(crate) mod reply;
mod settings;
#[cfg(feature = "sqlite-system")]
pub mod sqlite;
#[cfg(any(feature = "memory", feature = "rabbitmq", feature = "sqlite-system"))]
mod tries;

pub use api::Broker;
pub use consumer::{ConsumeOptions, Consumer, ConsumerHandle, Unflushed};
pub use delivery::{Delivery, Returns, Settler};
pub use info::{BrokerInfo, Health};
pub use liveness::Liveness;
pub use operator::{Abilities, Found, FoundDelayed, Mark, Operator, Place, QueueStats, Walk};
pub use publish::Publish;
pub use reply::DIRECT_REPLY_TO;
pub use settings::{ManagementUrl, Settings};

/// The error of every call on a closed broker.
pub(crate) fn closed() -> crate::error::Error {
    crate::error::Error::new(crate::error::ErrorKind::Closed, "the client is closed")
}
