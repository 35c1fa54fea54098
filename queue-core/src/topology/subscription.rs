//! The exchange from which a queue gets its messages, and the bindings.

use super::declaration::{BindingDecl, ExchangeDecl, ExchangeKind};
use super::name::Name;
use crate::envelope::{HeaderValue, Headers};

/// The exchange from which a queue gets its messages, and the bindings; see
/// [`QueueSpec::subscribe`](super::QueueSpec::subscribe).
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    exchange: Name,
    kind: ExchangeKind,
    bindings: Vec<(Name, Headers)>,
    is_exact: bool,
}

impl Subscription {
    /// A subscription to an exchange, without bindings yet.
    pub fn new(exchange: impl Into<Name>, kind: ExchangeKind) -> Self {
        Self { exchange: exchange.into(), kind, bindings: Vec::new(), is_exact: false }
    }

    /// Binds by routing key, or by pattern on a topic exchange.
    #[must_use]
    pub fn key(mut self, key: impl Into<Name>) -> Self {
        self.bindings.push((key.into(), Headers::new()));
        self
    }

    /// Binds on a headers exchange: all of `headers` must be as given, or with `any` one of them.
    #[must_use]
    pub fn headers(
        mut self,
        any: bool,
        headers: impl IntoIterator<Item = (&'static str, HeaderValue)>,
    ) -> Self {
        let mut arguments: Headers = headers.into_iter().collect();
        arguments.insert("x-match", if any { "any" } else { "all" });
        self.bindings.push((Name::Borrowed(""), arguments));
        self
    }

    /// Removes the queue's other bindings. On RabbitMQ this needs the management API, and is refused without it.
    #[must_use]
    pub fn exact(mut self) -> Self {
        self.is_exact = true;
        self
    }

    /// The exchange's name.
    pub fn exchange(&self) -> &Name {
        &self.exchange
    }

    /// How the exchange routes.
    pub fn kind(&self) -> ExchangeKind {
        self.kind
    }

    pub(super) fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// The exchange's declaration. AMQP's reserved exchanges always exist.
    pub(super) fn declaration(&self, is_passive: bool) -> ExchangeDecl {
        let passive = is_passive || self.exchange.starts_with("amq.");
        ExchangeDecl { passive, ..ExchangeDecl::new(self.exchange.clone(), self.kind) }
    }

    /// The bindings of `queue`. Without a binding, it gets every message where the exchange can express that; a queue that another
    /// program declares keeps that program's bindings.
    pub(super) fn bindings(&self, queue: &Name, is_theirs: bool) -> Vec<BindingDecl> {
        if is_theirs && self.bindings.is_empty() {
            return Vec::new();
        }
        let all = [(Name::Borrowed(if self.kind == ExchangeKind::Topic { "#" } else { "" }), Headers::new())];
        let bindings = if self.bindings.is_empty() { &all[..] } else { &self.bindings };
        let binding = |(key, arguments): &(Name, Headers)| BindingDecl {
            arguments: arguments.clone(),
            ..BindingDecl::new(self.exchange.clone(), queue.clone(), key.clone())
        };
        bindings.iter().map(binding).collect()
    }
}
