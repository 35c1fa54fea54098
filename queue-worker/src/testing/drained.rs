//! The record of one job that a test ran.

use std::error::Error;
use std::fmt;

use queue_core::envelope::Envelope;
use queue_core::format::Format;
use queue_core::outcome::Outcome;
use queue_core::task::Task;

use super::shown;
use crate::events::JobInfo;
use crate::lane::Lane;

/// One attempt of one job that [`TestQueue::drain`](super::TestQueue::drain) has run: which job it was, and what its
/// handler said.
///
/// ```
/// # use queue_core::task::Task;
/// # use queue_worker::testing::TestQueue;
/// # #[derive(Debug)] struct MailError;
/// # impl std::fmt::Display for MailError {
/// #     fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { Ok(()) }
/// # }
/// # impl std::error::Error for MailError {}
/// # async fn f<SendEmail: Task>(queue: TestQueue) {
/// let drained = queue.drain().await;
///
/// assert_eq!(drained[0].job.task(), SendEmail::NAME);
/// assert_eq!(drained[0].job.attempt, 1);
/// assert!(drained[0].payload::<SendEmail>().is_some());
/// assert!(drained[0].error::<MailError>().is_some());
/// # }
/// ```
///
/// It equals an [`Outcome`] as its own outcome does: `assert_eq!(queue.drain().await, [Outcome::Success])`.
#[derive(Clone)]
#[non_exhaustive]
pub struct JobOutcome {
    /// The job: its id, its task and queue, and which attempt this was.
    pub job: JobInfo,
    /// The handler's outcome.
    pub outcome: Outcome,
    envelope: Envelope,
}

impl JobOutcome {
    /// The job of an envelope that a lane is about to run, and, once that is known, its outcome.
    pub(super) fn of(lane: &Lane, envelope: Envelope) -> impl FnOnce(Outcome) -> Self + use<> {
        let job = lane.job_info(&envelope);
        move |outcome| Self { job, outcome, envelope }
    }

    /// True if the job is done.
    pub fn is_success(&self) -> bool {
        self.outcome.is_success()
    }

    /// The handler's error, if it is an `E` or was caused by one; see [`Outcome::error`].
    pub fn error<E: Error + 'static>(&self) -> Option<&E> {
        self.outcome.error()
    }

    /// The job's payload; `None` if the job is one of another task, or its payload is none of `T`'s. One of an older version
    /// is shown as it came, before `upcast`, and so may be none.
    pub fn payload<T: Task>(&self) -> Option<T> {
        if self.job.task() != T::NAME {
            return None;
        }
        let format = Format::of(self.envelope.content_type.as_deref()).ok()?;
        format.decode(&self.envelope.payload).ok()
    }
}

impl PartialEq<Outcome> for JobOutcome {
    fn eq(&self, outcome: &Outcome) -> bool {
        self.outcome == *outcome
    }
}

impl fmt::Debug for JobOutcome {
    /// Shows the payload, since this is what a failed assertion prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobOutcome")
            .field("job", &self.job)
            .field("payload", &shown(&self.envelope))
            .field("outcome", &self.outcome)
            .finish()
    }
}
