//! A client on the broker under test, with queue names that no other promise uses.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[cfg(feature = "rabbitmq")]
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use leveret::{Client, ClientBuilder};
use queue_core::broker::{Broker, ConsumeOptions, Consumer, Publish};
use queue_core::envelope::Envelope;
use queue_core::topology::{BindingDecl, ExchangeDecl, ExchangeKind, Name, QueueDecl, QueueSpec, Topology};

/// Leveret's own names in all promises, and in the next run of this checkout: the delay ladder's 23 quorum queues
/// take seconds to declare, so they are shared, and they stay. Two checkouts on one node keep apart.
static NAMESPACE: LazyLock<String> = LazyLock::new(|| {
    let mut checkout = DefaultHasher::new();
    env!("CARGO_MANIFEST_DIR").hash(&mut checkout);
    format!("leveret-contract-{:08x}", checkout.finish() as u32)
});

/// `what`, made unlike any other name of this or any earlier run.
pub(crate) fn unique(what: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    static RUN: LazyLock<u128> = LazyLock::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        since.as_millis() << 16 | u128::from(std::process::id() & 0xffff)
    });
    format!("{what}.{:x}-{}", *RUN, COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// One promise's client, and what it leaves behind.
pub(crate) struct Fixture {
    pub(crate) client: Client,
    pub(crate) broker: Arc<dyn Broker>,
    url: String,
    promise: &'static str,
    trash: Mutex<Trash>,
}

/// What is deleted at the end.
#[derive(Default)]
struct Trash {
    clients: Vec<Client>,
    queues: Vec<Name>,
    exchanges: Vec<Name>,
}

impl Fixture {
    pub(crate) async fn open(url: String, promise: &'static str) -> Self {
        let client = open(builder(&url, promise), &url).await;
        let trash = Trash { clients: vec![client.clone()], ..Trash::default() };
        Self { broker: client.broker().clone(), client, url, promise, trash: Mutex::new(trash) }
    }

    /// Whether this broker can list bindings: RabbitMQ takes its management API for that.
    pub(crate) fn lists_bindings(&self) -> bool {
        self.broker.info().system != "rabbitmq" || super::place::management(&self.url).is_some()
    }

    /// Whether this is a RabbitMQ before 4.3, where our own brokers keep to what 4.3 does.
    pub(crate) fn is_older_rabbitmq(&self) -> bool {
        super::place::is_one_of(&self.url, &["LEVERET_TEST_RABBITMQ3", "LEVERET_TEST_RABBITMQ4"])
    }

    /// Another client on the same broker.
    pub(crate) async fn other_client(&self) -> Client {
        self.other_client_with(|builder| builder).await
    }

    /// Another client on the same broker, with settings of its own.
    pub(crate) async fn other_client_with(
        &self,
        change: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Client {
        let client = open(change(builder(&self.url, self.promise)), &self.url).await;
        self.trash(|trash| trash.clients.push(client.clone()));
        client
    }

    /// A name for a queue or exchange of this promise.
    pub(crate) fn name(&self, what: &str) -> Name {
        unique(&format!("contract.{}.{what}", self.promise)).into()
    }

    /// Declares by the main client, and deletes at the end.
    pub(crate) async fn declare(&self, topology: &Topology) {
        self.delete_later(topology);
        self.broker.declare(topology).await.unwrap_or_else(|error| panic!("declare: {error}"));
    }

    /// Deletes at the end what `topology` names, but for Leveret's own.
    pub(crate) fn delete_later(&self, topology: &Topology) {
        let own = |name: &Name| name.starts_with(NAMESPACE.as_str());
        self.trash(|trash| {
            let queues = topology.queues.iter().map(|queue| queue.name.clone());
            trash.queues.extend(queues.filter(|name| !own(name)));
            let exchanges = topology.exchanges.iter().map(|exchange| exchange.name.clone());
            trash.exchanges.extend(exchanges.filter(|name| !own(name)));
        });
    }

    /// A queue as a task declares it, with its dead-letter queue: quorum, at-least-once, reject-publish.
    pub(crate) async fn work_queue(&self, what: &str) -> QueueSpec {
        let spec = QueueSpec::new(self.name(what));
        self.declare_spec(&spec).await;
        spec
    }

    /// Declares a queue with its dead-letter exchange and queue.
    pub(crate) async fn declare_spec(&self, spec: &QueueSpec) {
        self.declare(&spec.topology(self.client.namespace()).expect("a possible queue")).await;
    }

    /// A durable queue without arguments (RabbitMQ: classic, the fastest to declare).
    pub(crate) async fn plain_queue(&self, what: &str) -> Name {
        let name = self.name(what);
        self.declare(&Topology::new().queue(QueueDecl::new(name.clone()))).await;
        name
    }

    /// A quorum queue without dead letters.
    pub(crate) async fn quorum_queue(&self, what: &str) -> Name {
        let name = self.name(what);
        self.declare(&Topology::new().queue(quorum(name.clone()))).await;
        name
    }

    /// An exchange.
    pub(crate) async fn exchange(&self, what: &str, kind: ExchangeKind) -> Name {
        let name = self.name(what);
        self.declare(&Topology::new().exchange(ExchangeDecl::new(name.clone(), kind))).await;
        name
    }

    /// A plain queue bound to `exchange`.
    pub(crate) async fn bound_queue(&self, exchange: &Name, key: &str) -> Name {
        let queue = self.name("bound");
        let binding = BindingDecl::new(exchange.clone(), queue.clone(), key.to_owned());
        self.declare(&Topology::new().queue(QueueDecl::new(queue.clone())).binding(binding)).await;
        queue
    }

    /// Publishes `texts` to a queue, in this order.
    pub(crate) async fn send<T: Into<String>>(&self, queue: &Name, texts: impl IntoIterator<Item = T>) {
        let publishes = texts.into_iter().map(|text| message(queue, text)).collect();
        for result in self.broker.publish_all(publishes).await {
            result.unwrap_or_else(|error| panic!("publish to `{queue}`: {error}"));
        }
    }

    /// Consumes with prefetch 1 and dead letters dropped.
    pub(crate) async fn consume(&self, queue: &Name) -> Consumer {
        self.consume_with(ConsumeOptions::new(queue.clone())).await
    }

    pub(crate) async fn consume_with(&self, options: ConsumeOptions) -> Consumer {
        let queue = options.queue.clone();
        self.broker.consume(options).await.unwrap_or_else(|error| panic!("consume `{queue}`: {error}"))
    }

    /// Consumes as a worker does: dead letters go where the queue's description says.
    pub(crate) async fn work(&self, spec: &QueueSpec, prefetch: u16) -> Consumer {
        self.consume_with(
            ConsumeOptions::new(spec.name().clone())
                .prefetch(prefetch)
                .dead_letter(spec.dead_letter_route(self.client.namespace())),
        )
        .await
    }

    /// Closes the clients, then deletes what the promise declared: by a connection of its own, since the promise may
    /// have closed or broken its own.
    pub(crate) async fn clean_up(&self) {
        let trash = self.trash(std::mem::take);
        for client in &trash.clients {
            client.close().await;
        }
        #[cfg(feature = "rabbitmq")]
        if self.url.starts_with("amqp") && !(trash.queues.is_empty() && trash.exchanges.is_empty()) {
            delete(&self.url, &trash).await.expect("delete what the test declared");
        }
        if let Some(file) = self.url.strip_prefix("sqlite:") {
            for suffix in ["", "-wal", "-shm"] {
                // The last client that closes the file takes the others along.
                let _ = std::fs::remove_file(format!("{file}{suffix}"));
            }
        }
    }

    fn trash<R>(&self, f: impl FnOnce(&mut Trash) -> R) -> R {
        f(&mut self.trash.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// A quorum queue without dead letters.
pub(crate) fn quorum(name: Name) -> QueueDecl {
    QueueDecl::new(name)
        .argument("x-queue-type", "quorum")
        .argument("x-delivery-limit", QueueSpec::DELIVERY_LIMIT)
}

/// A mandatory message to a queue.
pub(crate) fn message(queue: &Name, text: impl Into<String>) -> Publish {
    Publish::to_queue(queue.clone(), Envelope::new(text.into()))
}

fn builder(url: &str, promise: &str) -> ClientBuilder {
    let mut builder = Client::builder()
        .namespace(NAMESPACE.as_str())
        .expect("a possible namespace")
        .name(promise)
        .publish_timeout(Duration::from_secs(20));
    if let Some(management) = super::place::management(url) {
        builder = builder.management(management);
    }
    builder
}

async fn open(builder: ClientBuilder, url: &str) -> Client {
    let client = builder.connect(url).await;
    client.unwrap_or_else(|error| panic!("connect: {}", queue_core::error::chain(&error)))
}

#[cfg(feature = "rabbitmq")]
async fn delete(url: &str, trash: &Trash) -> lapin::Result<()> {
    let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for queue in &trash.queues {
        // An over-long name was never declared; `into` would panic on it.
        if let Ok(name) = lapin::types::ShortString::try_new(queue.as_ref()) {
            channel.queue_delete(name, QueueDeleteOptions::default()).await?;
        }
    }
    for exchange in &trash.exchanges {
        if let Ok(name) = lapin::types::ShortString::try_new(exchange.as_ref()) {
            channel.exchange_delete(name, ExchangeDeleteOptions::default()).await?;
        }
    }
    connection.close(200, "done".into()).await
}
