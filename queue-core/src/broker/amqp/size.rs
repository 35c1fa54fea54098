//! The limits of AMQP: names and header names of at most 255 bytes, all headers in one frame, no float that is no
//! number; and no header nested so deeply that its reader runs out of stack.

use crate::broker::Publish;
use crate::envelope::{HeaderValue, Headers, truncate};
use crate::error::{Error, ErrorKind, PublishError};
use crate::topology::{MAX_NAME, Topology};

/// Checks that AMQP can carry the message. The largest body is the client's setting.
///
/// # Errors
/// [`Invalid`](PublishError::Invalid), which names what is too long, and the limit.
pub(crate) fn check_publish(publish: &Publish) -> Result<(), PublishError> {
    let envelope = &publish.envelope;
    let names = [
        ("exchange", Some(&*publish.route.exchange)),
        ("routing key", Some(&*publish.route.routing_key)),
        ("job id", Some(envelope.id.as_str())),
        ("task name", envelope.task.as_deref()),
        ("content type", envelope.content_type.as_deref()),
        ("content encoding", envelope.content_encoding.as_deref()),
        ("correlation id", envelope.correlation_id.as_deref()),
        ("reply address", envelope.reply_to.as_deref()),
        ("app id", envelope.app_id.as_deref()),
        ("cluster id", envelope.cluster_id.as_deref()),
    ];
    let names = names.into_iter().filter_map(|(what, name)| Some((what, name?)));
    let name = names.filter_map(|(what, name)| too_long(what, name)).next();
    if let Some(text) = name.or_else(|| unfit_header(&envelope.headers)) {
        return Err(PublishError::Invalid(text));
    }
    let size = envelope.headers.wire_size();
    if size > Headers::MAX_SIZE {
        let limit = Headers::MAX_SIZE;
        return Err(PublishError::Invalid(format!(
            "the headers take {size} bytes, over the limit of {limit}: put what is large into the payload"
        )));
    }
    Ok(())
}

/// Checks that AMQP can carry the names of queues, exchanges, arguments and routing keys.
///
/// # Errors
/// [`Topology`](ErrorKind::Topology), which names what is too long, and the limit.
pub(crate) fn check_topology(topology: &Topology) -> Result<(), Error> {
    let arguments = topology.queues.iter().map(|queue| &queue.arguments);
    let arguments = arguments.chain(topology.bindings.iter().map(|binding| &binding.arguments));
    let queues = topology.queues.iter().map(|queue| ("queue", &queue.name));
    let exchanges = topology.exchanges.iter().map(|exchange| ("exchange", &exchange.name));
    let keys = topology.bindings.iter().map(|binding| ("routing key", &binding.routing_key));
    let names = queues.chain(exchanges).chain(keys).filter_map(|(what, name)| too_long(what, name));
    match arguments.filter_map(unfit_header).chain(names).next() {
        None => Ok(()),
        Some(text) => Err(Error::new(ErrorKind::Topology, text)),
    }
}

/// Checks that AMQP can carry a queue's name.
///
/// # Errors
/// [`Topology`](ErrorKind::Topology), which names it, and the limit.
#[cfg_attr(not(feature = "rabbitmq"), allow(dead_code, reason = "a store of ours has no such queue anyway"))]
pub(crate) fn check_queue(name: &str) -> Result<(), Error> {
    too_long("queue", name).map_or(Ok(()), |text| Err(Error::new(ErrorKind::Topology, text)))
}

/// Words for a name that AMQP cannot carry.
pub(crate) fn too_long(what: &str, name: &str) -> Option<String> {
    let (start, len) = (truncate(name, 40), name.len());
    (len > MAX_NAME).then(|| {
        format!("the {what} `{start}…` has {len} bytes; AMQP carries at most {MAX_NAME}: shorten it")
    })
}

/// Words for a header that AMQP, or RabbitMQ, cannot carry.
fn unfit_header(headers: &Headers) -> Option<String> {
    unfit_table(headers, 0)
}

fn unfit_table(headers: &Headers, depth: usize) -> Option<String> {
    fn unfit(name: &str, value: &HeaderValue, depth: usize) -> Option<String> {
        match value {
            HeaderValue::Table(_) | HeaderValue::List(_) if depth == Headers::MAX_DEPTH => {
                Some(format!("header `{name}` is nested more than {depth} deep: put it into the payload"))
            }
            HeaderValue::Table(table) => unfit_table(table, depth + 1),
            HeaderValue::List(values) => values.iter().find_map(|value| unfit(name, value, depth + 1)),
            // Erlang has no such float, and RabbitMQ ends the connection.
            HeaderValue::Float(float) if !float.is_finite() => {
                Some(format!("header `{name}` is {float}, which RabbitMQ cannot read: send a finite number"))
            }
            _ => None,
        }
    }
    headers
        .iter()
        .find_map(|(name, value)| too_long("header name", name).or_else(|| unfit(name, value, depth)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Envelope;

    fn refusal(name: &str, value: impl Into<HeaderValue>) -> Option<String> {
        let mut envelope = Envelope::new("{}");
        envelope.headers.insert(name, value);
        check_publish(&Publish::to_queue("q", envelope)).err().map(|error| error.to_string())
    }

    #[test]
    fn names_fit_up_to_255_bytes_also_deep_inside() {
        let nested = |len| HeaderValue::List(vec![HeaderValue::Table([("x".repeat(len), 1_i64)].into())]);

        assert_eq!(refusal(&"x".repeat(255), nested(255)), None);
        assert!(refusal(&"x".repeat(256), 1_i64).unwrap().contains("has 256 bytes"));
        assert!(refusal("list", nested(256)).unwrap().contains("has 256 bytes"));
    }

    #[test]
    fn headers_are_nested_up_to_32_deep() {
        let nested = |depth| (0..depth).fold(HeaderValue::Null, |inner, _| HeaderValue::List(vec![inner]));

        assert_eq!(refusal("list", nested(32)), None);
        assert!(refusal("list", nested(33)).unwrap().contains("`list` is nested more than 32 deep"));
        let table = HeaderValue::Table([("in", nested(32))].into());
        assert!(refusal("table", table).unwrap().contains("nested more than 32 deep"));
    }

    #[test]
    fn headers_that_do_not_fit_one_frame_are_refused() {
        assert_eq!(refusal("blob", "x".repeat(Headers::MAX_SIZE - 100)), None);
        assert!(refusal("blob", "x".repeat(Headers::MAX_SIZE)).unwrap().contains("limit of 32768"));
    }

    #[test]
    fn floats_that_are_no_numbers_are_refused_by_name() {
        assert_eq!(refusal("weight", 0.5), None);
        assert!(
            refusal("weight", HeaderValue::List(vec![f64::NAN.into()])).unwrap().contains("`weight` is NaN")
        );
    }
}
