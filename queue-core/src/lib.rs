//! Leveret's producer side: what a program needs to enqueue, and what a broker must do.
//!
//! Programs use the facade crate [`leveret`](https://docs.rs/leveret), whose front page shows what all this is for. A
//! job's way through this crate: [`client`] → [`envelope`] → [`broker`].

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
