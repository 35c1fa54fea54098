//! The broker, as the rest of Leveret sees it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connection::closing::Closing;
use super::connection::dial::Dialer;
use super::connection::runtime::{OwnRuntime, Tasks, on};
use super::consume::consumer::{self, Consuming};
use super::consume::router::{DueRouter, NeedsRouter};
use super::declare::declaring::Declarer;
use super::operate::channels::Channels;
use super::operate::process::Process;
use super::operate::walk::Walking;
use super::publish::publishing::Publishing;
use super::supervise::session::State;
use super::topology::suspects;
use crate::broker::amqp::{check_publish, check_queue};
use crate::broker::reply::is_request;
use crate::broker::{
    Broker, BrokerInfo, ConsumeOptions, Consumer, DIRECT_REPLY_TO, Health, Liveness, Operator, Publish,
};
use crate::error::{PublishError, Result, chain};
use crate::topology::{QueueDecl, Topology};

/// The longest that [`Broker::close`] may take.
const CLOSE: Duration = Duration::from_secs(10);

/// The broker. Dropping it ends everything that runs for it.
pub(super) struct RabbitMq {
    pub(super) dialer: Arc<Dialer>,
    /// The connection that is published on.
    pub(super) connection: watch::Receiver<State>,
    pub(super) publishing: Arc<Publishing>,
    pub(super) declarer: Arc<Declarer>,
    pub(super) consuming: Arc<Consuming>,
    pub(super) router: Arc<DueRouter>,
    pub(super) channels: Channels,
    pub(super) walking: Arc<Walking>,
    pub(super) process: Arc<Process>,
    pub(super) closing: Closing,
    /// These feed consumers, or are to end before the connections do for another reason.
    pub(super) tasks: Arc<Tasks>,
    /// These keep connections.
    pub(super) keep_connections: Arc<Tasks>,
    pub(super) publisher_done: CancellationToken,
    pub(super) _runtime: OwnRuntime,
}

impl fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RabbitMq").field(&self.dialer.target).finish()
    }
}

#[async_trait]
impl Broker for RabbitMq {
    fn info(&self) -> BrokerInfo {
        let state = self.connection.borrow();
        let health = match (&state.session, &state.blocked, &state.down) {
            (Some(_), Some(reason), _) => Health::Blocked(reason.clone()),
            (Some(_), None, _) => Health::Up,
            (None, _, Some(error)) => Health::Down(chain(&**error)),
            (None, _, None) => Health::Down("not connected".to_owned()),
        };
        BrokerInfo { health, ..BrokerInfo::new("rabbitmq") }
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        self.declarer.declare(topology.clone()).await
    }

    async fn publish(&self, publish: Publish) -> Result<(), PublishError> {
        self.publishing.publish(publish).await
    }

    async fn request(&self, publish: Publish) -> Result<(), PublishError> {
        if publish.not_before.is_some() || !is_request(&publish.envelope) {
            return self.publish(publish).await;
        }
        check_publish(&publish)?;
        self.publishing.publisher_of(&publish)?.request(publish).await
    }

    async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Result<(), PublishError>> {
        self.publishing.publish_all(publishes).await
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer> {
        self.closing.ensure_open()?;
        check_queue(&options.queue)?;
        if options.queue == DIRECT_REPLY_TO {
            return self.publishing.consume_replies().await;
        }
        self.publishing.ladder.ensure().await?;
        if options.home.is_none() && self.declarer.exact.is_possible() {
            let (declarer, queue, limit) =
                (self.declarer.clone(), options.queue.clone(), options.crash_limit);
            let closed = self.closing.closed.clone();
            // Nothing waits for it, not even `close`.
            self.tasks.handle().spawn(async move {
                tokio::select! {
                    () = closed.cancelled() => {}
                    () = declarer.exact.tell_of_low_limit(queue, limit) => {}
                }
            });
        }
        let router = NeedsRouter::new(&self.router);
        consumer::start(self.consuming.clone(), options, Some(Box::new(router))).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(self)
    }

    fn liveness(&self) -> Option<&dyn Liveness> {
        Some(&*self.process)
    }

    fn suspects_of(&self, queue: &str) -> Option<QueueDecl> {
        Some(suspects::decl(queue))
    }

    async fn close(&self) {
        let (closing, tasks, keep_connections) =
            (self.closing.clone(), self.tasks.clone(), self.keep_connections.clone());
        let published = self.publisher_done.clone();
        let closes = async move {
            closing.closed.cancel();
            // Consumers give back deliveries that were not taken, and the publisher receives its last confirms.
            let flushing = async { tokio::join!(published.cancelled(), tasks.wait()) };
            let _ = tokio::time::timeout(CLOSE - Duration::from_secs(3), flushing).await;
            closing.flushed.cancel();
            let _ = tokio::time::timeout(Duration::from_secs(3), keep_connections.wait()).await;
        };
        on(self.tasks.handle(), closes).await;
    }
}
