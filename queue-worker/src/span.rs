//! The tracing span of a job, for OpenTelemetry and the log.

use std::fmt;

use queue_core::broker::Delivery;
use queue_core::outcome::{Failure, Outcome};
use tracing::Span;
use tracing::field::{Empty, display};

/// The job's span, with the names of OpenTelemetry's conventions for messaging. `otel.name` holds only the queue, so that all spans
/// of one queue share it.
pub(crate) fn span(system: &'static str, task: &str, delivery: &Delivery) -> Span {
    let Delivery { envelope, queue, .. } = delivery;
    let routing_key = (system == "rabbitmq").then_some(delivery.routing_key.as_str());
    tracing::info_span!(
        target: "leveret",
        "process",
        otel.name = format_args!("process {queue}"),
        otel.kind = "consumer",
        otel.status_code = Empty,
        otel.status_description = Empty,
        error.type = Empty,
        messaging.system = system,
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = %Destination(delivery),
        messaging.rabbitmq.destination.routing_key = routing_key,
        messaging.message.id = envelope.id.as_str(),
        messaging.message.conversation_id = envelope.correlation_id.as_deref(),
        messaging.message.body.size = envelope.payload.len(),
        leveret.queue = &**queue,
        leveret.task = task,
        leveret.attempt = envelope.attempt,
    )
}

/// A consumer's `messaging.destination.name`: `exchange:routing key:queue`, without empty parts, and without a routing key
/// that equals the queue. So a job that was sent to its queue has the queue's name. The convention is RabbitMQ's, and
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

/// Records a failure in the job's span.
pub(crate) fn record(span: &Span, outcome: &Outcome) {
    if let Outcome::Failure(Failure { reason, .. }) = outcome {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", reason.message.as_str());
        span.record("error.type", display(reason.kind));
    }
}
