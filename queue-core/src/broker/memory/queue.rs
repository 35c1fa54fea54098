//! One queue: what waits in it, what is out for delivery, and whose turn it is.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use super::consumer::Consumers;
use super::ids::{ClientId, ConsumerId, QueueId};
use super::ready::{Entry, Ready};
use super::settler::Ticket;
use crate::broker::amqp::{Message, Overflowing, QueueRules};
use crate::broker::{Delivery, QueueStats, Returns};
use crate::topology::{Name, QueueDecl, QueueType};

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: Arc<str>,
    pub(super) decl: QueueDecl,
    pub(super) rules: QueueRules,
    /// The owner of an exclusive queue.
    pub(super) owner: Option<ClientId>,
    pub(super) ready: Ready,
    /// Unsettled deliveries, by delivery tag.
    pub(super) held: HashMap<u64, Held>,
    /// The consumers that can take one more, the next one first.
    turn: VecDeque<ConsumerId>,
    /// How many consumers it has, with and without room.
    pub(super) consumers: u64,
    /// Since when it has had no consumer.
    pub(super) unused_since: SystemTime,
    /// When the state will next look at this queue by itself.
    pub(super) alarm: Option<SystemTime>,
}

/// A message out for delivery.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) entry: Entry,
    pub(super) client: ClientId,
    /// The message as it was before its holder marked it.
    pub(super) unmarked: Option<Arc<Message>>,
}

impl Queue {
    pub(super) fn new(decl: QueueDecl, rules: QueueRules, owner: Option<ClientId>, now: SystemTime) -> Self {
        Self {
            name: Arc::from(&*decl.name),
            ready: Ready::new(rules.top_level),
            decl,
            rules,
            owner,
            held: HashMap::new(),
            turn: VecDeque::new(),
            consumers: 0,
            unused_since: now,
            alarm: None,
        }
    }

    pub(super) fn stats(&self) -> QueueStats {
        QueueStats::new(self.ready.len(), Some(self.held.len() as u64), self.consumers)
    }

    /// True if a publisher of one more message of this size is refused.
    pub(super) fn refuses(&self, bytes: usize) -> bool {
        self.rules.overflow != Overflowing::DropHead
            && self.rules.is_over(self.ready.len() + 1, self.ready.bytes() + bytes as u64)
    }

    /// The oldest message, if there are more than the queue keeps.
    pub(super) fn pop_overflow(&mut self) -> Option<Entry> {
        let over = self.rules.overflow == Overflowing::DropHead
            && self.rules.is_over(self.ready.len(), self.ready.bytes());
        if over { self.ready.pop() } else { None }
    }

    /// When something happens here by itself: a message expires, or the unused queue.
    pub(super) fn next_alarm(&self) -> Option<SystemTime> {
        let unused = self.unused_until();
        let message = self.ready.next_expiry();
        [unused, message].into_iter().flatten().min()
    }

    /// The moment at which the queue is deleted if it is unused until then.
    pub(super) fn unused_until(&self) -> Option<SystemTime> {
        let expires = self.rules.expires.filter(|_| self.consumers == 0)?;
        self.unused_since.checked_add(expires)
    }

    pub(super) fn join(&mut self, consumer: ConsumerId) {
        self.turn.push_back(consumer);
    }

    pub(super) fn leave(&mut self, consumer: ConsumerId, now: SystemTime) {
        self.turn.retain(|other| *other != consumer);
        self.consumers -= 1;
        self.unused_since = now;
    }

    /// Hands one message to the consumer whose turn it is. Whether there were both, so that there may be more.
    pub(super) fn dispatch_one(&mut self, id: QueueId, consumers: &mut Consumers) -> bool {
        while self.ready.len() > 0 {
            let Some(consumer_id) = self.turn.pop_front() else { return false };
            let Some(consumer) = consumers.by_id.get_mut(&consumer_id) else { continue };
            consumer.is_in_turn = false;
            // One that has been stopped is taken out by its own task; until then it only loses its turn.
            if consumer.handle.is_stopped() {
                continue;
            }
            let Some(entry) = self.ready.pop() else { return false };
            consumers.tags += 1;
            let ticket = Ticket {
                client: consumer.client,
                consumer: Some(consumer_id),
                queue: id,
                queue_name: self.name.clone(),
                tag: consumers.tags,
                dead_letter: consumer.dead_letter.clone(),
                losses: consumers.losses.count(),
            };
            let settler = ticket.clone().settler(&consumers.deliveries);
            let delivery = delivery(&entry, consumer.queue_name.clone(), self.rules.queue_type, settler);
            self.held.insert(ticket.tag, Held { entry, client: consumer.client, unmarked: None });
            consumer.in_flight += 1;
            match consumer.handle.offer(delivery) {
                Ok(()) if consumer.has_room() => {
                    consumer.is_in_turn = true;
                    self.turn.push_back(consumer_id);
                }
                Ok(()) => {}
                // Dropping it releases it, for which it needs the lock that is held here.
                Err(refused) => consumers.discarded.deliveries.push(*refused),
            }
            return true;
        }
        false
    }
}

/// The consumer's view of a message. The queue keeps the message itself, to put it back unchanged.
pub(super) fn delivery(
    entry: &Entry,
    queue: Name,
    queue_type: QueueType,
    settler: Box<super::settler::MemorySettler>,
) -> Delivery {
    let message = &entry.message;
    let mut envelope = message.envelope.clone();
    if entry.losses > 0 && queue_type == QueueType::Quorum {
        envelope.headers.insert("x-delivery-count", i64::try_from(entry.losses).unwrap_or(i64::MAX));
    }
    let mut delivery = Delivery::new(envelope, queue, settler);
    delivery.exchange = message.exchange.clone().into_owned();
    delivery.routing_key = message.routing_key.clone().into_owned();
    delivery.redelivered = entry.is_redelivered;
    if entry.is_redelivered {
        delivery.returns = Returns::Counted(entry.losses);
    }
    delivery.restore_origin();
    delivery
}
