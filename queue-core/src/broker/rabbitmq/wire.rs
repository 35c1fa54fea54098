//! A channel in confirm mode, and what has been sent on it. Owned by `publisher`, which decides what is sent, and what
//! becomes of it when the channel is gone.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Consumer};

use super::convert::{self, short};
use super::publisher::{Job, Outcome, full, unroutable};
use super::session::Session;
use crate::broker::DIRECT_REPLY_TO;

/// How long opening the channel may take.
pub(super) const OPEN: Duration = Duration::from_secs(10);

/// A channel in confirm mode, and what has been sent on it.
pub(super) struct Wire {
    channel: Arc<Channel>,
    pub(super) session: Arc<Session>,
    confirms: FuturesUnordered<Pin<Box<dyn Future<Output = Resolved> + Send>>>,
    /// Sent and not yet answered, by delivery tag from `first`.
    pub(super) slots: VecDeque<Slot>,
    first: u64,
    /// Which publishes were returned, and so reached no queue.
    pub(super) returned: HashMap<i64, ()>,
    /// The replies to what is sent here, if those are requests.
    replies: Option<Consumer>,
}

pub(super) struct Slot {
    pub(super) job: Job,
    /// The confirm, once it has come. It counts only when all earlier ones are in: lapin hands returned messages
    /// to whichever confirm it completes next.
    pub(super) acked: Option<bool>,
}

/// The outcome of one delivery tag.
pub(super) struct Resolved {
    pub(super) tag: u64,
    pub(super) result: lapin::Result<Confirmation>,
}

impl Wire {
    /// Opens a channel of the session, and asks for confirms on it; if what is sent are requests, also for their
    /// replies.
    pub(super) async fn open(session: Arc<Session>, are_requests: bool) -> lapin::Result<Self> {
        let channel = session.channel(OPEN).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let replies = if are_requests { Some(consume_replies(&channel).await?) } else { None };
        Ok(Self {
            channel: Arc::new(channel),
            session,
            confirms: FuturesUnordered::new(),
            slots: VecDeque::new(),
            first: 0,
            returned: HashMap::new(),
            replies,
        })
    }

    /// Sends a message and takes a slot for it.
    pub(super) fn send(&mut self, job: Job) {
        let tag = self.first + self.slots.len() as u64;
        let channel = self.channel.clone();
        let publish = &job.publish;
        let properties = convert::properties(&publish.envelope, job.id);
        let body = publish.envelope.payload.clone();
        let exchange = short(&publish.route.exchange);
        let routing_key = short(&publish.route.routing_key);
        let options = BasicPublishOptions { mandatory: publish.mandatory, immediate: false };
        let mut confirm: Pin<Box<dyn Future<Output = Resolved> + Send>> = Box::pin(async move {
            let sent = channel.basic_publish(exchange, routing_key, options, &body, properties).await;
            let result = match sent {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            };
            Resolved { tag, result }
        });
        // lapin takes the delivery tag and queues the frames in this first poll, so tags follow our order. It is
        // polled again when it joins the others, which is when it learns whom to wake.
        match confirm.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Pending => self.confirms.push(confirm),
            Poll::Ready(resolved) => self.confirms.push(Box::pin(std::future::ready(resolved))),
        }
        self.slots.push_back(Slot { job, acked: None });
    }

    /// Notes a confirm, and the message that came back with it.
    pub(super) fn confirm(&mut self, tag: u64, confirmation: Confirmation) {
        let acked = !confirmation.is_nack();
        if let Some(message) = confirmation.take_message()
            && let Some(id) = convert::publish_id(&message.properties)
        {
            self.returned.insert(id, ());
        }
        let at = tag.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(slot) = at.and_then(|at| self.slots.get_mut(at)) {
            slot.acked = Some(acked);
        }
    }

    /// Takes out those whose outcome is certain: confirmed, and all earlier ones too.
    pub(super) fn release(&mut self) -> Vec<(Job, Outcome)> {
        let mut released = Vec::new();
        while let Some(Slot { acked: Some(acked), .. }) = self.slots.front()
            && let acked = *acked
            && let Some(Slot { job, .. }) = self.slots.pop_front()
        {
            self.first += 1;
            let outcome = if self.returned.remove(&job.id).is_some() {
                Err(unroutable(&job))
            } else if acked {
                Ok(())
            } else {
                Err(full(&job))
            };
            released.push((job, outcome));
        }
        released
    }
}

/// Begins to receive direct replies: on this very channel, or the server refuses the requests. Without acks, since
/// there is no queue that a reply could go back to.
async fn consume_replies(channel: &Channel) -> lapin::Result<Consumer> {
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consuming =
        channel.basic_consume(short(DIRECT_REPLY_TO), short("replies"), options, Default::default());
    tokio::time::timeout(OPEN, consuming)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}

/// What a channel has to tell.
pub(super) enum News {
    Confirm(Resolved),
    Reply(lapin::message::Delivery),
    /// No more replies will come: the channel is of no more use.
    RepliesFailed(lapin::Error),
}

/// The next news; pending while nothing is expected. Cancel safe.
pub(super) async fn next_news(wire: &mut Option<Wire>) -> News {
    let Some(Wire { confirms, replies, .. }) = wire else { return std::future::pending().await };
    let reply = async {
        match replies {
            Some(replies) => replies.next().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        Some(resolved) = confirms.next(), if !confirms.is_empty() => News::Confirm(resolved),
        reply = reply => match reply {
            Some(Ok(message)) => News::Reply(message),
            Some(Err(error)) => News::RepliesFailed(error),
            // The server has cancelled the consumer.
            None => News::RepliesFailed(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        },
    }
}
