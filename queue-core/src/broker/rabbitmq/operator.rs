//! What an operator asks of this broker, each time on the connection aside.

use async_trait::async_trait;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions};

use super::broker::RabbitMq;
use super::convert::short;
use super::runtime::on;
use super::walk::RabbitWalk;
use super::{declare, fault};
use crate::broker::{Abilities, Operator, QueueStats, Walk, amqp};
use crate::error::{Error, Result};
use crate::topology::Name;

#[async_trait]
impl Operator for RabbitMq {
    fn abilities(&self) -> Abilities {
        Abilities { lists_queues: self.core.exact.is_possible(), ..Abilities::default() }
    }

    async fn queues(&self) -> Result<Vec<String>> {
        self.core.ensure_open()?;
        let core = self.core.clone();
        on(&self.core.handle, async move { core.exact.queues().await }).await
    }

    async fn inspect(&self, queue: &str) -> Result<QueueStats> {
        self.core.ensure_open()?;
        amqp::check_queue(queue)?;
        let (core, queue) = (self.core.clone(), queue.to_owned());
        on(&self.core.handle, async move {
            core.on_queue(core.shared.declared.is_exclusive(&queue), async |channel| {
                let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let found = channel.queue_declare(short(&queue), options, Default::default()).await;
                let found = found.map_err(|error| refusal(&queue, &error))?;
                let consumers = found.consumer_count().into();
                Ok(QueueStats::new(found.message_count().into(), None, consumers))
            })
            .await
        })
        .await
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        self.core.ensure_open()?;
        amqp::check_queue(queue)?;
        let (core, queue) = (self.core.clone(), queue.to_owned());
        on(&self.core.handle, async move {
            core.on_queue(core.shared.declared.is_exclusive(&queue), async |channel| {
                let purged = channel.queue_purge(short(&queue), QueuePurgeOptions::default()).await;
                purged.map(u64::from).map_err(|error| refusal(&queue, &error))
            })
            .await
        })
        .await
    }

    async fn delete(&self, queue: &str) -> Result<()> {
        self.core.ensure_open()?;
        amqp::check_queue(queue)?;
        let (core, queue) = (self.core.clone(), queue.to_owned());
        on(&self.core.handle, async move {
            let is_exclusive = core.shared.declared.is_exclusive(&queue);
            // First, or a reconnect in between would declare it again.
            core.shared.declared.forget(&queue);
            core.on_queue(is_exclusive, async |channel| {
                // RabbitMQ says ok to the deletion of a queue that does not exist.
                let deleted = channel.queue_delete(short(&queue), QueueDeleteOptions::default()).await;
                deleted.map(drop).map_err(|error| refusal(&queue, &error))
            })
            .await
        })
        .await
    }

    async fn walk<'a>(&'a self, queue: &str) -> Result<Box<dyn Walk + 'a>> {
        self.core.ensure_open()?;
        amqp::check_queue(queue)?;
        let (core, queue) = (self.core.clone(), Name::Owned(queue.to_owned()));
        let walk = on(&self.core.handle, async move { RabbitWalk::begin(core, queue).await }).await?;
        Ok(Box::new(walk))
    }
}

/// What the server's refusal means for an operator, to whom it is an answer that a queue does not exist.
pub(super) fn refusal(queue: &str, error: &lapin::Error) -> Error {
    match fault::protocol(error) {
        Some((fault::code::NOT_FOUND, _)) => amqp::queue_not_found(queue).with_source(fault::words(error)),
        _ => declare::refusal("queue", queue, error),
    }
}
