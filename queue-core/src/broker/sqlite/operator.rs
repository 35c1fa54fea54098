//! The SQLite broker answers operators. Questions are read from the file beside the writer; the writer does what changes it.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _};

use super::SqliteBroker;
use super::command::Command;
use super::ids::{ClientId, QueueId};
use super::walk::{self, SqliteWalk};
use crate::broker::{Abilities, FoundDelayed, Mark, Operator, QueueStats, Walk, amqp, closed};
use crate::error::Result;

#[async_trait]
impl Operator for SqliteBroker {
    fn abilities(&self) -> Abilities {
        Abilities::EMBEDDED
    }

    async fn queues(&self) -> Result<Vec<String>> {
        let names = |reader: &Connection| -> rusqlite::Result<Vec<String>> {
            let mut select =
                reader.prepare_cached("SELECT name FROM leveret_queue WHERE owner IS NULL ORDER BY name")?;
            select.query_map([], |row| row.get(0))?.collect()
        };
        self.reader.read(names).await
    }

    async fn inspect(&self, queue: &str) -> Result<QueueStats> {
        let name = queue.to_owned();
        match self.reader.read(move |reader| inspect(reader, &name)).await? {
            None => Err(amqp::queue_not_found(queue)),
            Some((Some(owner), _)) if owner != self.me => Err(amqp::locked(queue)),
            Some((_, stats)) => Ok(stats),
        }
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        let queue = queue.to_owned();
        self.ask(|reply| Command::Purge { queue, reply }).await.unwrap_or_else(|| Err(closed()))
    }

    async fn delete(&self, queue: &str) -> Result<()> {
        let queue = queue.to_owned();
        self.ask(|reply| Command::Delete { queue, reply }).await.unwrap_or_else(|| Err(closed()))
    }

    async fn delayed(&self, queue: &str, after: Option<Mark>, count: u16) -> Result<Vec<FoundDelayed>> {
        self.shown(queue).await?;
        let name = queue.to_owned();
        self.reader.read(move |reader| walk::delayed(reader, &name, after, count)).await
    }

    async fn walk<'a>(&'a self, queue: &str) -> Result<Box<dyn Walk + 'a>> {
        let id = self.shown(queue).await?;
        Ok(Box::new(SqliteWalk::new(self, id, queue)))
    }
}

impl SqliteBroker {
    /// The queue of this name, if there is one and this client may use it.
    async fn shown(&self, queue: &str) -> Result<QueueId> {
        let name = queue.to_owned();
        let find = move |reader: &Connection| -> rusqlite::Result<Option<(QueueId, Option<ClientId>)>> {
            let mut select =
                reader.prepare_cached("SELECT queue, owner FROM leveret_queue WHERE name = ?1")?;
            select.query_row([name], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        };
        match self.reader.read(find).await? {
            None => Err(amqp::queue_not_found(queue)),
            Some((_, Some(owner))) if owner != self.me => Err(amqp::locked(queue)),
            Some((id, _)) => Ok(id),
        }
    }
}

/// The owner and the depth of a queue.
fn inspect(reader: &Connection, name: &str) -> rusqlite::Result<Option<(Option<ClientId>, QueueStats)>> {
    let count = |count: i64| u64::try_from(count).unwrap_or(0);
    let mut select = reader.prepare_cached(
        "SELECT owner, ready, \
         (SELECT count(*) FROM leveret_job WHERE client IS NOT NULL AND leveret_job.queue = leveret_queue.queue), \
         (SELECT count(*) FROM leveret_delayed WHERE exchange IS NULL AND leveret_delayed.queue = name), \
         (SELECT count(*) FROM leveret_consumer WHERE leveret_consumer.queue = leveret_queue.name) \
         FROM leveret_queue WHERE name = ?1",
    )?;
    let found = select.query_row([name], |row| {
        let (ready, unsettled, delayed, consumers) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        let stats = QueueStats::new(count(ready), Some(count(unsettled)), count(consumers));
        Ok((row.get(0)?, stats.delayed(count(delayed))))
    });
    found.optional()
}
