//! The errors of a call.

use std::time::Duration;

use crate::error::{BoxError, EnqueueError, Error, ErrorKind};
use crate::settlement::ReasonKind;

/// The reason why a call has no result. Each variant says whether the job ran, where that is known.
///
/// ```
/// # use std::time::Duration;
/// use leveret::{CallError, Client, task};
///
/// #[task(queue = "sums")]
/// async fn add(a: u64, b: u64) -> Result<u64, String> {
///     Ok(a + b)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
/// match client.call(Add { a: 2, b: 3 }).timeout(Duration::from_millis(50)).await {
///     Ok(sum) => println!("{sum}"),
///     Err(CallError::Handler { message, .. }) => println!("the task failed: {message}"),
///     Err(CallError::NoWorker { queue, .. }) => println!("no worker consumes `{queue}`"),
///     Err(other) => return Err(other.into()),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The job ran and failed, or its worker could not run it. It is not tried again.
    #[error("task `{task}` failed ({kind}): {message}")]
    Handler {
        /// The task's name on the wire.
        task: &'static str,
        /// The kind of failure.
        kind: ReasonKind,
        /// The handler's error, with its chain of causes.
        message: String,
    },
    /// No reply arrived in time. The job may be running, or have run. If no worker has begun it yet, the worker that takes it
    /// drops it.
    #[error(
        "no reply of task `{task}` within {waited:?}: queue `{queue}` may be long or the task slow; raise `.timeout(..)`"
    )]
    Timeout {
        /// The task's name on the wire.
        task: &'static str,
        /// Its queue.
        queue: String,
        /// How long the call waited.
        waited: Duration,
        /// The broker's trouble, if it has any.
        source: Option<BoxError>,
    },
    /// No reply arrived in time, and no worker consumes the task's queue. A worker that starts later drops the job.
    #[error("no reply of task `{task}` within {waited:?}: no worker consumes queue `{queue}`; start one")]
    NoWorker {
        /// The task's name on the wire.
        task: &'static str,
        /// Its queue.
        queue: String,
        /// How long the call waited.
        waited: Duration,
    },
    /// The connection to the broker was lost, or the client closed, while the request was under way. The job may or
    /// may not run; its reply can no longer arrive.
    #[error("the connection was lost while task `{task}` was called: it may or may not have run")]
    Lost {
        /// The task's name on the wire.
        task: &'static str,
        /// The connection's error.
        source: BoxError,
    },
    /// The job ran, but its reply does not fit the task's return type here: caller and worker are of different versions, or
    /// another program answered.
    #[error("the reply of task `{task}` does not decode as `{expected}`")]
    Decode {
        /// The task's name on the wire.
        task: &'static str,
        /// The type that the task returns here.
        expected: &'static str,
        /// serde's error.
        source: BoxError,
    },
    /// The request was not enqueued; the variants of [`EnqueueError`] say why.
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
}

/// Lets `?` convert it. The original error is the `source()`.
impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        Self::new(ErrorKind::Call, "the call has no result").with_source(error)
    }
}
