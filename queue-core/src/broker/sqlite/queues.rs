//! Messages in rows: how the rules of AMQP (`amqp::flow`) put them into queues, and let them wait and die.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::{OptionalExtension as _, ToSql};

use super::ids::QueueId;
use super::row::{self, Values, micros, micros_after};
use super::state::State;
use crate::broker::amqp::{
    self, Death, DeathReason, Delayed, Message, Overflowing, Published, QueueRules, Queues,
};
use crate::broker::missing::Complaints;
use crate::broker::reply;
use crate::error::PublishError;
use crate::routing::Exchanges;
use crate::topology::{self, Name};

impl Queues for State {
    type Queue = QueueId;
    type Fault = rusqlite::Error;

    fn now(&self) -> SystemTime {
        self.now
    }

    fn exchanges(&self) -> &Exchanges<QueueId> {
        &self.exchanges
    }

    fn find(&self, name: &str) -> Option<QueueId> {
        self.names.get(name).copied()
    }

    fn describe(&self, queue: QueueId) -> Option<(Arc<str>, &QueueRules)> {
        self.queues.get(&queue).map(|queue| (queue.name.clone(), &queue.rules))
    }

    fn refuses(&mut self, queue: QueueId, bytes: usize) -> rusqlite::Result<bool> {
        let Some(found) = self.queues.get(&queue) else { return Ok(false) };
        if found.rules.overflow == Overflowing::DropHead || !found.rules.is_limited() {
            return Ok(false);
        }
        let Some(queue) = self.counted(queue)? else { return Ok(false) };
        Ok(queue.rules.is_over(count(queue.ready) + 1, count(queue.bytes) + bytes as u64))
    }

    fn enqueue(&mut self, id: QueueId, message: &Arc<Message>) -> rusqlite::Result<()> {
        let job = self.next();
        let Some(queue) = self.queues.get(&id) else { return Ok(()) };
        let Message { envelope, exchange, routing_key } = &**message;
        let level = queue.rules.level(envelope.priority);
        let expires = queue
            .rules
            .time_to_live(envelope.expiration)
            .and_then(|ttl| self.now.checked_add(ttl))
            .map(micros_after);
        let exchange = (!exchange.is_empty()).then_some(&**exchange);
        let routing_key = (exchange.is_some() || *queue.name != **routing_key).then_some(&**routing_key);
        let values = Values::new(envelope);
        let place: [&dyn ToSql; 7] = [&job, &id, &level, &0_i64, &expires, &exchange, &routing_key];
        let mut insert = self.connection.prepare_cached(&self.sql.insert_job)?;
        bind(&mut insert, &place, &values.as_params())?;
        insert.raw_execute()?;
        drop(insert);
        if let Some(expires) = expires {
            self.deadlines.expiry_at(expires);
        }
        self.count(id, 1, i64::try_from(envelope.payload.len()).unwrap_or(i64::MAX))?;
        self.drop_overflow(id)
    }

    fn delay(&mut self, due: SystemTime, delayed: Delayed) -> rusqlite::Result<()> {
        let due = micros_after(due);
        let id = self.next();
        let (queue, exchange, routing_key, unroutable, envelope) = match &delayed {
            Delayed::Job { target, envelope, unroutable } => {
                (target, None, None, Some(&**unroutable), envelope)
            }
            Delayed::Dead { queue, route, envelope } => {
                (queue, Some(&*route.exchange), Some(&*route.routing_key), None, envelope)
            }
        };
        let values = Values::new(envelope);
        let queue = &**queue;
        let place: [&dyn ToSql; 6] = [&id, &due, &queue, &exchange, &routing_key, &unroutable];
        let mut insert = self.connection.prepare_cached(&self.sql.insert_delayed)?;
        bind(&mut insert, &place, &values.as_params())?;
        insert.raw_execute()?;
        drop(insert);
        self.deadlines.due_at(due);
        Ok(())
    }

    fn wait_again(&mut self, delayed: Delayed, pause: Duration) -> rusqlite::Result<()> {
        let due = self.now + pause;
        self.delay(due, delayed)
    }

    fn unroutable(&mut self, name: &Name) -> rusqlite::Result<Option<QueueId>> {
        if let Some(id) = self.names.get(&**name) {
            return Ok(Some(*id));
        }
        let decl = topology::unroutable(name.clone());
        match QueueRules::read(&decl) {
            Ok(rules) => self.add_queue(decl, rules, None).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn deaths(&mut self) -> &mut VecDeque<Death> {
        &mut self.deaths
    }

    fn complaints(&mut self) -> &mut Complaints {
        &mut self.complaints
    }
}

pub(super) fn bind(
    statement: &mut rusqlite::CachedStatement<'_>,
    place: &[&dyn ToSql],
    values: &[&dyn ToSql],
) -> rusqlite::Result<()> {
    for (at, value) in place.iter().chain(values).enumerate() {
        statement.raw_bind_parameter(at + 1, value)?;
    }
    Ok(())
}

/// A count of the file. Only a change by hand can have made it negative.
fn count(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

impl State {
    pub(super) fn publish(&mut self, publish: &Published) -> rusqlite::Result<Result<(), PublishError>> {
        let Message { envelope, exchange, routing_key } = &*publish.message;
        if reply::is_request(envelope) {
            let mut addressed = publish.clone();
            let request = &mut Arc::make_mut(&mut addressed.message).envelope;
            return match self.address_request(request) {
                Ok(()) => amqp::publish(self, &addressed, |state| state.unroutable.clone()),
                Err(error) => Ok(Err(error)),
            };
        }
        if exchange.is_empty() && publish.not_before.is_none() && reply::is_address(routing_key) {
            let is_there = self.hand_reply(routing_key, envelope)?;
            return Ok(if is_there || !publish.mandatory {
                Ok(())
            } else {
                Err(amqp::nothing_bound(exchange, routing_key))
            });
        }
        amqp::publish(self, publish, |state| state.unroutable.clone())
    }

    /// The oldest messages make room, if there are more than the queue keeps.
    pub(super) fn drop_overflow(&mut self, id: QueueId) -> rusqlite::Result<()> {
        let is_limited = |rules: &QueueRules| rules.overflow == Overflowing::DropHead && rules.is_limited();
        if !self.queues.get(&id).is_some_and(|queue| is_limited(&queue.rules)) {
            return Ok(());
        }
        while let Some(queue) = self.counted(id)?
            && queue.rules.is_over(count(queue.ready), count(queue.bytes))
        {
            let head: Option<i64> = self
                .connection
                .prepare_cached(
                    "SELECT job FROM leveret_job WHERE queue = ?1 AND client IS NULL ORDER BY level DESC, job LIMIT 1",
                )?
                .query_row([id], |row| row.get(0))
                .optional()?;
            match head {
                Some(job) => self.die(job, DeathReason::MaxLength)?,
                // Rows were deleted by hand.
                None => {
                    self.recount(id)?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes a job out of its queue, ready or not, because it dies there.
    pub(super) fn die(&mut self, job: i64, reason: DeathReason) -> rusqlite::Result<()> {
        let found = self
            .connection
            .prepare_cached(&self.sql.job)?
            .query_row([job], |row| {
                let (queue, client): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
                Ok((queue, client, row::text(row, 2)?, row::text(row, 3)?, row::read(row, 4)?))
            })
            .optional()?;
        let Some((queue, client, exchange, routing_key, envelope)) = found else { return Ok(()) };
        self.connection.prepare_cached("DELETE FROM leveret_job WHERE job = ?1")?.execute([job])?;
        if client.is_none() {
            let bytes = i64::try_from(envelope.payload.len()).unwrap_or(i64::MAX);
            self.count(queue, -1, -bytes)?;
        }
        let Some(name) = self.queues.get(&queue).map(|queue| queue.name.to_string()) else { return Ok(()) };
        let message = Message {
            envelope,
            exchange: exchange.unwrap_or_default().into(),
            routing_key: routing_key.unwrap_or(name).into(),
        };
        amqp::dies(self, queue, reason, Arc::new(message));
        Ok(())
    }

    /// Puts a job back to where it stood. Calls for `bury`.
    pub(super) fn put_back(&mut self, queue: QueueId, job: i64, bytes: i64) -> rusqlite::Result<()> {
        let update = "UPDATE leveret_job SET client = NULL, returns = returns + 1, given_back = given_back + 1, \
                      headers = coalesce(unmarked, headers), unmarked = NULL WHERE job = ?1";
        self.return_to(queue, job, bytes, update)
    }

    /// Puts a job back whose holder was lost, for the `losses`th time, unless that has happened too often. Calls for `bury`.
    pub(super) fn put_back_lost(
        &mut self,
        queue: QueueId,
        job: i64,
        losses: i64,
        bytes: i64,
    ) -> rusqlite::Result<()> {
        let Some(rules) = self.queues.get(&queue).map(|queue| &queue.rules) else { return Ok(()) };
        if rules.is_lost_too_often(count(losses)) {
            return self.die(job, DeathReason::DeliveryLimit);
        }
        // A mark stays, and is part of the job for its next holder.
        let update =
            "UPDATE leveret_job SET client = NULL, returns = returns + 1, unmarked = NULL WHERE job = ?1";
        self.return_to(queue, job, bytes, update)
    }

    /// Makes a claimed job ready again, by `update`.
    fn return_to(&mut self, queue: QueueId, job: i64, bytes: i64, update: &str) -> rusqlite::Result<()> {
        if !self.queues.contains_key(&queue) {
            return Ok(());
        }
        self.connection.prepare_cached(update)?.execute([job])?;
        self.deadlines.forget();
        self.count(queue, 1, bytes)?;
        self.drop_overflow(queue)
    }

    pub(super) fn bury(&mut self) -> rusqlite::Result<()> {
        if self.deaths.is_empty() { Ok(()) } else { amqp::bury(self) }
    }

    pub(super) fn now_micros(&self) -> i64 {
        micros(self.now)
    }
}
