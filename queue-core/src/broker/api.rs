//! The way of jobs: what every broker must do.

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

/// A message broker, as jobs need it. What people and tools ask of a broker is [`Operator`]. Object safe; shared by clients and workers behind an `Arc`.
///
/// All methods may be called at the same time from any task, and are cancel safe in that a dropped future leaves
/// the broker usable; whether a dropped `publish` happened is then unknown.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// Says which broker this is, and whether it can be talked to at this moment.
    fn info(&self) -> BrokerInfo;

    /// Declares what is missing and checks what is there. Remembered: a broker that comes back without it, or a
    /// new connection, is given it again.
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

    /// Publishes a request whose sender waits for the reply by [`DIRECT_REPLY_TO`](super::DIRECT_REPLY_TO), and meanwhile wants to hear only what
    /// keeps it from coming. `Ok` means that the broker has the request; a broker that would have to ask for that need
    /// not return at all while a reply may come. So this is raced against the reply, and dropped when that is there.
    ///
    /// On RabbitMQ it is sent without a confirm, to wait for which would cost a call a tenth of its time. A queue that is
    /// full refuses it unheard: where that may be, [publish](Self::publish) the request.
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

    /// Gives the interface for operators. The default is `None`: a broker that serves jobs and shows nothing. Callers ask by
    /// [`Client::operator`](crate::client::Client::operator), which has the error for that.
    fn operator(&self) -> Option<&dyn Operator> {
        None
    }

    /// Gives what is remembered beside the jobs, such as who works. The default is `None`: a broker that carries jobs and
    /// remembers nothing. Callers ask by [`Client::store`](crate::client::Client::store), which has the error for that. Closed
    /// with the broker; shared, since heartbeats must not keep a broker open.
    fn store(&self) -> Option<Arc<dyn Store>> {
        None
    }

    /// Gives what tells living processes from those that have ended. The default is `None`: a job whose holders are lost again and
    /// again runs alone, and nobody concludes that it ended them.
    fn liveness(&self) -> Option<&dyn Liveness> {
        None
    }

    /// Says into which queue a job of `queue` goes whose holders were lost again and again, so that it runs alone. The default is
    /// `None`: it stays in its queue, where the broker can [mark](super::Delivery::mark) it.
    fn suspects_of(&self, _queue: &str) -> Option<QueueDecl> {
        None
    }

    /// Ends consumers, flushes what was published, and closes connections, within ten seconds at most.
    /// Afterwards every call fails with `Closed`. Closing twice is fine.
    async fn close(&self);
}
