//! Queues as a user describes them ([`QueueSpec`]), and their declarations in AMQP's terms ([`Topology`]).
//!
//! The arguments are frozen at 1.0: RabbitMQ refuses to redeclare a queue with others. Everything here is pure;
//! brokers declare the result of [`QueueSpec::topology`].

mod declaration;
mod ladder;
mod name;
mod namespace;
mod spec;
mod subscription;

pub use declaration::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Route, Topology};
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
pub(crate) use ladder::unroutable;
pub use ladder::{delay_ladder, rung_for, rung_wait};
pub use name::{MAX_NAME, Name};
pub use namespace::Namespace;
pub use spec::{Declare, Difference, Overflow, QueueSpec, QueueType};
pub use subscription::Subscription;
