//! Answers operators: on the control connection, about exclusive queues on the one that consumes, and lists queues by the
//! management API.

use async_trait::async_trait;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions};

use super::broker::RabbitMq;
use super::connection::runtime::on;
use super::message::convert::short;
use super::operate::walk::RabbitWalk;
use super::topology::declare::refusal_to_operator;
use crate::broker::{Abilities, Operator, QueueStats, Walk, amqp};
use crate::error::Result;
use crate::topology::Name;

#[async_trait]
impl Operator for RabbitMq {
    fn abilities(&self) -> Abilities {
        Abilities { lists_queues: self.declarer.exact.is_possible(), ..Abilities::default() }
    }

    async fn queues(&self) -> Result<Vec<String>> {
        self.closing.ensure_open()?;
        let declarer = self.declarer.clone();
        on(self.tasks.handle(), async move { declarer.exact.queues().await }).await
    }

    async fn inspect(&self, queue: &str) -> Result<QueueStats> {
        self.closing.ensure_open()?;
        amqp::check_queue(queue)?;
        let (channels, queue) = (self.channels.clone(), queue.to_owned());
        on(self.tasks.handle(), async move {
            channels
                .on_queue(channels.declared.is_exclusive(&queue), async |channel| {
                    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                    let found = channel.queue_declare(short(&queue), options, Default::default()).await;
                    let found = found.map_err(|error| refusal_to_operator(&queue, &error))?;
                    let consumers = found.consumer_count().into();
                    Ok(QueueStats::new(found.message_count().into(), None, consumers))
                })
                .await
        })
        .await
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        self.closing.ensure_open()?;
        amqp::check_queue(queue)?;
        let (channels, queue) = (self.channels.clone(), queue.to_owned());
        on(self.tasks.handle(), async move {
            channels
                .on_queue(channels.declared.is_exclusive(&queue), async |channel| {
                    let purged = channel.queue_purge(short(&queue), QueuePurgeOptions::default()).await;
                    purged.map(u64::from).map_err(|error| refusal_to_operator(&queue, &error))
                })
                .await
        })
        .await
    }

    async fn delete(&self, queue: &str) -> Result<()> {
        self.closing.ensure_open()?;
        amqp::check_queue(queue)?;
        let (channels, queue) = (self.channels.clone(), queue.to_owned());
        on(self.tasks.handle(), async move {
            let is_exclusive = channels.declared.is_exclusive(&queue);
            // First, or a reconnect in between would declare it again.
            channels.declared.forget(&queue);
            channels
                .on_queue(is_exclusive, async |channel| {
                    // RabbitMQ says ok to the deletion of a queue that does not exist.
                    let deleted = channel.queue_delete(short(&queue), QueueDeleteOptions::default()).await;
                    deleted.map(drop).map_err(|error| refusal_to_operator(&queue, &error))
                })
                .await
        })
        .await
    }

    async fn walk<'a>(&'a self, queue: &str) -> Result<Box<dyn Walk + 'a>> {
        self.closing.ensure_open()?;
        amqp::check_queue(queue)?;
        let (walking, queue) = (self.walking.clone(), Name::Owned(queue.to_owned()));
        let walk = on(self.tasks.handle(), async move { RabbitWalk::begin(walking, queue).await }).await?;
        Ok(Box::new(walk))
    }
}
