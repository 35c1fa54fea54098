//! Exchanges, queues and bindings in AMQP's terms, as brokers declare them.

use std::time::Duration;

use super::name::Name;
use crate::envelope::{HeaderValue, Headers};

/// An exchange and a routing key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// The exchange; empty is the default exchange, which routes to the queue named by the key.
    pub exchange: Name,
    /// The routing key.
    pub routing_key: Name,
}

/// The way in which an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExchangeKind {
    /// To queues bound with exactly the routing key.
    Direct,
    /// To every bound queue.
    Fanout,
    /// To queues whose binding pattern matches the routing key's words.
    Topic,
    /// To queues whose binding arguments match the message's headers.
    Headers,
}

impl ExchangeKind {
    /// AMQP's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}

/// The declaration of an exchange.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ExchangeDecl {
    /// Its name.
    pub name: Name,
    /// The way in which it routes.
    pub kind: ExchangeKind,
    /// True if it survives a restart of the broker.
    pub durable: bool,
    /// True to check only that it exists.
    pub passive: bool,
}

impl ExchangeDecl {
    /// A durable exchange.
    pub fn new(name: impl Into<Name>, kind: ExchangeKind) -> Self {
        Self { name: name.into(), kind, durable: true, passive: false }
    }
}

/// The declaration of a queue.
///
/// ```
/// use leveret::topology::QueueDecl;
///
/// let archive = QueueDecl::new("orders.archive").argument("x-max-length", 10_000);
/// assert!(archive.durable);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct QueueDecl {
    /// Its name.
    pub name: Name,
    /// True if it survives a restart of the broker.
    pub durable: bool,
    /// True if it belongs to this client and is deleted with it.
    pub exclusive: bool,
    /// True to check only that it exists.
    pub passive: bool,
    /// True to remove all its bindings but those that the same [`Topology`] makes.
    pub exact_bindings: bool,
    /// Its `x-` arguments.
    pub arguments: Headers,
}

impl QueueDecl {
    /// A durable queue without arguments.
    pub fn new(name: impl Into<Name>) -> Self {
        Self {
            name: name.into(),
            durable: true,
            exclusive: false,
            passive: false,
            exact_bindings: false,
            arguments: Headers::new(),
        }
    }

    /// Removes the queue's bindings that the same [`Topology`] does not make. AMQP cannot list bindings, so on RabbitMQ
    /// this needs the management API (`ClientBuilder::management`), and is refused without it.
    #[must_use]
    pub fn exact_bindings(mut self) -> Self {
        self.exact_bindings = true;
        self
    }

    /// Adds an `x-` argument.
    #[must_use]
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.arguments.insert(name, value);
        self
    }

    /// Makes the queue belong to this client, and deletes it with the client.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self.durable = false;
        self
    }

    /// Checks only that the queue exists.
    #[must_use]
    pub fn passive(mut self) -> Self {
        self.passive = true;
        self
    }
}

/// The binding of a queue to an exchange.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BindingDecl {
    /// The exchange.
    pub exchange: Name,
    /// The queue.
    pub queue: Name,
    /// The routing key, or for a topic exchange the pattern.
    pub routing_key: Name,
    /// For a headers exchange: the values that the headers must have, and `x-match`.
    pub arguments: Headers,
}

impl BindingDecl {
    /// A binding by routing key or pattern.
    pub fn new(exchange: impl Into<Name>, queue: impl Into<Name>, routing_key: impl Into<Name>) -> Self {
        Self {
            exchange: exchange.into(),
            queue: queue.into(),
            routing_key: routing_key.into(),
            arguments: Headers::new(),
        }
    }

    /// Adds an argument: `x-match`, or a header with the value that it must have.
    #[must_use]
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.arguments.insert(name, value);
        self
    }
}

/// Exchanges, queues and bindings, declared in this order; then unwanted bindings are removed. Passed to
/// [`Client::declare`](crate::client::Client::declare).
///
/// ```
/// use leveret::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};
///
/// let archive = Topology::new()
///     .exchange(ExchangeDecl::new("order.events", ExchangeKind::Topic))
///     .queue(QueueDecl::new("orders.archive"))
///     .binding(BindingDecl::new("order.events", "orders.archive", "order.#"))
///     // A binding of an earlier version of this program.
///     .unbind(BindingDecl::new("order.events", "orders.archive", "order.placed"));
/// # let _ = archive;
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Topology {
    /// The exchanges.
    pub exchanges: Vec<ExchangeDecl>,
    /// The queues.
    pub queues: Vec<QueueDecl>,
    /// The bindings.
    pub bindings: Vec<BindingDecl>,
    /// Bindings to remove. A missing one is no error.
    pub unbindings: Vec<BindingDecl>,
}

impl Topology {
    /// An empty topology.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an exchange.
    #[must_use]
    pub fn exchange(mut self, exchange: ExchangeDecl) -> Self {
        self.exchanges.push(exchange);
        self
    }

    /// Adds a queue.
    #[must_use]
    pub fn queue(mut self, queue: QueueDecl) -> Self {
        self.queues.push(queue);
        self
    }

    /// Adds a binding.
    #[must_use]
    pub fn binding(mut self, binding: BindingDecl) -> Self {
        self.bindings.push(binding);
        self
    }

    /// Removes the binding of exactly this exchange, queue, key and arguments. A missing one is no error. Use it to remove from an
    /// existing queue a binding that the code no longer has.
    #[must_use]
    pub fn unbind(mut self, binding: BindingDecl) -> Self {
        self.unbindings.push(binding);
        self
    }

    /// True if it makes this binding of `queue`.
    #[cfg_attr(
        not(any(feature = "memory", feature = "sqlite-system", feature = "rabbitmq")),
        allow(dead_code, reason = "only brokers ask")
    )]
    pub(crate) fn makes(&self, queue: &str, exchange: &str, key: &str, arguments: &Headers) -> bool {
        self.bindings.iter().any(|made| {
            made.queue == queue
                && made.exchange == exchange
                && made.routing_key == key
                && made.arguments == *arguments
        })
    }

    /// Adds all of `other` that is missing here. If one makes a binding and the other removes it, `other` wins.
    pub fn merge(&mut self, other: Topology) {
        self.bindings.retain(|binding| !other.unbindings.contains(binding));
        self.unbindings.retain(|binding| !other.bindings.contains(binding));
        for binding in other.unbindings {
            if !self.unbindings.contains(&binding) {
                self.unbindings.push(binding);
            }
        }
        for exchange in other.exchanges {
            if !self.exchanges.contains(&exchange) {
                self.exchanges.push(exchange);
            }
        }
        for queue in other.queues {
            if !self.queues.contains(&queue) {
                self.queues.push(queue);
            }
        }
        for binding in other.bindings {
            if !self.bindings.contains(&binding) {
                self.bindings.push(binding);
            }
        }
    }
}

/// A duration in the form of an argument.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
