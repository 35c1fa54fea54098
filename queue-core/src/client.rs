//! The client, by which a program enqueues. The way of a job: `job` → `client` → `seal` → `broker/*`.
//!
//! `Ok` means that the broker has the job: confirmed, and routed to the task's queue.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub use self::builder::ClientBuilder;
pub use self::enqueue::Enqueue;
pub use self::enqueued::Enqueued;
use self::presence::Listed;
pub use self::results::{EnqueueAllError, EnqueueResults};
use crate::admin::Admin;
use crate::broker::{Broker, BrokerInfo, Operator, Publish, QueueStats, Settings};
use crate::call::replies::Replies;
use crate::clock::Clock;
use crate::declaring::Declaring;
use crate::error::{EnqueueError, Error, ErrorKind, PublishError, Result};
use crate::seal::Sealer;
use crate::store::{Doing, Member, Presence, Store};
use crate::task::Task;
use crate::topology::{Namespace, QueueSpec, Topology};

mod batch;
mod builder;
mod enqueue;
mod enqueued;
mod environment;
mod presence;
mod results;

/// How often a job is published to a queue that is missing, or refuses it without being full.
pub(crate) const TRIES: u32 = 3;
/// How long the deletion of a queue takes.
const MOMENT: Duration = Duration::from_millis(50);

/// A connection to a broker, by which a program enqueues jobs, publishes events and calls tasks. Cheap to clone; all clones
/// share one connection.
///
/// ```
/// use leveret::{Client, task};
///
/// #[task(queue = "emails")]
/// async fn send_email(to: String) {
///     println!("to {to}");
/// }
///
/// #[tokio::main]
/// async fn main() -> leveret::Result<()> {
///     let client = Client::connect("memory:").await?;
///     let job = client.enqueue(SendEmail { to: "ada@example.com".into() }).await?;
///     println!("enqueued {job}");
///     client.close().await;
///     Ok(())
/// }
/// ```
///
/// When the broker has been away, the client reconnects by itself.
///
/// Where the broker has a [store](Self::store), a client is listed in it
/// ([`Admin::clients`](crate::admin::Admin::clients)) from 5 s after it connected until it is closed or dropped. It gives a
/// heartbeat every 5 s on the tokio runtime that it was made on. A client that was made outside of a runtime is not listed.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    broker: Arc<dyn Broker>,
    settings: Settings,
    max_payload: usize,
    /// Queues and exchanges whose topology the broker has confirmed to us.
    declared: RwLock<HashSet<String>>,
    declaring: Declaring,
    /// The calls that wait for their replies.
    replies: Replies,
    listed: Listed,
}

impl Client {
    /// Connects to the broker that `url` names: `memory:`, `sqlite:jobs.db`, or `amqp://user:password@host:5672/vhost`.
    ///
    /// ```
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let client = Client::connect("memory:").await?;
    /// assert_eq!(client.info().system, "memory");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the URL makes no sense, its broker is not compiled in, or it refuses us (wrong password, missing vhost,
    /// bad certificate). See [`ClientBuilder::connect`] for a broker that is away.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder().connect(url).await
    }

    /// Connects to the broker that the environment names: by `LEVERET_URL`, or where that is unset by `RABBITMQ_URL`.
    /// Neither has a default: a program whose variable is missing would enqueue into the wrong broker.
    /// `LEVERET_MANAGEMENT_URL` names RabbitMQ's [management API](ClientBuilder::management).
    ///
    /// ```no_run
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// // LEVERET_URL=amqp://guest:guest@localhost:5672/
    /// let client = Client::from_env().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`connect`](Self::connect); also if neither variable is set, or the one that counts is empty or not UTF-8.
    pub async fn from_env() -> Result<Self> {
        Self::builder().from_env().await
    }

    /// Sets what [`connect`](Self::connect) leaves at its default.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let client = Client::builder().name("shop").publish_timeout(Duration::from_secs(5)).connect("memory:").await?;
    /// # Ok(()) }
    /// ```
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// How many jobs wait in the task's queue, and how many consumers it has.
    ///
    /// ```
    /// # use leveret::{Client, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// client.enqueue(SendEmail { to: "ada@example.com".into() }).await?;
    ///
    /// let stats = client.depth::<SendEmail>().await?;
    /// assert_eq!((stats.ready, stats.consumers), (1, 0));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the queue cannot be declared or looked at. [`Unsupported`](ErrorKind::Unsupported) as [`operator`](Self::operator).
    pub async fn depth<T: Task>(&self) -> Result<QueueStats> {
        self.declare_queue(T::queue()).await?;
        self.operator()?.inspect(T::queue().name()).await
    }

    /// Declares exchanges, queues and bindings of your own, beside those that tasks bring.
    ///
    /// ```
    /// use leveret::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    ///
    /// let archive = Topology::new()
    ///     .exchange(ExchangeDecl::new("order.events", ExchangeKind::Topic))
    ///     .queue(QueueDecl::new("orders.archive"))
    ///     .binding(BindingDecl::new("order.events", "orders.archive", "order.#"));
    /// client.declare(&archive).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If one exists with other settings.
    pub async fn declare(&self, topology: &Topology) -> Result<()> {
        self.inner.broker.declare(topology).await
    }

    /// Declares a task's queue with its dead-letter exchange and queue, unless this client has done so. Enqueueing does it by
    /// itself.
    ///
    /// ```
    /// # use leveret::Task;
    /// # use leveret::{Client, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// // At start-up, so that a queue that exists with other arguments is an error now, and not at the first job.
    /// client.declare_queue(SendEmail::queue()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If its description contradicts itself, or it exists with other settings.
    pub async fn declare_queue(&self, spec: &QueueSpec) -> Result<()> {
        self.declare_once(spec.name(), || spec.topology(&self.inner.settings.namespace)).await
    }

    /// Declares a topology, unless this client has done so under this name.
    pub(crate) async fn declare_once(
        &self,
        name: &str,
        topology: impl FnOnce() -> Result<Topology>,
    ) -> Result<()> {
        let Inner { broker, settings, declared, declaring, .. } = &*self.inner;
        let declare = async {
            broker.declare(&topology()?).await?;
            declared.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
            Ok(())
        };
        declaring.once(settings.publish_timeout, || self.is_declared(name), declare).await
    }

    /// Looks into queues and acts on what is there: depth, dead letters, replay.
    ///
    /// ```
    /// # use leveret::{Client, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// # client.enqueue(SendEmail { to: "ada@example.com".into() }).await?;
    /// let stats = client.admin().depth("emails").await?;
    /// println!("{} mails wait", stats.ready);
    /// # Ok(()) }
    /// ```
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// Names the broker, and tells its state at this moment: for a health check.
    ///
    /// ```
    /// use leveret::Health;
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    ///
    /// let status = match client.info().health {
    ///     Health::Up => 200,
    ///     _ => 503,
    /// };
    /// assert_eq!(status, 200);
    /// # Ok(()) }
    /// ```
    pub fn info(&self) -> BrokerInfo {
        self.inner.broker.info()
    }

    /// The broker itself, for operations that a client does not have. Most programs do not need it.
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.inner.broker
    }

    /// The broker's interface for operators: it tells how deep a queue is and what waits in it, empties it, or deletes it.
    ///
    /// ```
    /// use leveret::Client;
    /// use leveret::topology::{QueueDecl, Topology};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> leveret::Result<()> {
    /// let client = Client::connect("memory:").await?;
    /// client.declare(&Topology::new().queue(QueueDecl::new("emails"))).await?;
    ///
    /// let operator = client.operator()?;
    /// let stats = operator.inspect("emails").await?;
    /// println!("{} jobs wait for {} consumers", stats.ready, stats.consumers);
    /// operator.delete("emails").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) with a broker of your own making that has no [`Operator`].
    pub fn operator(&self) -> Result<&dyn Operator> {
        let broker = &self.inner.broker;
        broker.operator().ok_or_else(|| {
            let system = broker.info().system;
            let words = format!(
                "the broker `{system}` shows nothing to operators: implement `Operator` for it, and return that from \
                 `Broker::operator`"
            );
            Error::new(ErrorKind::Unsupported, words)
        })
    }

    /// The store of this client's broker, which keeps the list of workers and clients. For tools; people ask
    /// [`Admin::workers`](crate::admin::Admin::workers).
    ///
    /// ```
    /// use leveret::Client;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> leveret::Result<()> {
    /// let client = Client::connect("memory:").await?;
    /// let store = client.store()?;
    /// for member in store.registry().members().await? {
    ///     println!("{} was last seen at {:?}", member.name, member.last_seen);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) on RabbitMQ, and with a broker of your own making that has no store.
    pub fn store(&self) -> Result<Arc<dyn Store>> {
        let broker = &self.inner.broker;
        broker.store().ok_or_else(|| {
            let words = match broker.info().system {
                "rabbitmq" => "the broker `rabbitmq` has no store, so that Leveret keeps no list of its workers and clients: \
                     RabbitMQ's own lists name them, as its connections (`rabbitmqctl list_connections client_properties`) and consumers \
                     (`rabbitmqctl list_consumers`), also in its management page; `sqlite:` and `memory:` have a store"
                    .to_owned(),
                system => format!(
                    "the broker `{system}` has no store: implement `Store` for it, and return that from `Broker::store`"
                ),
            };
            Error::new(ErrorKind::Unsupported, words)
        })
    }

    /// Registers a worker of this client and keeps its entry up to date; `look` tells what it runs. `None` without a store or
    /// outside of a tokio runtime.
    #[doc(hidden)]
    pub fn register_worker(
        &self,
        member: Member,
        look: impl Fn() -> Doing + Send + 'static,
    ) -> Option<Presence> {
        let (store, runtime) = (self.inner.broker.store()?, tokio::runtime::Handle::try_current().ok()?);
        let serving = self.inner.listed.serve();
        let look = move || {
            let _serving = &serving;
            Some(look())
        };
        let clock = self.clock().clone();
        Some(Presence::begin(&runtime, store, clock, || member, Duration::ZERO, look))
    }

    /// The clock that this client and its broker go by.
    ///
    /// ```
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// // Tests move this clock, so code under test asks it rather than the system.
    /// let now = client.clock().now();
    /// # let _ = now;
    /// # Ok(()) }
    /// ```
    pub fn clock(&self) -> &Clock {
        &self.inner.settings.clock
    }

    /// The largest payload in bytes that this client sends.
    pub fn max_payload(&self) -> usize {
        self.inner.max_payload
    }

    /// The prefix of Leveret's own names.
    pub fn namespace(&self) -> &Namespace {
        &self.inner.settings.namespace
    }

    /// Sends what is still unsent, waits for its confirms, and closes the connections, within ten seconds at most. Closes all
    /// clones as well.
    ///
    /// ```
    /// # use leveret::Client;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let client = Client::connect("memory:").await?;
    /// // … and at the end of the program:
    /// client.close().await;
    /// # Ok(()) }
    /// ```
    pub async fn close(&self) {
        // Both at once, so that the broker does not wait for the registry.
        tokio::join!(self.inner.listed.end(), self.inner.broker.close());
        self.inner.replies.ended().await;
    }

    pub(crate) fn replies(&self) -> &Replies {
        &self.inner.replies
    }

    pub(crate) fn publish_timeout(&self) -> Duration {
        self.inner.settings.publish_timeout
    }

    /// Seals what this client sends.
    pub(crate) fn sealer(&self) -> Sealer<'_> {
        Sealer { clock: self.clock(), max_payload: self.inner.max_payload }
    }

    /// Publishes to a task's queue. A queue that was deleted since we declared it is declared once more.
    async fn publish_to(&self, spec: &QueueSpec, publish: Publish) -> Result<(), EnqueueError> {
        for _ in 1..TRIES {
            match self.publish_once(spec, publish.clone()).await {
                Err(EnqueueError::Publish(PublishError::Unroutable { .. })) => self.forget(spec.name()),
                Err(EnqueueError::QueueFull { .. }) if self.refuses_for_a_moment(spec).await => {}
                confirmed => return confirmed,
            }
        }
        self.publish_once(spec, publish).await
    }

    /// True if a queue that has refused a job does not look full: RabbitMQ also refuses jobs while a queue is being deleted.
    /// Waits for a moment then.
    pub(crate) async fn refuses_for_a_moment(&self, spec: &QueueSpec) -> bool {
        // Without an operator the depth is unknown, so the refusal stands.
        let Ok(operator) = self.operator() else { return false };
        match operator.inspect(spec.name()).await {
            Ok(stats) if spec.is_full_at(stats.ready) => return false,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Topology) => {
                self.forget(spec.name());
            }
            // A queue whose process has crashed does not answer until it has been started again.
            _ => {}
        }
        // Without a runtime nothing can wait, and brokers that need none do not refuse in this way.
        if tokio::runtime::Handle::try_current().is_err() {
            return false;
        }
        tokio::time::sleep(MOMENT).await;
        true
    }

    /// Publishes to a task's queue, which is declared unless this client has done so.
    pub(crate) async fn publish_once(&self, spec: &QueueSpec, publish: Publish) -> Result<(), EnqueueError> {
        self.declare_for(spec).await?;
        self.inner.broker.publish(publish).await.map_err(|error| enqueue_error(spec, error))
    }

    /// Declares a task's queue for a message, unless this client has done so.
    pub(crate) async fn declare_for(&self, spec: &QueueSpec) -> Result<(), EnqueueError> {
        self.declare_queue(spec).await.map_err(|error| self.declare_error(spec, error))
    }

    /// Publishes a request to a task's queue. May not return while a reply may come.
    pub(crate) async fn request(&self, spec: &QueueSpec, publish: Publish) -> Result<(), EnqueueError> {
        let broker = &self.inner.broker;
        let sent =
            if spec.may_refuse() { broker.publish(publish).await } else { broker.request(publish).await };
        sent.map_err(|error| enqueue_error(spec, error))
    }

    /// The job's error where its queue could not be declared.
    fn declare_error(&self, spec: &QueueSpec, source: Error) -> EnqueueError {
        match self.if_away(source) {
            Ok(away) => EnqueueError::Publish(away),
            Err(source) => EnqueueError::Declare { queue: spec.name().clone().into_owned(), source },
        }
    }

    /// A broker that was away for a declaration was away for the publish that wanted it.
    pub(crate) fn if_away(&self, error: Error) -> Result<PublishError> {
        match error.kind() {
            ErrorKind::Connection => {
                let waited = self.inner.settings.publish_timeout;
                Ok(PublishError::Unavailable { waited, source: Some(error.into()) })
            }
            _ => Err(error),
        }
    }

    fn is_declared(&self, name: &str) -> bool {
        self.inner.declared.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// Forgets that this name was declared, so that it is declared again.
    pub(crate) fn forget(&self, name: &str) {
        self.inner.declared.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("broker", &self.inner.broker).finish_non_exhaustive()
    }
}

fn enqueue_error(spec: &QueueSpec, error: PublishError) -> EnqueueError {
    match error {
        PublishError::QueueFull { .. } => EnqueueError::QueueFull { queue: spec.name().clone().into_owned() },
        other => EnqueueError::Publish(other),
    }
}
