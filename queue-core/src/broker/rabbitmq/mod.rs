//! The RabbitMQ broker. [`connect`] opens it; from there a job's way is `publisher` ⇢ the server ⇢ `consumer` →
//! `settle`, with `due` routing what is delayed.
//!
//! Everything runs on a small runtime of its own: a handler that blocks the user's threads must not keep
//! heartbeats from being sent.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::aside::Aside;
use self::caller::PublisherHandle;
use self::convert::short;
use self::exact::Exact;
use self::fault::Fault;
use self::hosts::Hosts;
use self::pause::{Pauses, Waiters};
use self::publisher::SharedPublisher;
use self::replier::Replier;
use self::restore::Restored;
use self::runtime::{OwnRuntime, Tasks, on};
use self::server_clock::ServerClock;
use self::session::State;
use self::turn::Turns;
use self::url::Target;
use super::amqp::{Remembered, check_publish, check_queue, check_topology};
use super::reply::is_request;
use super::{
    Broker, BrokerInfo, ConsumeOptions, Consumer, DIRECT_REPLY_TO, Health, Operator, Publish, QueueStats,
    Settings, closed,
};
use crate::declaring::Declaring;
use crate::error::{ErrorKind, PublishError, Result, chain};
use crate::topology::{Name, Topology};

mod address;
mod aside;
mod asked;
mod backlog;
mod blame;
mod caller;
mod connect;
mod consumer;
mod convert;
mod declare;
mod delayed;
mod due;
mod exact;
mod exclusive;
mod fault;
mod flight;
mod hosts;
mod ledger;
#[cfg(feature = "management")]
mod management;
mod many;
mod outgoing;
mod pause;
mod publisher;
mod replier;
mod reply;
mod restore;
mod returns;
mod runtime;
mod server_clock;
mod session;
mod settle;
mod silence;
mod tags;
mod tap;
mod transport;
mod turn;
mod url;
mod waiting;
mod walk;
mod wire;

/// The longest that [`Broker::close`] may take.
const CLOSE: Duration = Duration::from_secs(10);

/// Connects to one of the hosts that the URL names.
///
/// # Errors
/// If the URL makes no sense, the server refuses us, or none answered in as many attempts as the URL says.
pub async fn connect(url: &str, settings: &Settings) -> Result<Arc<dyn Broker>> {
    let target = Target::parse(url)?;
    let exact = Exact::new(settings, &target)?;
    let runtime = OwnRuntime::new()?;
    let shared = Arc::new(Shared {
        hosts: Hosts::new(target.hosts.len()),
        target,
        exact,
        settings: settings.clone(),
        remembered: Mutex::default(),
        exclusive: Mutex::default(),
        waiters: Arc::default(),
        publishers: Mutex::default(),
        sessions: AtomicU64::new(0),
        closed: CancellationToken::new(),
        flushed: CancellationToken::new(),
    });
    let first = shared.clone();
    let link = runtime.run(async move { first_link(&first).await }).await?;

    let (state, mut publishing) = watch::channel(State::default());
    let (publisher, publisher_task) = publisher::publisher(&shared, publishing.clone());
    let publisher_done = CancellationToken::new();
    let (stop, done) = (shared.closed.clone(), publisher_done.clone().drop_guard());
    runtime.handle().spawn(async move {
        publisher_task.run(stop).await;
        drop(done);
    });
    let connections = Tasks::new();
    connections
        .spawn(runtime.handle(), session::supervise(shared.clone(), session::PUBLISHER, state, Some(link)));
    // So that whoever asks for the broker's health at once hears of the connection that there is.
    let _ = publishing.wait_for(|state| state.session.is_some() || state.down.is_some()).await;
    Ok(Arc::new(RabbitMq {
        core: Arc::new(Core {
            shared,
            publisher,
            requester: OnceLock::new(),
            replier: Replier::default(),
            aside: Aside::default(),
            turns: Turns::default(),
            publishing,
            consuming: OnceLock::new(),
            unparsable: Mutex::default(),
            ladder: OnceLock::new(),
            declaring_ladder: Declaring::default(),
            restored: Restored::default(),
            server_clock: ServerClock::default(),
            router: Mutex::default(),
            handle: runtime.handle().clone(),
            tasks: Tasks::new(),
            connections,
        }),
        publisher_done,
        _runtime: runtime,
    }))
}

/// The first connection: a broker that is away is tried as often as the URL says, or for ever; one that refuses us
/// once.
async fn first_link(shared: &Shared) -> Result<connect::Link> {
    let waits = shared.settings.wait_for_broker.then(|| shared.waiters.wait());
    let mut pauses = Pauses::new();
    for attempt in 1.. {
        match session::open_any(shared, session::PUBLISHER).await {
            Ok(link) => return Ok(link),
            Err(Fault { cause, error }) => {
                if cause.is_for_a_person() || (attempt >= shared.target.attempts && waits.is_none()) {
                    return Err(error);
                }
                let delay = shared.target.retry_delay;
                let pause = if waits.is_some() { pauses.failed(cause) } else { Some(delay) };
                if let Some(pause) = pause {
                    tracing::warn!(attempt, ?pause, error = %chain(&error), "RabbitMQ is away; trying again");
                }
                if waits.is_some() {
                    pauses.rest(&shared.waiters).await;
                } else {
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
    unreachable!("the loop ends by returning")
}

/// The broker. Dropping it ends everything that runs for it.
struct RabbitMq {
    core: Arc<Core>,
    publisher_done: CancellationToken,
    _runtime: OwnRuntime,
}

/// What the broker's own tasks need, without owning the runtime that they run on.
struct Core {
    shared: Arc<Shared>,
    publisher: PublisherHandle,
    /// Publishes requests, once somebody reads the replies.
    requester: OnceLock<PublisherHandle>,
    /// Sends direct replies.
    replier: Replier,
    /// Where queues are asked about.
    aside: Aside,
    /// Whose turn it is to walk through a queue.
    turns: Turns,
    publishing: watch::Receiver<State>,
    /// Opened by the first consumer.
    consuming: OnceLock<watch::Receiver<State>>,
    /// Queues that were given up because of a message that ends connections: consumed again, they get one of their
    /// own from the beginning.
    unparsable: Mutex<HashSet<Name>>,
    /// Set when the delay ladder has been declared.
    ladder: OnceLock<()>,
    declaring_ladder: Declaring,
    /// What was deleted and has been declared again.
    restored: Restored,
    /// The server's clock, by which delays go.
    server_clock: ServerClock,
    /// How many consumers need the due router, and what stops it.
    router: Mutex<(usize, Option<CancellationToken>)>,
    handle: Handle,
    /// What feeds consumers, and what else is to end before the connections do.
    tasks: Tasks,
    /// What keeps connections.
    connections: Tasks,
}

/// What sessions need.
struct Shared {
    target: Target,
    exact: Exact,
    settings: Settings,
    /// Declared on every connect.
    remembered: Mutex<Remembered>,
    /// Declared on every connect of the shared consuming connection: its exclusive queues go with it.
    exclusive: Mutex<Remembered>,
    /// How the target's hosts did.
    hosts: Hosts,
    /// Who waits for a connection.
    waiters: Arc<Waiters>,
    /// What may be owed confirms by the node that is published to.
    publishers: Mutex<Vec<SharedPublisher>>,
    /// How many sessions there have been.
    sessions: AtomicU64,
    /// The broker is closed: nothing new begins.
    closed: CancellationToken,
    /// The publisher has sent and heard all it will: connections may close.
    flushed: CancellationToken,
}

impl Shared {
    fn remembered(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares this queue no more.
    fn forget(&self, queue: &str) {
        self.remembered().forget(queue);
        self.exclusive().forget(queue);
    }

    /// Declares on a connection of its own, which is closed afterwards: after a failure it leads to where the others go.
    async fn declare(&self, topology: &Topology) -> Result<()> {
        let link = session::open_any(self, "declare").await.map_err(|fault| fault.error)?;
        let declare = async |channel: &lapin::Channel| declare::declare(channel, topology).await;
        let declared = aside::on_channel(&link, self.target.deadline, declare).await;
        link.close(Duration::from_secs(1)).await;
        declared
    }

    /// Declares everything once more. Only a lost connection is an error: a conflict is logged, and must not keep the
    /// other queues from working.
    async fn redeclare(&self) -> Result<(), Fault> {
        let topology = self.remembered().topology().clone();
        if topology == Topology::default() {
            return Ok(());
        }
        if self.declare(&topology).await.is_ok() {
            return Ok(());
        }
        // Whatever the reason: a queue that does not answer looks as if the connection did not.
        let link = session::open_any(self, "declare").await?;
        let declared = declare::declare_each(&link, self.target.deadline, &topology).await;
        link.close(Duration::from_secs(1)).await;
        declared.map_err(Fault::unwell)
    }

    /// Has a publisher asked what the node owes it.
    fn watch(&self, publisher: SharedPublisher) {
        self.publishers.lock().unwrap_or_else(PoisonError::into_inner).push(publisher);
    }

    /// Since when nothing has been heard from the node that is published to, if somebody waits for it.
    fn silent_since(&self) -> Option<Instant> {
        let publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        publishers.iter().filter_map(|publisher| publisher.lock().silent_since()).min()
    }
}

impl Core {
    /// Runs a task on the broker's runtime that `close` waits for.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(&self.handle, task);
    }

    /// The connection for consuming, opened when it is first asked for. Exclusive queues belong to it.
    fn consuming(&self) -> watch::Receiver<State> {
        self.consuming.get_or_init(|| self.keep_consuming(session::CONSUMER)).clone()
    }

    fn unparsable(&self) -> std::sync::MutexGuard<'_, HashSet<Name>> {
        self.unparsable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another connection for consuming, which owns no exclusive queues.
    fn new_apart(&self) -> watch::Receiver<State> {
        self.keep_consuming(session::APART)
    }

    /// A connection for consuming that lives as long as somebody looks at its state.
    fn keep_consuming(&self, role: &'static str) -> watch::Receiver<State> {
        let (state, receiver) = watch::channel(State::default());
        let keeping = session::supervise(self.shared.clone(), role, state, None);
        self.connections.spawn(&self.handle, keeping);
        receiver
    }

    fn ensure_open(&self) -> Result<()> {
        if self.shared.closed.is_cancelled() { Err(closed()) } else { Ok(()) }
    }

    /// Declares, and remembers for the next connect. Waits for a broker that is away as long as a publish does.
    async fn declare(self: &Arc<Self>, mut topology: Topology) -> Result<()> {
        self.ensure_open()?;
        check_topology(&topology)?;
        let exact = self.shared.exact.take_from(&mut topology)?;
        let exclusive = self.shared.take_exclusive(&mut topology);
        let core = self.clone();
        on(&self.handle, async move {
            let shared = &core.shared;
            if topology != Topology::default() {
                core.declare_patiently(&topology, false).await?;
                shared.remembered().add(&topology);
            }
            if exclusive != Topology::default() {
                core.declare_patiently(&exclusive, true).await?;
                shared.exclusive().add(&exclusive);
            }
            exact.apply(shared).await
        })
        .await
    }

    /// Declares again what failed because the broker was away, when it is back; within the publish timeout.
    async fn declare_patiently(&self, topology: &Topology, is_exclusive: bool) -> Result<()> {
        let deadline = Instant::now() + self.shared.settings.publish_timeout;
        let mut state = self.publishing.clone();
        let _waits = self.shared.waiters.wait();
        let mut pause = Duration::from_millis(100);
        loop {
            let declared = if is_exclusive {
                self.on_consuming(async |channel| declare::declare(channel, topology).await).await
            } else {
                self.shared.declare(topology).await
            };
            if !matches!(&declared, Err(error) if error.kind() == ErrorKind::Connection) {
                return declared;
            }
            // A pause in any case: the publisher may not have noticed yet, or be let in where we are not.
            let back = async {
                tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
                state.wait_for(|state| state.session.is_some()).await.is_ok()
            };
            tokio::select! {
                true = back => {}
                () = tokio::time::sleep_until(deadline) => return declared,
                () = self.shared.closed.cancelled() => return Err(closed()),
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Who publishes this message.
    ///
    /// # Errors
    /// If it is a request, and nobody reads the replies.
    fn publisher_of(&self, publish: &Publish) -> Result<&PublisherHandle, PublishError> {
        if is_request(&publish.envelope) {
            self.requester.get().ok_or(PublishError::NoReader)
        } else {
            Ok(&self.publisher)
        }
    }

    /// Begins to read the replies to this broker's requests.
    async fn consume_replies(&self) -> Result<Consumer> {
        let requester = self.requester.get_or_init(|| {
            let (handle, requester) = publisher::requester(&self.shared, self.publishing.clone());
            self.spawn(requester.run(self.shared.closed.clone()));
            handle
        });
        let (reader, consumer) = Consumer::channel();
        requester.read_replies(reader).await.map(|()| consumer)
    }

    /// Publishes at once, or by the ladder.
    async fn publish(self: &Arc<Self>, publish: Publish) -> Result<(), PublishError> {
        check_publish(&publish)?;
        match publish.not_before {
            Some(eta) if eta > self.shared.settings.clock.now() => {
                // From here on nobody asks this machine's clock: it may be wrong.
                let delay = eta.duration_since(self.shared.settings.clock.now()).unwrap_or_default();
                if !publish.route.exchange.is_empty() {
                    return Err(PublishError::Invalid(format!(
                        "only a queue's messages can be delayed, not those of exchange `{}`",
                        publish.route.exchange
                    )));
                }
                self.publish_delayed(publish.envelope, publish.route.routing_key, delay).await
            }
            _ if Replier::takes(&publish) => self.send_reply(&publish).await,
            _ => self.publisher_of(&publish)?.publish(publish).await,
        }
    }
}

/// Keeps the due router running while it lives.
struct NeedsRouter(Arc<Core>);

impl NeedsRouter {
    fn new(core: &Arc<Core>) -> Self {
        let mut router = core.router.lock().unwrap_or_else(PoisonError::into_inner);
        router.0 += 1;
        if router.1.is_none() {
            let stop = CancellationToken::new();
            router.1 = Some(stop.clone());
            core.spawn(due::route(core.clone(), stop));
        }
        drop(router);
        Self(core.clone())
    }
}

impl Drop for NeedsRouter {
    fn drop(&mut self) {
        let mut router = self.0.router.lock().unwrap_or_else(PoisonError::into_inner);
        router.0 -= 1;
        if router.0 == 0
            && let Some(stop) = router.1.take()
        {
            stop.cancel();
        }
    }
}

impl std::fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RabbitMq").field(&self.core.shared.target).finish()
    }
}

#[async_trait]
impl Broker for RabbitMq {
    fn info(&self) -> BrokerInfo {
        let state = self.core.publishing.borrow();
        let health = match (&state.session, &state.blocked, &state.down) {
            (Some(_), Some(reason), _) => Health::Blocked(reason.clone()),
            (Some(_), None, _) => Health::Up,
            (None, _, Some(error)) => Health::Down(chain(&**error)),
            (None, _, None) => Health::Down("not connected".to_owned()),
        };
        BrokerInfo { health, ..BrokerInfo::new("rabbitmq") }
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        self.core.declare(topology.clone()).await
    }

    async fn publish(&self, publish: Publish) -> Result<(), PublishError> {
        self.core.publish(publish).await
    }

    async fn request(&self, publish: Publish) -> Result<(), PublishError> {
        if publish.not_before.is_some() || !is_request(&publish.envelope) {
            return self.publish(publish).await;
        }
        check_publish(&publish)?;
        self.core.publisher_of(&publish)?.request(publish).await
    }

    async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Result<(), PublishError>> {
        self.core.publish_all(publishes).await
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer> {
        self.core.ensure_open()?;
        check_queue(&options.queue)?;
        if options.queue == DIRECT_REPLY_TO {
            return self.core.consume_replies().await;
        }
        self.core.ensure_ladder().await?;
        let router = NeedsRouter::new(&self.core);
        consumer::start(self.core.clone(), options, Some(router)).await
    }

    async fn inspect(&self, queue: &str) -> Result<QueueStats> {
        self.core.ensure_open()?;
        check_queue(queue)?;
        let (core, queue) = (self.core.clone(), queue.to_owned());
        on(&self.core.handle, async move {
            core.on_queue(core.shared.is_exclusive(&queue), async |channel| {
                let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let found = channel.queue_declare(short(&queue), options, Default::default()).await;
                let found = found.map_err(|error| declare::refusal("queue", &queue, &error))?;
                let consumers = found.consumer_count().into();
                Ok(QueueStats::new(found.message_count().into(), None, consumers))
            })
            .await
        })
        .await
    }

    async fn purge(&self, queue: &str) -> Result<u64> {
        self.core.ensure_open()?;
        check_queue(queue)?;
        let (core, queue) = (self.core.clone(), queue.to_owned());
        on(&self.core.handle, async move {
            core.on_queue(core.shared.is_exclusive(&queue), async |channel| {
                let purged = channel.queue_purge(short(&queue), QueuePurgeOptions::default()).await;
                purged.map(u64::from).map_err(|error| declare::refusal("queue", &queue, &error))
            })
            .await
        })
        .await
    }

    async fn delete(&self, queue: &str) -> Result<()> {
        self.core.ensure_open()?;
        check_queue(queue)?;
        let (core, queue) = (self.core.clone(), queue.to_owned());
        on(&self.core.handle, async move {
            let is_exclusive = core.shared.is_exclusive(&queue);
            // First, or a reconnect in between would declare it again.
            core.shared.forget(&queue);
            core.on_queue(is_exclusive, async |channel| {
                // RabbitMQ says ok to the deletion of a queue that does not exist.
                let deleted = channel.queue_delete(short(&queue), QueueDeleteOptions::default()).await;
                deleted.map(drop).map_err(|error| declare::refusal("queue", &queue, &error))
            })
            .await
        })
        .await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(self)
    }

    async fn close(&self) {
        let core = self.core.clone();
        let published = self.publisher_done.clone();
        let closing = async move {
            core.shared.closed.cancel();
            // Consumers give back what nobody took, and the publisher hears its last confirms.
            let flushing = async { tokio::join!(published.cancelled(), core.tasks.wait()) };
            let _ = tokio::time::timeout(CLOSE - Duration::from_secs(3), flushing).await;
            core.shared.flushed.cancel();
            let _ = tokio::time::timeout(Duration::from_secs(3), core.connections.wait()).await;
        };
        on(&self.core.handle, closing).await;
    }
}
