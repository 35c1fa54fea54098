//! The trait by which a client reaches its broker's store.

use std::fmt;

use super::registry::Registry;

/// Keeps the data that all workers and clients of a broker share, beside the jobs, which stay with the
/// [`Broker`](crate::broker::Broker). Returned by [`Client::store`](crate::client::Client::store).
///
/// `memory:` keeps the store in the process, `sqlite:` in the file of the jobs. RabbitMQ has none: AMQP lists no clients and has
/// no compare-and-set. Each duty is a trait of its own, with asynchronous methods, since a store may be a server.
///
/// ```
/// use leveret::Client;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> leveret::Result<()> {
/// let (one, other) = (Client::connect("memory:shared").await?, Client::connect("memory:shared").await?);
/// // Workers that have one store know of each other.
/// assert_eq!(one.store()?.id(), other.store()?.id());
/// assert_ne!(one.store()?.id(), Client::connect("memory:").await?.store()?.id());
/// # Ok(()) }
/// ```
pub trait Store: fmt::Debug + Send + Sync {
    /// The id of the store: all its users see the same id, for as long as it keeps data. No two stores have one id, except copies
    /// of one file.
    fn id(&self) -> &str;

    /// The list of workers and clients.
    fn registry(&self) -> &dyn Registry;
}
