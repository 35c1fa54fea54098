//! Errors about exchanges and queues that are not as they were declared: the same words on every broker.

use std::fmt;

use crate::envelope::HeaderValue;
use crate::error::{Error, ErrorKind};
use crate::topology::{ExchangeDecl, ExchangeKind, MAX_NAME, QueueDecl};

/// The arguments that a queue is known by; it may be declared again with the same. AMQP ignores others.
const ARGUMENTS: [&str; 12] = [
    "x-queue-type",
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-max-priority",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-single-active-consumer",
];

/// A queue exists with another value of `argument` than it is declared with.
pub(crate) fn queue_conflict(
    queue: &str,
    argument: &str,
    existing: impl fmt::Display,
    wanted: impl fmt::Display,
) -> Error {
    Error::new(
        ErrorKind::Topology,
        format!(
            "queue `{queue}` exists with `{argument}` = {existing}, but is declared with {wanted}; a queue's \
             arguments cannot be changed: set a policy on the broker, take a new queue name, drain and delete the \
             queue, or use it as it is (`declare = \"passive\"`)"
        ),
    )
}

/// An exchange exists with another value of `property` than it is declared with.
pub(crate) fn exchange_conflict(
    exchange: &str,
    property: &str,
    existing: impl fmt::Display,
    wanted: impl fmt::Display,
) -> Error {
    Error::new(
        ErrorKind::Topology,
        format!(
            "exchange `{exchange}` exists with `{property}` = {existing}, but is declared with {wanted}; that cannot \
             be changed: declare it as it is, take a new name, or delete it"
        ),
    )
}

/// A queue that must be there is not.
pub(crate) fn missing_queue(queue: &str) -> Error {
    missing(ErrorKind::Topology, queue)
}

/// A queue that an operator asks about does not exist.
pub(crate) fn queue_not_found(queue: &str) -> Error {
    missing(ErrorKind::NotFound, queue)
}

fn missing(kind: ErrorKind, queue: &str) -> Error {
    Error::new(
        kind,
        format!(
            "queue `{queue}` does not exist: check the name; its worker creates it, unless that declares it `passive`, and \
             so does `client.declare_queue(..)`"
        ),
    )
}

/// An exchange that must be there is not.
pub(crate) fn missing_exchange(exchange: &str) -> Error {
    Error::new(
        ErrorKind::Topology,
        format!("exchange `{exchange}` does not exist: create it first, or let it be declared"),
    )
}

/// The error for a queue that is exclusive to another client.
pub(crate) fn locked(queue: &str) -> Error {
    Error::new(
        ErrorKind::Topology,
        format!("queue `{queue}` is exclusive to another client: use that client, or another queue name"),
    )
}

/// Checks that a queue that exists may be declared again like this.
///
/// # Errors
/// Names the first property or argument that differs, with both values and the remedy.
pub(crate) fn queue_redeclared(existing: &QueueDecl, wanted: &QueueDecl) -> Result<(), Error> {
    if existing.durable != wanted.durable {
        return Err(queue_conflict(&wanted.name, "durable", existing.durable, wanted.durable));
    }
    if existing.exclusive != wanted.exclusive {
        return Err(queue_conflict(&wanted.name, "exclusive", existing.exclusive, wanted.exclusive));
    }
    for argument in ARGUMENTS {
        let (is, should) = (effective(existing, argument), effective(wanted, argument));
        if is != should {
            return Err(queue_conflict(&wanted.name, argument, Shown(is.as_ref()), Shown(should.as_ref())));
        }
    }
    Ok(())
}

/// True if an exchange that exists may be declared once more like this.
///
/// # Errors
/// Names what differs, with both values and the remedy.
pub(crate) fn exchange_redeclared(
    kind: ExchangeKind,
    durable: bool,
    wanted: &ExchangeDecl,
) -> Result<(), Error> {
    if kind != wanted.kind {
        return Err(exchange_conflict(&wanted.name, "type", kind.as_str(), wanted.kind.as_str()));
    }
    if durable != wanted.durable {
        return Err(exchange_conflict(&wanted.name, "durable", durable, wanted.durable));
    }
    Ok(())
}

/// An argument as it takes effect: no type means classic.
fn effective(queue: &QueueDecl, argument: &str) -> Option<HeaderValue> {
    let default = || (argument == "x-queue-type").then(|| HeaderValue::from("classic"));
    queue.arguments.get(argument).cloned().or_else(default)
}

struct Shown<'a>(Option<&'a HeaderValue>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("none"),
            Some(HeaderValue::String(text)) => f.write_str(text),
            Some(HeaderValue::Int(int)) => write!(f, "{int}"),
            Some(HeaderValue::Bool(value)) => write!(f, "{value}"),
            Some(other) => write!(f, "{other:?}"),
        }
    }
}

/// Checks that a queue or exchange may be declared under this name.
///
/// # Errors
/// If it is empty, longer than AMQP carries, or begins with `amq.`.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let refusal = if name.is_empty() {
        format!("the {what} has an empty name: give it one")
    } else if name.len() > MAX_NAME {
        let (start, len) = (crate::envelope::truncate(name, 40), name.len());
        format!("{what} `{start}…` has {len} bytes; AMQP carries names of at most {MAX_NAME}: shorten it")
    } else if name.starts_with("amq.") {
        format!("{what} `{name}` begins with `amq.`, which AMQP reserves: rename it")
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Topology, refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflict_names_queue_argument_both_values_and_the_remedies() {
        let existing = QueueDecl::new("mail").argument("x-message-ttl", 1000_i64);

        let text = queue_redeclared(&existing, &QueueDecl::new("mail")).unwrap_err().to_string();

        for part in
            ["`mail`", "`x-message-ttl`", "1000", "none", "policy", "new queue name", "drain and delete"]
        {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    #[test]
    fn what_means_the_same_is_no_conflict() {
        let explicit = QueueDecl::new("mail").argument("x-queue-type", "classic").argument("x-custom", "one");
        let implicit = QueueDecl::new("mail").argument("x-custom", "two");

        assert!(queue_redeclared(&explicit, &implicit).is_ok());
    }

    #[test]
    fn durability_and_exclusiveness_are_compared() {
        let durable = QueueDecl::new("mail");
        let exclusive = QueueDecl::new("mail").exclusive();

        assert!(queue_redeclared(&durable, &exclusive).unwrap_err().to_string().contains("`durable` = true"));
    }
}
