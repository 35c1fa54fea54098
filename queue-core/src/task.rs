//! What a task is to whoever enqueues it: a payload, a name, a queue and options. `#[task]` writes the impl.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::format::Format;
use crate::retry::RetryPolicy;
use crate::topology::QueueSpec;

/// The payload of a task. `#[task]` generates it from the function's by-value parameters; it is implemented by
/// hand where a program enqueues for a worker that is not Leveret's.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the payload of a task",
    note = "`#[task]` above a function generates its payload: `send_email` gives `SendEmail`"
)]
pub trait Task: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The task's name on the wire (AMQP `type`).
    const NAME: &'static str;

    /// The reply of an RPC: what the function returns, or the `T` of its `Result<T, E>`.
    type Output: Serialize + DeserializeOwned;

    /// The queue that its jobs go to.
    fn queue() -> &'static QueueSpec;

    /// How its jobs are run.
    fn options() -> &'static TaskOptions;
}

/// How the jobs of a task are run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TaskOptions {
    /// How often, and with which waits.
    pub retry: RetryPolicy,
    /// How long one attempt may take; `None` is no limit.
    pub timeout: Option<Duration>,
    /// The priority of a job that sets none.
    pub priority: Option<u8>,
    /// Whether it takes the queue's messages that name no task.
    pub is_default: bool,
    /// Names under which its jobs come as well: those that it had before it was renamed.
    pub aliases: &'static [&'static str],
    /// A message with a `reply_to` is a call, which runs once and is answered. If false, it is a job like any other, with
    /// retries and dead letters, and gets no answer.
    pub replies: bool,
    /// How its payloads are written. Those that arrive are read by their own `content_type`.
    pub format: Format,
    /// Which version its payloads are, from 1.
    pub version: u32,
}

impl TaskOptions {
    /// 10 minutes.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
}

impl Default for TaskOptions {
    /// 5 retries, 10 minutes, no priority, no aliases, JSON, version 1; calls are answered.
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            timeout: Some(Self::DEFAULT_TIMEOUT),
            priority: None,
            is_default: false,
            aliases: &[],
            replies: true,
            format: Format::Json,
            version: 1,
        }
    }
}
