//! Declares topology over a short-lived connection of its own, so that a conflict never ends traffic, and says
//! in words what conflicts.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::{Channel, ExchangeKind as Kind};

use super::aside;
use super::connect::Link;
use super::convert::{short, table};
use super::fault::{self, code};
use crate::broker::amqp;
use crate::error::{Error, ErrorKind, chain};
use crate::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};

/// Declares all of `topology`, in its order.
///
/// # Errors
/// [`ErrorKind::Topology`] where something exists with other settings or a passive one is missing,
/// [`ErrorKind::Refused`] without the permission, [`ErrorKind::Connection`] if the connection was lost.
pub(super) async fn declare(channel: &Channel, topology: &Topology) -> Result<(), Error> {
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
        return Err(refusal("queue", &queue.name, error));
    }
    for binding in &topology.bindings {
        bind(channel, binding).await.map_err(|error| refusal("queue", &binding.queue, &error))?;
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
        match aside::on_channel(link, deadline, async |channel| declare(channel, &part).await).await {
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

/// What the server's refusal means for `what` `name`, a queue or an exchange.
pub(super) fn refusal(what: &str, name: &str, error: &lapin::Error) -> Error {
    let Some((code, text)) = fault::protocol(error) else {
        return fault::lost(error);
    };
    let refusal = match code {
        code::PRECONDITION_FAILED => conflict(what, name, text),
        // A binding's refusal names the one of the two that is missing.
        code::NOT_FOUND => match quoted(text, "no exchange '") {
            Some(exchange) => amqp::missing_exchange(exchange),
            None if what == "exchange" => amqp::missing_exchange(name),
            None => amqp::missing_queue(name),
        },
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
    fn missing_queue_and_missing_permission_are_told_apart() {
        let missing = refused(AMQPSoftError::NOTFOUND, "NOT_FOUND - no queue 'q' in vhost '/'");
        let forbidden = refused(AMQPSoftError::ACCESSREFUSED, "ACCESS_REFUSED - ...");

        let missing = refusal("queue", "q", &missing);
        let forbidden = refusal("queue", "q", &forbidden);

        assert!(missing.to_string().contains("queue `q` does not exist"));
        assert_eq!(forbidden.kind(), ErrorKind::Refused);
    }
}
