//! Publishes a message by the way that is its own: with the others, as a request, as a direct reply, or by the ladder.

use std::sync::{Arc, OnceLock};

use super::caller::PublisherHandle;
use super::publisher::Setup;
use super::replier::Replier;
use crate::broker::amqp::check_publish;
use crate::broker::rabbitmq::connection::closing::Closing;
use crate::broker::rabbitmq::connection::runtime::Tasks;
use crate::broker::rabbitmq::declare::restore::Restorer;
use crate::broker::rabbitmq::delay::ladder::Ladder;
use crate::broker::reply::is_request;
use crate::broker::{Consumer, Publish, Settings};
use crate::error::{PublishError, Result};

/// Publishes, by whichever way a message goes.
pub(crate) struct Publishing {
    pub(crate) settings: Arc<Settings>,
    pub(crate) publisher: PublisherHandle,
    /// Publishes requests, once the replies have a reader.
    pub(crate) requester: OnceLock<PublisherHandle>,
    /// The requester is made with this.
    pub(crate) setup: Setup,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) closing: Closing,
    /// Sends direct replies.
    pub(crate) replier: Arc<Replier>,
    pub(crate) ladder: Ladder,
    pub(crate) restorer: Arc<Restorer>,
}

impl Publishing {
    /// The publisher of this message.
    ///
    /// # Errors
    /// If it is a request, and the replies have no reader.
    pub(crate) fn publisher_of(&self, publish: &Publish) -> Result<&PublisherHandle, PublishError> {
        if is_request(&publish.envelope) {
            self.requester.get().ok_or(PublishError::NoReader)
        } else {
            Ok(&self.publisher)
        }
    }

    /// True if a message would be sent at once: the server is there, and takes messages.
    pub(crate) fn is_ready(&self) -> bool {
        let state = self.setup.state.borrow();
        state.session.is_some() && state.blocked.is_none() && !self.closing.closed.is_cancelled()
    }

    /// Begins to read the replies to this broker's requests.
    pub(crate) async fn consume_replies(&self) -> Result<Consumer> {
        let requester = self.requester.get_or_init(|| {
            let (handle, requester) = PublisherHandle::requester(&self.setup);
            self.tasks.spawn(requester.run(self.closing.closed.clone()));
            handle
        });
        let (reader, consumer) = Consumer::channel();
        requester.read_replies(reader).await.map(|()| consumer)
    }

    /// Publishes at once, or by the ladder.
    pub(crate) async fn publish(&self, publish: Publish) -> Result<(), PublishError> {
        check_publish(&publish)?;
        match publish.not_before {
            Some(eta) if eta > self.settings.clock.now() => {
                // From here on this machine's clock is not used: it may be wrong.
                let delay = eta.duration_since(self.settings.clock.now()).unwrap_or_default();
                if !publish.route.exchange.is_empty() {
                    return Err(PublishError::Invalid(format!(
                        "only a queue's messages can be delayed, not those of exchange `{}`",
                        publish.route.exchange
                    )));
                }
                self.publish_delayed(publish.envelope, publish.route.routing_key, delay).await
            }
            _ if Replier::takes(&publish) => self.replier.send(&publish).await,
            _ => self.publisher_of(&publish)?.publish(publish).await,
        }
    }
}
