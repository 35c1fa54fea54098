//! Finds the queues that a message reaches: exchanges and bindings as AMQP defines them. Pure; shared by the brokers that
//! route themselves.
//!
//! The default exchange is not in here: it routes to the queue named by the key, and the broker knows its queues.
//! Time per message grows with the words of the key and the queues that match, not with the number of bindings;
//! only a headers exchange looks at its bindings one by one.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use crate::envelope::Headers;
use crate::topology::ExchangeKind;

mod headers;
mod topic;

pub use headers::{BadMatch, HeadersMatch};
pub use topic::Topics;

/// The exchanges of one broker with their bindings. `Q` is how the broker names a queue: small and cheap to copy.
#[derive(Debug, Clone)]
pub struct Exchanges<Q> {
    exchanges: HashMap<String, Exchange<Q>>,
    /// The exchanges that each queue is bound to, so that forgetting a queue need not search them all.
    bound: HashMap<Q, BTreeSet<String>>,
}

#[derive(Debug, Clone)]
struct Exchange<Q> {
    kind: ExchangeKind,
    durable: bool,
    /// Every binding as it was made: by queue, its keys and arguments.
    bindings: HashMap<Q, Vec<(String, Headers)>>,
    /// The bindings in a form for finding queues.
    index: Index<Q>,
}

#[derive(Debug, Clone)]
enum Index<Q> {
    /// Queues by routing key.
    Direct(HashMap<String, BTreeSet<Q>>),
    Fanout(BTreeSet<Q>),
    Topic(Topics<Q>),
    Headers(Vec<(HeadersMatch, Q)>),
}

/// The reason why a binding cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// There is no such exchange.
    #[error("exchange `{0}` does not exist")]
    NoExchange(String),
    /// The binding's `x-match` is none that AMQP knows.
    #[error(transparent)]
    BadMatch(#[from] BadMatch),
}

impl<Q: Copy + Ord + Hash> Exchanges<Q> {
    /// None but those that every AMQP broker brings: `amq.direct`, `amq.fanout`, `amq.topic`, `amq.headers` and
    /// `amq.match`.
    pub fn new() -> Self {
        let mut exchanges = Self { exchanges: HashMap::new(), bound: HashMap::new() };
        exchanges.insert("amq.direct", ExchangeKind::Direct, true);
        exchanges.insert("amq.fanout", ExchangeKind::Fanout, true);
        exchanges.insert("amq.topic", ExchangeKind::Topic, true);
        exchanges.insert("amq.headers", ExchangeKind::Headers, true);
        exchanges.insert("amq.match", ExchangeKind::Headers, true);
        exchanges
    }

    /// The kind of an exchange and whether it is durable; `None` if there is no such exchange.
    pub fn get(&self, exchange: &str) -> Option<(ExchangeKind, bool)> {
        self.exchanges.get(exchange).map(|exchange| (exchange.kind, exchange.durable))
    }

    /// Adds an exchange without bindings. One that is there already stays as it is.
    pub fn insert(&mut self, exchange: &str, kind: ExchangeKind, durable: bool) {
        let index = match kind {
            ExchangeKind::Direct => Index::Direct(HashMap::new()),
            ExchangeKind::Fanout => Index::Fanout(BTreeSet::new()),
            ExchangeKind::Topic => Index::Topic(Topics::new()),
            ExchangeKind::Headers => Index::Headers(Vec::new()),
        };
        let new = Exchange { kind, durable, bindings: HashMap::new(), index };
        self.exchanges.entry(exchange.to_owned()).or_insert(new);
    }

    /// Binds a queue. A binding that is there already is no second one.
    ///
    /// # Errors
    /// If the exchange does not exist, or a headers binding has an `x-match` that AMQP does not know.
    pub fn bind(
        &mut self,
        exchange: &str,
        queue: Q,
        key: &str,
        arguments: &Headers,
    ) -> Result<(), BindError> {
        let found =
            self.exchanges.get_mut(exchange).ok_or_else(|| BindError::NoExchange(exchange.to_owned()))?;
        found.index.insert(queue, key, arguments)?;
        let bindings = found.bindings.entry(queue).or_default();
        let binding = (key.to_owned(), arguments.clone());
        if !bindings.contains(&binding) {
            bindings.push(binding);
        }
        self.bound.entry(queue).or_default().insert(exchange.to_owned());
        Ok(())
    }

    /// Takes one binding out, and says whether it was there.
    pub fn unbind(&mut self, exchange: &str, queue: Q, key: &str, arguments: &Headers) -> bool {
        let Some(found) = self.exchanges.get_mut(exchange) else { return false };
        let Some(bindings) = found.bindings.get_mut(&queue) else { return false };
        let before = bindings.len();
        bindings.retain(|(other, theirs)| other != key || theirs != arguments);
        if bindings.len() == before {
            return false;
        }
        found.index.remove(queue);
        for (key, arguments) in &*bindings {
            found.index.insert(queue, key, arguments).expect("it could be bound before");
        }
        if bindings.is_empty() {
            found.bindings.remove(&queue);
            if let Some(bound) = self.bound.get_mut(&queue) {
                bound.remove(exchange);
            }
        }
        true
    }

    /// The queue's bindings: exchange, routing key and arguments.
    pub fn bindings(&self, queue: Q) -> impl Iterator<Item = (&str, &str, &Headers)> {
        self.bound.get(&queue).into_iter().flatten().flat_map(move |name| {
            let bindings = self.exchanges.get(name).and_then(|exchange| exchange.bindings.get(&queue));
            bindings
                .into_iter()
                .flatten()
                .map(move |(key, arguments)| (name.as_str(), key.as_str(), arguments))
        })
    }

    /// Takes out all bindings of a queue, because it is gone.
    pub fn forget(&mut self, queue: Q) {
        for exchange in self.bound.remove(&queue).unwrap_or_default() {
            let Some(exchange) = self.exchanges.get_mut(&exchange) else { continue };
            exchange.bindings.remove(&queue);
            exchange.index.remove(queue);
        }
    }

    /// Adds the queues that a message reaches to `queues`, each once. Returns true if the exchange exists.
    pub fn route(&self, exchange: &str, key: &str, headers: &Headers, queues: &mut Vec<Q>) -> bool {
        let Some(exchange) = self.exchanges.get(exchange) else { return false };
        match &exchange.index {
            Index::Direct(bound) => queues.extend(bound.get(key).into_iter().flatten()),
            Index::Fanout(bound) => queues.extend(bound),
            Index::Topic(topics) => topics.matches(key, queues),
            Index::Headers(bindings) => {
                queues.extend(
                    bindings.iter().filter(|(rule, _)| rule.matches(headers)).map(|(_, queue)| *queue),
                );
            }
        }
        queues.sort_unstable();
        queues.dedup();
        true
    }
}

impl<Q: Copy + Ord + Hash> Index<Q> {
    fn insert(&mut self, queue: Q, key: &str, arguments: &Headers) -> Result<(), BadMatch> {
        match self {
            Self::Direct(queues) => {
                queues.entry(key.to_owned()).or_default().insert(queue);
            }
            Self::Fanout(queues) => {
                queues.insert(queue);
            }
            Self::Topic(topics) => topics.insert(key, queue),
            Self::Headers(bindings) => {
                let binding = (HeadersMatch::new(arguments)?, queue);
                if !bindings.contains(&binding) {
                    bindings.push(binding);
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, queue: Q) {
        match self {
            Self::Direct(queues) => queues.retain(|_, queues| {
                queues.remove(&queue);
                !queues.is_empty()
            }),
            Self::Fanout(queues) => {
                queues.remove(&queue);
            }
            Self::Topic(topics) => topics.remove(queue),
            Self::Headers(bindings) => bindings.retain(|(_, bound)| *bound != queue),
        }
    }
}

impl<Q: Copy + Ord + Hash> Default for Exchanges<Q> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(exchanges: &Exchanges<u32>, exchange: &str, key: &str) -> Vec<u32> {
        let mut queues = Vec::new();
        assert!(exchanges.route(exchange, key, &Headers::new(), &mut queues));
        queues
    }

    #[test]
    fn direct_routes_by_the_exact_key() {
        let mut exchanges = Exchanges::new();
        exchanges.insert("jobs", ExchangeKind::Direct, true);
        exchanges.bind("jobs", 1, "mail", &Headers::new()).unwrap();
        exchanges.bind("jobs", 2, "mail", &Headers::new()).unwrap();
        exchanges.bind("jobs", 3, "mail.bulk", &Headers::new()).unwrap();

        assert_eq!(reached(&exchanges, "jobs", "mail"), [1, 2]);
        assert_eq!(reached(&exchanges, "jobs", "mail.bulk"), [3]);
        assert_eq!(reached(&exchanges, "jobs", "*"), [] as [u32; 0]);
    }

    #[test]
    fn fanout_reaches_a_queue_once_however_often_it_is_bound() {
        let mut exchanges = Exchanges::new();
        exchanges.bind("amq.fanout", 1, "a", &Headers::new()).unwrap();
        exchanges.bind("amq.fanout", 1, "b", &Headers::new()).unwrap();
        exchanges.bind("amq.fanout", 2, "", &Headers::new()).unwrap();

        assert_eq!(reached(&exchanges, "amq.fanout", "anything"), [1, 2]);
    }

    #[test]
    fn forgotten_queue_is_reached_by_no_exchange() {
        let mut exchanges = Exchanges::new();
        for exchange in ["amq.direct", "amq.fanout", "amq.topic", "amq.headers"] {
            exchanges.bind(exchange, 1, "a", &Headers::new()).unwrap();
            exchanges.bind(exchange, 2, "a", &Headers::new()).unwrap();
        }

        exchanges.forget(1);

        for exchange in ["amq.direct", "amq.fanout", "amq.topic", "amq.headers"] {
            assert_eq!(reached(&exchanges, exchange, "a"), [2], "{exchange}");
        }
    }

    #[test]
    fn unbinding_takes_out_one_binding_and_leaves_the_others() {
        let mut exchanges = Exchanges::new();
        for exchange in ["amq.direct", "amq.fanout", "amq.topic", "amq.headers"] {
            for key in ["a", "b"] {
                exchanges.bind(exchange, 1, key, &Headers::new()).unwrap();
            }
            exchanges.bind(exchange, 2, "a", &Headers::new()).unwrap();

            assert!(exchanges.unbind(exchange, 1, "a", &Headers::new()), "{exchange}");
            assert!(!exchanges.unbind(exchange, 1, "a", &Headers::new()), "{exchange}");

            let is_by_key = exchange == "amq.direct" || exchange == "amq.topic";
            assert_eq!(reached(&exchanges, exchange, "a"), if is_by_key { vec![2] } else { vec![1, 2] });
            assert!(reached(&exchanges, exchange, "b").contains(&1), "{exchange}");
            assert!(exchanges.unbind(exchange, 1, "b", &Headers::new()), "{exchange}");
            assert!(!reached(&exchanges, exchange, "b").contains(&1), "{exchange}");
        }
        assert_eq!(exchanges.bindings(1).count(), 0);
        assert_eq!(exchanges.bindings(2).count(), 4);
    }

    #[test]
    fn missing_exchange_is_told_from_one_without_bindings() {
        let mut exchanges = Exchanges::<u32>::new();

        assert!(exchanges.route("amq.topic", "a", &Headers::new(), &mut Vec::new()));
        assert!(!exchanges.route("nowhere", "a", &Headers::new(), &mut Vec::new()));
        assert_eq!(
            exchanges.bind("nowhere", 1, "a", &Headers::new()),
            Err(BindError::NoExchange("nowhere".into()))
        );
    }
}
