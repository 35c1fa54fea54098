//! The queue beside a queue of jobs, where those wait that are to run alone.

use crate::topology::QueueDecl;

/// How often a job may come back to the queue of suspects. Nothing that waits there is to be dropped for coming back: a worker
/// decides. RabbitMQ from 4.0 on has a limit of 20 where none is set.
const NO_LIMIT: i64 = 1_000_000;

/// Declares `<queue>.suspect`. It is a quorum queue with a single active consumer: one worker at a time stops for a suspect. See
/// <https://www.rabbitmq.com/docs/consumers#single-active-consumer>.
pub(crate) fn decl(queue: &str) -> QueueDecl {
    QueueDecl::new(format!("{queue}.suspect"))
        .argument("x-queue-type", "quorum")
        .argument("x-single-active-consumer", true)
        .argument("x-delivery-limit", NO_LIMIT)
}
