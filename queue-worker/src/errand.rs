//! The errand of a delivery, decided once at its start: a job to do, a call to answer, or an event to take; and the task that
//! runs it. All later steps go by this.

use std::collections::HashMap;
use std::time::SystemTime;

use queue_core::call::wire;
use queue_core::envelope::Envelope;

use crate::registry::{Queue, Task};
use crate::version;

/// The kind of an errand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is retried until it is done or a dead letter.
    Job,
    /// A caller waits for the reply. It runs once.
    Call,
    /// A subscriber takes it, with retries like a job. A subscriber returns nothing, and may be one of many: an event with a reply
    /// address gets no reply.
    Event,
}

/// A delivery's errand.
#[derive(Debug)]
pub(crate) struct Errand<'plan> {
    pub(crate) kind: Kind,
    /// The task that runs it.
    pub(crate) task: Result<&'plan Task, Misfit>,
}

/// The reason why no task of this worker can take a message.
#[derive(Debug)]
pub(crate) enum Misfit {
    /// A newer worker may know it.
    Unknown(Unknown),
    /// No worker ever will, for this reason.
    BadMessage(String),
}

/// The part of a message that this worker does not know.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unknown {
    /// No task of this worker has the name.
    Task,
    /// The task exists, but the payload is of a later version.
    Version { task: &'static str, version: u32, known: u32 },
}

impl<'plan> Errand<'plan> {
    /// The errand of a message from `queue`, for a worker of these tasks.
    pub(crate) fn of(
        queue: &'plan Queue,
        tasks: &'plan HashMap<&'static str, Task>,
        message: &Envelope,
    ) -> Self {
        if let Some(subscriber) = &queue.subscriber {
            return Self { kind: Kind::Event, task: Ok(subscriber) };
        }
        let named = task_of(queue, tasks, message);
        // In this order: most jobs have no address, and cost no more.
        let is_call = wire::is_call(message) && named.is_none_or(|task| task.options.replies);
        let kind = if is_call { Kind::Call } else { Kind::Job };
        Self {
            kind,
            task: named.ok_or_else(|| nobody(queue, message)).and_then(|task| fitting(task, message)),
        }
    }

    /// True if its caller has given up by now, and would not read the reply.
    pub(crate) fn is_abandoned(&self, message: &Envelope, now: impl FnOnce() -> SystemTime) -> bool {
        self.kind == Kind::Call && wire::deadline(message).is_some_and(|deadline| now() >= deadline)
    }
}

/// The task that a message is for: the one it names; if it names none, the queue's only one or the default one.
///
/// A task is found by its name alone. A message that an exchange routed to a queue other than the task's own is run
/// as well, under that queue's concurrency, and is retried there. A subscriber takes every message of its queue.
pub(crate) fn task_of<'plan>(
    queue: &'plan Queue,
    tasks: &'plan HashMap<&'static str, Task>,
    message: &Envelope,
) -> Option<&'plan Task> {
    if let Some(subscriber) = &queue.subscriber {
        return Some(subscriber);
    }
    match &message.task {
        Some(name) => tasks.get(name.as_str()),
        None => queue.fallback.as_ref(),
    }
}

/// The reason why no task takes the message.
fn nobody(queue: &Queue, message: &Envelope) -> Misfit {
    if message.task.is_some() {
        return Misfit::Unknown(Unknown::Task);
    }
    let (name, known) = (queue.spec.name(), queue.task_list());
    Misfit::BadMessage(format!(
        "the message names no task, and queue `{name}` has several: set the AMQP property `type` to one of {known}, or \
         mark one of them `default`"
    ))
}

/// The task, if it knows the version of the payload.
fn fitting<'plan>(task: &'plan Task, message: &Envelope) -> Result<&'plan Task, Misfit> {
    let (name, known) = (task.name(), task.options.version);
    match version::of(&message.headers) {
        Ok(version) if version <= known => Ok(task),
        Ok(version) => Err(Misfit::Unknown(Unknown::Version { task: name, version, known })),
        Err(words) => Err(Misfit::BadMessage(format!("the payload of task `{name}`: {words}"))),
    }
}
