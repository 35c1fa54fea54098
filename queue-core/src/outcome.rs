//! What a handler said. Between `handler`, which produces an [`Outcome`], and [`retry`](crate::retry), which
//! turns it into a [`Settlement`](crate::settlement::Settlement).
//!
//! Any error is retryable unless it says otherwise. What it says is a mark in its `source()` chain, so that it
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

/// What a handler said of one attempt.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// The job is done.
    Success,
    /// The job is done, and this is the reply to its caller, in the format of the request: JSON, unless that is another.
    /// Only of a job that somebody has called.
    Reply(Bytes),
    /// Not now: the job comes again in `after`, at least a [second](crate::retry::MIN_SNOOZE). This costs no attempt, and is no
    /// failure.
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

    /// Whether the job is done.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Success | Self::Reply(_))
    }

    /// The handler's error, if the attempt failed with an `E` or with what an `E` caused; see [`Failure::error`].
    pub fn error<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Failure(failure) => failure.error(),
            _ => None,
        }
    }
}

/// Why an attempt failed, and what should happen next. Two are equal if reason and verdict are.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// What should happen next.
    pub verdict: Verdict,
    /// The error that the handler returned. Empty after a panic, a timeout or a bad message.
    error: Option<Arc<BoxError>>,
}

impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        (&self.reason, self.verdict) == (&other.reason, other.verdict)
    }
}

/// What an error wants to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Try again after the task's backoff, while it has retries left.
    Retry,
    /// Try again after this long, while the task has retries left.
    RetryIn(Duration),
    /// Not now. Try again after this long; it counts neither as an attempt nor as a failure.
    Snooze(Duration),
    /// A retry cannot mend it.
    Permanent,
}

/// What a task returns when any error will do: `?` works on every error type.
pub type TaskResult = Result<(), BoxError>;

/// An error with a verdict: what it wants to happen to the job.
///
/// ```
/// # mod leveret { pub use queue_core::outcome::{TaskError, TaskResult}; }
/// use leveret::{TaskError, TaskResult};
///
/// fn charge(card: &str) -> TaskResult {
///     if card.is_empty() {
///         return Err(TaskError::permanent("the order has no card").into());
///     }
///     Ok(())
/// }
/// # fn main() { assert!(charge("").is_err()) }
/// ```
#[derive(Debug)]
pub struct TaskError(Marked);

/// Stands in the `source()` chain: carries the verdict, shows the error's words, forwards the error's source.
#[derive(Debug)]
struct Marked {
    verdict: Verdict,
    error: BoxError,
}

impl TaskError {
    /// An error that a retry cannot mend: the job goes straight to the dead letters.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self(Marked { verdict: Verdict::Permanent, error: error.into() })
    }

    /// An error after which the job runs again in `after`, instead of after the task's backoff. It counts as an
    /// attempt.
    pub fn retry_in(after: Duration, error: impl Into<BoxError>) -> Self {
        Self(Marked { verdict: Verdict::RetryIn(after), error: error.into() })
    }

    /// Not now: the job comes again in `after`, as if this delivery had not been. It costs no attempt, notes no error, and is
    /// neither logged nor counted as a failure. For what is not the job's fault and will pass: a service that asks for
    /// patience, a quota that is used up, office hours.
    ///
    /// A wait of less than a [second](crate::retry::MIN_SNOOZE) is a second. Nothing bounds how often a job is snoozed.
    ///
    /// ```
    /// # mod leveret { pub use queue_core::outcome::{TaskError, TaskResult}; }
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
    /// # fn main() { assert!(book(Some(Duration::from_secs(60))).is_err() && book(None).is_ok()) }
    /// ```
    pub fn snooze(after: Duration) -> Self {
        Self(Marked { verdict: Verdict::Snooze(after), error: format!("not now, but in {after:?}").into() })
    }

    /// An error after which the job runs again after the task's backoff.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self(Marked { verdict: Verdict::Retry, error: error.into() })
    }

    /// What the error wants to happen.
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

/// Marks the error of a `Result`: `address.parse().permanent()?`.
pub trait ResultExt<T> {
    /// A retry cannot mend this error: the job goes straight to the dead letters.
    ///
    /// # Errors
    /// The error, marked.
    fn permanent(self) -> Result<T, TaskError>;

    /// After this error the job runs again in `after`, instead of after the task's backoff.
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

/// What a task may return: `()` or `Result<T, E>`. Decided by this trait and not by syntax, so that aliases
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

    /// The outcome of a job that nobody waits for: a reply is dropped.
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

/// What a task may reply. A bound of our own, so that the compiler says what is amiss in our words, and not in a list of
/// what serde can read.
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
    /// A failure of which no handler's error is known.
    pub(crate) fn new(reason: Reason, verdict: Verdict) -> Self {
        Self { reason, verdict, error: None }
    }

    /// The failure that a handler's error means.
    pub fn from_error(error: BoxError) -> Self {
        let verdict = verdict(&*error);
        let kind = if verdict == Verdict::Permanent { ReasonKind::Permanent } else { ReasonKind::Failed };
        Self { reason: Reason::new(kind, chain(&*error)), verdict, error: Some(Arc::new(error)) }
    }

    /// The handler's error, if it is an `E` or was caused by one: in a test, or in a layer around the handlers. Looks
    /// through boxes, [`TaskError`]'s marks and `source()`. `None` also where no handler returned an error: a panic, a
    /// timeout, a bad message.
    ///
    /// ```
    /// # mod leveret { pub use queue_core::outcome::{Failure, TaskError}; }
    /// use leveret::{Failure, TaskError};
    ///
    /// let failure = Failure::from_error(TaskError::permanent("x".parse::<u8>().unwrap_err()).into());
    ///
    /// assert!(failure.error::<std::num::ParseIntError>().is_some());
    /// assert!(failure.error::<std::io::Error>().is_none());
    /// # fn main() {}
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
