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

/// One attempt of one job that [`TestQueue::drain`](super::TestQueue::drain) has run: the job, and its outcome.
///
/// ```
/// use std::num::ParseIntError;
///
/// use leveret::testing::TestQueue;
/// use leveret::{Task as _, TaskResult, task};
///
/// #[task(queue = "charges")]
/// async fn charge(cents: String) -> TaskResult {
///     let cents: u64 = cents.parse()?;
///     println!("{cents}");
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let queue = TestQueue::new();
/// # let queue = queue.task::<Charge>();
/// queue.client().enqueue(Charge { cents: "seven".into() }).await.unwrap();
///
/// let drained = queue.drain().await;
/// assert_eq!(drained[0].job.task(), Charge::NAME);
/// assert_eq!(drained[0].job.attempt, 1);
/// assert!(drained[0].payload::<Charge>().is_some());
/// assert!(drained[0].error::<ParseIntError>().is_some());
/// # }
/// ```
///
/// It compares with an [`Outcome`]: `assert_eq!(queue.drain().await, [Outcome::Success])`.
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
    /// Takes the envelope of a job that a lane is about to run, and later its outcome.
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

    /// The job's payload; `None` for a job of another task, or a payload that does not decode as `T`. A payload of an older version
    /// is decoded as it arrived, before `upcast`, and so may be `None`.
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
    /// Prints the payload, since a failed assertion prints this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobOutcome")
            .field("job", &self.job)
            .field("payload", &shown(&self.envelope))
            .field("outcome", &self.outcome)
            .finish()
    }
}
