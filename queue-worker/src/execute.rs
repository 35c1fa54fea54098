//! Runs a job's handler through the middleware, and turns panic and timeout into outcomes. Called by `process`, which hands the
//! outcome to `decide`. Never talks to a broker.

use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use queue_core::outcome::{Failure, Outcome, ReasonKind, Verdict};
use queue_core::retry::RetryPolicy;

use crate::activity::Activity;
use crate::context::Context;
use crate::errand::{Misfit, Unknown};
use crate::events::{Emitter, JobEvent};
use crate::handler::{BoxFuture, Call};
use crate::middleware::HandlerService;
use crate::registry::Task;

/// The result of a delivery.
#[derive(Debug)]
pub(crate) enum Executed {
    /// The handler ran, or the message does not decode.
    Ran {
        outcome: Outcome,
        /// The task's retries and waits.
        retry: RetryPolicy,
    },
    /// This worker cannot run it, and a newer one may.
    Unknown(Unknown),
    /// The worker stops at once, and the handler had not finished.
    CutOff,
    /// Its caller had given up before it could begin.
    Abandoned,
    /// The broker had taken the delivery back before it could begin.
    Lost,
    /// It was delivered again, and its job has ended or runs here already.
    Repeated,
    /// Its earlier holders were lost: it runs later, elsewhere, or never.
    SetApart,
}

impl From<Misfit> for Executed {
    fn from(misfit: Misfit) -> Self {
        match misfit {
            Misfit::Unknown(what) => Self::Unknown(what),
            Misfit::BadMessage(words) => {
                let outcome = Outcome::dead(ReasonKind::BadMessage, words);
                Self::Ran { outcome, retry: RetryPolicy::default() }
            }
        }
    }
}

/// Runs the handler to its end, its timeout, or the worker's. `waits` is polled from when the handler has to wait, and never ends.
pub(crate) async fn execute(
    context: &Arc<Context>,
    task: &Task,
    payload: Bytes,
    handler: &HandlerService,
    events: &Emitter,
    activity: &Activity,
    waits: impl Future<Output = Infallible>,
) -> Executed {
    let steps = &context.environment.steps;
    events.emit(|| JobEvent::Started { job: context.job_info() });
    let Context { id, attempt, .. } = &**context;
    tracing::debug!(target: "leveret", parent: None, task = %task.name(), queue = %context.queue(), %id, attempt, "job started");

    let call = Call::new(payload, Arc::clone(context), task.registration.run);
    let outcome = match catch_unwind(AssertUnwindSafe(|| handler.run(call))) {
        Err(panic) => panicked(panic),
        Ok(mut running) => {
            // In this order: an outcome that is there counts, however late; and a handler that finishes at once
            // costs neither timer nor registration.
            let ended = tokio::select! {
                biased;
                outcome = caught(&mut running) => Some(outcome),
                () = elapsed(task.options.timeout) => {
                    context.timed_out.cancel();
                    Some(timed_out(task))
                }
                () = steps.cutting_off() => None,
                never = activity.showing(|| context.running_job()) => match never {},
                never = waits => match never {},
            };
            // Dropping what has not finished runs the user's destructors, which may panic too. The panic hook
            // has printed it; the outcome stands.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(running)));
            match ended {
                Some(outcome) => outcome,
                None => return Executed::CutOff,
            }
        }
    };

    match &outcome {
        // The worker told the job to end, so a failure after that is not the job's, and costs no attempt.
        Outcome::Failure(Failure { verdict: Verdict::Retry | Verdict::RetryIn(_), .. })
            if steps.is_cancelling() =>
        {
            Executed::CutOff
        }
        _ => Executed::Ran { outcome, retry: task.options.retry },
    }
}

async fn elapsed(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// Awaits a handler; a panic is an outcome. Must not be awaited again after that.
async fn caught(running: &mut BoxFuture<'static, Outcome>) -> Outcome {
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx))) {
        Ok(poll) => poll,
        Err(panic) => Poll::Ready(panicked(panic)),
    })
    .await
}

fn panicked(panic: Box<dyn Any + Send>) -> Outcome {
    let words = if let Some(words) = panic.downcast_ref::<&'static str>() {
        Some((*words).to_owned())
    } else {
        panic.downcast_ref::<String>().cloned()
    };
    // `panic_any` may carry a value whose destructor panics.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
    let words = words.unwrap_or_else(|| "(the panic carried no text)".to_owned());
    Outcome::failed(ReasonKind::Panic, format!("the handler panicked: {words}"))
}

fn timed_out(task: &Task) -> Outcome {
    let timeout = task.options.timeout.unwrap_or_default();
    let name = task.name();
    Outcome::failed(
        ReasonKind::Timeout,
        format!("task `{name}` did not finish within its timeout of {timeout:?}"),
    )
}
