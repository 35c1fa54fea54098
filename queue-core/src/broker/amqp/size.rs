//! What AMQP can carry: names and header names of at most 255 bytes, all headers in one frame.

use crate::broker::Publish;
use crate::envelope::{HeaderValue, Headers, truncate};
use crate::error::{Error, ErrorKind, PublishError};
use crate::topology::{MAX_NAME, Topology};

/// Whether AMQP can carry the message at all. How large a body may be is the client's setting.
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
        ("correlation id", envelope.correlation_id.as_deref()),
        ("reply address", envelope.reply_to.as_deref()),
    ];
    let names = names.into_iter().filter_map(|(what, name)| Some((what, name?)));
    let too_long = names.filter_map(|(what, name)| too_long(what, name)).next();
    if let Some(text) = too_long.or_else(|| too_long_header(&envelope.headers)) {
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

/// Whether AMQP can carry the names of arguments and routing keys; those of queues and exchanges are checked where
/// they are declared.
///
/// # Errors
/// [`Topology`](ErrorKind::Topology), which names what is too long, and the limit.
pub(crate) fn check_topology(topology: &Topology) -> Result<(), Error> {
    let arguments = topology.queues.iter().map(|queue| &queue.arguments);
    let arguments = arguments.chain(topology.bindings.iter().map(|binding| &binding.arguments));
    let keys = topology.bindings.iter().filter_map(|binding| too_long("routing key", &binding.routing_key));
    match arguments.filter_map(too_long_header).chain(keys).next() {
        None => Ok(()),
        Some(text) => Err(Error::new(ErrorKind::Topology, text)),
    }
}

/// Words for a name that AMQP cannot carry.
pub(crate) fn too_long(what: &str, name: &str) -> Option<String> {
    let (start, len) = (truncate(name, 40), name.len());
    (len > MAX_NAME).then(|| {
        format!("the {what} `{start}…` has {len} bytes; AMQP carries at most {MAX_NAME}: shorten it")
    })
}

fn too_long_header(headers: &Headers) -> Option<String> {
    fn nested(value: &HeaderValue) -> Option<String> {
        match value {
            HeaderValue::Table(table) => too_long_header(table),
            HeaderValue::List(values) => values.iter().find_map(nested),
            _ => None,
        }
    }
    headers.iter().find_map(|(name, value)| too_long("header name", name).or_else(|| nested(value)))
}
