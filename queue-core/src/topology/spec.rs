//! A queue as the attribute describes it, and its declaration in AMQP's terms.

use std::fmt;
use std::time::Duration;

use super::declaration::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Route, Topology, millis};
use super::name::{Name, check_name};
use super::namespace::Namespace;
use super::subscription::Subscription;
use crate::envelope::Headers;
use crate::error::{Error, Result};

/// RabbitMQ's kind of queue. The other brokers treat both alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum QueueType {
    /// Replicated, with a delivery limit and at-least-once dead-lettering.
    #[default]
    Quorum,
    /// Declared as other AMQP programs do: with only the arguments that the user wrote. So RabbitMQ makes a quorum queue of it
    /// in a vhost whose default queue type is quorum, as for those programs. With `max_priority`, which only a classic queue
    /// can have, the type is declared as well.
    Classic,
}

/// The behaviour of a queue at its `max_length` when one more message arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// It refuses the publisher: `EnqueueError::QueueFull`. Nothing is dropped.
    #[default]
    Reject,
    /// It dead-letters its oldest message to make room (AMQP's drop-head, at most once).
    DeadLetter,
}

/// Declares a queue, or uses an existing one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Declare {
    /// Declares it on every connect; a queue that exists with other arguments is an error.
    #[default]
    Active,
    /// Uses the queue as it is, and also its dead-letter exchange and queue where they are named. Without a name, these are
    /// Leveret's own and declared.
    Passive,
}

/// The destination of a queue's dead letters.
#[derive(Clone, PartialEq, Eq)]
enum DeadLetters {
    /// `dlx = none`: a job that fails for good is dropped, with a log line.
    Dropped,
    /// To an exchange; `None` is the namespace's own.
    To(Option<Name>),
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As the option is written in the attribute.
        match self {
            Self::Dropped => f.write_str("none"),
            Self::To(exchange) => exchange.fmt(f),
        }
    }
}

/// An option that two descriptions of one queue give different values; see [`QueueSpec::difference`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The option, as the attribute names it.
    pub option: &'static str,
    /// Its value in the one description.
    pub left: String,
    /// Its value in the other.
    pub right: String,
}

/// A queue as the attribute describes it. Tasks that share a queue describe it alike. Programs write one only for a [`Task`] that
/// they implement by hand.
///
/// ```
/// use std::time::Duration;
///
/// use leveret::topology::{Overflow, QueueSpec};
///
/// let emails = QueueSpec::new("emails")
///     .dlx("emails.dlx")
///     .ttl(Duration::from_secs(3600))
///     .max_length(100_000)
///     .overflow(Overflow::DeadLetter);
/// assert_eq!(emails.dead_queue().as_deref(), Some("emails.dead"));
/// ```
///
/// [`Task`]: crate::task::Task
#[derive(Debug, Clone, PartialEq)]
pub struct QueueSpec {
    name: Name,
    dead_letters: DeadLetters,
    dead_letter_queue: Option<Name>,
    dead_letter_key: Option<Name>,
    dead_letter_ttl: Option<Duration>,
    queue_type: QueueType,
    declare: Declare,
    ttl: Option<Duration>,
    max_length: Option<u64>,
    overflow: Overflow,
    max_priority: Option<u8>,
    concurrency: Option<u16>,
    prefetch: Option<u16>,
    crash_limit: Option<u32>,
    subscription: Option<Subscription>,
}

impl QueueSpec {
    /// The delivery limit of a quorum queue, after which it takes a job for one that kills its workers.
    pub const DELIVERY_LIMIT: i64 = 100;
    /// The [`crash_limit`](Self::crash_limit) where neither the tasks nor the worker set one.
    pub const CRASH_LIMIT: u32 = 3;
    /// The delivery limit of queues whose messages only Leveret handles. "No limit" cannot be written in a way that all versions
    /// of RabbitMQ read alike.
    pub(super) const NO_DELIVERY_LIMIT: i64 = 1_000_000;

    /// A durable quorum queue whose dead letters go to `leveret.dlx`.
    pub fn new(name: impl Into<Name>) -> Self {
        Self {
            name: name.into(),
            dead_letters: DeadLetters::To(None),
            dead_letter_queue: None,
            dead_letter_key: None,
            dead_letter_ttl: None,
            queue_type: QueueType::default(),
            declare: Declare::default(),
            ttl: None,
            max_length: None,
            overflow: Overflow::default(),
            max_priority: None,
            concurrency: None,
            prefetch: None,
            crash_limit: None,
            subscription: None,
        }
    }

    /// Sets the exchange for dead letters; without it, the namespace's own.
    #[must_use]
    pub fn dlx(mut self, exchange: impl Into<Name>) -> Self {
        self.dead_letters = DeadLetters::To(Some(exchange.into()));
        self
    }

    /// Keeps no dead letters: a job that fails for good is dropped, with a log line.
    #[must_use]
    pub fn no_dlx(mut self) -> Self {
        self.dead_letters = DeadLetters::Dropped;
        self
    }

    /// Sets the queue that keeps the dead letters; without it, `<name>.dead`.
    #[must_use]
    pub fn dead_letter_queue(mut self, queue: impl Into<Name>) -> Self {
        self.dead_letter_queue = Some(queue.into());
        self
    }

    /// Sets the routing key of the dead letters; without it, the queue's name.
    #[must_use]
    pub fn dead_letter_key(mut self, key: impl Into<Name>) -> Self {
        self.dead_letter_key = Some(key.into());
        self
    }

    /// Sets how long dead letters are kept; without it, for ever.
    #[must_use]
    pub fn dead_letter_ttl(mut self, ttl: Duration) -> Self {
        self.dead_letter_ttl = Some(ttl);
        self
    }

    /// Sets the type, quorum or classic; without it, quorum.
    #[must_use]
    pub fn queue_type(mut self, queue_type: QueueType) -> Self {
        self.queue_type = queue_type;
        self
    }

    /// Declares the queue, or uses an existing one as it is; without it, declares.
    #[must_use]
    pub fn declare(mut self, declare: Declare) -> Self {
        self.declare = declare;
        self
    }

    /// Sets how long a job may wait in the queue before it becomes a dead letter. Whole milliseconds.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets how many jobs may wait. Approximate on RabbitMQ: a few more may be kept.
    #[must_use]
    pub fn max_length(mut self, length: u64) -> Self {
        self.max_length = Some(length);
        self
    }

    /// Sets the behaviour at `max_length`; without it, the queue refuses.
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Sets the highest priority of a classic queue. Quorum queues need no maximum.
    #[must_use]
    pub fn max_priority(mut self, priority: u8) -> Self {
        self.max_priority = Some(priority);
        self
    }

    /// Sets how many jobs one worker runs at once; without it, 1.
    #[must_use]
    pub fn concurrency(mut self, jobs: u16) -> Self {
        self.concurrency = Some(jobs);
        self
    }

    /// Sets how many unsettled jobs one worker holds; without it, as many as it runs at once.
    #[must_use]
    pub fn prefetch(mut self, jobs: u16) -> Self {
        self.prefetch = Some(jobs);
        self
    }

    /// Sets how often the process of a worker may end while it holds a job, before the job runs alone; without it, the worker's
    /// limit, or [`CRASH_LIMIT`](Self::CRASH_LIMIT). After as many more ends while it ran alone, the job is a dead letter of kind
    /// `crash-loop`.
    ///
    /// From 1 to 100: at the [`DELIVERY_LIMIT`](Self::DELIVERY_LIMIT) RabbitMQ itself makes the job a dead letter, without a word
    /// about crashes.
    #[must_use]
    pub fn crash_limit(mut self, ends: u32) -> Self {
        self.crash_limit = Some(ends);
        self
    }

    /// Binds the queue to an exchange, which is declared with it.
    #[must_use]
    pub fn subscribe(mut self, subscription: Subscription) -> Self {
        self.subscription = Some(subscription);
        self
    }

    /// True if the queue is at its declared limit with so many jobs ready.
    pub(crate) fn is_full_at(&self, ready: u64) -> bool {
        self.max_length.is_some_and(|length| ready >= length)
    }

    /// True if the queue may refuse a message by its declaration. A policy of the server can make any queue refuse.
    pub(crate) fn may_refuse(&self) -> bool {
        match self.declare {
            Declare::Active => self.max_length.is_some() && self.overflow == Overflow::Reject,
            Declare::Passive => true,
        }
    }

    /// The first option in which `other` describes the queue differently.
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        fn differs<T: PartialEq + fmt::Debug>(
            option: &'static str,
            left: &T,
            right: &T,
        ) -> Option<Difference> {
            let words = |value: &T| match format!("{value:?}") {
                none if none == "None" => "not set".to_owned(),
                some => some
                    .strip_prefix("Some(")
                    .and_then(|some| some.strip_suffix(')'))
                    .unwrap_or(&some)
                    .to_owned(),
            };
            (left != right).then(|| Difference { option, left: words(left), right: words(right) })
        }
        // By name, so that a new option cannot be forgotten here.
        let Self {
            name,
            dead_letters,
            dead_letter_queue,
            dead_letter_key,
            dead_letter_ttl,
            queue_type,
            declare,
            ttl,
            max_length,
            overflow,
            max_priority,
            concurrency,
            prefetch,
            crash_limit,
            subscription,
        } = self;
        differs("queue", name, &other.name)
            .or_else(|| differs("dlx", dead_letters, &other.dead_letters))
            .or_else(|| differs("dead_letter_queue", dead_letter_queue, &other.dead_letter_queue))
            .or_else(|| differs("dead_letter_key", dead_letter_key, &other.dead_letter_key))
            .or_else(|| differs("dead_letter_ttl", dead_letter_ttl, &other.dead_letter_ttl))
            .or_else(|| differs("queue_type", queue_type, &other.queue_type))
            .or_else(|| differs("declare", declare, &other.declare))
            .or_else(|| differs("ttl", ttl, &other.ttl))
            .or_else(|| differs("max_length", max_length, &other.max_length))
            .or_else(|| differs("overflow", overflow, &other.overflow))
            .or_else(|| differs("max_priority", max_priority, &other.max_priority))
            .or_else(|| differs("concurrency", concurrency, &other.concurrency))
            .or_else(|| differs("prefetch", prefetch, &other.prefetch))
            .or_else(|| differs("crash_limit", crash_limit, &other.crash_limit))
            .or_else(|| differs("binding", subscription, &other.subscription))
    }

    /// The queue's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// RabbitMQ's type of queue, as the attribute says it; another program may have declared it otherwise.
    pub fn get_queue_type(&self) -> QueueType {
        self.queue_type
    }

    /// The number of jobs that one worker runs at once, if the attribute sets it.
    pub fn get_concurrency(&self) -> Option<u16> {
        self.concurrency
    }

    /// The number of unsettled jobs that one worker holds, if the attribute sets it.
    pub fn get_prefetch(&self) -> Option<u16> {
        self.prefetch
    }

    /// The [`crash_limit`](Self::crash_limit), if the attribute sets it.
    pub fn get_crash_limit(&self) -> Option<u32> {
        self.crash_limit
    }

    /// The exchange and bindings of a subscriber's queue.
    pub fn subscription(&self) -> Option<&Subscription> {
        self.subscription.as_ref()
    }

    /// The exchange and key to which dead letters are published; `None` where they are dropped.
    pub fn dead_letter_route(&self, namespace: &Namespace) -> Option<Route> {
        match &self.dead_letters {
            DeadLetters::Dropped => None,
            DeadLetters::To(exchange) => Some(Route {
                exchange: exchange.clone().unwrap_or_else(|| namespace.dlx()),
                routing_key: self.dead_letter_key.clone().unwrap_or_else(|| self.name.clone()),
            }),
        }
    }

    /// The queue that keeps the dead letters; `None` where they are dropped.
    pub fn dead_queue(&self) -> Option<Name> {
        match self.dead_letters {
            DeadLetters::Dropped => None,
            DeadLetters::To(_) => {
                Some(self.dead_letter_queue.clone().unwrap_or_else(|| format!("{}.dead", self.name).into()))
            }
        }
    }

    /// The declarations of the queue in AMQP's terms: the queue itself, its dead-letter exchange and queue with their binding, and
    /// the exchange that it subscribes to with its bindings.
    ///
    /// # Errors
    /// If a name is empty, longer than 255 bytes or reserved (`amq.`), or if options contradict each other.
    pub fn topology(&self, namespace: &Namespace) -> Result<Topology> {
        self.check()?;
        let mut topology = Topology::default();
        let passive = self.declare == Declare::Passive;
        if let (Some(route), Some(dead)) = (self.dead_letter_route(namespace), self.dead_queue()) {
            check_name("routing key", &route.routing_key)?;
            let own_exchange = matches!(self.dead_letters, DeadLetters::To(None));
            let own_queue = self.dead_letter_queue.is_none();
            topology.exchanges.push(ExchangeDecl {
                passive: passive && !own_exchange,
                ..ExchangeDecl::new(route.exchange.clone(), ExchangeKind::Direct)
            });
            topology.queues.push(QueueDecl {
                passive: passive && !own_queue,
                arguments: self.dead_arguments(),
                ..QueueDecl::new(dead.clone())
            });
            if !passive || own_exchange || own_queue {
                topology.bindings.push(BindingDecl::new(route.exchange, dead, route.routing_key));
            }
        }
        topology.queues.push(QueueDecl {
            passive,
            exact_bindings: self.subscription.as_ref().is_some_and(Subscription::is_exact),
            arguments: self.arguments(namespace),
            ..QueueDecl::new(self.name.clone())
        });
        if let Some(subscription) = &self.subscription {
            topology.exchanges.push(subscription.declaration(passive));
            topology.bindings.extend(subscription.bindings(&self.name, passive));
        }
        Ok(topology)
    }

    /// The queue's own arguments. See <https://www.rabbitmq.com/docs/queues#optional-arguments>.
    fn arguments(&self, namespace: &Namespace) -> Headers {
        let mut arguments = Headers::new();
        match self.queue_type {
            QueueType::Quorum => {
                arguments.insert("x-queue-type", "quorum");
                arguments.insert("x-delivery-limit", Self::DELIVERY_LIMIT);
                if self.overflow == Overflow::Reject {
                    arguments.insert("x-overflow", "reject-publish");
                }
                if let Some(route) = self.dead_letter_route(namespace) {
                    arguments.insert("x-dead-letter-exchange", route.exchange.into_owned());
                    arguments.insert("x-dead-letter-routing-key", route.routing_key.into_owned());
                    // Needs reject-publish: with drop-head RabbitMQ falls back to at-most-once.
                    if self.overflow == Overflow::Reject {
                        arguments.insert("x-dead-letter-strategy", "at-least-once");
                    }
                }
            }
            QueueType::Classic => {
                if let DeadLetters::To(Some(exchange)) = &self.dead_letters {
                    arguments.insert("x-dead-letter-exchange", exchange.clone().into_owned());
                }
                if let Some(key) = &self.dead_letter_key {
                    arguments.insert("x-dead-letter-routing-key", key.clone().into_owned());
                }
                // Drop-head is AMQP's default, and a program that declares the same does not write it.
                if self.max_length.is_some() && self.overflow == Overflow::Reject {
                    arguments.insert("x-overflow", "reject-publish");
                }
                if let Some(priority) = self.max_priority {
                    // A vhost may make a quorum queue of one without a type, and a quorum queue cannot have this. Whoever
                    // declares the same queue without a type gets the same one in every vhost that lets him declare it.
                    arguments.insert("x-queue-type", "classic");
                    arguments.insert("x-max-priority", i64::from(priority));
                }
            }
        }
        if let Some(ttl) = self.ttl {
            arguments.insert("x-message-ttl", millis(ttl));
        }
        if let Some(length) = self.max_length {
            arguments.insert("x-max-length", i64::try_from(length).unwrap_or(i64::MAX));
        }
        arguments
    }

    fn dead_arguments(&self) -> Headers {
        let mut arguments = Headers::new();
        if self.queue_type == QueueType::Quorum {
            arguments.insert("x-queue-type", "quorum");
            arguments.insert("x-delivery-limit", Self::NO_DELIVERY_LIMIT);
        }
        if let Some(ttl) = self.dead_letter_ttl {
            arguments.insert("x-message-ttl", millis(ttl));
        }
        arguments
    }

    fn check(&self) -> Result<()> {
        check_name("queue", &self.name)?;
        if let DeadLetters::To(Some(exchange)) = &self.dead_letters {
            check_name("dead-letter exchange", exchange)?;
        }
        if let Some(dead) = self.dead_queue() {
            check_name("dead-letter queue", &dead)?;
            if dead == self.name {
                return Err(Error::config(format!(
                    "queue `{dead}` is its own dead-letter queue; name another with `dead_letter_queue`"
                )));
            }
        }
        if self.declare == Declare::Passive && self.subscription.as_ref().is_some_and(Subscription::is_exact)
        {
            let name = &self.name;
            return Err(Error::config(format!(
                "queue `{name}` is declared by others (`declare = \"passive\"`), and so are its bindings: remove \
                 `bindings = \"exact\"`, which would take theirs out"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::HeaderValue;

    fn arguments(topology: &Topology, queue: &str) -> Headers {
        topology.queues.iter().find(|decl| decl.name == queue).expect("declared").arguments.clone()
    }

    #[test]
    fn quorum_queue_is_safe_by_default() {
        let topology = QueueSpec::new("emails").topology(&Namespace::default()).unwrap();

        let expected = Headers::from([
            ("x-queue-type", HeaderValue::from("quorum")),
            ("x-delivery-limit", 100_i64.into()),
            ("x-dead-letter-exchange", "leveret.dlx".into()),
            ("x-dead-letter-routing-key", "emails".into()),
            ("x-dead-letter-strategy", "at-least-once".into()),
            ("x-overflow", "reject-publish".into()),
        ]);
        assert_eq!(arguments(&topology, "emails"), expected);
        assert_eq!(topology.bindings, [BindingDecl::new("leveret.dlx", "emails.dead", "emails")]);
    }

    #[test]
    fn classic_queue_declares_only_what_was_written() {
        let plain = QueueSpec::new("task_queue").queue_type(QueueType::Classic);
        let textbook = QueueSpec::new("orders.processing")
            .queue_type(QueueType::Classic)
            .dlx("dlx")
            .dead_letter_queue("dead.letters")
            .dead_letter_key("failed")
            .dead_letter_ttl(Duration::from_secs(7 * 24 * 3600))
            .ttl(Duration::from_secs(3600))
            .max_length(100_000)
            .overflow(Overflow::DeadLetter);

        let plain = plain.topology(&Namespace::default()).unwrap();
        let textbook = textbook.topology(&Namespace::default()).unwrap();

        let urgent = QueueSpec::new("urgent").queue_type(QueueType::Classic).max_priority(5);
        let urgent = urgent.topology(&Namespace::default()).unwrap();

        assert!(arguments(&plain, "task_queue").is_empty());
        let only_classic = [("x-queue-type", HeaderValue::from("classic")), ("x-max-priority", 5_i64.into())];
        assert_eq!(arguments(&urgent, "urgent"), Headers::from(only_classic));
        assert!(arguments(&plain, "task_queue.dead").is_empty());
        let expected = Headers::from([
            ("x-dead-letter-exchange", HeaderValue::from("dlx")),
            ("x-dead-letter-routing-key", "failed".into()),
            ("x-message-ttl", 3_600_000_i64.into()),
            ("x-max-length", 100_000_i64.into()),
        ]);
        assert_eq!(arguments(&textbook, "orders.processing"), expected);
        assert_eq!(arguments(&textbook, "dead.letters"), Headers::from([("x-message-ttl", 604_800_000_i64)]));
    }

    #[test]
    fn passive_queue_uses_what_is_named_and_declares_what_is_not() {
        let spec = QueueSpec::new("theirs").declare(Declare::Passive);

        let topology = spec.topology(&Namespace::default()).unwrap();
        let named = spec.dlx("dlx").dead_letter_queue("dead").topology(&Namespace::default()).unwrap();

        assert!(topology.queues.iter().any(|queue| queue.name == "theirs" && queue.passive));
        assert!(topology.queues.iter().any(|queue| queue.name == "theirs.dead" && !queue.passive));
        assert!(named.queues.iter().all(|queue| queue.passive) && named.exchanges[0].passive);
        assert!(named.bindings.is_empty());
    }

    #[test]
    fn subscription_brings_its_exchange_and_bindings() {
        let spec = |kind| QueueSpec::new("mails").no_dlx().subscribe(Subscription::new("orders", kind));
        let bindings = |spec: QueueSpec| spec.topology(&Namespace::default()).unwrap().bindings;

        let all = bindings(spec(ExchangeKind::Topic));
        let fanout = spec(ExchangeKind::Fanout).topology(&Namespace::default()).unwrap();
        let some = Subscription::new("orders", ExchangeKind::Topic).key("order.europe.*").key("order.asia.*");

        assert_eq!(all, [BindingDecl::new("orders", "mails", "#")]);
        assert_eq!(fanout.exchanges, [ExchangeDecl::new("orders", ExchangeKind::Fanout)]);
        assert_eq!(fanout.bindings, [BindingDecl::new("orders", "mails", "")]);
        assert_eq!(bindings(QueueSpec::new("mails").no_dlx().subscribe(some)).len(), 2);
    }

    #[test]
    fn passive_queue_is_bound_only_as_the_subscription_says() {
        let topic = || Subscription::new("orders", ExchangeKind::Topic);
        let declared = |subscription| {
            let spec = QueueSpec::new("theirs").declare(Declare::Passive).no_dlx().subscribe(subscription);
            spec.topology(&Namespace::default())
        };

        assert!(declared(topic()).unwrap().bindings.is_empty());
        let bound = declared(topic().key("order.*")).unwrap();
        assert_eq!(bound.bindings, [BindingDecl::new("orders", "theirs", "order.*")]);
        let refused = declared(topic().key("order.*").exact()).unwrap_err().to_string();
        assert!(refused.contains("`theirs`") && refused.contains("exact"), "{refused}");
    }

    #[test]
    fn impossible_names_are_refused_with_a_remedy() {
        let refusal =
            |name: String| QueueSpec::new(name).topology(&Namespace::default()).unwrap_err().to_string();

        assert!(refusal("x".repeat(256)).contains("has 256 bytes"));
        assert!(refusal(String::new()).contains("empty name"));
        assert!(refusal("amq.mine".into()).contains("reserves"));
        // The queue fits, but its dead-letter queue does not.
        assert!(refusal("x".repeat(252)).contains("dead-letter queue"));
    }
}
