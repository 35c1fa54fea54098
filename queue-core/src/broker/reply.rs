//! Direct replies: the answer to an RPC reaches its caller without a queue of its own. The parts that all brokers share.
//! `call` uses them; a worker only publishes to the address in `reply_to`.
//!
//! AMQP's own words are at <https://www.rabbitmq.com/docs/direct-reply-to>.

#![cfg_attr(
    not(any(feature = "memory", feature = "rabbitmq", feature = "sqlite-system")),
    allow(dead_code, reason = "a program without a broker is given none of this")
)]

use async_trait::async_trait;

use super::delivery::{Delivery, Settler};
use crate::envelope::Envelope;
use crate::error::{Error, ErrorKind, SettleError};
use crate::settlement::Settlement;
use crate::topology::Name;

/// The pseudo-queue of direct replies, on every broker.
///
/// [Consuming](super::Broker::consume) it begins to receive the replies to this broker object's own requests; there
/// is one such consumer at a time, prefetch plays no part, and its deliveries need no settlement. A request is a
/// publish whose [`reply_to`](Envelope::reply_to) is this name: the receiver finds an address there
/// instead, and publishes the reply to the default exchange with that address as routing key, not mandatory.
///
/// A reply is delivered at most once: it is not kept for a caller that has ended. Where the broker is at the other
/// end of a connection, the consumer ends with that connection: its last item is an error, replies to what was asked
/// before it are lost, and it is consumed anew.
pub const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// True if the message asks for a direct reply.
pub(crate) fn is_request(envelope: &Envelope) -> bool {
    envelope.reply_to.as_deref() == Some(DIRECT_REPLY_TO)
}

/// True if this routing key is the address of a caller, present or gone.
pub(crate) fn is_address(routing_key: &str) -> bool {
    key_of_address(routing_key).is_some()
}

/// The part of such an address behind the name.
pub(crate) fn key_of_address(routing_key: &str) -> Option<&str> {
    routing_key.strip_prefix(DIRECT_REPLY_TO)?.strip_prefix('.')
}

/// A reply as its consumer gets it.
pub(crate) fn delivery(envelope: Envelope) -> Delivery {
    Delivery::new(envelope, Name::Borrowed(DIRECT_REPLY_TO), Box::new(NothingToSettle))
}

/// The error of a second reply consumer.
pub(crate) fn taken() -> Error {
    Error::new(
        ErrorKind::Topology,
        format!(
            "`{DIRECT_REPLY_TO}` is consumed already by this client: share that consumer, or open another client"
        ),
    )
}

/// A reply left the broker for good when it was delivered.
#[derive(Debug)]
struct NothingToSettle;

#[async_trait]
impl Settler for NothingToSettle {
    async fn settle(self: Box<Self>, _: Envelope, _: Settlement) -> Result<(), SettleError> {
        Ok(())
    }
}
