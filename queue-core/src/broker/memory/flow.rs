//! How messages move: published, routed, put into queues, handed to consumers, dead-lettered.

use std::sync::Arc;

use super::consumer::ClientId;
use super::queue::QueueId;
use super::ready::{Entry, Message};
use super::state::State;
use super::time::Delayed;
use crate::broker::Publish;
use crate::broker::amqp::{self, DeathReason, Overflowing};
use crate::broker::reply;
use crate::envelope::Envelope;
use crate::error::PublishError;
use crate::topology::Route;

/// A message that died in a queue, on its way to the queue's dead-letter exchange.
#[derive(Debug)]
pub(super) struct Death {
    queue: Arc<str>,
    reason: DeathReason,
    message: Arc<Message>,
    /// Where it goes; `None` drops it.
    route: Option<Route>,
    /// Whether it is kept until it can go there.
    is_kept: bool,
}

impl State {
    pub(super) fn publish(&mut self, client: ClientId, publish: Publish) -> Result<(), PublishError> {
        let Publish { route, mut envelope, mandatory, not_before } = publish;
        if reply::is_request(&envelope) {
            self.address_request(client, &mut envelope)?;
        }
        if let Some(due) = not_before {
            if !route.exchange.is_empty() {
                let exchange = &route.exchange;
                return Err(PublishError::Invalid(format!(
                    "a message to exchange `{exchange}` cannot be delayed: delay one to a queue"
                )));
            }
            if due > self.now() {
                let unroutable = self.clients.get(&client).ok_or(PublishError::Closed)?.unroutable();
                self.delay_job(Some(due), Arc::from(&*route.routing_key), envelope, unroutable);
                return Ok(());
            }
        }

        if route.exchange.is_empty() && Self::is_reply_address(&route.routing_key) {
            let is_there = self.hand_reply(&route.routing_key, envelope);
            return if is_there || !mandatory { Ok(()) } else { Err(unroutable(&route)) };
        }

        let (one, mut several) = (self.default_target(&route), Vec::new());
        let targets = match &one {
            Some(queue) => std::slice::from_ref(queue),
            None => {
                let is_there = route.exchange.is_empty()
                    || self.exchanges.route(
                        &route.exchange,
                        &route.routing_key,
                        &envelope.headers,
                        &mut several,
                    );
                if several.is_empty() && (mandatory || !is_there) {
                    return Err(unroutable(&route));
                }
                several.as_slice()
            }
        };
        let message = Message { envelope, exchange: route.exchange, routing_key: route.routing_key };
        let message = Arc::new(message);
        if self.is_refused(targets, &message) {
            return Err(PublishError::QueueFull { routing_key: message.routing_key.clone().into_owned() });
        }
        for queue in targets {
            self.enqueue(*queue, message.clone());
        }
        self.bury();
        Ok(())
    }

    fn default_target(&self, route: &Route) -> Option<QueueId> {
        if route.exchange.is_empty() { self.names.get(&*route.routing_key).copied() } else { None }
    }

    /// Whether one of the queues is at its limit and refuses. Nothing is kept then, in no queue: the publisher will
    /// try again, and the others must not get the message twice.
    fn is_refused(&mut self, targets: &[QueueId], message: &Arc<Message>) -> bool {
        let bytes = message.envelope.payload.len();
        let full = targets.iter().filter(|id| self.queues.get(id).is_some_and(|queue| queue.refuses(bytes)));
        let full: Vec<_> = full.copied().collect();
        for id in &full {
            if let Some(queue) = self.queues.get(id)
                && queue.rules.overflow == Overflowing::RejectAndDeadLetter
            {
                self.deaths.push_back(Death {
                    queue: queue.name.clone(),
                    reason: DeathReason::MaxLength,
                    message: message.clone(),
                    route: queue.rules.dead_letter_route(&message.routing_key),
                    is_kept: false,
                });
            }
        }
        self.bury();
        !full.is_empty()
    }

    /// Puts a message into a queue, behind the others of its level, and lets it go on from there.
    pub(super) fn enqueue(&mut self, id: QueueId, message: Arc<Message>) {
        let position = self.next();
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let time_to_live = queue.rules.time_to_live(message.envelope.expiration);
        let level = queue.rules.level(message.envelope.priority);
        let expires =
            time_to_live.and_then(|ttl| self.replaying.unwrap_or_else(|| self.clock.now()).checked_add(ttl));
        queue.ready.push(Entry { message, position, level, expires, returns: 0 });
        self.flow(id);
    }

    /// Puts a message back to where it stood, unless it has come back too often.
    pub(super) fn put_back(&mut self, id: QueueId, mut entry: Entry) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        entry.returns += 1;
        if queue.rules.is_returned_too_often(entry.returns) {
            self.die(id, DeathReason::DeliveryLimit, entry);
        } else {
            queue.ready.put_back(entry);
        }
    }

    /// After a queue has got messages or room: hands out what it can, drops what is too much or too old, and sees to
    /// it that it is looked at again in time.
    pub(super) fn flow(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        queue.dispatch(id, &mut self.consumers);
        while let Some(entry) = self.queues.get_mut(&id).and_then(|queue| queue.pop_overflow()) {
            self.die(id, DeathReason::MaxLength, entry);
        }
        self.drop_expired(id);
        self.arm(id);
    }

    fn drop_expired(&mut self, id: QueueId) {
        if self.queues.get(&id).is_none_or(|queue| queue.ready.next_expiry().is_none()) {
            return;
        }
        let now = self.now();
        while let Some(entry) = self.queues.get_mut(&id).and_then(|queue| queue.ready.pop_expired(now)) {
            self.die(id, DeathReason::Expired, entry);
        }
    }

    fn die(&mut self, id: QueueId, reason: DeathReason, entry: Entry) {
        let Some(queue) = self.queues.get(&id) else { return };
        self.deaths.push_back(Death {
            queue: queue.name.clone(),
            reason,
            route: queue.rules.dead_letter_route(&entry.message.routing_key),
            message: entry.message,
            is_kept: queue.rules.keeps_dead,
        });
    }

    /// Dead-letters all that has died, also what dies of that. It comes to an end because no message dies in circles.
    pub(super) fn bury(&mut self) {
        while let Some(Death { queue, reason, message, route, is_kept }) = self.deaths.pop_front() {
            let Some(route) = route else {
                tracing::debug!(
                    queue = &*queue,
                    job = message.envelope.id.as_str(),
                    reason = reason.as_str(),
                    "a message died in a queue without dead-letter exchange"
                );
                continue;
            };
            let Message { mut envelope, exchange, routing_key } = Arc::unwrap_or_clone(message);
            amqp::die(&mut envelope, &queue, reason, &exchange, &routing_key, self.now());
            self.dead_letter(queue, route, envelope, is_kept);
        }
    }

    /// Publishes a dead message, as nobody's publisher: where nothing takes it, it is dropped or tried again later.
    pub(super) fn dead_letter(&mut self, queue: Arc<str>, route: Route, envelope: Envelope, is_kept: bool) {
        let mut targets: Vec<_> = self.default_target(&route).into_iter().collect();
        if !route.exchange.is_empty() {
            self.exchanges.route(&route.exchange, &route.routing_key, &envelope.headers, &mut targets);
        }
        let reached = targets.len();
        targets
            .retain(|id| self.queues.get(id).is_some_and(|target| !amqp::is_cycle(&envelope, &target.name)));
        if targets.len() < reached {
            tracing::warn!(
                queue = &*queue,
                job = envelope.id.as_str(),
                "dropped a message that went in circles through dead-letter exchanges"
            );
        }
        let bytes = envelope.payload.len();
        let has_room = |id: &QueueId| self.queues.get(id).is_some_and(|target| !target.refuses(bytes));
        if is_kept && (reached == 0 || !targets.iter().all(has_room)) {
            return self.wait_again(Delayed::Dead { queue, route, envelope });
        }
        targets.retain(has_room);
        if reached == 0 {
            tracing::warn!(
                queue = &*queue,
                job = envelope.id.as_str(),
                exchange = &*route.exchange,
                "dropped a dead message, because its dead-letter exchange leads to no queue"
            );
        }
        let message =
            Arc::new(Message { envelope, exchange: route.exchange, routing_key: route.routing_key });
        for target in targets {
            self.enqueue(target, message.clone());
        }
    }
}

fn unroutable(Route { exchange, routing_key }: &Route) -> PublishError {
    PublishError::Unroutable {
        exchange: exchange.clone().into_owned(),
        routing_key: routing_key.clone().into_owned(),
    }
}
