//! The trait by which a client reaches what is remembered.

use std::fmt;

use super::registry::Registry;

/// Remembers what concerns all workers and clients of a broker, beside the jobs, which stay with the
/// [`Broker`](crate::broker::Broker). Given by [`Client::store`](crate::client::Client::store).
///
/// `memory:` keeps it in the process, `sqlite:` in the file of the jobs. RabbitMQ has none: AMQP lists no clients, and knows no
/// compare-and-set. Each duty is a trait of its own, and its methods are asynchronous, since a store may be a server.
///
/// ```
/// use queue_core::client::Client;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> queue_core::error::Result<()> {
/// let (one, other) = (Client::connect("memory:shared").await?, Client::connect("memory:shared").await?);
/// // Workers that have one store know of each other.
/// assert_eq!(one.store()?.id(), other.store()?.id());
/// assert_ne!(one.store()?.id(), Client::connect("memory:").await?.store()?.id());
/// # Ok(()) }
/// ```
pub trait Store: fmt::Debug + Send + Sync {
    /// Names what is behind this store: the same for all who share it, and for as long as it keeps anything. No two stores
    /// have the same id, but for copies of one file.
    fn id(&self) -> &str;

    /// Lists who works, and who sends jobs.
    fn registry(&self) -> &dyn Registry;
}
