//! The trait of a broker: everything that jobs need.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::consumer::{ConsumeOptions, Consumer};
use super::info::BrokerInfo;
use super::liveness::Liveness;
use super::operator::Operator;
use super::publish::Publish;
use crate::error::{PublishError, Result};
use crate::store::Store;
use crate::topology::{QueueDecl, Topology};

/// A message broker, as jobs need it. [`Operator`] is its side for people and tools. Object safe; clients and workers share it
/// behind an `Arc`.
///
/// All methods may be called at the same time from any task, and are cancel safe in that a dropped future leaves
/// the broker usable; whether a dropped `publish` happened is then unknown.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// The name of this broker, and its state at this moment.
    fn info(&self) -> BrokerInfo;

    /// Declares what is missing and checks what exists. The broker object remembers it, and declares it again after it has
    /// reconnected.
    ///
    /// # Errors
    /// [`Topology`](crate::error::ErrorKind::Topology) where a queue or exchange exists with other settings, or a
    /// passive one does not exist. The message names queue, argument and remedy.
    /// [`Connection`](crate::error::ErrorKind::Connection) where the broker was away for the whole publish timeout.
    async fn declare(&self, topology: &Topology) -> Result<()>;

    /// Publishes one message. `Ok` means that the broker has it, and, if `mandatory`, that it reached a queue.
    ///
    /// # Errors
    /// See [`PublishError`]; only [`Unconfirmed`](PublishError::Unconfirmed) leaves open whether it was kept.
    async fn publish(&self, publish: Publish) -> Result<(), PublishError>;

    /// Publishes a request whose sender waits for the reply by [`DIRECT_REPLY_TO`](super::DIRECT_REPLY_TO). An error means
    /// that no reply will come. `Ok` means that the broker has the request; a broker that would have to wait for a confirm may
    /// return nothing while a reply may come. So callers race this against the reply, and drop it when the reply is there.
    ///
    /// On RabbitMQ the request is sent without a confirm, which would cost a call a tenth of its time. A queue that is
    /// full drops it silently: where that may happen, [publish](Self::publish) the request.
    ///
    /// # Errors
    /// As `publish`.
    async fn request(&self, publish: Publish) -> Result<(), PublishError> {
        self.publish(publish).await
    }

    /// Publishes many, pipelined; the results stand in the order of the messages.
    async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Result<(), PublishError>>;

    /// Begins to consume a queue. The consumer outlives connections: it goes on, with the same prefetch, after
    /// the broker has been away. The replies to this client's own requests are consumed by the name
    /// [`DIRECT_REPLY_TO`](super::DIRECT_REPLY_TO), which says how they differ.
    ///
    /// # Errors
    /// If the queue does not exist or may not be consumed.
    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer>;

    /// The interface for operators. The default is `None`. Callers use
    /// [`Client::operator`](crate::client::Client::operator), which has an error for that.
    fn operator(&self) -> Option<&dyn Operator> {
        None
    }

    /// The store for data beside the jobs, such as the list of workers. The default is `None`. Callers use
    /// [`Client::store`](crate::client::Client::store), which has an error for that. The store is closed
    /// with the broker; it is shared, since heartbeats must not keep a broker open.
    fn store(&self) -> Option<Arc<dyn Store>> {
        None
    }

    /// The interface that tells living processes from those that have ended. The default is `None`: a job whose holders are lost
    /// again and again runs alone, but is never taken for their cause.
    fn liveness(&self) -> Option<&dyn Liveness> {
        None
    }

    /// The queue into which a job of `queue` goes when its holders were lost again and again, so that it runs alone. The default is
    /// `None`: the job stays in its queue, where the broker can [mark](super::Delivery::mark) it.
    fn suspects_of(&self, _queue: &str) -> Option<QueueDecl> {
        None
    }

    /// Ends consumers, flushes what was published, and closes connections, within ten seconds at most.
    /// Afterwards every call fails with `Closed`. Closing twice is fine.
    async fn close(&self);
}
