//! Runs one delivery: finds the task, calls its handler through the middleware, and turns panic and timeout into
//! outcomes. Called by `fetch`; what it returns goes to `settle`. Never talks to a broker.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use queue_core::broker::Delivery;
use queue_core::envelope::Envelope;
use queue_core::outcome::{Failure, Outcome, ReasonKind, Verdict};
use queue_core::retry::RetryPolicy;
use tracing::Span;
use tracing::field::{Empty, display};

use crate::context::Context;
use crate::events::JobEvent;
use crate::fetch::Lane;
use crate::handler::{BoxFuture, Call};
use crate::registry::Task;
use crate::version;

/// What came of a delivery.
#[derive(Debug)]
pub(crate) enum Executed {
    /// The handler ran, or the message holds nothing that it could run on.
    Ran {
        outcome: Outcome,
        /// How often the task is tried.
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
}

/// What this worker does not know.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unknown {
    /// No task of it has the name.
    Task,
    /// The task is there, but the payload is of a later version.
    Version { task: &'static str, version: u32, known: u32 },
}

/// The task that a message is for: the one it names; if it names none, the queue's only one or the default one.
///
/// A task is found by its name alone. A message that an exchange routed to a queue other than the task's own is run
/// as well, under that queue's concurrency, and is retried there. A subscriber takes all that its queue brings.
pub(crate) fn find<'lane>(lane: &'lane Lane, envelope: &Envelope) -> Result<&'lane Task, Executed> {
    if let Some(subscriber) = &lane.plan.subscriber {
        return Ok(subscriber);
    }
    let task = match &envelope.task {
        Some(name) => lane.shared.tasks.get(name.as_str()).ok_or(Executed::Unknown(Unknown::Task)),
        None => lane.plan.fallback.as_ref().ok_or_else(|| {
            let (queue, known) = (&lane.queue, lane.plan.task_list());
            let outcome = Outcome::dead(
                ReasonKind::BadMessage,
                format!(
                    "the message names no task, and queue `{queue}` has several: set the AMQP property `type` to \
                     one of {known}, or mark one of them `default`"
                ),
            );
            Executed::Ran { outcome, retry: RetryPolicy::default() }
        }),
    }?;
    let (task_name, known) = (task.name(), task.options.version);
    match version::of(&envelope.headers) {
        Ok(version) if version <= known => Ok(task),
        Ok(version) => Err(Executed::Unknown(Unknown::Version { task: task_name, version, known })),
        Err(words) => {
            let outcome =
                Outcome::dead(ReasonKind::BadMessage, format!("the payload of task `{task_name}`: {words}"));
            Err(Executed::Ran { outcome, retry: RetryPolicy::default() })
        }
    }
}

/// Runs the handler to its end, its timeout, or the worker's.
pub(crate) async fn execute(context: &Arc<Context>, task: &Task, payload: Bytes) -> Executed {
    let shared = &context.lane().shared;
    shared.events.emit(|| JobEvent::Started { job: context.job_info() });
    let Context { id, attempt, .. } = &**context;
    tracing::debug!(target: "leveret", %id, task = task.name(), queue = context.queue(), attempt, "job started");

    let call = Call::new(payload, Arc::clone(context), task.registration.run);
    let outcome = match catch_unwind(AssertUnwindSafe(|| shared.handler.run(call))) {
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
                () = shared.steps.cutting_off() => None,
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
        // The worker told it to end. That it then failed says nothing about the job and costs no attempt.
        Outcome::Failure(Failure { verdict: Verdict::Retry | Verdict::RetryIn(_), .. })
            if shared.steps.is_cancelling() =>
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

/// The job's span, under the names of OpenTelemetry's conventions for messaging. What takes part in its own name has few
/// values, so that spans of one queue are found together.
pub(crate) fn span(lane: &Lane, task: &Task, delivery: &Delivery) -> Span {
    let envelope = &delivery.envelope;
    let system = lane.shared.system;
    let routing_key = (system == "rabbitmq").then_some(delivery.routing_key.as_str());
    tracing::info_span!(
        target: "leveret",
        "process",
        otel.name = format_args!("process {}", lane.queue),
        otel.kind = "consumer",
        otel.status_code = Empty,
        error.type = Empty,
        messaging.system = system,
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = %Destination(delivery),
        messaging.rabbitmq.destination.routing_key = routing_key,
        messaging.message.id = envelope.id.as_str(),
        messaging.message.conversation_id = envelope.correlation_id.as_deref(),
        messaging.message.body.size = envelope.payload.len(),
        leveret.queue = &*lane.queue,
        leveret.task = task.name(),
        leveret.attempt = envelope.attempt,
    )
}

/// A consumer's `messaging.destination.name`: `exchange:routing key:queue`, without what is empty, and without the queue
/// where it is also the key. So a job that was sent to its queue has the queue's name. The convention is RabbitMQ's, and
/// the same on every broker.
struct Destination<'a>(&'a Delivery);

impl fmt::Display for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Delivery { exchange, routing_key, queue, .. } = self.0;
        for part in [exchange, routing_key] {
            if !part.is_empty() && part != queue {
                write!(f, "{part}:")?;
            }
        }
        f.write_str(queue)
    }
}

/// Notes in the job's span how it went.
pub(crate) fn record(span: &Span, outcome: &Outcome) {
    if let Outcome::Failure(Failure { reason, .. }) = outcome {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", display(reason.kind));
    }
}
