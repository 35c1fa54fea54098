//! The rules of AMQP about queues, as pure functions for the brokers that must keep it themselves, and the words of
//! errors that all brokers share. Stores nothing and asks no clock.

#![cfg_attr(
    not(any(feature = "memory", feature = "sqlite-system")),
    allow(dead_code, reason = "a broker with a server keeps few rules itself")
)]

mod conflict;
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
mod death;
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
mod declare;
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
mod flow;
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
mod pattern;
mod plan;
mod remembered;
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
mod rules;
mod size;

#[cfg_attr(
    not(all(feature = "memory", feature = "rabbitmq")),
    allow(unused_imports, reason = "as above")
)]
pub(crate) use conflict::{
    exchange_conflict, locked, missing_exchange, missing_queue, queue_conflict, queue_not_found,
};
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
pub(crate) use death::DeathReason;
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
pub(crate) use declare::{
    ExchangeStep, ExistingQueue, QueueStep, binding_refused, check_binding, declare_exchange, declare_queue,
};
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
pub(crate) use flow::{
    Death, Delayed, Message, Published, Queues, bury, delay_job, dies, fall_due, nothing_bound, publish,
};
pub(crate) use plan::Plan;
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
pub(crate) use remembered::tell_restored;
pub(crate) use remembered::{Remembered, tell_unrestored};
#[cfg(any(feature = "memory", feature = "sqlite-system"))]
pub(crate) use rules::{Overflowing, QueueRules};
#[cfg_attr(not(feature = "rabbitmq"), allow(unused_imports, reason = "as above"))]
pub(crate) use size::check_queue;
pub(crate) use size::{check_publish, check_topology};
