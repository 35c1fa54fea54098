//! The broker, as the rest of Leveret sees it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::consumer;
use super::core::Core;
use super::router::NeedsRouter;
use super::runtime::{OwnRuntime, on};
use crate::broker::amqp::{check_publish, check_queue};
use crate::broker::reply::is_request;
use crate::broker::{
    Broker, BrokerInfo, ConsumeOptions, Consumer, DIRECT_REPLY_TO, Health, Operator, Publish,
};
use crate::error::{PublishError, Result, chain};
use crate::topology::Topology;

/// The longest that [`Broker::close`] may take.
const CLOSE: Duration = Duration::from_secs(10);

/// The broker. Dropping it ends everything that runs for it.
pub(super) struct RabbitMq {
    pub(super) core: Arc<Core>,
    pub(super) publisher_done: CancellationToken,
    pub(super) _runtime: OwnRuntime,
}

impl fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RabbitMq").field(&self.core.shared.dialer.target).finish()
    }
}

#[async_trait]
impl Broker for RabbitMq {
    fn info(&self) -> BrokerInfo {
        let state = self.core.publishing.borrow();
        let health = match (&state.session, &state.blocked, &state.down) {
            (Some(_), Some(reason), _) => Health::Blocked(reason.clone()),
            (Some(_), None, _) => Health::Up,
            (None, _, Some(error)) => Health::Down(chain(&**error)),
            (None, _, None) => Health::Down("not connected".to_owned()),
        };
        BrokerInfo { health, ..BrokerInfo::new("rabbitmq") }
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        self.core.declare(topology.clone()).await
    }

    async fn publish(&self, publish: Publish) -> Result<(), PublishError> {
        self.core.publish(publish).await
    }

    async fn request(&self, publish: Publish) -> Result<(), PublishError> {
        if publish.not_before.is_some() || !is_request(&publish.envelope) {
            return self.publish(publish).await;
        }
        check_publish(&publish)?;
        self.core.publisher_of(&publish)?.request(publish).await
    }

    async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Result<(), PublishError>> {
        self.core.publish_all(publishes).await
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer> {
        self.core.ensure_open()?;
        check_queue(&options.queue)?;
        if options.queue == DIRECT_REPLY_TO {
            return self.core.consume_replies().await;
        }
        self.core.ensure_ladder().await?;
        let router = NeedsRouter::new(&self.core);
        consumer::start(self.core.clone(), options, Some(Box::new(router))).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(self)
    }

    async fn close(&self) {
        let core = self.core.clone();
        let published = self.publisher_done.clone();
        let closing = async move {
            core.shared.closed.cancel();
            // Consumers give back what nobody took, and the publisher hears its last confirms.
            let flushing = async { tokio::join!(published.cancelled(), core.tasks.wait()) };
            let _ = tokio::time::timeout(CLOSE - Duration::from_secs(3), flushing).await;
            core.shared.flushed.cancel();
            let _ = tokio::time::timeout(Duration::from_secs(3), core.connections.wait()).await;
        };
        on(&self.core.handle, closing).await;
    }
}
