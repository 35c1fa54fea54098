//! Writes the arguments of `basic.consume`: what a consumer asks of RabbitMQ when it begins. Used by `consumer`.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};

use crate::broker::ConsumeOptions;
use crate::broker::rabbitmq::connection::fault::{self, code};
use crate::broker::rabbitmq::message::convert::short;

/// The most that is asked of `x-consumer-timeout`: ten years. RabbitMQ 4.3.6 takes 290 years; with 2⁵³ ms the process of the
/// queue ends whenever it delivers a message.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The arguments of `basic.consume`. Servers that do not know `x-consumer-timeout` ignore it here; as an argument of the queue,
/// each change of a task's timeout would be a conflict.
pub(super) fn arguments(options: &ConsumeOptions) -> FieldTable {
    let mut arguments = FieldTable::default();
    if let Some(timeout) = consumer_timeout(options) {
        let millis = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        arguments.insert(short("x-consumer-timeout"), AMQPValue::LongLongInt(millis));
    }
    arguments
}

/// True if the queue is of a type that waits without end and refuses a timeout: a classic queue on RabbitMQ 4.3.
pub(super) fn has_no_timeout(error: &lapin::Error) -> bool {
    fault::protocol(error).is_some_and(|(code, text)| {
        code == code::PRECONDITION_FAILED && text.contains("invalid arg 'x-consumer-timeout'")
    })
}

/// How long the server is asked to wait for a settlement; `None` leaves it to the server.
pub(super) fn consumer_timeout(options: &ConsumeOptions) -> Option<Duration> {
    options.consumer_timeout.map(|timeout| timeout.min(LONGEST_TIMEOUT))
}
