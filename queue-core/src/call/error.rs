//! Why a call has no result.

use std::time::Duration;

use crate::error::{BoxError, EnqueueError, Error, ErrorKind};
use crate::settlement::ReasonKind;

/// Why a call has no result. Whether the job ran is certain only where it is said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The job ran and failed, or its worker could not run it; these are the worker's words. It is not tried again.
    #[error("task `{task}` failed ({kind}): {message}")]
    Handler {
        /// The task's name on the wire.
        task: &'static str,
        /// What kind of failure it was.
        kind: ReasonKind,
        /// What the handler said, with the chain of causes.
        message: String,
    },
    /// There was no reply in time. The job may be running, or have run. If no worker has got to it yet, it will be
    /// dropped unrun.
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
        /// What is wrong with the broker, if anything is.
        source: Option<BoxError>,
    },
    /// There was no reply in time, and nobody consumes the task's queue. If it is consumed later, the job will be
    /// dropped unrun.
    #[error(
        "no reply of task `{task}` within {waited:?}: nobody consumes queue `{queue}`; start a worker for it"
    )]
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
        /// What happened to the connection.
        source: BoxError,
    },
    /// The job ran, but its reply is not what the task returns here: caller and worker are of different versions, or
    /// somebody else answered.
    #[error("the reply of task `{task}` does not decode as `{expected}`")]
    Decode {
        /// The task's name on the wire.
        task: &'static str,
        /// The type that the task returns here.
        expected: &'static str,
        /// What serde said.
        source: BoxError,
    },
    /// The request was not enqueued; the variants of [`EnqueueError`] say why.
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
}

/// So that `?` works where both meet. What went wrong stays in `source()`.
impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        Self::new(ErrorKind::Call, "the call has no result").with_source(error)
    }
}
