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

/// How an exchange routes.
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

/// Declares an exchange.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ExchangeDecl {
    /// Its name.
    pub name: Name,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Whether it survives a restart of the broker.
    pub durable: bool,
    /// Whether to only check that it is there.
    pub passive: bool,
}

impl ExchangeDecl {
    /// A durable exchange.
    pub fn new(name: impl Into<Name>, kind: ExchangeKind) -> Self {
        Self { name: name.into(), kind, durable: true, passive: false }
    }
}

/// Declares a queue.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct QueueDecl {
    /// Its name.
    pub name: Name,
    /// Whether it survives a restart of the broker.
    pub durable: bool,
    /// Whether it belongs to this client and goes with it.
    pub exclusive: bool,
    /// Whether to only check that it is there.
    pub passive: bool,
    /// Whether its bindings are exactly those that the same [`Topology`] makes: all others are taken out.
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

    /// Takes out the queue's bindings that the same [`Topology`] does not make. AMQP cannot list bindings, so on RabbitMQ
    /// this takes its management API (`ClientBuilder::management`), and is refused without.
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

    /// A queue that belongs to this client and goes with it.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self.durable = false;
        self
    }

    /// Only checks that the queue is there.
    #[must_use]
    pub fn passive(mut self) -> Self {
        self.passive = true;
        self
    }
}

/// Binds a queue to an exchange.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BindingDecl {
    /// The exchange.
    pub exchange: Name,
    /// The queue.
    pub queue: Name,
    /// The routing key, or for a topic exchange the pattern.
    pub routing_key: Name,
    /// For a headers exchange: what the headers must be, and `x-match`.
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

    /// Adds an argument: `x-match`, or a header that must be so.
    #[must_use]
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.arguments.insert(name, value);
        self
    }
}

/// Exchanges, queues and bindings, declared in this order; then the bindings that must not be there are taken out.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Topology {
    /// The exchanges.
    pub exchanges: Vec<ExchangeDecl>,
    /// The queues.
    pub queues: Vec<QueueDecl>,
    /// The bindings.
    pub bindings: Vec<BindingDecl>,
    /// Bindings that are taken out. One that is not there is no error.
    pub unbindings: Vec<BindingDecl>,
}

impl Topology {
    /// Nothing yet.
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

    /// Takes a binding out: of exactly this exchange, queue, key and these arguments. One that is not there is no error.
    /// This is how a binding that was taken out of the code is taken out of a queue that exists.
    #[must_use]
    pub fn unbind(mut self, binding: BindingDecl) -> Self {
        self.unbindings.push(binding);
        self
    }

    /// Whether it makes this binding of `queue`.
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

    /// Adds all of `other` that is not there yet. Of a binding that one makes and the other takes out, what `other`
    /// says counts.
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

/// A duration as arguments have it.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
