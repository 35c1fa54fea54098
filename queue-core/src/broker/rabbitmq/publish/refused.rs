//! Finds the message that the server closed a channel for. Used by `publisher`.
//!
//! The server's words name an exchange, or the size of a message, and sometimes nothing.

use std::collections::VecDeque;

use super::outgoing::Outgoing;
use crate::broker::rabbitmq::connection::fault::code;
use crate::error::PublishError;

/// Those that may have ended a channel: of a queue's first `back` messages those that were not answered.
pub(super) struct Candidates {
    pub(super) back: usize,
    /// True if there is one, whatever the server says.
    pub(super) alone: bool,
    /// True if it may also be a message that is not there any more: a request whose caller has gone. Messages that are
    /// none are kept until they are answered.
    pub(super) others_have_gone: bool,
}

impl Candidates {
    /// Tells those that the server refused, and takes them out. Whether it is clear which they are.
    pub(super) fn answer_refused(&self, queue: &mut VecDeque<Outgoing>, code: u16, text: &str) -> bool {
        let candidates = || queue.iter().take(self.back).filter(|outgoing| outgoing.acked.is_none());
        let named = candidates().filter(|outgoing| is_named(text, outgoing)).count();
        let alone = self.alone && !(self.others_have_gone && names_something(text));
        let mut at = 0;
        queue.retain_mut(|outgoing| {
            at += 1;
            // Requests without confirms may have arrived before their exchange was gone.
            let is_clear = named == 1 || outgoing.wants_confirm || !names_exchange(text, exchange(outgoing));
            let is_meant = if named > 0 { is_named(text, outgoing) && is_clear } else { alone };
            let is_refused = is_meant && at <= self.back && outgoing.acked.is_none();
            if is_refused {
                let refusal = refusal(outgoing, code, text);
                outgoing.tell(Err(refusal));
            }
            !is_refused
        });
        named > 0 || alone
    }
}

/// True if the server's text is about this message, or others like it.
fn is_named(text: &str, outgoing: &Outgoing) -> bool {
    let publish = outgoing.publish();
    let is_address = names_exchange(text, exchange(outgoing)) && names_key(text, &publish.route.routing_key);
    is_address || names_size(text, publish.envelope.payload.len())
}

fn exchange(outgoing: &Outgoing) -> &str {
    &outgoing.publish().route.exchange
}

/// True if the server's text names this size as too large.
fn names_size(text: &str, size: usize) -> bool {
    text.contains(&format!(" message size {size} is larger than "))
}

/// True if the server's text names any exchange, and whole, or any size.
fn names_something(text: &str) -> bool {
    let names_exchange = text.split_once(" exchange '").is_some_and(|(_, rest)| rest.contains("' in vhost "));
    names_exchange || text.contains(" message size ")
}

/// True if the server's text names this exchange as missing or forbidden. It quotes the name as it is, quotes and all,
/// and cuts a text of more than 255 bytes off, which then names no message.
fn names_exchange(text: &str, exchange: &str) -> bool {
    text.contains(&format!(" exchange '{exchange}' in vhost "))
}

/// True if the server's text names this routing key as forbidden, or none: other keys of that exchange are not refused.
fn names_key(text: &str, routing_key: &str) -> bool {
    !text.contains(" to topic '") || text.contains(&format!(" to topic '{routing_key}' in exchange "))
}

/// The error of the message for which the server closed the channel.
fn refusal(outgoing: &Outgoing, code: u16, text: &str) -> PublishError {
    match code {
        // Nothing can be bound to an exchange that does not exist.
        code::NOT_FOUND => outgoing.unroutable(),
        code::PRECONDITION_FAILED if text.contains("larger than") => {
            let limit = text.rsplit(' ').find_map(|word| word.trim_matches('\'').parse().ok());
            let size = outgoing.publish().envelope.payload.len();
            PublishError::TooLarge { size, limit: limit.unwrap_or(size) }
        }
        code::PRECONDITION_FAILED => PublishError::Invalid(format!("RabbitMQ refused the message: {text}")),
        code::ACCESS_REFUSED => PublishError::Refused(format!(
            "RabbitMQ refused the message: {text}; grant it (`rabbitmqctl set_permissions`, `set_topic_permissions`)"
        )),
        _ => PublishError::Refused(format!("RabbitMQ refused the message: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_message_is_found_in_the_servers_words() {
        let missing = "NOT_FOUND - no exchange 'it's' in vhost '/'";
        let forbidden = "ACCESS_REFUSED - write access to exchange 'a.b' in vhost '/' refused for user 'u'";
        let large = "PRECONDITION_FAILED - message size 20 is larger than configured max size 16";

        assert!(names_exchange(missing, "it's") && !names_exchange(missing, "it"));
        assert!(names_exchange(forbidden, "a.b") && !names_exchange(forbidden, "a"));
        let topic = "ACCESS_REFUSED - write access to topic 'k.l' in exchange 'a.b' in vhost '/' refused for user 'u'";
        assert!(names_exchange(topic, "a.b") && names_key(topic, "k.l") && !names_key(topic, "k"));
        assert!(names_key(forbidden, "k"));
        assert!(!names_exchange(large, ""));
        assert!([missing, forbidden, large].into_iter().all(names_something));
        assert!(!names_something("NOT_FOUND - no exchange 'a-name-that-is-cut-o"));
        assert!(names_size(large, 20) && !names_size(large, 2) && !names_size(large, 16));
    }
}
