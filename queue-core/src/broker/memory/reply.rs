//! Direct replies. As on RabbitMQ they pass through no queue: a reply is handed to its caller, or dropped.

use std::collections::HashMap;
use std::sync::Arc;

use super::ids::{ClientId, ConsumerId};
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
    /// The address that workers find in `reply_to`.
    address: Arc<str>,
    handle: ConsumerHandle,
}

impl Replies {
    /// Begins to hand a client the replies to its requests, by a consumer of this id. Returns that of an earlier consumer
    /// which was stopped, to be dropped when the lock is free.
    ///
    /// # Errors
    /// If the client has one.
    pub(super) fn consume(
        &mut self,
        client: ClientId,
        id: ConsumerId,
        handle: ConsumerHandle,
    ) -> Result<Option<ConsumerHandle>> {
        if self.by_client.get(&client).is_some_and(|present| !present.handle.is_stopped()) {
            return Err(reply::taken());
        }
        let before = self.end(client);
        // A new address each time: what was asked through an earlier consumer is not for this one.
        let address: Arc<str> = format!("{DIRECT_REPLY_TO}.{client}.{id}").into();
        self.by_address.insert(address.clone(), client);
        self.by_client.insert(client, ReplyConsumer { id, address, handle });
        Ok(before)
    }

    /// Ends a client's reply consumer, if it has one. Its handle is to be dropped when the lock is free.
    pub(super) fn end(&mut self, client: ClientId) -> Option<ConsumerHandle> {
        let consumer = self.by_client.remove(&client)?;
        self.by_address.remove(&consumer.address);
        Some(consumer.handle)
    }

    /// Like [`end`](Self::end), for this reply consumer, unless its client has another by now.
    pub(super) fn remove(&mut self, id: ConsumerId) -> Option<ConsumerHandle> {
        let (client, _) = self.by_client.iter().find(|(_, consumer)| consumer.id == id)?;
        self.end(*client)
    }

    /// Writes into a request where its reply goes.
    ///
    /// # Errors
    /// If its client reads no replies.
    pub(super) fn address(&self, client: ClientId, envelope: &mut Envelope) -> Result<(), PublishError> {
        let consumer = self.by_client.get(&client).filter(|consumer| !consumer.handle.is_stopped());
        let address = &consumer.ok_or(PublishError::NoReader)?.address;
        envelope.reply_to = Some(address.to_string());
        Ok(())
    }

    /// Hands a reply to its caller, and says whether that one is still there.
    pub(super) fn hand_over(&self, address: &str, envelope: Envelope) -> bool {
        let client = self.by_address.get(address);
        let Some(consumer) = client.and_then(|client| self.by_client.get(client)) else {
            return false;
        };
        let mut delivery: Delivery = reply::delivery(envelope);
        delivery.routing_key = address.to_owned();
        // Nothing happens when a reply is dropped, so one that comes back may be dropped under the lock.
        consumer.handle.offer(delivery).is_ok()
    }
}
