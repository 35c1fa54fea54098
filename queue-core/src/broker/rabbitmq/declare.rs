//! Declares topology over a short-lived connection of its own, so that a conflict never ends traffic, and says
//! in words what conflicts.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::{Channel, ExchangeKind as Kind};

use super::convert::{short, table};
use super::fault::{self, code};
use crate::error::{Error, ErrorKind};
use crate::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};

/// Declares all of `topology`, in its order.
///
/// # Errors
/// [`ErrorKind::Topology`] where something exists with other settings or a passive one is missing,
/// [`ErrorKind::Refused`] without the permission, [`ErrorKind::Connection`] if the connection was lost.
pub(super) async fn declare(channel: &Channel, topology: &Topology) -> Result<(), Error> {
    if let Some(queue) = topology.queues.iter().find(|queue| queue.exact_bindings) {
        return Err(Error::config(format!(
            "queue `{}` asks for exact bindings, which RabbitMQ's protocol cannot list: leave `bindings = \"exact\"` \
             out, and take a binding out with `rabbitmqadmin delete binding` or `Client::declare` with \
             `Topology::unbind`",
            queue.name
        )));
    }
    for exchange in &topology.exchanges {
        declare_exchange(channel, exchange)
            .await
            .map_err(|error| refusal("exchange", &exchange.name, exchange.passive, &error))?;
    }
    // Together, since each alone costs a round trip. An error names its queue, whichever future carries it.
    let queues = topology.queues.iter().map(async |queue| {
        declare_queue(channel, queue)
            .await
            .map_err(|error| refusal("queue", &queue.name, queue.passive, &error))
    });
    futures_util::future::try_join_all(queues).await?;
    for binding in &topology.bindings {
        bind(channel, binding).await.map_err(|error| refusal("queue", &binding.queue, true, &error))?;
    }
    for binding in &topology.unbindings {
        unbind(channel, binding).await.map_err(|error| refusal("queue", &binding.queue, true, &error))?;
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

/// What the server's refusal means for `what` `name`.
pub(super) fn refusal(what: &str, name: &str, passive: bool, error: &lapin::Error) -> Error {
    let Some((code, text)) = fault::protocol(error) else {
        return fault::lost(error);
    };
    let (kind, message) = match code {
        code::PRECONDITION_FAILED => (ErrorKind::Topology, conflict(what, name, text)),
        code::NOT_FOUND if passive => (
            ErrorKind::Topology,
            // A binding's refusal names the one of the two that is missing.
            match quoted(text, "no exchange '").filter(|_| what != "exchange") {
                Some(exchange) => {
                    format!("exchange `{exchange}` does not exist: declare it, or create it first")
                }
                None => format!("{what} `{name}` does not exist: create it first, or let it be declared"),
            },
        ),
        code::NOT_FOUND => (ErrorKind::Topology, format!("{what} `{name}` does not exist")),
        code::ACCESS_REFUSED => (
            ErrorKind::Refused,
            format!(
                "the user in the URL may not use {what} `{name}`: grant it (`rabbitmqctl set_permissions`); declaring a \
                 queue with a dead-letter exchange also needs read on the queue and write on the exchange"
            ),
        ),
        code::RESOURCE_LOCKED => (
            ErrorKind::Topology,
            format!("{what} `{name}` belongs to another connection (it is exclusive): use another name"),
        ),
        _ => (ErrorKind::Topology, format!("RabbitMQ refused {what} `{name}`")),
    };
    Error::new(kind, message).with_source(error.clone())
}

/// Words for a 406, which says "inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value '1'
/// of type 'long' but current is none", or "received 'x' but current is 'y'".
fn conflict(what: &str, name: &str, text: &str) -> String {
    // With several declares in flight the text names the one that it is about.
    let name = quoted(text, "for queue '").or_else(|| quoted(text, "for exchange '")).unwrap_or(name);
    let argument = quoted(text, "inequivalent arg '").unwrap_or("settings");
    let ours = value(text, "received ").unwrap_or("something else");
    let theirs = value(text, "current is ").unwrap_or("something else");
    let remedy = if what == "queue" {
        "set the argument by policy instead, take a new queue name, or drain and delete the queue \
         (`declare = \"passive\"` uses it as it is)"
    } else {
        "take a new name for the exchange, or delete it"
    };
    format!(
        "{what} `{name}` exists with other settings: `{argument}` is {theirs}, but {ours} was asked for; {remedy}"
    )
}

/// What stands between `before` and the next quote.
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
            let error = refusal("queue", "other", false, &refused(AMQPSoftError::PRECONDITIONFAILED, text));

            assert_eq!(error.kind(), ErrorKind::Topology);
            let words = error.to_string();
            assert!(words.contains("queue `mail`"), "{words}");
            assert!(words.contains("`x-message-ttl` is 20, but 10 was asked for"), "{words}");
            assert!(words.contains("policy") && words.contains("new queue name") && words.contains("drain"));
        }
    }

    #[test]
    fn value_that_is_not_there_is_none() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but \
                    current is the value '5' of type 'long'";

        let words = conflict("queue", "q", text);

        assert!(words.contains("`x-max-length` is 5, but none was asked for"), "{words}");
    }

    #[test]
    fn missing_passive_queue_and_missing_permission_are_told_apart() {
        let missing = refused(AMQPSoftError::NOTFOUND, "NOT_FOUND - no queue 'q' in vhost '/'");
        let forbidden = refused(AMQPSoftError::ACCESSREFUSED, "ACCESS_REFUSED - ...");

        let missing = refusal("queue", "q", true, &missing);
        let forbidden = refusal("queue", "q", false, &forbidden);

        assert!(missing.to_string().contains("queue `q` does not exist"));
        assert_eq!(forbidden.kind(), ErrorKind::Refused);
    }
}
