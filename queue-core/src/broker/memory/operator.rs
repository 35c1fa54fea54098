//! What an operator asks of this broker.

use async_trait::async_trait;

use super::MemoryBroker;
use super::walk::MemoryWalk;
use crate::broker::{Abilities, Operator, QueueStats, Walk};
use crate::error::Result;

#[async_trait]
impl Operator for MemoryBroker {
    fn abilities(&self) -> Abilities {
        Abilities::EMBEDDED
    }

    async fn queues(&self) -> Result<Vec<String>> {
        self.look(|state| state.queue_names())
    }

    async fn inspect(&self, queue: &str) -> Result<QueueStats> {
        self.act(|state| state.inspect(self.client, queue))?
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        self.act(|state| state.purge(self.client, queue))?
    }

    async fn delete(&self, queue: &str) -> Result<()> {
        self.act(|state| state.delete(self.client, queue))?
    }

    async fn walk<'a>(&'a self, queue: &str) -> Result<Box<dyn Walk + 'a>> {
        self.look(|state| state.ready(self.client, queue).map(drop))??;
        Ok(Box::new(MemoryWalk::new(self, queue)))
    }
}
