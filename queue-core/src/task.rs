//! A task as a producer sees it: a payload, a name, a queue and options. `#[task]` writes the impl.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::format::Format;
use crate::retry::RetryPolicy;
use crate::topology::QueueSpec;

/// The payload of a task. `#[task]` generates it from the function's by-value parameters:
///
/// ```
/// use leveret::{Task, task};
///
/// #[task(queue = "emails")]
/// async fn send_email(to: String) {
///     println!("to {to}");
/// }
///
/// assert_eq!(SendEmail::NAME, "send_email");
/// assert_eq!(SendEmail::queue().name(), "emails");
/// ```
///
/// A program that enqueues for a worker in another language implements it by hand:
///
/// ```
/// use std::sync::LazyLock;
///
/// use leveret::topology::QueueSpec;
/// use leveret::{Task, TaskOptions};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Resize {
///     image: u64,
/// }
///
/// impl Task for Resize {
///     const NAME: &'static str = "images.resize";
///     type Output = ();
///
///     fn queue() -> &'static QueueSpec {
///         static QUEUE: LazyLock<QueueSpec> = LazyLock::new(|| QueueSpec::new("images"));
///         &QUEUE
///     }
///
///     fn options() -> &'static TaskOptions {
///         static OPTIONS: LazyLock<TaskOptions> = LazyLock::new(TaskOptions::default);
///         &OPTIONS
///     }
/// }
/// ```
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

    /// The options by which its jobs run.
    fn options() -> &'static TaskOptions;
}

/// The options of a task, as `#[task(..)]` sets them.
///
/// ```
/// use std::time::Duration;
///
/// use leveret::{Task, task};
///
/// #[task(queue = "emails", retries = 8, timeout = "30s")]
/// async fn send_email(to: String) {
///     println!("to {to}");
/// }
///
/// let options = SendEmail::options();
/// assert_eq!(options.retry.retries, 8);
/// assert_eq!(options.timeout, Some(Duration::from_secs(30)));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TaskOptions {
    /// How often a job is tried, and how long it waits in between.
    pub retry: RetryPolicy,
    /// How long one attempt may take; `None` is no limit.
    pub timeout: Option<Duration>,
    /// The priority of a job that sets none.
    pub priority: Option<u8>,
    /// True if the task takes the queue's messages that name no task.
    pub is_default: bool,
    /// Former names of the task; jobs of these names are run as well.
    pub aliases: &'static [&'static str],
    /// True if a message with a `reply_to` is a call, which runs once and is answered. If false, such a message is a job like
    /// any other, with retries and dead letters, and gets no answer.
    pub replies: bool,
    /// The format in which payloads are written. Arriving payloads are read by their own `content_type`.
    pub format: Format,
    /// The version of its payloads, from 1.
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
