//! The items that generated code names. Not public API: they change without notice.

pub use {serde, serde_json};

pub use crate::__described as described;
pub use crate::__enqueue_only as enqueue_only;
pub use crate::__no_worker as no_worker;
pub use crate::body::Body;
pub use crate::envelope::{HeaderValue, Headers};
pub use crate::error::PublishError;
pub use crate::event::{Event, EventBody, KeyWriter, check_subscription, subscription};
pub use crate::format::Format;
pub use crate::outcome::{IntoOutcome, Outcome, TaskError};
pub use crate::retry::Backoff;
pub use crate::task::{Task, TaskOptions};
pub use crate::topology::{Declare, ExchangeKind, Name, Overflow, QueueSpec, QueueType, Subscription};

#[cfg(feature = "schema")]
pub use crate::asyncapi::shape::{Described, Shape, Undescribed, Unstated};
#[cfg(feature = "schema")]
pub use crate::asyncapi::{Description, EventDescription, SubscriberDescription, TaskDescription};
#[cfg(feature = "schema")]
pub use crate::{__describe as describe, __shape_of as shape_of};
#[cfg(feature = "schema")]
pub use {inventory, schemars};

use std::sync::LazyLock;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::BoxError;
use crate::outcome::{Failure, ReasonKind, Verdict};

/// The bounds of a by-value parameter of a task. Checked before serde's derives, whose words would lead to deriving
/// `Serialize` for a database pool.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a job's payload",
    label = "not `Serialize + DeserializeOwned`",
    note = "a parameter by value is the job's payload; the worker's state is lent: take `&T`",
    note = "a type that is meant as payload derives `Clone`, `Debug`, `Serialize` and `Deserialize`"
)]
pub trait PayloadField {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> PayloadField for T {}

/// How the jobs of a task are run that has no options of its own.
pub fn default_options() -> &'static TaskOptions {
    static DEFAULT: LazyLock<TaskOptions> = LazyLock::new(TaskOptions::default);
    &DEFAULT
}

/// Compiles where `T` can be a field of a payload.
pub const fn check_field<T: PayloadField>() {}

/// The outcome of the function of task `T`. `is_permanent` tells if its error is one of the errors that the task declares
/// `permanent(..)`, which outweighs a mark that the error carries; `reply` what its caller reads, if it has one.
pub fn outcome<T: Task, R: IntoOutcome<Output = T::Output>>(
    result: R,
    is_permanent: bool,
    reply: Option<Format>,
) -> Outcome {
    outcome_of(T::NAME, result, is_permanent, reply)
}

/// Not generic over the task, so that it is compiled once for each type that tasks return.
fn outcome_of<R: IntoOutcome>(task: &str, result: R, is_permanent: bool, reply: Option<Format>) -> Outcome {
    match (result.into_result(), reply) {
        (Ok(result), Some(format)) => replied(task, format.encode(&result)),
        (Ok(_), None) => Outcome::Success,
        (Err(failure), _) => failed(failure, is_permanent),
    }
}

fn replied(task: &str, reply: Result<Vec<u8>, BoxError>) -> Outcome {
    match reply {
        Ok(reply) => Outcome::Reply(reply.into()),
        Err(error) => {
            let words = format!("the reply of task `{task}` could not be encoded: {error}");
            Outcome::dead(ReasonKind::Permanent, words)
        }
    }
}

/// The outcome of a subscriber, which has no caller.
pub fn event_outcome<R: IntoOutcome>(result: R, is_permanent: bool) -> Outcome {
    match result.into_result() {
        Ok(_) => Outcome::Success,
        Err(failure) => failed(failure, is_permanent),
    }
}

fn failed(mut failure: Failure, is_permanent: bool) -> Outcome {
    if is_permanent {
        failure.reason.kind = ReasonKind::Permanent;
        failure.verdict = Verdict::Permanent;
    }
    failure.into()
}

/// A task in a program that has no worker: its code is not registered. Its functions (its own, and `upcast`) and its
/// payload are mentioned only so that the compiler does not take them for dead.
#[doc(hidden)]
#[macro_export]
macro_rules! __enqueue_only {
    ($(#[$attribute:meta])* $($function:path),+; $payload:ty => $($handler:tt)*) => {
        $(#[$attribute])*
        const _: () = {
            $(let _ = $function;)+
            let _ = <$payload as $crate::task::Task>::NAME;
        };
    };
}

/// A subscriber in a program that has no worker: nothing of it is registered.
#[doc(hidden)]
#[macro_export]
macro_rules! __no_worker {
    ($($handler:tt)*) => {};
}

/// Registers the description of a task, an event or a subscriber, in a program with the feature `schema`.
#[cfg(feature = "schema")]
#[doc(hidden)]
#[macro_export]
macro_rules! __described {
    ($($description:tt)*) => {
        $($description)*
    };
}

/// The description is dropped in a program without the feature `schema`.
#[cfg(not(feature = "schema"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __described {
    ($($description:tt)*) => {};
}
