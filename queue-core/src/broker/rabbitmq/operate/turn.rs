//! Operators take turns at a queue: while one walks through it, another would see what is left, and take that for all.
//!
//! Within a client a lock sees to that. Between clients of a namespace it is an exclusive queue, `<namespace>.looking.<queue>`:
//! the server refuses it to others while its connection lives, and deletes it with that, so that a crash leaves no lock.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::{Mutex as Turnstile, OwnedMutexGuard};
use tokio::time::Instant;

use super::channels::Channels;
use crate::broker::rabbitmq::connection::fault::{self, code};
use crate::broker::rabbitmq::message::convert::short;
use crate::broker::rabbitmq::topology::declare;
use crate::error::{Error, ErrorKind, Result};
use crate::topology::{Name, Namespace};

/// How long an operator waits for another one.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon it is seen that another client's turn is over: after 50 ms, 0.1 s … 0.5 s, since each look is an error in the
/// server's log.
const LOOK: Duration = Duration::from_millis(50);
const LONGEST_LOOK: Duration = Duration::from_millis(500);
/// How long the server may take for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The queues that this client's operators look at.
pub(crate) struct Turns {
    channels: Channels,
    /// The prefix of the locks' names.
    namespace: Namespace,
    queues: Mutex<HashMap<Name, Arc<Turnstile<()>>>>,
}

impl Turns {
    pub(crate) fn new(channels: Channels, namespace: Namespace) -> Self {
        Self { channels, namespace, queues: Mutex::default() }
    }

    fn of(&self, queue: &Name) -> Arc<Turnstile<()>> {
        let mut turns = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(queue.clone()).or_default().clone()
    }

    /// Asks whether a queue is there.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if it is not; otherwise if that cannot be found out.
    pub(super) async fn look_for(&self, queue: &Name) -> Result<()> {
        let is_exclusive = self.channels.declared.is_exclusive(queue);
        let ask = async |channel: &Channel| {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let found = channel.queue_declare(short(queue), options, FieldTable::default()).await;
            found.map(drop).map_err(|error| declare::refusal_to_operator(queue, &error))
        };
        self.channels.on_queue(is_exclusive, ask).await
    }

    /// Waits until no other operator is at the queue.
    ///
    /// # Errors
    /// If another is for long; or without a connection.
    pub(super) async fn wait(&self, queue: &Name) -> Result<Turn> {
        let deadline = Instant::now() + PATIENCE;
        let client = self.of(queue).lock_owned();
        let Ok(client) = tokio::time::timeout_at(deadline, client).await else { return Err(busy(queue)) };
        let name = short(&format!("{}.looking.{queue}", self.namespace.as_str()));
        let mut look = LOOK;
        loop {
            let (channel, keeps) = self.channels.open(queue).await?;
            let locked = tokio::time::timeout(ANSWER, lock(&channel, &name)).await;
            let shared = match locked {
                Ok(Ok(consumer)) => Some((name, consumer)),
                Ok(Err(error)) if is_taken(&error) => {
                    if Instant::now() >= deadline {
                        return Err(busy(queue));
                    }
                    tokio::time::sleep(look).await;
                    look = (look * 2).min(LONGEST_LOOK);
                    continue;
                }
                refused => {
                    tracing::debug!(%queue, ?refused, "operators of other clients may come in between");
                    let (channel, keeps) = self.channels.open(queue).await?;
                    return Ok(Turn { channel, keeps, lock: Lock { _client: client, shared: None } });
                }
            };
            return Ok(Turn { channel, keeps, lock: Lock { _client: client, shared } });
        }
    }
}

/// An operator's turn at a queue, with the channel to take it on. It ends with the channel at the latest.
pub(super) struct Turn {
    pub(super) channel: Channel,
    /// Keeps the channel's connection.
    pub(super) keeps: Box<dyn Any + Send + Sync>,
    pub(super) lock: Lock,
}

/// Keeps other operators away.
pub(super) struct Lock {
    _client: OwnedMutexGuard<()>,
    /// `None` where the server does not let us have one.
    shared: Option<(ShortString, lapin::Consumer)>,
}

impl Lock {
    /// Lets operators of other clients in at once, not only when the server has seen the channel close. Close the channel
    /// before the lock is dropped: lapin cancels a consumer that is dropped, and fails if its channel closes meanwhile.
    pub(super) async fn open(&self, channel: &Channel) {
        if let Some((name, _consumer)) = &self.shared {
            let deleted = channel.queue_delete(name.clone(), QueueDeleteOptions::default());
            let _ = tokio::time::timeout(ANSWER, deleted).await;
        }
    }
}

/// With a consumer of its own, so that it goes when that does, with the channel.
async fn lock(channel: &Channel, name: &ShortString) -> lapin::Result<lapin::Consumer> {
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let mut classic = FieldTable::default();
    classic.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    channel.queue_declare(name.clone(), options, classic).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(name.clone(), short("turn"), options, FieldTable::default()).await
}

/// True if another operator has it, or is just letting go.
fn is_taken(error: &lapin::Error) -> bool {
    matches!(fault::protocol(error), Some((code::RESOURCE_LOCKED | code::NOT_FOUND, _)))
}

fn busy(queue: &str) -> Error {
    let words = format!(
        "another operator has been at queue `{queue}` for {PATIENCE:?}, and holds what is in it: try again when it is done"
    );
    Error::new(ErrorKind::Topology, words)
}
