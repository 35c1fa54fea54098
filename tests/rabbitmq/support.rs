//! Nodes, names of their own, and waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use queue_core::broker::{Broker, ConsumeOptions, Consumer, Delivery, Settings, rabbitmq};
use queue_core::envelope::Envelope;
use queue_core::topology::{Namespace, QueueDecl, Topology};

/// How long anything may take that must happen. It is generous: it only bounds how long a failure takes.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Makes each `async fn name(node: Node)` a test per node: `rabbitmq3::name`, `rabbitmq4::name`, `rabbitmq43::name`.
macro_rules! on_each_node {
    (@ $module:ident, $number:literal; $($(#[$attribute:meta])* $name:ident),*) => {
        mod $module {
            $($(#[$attribute])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(node) = $crate::support::Node::of($number) {
                    super::$name(node).await;
                }
            })*
        }
    };
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        on_each_node!(@ rabbitmq3, 3; $($(#[$attribute])* $name),*);
        on_each_node!(@ rabbitmq4, 4; $($(#[$attribute])* $name),*);
        on_each_node!(@ rabbitmq43, 43; $($(#[$attribute])* $name),*);
    };
}

/// A RabbitMQ to test on.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) url: String,
    /// Its folder, if `LEVERET_TEST_RABBITMQ<number>_NODE` says so; see `scripts/rabbitmq`.
    pub(crate) folder: Option<String>,
    /// 3, 4 or 43, as `scripts/rabbitmq` calls it.
    pub(crate) number: u32,
}

impl Node {
    /// The node that `scripts/rabbitmq` calls by this number. Without one the test is skipped with a line that says so; in CI version 3
    /// must be there.
    pub(crate) fn of(number: u32) -> Option<Self> {
        let variable = format!("LEVERET_TEST_RABBITMQ{number}");
        match std::env::var(&variable) {
            Ok(url) if !url.is_empty() => {
                return Some(Self { url, folder: std::env::var(format!("{variable}_NODE")).ok(), number });
            }
            Ok(_) => {}
            Err(_) if std::env::var("CI").as_deref() == Ok("true") => {
                panic!(
                    "{variable} is not set: in CI every broker is tested (empty leaves it out on purpose)"
                );
            }
            Err(_) => {}
        }
        eprintln!("skipped: {variable} names no node; `scripts/rabbitmq start {number}` starts one");
        None
    }

    /// The URL with other hosts, other login, or more options.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Url)) -> String {
        let mut url = Url::parse(&self.url);
        change(&mut url);
        url.to_string()
    }

    /// Host and port.
    pub(crate) fn host(&self) -> String {
        Url::parse(&self.url).host
    }

    pub(crate) async fn broker(&self) -> Arc<dyn Broker> {
        broker(&self.url).await
    }
}

/// The parts of an AMQP URL that tests change.
pub(crate) struct Url {
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) host: String,
    pub(crate) vhost: String,
    pub(crate) query: String,
}

impl Url {
    fn parse(url: &str) -> Self {
        let rest = url.strip_prefix("amqp://").expect("an amqp URL");
        let (login, rest) = rest.split_once('@').expect("a login");
        let (user, password) = login.split_once(':').expect("a password");
        let (host, rest) = rest.split_once('/').expect("a vhost");
        let (vhost, query) = rest.split_once('?').unwrap_or((rest, ""));
        let own = |text: &str| text.to_owned();
        Self {
            user: own(user),
            password: own(password),
            host: own(host),
            vhost: own(vhost),
            query: own(query),
        }
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { user, password, host, vhost, query } = self;
        write!(f, "amqp://{user}:{password}@{host}/{vhost}?{query}")
    }
}

/// Settings in a namespace that all tests here share: each ladder is 23 queues, and they stay on the node.
pub(crate) fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.namespace = Namespace::new("test.rabbitmq").unwrap();
    settings.publish_timeout = SOON;
    settings
}

pub(crate) async fn broker(url: &str) -> Arc<dyn Broker> {
    rabbitmq::connect(url, &settings()).await.expect("the node answers")
}

/// A name that no other test and no other run uses.
pub(crate) fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
    format!("test.{what}.{now:x}.{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A queue of the test's own, declared; deleted by [`Queue::delete`], or by its expiry where the test fails.
pub(crate) async fn queue(broker: &Arc<dyn Broker>) -> String {
    queue_with(broker, |decl| decl).await
}

pub(crate) async fn queue_with(
    broker: &Arc<dyn Broker>,
    with: impl FnOnce(QueueDecl) -> QueueDecl,
) -> String {
    let name = unique("queue");
    // What a failed test leaves behind goes by itself.
    let decl = with(QueueDecl::new(name.clone()).argument("x-expires", 600_000_i64));
    broker.declare(&Topology::new().queue(decl)).await.unwrap();
    name
}

pub(crate) fn job(text: &str) -> Envelope {
    Envelope::new(format!("{{\"text\":\"{text}\"}}"))
}

pub(crate) async fn consume(broker: &Arc<dyn Broker>, queue: &str, prefetch: u16) -> Consumer {
    broker.consume(ConsumeOptions::new(queue.to_owned()).prefetch(prefetch)).await.unwrap()
}

/// The next delivery, which must come soon.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    soon("a delivery", consumer.next()).await.expect("the consumer goes on").expect("no error")
}

/// Waits for what must happen soon.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what} did not come within {SOON:?}"))
}

/// Asks until the answer is yes. For what the broker announces in no other way.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(what, poll).await;
}
