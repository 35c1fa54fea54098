//! Checks that a direct reply address makes sense. RabbitMQ 3.10 and 4.0 do not check: a publish to one that does not ends
//! the publisher's whole connection (541), and who sends a job chooses its `reply_to`.
//!
//! An address is `amq.rabbitmq.reply-to.<pid>.<key>`, the pid in Erlang's external term format and base64, of a node
//! `reply@<number>`. See `rabbit_direct_reply_to.erl`.
//!
//! 3.10 does not survive a well-formed address of a node outside of its cluster either, which a client cannot tell. Such
//! a reply costs one connection, which comes back; it is never sent twice.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::broker::{Publish, reply};
use crate::error::PublishError;

/// Erlang's version of the external term format, and its tag of a pid.
const PID: [u8; 2] = [131, 88];
/// Id, serial and creation of a pid, of four bytes each.
const PARTS: usize = 12;

/// True if the message goes to a direct reply address that the server would not survive reading.
pub(crate) fn is_nonsense(publish: &Publish) -> bool {
    publish.route.exchange.is_empty()
        && reply::key_of_address(&publish.route.routing_key).is_some_and(|rest| !makes_sense(rest))
}

/// Drops such a message, like one whose caller has ended.
pub(crate) fn dropped(publish: &Publish) -> Result<(), PublishError> {
    let address = &publish.route.routing_key;
    tracing::warn!(%address, "dropped a reply: it has no caller's address, and RabbitMQ would end the connection over it");
    if publish.mandatory {
        let routing_key = address.to_string();
        Err(PublishError::Unroutable { exchange: String::new(), routing_key })
    } else {
        Ok(())
    }
}

fn makes_sense(rest: &str) -> bool {
    let Some(pid) = rest.split_once('.').and_then(|(pid, _)| STANDARD.decode(pid).ok()) else { return false };
    let Some(node_and_parts) = pid.strip_prefix(&PID) else { return false };
    // An atom: its tag, how long it is, in one byte or two, and its text.
    let (length, text) = match node_and_parts {
        [119 | 115, length, text @ ..] => (usize::from(*length), text),
        [118 | 100, high, low, text @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), text),
        _ => return false,
    };
    if text.len() != length + PARTS {
        return false;
    }
    let number = text[..length].strip_prefix(b"reply@");
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}
