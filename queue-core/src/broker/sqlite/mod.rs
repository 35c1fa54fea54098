//! The `sqlite:` broker: embedded and durable, for one program or several processes of one machine.
//!
//! One thread of each client writes (`writer`): it carries out what tasks want (`command`), many in one transaction
//! (`state`). `sync` waits for the disk. Routing and the rules of queues are those of the memory broker
//! (`broker/amqp`, `routing`); `store` keeps messages in rows, and `registry` who is there. The tables are described in `schema.sql`.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::amqp::Published;
use super::{
    Broker, BrokerInfo, ConsumeOptions, Consumer, Health, Liveness, Operator, Publish, Settings, amqp, closed,
};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, PublishError, Result};
use crate::store::Store;
use crate::topology::Topology;

use batch::{Batch, IN_FLIGHT};
use command::{Command, Reply};
use ids::{ClientId, ConsumerId};
use log::Log;
use place::Place;
use reader::Reader;
use registry::SqliteStore;
use state::{Setup, State};
use sync::Syncer;
use tenure::Tenure;
use url::Options;
use writer::Writer;

mod batch;
mod command;
mod consumer;
mod deadlines;
mod declare;
pub(crate) mod fault;
pub(crate) mod headers;
mod ids;
mod inserted;
mod intake;
mod lease;
mod liveness;
mod lock;
mod log;
mod neighbours;
mod operator;
pub(crate) mod outbox_table;
pub(crate) mod place;
mod queues;
mod reader;
mod registry;
mod reply;
pub(crate) mod row;
pub(crate) mod schema;
mod settle;
mod settler;
mod state;
mod subscription;
mod sync;
mod tenure;
#[cfg(test)]
mod tests;
mod time;
pub(crate) mod url;
mod walk;
mod writer;

/// How long a broker that is dropped waits for its writer to give back what was not settled.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long `close` takes at most.
const CLOSING: Duration = Duration::from_secs(10);

/// One client's view of a database file.
///
/// Dropping it closes it, as it were a connection: its consumers end, its exclusive queues are deleted, and what it
/// has not settled goes back to its queues.
#[derive(Debug)]
pub struct SqliteBroker {
    commands: Arc<Sender<Command>>,
    reader: Arc<Reader>,
    store: Arc<SqliteStore>,
    path: PathBuf,
    me: ClientId,
    health: Arc<Mutex<Health>>,
    tenure: Arc<Tenure>,
    clock: Clock,
    /// Ends with the writer.
    writer: Mutex<Receiver<()>>,
    tasks: Mutex<JoinSet<()>>,
}

/// Opens `sqlite:path`, creating the file if need be.
pub(crate) async fn open(url: &str, settings: &Settings) -> Result<Arc<dyn Broker>> {
    let options = Options::parse(url)?;
    let settings = settings.clone();
    let opening = move || SqliteBroker::open(options, &settings);
    // Opening may wait for the disk, and for another program that recovers the file.
    let opened = match Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(opening).await.map_err(|error| {
            Error::new(ErrorKind::Connection, "opening the database was cut short").with_source(error)
        })?,
        Err(_) => opening(),
    };
    Ok(Arc::new(opened?))
}

/// Marks a client's deliveries as lost when its writer has ended.
struct EndTenure(Arc<Tenure>);

impl Drop for EndTenure {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl SqliteBroker {
    fn open(options: Options, settings: &Settings) -> Result<Self> {
        let state = Self::join(options, settings)?;
        let log = Log::of(&state.database());
        let log = File::options().read(true).write(true).open(log.path()).map_err(|error| {
            let words = format!("the log `{}` cannot be synced", log.path().display());
            Error::new(ErrorKind::Connection, words).with_source(error)
        })?;
        Self::start(state, move || log.sync_data())
    }

    /// Opens the file, and registers in it.
    fn join(options: Options, settings: &Settings) -> Result<State> {
        let Options { path, keep, lease } = options;
        let faulty = |fault| fault::error(&path, fault);
        let connection = schema::open(&path)?;
        let setup = Setup {
            path: path.clone(),
            name: settings.name.clone(),
            namespace: settings.namespace.clone(),
            clock: settings.clock.clone(),
            publish_timeout: settings.publish_timeout,
            keep,
            lease,
        };
        // With a sync, after which the log is there and so is its entry in the directory.
        connection.execute_batch("PRAGMA synchronous = FULL").map_err(faulty)?;
        let mut state = State::new(connection, setup);
        state.transact(&[]).map_err(faulty)?;
        // From now on `sync` does it, and the writer checkpoints when it has answered; a log that has become this long
        // all the same is moved at once.
        let quietly = "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 8000";
        state.connection.execute_batch(quietly).map_err(faulty)?;
        Ok(state)
    }

    /// Begins to write; `sync` makes durable what is in the log.
    fn start(state: State, sync: impl FnMut() -> std::io::Result<()> + Send + 'static) -> Result<Self> {
        let without_thread = |error| {
            let words = "the threads that write the database cannot be started";
            Error::new(ErrorKind::Connection, words).with_source(error)
        };
        let (path, me) = (state.setup.path.clone(), state.me);
        let reader = schema::open_reader(&path)?;
        let store_id = schema::store_id(&reader).map_err(|fault| fault::error(&path, fault))?;
        let place = Place::of(&path, &state.database()).map_err(|error| {
            let words = format!("`{}` went away while it was opened", path.display());
            Error::new(ErrorKind::Connection, words).with_source(error)
        })?;
        let place = Arc::new(place);
        let syncer = Syncer::start(sync, place.clone()).map_err(without_thread)?;
        let (commands, receiver) = channel();
        let commands = Arc::new(commands);
        let health = Arc::new(Mutex::new(Health::Up));
        let (tenure, clock) = (state.tenure.clone(), state.setup.clock.clone());
        let writer =
            Writer::new(state, receiver, Arc::downgrade(&commands), syncer, place.clone(), health.clone());
        let (ended, waits) = channel::<()>();
        let written_for = tenure.clone();
        std::thread::Builder::new()
            .name("leveret-sqlite".to_owned())
            .spawn(move || {
                // Also if it panics: with it go the locks, and others take our jobs.
                let _end = EndTenure(written_for);
                writer.run();
                drop(ended);
            })
            .map_err(without_thread)?;
        let reader = Reader::new(reader, path.clone(), place);
        let store = SqliteStore { id: store_id, commands: Arc::downgrade(&commands), reader: reader.clone() };
        Ok(Self {
            commands,
            reader,
            store: Arc::new(store),
            path,
            me,
            health,
            tenure,
            clock,
            writer: Mutex::new(waits),
            tasks: Mutex::default(),
        })
    }

    /// Asks the writer, and waits for its answer. `None` if the broker is closed.
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Option<T> {
        let (reply, answer) = Reply::channel();
        self.commands.send(command(reply)).ok()?;
        answer.await.ok()
    }

    fn end_tasks(&self) -> JoinSet<()> {
        std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Takes a consumer out when its task ends: because it was stopped, or with its client or runtime.
struct Leaving {
    commands: std::sync::Weak<Sender<Command>>,
    consumer: ConsumerId,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(Command::Leave(self.consumer));
        }
    }
}

#[async_trait]
impl Broker for SqliteBroker {
    fn info(&self) -> BrokerInfo {
        let mut info = BrokerInfo::new("sqlite");
        info.version = Some(rusqlite::version().to_owned());
        info.health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        info
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        amqp::check_topology(topology)?;
        let topology = topology.clone();
        self.ask(|reply| Command::Declare { topology, reply }).await.unwrap_or_else(|| Err(closed()))
    }

    async fn publish(&self, publish: Publish) -> Result<(), PublishError> {
        amqp::check_publish(&publish)?;
        let publish = Published::from(publish);
        self.ask(|reply| Command::Publish { publish, reply }).await.unwrap_or(Err(PublishError::Closed))
    }

    async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Result<(), PublishError>> {
        let mut batch = Batch::new(publishes);
        let mut in_flight = VecDeque::with_capacity(IN_FLIGHT);
        loop {
            while in_flight.len() < IN_FLIGHT
                && let Some(publishes) = batch.next_chunk()
            {
                let (len, (reply, answer)) = (publishes.len(), Reply::channel());
                let progress = batch.progress.clone();
                let _ = self.commands.send(Command::PublishAll { publishes, progress, reply });
                in_flight.push_back((len, answer));
            }
            let Some((len, answer)) = in_flight.pop_front() else { return batch.into_results() };
            let closed = |_| (0..len).map(|_| Err(PublishError::Closed)).collect();
            batch.answer(answer.await.unwrap_or_else(closed));
        }
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer> {
        let runtime = crate::runtime::require("consuming")?;
        let (handle, consumer) = Consumer::channel();
        let stopped = handle.until_stopped();
        let id = self
            .ask(|reply| Command::Consume { options, handle, reply })
            .await
            .unwrap_or_else(|| Err(closed()))?;

        let leaving = Leaving { commands: Arc::downgrade(&self.commands), consumer: id };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let watch = async move {
            stopped.await;
            drop(leaving);
        };
        tasks.spawn_on(watch, &runtime);
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
        // At once: what the writer has yet to give back is not to begin meanwhile.
        self.tenure.end();
        self.reader.close();
        let closing = self.ask(Command::Close);
        // Elsewhere there is no timer, and the writer is waited for as long as that takes.
        let closed = match Handle::try_current() {
            Ok(_) => tokio::time::timeout(CLOSING, closing).await.is_ok(),
            Err(_) => {
                closing.await;
                true
            }
        };
        if !closed {
            tracing::warn!(path = %self.path.display(), "the database could not be closed within {CLOSING:?}");
        }
        // Not waited for: their runtime may not be running.
        drop(self.end_tasks());
    }
}

impl Drop for SqliteBroker {
    fn drop(&mut self) {
        self.tenure.end();
        self.reader.close();
        let (reply, _) = Reply::channel();
        let _ = self.commands.send(Command::Close(reply));
        // A program that ends right after would end the writer in the middle of it.
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if writer.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(path = %self.path.display(), "the database is still being closed");
        }
    }
}
