//! Leveret beside programs that know nothing of it: what they publish is worked, and what they get wrong ends as a
//! dead letter with a reason one can act on. And the examples, as a person runs them.
//!
//! Each test runs on the memory broker and on the nodes that `LEVERET_TEST_RABBITMQ3`, `..4` and `..43`
//! name; there the foreign program is a plain lapin client. See `scripts/rabbitmq`. In [`python`] it is one in Python.

#[macro_use]
mod support;

mod bad_message;
mod beside;
mod call;
mod declare;
mod event;
mod example;
mod example_config;
mod example_events;
#[cfg(feature = "schema")]
mod example_orders;
mod example_shared;
mod example_web;
mod producer;
mod property;
mod python;
#[cfg(feature = "rabbitmq")]
mod rpc;
mod start;
