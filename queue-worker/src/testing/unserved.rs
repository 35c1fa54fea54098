//! The memory broker of a test, as its client sees it: it panics at a call that will not be answered, and records the
//! messages published to exchanges, for the test's assertions.
//!
//! A call times out by the clock of the test, which stands still: a call while no jobs are run would wait for ever.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use queue_core::broker::memory::MemoryBroker;
use queue_core::broker::{Broker, BrokerInfo, ConsumeOptions, Consumer, DIRECT_REPLY_TO, Operator, Publish};
use queue_core::envelope::{Envelope, JobId};
use queue_core::error::{PublishError, Result};
use queue_core::topology::{Name, Route, Topology};
use tokio::sync::watch;

/// How long a call waits for jobs to be run, by the real clock. A test that spawns a call and then serves it, or joins both, is
/// much faster.
const PATIENCE: Duration = Duration::from_secs(5);

/// A memory broker whose requests panic while no jobs are run.
#[derive(Debug)]
pub(super) struct Watched {
    broker: Arc<MemoryBroker>,
    /// The number of drains and serves that run jobs at the moment.
    runners: watch::Sender<usize>,
    /// Messages published to exchanges, in their order.
    published: Mutex<Vec<Published>>,
}

/// A message that was published to an exchange.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) exchange: Name,
    pub(super) routing_key: Name,
    pub(super) envelope: Envelope,
}

impl Published {
    /// `None` for a message to a queue.
    fn new(publish: &Publish) -> Option<Self> {
        let Route { exchange, routing_key } = &publish.route;
        (!exchange.is_empty()).then(|| Self {
            exchange: exchange.clone(),
            routing_key: routing_key.clone(),
            envelope: publish.envelope.clone(),
        })
    }
}

/// Marks that jobs are run, until it is dropped.
pub(super) struct Running<'queue>(&'queue watch::Sender<usize>);

impl Watched {
    pub(super) fn new(broker: Arc<MemoryBroker>) -> Self {
        Self { broker, runners: watch::Sender::new(0), published: Mutex::default() }
    }

    /// Marks that jobs are run.
    pub(super) fn running(&self) -> Running<'_> {
        self.runners.send_modify(|runners| *runners += 1);
        Running(&self.runners)
    }

    /// The messages published to exchanges so far.
    pub(super) fn published(&self) -> Vec<Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, published: impl IntoIterator<Item = Published>) {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).extend(published);
    }

    /// Waits until a request has been taken. Its call does not wait for this once the reply is there.
    ///
    /// # Panics
    /// If no jobs are run.
    async fn until_taken(&self, task: &str, request: &JobId) {
        let mut runners = self.runners.subscribe();
        loop {
            // The sender is ours, so that neither wait can fail.
            let _ = runners.wait_for(|runners| *runners == 0).await;
            let somebody = runners.wait_for(|runners| *runners > 0);
            if tokio::time::timeout(PATIENCE, somebody).await.is_ok() {
                continue;
            }
            let is_waiting = self.broker.snapshot().iter().any(|waiting| waiting.envelope.id == *request);
            assert!(
                !is_waiting,
                "task `{task}` was called, and nobody runs jobs: wrap the code that calls it in `queue.serve(..)`"
            );
            return;
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|runners| *runners -= 1);
    }
}

#[async_trait]
impl Broker for Watched {
    fn info(&self) -> BrokerInfo {
        self.broker.info()
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        self.broker.declare(topology).await
    }

    async fn publish(&self, publish: Publish) -> Result<(), PublishError> {
        let request = (publish.envelope.reply_to.as_deref() == Some(DIRECT_REPLY_TO))
            .then(|| (publish.envelope.task.clone().unwrap_or_default(), publish.envelope.id.clone()));
        let published = Published::new(&publish);
        self.broker.publish(publish).await?;
        self.note(published);
        if let Some((task, id)) = request {
            self.until_taken(&task, &id).await;
        }
        Ok(())
    }

    async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Result<(), PublishError>> {
        let published: Vec<_> = publishes.iter().map(Published::new).collect();
        let outcomes = self.broker.publish_all(publishes).await;
        let confirmed = published.into_iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
        self.note(confirmed.filter_map(|(published, _)| published));
        outcomes
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer> {
        self.broker.consume(options).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.broker.operator()
    }

    async fn close(&self) {
        self.broker.close().await;
    }
}
