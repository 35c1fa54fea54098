//! The memory broker answers operators.

use async_trait::async_trait;

use super::MemoryBroker;
use super::walk::MemoryWalk;
use crate::broker::{Abilities, FoundDelayed, Mark, Operator, QueueStats, Walk};
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

    async fn delayed(&self, queue: &str, after: Option<Mark>, count: u16) -> Result<Vec<FoundDelayed>> {
        self.look(|state| {
            state.ready(self.client, queue)?;
            let mut all: Vec<_> =
                state.delayed.jobs(queue).filter(|(mark, ..)| Some(*mark) > after).collect();
            all.sort_unstable_by_key(|(mark, ..)| *mark);
            let found = all.into_iter().take(count.into());
            Ok(found.map(|(mark, due, job)| FoundDelayed::new(mark, due, job.clone())).collect())
        })?
    }

    async fn walk<'a>(&'a self, queue: &str) -> Result<Box<dyn Walk + 'a>> {
        self.look(|state| state.ready(self.client, queue).map(drop))??;
        Ok(Box::new(MemoryWalk::new(self, queue)))
    }
}
