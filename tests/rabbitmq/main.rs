//! What is RabbitMQ's alone: connections that break, confirms and returns, the words of its refusals. What every
//! broker must do stands in the contract suite.
//!
//! Runs against the nodes that `LEVERET_TEST_RABBITMQ3`, `LEVERET_TEST_RABBITMQ4` and `LEVERET_TEST_RABBITMQ43` name; see `scripts/rabbitmq`.

#[macro_use]
mod support;

mod clock;
mod connect;
mod declare;
#[cfg(feature = "management")]
mod management;
mod proxy;
mod publish;
mod rpc;
mod settle;
mod tls;
