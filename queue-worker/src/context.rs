//! What a handler may know about its job and do besides it: `&Context`.

use std::fmt;
use std::time::Instant;

use queue_core::client::Client;
use queue_core::envelope::{Headers, JobId};
use tokio_util::sync::CancellationToken;

/// What a handler may know about its job. A task takes it as `&Context`.
pub struct Context {
    pub(crate) id: JobId,
    pub(crate) task: String,
    pub(crate) queue: String,
    pub(crate) attempt: u32,
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancelled: CancellationToken,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) redelivered: bool,
    pub(crate) headers: Headers,
    pub(crate) client: Client,
}

impl Context {
    /// The job's id: the same through all its attempts, and so the key to deduplicate by.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// The task's name on the wire.
    pub fn task(&self) -> &str {
        &self.task
    }

    /// The queue that the job came from.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When the attempt times out; `None` where the task has no timeout.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The exchange that the message was published to; empty for the default exchange.
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// The routing key that the message was published with.
    pub fn routing_key(&self) -> &str {
        &self.routing_key
    }

    /// Whether the broker has delivered this attempt before, so that it may have run in part.
    pub fn is_redelivered(&self) -> bool {
        self.redelivered
    }

    /// The message's headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// A client on the worker's broker, to enqueue more.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the attempt should end: it timed out, or the worker was told to stop at once. A blocking function
    /// looks here from time to time, since nobody can stop it.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Waits until the attempt should end. Cancel safe.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.id)
            .field("task", &self.task)
            .field("queue", &self.queue)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
