//! The transactional outbox: a program inserts a job or event as a row, in a transaction of its own on an SQLite database,
//! and a relay sends it to a broker. A client whose broker is that very file takes the rows in by itself
//! (`broker/sqlite/intake`).
//!
//! It stands outside of the brokers, because the relay sends by a `Client` as any program does.

pub use insert::SqlInsert;
pub use relay::Outbox;
/// Stops [`Outbox::relay`].
pub use tokio_util::sync::CancellationToken;

mod insert;
mod relay;
