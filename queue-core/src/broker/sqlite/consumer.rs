//! This client's consumers: whose turn it is, and the claims made for them.

use std::collections::VecDeque;
use std::sync::Arc;

use rusqlite::params;

use super::command::Ticket;
use super::row;
use super::state::{ConsumerId, State};
use crate::broker::ConsumerHandle;
use crate::envelope::Envelope;
use crate::topology::{Name, QueueType, Route};

/// How many jobs one look at a queue claims at most.
const CLAIM: u32 = 256;

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) handle: ConsumerHandle,
    pub(super) queue_name: Name,
    pub(super) name: Option<String>,
    pub(super) prefetch: u32,
    /// Deliveries not yet settled.
    pub(super) in_flight: u32,
    /// Whether it stands in its queue's line of those who can take one more.
    pub(super) is_in_turn: bool,
    pub(super) dead_letter: Option<Arc<Route>>,
}

impl Subscription {
    pub(super) fn has_room(&self) -> bool {
        self.in_flight < self.prefetch
    }
}

/// The consumers of one queue, by its name: they outlive it, and go on when it is declared again.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) queue: Arc<str>,
    /// Those that can take one more, the next one first.
    pub(super) turn: VecDeque<ConsumerId>,
    /// All of them.
    pub(super) members: Vec<ConsumerId>,
}

/// A job that was claimed for a consumer, to be delivered when the transaction is committed.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) ticket: Ticket,
    pub(super) envelope: Envelope,
    pub(super) exchange: String,
    pub(super) routing_key: String,
}

impl State {
    /// Adds a consumer behind the others of its queue.
    pub(super) fn join(&mut self, id: ConsumerId, mut consumer: Subscription) {
        consumer.is_in_turn = true;
        let at = match self.lines.iter().position(|line| *line.queue == *consumer.queue_name) {
            Some(at) => at,
            None => {
                let queue = Arc::from(&*consumer.queue_name);
                self.lines.push(Line { queue, turn: VecDeque::new(), members: Vec::new() });
                self.lines.len() - 1
            }
        };
        self.lines[at].turn.push_back(id);
        self.lines[at].members.push(id);
        self.consumers.insert(id, consumer);
    }

    /// Forgets a consumer. What it has not settled it may still settle.
    pub(super) fn leave(&mut self, id: ConsumerId) -> Option<Subscription> {
        let consumer = self.consumers.remove(&id)?;
        if let Some(at) = self.lines.iter().position(|line| *line.queue == *consumer.queue_name) {
            self.lines[at].turn.retain(|other| *other != id);
            self.lines[at].members.retain(|other| *other != id);
            if self.lines[at].members.is_empty() {
                self.lines.swap_remove(at);
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
        let line = self.lines.iter_mut().find(|line| *line.queue == *consumer.queue_name);
        if let Some(line) = line {
            line.turn.push_back(ticket.consumer);
        }
    }

    /// Claims jobs for consumers in turn, as long as there are both.
    pub(super) fn dispatch(&mut self) -> rusqlite::Result<()> {
        for at in 0..self.lines.len() {
            while self.claim(at)? {}
        }
        Ok(())
    }

    /// Claims some jobs for one line. Says whether there may be more.
    fn claim(&mut self, at: usize) -> rusqlite::Result<bool> {
        let Self { lines, consumers, .. } = &mut *self;
        let line = &mut lines[at];
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
        let name = line.queue.clone();
        let Some(id) = self.names.get(&name).copied() else { return Ok(false) };
        let me = self.me;
        let Some(queue) = self.counted(id)? else { return Ok(false) };
        if queue.ready == 0 || queue.owner.is_some_and(|owner| owner != me) {
            return Ok(false);
        }
        let is_quorum = queue.rules.queue_type == QueueType::Quorum;
        let wanted = i64::from(room.min(CLAIM)).min(queue.ready);
        let mut claims = self.ready_jobs(id, &name, wanted)?;
        if i64::try_from(claims.len()).unwrap_or(0) < wanted {
            // Somebody changed rows by hand. What is there counts.
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
            let Some(consumer_id) = self.lines[at].turn.pop_front() else { break };
            let Some(consumer) = self.consumers.get_mut(&consumer_id) else { continue };
            consumer.in_flight += 1;
            self.slots.push((consumer_id, -1));
            consumer.is_in_turn = consumer.has_room();
            if consumer.is_in_turn {
                self.lines[at].turn.push_back(consumer_id);
            }
            claim.ticket.consumer = consumer_id;
            claim.ticket.dead_letter.clone_from(&consumer.dead_letter);
            if claim.ticket.returns > 0 && is_quorum {
                claim.envelope.headers.insert("x-delivery-count", claim.ticket.returns);
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
            let envelope = row::read(row, 4)?;
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
            claims.push(Claim { ticket, envelope, exchange, routing_key });
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
        for line in &mut self.lines {
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
