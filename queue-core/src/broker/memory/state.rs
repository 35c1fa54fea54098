//! Everything a memory broker knows: topology, consumers, settlements. How messages move stands in `flow`, what
//! happens by the clock in `time`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use super::activity::{Activity, Waiting};
use super::consumer::{Consumers, Discarded, Losses, Subscription};
use super::delays::Delays;
use super::ids::{ClientId, ConsumerId, QueueId};
use super::queue::{Held, Queue, delivery};
use super::ready::{Entry, Ready};
use super::reply::Replies;
use super::settler::{Deliveries, Ticket};
use crate::broker::amqp::{
    self, Death, ExchangeStep, ExistingQueue, Plan, Published, QueueRules, QueueStep, Queues as _, Remembered,
};
use crate::broker::missing::Complaints;
use crate::broker::{ConsumeOptions, ConsumerHandle, Delivery, Publish, QueueStats, reply};
use crate::clock::Clock;
use crate::envelope::{HeaderValue, JobId};
use crate::error::{PublishError, Result, SettleError};
use crate::routing::Exchanges;
use crate::topology::{BindingDecl, ExchangeDecl, Namespace, QueueDecl, Route, Topology};

#[derive(Debug)]
pub(super) struct State {
    pub(super) clock: Clock,
    /// While the past is being caught up with, the moment that is being lived through.
    pub(super) replaying: Option<SystemTime>,
    pub(super) exchanges: Exchanges<QueueId>,
    pub(super) names: HashMap<Arc<str>, QueueId>,
    pub(super) queues: HashMap<QueueId, Queue>,
    pub(super) consumers: Consumers,
    pub(super) replies: Replies,
    /// Consumers whose queue is deleted, until it is declared again.
    orphans: HashMap<Arc<str>, Vec<ConsumerId>>,
    /// The clients that are open, with the prefix of their own queues.
    pub(super) clients: HashMap<ClientId, Namespace>,
    remembered: HashMap<ClientId, Remembered>,
    /// Messages that wait for their time outside of any queue.
    pub(super) delayed: Delays,
    /// When each queue is to be looked at.
    pub(super) alarms: BTreeSet<(SystemTime, QueueId)>,
    /// Messages that died and have not been dead-lettered yet; empty whenever the lock is free.
    pub(super) deaths: VecDeque<Death>,
    pub(super) complaints: Complaints,
    /// Numbers clients, consumers, queues and positions.
    pub(super) sequence: u64,
}

impl State {
    pub(super) fn new(clock: Clock, deliveries: Weak<dyn Deliveries>, losses: Arc<Losses>) -> Self {
        let discarded = Discarded::default();
        Self {
            clock,
            replaying: None,
            exchanges: Exchanges::new(),
            names: HashMap::new(),
            queues: HashMap::new(),
            consumers: Consumers { by_id: HashMap::new(), deliveries, tags: 0, losses, discarded },
            replies: Replies::default(),
            orphans: HashMap::new(),
            clients: HashMap::new(),
            remembered: HashMap::new(),
            delayed: Delays::default(),
            alarms: BTreeSet::new(),
            deaths: VecDeque::new(),
            complaints: Complaints::default(),
            sequence: 0,
        }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(super) fn discarded(&mut self) -> Discarded {
        std::mem::take(&mut self.consumers.discarded)
    }

    pub(super) fn open_client(&mut self, namespace: Namespace) -> ClientId {
        let client = self.next();
        self.clients.insert(client, namespace);
        client
    }

    /// Ends a client's consumers, deletes its exclusive queues, and gives back what it has not settled.
    pub(super) fn close_client(&mut self, client: ClientId) {
        if self.clients.remove(&client).is_none() {
            return;
        }
        self.remembered.remove(&client);
        self.consumers.losses.add();
        let theirs = self.consumers.by_id.iter().filter(|(_, consumer)| consumer.client == client);
        for consumer in theirs.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove_consumer(consumer);
        }
        let replies = self.replies.end(client);
        self.consumers.discarded.handles.extend(replies);
        let exclusive = self.queues.iter().filter(|(_, queue)| queue.owner == Some(client));
        for queue in exclusive.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove_queue(queue);
        }
        for id in self.queues.keys().copied().collect::<Vec<_>>() {
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            let mut tags: Vec<_> =
                queue.held.iter().filter(|(_, held)| held.client == client).map(|(tag, _)| *tag).collect();
            tags.sort_unstable();
            for held in tags.into_iter().filter_map(|tag| queue.held.remove(&tag)).collect::<Vec<_>>() {
                self.put_back_lost(id, held.entry);
            }
            self.flow(id);
        }
        self.bury();
    }

    pub(super) fn declare(&mut self, client: ClientId, topology: &Topology) -> Result<()> {
        for exchange in &topology.exchanges {
            self.declare_exchange(exchange)?;
        }
        for queue in &topology.queues {
            self.declare_queue(client, queue)?;
        }
        for binding in &topology.bindings {
            self.bind(client, binding)?;
        }
        for binding in &topology.unbindings {
            let queue = self.accessible(client, &binding.queue)?;
            self.exchanges.unbind(&binding.exchange, queue, &binding.routing_key, &binding.arguments);
        }
        for queue in topology.queues.iter().filter(|queue| queue.exact_bindings) {
            self.unbind_others(client, queue, topology)?;
        }
        self.remembered.entry(client).or_default().add(topology);
        Ok(())
    }

    /// Takes out the bindings of `queue` that `topology` does not make.
    fn unbind_others(&mut self, client: ClientId, queue: &QueueDecl, topology: &Topology) -> Result<()> {
        let id = self.accessible(client, &queue.name)?;
        let others: Vec<_> = self
            .exchanges
            .bindings(id)
            .filter(|(exchange, key, arguments)| !topology.makes(&queue.name, exchange, key, arguments))
            .map(|(exchange, key, arguments)| (exchange.to_owned(), key.to_owned(), arguments.clone()))
            .collect();
        for (exchange, key, arguments) in others {
            self.exchanges.unbind(&exchange, id, &key, &arguments);
        }
        Ok(())
    }

    fn declare_exchange(&mut self, wanted: &ExchangeDecl) -> Result<()> {
        match amqp::declare_exchange(self.exchanges.get(&wanted.name), wanted)? {
            ExchangeStep::Keep => {}
            ExchangeStep::Create => self.exchanges.insert(&wanted.name, wanted.kind, wanted.durable),
        }
        Ok(())
    }

    fn declare_queue(&mut self, client: ClientId, wanted: &QueueDecl) -> Result<()> {
        let now = self.now();
        let mut existing = self.names.get(&*wanted.name).and_then(|id| Some((*id, self.queues.get_mut(id)?)));
        let known = existing.as_ref().map(|(_, queue)| ExistingQueue {
            decl: &queue.decl,
            is_locked: queue.owner.is_some_and(|owner| owner != client),
        });
        match amqp::declare_queue(known, wanted, "memory")? {
            QueueStep::Keep => {}
            QueueStep::Renew => {
                if let Some((id, queue)) = &mut existing {
                    queue.unused_since = now;
                    let id = *id;
                    self.arm(id);
                }
            }
            QueueStep::Create(rules) => {
                self.add_queue(wanted.clone(), rules, wanted.exclusive.then_some(client));
            }
        }
        Ok(())
    }

    /// Adds a queue that does not exist, and gives it the consumers that have been waiting for it.
    pub(super) fn add_queue(
        &mut self,
        decl: QueueDecl,
        rules: QueueRules,
        owner: Option<ClientId>,
    ) -> QueueId {
        let id = self.next();
        let mut queue = Queue::new(decl, rules, owner, self.now());
        let name = queue.name.clone();
        for consumer_id in self.orphans.remove(&name).unwrap_or_default() {
            let Some(consumer) = self.consumers.by_id.get_mut(&consumer_id) else { continue };
            if owner.is_some_and(|owner| owner != consumer.client) {
                self.orphans.entry(name.clone()).or_default().push(consumer_id);
                continue;
            }
            consumer.queue = Some(id);
            queue.consumers += 1;
            if consumer.has_room() {
                consumer.is_in_turn = true;
                queue.join(consumer_id);
            }
        }
        self.names.insert(name, id);
        self.queues.insert(id, queue);
        self.arm(id);
        id
    }

    fn bind(&mut self, client: ClientId, binding: &BindingDecl) -> Result<()> {
        let BindingDecl { exchange, queue: name, routing_key, arguments } = binding;
        let queue = self.accessible(client, name)?;
        amqp::check_binding(self.exchanges.get(exchange).map(|(kind, _)| kind), binding)?;
        let bound = self.exchanges.bind(exchange, queue, routing_key, arguments);
        bound.map_err(|error| amqp::binding_refused(binding, error))
    }

    /// The queue of this name, if there is one and the client may use it.
    fn accessible(&self, client: ClientId, name: &str) -> Result<QueueId> {
        let id = *self.names.get(name).ok_or_else(|| amqp::missing_queue(name))?;
        let owner = self.queues.get(&id).and_then(|queue| queue.owner);
        if owner.is_some_and(|owner| owner != client) {
            return Err(amqp::locked(name));
        }
        Ok(id)
    }

    /// The queue of this name, for an operator.
    fn shown(&self, client: ClientId, name: &str) -> Result<QueueId> {
        if self.names.contains_key(name) {
            self.accessible(client, name)
        } else {
            Err(amqp::queue_not_found(name))
        }
    }

    pub(super) fn consume(
        &mut self,
        client: ClientId,
        options: ConsumeOptions,
        handle: ConsumerHandle,
    ) -> Result<ConsumerId> {
        let queue_id = self.accessible(client, &options.queue)?;
        let consumer_id = self.next();
        let consumer = Subscription {
            handle,
            client,
            queue_name: options.queue,
            queue: Some(queue_id),
            prefetch: options.prefetch.max(1).into(),
            in_flight: 0,
            is_in_turn: true,
            dead_letter: options.dead_letter.map(Arc::new),
        };
        self.consumers.by_id.insert(consumer_id, consumer);
        if let Some(queue) = self.queues.get_mut(&queue_id) {
            queue.consumers += 1;
            queue.join(consumer_id);
        }
        self.flow(queue_id);
        self.bury();
        Ok(consumer_id)
    }

    /// Begins to hand a client the replies to its requests.
    pub(super) fn consume_replies(&mut self, client: ClientId, handle: ConsumerHandle) -> Result<ConsumerId> {
        let id = self.next();
        let before = self.replies.consume(client, id, handle)?;
        self.consumers.discarded.handles.extend(before);
        Ok(id)
    }

    /// Forgets a consumer. What it has not settled it may still settle.
    pub(super) fn remove_consumer(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.by_id.remove(&id) else {
            let replies = self.replies.remove(id);
            return self.consumers.discarded.handles.extend(replies);
        };
        let now = self.now();
        if let Some(queue_id) = consumer.queue {
            if let Some(queue) = self.queues.get_mut(&queue_id) {
                queue.leave(id, now);
            }
            self.arm(queue_id);
        } else if let Some(waiting) = self.orphans.get_mut(&*consumer.queue_name) {
            waiting.retain(|other| *other != id);
            if waiting.is_empty() {
                self.orphans.remove(&*consumer.queue_name);
            }
        }
        self.consumers.discarded.handles.push(consumer.handle);
    }

    /// The ready messages of a queue.
    pub(super) fn ready(&self, client: ClientId, queue: &str) -> Result<Option<&Ready>> {
        let id = self.shown(client, queue)?;
        Ok(self.queues.get(&id).map(|queue| &queue.ready))
    }

    /// Takes one message as a consumer would get it, without consuming.
    pub(super) fn take(
        &mut self,
        client: ClientId,
        options: &ConsumeOptions,
        job: Option<&JobId>,
    ) -> Result<Option<Delivery>> {
        let choose = |ready: &mut Ready| match job {
            None => ready.pop(),
            Some(job) => ready.take(|message| message.envelope.id == *job),
        };
        self.take_by(client, options, choose)
    }

    /// Takes the message that `choose` takes out of those that are ready.
    pub(super) fn take_by(
        &mut self,
        client: ClientId,
        options: &ConsumeOptions,
        choose: impl FnOnce(&mut Ready) -> Option<Entry>,
    ) -> Result<Option<Delivery>> {
        let id = self.shown(client, &options.queue)?;
        let Some(queue) = self.queues.get_mut(&id) else { return Ok(None) };
        let Some(entry) = choose(&mut queue.ready) else { return Ok(None) };
        self.consumers.tags += 1;
        let ticket = Ticket {
            client,
            consumer: None,
            queue: id,
            queue_name: queue.name.clone(),
            tag: self.consumers.tags,
            dead_letter: options.dead_letter.clone().map(Arc::new),
            losses: self.consumers.losses.count(),
        };
        let settler = ticket.clone().settler(&self.consumers.deliveries);
        let taken = delivery(&entry, options.queue.clone(), queue.rules.queue_type, settler);
        queue.held.insert(ticket.tag, Held { entry, client, unmarked: None });
        self.arm(id);
        Ok(Some(taken))
    }

    /// Publishes what a client sends: also a request, or the reply to one.
    pub(super) fn publish(&mut self, client: ClientId, mut publish: Publish) -> Result<(), PublishError> {
        if reply::is_request(&publish.envelope) {
            self.replies.address(client, &mut publish.envelope)?;
        }
        let Route { exchange, routing_key } = &publish.route;
        if exchange.is_empty() && publish.not_before.is_none() && reply::is_address(routing_key) {
            let is_there = self.replies.hand_over(routing_key, publish.envelope);
            return if is_there || !publish.mandatory {
                Ok(())
            } else {
                Err(amqp::nothing_bound(exchange, routing_key))
            };
        }
        self.publish_message(client, &publish.into())
    }

    fn publish_message(&mut self, client: ClientId, publish: &Published) -> Result<(), PublishError> {
        let namespace = |state: &Self| state.clients.get(&client).cloned().unwrap_or_default();
        let Ok(published) = amqp::publish(self, publish, |state| namespace(state).unroutable());
        published
    }

    /// Publishes a dead letter; where it should go is declared again if this client had declared it and it was deleted.
    fn publish_copy(&mut self, client: ClientId, copy: &Publish) -> Result<(), PublishError> {
        let publish = Published::from(copy.clone());
        let published = self.publish_message(client, &publish);
        if !matches!(published, Err(PublishError::Unroutable { .. })) {
            return published;
        }
        let remembered = self.remembered.get(&client);
        let Some(topology) = remembered.and_then(|all| all.reaching(&copy.route)) else { return published };
        if let Err(error) = self.declare(client, &topology) {
            amqp::tell_unrestored(&copy.route, &error);
            return published;
        }
        self.publish_message(client, &publish).inspect(|()| amqp::tell_restored(&copy.route))
    }

    /// Carries a settlement out.
    pub(super) fn settle(&mut self, ticket: &Ticket, plan: &Plan) -> Result<(), SettleError> {
        let Some(namespace) = self.clients.get(&ticket.client) else { return Err(SettleError::Lost) };
        match plan {
            Plan::Ack | Plan::Drop { .. } => {}
            Plan::Release => {
                self.give_back(ticket);
                return Ok(());
            }
            Plan::Delay { copy, due } => {
                let unroutable = namespace.unroutable();
                let Ok(()) = amqp::delay_job(self, *due, ticket.queue_name.clone(), copy.clone(), unroutable);
            }
            Plan::Publish(copy) => {
                self.publish_copy(ticket.client, copy).map_err(SettleError::Republish)?;
            }
        }
        self.release_slot(ticket);
        if let Some(queue) = self.queues.get_mut(&ticket.queue) {
            queue.held.remove(&ticket.tag);
        }
        self.flow(ticket.queue);
        self.bury();
        // A retry without a delay is due at once.
        self.catch_up();
        Ok(())
    }

    /// Writes a header into the message of a delivery. Given back in order, the message is as it was before.
    pub(super) fn mark(
        &mut self,
        ticket: &Ticket,
        name: &str,
        value: &HeaderValue,
    ) -> Result<(), SettleError> {
        let queue = self.queues.get_mut(&ticket.queue);
        let held = queue.and_then(|queue| queue.held.get_mut(&ticket.tag)).ok_or(SettleError::Lost)?;
        held.unmarked.get_or_insert_with(|| held.entry.message.clone());
        Arc::make_mut(&mut held.entry.message).envelope.headers.insert(name, value.clone());
        Ok(())
    }

    /// True if the delivery is still out: neither its queue nor its client has gone.
    pub(super) fn is_held(&self, ticket: &Ticket) -> bool {
        self.queues.get(&ticket.queue).is_some_and(|queue| queue.held.contains_key(&ticket.tag))
    }

    /// Puts a delivery back into its queue. If queue or client have gone, there is nothing to give back.
    pub(super) fn give_back(&mut self, ticket: &Ticket) {
        self.release_slot(ticket);
        let Some(queue) = self.queues.get_mut(&ticket.queue) else { return };
        let Some(mut held) = queue.held.remove(&ticket.tag) else { return };
        if let Some(unmarked) = held.unmarked.take() {
            held.entry.message = unmarked;
        }
        self.put_back(ticket.queue, held.entry);
        self.flow(ticket.queue);
        self.bury();
    }

    /// The consumer may have one more, behind the others whose turn it is.
    fn release_slot(&mut self, ticket: &Ticket) {
        let Some(id) = ticket.consumer else { return };
        let Some(consumer) = self.consumers.by_id.get_mut(&id) else { return };
        consumer.in_flight -= 1;
        if consumer.is_in_turn || !consumer.has_room() {
            return;
        }
        if let Some(queue) = consumer.queue.and_then(|queue| self.queues.get_mut(&queue)) {
            consumer.is_in_turn = true;
            queue.join(id);
        }
    }

    pub(super) fn inspect(&self, client: ClientId, name: &str) -> Result<QueueStats> {
        let id = self.shown(client, name)?;
        let stats = self.queues.get(&id).map(Queue::stats).unwrap_or_default();
        Ok(stats.delayed(self.delayed.jobs_for(name)))
    }

    pub(super) fn purge(&mut self, client: ClientId, name: &str) -> Result<u64> {
        let id = self.shown(client, name)?;
        let purged = self.queues.get_mut(&id).map_or(0, |queue| queue.ready.clear());
        self.arm(id);
        Ok(purged)
    }

    /// The names of the queues that belong to no client alone, in their order.
    pub(super) fn queue_names(&self) -> Vec<String> {
        let shared = self.queues.values().filter(|queue| queue.owner.is_none());
        let mut names: Vec<_> = shared.map(|queue| queue.name.as_ref().to_owned()).collect();
        names.sort_unstable();
        names
    }

    pub(super) fn delete(&mut self, client: ClientId, name: &str) -> Result<()> {
        if self.names.contains_key(name) {
            let id = self.accessible(client, name)?;
            self.remove_queue(id);
        }
        if let Some(remembered) = self.remembered.get_mut(&client) {
            remembered.forget(name);
        }
        Ok(())
    }

    /// Deletes a queue with all its messages. Its consumers wait until it is declared again.
    pub(super) fn remove_queue(&mut self, id: QueueId) {
        let Some(queue) = self.queues.remove(&id) else { return };
        self.consumers.losses.add();
        self.names.remove(&queue.name);
        self.exchanges.forget(id);
        if let Some(alarm) = queue.alarm {
            self.alarms.remove(&(alarm, id));
        }
        let mut left: Vec<_> = Vec::new();
        for (consumer_id, consumer) in &mut self.consumers.by_id {
            if consumer.queue == Some(id) {
                consumer.queue = None;
                consumer.is_in_turn = false;
                left.push(*consumer_id);
            }
        }
        if !left.is_empty() {
            left.sort_unstable();
            let name = &*queue.name;
            tracing::warn!(
                queue = name,
                consumers = left.len(),
                "a consumed queue was deleted; its consumers wait"
            );
            self.orphans.insert(queue.name.clone(), left);
        }
    }

    pub(super) fn snapshot(&self) -> Vec<Waiting> {
        let mut queues: Vec<_> = self.queues.values().collect();
        queues.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let ready = queues.into_iter().flat_map(|queue| {
            queue.ready.iter().map(|entry| Waiting {
                queue: queue.name.to_string(),
                envelope: entry.message.envelope.clone(),
                not_before: None,
            })
        });
        let delayed = self.delayed.iter().map(|(due, delayed)| Waiting {
            queue: delayed.queue().to_owned(),
            envelope: delayed.envelope().clone(),
            not_before: Some(due),
        });
        ready.chain(delayed).collect()
    }

    pub(super) fn activity(&self) -> Activity {
        let (delayed, next_due) = (self.delayed.len(), self.delayed.next_due());
        let mut activity = Activity { delayed, next_due, ..Activity::default() };
        for queue in self.queues.values() {
            let waiting = if queue.consumers > 0 { &mut activity.ready } else { &mut activity.parked };
            *waiting += queue.ready.len();
            activity.unsettled += queue.held.len() as u64;
        }
        activity
    }
}
