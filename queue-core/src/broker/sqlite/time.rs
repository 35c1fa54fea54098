//! The work that is due by the clock: delayed jobs fall due, messages and unused queues expire, what was kept is pruned.

use std::time::Duration;

use rusqlite::{OptionalExtension as _, params};

use super::deadlines::Deadlines;
use super::ids::QueueId;
use super::row::{self, micros, moment};
use super::schema;
use super::state::State;
use crate::broker::amqp::{self, DeathReason, Delayed};
use crate::topology::Route;

/// How many rows one transaction moves by the clock, so that none takes long.
const STEP: i64 = 500;
/// The value of `auto_vacuum` in a file that can give pages back on request.
const INCREMENTAL: i64 = 2;
/// How late it may be seen that others have stopped using a queue.
const UNUSED: Duration = Duration::from_secs(1);

impl State {
    /// Lets everything happen that is due.
    pub(super) fn catch_up(&mut self) -> rusqlite::Result<()> {
        if !self.deadlines.is_known {
            self.read_deadlines()?;
        }
        let now = self.now_micros();
        if Deadlines::has_come(self.deadlines.due, now) {
            self.let_fall_due(now)?;
        }
        self.deadlines.has_overdue = false;
        if Deadlines::has_come(self.deadlines.expiry, now) {
            self.drop_expired(now)?;
        }
        if Deadlines::has_come(self.deadlines.unused, now) {
            self.drop_unused(now)?;
        }
        if Deadlines::has_come(self.deadlines.prune, now) {
            self.prune(now)?;
        }
        self.bury()
    }

    /// True if messages that are over their time could be claimed, because more of them lie there than one step takes.
    pub(super) fn has_overdue(&self) -> bool {
        self.deadlines.has_overdue
    }

    pub(super) fn read_deadlines(&mut self) -> rusqlite::Result<()> {
        self.deadlines.due = self.first("SELECT min(due) FROM leveret_delayed")?;
        self.deadlines.expiry =
            self.first("SELECT min(expires) FROM leveret_job WHERE expires IS NOT NULL AND client IS NULL")?;
        self.read_prune()?;
        self.read_unused()?;
        self.deadlines.is_known = true;
        Ok(())
    }

    /// Reads when the next unused queue is deleted. What others do is looked at once in a while: thousands of such queues
    /// would cost each job of theirs a look at all.
    fn read_unused(&mut self) -> rusqlite::Result<()> {
        if self.expiring.is_empty() {
            self.deadlines.unused = None;
            return Ok(());
        }
        let now = micros(self.setup.clock.now());
        let again = self.deadlines.unused_read_at.map(|at| at.saturating_add(UNUSED.as_micros() as i64));
        // A clock that is set back is no reason to wait.
        if let Some(again) = again
            && now < again
            && self.deadlines.unused_read_at <= Some(now)
        {
            self.deadlines.unused = [self.deadlines.unused, Some(again)].into_iter().flatten().min();
            return Ok(());
        }
        let at = self.expiring.iter().map(|id| self.unused_until(*id));
        let at = at.collect::<rusqlite::Result<Vec<_>>>()?;
        self.deadlines.unused = at.into_iter().flatten().min();
        self.deadlines.unused_read_at = Some(now);
        Ok(())
    }

    fn first(&self, sql: &str) -> rusqlite::Result<Option<i64>> {
        self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
    }

    fn let_fall_due(&mut self, now: i64) -> rusqlite::Result<()> {
        let mut select = self.connection.prepare_cached(&self.sql.due)?;
        let mut rows = select.query(params![now, STEP])?;
        let mut due = Vec::new();
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let queue = row::text(row, 1)?.unwrap_or_default();
            let exchange = row::text(row, 2)?;
            let routing_key = row::text(row, 3)?.unwrap_or_default();
            let unroutable = row::text(row, 4)?;
            let envelope = row::read(row, 5)?;
            let delayed = match exchange {
                Some(exchange) => Delayed::Dead {
                    queue: queue.into(),
                    route: Route { exchange: exchange.into(), routing_key: routing_key.into() },
                    envelope,
                },
                None => Delayed::Job {
                    target: queue.into(),
                    envelope,
                    unroutable: unroutable.map_or_else(|| self.unroutable.clone(), Into::into),
                },
            };
            due.push((id, delayed));
        }
        drop(rows);
        drop(select);
        for (id, delayed) in due {
            self.connection
                .prepare_cached("DELETE FROM leveret_delayed WHERE delayed = ?1")?
                .execute([id])?;
            amqp::fall_due(self, delayed)?;
        }
        self.deadlines.due = self.first("SELECT min(due) FROM leveret_delayed")?;
        Ok(())
    }

    /// Drops what is over its time, wherever it stands in its queue.
    fn drop_expired(&mut self, now: i64) -> rusqlite::Result<()> {
        let mut select = self.connection.prepare_cached(
            "SELECT job FROM leveret_job WHERE expires IS NOT NULL AND client IS NULL AND expires <= ?1 \
             ORDER BY expires, job LIMIT ?2",
        )?;
        let jobs: Vec<i64> =
            select.query_map(params![now, STEP], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        drop(select);
        for job in jobs {
            self.die(job, DeathReason::Expired)?;
        }
        self.deadlines.expiry =
            self.first("SELECT min(expires) FROM leveret_job WHERE expires IS NOT NULL AND client IS NULL")?;
        self.deadlines.has_overdue = Deadlines::has_come(self.deadlines.expiry, now);
        Ok(())
    }

    /// The moment at which a queue is deleted if it is unused until then.
    fn unused_until(&self, id: QueueId) -> rusqlite::Result<Option<i64>> {
        let Some(queue) = self.queues.get(&id) else { return Ok(None) };
        let Some(expires) = queue.rules.expires else { return Ok(None) };
        if self.lines.contains_key(&queue.name) {
            return Ok(None);
        }
        let since: Option<i64> = self
            .connection
            .prepare_cached(
                "SELECT unused_since FROM leveret_queue AS queue WHERE queue = ?1 AND NOT EXISTS \
                 (SELECT 1 FROM leveret_consumer AS consumer WHERE consumer.queue = queue.name)",
            )?
            .query_row([id], |row| row.get(0))
            .optional()?;
        Ok(since.and_then(|since| moment(since).checked_add(expires)).map(micros))
    }

    fn drop_unused(&mut self, now: i64) -> rusqlite::Result<()> {
        for id in self.expiring.iter().copied().collect::<Vec<_>>() {
            if Deadlines::has_come(self.unused_until(id)?, now) {
                if let Some(queue) = self.queues.get(&id) {
                    let queue = &*queue.name;
                    tracing::info!(queue, "queue was unused and is deleted, as its `x-expires` says");
                }
                self.remove_queue(id)?;
            }
        }
        self.deadlines.forget_unused();
        self.read_deadlines()
    }

    fn prune(&mut self, now: i64) -> rusqlite::Result<()> {
        let pruned = self
            .connection
            .prepare_cached(
                "DELETE FROM leveret_finished WHERE finished IN \
                 (SELECT finished FROM leveret_finished WHERE until <= ?1 ORDER BY until LIMIT ?2)",
            )?
            .execute(params![now, STEP])?;
        tracing::debug!(pruned, "pruned finished jobs");
        self.read_prune()
    }

    fn read_prune(&mut self) -> rusqlite::Result<()> {
        self.deadlines.prune = None;
        if let Some(until) = self.first("SELECT min(until) FROM leveret_finished")? {
            self.deadlines.prune_after(until);
        }
        Ok(())
    }

    /// Gives some free pages back to the disk, if there are more than `spare`, and says whether it did: the file itself
    /// becomes smaller when the log is moved into it. A file that was made by another program may not know how; it does
    /// not grow for that, since free pages are used again.
    pub(super) fn shrink(&mut self, spare: i64) -> rusqlite::Result<bool> {
        if schema::pragma(&self.connection, "freelist_count")? <= spare
            || schema::pragma(&self.connection, "auto_vacuum")? != INCREMENTAL
        {
            return Ok(false);
        }
        // Each row that it yields is a page less; all of them are asked for.
        let mut vacuum = self.connection.prepare("PRAGMA incremental_vacuum(256)")?;
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
        Ok(true)
    }
}
