//! The callers' end of the publisher.
//!
//! A caller that publishes while nothing else is under way sends the message itself, and lapin's thread wakes it when the
//! confirm is there: to go by the publisher's task would be a thread woken, twice, for each enqueue of a program that
//! awaits one after another. As soon as there are two the task takes over.
//!
//! A request is sent by its caller however many are on their way, as long as there is room, and the task looks from time
//! to time whether one has come back: its caller waits for the reply, and hears from here only that there will be none.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

use super::command::{Command, Sent};
use super::outgoing::{One, Outcome};
use super::publisher::{Setup, SharedPublisher};
use super::reply::Replies;
use crate::broker::{ConsumerHandle, Publish, closed};
use crate::error::{PublishError, Result};

/// The callers' end.
#[derive(Clone)]
pub(crate) struct PublisherHandle {
    commands: mpsc::UnboundedSender<Command>,
    publisher: SharedPublisher,
    are_requests: bool,
}

impl PublisherHandle {
    /// A publisher that uses the session of `setup`, and its callers' end. Spawn [`SharedPublisher::run`].
    pub(crate) fn publisher(setup: &Setup) -> (Self, SharedPublisher) {
        let (commands, publisher) = SharedPublisher::new(setup, None);
        (Self { commands, publisher: publisher.clone(), are_requests: false }, publisher)
    }

    /// A publisher of requests.
    pub(super) fn requester(setup: &Setup) -> (Self, SharedPublisher) {
        let (commands, publisher) = SharedPublisher::new(setup, Some(Replies::default()));
        (Self { commands, publisher: publisher.clone(), are_requests: true }, publisher)
    }

    /// Publishes one message and waits for its outcome. The message has been [checked](crate::broker::amqp::check_publish).
    pub(crate) async fn publish(&self, publish: Publish) -> Outcome {
        self.send(publish, true).await
    }

    /// Publishes a request, and returns when it is known that there will be no reply; perhaps also when the broker has
    /// the request.
    pub(crate) async fn request(&self, publish: Publish) -> Outcome {
        self.send(publish, false).await
    }

    async fn send(&self, publish: Publish, wants_confirm: bool) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let one = One { publish: Box::new(publish), reply, wants_confirm };
        let sent = if self.are_requests {
            self.publisher.lock().send_now(one)
        } else {
            // A lock that is taken means that others publish.
            match self.publisher.try_lock() {
                Some(mut publisher) => publisher.send_now(one),
                None => Err(one),
            }
        };
        match sent {
            Ok(Sent { own, is_timed }) => {
                if !is_timed {
                    self.look();
                }
                if let Some(id) = own {
                    return OwnPublish { handle: self, id, outcome, is_told: false }.await;
                }
            }
            Err(one) => self.commands.send(Command::One(one)).map_err(|_| PublishError::Closed)?,
        }
        outcome.await.unwrap_or(Err(PublishError::Closed))
    }

    /// Publishes many; the outcomes stand in the order of the messages.
    pub(super) async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Outcome> {
        let count = publishes.len();
        let (reply, outcomes) = oneshot::channel();
        // A closed task drops the command and with it `reply`.
        let _ = self.commands.send(Command::Many(publishes, reply));
        outcomes.await.unwrap_or_else(|_| (0..count).map(|_| Err(PublishError::Closed)).collect())
    }

    /// Hands the replies to this publisher's requests to `reader`. Waits for a connection, up to the publish timeout.
    ///
    /// # Errors
    /// If they have a reader already, or the broker is away for too long.
    pub(super) async fn read_replies(&self, reader: ConsumerHandle) -> Result<()> {
        let (answer, outcome) = oneshot::channel();
        self.commands.send(Command::ReadReplies(reader, answer)).map_err(|_| closed())?;
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }

    fn look(&self) {
        // A task that has ended has answered everybody.
        let _ = self.commands.send(Command::Look);
    }
}

/// Waits for the outcome of a message that its caller has sent itself. Dropped before, it leaves the rest to the task.
struct OwnPublish<'a> {
    handle: &'a PublisherHandle,
    id: i64,
    outcome: oneshot::Receiver<Outcome>,
    is_told: bool,
}

impl OwnPublish<'_> {
    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.outcome).poll(cx).map(|outcome| {
            self.is_told = true;
            outcome.unwrap_or(Err(PublishError::Closed))
        })
    }
}

impl Future for OwnPublish<'_> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        // First, so that it is heard of who tells meanwhile: the task may have taken over.
        if let Poll::Ready(outcome) = self.poll_outcome(cx) {
            return Poll::Ready(outcome);
        }
        std::task::ready!(self.handle.publisher.lock().poll_own(self.id, cx));
        self.poll_outcome(cx)
    }
}

impl Drop for OwnPublish<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.handle.look();
        }
    }
}
