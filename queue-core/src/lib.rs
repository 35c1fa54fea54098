//! Leveret's producer side: the client, the job as it crosses the wire, and the brokers.
//!
//! Programs use the facade crate [`leveret`](https://docs.rs/leveret), and its documentation is the place to start. A
//! job's way through this crate: [`client`] → [`envelope`] → [`broker`].
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod admin;
#[cfg(feature = "schema")]
pub mod asyncapi;
pub mod body;
pub mod broker;
pub mod call;
pub mod client;
pub mod clock;
pub mod envelope;
pub mod error;
pub mod event;
pub mod format;
pub mod job;
#[cfg(feature = "sqlite-system")]
pub mod outbox;
pub mod outcome;
#[doc(hidden)]
pub mod private;
pub mod publish;
pub mod retry;
pub mod routing;
pub mod settlement;
pub mod store;
pub mod task;
pub mod topology;

mod death;
mod declaring;
mod runtime;
mod seal;
mod sending;
#[cfg(not(feature = "sqlite-system"))]
mod without_sqlite;
