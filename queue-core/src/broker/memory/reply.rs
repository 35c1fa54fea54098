//! Direct replies. As on RabbitMQ they pass through no queue: a reply is handed to its caller, or to nobody.

use std::collections::HashMap;
use std::sync::Arc;

use super::consumer::{ClientId, ConsumerId};
use super::state::State;
use crate::broker::reply::{self, DIRECT_REPLY_TO};
use crate::broker::{ConsumerHandle, Delivery};
use crate::envelope::Envelope;
use crate::error::{PublishError, Result};

/// The reply consumers of all clients: one each at most.
#[derive(Debug, Default)]
pub(super) struct Replies {
    by_client: HashMap<ClientId, ReplyConsumer>,
    by_address: HashMap<Arc<str>, ClientId>,
}

#[derive(Debug)]
struct ReplyConsumer {
    id: ConsumerId,
    /// What workers find in `reply_to`.
    address: Arc<str>,
    handle: ConsumerHandle,
}

impl State {
    /// Begins to hand a client the replies to its requests.
    pub(super) fn consume_replies(&mut self, client: ClientId, handle: ConsumerHandle) -> Result<ConsumerId> {
        if let Some(present) = self.replies.by_client.get(&client) {
            if !present.handle.is_stopped() {
                return Err(reply::taken());
            }
            self.end_replies(client);
        }
        let id = self.next();
        // A new address each time: what was asked through an earlier consumer is not for this one.
        let address: Arc<str> = format!("{DIRECT_REPLY_TO}.{client}.{id}").into();
        self.replies.by_address.insert(address.clone(), client);
        self.replies.by_client.insert(client, ReplyConsumer { id, address, handle });
        Ok(id)
    }

    /// Ends a client's reply consumer, if it has one.
    pub(super) fn end_replies(&mut self, client: ClientId) {
        if let Some(consumer) = self.replies.by_client.remove(&client) {
            self.replies.by_address.remove(&consumer.address);
            self.consumers.discarded.handles.push(consumer.handle);
        }
    }

    /// Ends this reply consumer, unless its client has another by now.
    pub(super) fn remove_reply_consumer(&mut self, id: ConsumerId) {
        let ended = self.replies.by_client.iter().find(|(_, consumer)| consumer.id == id);
        if let Some(client) = ended.map(|(client, _)| *client) {
            self.end_replies(client);
        }
    }

    /// Writes into a request where its reply goes.
    ///
    /// # Errors
    /// If its client reads no replies.
    pub(super) fn address_request(
        &self,
        client: ClientId,
        envelope: &mut Envelope,
    ) -> Result<(), PublishError> {
        let consumer = self.replies.by_client.get(&client).filter(|consumer| !consumer.handle.is_stopped());
        let address = &consumer.ok_or(PublishError::NoReader)?.address;
        envelope.reply_to = Some(address.to_string());
        Ok(())
    }

    /// Hands a reply to its caller, and says whether that one is still there.
    pub(super) fn hand_reply(&mut self, address: &str, envelope: Envelope) -> bool {
        let client = self.replies.by_address.get(address);
        let Some(consumer) = client.and_then(|client| self.replies.by_client.get(client)) else {
            return false;
        };
        let mut delivery: Delivery = reply::delivery(envelope);
        delivery.routing_key = address.to_owned();
        // Nothing happens when a reply is dropped, so one that comes back may be dropped under the lock.
        consumer.handle.offer(delivery).is_ok()
    }
}
