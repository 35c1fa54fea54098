//! What generated code names. Not public API: it changes without notice.

use std::panic::resume_unwind;

pub use inventory;
use queue_core::outcome::{Outcome, ReasonKind};

pub use crate::__register as register;
pub use crate::handler::{BoxFuture, Call, Handler, Need, need};
pub use crate::registry::{Registration, Runnable};

/// Runs a task without `async` on the blocking pool.
///
/// The function owns the call until it returns, also where the attempt has timed out meanwhile. Its panic goes on
/// in the future's own task, where the executor expects it.
pub fn run_blocking(call: Call, job: fn(Call) -> Outcome) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let span = tracing::Span::current();
        match tokio::task::spawn_blocking(move || span.in_scope(|| job(call))).await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime is shutting down and never started it.
                Err(error) => Outcome::failed(ReasonKind::Failed, error.to_string()),
            },
        }
    })
}

/// A task in a program that has a worker: what stands after the arrow is its code.
#[doc(hidden)]
#[macro_export]
macro_rules! __register {
    ($(#[$attribute:meta])* $function:path => $($handler:tt)*) => {
        $(#[$attribute])*
        $($handler)*
    };
}
