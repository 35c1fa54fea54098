//! The outcome of one attempt. Between `handler`, which produces an [`Outcome`], and [`retry`](crate::retry), which
//! turns it into a [`Settlement`](crate::settlement::Settlement).
//!
//! An error is retried unless it carries another [`Verdict`]. The verdict stands in the error's `source()` chain, so that it
//! survives a `Box`, anyhow (under `.context` too), eyre, and an enum with `#[source]`.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::settlement::{Reason, ReasonKind};

use crate::error::{BoxError, causes, chain};

/// The outcome of one attempt. Handlers produce it from what they return; layers and tests read it.
///
/// ```
/// use leveret::testing::TestQueue;
/// use leveret::{Outcome, TaskError, TaskResult, task};
///
/// #[task(queue = "charges")]
/// async fn charge(cents: u64) -> TaskResult {
///     if cents == 0 { Err(TaskError::permanent("nothing to charge").into()) } else { Ok(()) }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let queue = TestQueue::new();
/// assert_eq!(queue.perform(Charge { cents: 5 }).await, Outcome::Success);
/// assert!(matches!(queue.perform(Charge { cents: 0 }).await, Outcome::Failure(_)));
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// The job is done.
    Success,
    /// The job is done, and this is the reply to its caller, in the format of the request, which is JSON by default. Only for a
    /// job that a caller waits for.
    Reply(Bytes),
    /// The handler put the job off: it comes again in `after`, at least a [second](crate::retry::MIN_SNOOZE) later. This costs no
    /// attempt, and is no failure.
    Snooze {
        /// How long it waits at least.
        after: Duration,
    },
    /// The attempt failed.
    Failure(Failure),
}

/// An error that asks for a [snooze](TaskError::snooze) is no failure.
impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        match failure.verdict {
            Verdict::Snooze(after) => Self::Snooze { after },
            _ => Self::Failure(failure),
        }
    }
}

impl Outcome {
    /// A failure of `kind` that runs again while the task has retries left.
    pub fn failed(kind: ReasonKind, message: impl Into<String>) -> Self {
        Self::Failure(Failure::new(Reason::new(kind, message), Verdict::Retry))
    }

    /// A failure of `kind` that goes straight to the dead letters.
    pub fn dead(kind: ReasonKind, message: impl Into<String>) -> Self {
        Self::Failure(Failure::new(Reason::new(kind, message), Verdict::Permanent))
    }

    /// True if the job is done.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Success | Self::Reply(_))
    }

    /// The handler's error, if it is an `E` or was caused by one; see [`Failure::error`].
    pub fn error<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Failure(failure) => failure.error(),
            _ => None,
        }
    }
}

/// The reason why an attempt failed, and what should happen next. Two failures are equal if reason and verdict are.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure {
    /// The reason, with the kind of failure.
    pub reason: Reason,
    /// The next step that the error asks for.
    pub verdict: Verdict,
    /// The error that the handler returned. Empty after a panic, a timeout or a bad message.
    error: Option<Arc<BoxError>>,
}

impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        (&self.reason, self.verdict) == (&other.reason, other.verdict)
    }
}

/// The next step that an error asks for; see [`TaskError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Try again after the task's backoff, while it has retries left.
    Retry,
    /// Try again after this long, while the task has retries left.
    RetryIn(Duration),
    /// Try again after this long; the attempt counts neither as an attempt nor as a failure.
    Snooze(Duration),
    /// Do not try again: a retry cannot mend it.
    Permanent,
}

/// The result of a task that may return any error: `?` works on every error type in it.
///
/// ```
/// use leveret::{TaskResult, task};
///
/// #[task(queue = "imports")]
/// async fn import(path: String) -> TaskResult {
///     let rows = std::fs::read_to_string(&path)?;
///     let total: u64 = rows.trim().parse()?;
///     println!("{total}");
///     Ok(())
/// }
/// ```
pub type TaskResult = Result<(), BoxError>;

/// An error with a [`Verdict`]: it says what becomes of the job. An error without one is retried after the task's backoff.
///
/// ```
/// use std::time::Duration;
///
/// use leveret::{TaskError, TaskResult, task};
///
/// #[task(queue = "charges")]
/// async fn charge(card: String, cents: u64) -> TaskResult {
///     if card.is_empty() {
///         return Err(TaskError::permanent("the order has no card").into());
///     }
///     if cents > 100_000 {
///         return Err(TaskError::retry_in(Duration::from_secs(3600), "the bank's daily limit is used up").into());
///     }
///     Ok(())
/// }
/// ```
///
/// [`ResultExt`] marks the error of a `Result` in the same way: `card.parse().permanent()?`.
#[derive(Debug)]
pub struct TaskError(Marked);

/// Stands in the `source()` chain: carries the verdict, displays the error, forwards the error's source.
#[derive(Debug)]
struct Marked {
    verdict: Verdict,
    error: BoxError,
}

impl TaskError {
    /// An error that a retry cannot mend: the job becomes a dead letter at once.
    ///
    /// ```
    /// use leveret::{TaskError, TaskResult};
    ///
    /// fn check(card: &str) -> TaskResult {
    ///     if card.is_empty() {
    ///         return Err(TaskError::permanent("the order has no card").into());
    ///     }
    ///     Ok(())
    /// }
    /// # assert!(check("").is_err());
    /// ```
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self(Marked { verdict: Verdict::Permanent, error: error.into() })
    }

    /// An error after which the job runs again in `after`, instead of after the task's backoff. It counts as an
    /// attempt.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use leveret::{TaskError, Verdict};
    ///
    /// let error = TaskError::retry_in(Duration::from_secs(60), "429 Too Many Requests");
    /// assert_eq!(error.verdict(), Verdict::RetryIn(Duration::from_secs(60)));
    /// ```
    pub fn retry_in(after: Duration, error: impl Into<BoxError>) -> Self {
        Self(Marked { verdict: Verdict::RetryIn(after), error: error.into() })
    }

    /// Puts the job off: it comes again in `after`, as if this delivery had not happened. A snooze costs no attempt, leaves no
    /// error on the job, and is neither logged nor counted as a failure. Use it for causes outside the job that will pass: a
    /// rate limit, a used-up quota, office hours.
    ///
    /// A wait of less than a [second](crate::retry::MIN_SNOOZE) is a second. A job may be snoozed any number of times.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use leveret::{TaskError, TaskResult};
    ///
    /// fn book(closed_for: Option<Duration>) -> TaskResult {
    ///     if let Some(left) = closed_for {
    ///         return Err(TaskError::snooze(left).into());
    ///     }
    ///     Ok(())
    /// }
    /// # assert!(book(Some(Duration::from_secs(60))).is_err() && book(None).is_ok());
    /// ```
    pub fn snooze(after: Duration) -> Self {
        Self(Marked { verdict: Verdict::Snooze(after), error: format!("not now, but in {after:?}").into() })
    }

    /// An error after which the job runs again after the task's backoff, as after any error. It overrides another verdict further
    /// down the chain of causes.
    ///
    /// ```
    /// use leveret::{TaskError, Verdict};
    ///
    /// assert_eq!(TaskError::retry("the mail server is busy").verdict(), Verdict::Retry);
    /// ```
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self(Marked { verdict: Verdict::Retry, error: error.into() })
    }

    /// The next step that the error asks for.
    pub fn verdict(&self) -> Verdict {
        self.0.verdict
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for TaskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Display for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for Marked {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Marks the error of a `Result` with a [`Verdict`].
///
/// ```
/// use std::time::Duration;
///
/// use leveret::{ResultExt as _, TaskResult, task};
///
/// #[task(queue = "imports")]
/// async fn import(path: String, expected: String) -> TaskResult {
///     // Text that is no number will not become one.
///     let expected: usize = expected.parse().permanent()?;
///     // The file may arrive late.
///     let rows = std::fs::read_to_string(&path).retry_in(Duration::from_secs(60))?;
///     assert_eq!(rows.lines().count(), expected);
///     Ok(())
/// }
/// ```
pub trait ResultExt<T> {
    /// Marks the error as permanent: the job becomes a dead letter at once.
    ///
    /// ```
    /// use leveret::{ResultExt as _, Verdict};
    ///
    /// let error = "seven".parse::<u8>().permanent().unwrap_err();
    /// assert_eq!(error.verdict(), Verdict::Permanent);
    /// ```
    ///
    /// # Errors
    /// The error, marked.
    fn permanent(self) -> Result<T, TaskError>;

    /// Marks the error so that the job runs again in `after`, instead of after the task's backoff.
    ///
    /// # Errors
    /// The error, marked.
    fn retry_in(self, after: Duration) -> Result<T, TaskError>;
}

impl<T, E: Into<BoxError>> ResultExt<T> for Result<T, E> {
    fn permanent(self) -> Result<T, TaskError> {
        self.map_err(TaskError::permanent)
    }

    fn retry_in(self, after: Duration) -> Result<T, TaskError> {
        self.map_err(|error| TaskError::retry_in(after, error))
    }
}

/// The return type of a task: `()` or `Result<T, E>`. This trait decides it, and not the syntax, so that aliases
/// work.
#[diagnostic::on_unimplemented(
    message = "a task returns `()` or a `Result`, not `{Self}`",
    label = "neither `()` nor `Result<T, E>`",
    note = "return `TaskResult` where nobody waits for a reply, `Result<T, E>` where `T` is the reply of an RPC"
)]
pub trait IntoOutcome {
    /// The reply of an RPC.
    type Output: Serialize + DeserializeOwned;

    /// Reads the verdict out of the error's chain.
    ///
    /// # Errors
    /// The failure that the error means.
    fn into_result(self) -> Result<Self::Output, Failure>;

    /// The outcome of a job without a caller: drops the reply.
    fn into_outcome(self) -> Outcome
    where
        Self: Sized,
    {
        match self.into_result() {
            Ok(_) => Outcome::Success,
            Err(failure) => failure.into(),
        }
    }
}

#[diagnostic::do_not_recommend]
impl IntoOutcome for () {
    type Output = ();

    fn into_result(self) -> Result<(), Failure> {
        Ok(())
    }
}

/// The reply of a task. A bound of our own, so that the compiler's error is ours, and not a list of types that serde can
/// read.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the reply of a task",
    label = "not `Serialize + DeserializeOwned`",
    note = "derive `Serialize` and `Deserialize` for it; use `Result<(), E>` where there is no reply"
)]
pub trait Reply: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Reply for T {}

/// The errors of a task.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no error that a task can return",
    label = "not an `std::error::Error + Send + Sync`, nor text",
    note = "implement `std::error::Error` for it, or return `TaskResult`, in which `?` takes every error"
)]
pub trait HandlerError: Into<BoxError> {}

#[diagnostic::do_not_recommend]
impl<E: Into<BoxError>> HandlerError for E {}

impl<T: Reply, E: HandlerError> IntoOutcome for Result<T, E> {
    type Output = T;

    fn into_result(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::from_error(error.into()))
    }
}

impl Failure {
    /// A failure without a handler's error.
    pub(crate) fn new(reason: Reason, verdict: Verdict) -> Self {
        Self { reason, verdict, error: None }
    }

    /// The failure of a handler that returned `error`.
    pub fn from_error(error: BoxError) -> Self {
        let verdict = verdict(&*error);
        let kind = if verdict == Verdict::Permanent { ReasonKind::Permanent } else { ReasonKind::Failed };
        Self { reason: Reason::new(kind, chain(&*error)), verdict, error: Some(Arc::new(error)) }
    }

    /// The handler's error, if it is an `E` or was caused by one. For tests, and for layers around the handlers. Looks
    /// through boxes, the marks of [`TaskError`], and `source()`. `None` also where no handler returned an error: after a panic,
    /// a timeout or a bad message.
    ///
    /// ```
    /// use leveret::{Failure, TaskError};
    ///
    /// let failure = Failure::from_error(TaskError::permanent("x".parse::<u8>().unwrap_err()).into());
    ///
    /// assert!(failure.error::<std::num::ParseIntError>().is_some());
    /// assert!(failure.error::<std::io::Error>().is_none());
    /// ```
    pub fn error<E: Error + 'static>(&self) -> Option<&E> {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&***self.error.as_ref()?);
        // Bounded: the chain is the user's, and may be a ring.
        for _ in 0..MAX_CAUSES {
            let error = cause?;
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            // A mark stands in the place of the error that it marks.
            cause = match (error.downcast_ref(), error.downcast_ref()) {
                (Some(TaskError(marked)), _) | (None, Some(marked)) => {
                    let Marked { error, .. } = marked;
                    Some(&**error)
                }
                (None, None) => error.source(),
            };
        }
        None
    }
}

/// How far down a chain of causes an error is looked for.
const MAX_CAUSES: usize = 100;

/// The first verdict in the chain of causes, the outermost counting most.
fn verdict(error: &(dyn std::error::Error + 'static)) -> Verdict {
    let marks = causes(error).find_map(|error| match error.downcast_ref() {
        Some(TaskError(marked)) => Some(marked),
        None => error.downcast_ref::<Marked>(),
    });
    marks.map_or(Verdict::Retry, |marked| marked.verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Wrapper {
        #[error("could not send")]
        Source(#[source] BoxError),
        #[error(transparent)]
        Transparent(TaskError),
    }

    fn failure(error: impl Into<BoxError>) -> Failure {
        Failure::from_error(error.into())
    }

    #[test]
    fn plain_error_is_retryable() {
        assert_eq!(failure("no route to host").verdict, Verdict::Retry);
    }

    #[test]
    fn verdict_survives_boxes_and_wrapping_enums() {
        let permanent = || TaskError::permanent("no such mailbox");

        assert_eq!(failure(permanent()).verdict, Verdict::Permanent);
        assert_eq!(failure(Wrapper::Source(permanent().into())).verdict, Verdict::Permanent);
        assert_eq!(failure(Wrapper::Transparent(permanent())).verdict, Verdict::Permanent);
    }

    /// As a handler's error may do by mistake.
    #[test]
    fn error_whose_causes_go_round_is_retryable_and_described() {
        #[derive(Debug)]
        struct Round(bool);
        impl fmt::Display for Round {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(if self.0 { "round" } else { "and" })
            }
        }
        impl std::error::Error for Round {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(if self.0 { &Round(false) } else { &Round(true) })
            }
        }

        let failure = failure(Round(true));

        assert_eq!(failure.verdict, Verdict::Retry);
        assert!(failure.reason.message.starts_with("round: and: round: "), "{}", failure.reason.message);
    }

    #[test]
    fn snooze_is_no_failure_however_it_is_wrapped() {
        let after = Duration::from_secs(60);
        let snooze = || TaskError::snooze(after);
        let outcome = |result: TaskResult| result.into_outcome();

        assert_eq!(outcome(Err(snooze().into())), Outcome::Snooze { after });
        assert_eq!(outcome(Err(Wrapper::Source(snooze().into()).into())), Outcome::Snooze { after });
        assert_eq!(outcome(Err(Wrapper::Transparent(snooze()).into())), Outcome::Snooze { after });
        assert!(!outcome(Err(snooze().into())).is_success());
        assert_eq!(snooze().to_string(), "not now, but in 60s");
    }

    #[test]
    fn message_names_the_chain_once() {
        let error = Wrapper::Source(TaskError::permanent("no such mailbox").into());

        assert_eq!(
            failure(error).reason,
            Reason::new(ReasonKind::Permanent, "could not send: no such mailbox")
        );
    }

    #[test]
    fn error_of_a_failure_is_found_by_its_type_through_boxes_marks_and_causes() {
        let parse = || "x".parse::<u8>().unwrap_err();
        let is_found = |failure: Failure| failure.error::<std::num::ParseIntError>().is_some();

        assert!(is_found(failure(parse())));
        assert!(is_found(failure(Box::new(parse()) as BoxError)));
        assert!(is_found(failure(TaskError::permanent(parse()))));
        assert!(is_found(failure(Wrapper::Source(parse().into()))));
        assert!(is_found(failure(Wrapper::Source(TaskError::retry(parse()).into()))));
        assert!(is_found(failure(Wrapper::Transparent(TaskError::permanent(Wrapper::Source(
            parse().into()
        ))))));
        assert!(!is_found(failure("x")));
        assert!(failure(TaskError::permanent("x")).error::<TaskError>().is_some());
        assert!(Outcome::failed(ReasonKind::Panic, "x").error::<TaskError>().is_none());
    }

    #[test]
    fn result_is_marked_in_passing() {
        fn parse(text: &str) -> TaskResult {
            text.parse::<u8>().permanent()?;
            Ok(())
        }

        let Outcome::Failure(failure) = parse("x").into_outcome() else { panic!("it parsed") };
        assert_eq!(failure.verdict, Verdict::Permanent);
    }
}
