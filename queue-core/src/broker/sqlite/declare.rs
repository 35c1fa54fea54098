//! Declares exchanges, queues, bindings and consumers, with their owners.

use std::collections::{BTreeSet, HashMap};

use rusqlite::params;

use super::headers;
use super::ids::{ClientId, ConsumerId, QueueId};
use super::state::State;
use super::subscription::Subscription;
use crate::broker::amqp::{self, ExchangeStep, ExistingQueue, QueueRules, QueueStep};
use crate::broker::{ConsumeOptions, ConsumerHandle, DIRECT_REPLY_TO};
use crate::envelope::Headers;
use crate::error::Result;
use crate::routing::Exchanges;
use crate::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};

const KINDS: [ExchangeKind; 4] =
    [ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic, ExchangeKind::Headers];

impl State {
    /// Declares one after the other; those before one that is refused stay.
    pub(super) fn declare(&mut self, topology: &Topology) -> rusqlite::Result<Result<()>> {
        for exchange in &topology.exchanges {
            if let Err(error) = self.declare_exchange(exchange)? {
                return Ok(Err(error));
            }
        }
        for queue in &topology.queues {
            if let Err(error) = self.declare_queue(queue)? {
                return Ok(Err(error));
            }
        }
        for binding in &topology.bindings {
            if let Err(error) = self.bind(binding)? {
                return Ok(Err(error));
            }
        }
        for binding in &topology.unbindings {
            match self.accessible(&binding.queue) {
                Ok(queue) => {
                    self.unbind(queue, &binding.exchange, &binding.routing_key, &binding.arguments)?;
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        for queue in topology.queues.iter().filter(|queue| queue.exact_bindings) {
            if let Err(error) = self.unbind_others(queue, topology)? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn unbind(
        &mut self,
        queue: QueueId,
        exchange: &str,
        key: &str,
        arguments: &Headers,
    ) -> rusqlite::Result<()> {
        if !self.exchanges.unbind(exchange, queue, key, arguments) {
            return Ok(());
        }
        let text = headers::write(arguments).unwrap_or_else(|| "{}".to_owned());
        self.connection
            .prepare_cached(
                "DELETE FROM leveret_binding \
                 WHERE exchange = ?1 AND queue = ?2 AND routing_key = ?3 AND arguments = ?4",
            )?
            .execute(params![exchange, queue, key, text])?;
        self.topology_has_changed();
        if let Some(name) = self.queues.get(&queue).map(|queue| queue.name.clone()) {
            self.own.bindings.retain(|own| {
                *own.queue != *name
                    || own.exchange != exchange
                    || own.routing_key != key
                    || own.arguments != *arguments
            });
        }
        Ok(())
    }

    /// Takes out the bindings of `queue` that `topology` does not make.
    fn unbind_others(&mut self, queue: &QueueDecl, topology: &Topology) -> rusqlite::Result<Result<()>> {
        let id = match self.accessible(&queue.name) {
            Ok(id) => id,
            Err(error) => return Ok(Err(error)),
        };
        let others: Vec<_> = self
            .exchanges
            .bindings(id)
            .filter(|(exchange, key, arguments)| !topology.makes(&queue.name, exchange, key, arguments))
            .map(|(exchange, key, arguments)| (exchange.to_owned(), key.to_owned(), arguments.clone()))
            .collect();
        for (exchange, key, arguments) in others {
            self.unbind(id, &exchange, &key, &arguments)?;
        }
        Ok(Ok(()))
    }

    fn declare_exchange(&mut self, wanted: &ExchangeDecl) -> rusqlite::Result<Result<()>> {
        match amqp::declare_exchange(self.exchanges.get(&wanted.name), wanted) {
            Err(error) => return Ok(Err(error)),
            Ok(ExchangeStep::Keep) => {}
            Ok(ExchangeStep::Create) => {
                self.connection
                    .prepare_cached("INSERT INTO leveret_exchange (name, kind, durable) VALUES (?1, ?2, ?3)")?
                    .execute(params![&*wanted.name, wanted.kind.as_str(), wanted.durable])?;
                self.exchanges.insert(&wanted.name, wanted.kind, wanted.durable);
                self.topology_has_changed();
            }
        }
        Ok(Ok(()))
    }

    fn declare_queue(&mut self, wanted: &QueueDecl) -> rusqlite::Result<Result<()>> {
        let existing = self.names.get(&*wanted.name).and_then(|id| self.queues.get(id));
        let known = existing.map(|queue| ExistingQueue {
            decl: &queue.decl,
            is_locked: queue.owner.is_some_and(|owner| owner != self.me),
        });
        match amqp::declare_queue(known, wanted, "sqlite") {
            Err(error) => return Ok(Err(error)),
            Ok(QueueStep::Keep) => {}
            Ok(QueueStep::Renew) => {
                if existing.is_some_and(|queue| queue.rules.expires.is_some()) {
                    self.used(&wanted.name)?;
                }
            }
            Ok(QueueStep::Create(rules)) => {
                if wanted.exclusive {
                    self.own.queues.retain(|queue| queue.name != wanted.name);
                    self.own.queues.push(wanted.clone());
                }
                let owner = wanted.exclusive.then_some(self.me);
                self.add_queue(wanted.clone(), rules, owner)?;
            }
        }
        Ok(Ok(()))
    }

    /// Adds a queue that does not exist.
    pub(super) fn add_queue(
        &mut self,
        decl: QueueDecl,
        rules: QueueRules,
        owner: Option<ClientId>,
    ) -> rusqlite::Result<QueueId> {
        let id = self.next();
        let arguments = headers::write(&decl.arguments).unwrap_or_else(|| "{}".to_owned());
        self.connection
            .prepare_cached(
                "INSERT INTO leveret_queue (queue, name, durable, owner, arguments, ready, bytes, unused_since) \
                 VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6)",
            )?
            .execute(params![id, &*decl.name, decl.durable, owner, arguments, self.now_micros()])?;
        self.deadlines.forget();
        self.topology_has_changed();
        let queue = Self::queue(&decl.name.clone(), decl, rules, owner);
        if queue.rules.expires.is_some() {
            self.expiring.insert(id);
            self.deadlines.forget_unused();
        }
        let before = self.names.insert(queue.name.clone(), id);
        self.renamed.push((queue.name.clone(), before));
        self.queues.insert(id, queue);
        Ok(id)
    }

    fn bind(&mut self, binding: &BindingDecl) -> rusqlite::Result<Result<()>> {
        let BindingDecl { exchange, queue: name, routing_key, arguments } = binding;
        let queue = match self.accessible(name) {
            Ok(queue) => queue,
            Err(error) => return Ok(Err(error)),
        };
        let kind = self.exchanges.get(exchange).map(|(kind, _)| kind);
        if let Err(error) = amqp::check_binding(kind, binding) {
            return Ok(Err(error));
        }
        if let Err(error) = self.exchanges.bind(exchange, queue, routing_key, arguments) {
            return Ok(Err(amqp::binding_refused(binding, error)));
        }
        let text = headers::write(arguments).unwrap_or_else(|| "{}".to_owned());
        let added = self
            .connection
            .prepare_cached(
                "INSERT OR IGNORE INTO leveret_binding (exchange, queue, routing_key, arguments) \
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![&**exchange, queue, &**routing_key, text])?;
        if added > 0 {
            self.topology_has_changed();
            if self.own.queues.iter().any(|own| own.name == *name) {
                self.own.bindings.push(binding.clone());
            }
        }
        Ok(Ok(()))
    }

    /// The queue of this name, if there is one and this client may use it.
    fn accessible(&self, name: &str) -> Result<QueueId> {
        let id = *self.names.get(name).ok_or_else(|| amqp::missing_queue(name))?;
        let owner = self.queues.get(&id).and_then(|queue| queue.owner);
        if owner.is_some_and(|owner| owner != self.me) {
            return Err(amqp::locked(name));
        }
        Ok(id)
    }

    /// The queue of this name, for an operator.
    fn shown(&self, name: &str) -> Result<QueueId> {
        if self.names.contains_key(name) { self.accessible(name) } else { Err(amqp::queue_not_found(name)) }
    }

    pub(super) fn consume(
        &mut self,
        options: &ConsumeOptions,
        handle: &ConsumerHandle,
    ) -> rusqlite::Result<Result<ConsumerId>> {
        if options.queue == DIRECT_REPLY_TO {
            return self.consume_replies(handle);
        }
        if let Err(error) = self.accessible(&options.queue) {
            return Ok(Err(error));
        }
        let id = self.next();
        self.record_consumer(id, &options.queue, options.name.as_deref())?;
        let consumer = Subscription {
            handle: handle.clone(),
            queue_name: options.queue.clone(),
            name: options.name.clone(),
            prefetch: options.prefetch.max(1).into(),
            in_flight: 0,
            is_in_turn: true,
            dead_letter: options.dead_letter.clone().map(std::sync::Arc::new),
        };
        self.join(id, consumer);
        self.joined.push(id);
        Ok(Ok(id))
    }

    pub(super) fn record_consumer(
        &self,
        id: ConsumerId,
        queue: &str,
        name: Option<&str>,
    ) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO leveret_consumer (consumer, client, queue, name) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![id, self.me, queue, name])?;
        Ok(())
    }

    pub(super) fn end_consumer(&mut self, id: ConsumerId) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM leveret_consumer WHERE consumer = ?1")?.execute([id])?;
        self.end_replies(id);
        if let Some(consumer) = self.leave(id) {
            self.used(&consumer.queue_name)?;
        }
        Ok(())
    }

    /// A queue's time without consumers begins anew.
    pub(super) fn used(&mut self, queue: &str) -> rusqlite::Result<()> {
        self.deadlines.forget();
        self.deadlines.forget_unused();
        self.connection
            .prepare_cached("UPDATE leveret_queue SET unused_since = ?2 WHERE name = ?1")?
            .execute(params![queue, self.now_micros()])?;
        Ok(())
    }

    pub(super) fn purge(&mut self, name: &str) -> rusqlite::Result<Result<u64>> {
        let id = match self.shown(name) {
            Ok(id) => id,
            Err(error) => return Ok(Err(error)),
        };
        let purged = self
            .connection
            .prepare_cached("DELETE FROM leveret_job WHERE queue = ?1 AND client IS NULL")?
            .execute([id])?;
        self.recount(id)?;
        Ok(Ok(purged as u64))
    }

    pub(super) fn delete(&mut self, name: &str) -> rusqlite::Result<Result<()>> {
        if self.names.contains_key(name) {
            match self.accessible(name) {
                Ok(id) => self.remove_queue(id)?,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    /// Deletes a queue with all its messages. Its consumers wait until it is declared again.
    pub(super) fn remove_queue(&mut self, id: QueueId) -> rusqlite::Result<()> {
        let Some(queue) = self.queues.remove(&id) else { return Ok(()) };
        let before = self.names.remove(&queue.name);
        self.renamed.push((queue.name.clone(), before));
        self.expiring.remove(&id);
        self.exchanges.forget(id);
        self.own.queues.retain(|own| *own.name != *queue.name);
        self.own.bindings.retain(|own| *own.queue != *queue.name);
        if let Some(line) = self.lines.get(&queue.name) {
            let (name, consumers) = (&*queue.name, line.members.len());
            tracing::warn!(queue = name, consumers, "a consumed queue was deleted; its consumers wait");
            self.deleted.push(id);
        }
        for statement in [
            "DELETE FROM leveret_job WHERE queue = ?1 AND client IS NULL",
            "DELETE FROM leveret_job WHERE queue = ?1 AND client IS NOT NULL",
            "DELETE FROM leveret_binding WHERE queue = ?1",
            "DELETE FROM leveret_queue WHERE queue = ?1",
        ] {
            self.connection.prepare_cached(statement)?.execute([id])?;
        }
        self.topology_has_changed();
        Ok(())
    }

    /// After a transaction that failed: the names are as they were before it, for `read_topology` to compare with.
    pub(super) fn restore_names(&mut self) {
        for (name, before) in std::mem::take(&mut self.renamed).into_iter().rev() {
            match before {
                Some(id) => self.names.insert(name, id),
                None => self.names.remove(&name),
            };
        }
    }

    /// Reads exchanges, queues and bindings anew.
    pub(super) fn read_topology(&mut self) -> rusqlite::Result<()> {
        let mut exchanges = Exchanges::new();
        let mut select =
            self.connection.prepare_cached("SELECT name, kind, durable FROM leveret_exchange")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (name, kind): (String, String) = (row.get(0)?, row.get(1)?);
            if let Some(kind) = KINDS.into_iter().find(|known| known.as_str() == kind) {
                exchanges.insert(&name, kind, row.get(2)?);
            }
        }
        drop(rows);

        let (mut names, mut queues, mut expiring) = (HashMap::new(), HashMap::new(), BTreeSet::new());
        let mut select = self
            .connection
            .prepare_cached("SELECT queue, name, durable, owner, arguments FROM leveret_queue")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (id, name, owner): (QueueId, String, Option<ClientId>) =
                (row.get(0)?, row.get(1)?, row.get(3)?);
            let mut decl = QueueDecl::new(name.clone());
            decl.durable = row.get(2)?;
            decl.exclusive = owner.is_some();
            decl.arguments = headers::read(&row.get::<_, String>(4)?);
            let rules = match QueueRules::read(&decl) {
                Ok(rules) => rules,
                Err(error) => {
                    tracing::error!(%error, "a queue of the file cannot be used; its arguments were changed by hand");
                    continue;
                }
            };
            let queue = Self::queue(&name, decl, rules, owner);
            if queue.rules.expires.is_some() {
                expiring.insert(id);
            }
            names.insert(queue.name.clone(), id);
            queues.insert(id, queue);
        }
        drop(rows);

        let mut select = self
            .connection
            .prepare_cached("SELECT exchange, queue, routing_key, arguments FROM leveret_binding")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (exchange, queue, key): (String, QueueId, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let bound = exchanges.bind(&exchange, queue, &key, &headers::read(&row.get::<_, String>(3)?));
            if let Err(error) = bound {
                tracing::error!(%error, exchange, "a binding of the file cannot be used; it was changed by hand");
            }
        }
        drop(rows);
        drop(select);
        let consumed = self.lines.keys().filter_map(|queue| self.names.get(queue));
        let deleted: Vec<_> = consumed.filter(|id| !queues.contains_key(id)).copied().collect();
        if !deleted.is_empty() {
            self.tenure.lose(deleted);
        }
        (self.exchanges, self.names, self.queues) = (exchanges, names, queues);
        self.expiring = expiring;
        self.deadlines.forget_unused();
        Ok(())
    }
}
