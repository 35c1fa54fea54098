//! This client's consumers: whose turn it is, and the claims made for them.

use std::sync::Arc;

use rusqlite::{OptionalExtension as _, params};

use super::command::Ticket;
use super::ids::{ConsumerId, QueueId};
use super::row;
use super::state::State;
use super::subscription::{Claim, Subscription};
use crate::topology::QueueType;

/// How many jobs one look at a queue claims at most.
const CLAIM: u32 = 256;

impl State {
    /// Adds a consumer behind the others of its queue.
    pub(super) fn join(&mut self, id: ConsumerId, mut consumer: Subscription) {
        consumer.is_in_turn = true;
        let line = self.lines.entry(Arc::from(&*consumer.queue_name)).or_default();
        line.turn.push_back(id);
        line.members.push(id);
        self.consumers.insert(id, consumer);
    }

    /// Forgets a consumer. What it has not settled it may still settle.
    pub(super) fn leave(&mut self, id: ConsumerId) -> Option<Subscription> {
        let consumer = self.consumers.remove(&id)?;
        if let Some(line) = self.lines.get_mut(&*consumer.queue_name) {
            line.turn.retain(|other| *other != id);
            line.members.retain(|other| *other != id);
            if line.members.is_empty() {
                self.lines.remove(&*consumer.queue_name);
            }
        }
        Some(consumer)
    }

    /// The consumer may have one more, behind the others whose turn it is.
    pub(super) fn release_slot(&mut self, ticket: &Ticket) {
        if ticket.client != self.me {
            return;
        }
        let Some(consumer) = self.consumers.get_mut(&ticket.consumer) else { return };
        consumer.in_flight = consumer.in_flight.saturating_sub(1);
        self.slots.push((ticket.consumer, 1));
        if consumer.is_in_turn || !consumer.has_room() {
            return;
        }
        consumer.is_in_turn = true;
        if let Some(line) = self.lines.get_mut(&*consumer.queue_name) {
            line.turn.push_back(ticket.consumer);
        }
    }

    /// Claims jobs for consumers in turn, as long as there are both. Looks only at queues that this transaction gave jobs
    /// or room, unless others have changed the file: thousands of idle queues cost a job nothing.
    pub(super) fn dispatch(&mut self) -> rusqlite::Result<()> {
        let is_all_known = self.dispatched == self.generation;
        let queues = if is_all_known { self.changed_here() } else { self.claimable()? };
        for queue in queues {
            while self.claim(&queue)? {}
        }
        self.dispatched = self.generation;
        Ok(())
    }

    /// The queues to which this transaction gave a job, or a consumer that can take one.
    fn changed_here(&self) -> Vec<Arc<str>> {
        let changed = self.changed.iter().filter_map(|id| self.queues.get(id)).map(|queue| &queue.name);
        let freed = self.slots.iter().map(|(id, _)| id).chain(&self.joined);
        let freed = freed.filter_map(|id| self.consumers.get(id));
        let freed = freed.filter_map(|consumer| Some(self.lines.get_key_value(&*consumer.queue_name)?.0));
        let mut queues: Vec<_> = changed.chain(freed).cloned().collect();
        // A batch is often for one queue.
        queues.dedup();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// The queues that have both jobs and consumers of ours that can take one. Leaps through the index from one queue that
    /// has jobs to the next, since most have none; where many have, our own are looked through instead.
    pub(super) fn claimable(&self) -> rusqlite::Result<Vec<Arc<str>>> {
        if self.lines.is_empty() {
            return Ok(Vec::new());
        }
        let mut leap = self.connection.prepare_cached(
            "SELECT queue FROM leveret_job WHERE client IS NULL AND queue > ?1 ORDER BY queue LIMIT 1",
        )?;
        let (mut queues, mut at) = (Vec::new(), 0);
        for _ in 0..=self.lines.len() {
            let next: Option<QueueId> = leap.query_row([at], |row| row.get(0)).optional()?;
            let Some(next) = next else { return Ok(queues) };
            at = next;
            let name = self.queues.get(&next).map(|queue| &queue.name);
            if let Some(name) = name
                && self.lines.get(name).is_some_and(|line| !line.turn.is_empty())
            {
                queues.push(name.clone());
            }
        }
        drop(leap);
        let mut has_jobs =
            self.connection.prepare_cached("SELECT 1 FROM leveret_queue WHERE name = ?1 AND ready > 0")?;
        let mut queues = Vec::new();
        for (name, _) in self.lines.iter().filter(|(_, line)| !line.turn.is_empty()) {
            if has_jobs.exists([&**name])? {
                queues.push(name.clone());
            }
        }
        Ok(queues)
    }

    /// Claims some jobs for the consumers of one queue. Returns true if there may be more.
    fn claim(&mut self, name: &Arc<str>) -> rusqlite::Result<bool> {
        let Self { lines, consumers, .. } = &mut *self;
        let Some(line) = lines.get_mut(name) else { return Ok(false) };
        // One that has been stopped is taken out by its own task; until then it only loses its turn.
        line.turn.retain(|id| {
            let Some(consumer) = consumers.get_mut(id) else { return false };
            consumer.is_in_turn = !consumer.handle.is_stopped();
            consumer.is_in_turn
        });
        let room = line.turn.iter().map(|id| consumers[id].prefetch - consumers[id].in_flight).sum::<u32>();
        if room == 0 {
            return Ok(false);
        }
        let Some(id) = self.names.get(name).copied() else { return Ok(false) };
        let me = self.me;
        let Some(queue) = self.counted(id)? else { return Ok(false) };
        if queue.ready == 0 || queue.owner.is_some_and(|owner| owner != me) {
            return Ok(false);
        }
        let is_quorum = queue.rules.queue_type == QueueType::Quorum;
        let wanted = i64::from(room.min(CLAIM)).min(queue.ready);
        let mut claims = self.ready_jobs(id, name, wanted)?;
        if i64::try_from(claims.len()).unwrap_or(0) < wanted {
            // Rows were changed by hand. The file counts.
            self.recount(id)?;
        }
        let is_more = claims.len() == wanted as usize && wanted == i64::from(CLAIM);
        let mut claim_one =
            self.connection.prepare_cached("UPDATE leveret_job SET client = ?1 WHERE job = ?2")?;
        for claim in &mut claims {
            claim_one.execute(params![me, claim.ticket.job])?;
        }
        drop(claim_one);
        for mut claim in claims {
            let Some(line) = self.lines.get_mut(name) else { break };
            let Some(consumer_id) = line.turn.pop_front() else { break };
            let Some(consumer) = self.consumers.get_mut(&consumer_id) else { continue };
            consumer.in_flight += 1;
            self.slots.push((consumer_id, -1));
            consumer.is_in_turn = consumer.has_room();
            if consumer.is_in_turn {
                line.turn.push_back(consumer_id);
            }
            claim.ticket.consumer = consumer_id;
            claim.ticket.dead_letter.clone_from(&consumer.dead_letter);
            if claim.losses > 0 && is_quorum {
                claim.envelope.headers.insert("x-delivery-count", claim.losses);
            }
            self.count(id, -1, -claim.ticket.bytes)?;
            self.claims.push(claim);
        }
        Ok(is_more)
    }

    /// The next jobs of a queue.
    fn ready_jobs(&self, id: i64, name: &Arc<str>, wanted: i64) -> rusqlite::Result<Vec<Claim>> {
        let mut select = self.connection.prepare_cached(&self.sql.ready_jobs)?;
        let mut rows = select.query(params![id, wanted])?;
        let mut claims = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
        while let Some(row) = rows.next()? {
            let exchange = row::text(row, 2)?.unwrap_or_default();
            let routing_key = row::text(row, 3)?.unwrap_or_else(|| name.to_string());
            let envelope = row::read(row, 5)?;
            let ticket = Ticket {
                client: self.me,
                consumer: 0,
                queue: id,
                queue_name: name.clone(),
                job: row.get(0)?,
                returns: row.get(1)?,
                bytes: i64::try_from(envelope.payload.len()).unwrap_or(i64::MAX),
                dead_letter: None,
            };
            let losses = ticket.returns - row.get::<_, i64>(4)?;
            claims.push(Claim { ticket, losses, envelope, exchange, routing_key });
        }
        Ok(claims)
    }

    /// After a transaction that failed: the slots are as they were before it.
    pub(super) fn restore_slots(&mut self) {
        for (id, change) in std::mem::take(&mut self.slots).into_iter().rev() {
            if let Some(consumer) = self.consumers.get_mut(&id) {
                consumer.in_flight = consumer.in_flight.saturating_add_signed(change);
            }
        }
        for line in self.lines.values_mut() {
            line.turn.clear();
            for id in &line.members {
                let Some(consumer) = self.consumers.get_mut(id) else { continue };
                consumer.is_in_turn = consumer.has_room();
                if consumer.is_in_turn {
                    line.turn.push_back(*id);
                }
            }
        }
    }
}
