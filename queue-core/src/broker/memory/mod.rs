//! The `memory:` broker: in process, nothing kept. A faithful model of AMQP as Leveret uses it, so that what passes
//! its tests here runs on RabbitMQ too.
//!
//! `state` knows the topology and settles, `flow` moves messages, `time` does what happens by the clock, `queue`
//! hands messages to consumers. All of it is plain code behind one lock, in `shared`. `registry` is the store, behind another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};

use super::{
    Broker, BrokerInfo, ConsumeOptions, Consumer, DIRECT_REPLY_TO, Delivery, Liveness, Operator, Publish,
    Settings, amqp, closed,
};
use crate::envelope::JobId;
use crate::error::{Error, PublishError, Result};
use crate::store::Store;
use crate::topology::Topology;

use ids::{ClientId, ConsumerId};
use registry::MemoryStore;
use shared::{Shared, keep_time};
use state::State;

mod activity;
mod consumer;
mod delays;
mod flow;
mod ids;
mod operator;
mod queue;
mod ready;
mod registry;
mod reply;
mod settler;
mod shared;
mod state;
mod time;
mod walk;

#[cfg(test)]
mod tests;

pub use activity::{Activity, Waiting};

/// How many messages of a batch are published before others get at the broker.
const BATCH: usize = 256;

/// The brokers that are shared by name, as long as a client holds them.
static SHARED: Mutex<Option<HashMap<String, Weak<Shared>>>> = Mutex::new(None);

/// One client's view of a memory broker. `memory:` is a broker of its own; those of one `memory:name` see the same
/// queues.
///
/// Dropping it closes it, as it were a connection: its consumers end, its exclusive queues are deleted, and what it
/// has not settled goes back to its queues.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use queue_core::broker::memory::MemoryBroker;
/// use queue_core::broker::{Broker, Operator, Publish, Settings};
/// use queue_core::clock::Clock;
/// use queue_core::envelope::Envelope;
/// use queue_core::topology::{QueueDecl, Topology};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut settings = Settings::default();
/// settings.clock = Clock::manual(SystemTime::now());
/// let broker = MemoryBroker::new(&settings);
/// broker.declare(&Topology::new().queue(QueueDecl::new("emails"))).await?;
///
/// let mut tomorrow = Publish::to_queue("emails", Envelope::new("{}"));
/// tomorrow.not_before = Some(settings.clock.now() + Duration::from_secs(24 * 3600));
/// broker.publish(tomorrow).await?;
/// assert_eq!(broker.activity().delayed, 1);
///
/// settings.clock.advance(Duration::from_secs(24 * 3600));
/// assert_eq!(broker.inspect("emails").await?.ready, 1);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
    client: ClientId,
    is_closed: AtomicBool,
    tasks: Mutex<Tasks>,
    store: Arc<MemoryStore>,
}

/// The tasks of one client; they end with it.
#[derive(Debug, Default)]
struct Tasks {
    all: JoinSet<()>,
    timer: Option<AbortHandle>,
}

/// Opens `memory:`, a broker of its own, or `memory:name`, shared in the process.
pub(crate) fn open(url: &str, settings: &Settings) -> Result<Arc<dyn Broker>> {
    let name = url.split_once(':').map_or("", |(_, name)| name);
    if let Some(junk) = name.chars().find(|c| !(c.is_alphanumeric() || "-_.".contains(*c))) {
        return Err(Error::config(format!(
            "`{url}` cannot be opened because of `{junk}`: take `memory:`, or `memory:name` with a name of letters, \
             digits, `-`, `_` and `.`"
        )));
    }
    if name.is_empty() { Ok(MemoryBroker::new(settings)) } else { Ok(MemoryBroker::shared(name, settings)?) }
}

impl MemoryBroker {
    /// A broker of its own. For a [`Client`](crate::client::Client) on it that tells the same time, give
    /// [`ClientBuilder`](crate::client::ClientBuilder) the same clock.
    pub fn new(settings: &Settings) -> Arc<Self> {
        Self::on(Shared::new(settings.clock.clone()), settings)
    }

    /// The broker of this name, shared in the process while anyone holds it.
    ///
    /// # Errors
    /// If it runs by another clock than `settings.clock`.
    pub fn shared(name: &str, settings: &Settings) -> Result<Arc<Self>> {
        let mut by_name = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let by_name = by_name.get_or_insert_default();
        by_name.retain(|_, shared| shared.strong_count() > 0);
        let shared = match by_name.get(name).and_then(Weak::upgrade) {
            Some(shared) if shared.clock().is_same(&settings.clock) => shared,
            Some(_) => {
                return Err(Error::config(format!(
                    "`memory:{name}` is open with another clock: give all its clients clones of one clock, or take \
                     another name"
                )));
            }
            None => {
                let shared = Shared::new(settings.clock.clone());
                by_name.insert(name.to_owned(), Arc::downgrade(&shared));
                shared
            }
        };
        Ok(Self::on(shared, settings))
    }

    fn on(shared: Arc<Shared>, settings: &Settings) -> Arc<Self> {
        let client = shared.with(|state| state.open_client(settings.namespace.clone()));
        let store = MemoryStore::new(Arc::clone(shared.roster()));
        Arc::new(Self { shared, client, is_closed: AtomicBool::new(false), tasks: Mutex::default(), store })
    }

    /// All jobs that wait, as of now: first the ready ones, by queue and in the order in which they would be
    /// delivered, then the delayed ones by due time.
    pub fn snapshot(&self) -> Vec<Waiting> {
        self.shared.look(|state| state.snapshot())
    }

    /// Takes the next job of a queue without consuming it, or the one named, wherever it stands. It counts as
    /// unsettled until it is settled; `prefetch` and `name` of the options play no part.
    ///
    /// # Errors
    /// If the queue does not exist or may not be used.
    pub fn take(&self, options: &ConsumeOptions, job: Option<&JobId>) -> Result<Option<Delivery>> {
        self.act(|state| state.take(self.client, options, job))?
    }

    /// The work that is left at this moment.
    pub fn activity(&self) -> Activity {
        self.shared.look(|state| state.activity())
    }

    /// Waits until `is_reached` says so of what there is to do; it is asked at once and after each change. For
    /// example, `broker.wait_for(Activity::is_idle)`. Cancel safe.
    pub async fn wait_for(&self, mut is_reached: impl FnMut(&Activity) -> bool) -> Activity {
        self.ensure_timer();
        let mut changes = self.shared.changes();
        loop {
            changes.borrow_and_update();
            // Not by `with`, which would count as a change and wake all tasks that wait here.
            let activity = self.shared.look(|state| state.activity());
            if is_reached(&activity) {
                return activity;
            }
            // The sender lives in `self.shared`, so it cannot be gone.
            let _ = changes.changed().await;
        }
    }

    /// Looks at something, unless closed.
    fn look<R>(&self, look: impl FnOnce(&mut State) -> R) -> Result<R> {
        let is_open = |state: &State| state.clients.contains_key(&self.client);
        self.shared.look(|state| is_open(state).then(|| look(state))).ok_or_else(closed)
    }

    /// Does something, unless closed, and starts a task that watches the clock if needed.
    fn act<R>(&self, act: impl FnOnce(&mut State) -> R) -> Result<R> {
        let is_open = |state: &State| state.clients.contains_key(&self.client);
        let result = self.shared.with(|state| is_open(state).then(|| act(state))).ok_or_else(closed)?;
        if self.shared.needs_timer() {
            self.ensure_timer();
        }
        Ok(result)
    }

    /// Starts this client's timer, if it does not run. Each client has its own, since the runtime of another may end.
    fn ensure_timer(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.timer.as_ref().is_none_or(AbortHandle::is_finished)
            && !self.is_closed.load(Ordering::Acquire)
        {
            let timer = tasks.all.spawn_on(keep_time(Arc::downgrade(&self.shared)), &runtime);
            tasks.timer = Some(timer);
        }
    }
}

/// Takes a consumer out when its task ends: because it was stopped, or with its client or runtime.
struct Leaving {
    shared: Weak<Shared>,
    consumer: ConsumerId,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.with(|state| state.remove_consumer(self.consumer));
        }
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    fn info(&self) -> BrokerInfo {
        BrokerInfo::new("memory")
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        amqp::check_topology(topology)?;
        self.act(|state| state.declare(self.client, topology))?
    }

    async fn publish(&self, publish: Publish) -> Result<(), PublishError> {
        amqp::check_publish(&publish)?;
        self.act(|state| state.publish(self.client, publish)).unwrap_or(Err(PublishError::Closed))
    }

    async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Result<(), PublishError>> {
        let mut results = Vec::with_capacity(publishes.len());
        let mut publishes = publishes.into_iter().peekable();
        while publishes.peek().is_some() {
            let batch: Vec<_> = publishes.by_ref().take(BATCH).collect();
            let len = batch.len();
            let published = self.act(|state| {
                results.extend(batch.into_iter().map(|publish| {
                    amqp::check_publish(&publish).and_then(|()| state.publish(self.client, publish))
                }));
            });
            if published.is_err() {
                results.extend((0..len).map(|_| Err(PublishError::Closed)));
            }
        }
        results
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer> {
        let runtime = crate::runtime::require("consuming")?;
        let (handle, consumer) = Consumer::channel();
        let stopped = handle.until_stopped();
        let id = self.act(|state| match &*options.queue {
            DIRECT_REPLY_TO => state.consume_replies(self.client, handle),
            _ => state.consume(self.client, options, handle),
        })??;
        self.ensure_timer();

        let leaving = Leaving { shared: Arc::downgrade(&self.shared), consumer: id };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.all.try_join_next().is_some() {}
        let watch = async move {
            stopped.await;
            drop(leaving);
        };
        tasks.all.spawn_on(watch, &runtime);
        Ok(consumer)
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(self)
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(self.store.clone())
    }

    fn liveness(&self) -> Option<&dyn Liveness> {
        Some(self)
    }

    async fn close(&self) {
        self.store.close();
        self.is_closed.store(true, Ordering::Release);
        self.shared.with(|state| state.close_client(self.client));
        // Not waited for: their runtime may not be running.
        drop(std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner)));
    }
}

/// Clients stand for processes: one that is closed with jobs in hand is as one whose process has ended.
#[async_trait]
impl Liveness for MemoryBroker {
    async fn name(&self) -> Result<String> {
        self.look(|_| self.client.to_string())
    }

    async fn is_alive(&self, name: &str) -> Result<bool> {
        self.look(|state| name.parse().is_ok_and(|client: ClientId| state.clients.contains_key(&client)))
    }
}

impl Drop for MemoryBroker {
    fn drop(&mut self) {
        self.store.close();
        self.shared.with(|state| state.close_client(self.client));
    }
}
