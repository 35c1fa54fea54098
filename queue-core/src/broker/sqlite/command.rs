//! The commands to the writer, and its answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::ids::{ClientId, ConsumerId, QueueId};
use super::settler::SqliteSettler;
use crate::broker::amqp::{Plan, Published};
use crate::broker::tries::is_refusal;
use crate::broker::{ConsumeOptions, ConsumerHandle, reply};
use crate::envelope::HeaderValue;
use crate::error::{PublishError, Result, SettleError};
use crate::store::{Heartbeat, Member};
use crate::topology::{Route, Topology};

/// Where the answer to a command goes, and since when it is waited for.
#[derive(Debug)]
pub(super) struct Reply<T> {
    since: Instant,
    sender: oneshot::Sender<T>,
}

impl<T> Reply<T> {
    /// For a command that is about to be sent.
    pub(super) fn channel() -> (Self, oneshot::Receiver<T>) {
        let (sender, answer) = oneshot::channel();
        (Self { since: Instant::now(), sender }, answer)
    }

    /// Answers the sender. A sender that no longer waits is no error.
    fn send(self, answer: T) {
        let _ = self.sender.send(answer);
    }
}

pub(super) type Outcome = Result<(), PublishError>;

/// Since when the writer has taken nothing of a batch. All commands of the batch share it, so that a long batch has as much
/// time as it needs, and a batch that gets nowhere is refused after one timeout, not one for each command.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    pub(super) fn begin() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn since(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wait begins anew if a message was taken, or refused by a queue.
    fn note(&self, outcomes: &[Outcome]) {
        let is_answered = |outcome: &Outcome| outcome.as_ref().err().is_none_or(is_refusal);
        if outcomes.iter().any(is_answered) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

/// One wish. It is carried out by reference, because a transaction that fails is tried again with fewer of them.
#[derive(Debug)]
pub(super) enum Command {
    Declare {
        topology: Topology,
        reply: Reply<Result<()>>,
    },
    Publish {
        publish: Published,
        reply: Reply<Outcome>,
    },
    PublishAll {
        publishes: Vec<Published>,
        /// How long it has waited; not since it was sent.
        progress: Progress,
        reply: Reply<Vec<Outcome>>,
    },
    Consume {
        options: ConsumeOptions,
        handle: ConsumerHandle,
        reply: Reply<Result<ConsumerId>>,
    },
    Leave(ConsumerId),
    Settle {
        ticket: Ticket,
        plan: Arc<Plan>,
        reply: Reply<Result<(), SettleError>>,
    },
    GiveBack(Ticket),
    /// Writes a header into a job that is out.
    Mark {
        ticket: Ticket,
        name: String,
        value: HeaderValue,
        reply: Reply<Result<(), SettleError>>,
    },
    /// Claims one job, for an operator.
    Take {
        queue: QueueId,
        job: i64,
        /// Settles the delivery, when it has its ticket.
        settler: SqliteSettler,
        reply: Reply<Result<Option<SqliteSettler>>>,
    },
    Purge {
        queue: String,
        reply: Reply<Result<u64>>,
    },
    Delete {
        queue: String,
        reply: Reply<Result<()>>,
    },
    /// Changes the registry of members.
    Change {
        change: Change,
        reply: Reply<Result<bool>>,
    },
    /// The last one. It is answered when nothing of the broker is left.
    Close(Reply<()>),
}

/// A change of the registry of members.
#[derive(Debug)]
pub(super) enum Change {
    Register(Member),
    Heartbeat(Heartbeat),
    Leave(String),
}

/// A job that is out for delivery, and its holder: the fence that keeps a late settlement out. No two deliveries of a file
/// have the same ticket, because no number of a job or client is given twice, and `returns` counts the deliveries.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub(super) client: ClientId,
    pub(super) consumer: ConsumerId,
    pub(super) queue: QueueId,
    pub(super) queue_name: Arc<str>,
    pub(super) job: i64,
    pub(super) returns: i64,
    pub(super) bytes: i64,
    pub(super) dead_letter: Option<Arc<Route>>,
}

#[derive(Debug)]
pub(super) enum Answer {
    None,
    Done(Result<()>),
    Published(Outcome),
    PublishedAll(Vec<Outcome>),
    Consumer(Result<ConsumerId>),
    Settled(Result<(), SettleError>),
    Taken(Result<Option<Ticket>>),
    Purged(Result<u64>),
    Changed(Result<bool>),
    Closed,
}

impl Command {
    /// True if an `Ok` means that it is on the disk. A command that need not be (a claim, an ack) repeats a job when it is lost; a mark is
    /// for those whose process is killed, which loses nothing that was committed.
    pub(super) fn is_durable(&self) -> bool {
        match self {
            // A reply dies with its caller anyway.
            Self::Publish { publish, .. } => {
                let message = &publish.message;
                !(message.exchange.is_empty() && reply::is_address(&message.routing_key))
            }
            Self::Declare { .. } | Self::PublishAll { .. } => true,
            Self::Purge { .. } | Self::Delete { .. } => true,
            Self::Settle { plan, .. } => plan.makes_copy(),
            Self::Consume { .. }
            | Self::Leave(_)
            | Self::GiveBack(_)
            | Self::Mark { .. }
            | Self::Take { .. }
            | Self::Change { .. }
            | Self::Close(_) => false,
        }
    }

    /// How many rows it is good for, so that no transaction grows without bound.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::PublishAll { publishes, .. } => publishes.len(),
            _ => 1,
        }
    }

    /// The moment since which a caller waits for its answer, or for that of a command before it in its batch; `None` without one.
    pub(super) fn since(&self) -> Option<Instant> {
        match self {
            Self::Declare { reply, .. } | Self::Delete { reply, .. } => Some(reply.since),
            Self::Publish { reply, .. } => Some(reply.since),
            Self::PublishAll { progress, .. } => Some(progress.since()),
            Self::Consume { reply, .. } => Some(reply.since),
            Self::Settle { reply, .. } | Self::Mark { reply, .. } => Some(reply.since),
            Self::Take { reply, .. } => Some(reply.since),
            Self::Purge { reply, .. } => Some(reply.since),
            Self::Change { reply, .. } => Some(reply.since),
            Self::Close(reply) => Some(reply.since),
            Self::Leave(_) | Self::GiveBack(_) => None,
        }
    }

    /// Tells who asked.
    pub(super) fn answer(self, answer: Answer) {
        match (self, answer) {
            (Self::Declare { reply, .. } | Self::Delete { reply, .. }, Answer::Done(result)) => {
                reply.send(result)
            }
            (Self::Publish { reply, .. }, Answer::Published(result)) => reply.send(result),
            (Self::PublishAll { progress, reply, .. }, Answer::PublishedAll(results)) => {
                progress.note(&results);
                reply.send(results)
            }
            (Self::Consume { reply, .. }, Answer::Consumer(result)) => reply.send(result),
            (Self::Settle { reply, .. } | Self::Mark { reply, .. }, Answer::Settled(result)) => {
                reply.send(result)
            }
            // If the caller no longer waits, the settler gives the job back.
            (Self::Take { settler, reply, .. }, Answer::Taken(result)) => {
                reply.send(result.map(|taken| taken.map(|ticket| settler.with(ticket))))
            }
            (Self::Purge { reply, .. }, Answer::Purged(result)) => reply.send(result),
            (Self::Change { reply, .. }, Answer::Changed(result)) => reply.send(result),
            (Self::Close(reply), Answer::Closed) => reply.send(()),
            // The others ask nothing. A reply that is dropped says that the broker is closed.
            _ => {}
        }
    }
}
