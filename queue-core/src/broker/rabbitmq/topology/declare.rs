//! Declares topology on a channel, and says in words what conflicts. `redeclare` opens a short-lived connection for it, so
//! that a conflict never ends traffic.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::{Channel, ExchangeKind as Kind};

use crate::broker::amqp;
use crate::broker::rabbitmq::connection::channel;
use crate::broker::rabbitmq::connection::connect::Link;
use crate::broker::rabbitmq::connection::fault::{self, code};
use crate::broker::rabbitmq::message::convert::{short, table};
use crate::error::{Error, ErrorKind, chain};
use crate::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};

/// Declares all of `topology`, in its order.
///
/// # Errors
/// [`ErrorKind::Topology`] where something exists with other settings or a passive one is missing,
/// [`ErrorKind::Refused`] without the permission, [`ErrorKind::Connection`] if the connection was lost.
pub(crate) async fn declare(channel: &Channel, topology: &Topology) -> Result<(), Error> {
    for exchange in &topology.exchanges {
        declare_exchange(channel, exchange)
            .await
            .map_err(|error| refusal("exchange", &exchange.name, &error))?;
    }
    // Together, since each alone costs a round trip.
    let queues = topology.queues.iter().map(async |queue| (queue, declare_queue(channel, queue).await));
    let declared = futures_util::future::join_all(queues).await;
    let mut failed = declared.iter().filter_map(|(queue, declared)| Some((queue, declared.as_ref().err()?)));
    // The refusal closes the channel under the others, which then fail with words that say nothing. It names its
    // queue, whichever future carries it.
    let is_refusal = |error| fault::protocol(error).is_some();
    if let Some((queue, error)) =
        failed.clone().find(|(_, error)| is_refusal(error)).or_else(|| failed.next())
    {
        return Err(queue_refusal(&topology.queues, &queue.name, error));
    }
    for binding in &topology.bindings {
        bind(channel, binding).await.map_err(|error| binding_refusal(binding, &error))?;
    }
    for binding in &topology.unbindings {
        unbind(channel, binding).await.map_err(|error| refusal("queue", &binding.queue, &error))?;
    }
    Ok(())
}

/// Declares each part of `topology` by itself, and logs what is refused or not answered: that ends its channel, which must
/// not cost the others.
///
/// # Errors
/// [`ErrorKind::Connection`] if the connection was lost.
pub(super) async fn declare_each(link: &Link, deadline: Duration, topology: &Topology) -> Result<(), Error> {
    let new = Topology::new;
    let exchanges = topology.exchanges.iter().cloned().map(|exchange| new().exchange(exchange));
    let queues = topology.queues.iter().cloned().map(|queue| new().queue(queue));
    let bindings = topology.bindings.iter().cloned().map(|binding| new().binding(binding));
    let unbindings = topology.unbindings.iter().cloned().map(|binding| new().unbind(binding));
    for part in exchanges.chain(queues).chain(bindings).chain(unbindings) {
        match channel::on_new(link, deadline, async |channel| declare(channel, &part).await).await {
            Err(error) if !link.connection.status().connected() => return Err(error),
            Err(error) => {
                tracing::error!(error = %chain(&error), "what was declared cannot be declared again");
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

async fn declare_exchange(channel: &Channel, exchange: &ExchangeDecl) -> lapin::Result<()> {
    let kind = match exchange.kind {
        ExchangeKind::Direct => Kind::Direct,
        ExchangeKind::Fanout => Kind::Fanout,
        ExchangeKind::Topic => Kind::Topic,
        ExchangeKind::Headers => Kind::Headers,
    };
    let options = ExchangeDeclareOptions {
        passive: exchange.passive,
        durable: exchange.durable,
        ..ExchangeDeclareOptions::default()
    };
    channel.exchange_declare(short(&exchange.name), kind, options, Default::default()).await
}

async fn declare_queue(channel: &Channel, queue: &QueueDecl) -> lapin::Result<()> {
    let options = QueueDeclareOptions {
        passive: queue.passive,
        durable: queue.durable,
        exclusive: queue.exclusive,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(short(&queue.name), options, table(&queue.arguments)).await;
    declared.map(|_| ())
}

async fn bind(channel: &Channel, binding: &BindingDecl) -> lapin::Result<()> {
    channel
        .queue_bind(
            short(&binding.queue),
            short(&binding.exchange),
            short(&binding.routing_key),
            QueueBindOptions::default(),
            table(&binding.arguments),
        )
        .await
}

async fn unbind(channel: &Channel, binding: &BindingDecl) -> lapin::Result<()> {
    channel
        .queue_unbind(
            short(&binding.queue),
            short(&binding.exchange),
            short(&binding.routing_key),
            table(&binding.arguments),
        )
        .await
}

/// The error for the server's refusal of one of `queues`; of `name`, where the server does not name one.
fn queue_refusal(queues: &[QueueDecl], name: &str, error: &lapin::Error) -> Error {
    if let Some((code::PRECONDITION_FAILED, text)) = fault::protocol(error) {
        let is_named = |queue: &&QueueDecl| text.contains(&format!(" queue '{}' in vhost ", queue.name));
        let queue = queues.iter().find(is_named).or_else(|| queues.iter().find(|queue| queue.name == name));
        // The server gave it the type, so that the user has to be told where that comes from.
        if let Some(queue) = queue.filter(|queue| queue.arguments.get("x-queue-type").is_none())
            && let Some(by_default) = by_default(&queue.name, text)
        {
            return by_default.with_source(fault::words(error));
        }
    }
    refusal("queue", name, error)
}

/// The error for a 406 on a queue that is declared without a type, if the type that its vhost gives it is the cause.
fn by_default(queue: &str, text: &str) -> Option<Error> {
    let vhost = quoted(text, " in vhost '").unwrap_or_default();
    let change = format!(
        "change the vhost's default (`rabbitmqctl update_vhost_metadata '{vhost}' --default-queue-type ..`)"
    );
    // "invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue"
    let words = if let Some(argument) = quoted(text, "invalid arg '")
        && let Some((_, kind)) = text.split_once(" of queue type rabbit_")
    {
        let kind = kind.trim_end_matches("_queue");
        format!(
            "queue `{queue}` is declared without `x-queue-type`, which makes it a {kind} queue in vhost `{vhost}`, and a \
             {kind} queue cannot have `{argument}`: declare it with the type that you mean, or {change}"
        )
    } else if text.contains("inequivalent arg 'x-queue-type'") {
        let existing = value(text, "current is ")?;
        // "none" where no vhost has a default: then classic is meant.
        let wanted = value(text, "received ").filter(|wanted| *wanted != "none").unwrap_or("classic");
        format!(
            "queue `{queue}` exists as a {existing} queue, but is declared without `x-queue-type`, which means {wanted} in \
             vhost `{vhost}`: use it as it is (`declare = \"passive\"`), take a new queue name, drain and delete the \
             queue, or {change}"
        )
    } else {
        return None;
    };
    Some(Error::new(ErrorKind::Topology, words))
}

fn binding_refusal(binding: &BindingDecl, error: &lapin::Error) -> Error {
    let BindingDecl { queue, exchange, routing_key, .. } = binding;
    match fault::protocol(error) {
        // A pattern or `x-match` that the server does not take.
        Some((code::PRECONDITION_FAILED, _)) => Error::new(
            ErrorKind::Topology,
            format!("RabbitMQ refused to bind queue `{queue}` to exchange `{exchange}` by `{routing_key}`"),
        )
        .with_source(fault::words(error)),
        _ => refusal("queue", queue, error),
    }
}

/// The error for the server's refusal of `what` `name`, a queue or an exchange.
pub(crate) fn refusal(what: &str, name: &str, error: &lapin::Error) -> Error {
    let Some((code, text)) = fault::protocol(error) else {
        return fault::lost(error);
    };
    let refusal = match code {
        // Only these words say that it exists with other settings; a 406 may mean much else.
        code::PRECONDITION_FAILED if text.contains("inequivalent arg '") => conflict(what, name, text),
        // A binding's refusal names the one of the two that is missing.
        code::NOT_FOUND => match quoted(text, "no exchange '") {
            Some(exchange) => amqp::missing_exchange(exchange),
            None if what == "exchange" => amqp::missing_exchange(name),
            None => amqp::missing_queue(name),
        },
        // No permission helps against these: "queue 'q' in vhost '/' in exclusive use".
        code::ACCESS_REFUSED if text.ends_with(" in exclusive use") => Error::new(
            ErrorKind::Topology,
            format!(
                "{what} `{name}` has a consumer that wants it for itself (`exclusive`): end \
                 the other, or take another queue"
            ),
        ),
        code::ACCESS_REFUSED => Error::new(
            ErrorKind::Refused,
            format!(
                "the user in the URL may not use {what} `{name}`: grant it (`rabbitmqctl set_permissions`); declaring a \
                 queue with a dead-letter exchange also needs read on the queue and write on the exchange"
            ),
        ),
        code::RESOURCE_LOCKED => amqp::locked(name),
        _ => Error::new(ErrorKind::Topology, format!("RabbitMQ refused {what} `{name}`")),
    };
    refusal.with_source(fault::words(error))
}

/// The error for an operator. To an operator, a queue that does not exist is an answer.
pub(crate) fn refusal_to_operator(queue: &str, error: &lapin::Error) -> Error {
    match fault::protocol(error) {
        Some((code::NOT_FOUND, _)) => amqp::queue_not_found(queue).with_source(fault::words(error)),
        _ => refusal("queue", queue, error),
    }
}

/// Reads a 406, which says "inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value '1'
/// of type 'long' but current is none", or "received 'x' but current is 'y'".
fn conflict(what: &str, name: &str, text: &str) -> Error {
    // With several declares in flight the text names the one that it is about.
    let name = quoted(text, "for queue '").or_else(|| quoted(text, "for exchange '")).unwrap_or(name);
    let argument = quoted(text, "inequivalent arg '").unwrap_or("settings");
    let existing = value(text, "current is ").unwrap_or("something else");
    let wanted = value(text, "received ").unwrap_or("something else");
    if what == "exchange" {
        amqp::exchange_conflict(name, argument, existing, wanted)
    } else {
        amqp::queue_conflict(name, argument, existing, wanted)
    }
}

/// The text between `before` and the next quote.
fn quoted<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    rest.split('\'').next()
}

/// `'x'`, `none`, or `the value '5' of type 'long'`, of which only the value is of interest.
fn value<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    let rest = rest.strip_prefix("the value ").unwrap_or(rest);
    match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next(),
        None => rest.split([' ', ',']).next(),
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPSoftError};

    use super::*;

    fn refused(error: AMQPSoftError, text: &str) -> lapin::Error {
        lapin::ErrorKind::ProtocolError(AMQPError::new(error.into(), text.into())).into()
    }

    #[test]
    fn conflict_names_queue_argument_both_values_and_three_ways_out() {
        let texts = [
            "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'mail' in vhost '/': received the value \
             '10' of type 'signedint' but current is the value '20' of type 'long'",
            "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'mail' in vhost '/': received '10' but \
             current is '20'",
        ];
        for text in texts {
            let error = refusal("queue", "other", &refused(AMQPSoftError::PRECONDITIONFAILED, text));

            assert_eq!(error.kind(), ErrorKind::Topology);
            let words = error.to_string();
            assert!(
                words.contains("queue `mail` exists with `x-message-ttl` = 20, but is declared with 10;"),
                "{words}"
            );
            assert!(words.contains("policy") && words.contains("new queue name") && words.contains("drain"));
        }
    }

    #[test]
    fn value_that_is_not_there_is_none() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but \
                    current is the value '5' of type 'long'";

        let words = conflict("queue", "q", text).to_string();

        assert!(words.contains("`x-max-length` = 5, but is declared with none"), "{words}");
    }

    #[test]
    fn refusal_that_is_no_conflict_is_told_in_the_servers_words() {
        let typed =
            QueueDecl::new("mail").argument("x-queue-type", "quorum").argument("x-max-priority", 5_i64);
        let text = "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'mail' in vhost '/' of queue type \
                    rabbit_quorum_queue";

        let error = queue_refusal(&[typed], "other", &refused(AMQPSoftError::PRECONDITIONFAILED, text));

        let words = chain(&error);
        assert!(words.contains("refused queue") && words.contains(text), "{words}");
        assert!(!words.contains("exists") && !words.contains("drain"), "{words}");
    }

    #[test]
    fn default_type_of_the_vhost_is_named_where_it_is_the_cause() {
        let queues = [QueueDecl::new("it's").argument("x-max-priority", 5_i64), QueueDecl::new("other")];
        let invalid = "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'it's' in vhost 'shop' of queue type \
                       rabbit_quorum_queue";
        let other_type = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'it's' in vhost 'shop': received \
                          'quorum' but current is 'classic'";
        let no_default = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'it's' in vhost '/': received \
                          none but current is the value 'quorum' of type 'longstr'";
        let words = |text| {
            queue_refusal(&queues, "other", &refused(AMQPSoftError::PRECONDITIONFAILED, text)).to_string()
        };

        let (invalid, other_type, no_default) = (words(invalid), words(other_type), words(no_default));

        assert!(invalid.contains("makes it a quorum queue in vhost `shop`"), "{invalid}");
        assert!(invalid.contains("`it's`") && invalid.contains("cannot have `x-max-priority`"), "{invalid}");
        assert!(other_type.contains("exists as a classic queue"), "{other_type}");
        assert!(other_type.contains("means quorum in vhost `shop`"), "{other_type}");
        assert!(no_default.contains("exists as a quorum queue"), "{no_default}");
        assert!(no_default.contains("means classic in vhost `/`"), "{no_default}");
    }

    #[test]
    fn refused_binding_names_both_ends_and_the_key() {
        let text =
            "PRECONDITION_FAILED - Topic binding key '#.a.#.b.#' uses 3 '#' wildcards, at most 2 are allowed";
        let binding = BindingDecl::new("events", "mail", "#.a.#.b.#");

        let words = chain(&binding_refusal(&binding, &refused(AMQPSoftError::PRECONDITIONFAILED, text)));

        for part in ["`mail`", "`events`", "`#.a.#.b.#`", "at most 2"] {
            assert!(words.contains(part), "{part} is missing in: {words}");
        }
        assert!(!words.contains("exists"), "{words}");
    }

    #[test]
    fn missing_queue_and_missing_permission_are_told_apart() {
        let missing = refused(AMQPSoftError::NOTFOUND, "NOT_FOUND - no queue 'q' in vhost '/'");
        let forbidden = refused(AMQPSoftError::ACCESSREFUSED, "ACCESS_REFUSED - ...");

        let missing = refusal("queue", "q", &missing);
        let forbidden = refusal("queue", "q", &forbidden);

        assert!(missing.to_string().contains("queue `q` does not exist"));
        assert_eq!(forbidden.kind(), ErrorKind::Refused);
    }
}
