//! A channel to publish on, and what has been sent on it. Owned by `publisher`, which decides what is sent, and what
//! becomes of it when the channel is gone.
//!
//! It is in confirm mode, save that of requests, which goes over to that mode when one of them
//! [wants a confirm](Outgoing::wants_confirm).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Consumer, PublisherConfirm};
use tokio::time::Instant;

use super::flight::Flight;
use super::outgoing::{Outgoing, Writing};
use super::returns::Returns;
use super::unconfirmed::Unconfirmed;
use crate::broker::rabbitmq::message::convert::{self, short};
use crate::broker::rabbitmq::message::delivery_stream::{self, Ended, Keeper};
use crate::broker::rabbitmq::supervise::session::Session;
use crate::broker::{ConsumerHandle, DIRECT_REPLY_TO, Delivery, reply};
use crate::error::PublishError;

/// The flight holds at most so many windows, counting what has been told and only stands behind another.
const WINDOWS: usize = 16;

/// How long opening the channel may take.
pub(super) const OPEN: Duration = Duration::from_secs(10);

/// A channel, and what has been sent on it.
pub(super) struct Wire {
    channel: Arc<Channel>,
    pub(super) session: Arc<Session>,
    pub(super) flight: Flight<Outgoing, Writing, PublisherConfirm, lapin::Error>,
    /// How many in flight have been told, and only stand in line.
    told: usize,
    /// Messages that were sent without confirms.
    unconfirmed: Unconfirmed,
    confirms: Confirms,
    returns: Returns,
    /// Ready when the message of [`send_only`](Self::send_only) is confirmed, or will not be.
    confirmed: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// The replies to what is sent here, if those are requests.
    replies: Option<ReplyStream>,
    /// When the server last answered anything, or something was sent while it owed no answer.
    heard: Instant,
    /// True if replies have come that `heard` does not know of: another task reads them.
    has_replied: Arc<AtomicBool>,
    /// When the first in flight was last released. Until then all behind it waited for others.
    released: Instant,
}

/// A message that is not confirmed though its time is up, behind which all others stand.
pub(super) struct Late {
    pub(super) waited: Duration,
    /// True if others have been confirmed, so that it is not the channel that hangs.
    pub(super) is_alone: bool,
}

/// The confirm mode of a channel.
enum Confirms {
    Off,
    /// Nothing is sent meanwhile.
    Switching(Pin<Box<dyn Future<Output = lapin::Result<()>> + Send>>),
    On,
}

/// The replies that come on a channel.
enum ReplyStream {
    /// Not read by any task.
    Unread(Consumer),
    Read(Keeper, Ended),
}

impl Wire {
    /// Opens a channel of the session, and asks for confirms on it; if what is sent are requests, for their replies
    /// instead.
    pub(super) async fn open(session: Arc<Session>, are_requests: bool) -> lapin::Result<Self> {
        let channel = session.channel(OPEN).await?;
        let (confirms, replies) = if are_requests {
            (Confirms::Off, Some(ReplyStream::Unread(consume_replies(&channel).await?)))
        } else {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            (Confirms::On, None)
        };
        Ok(Self {
            channel: Arc::new(channel),
            session,
            flight: Flight::new(),
            told: 0,
            unconfirmed: Unconfirmed::default(),
            confirms,
            returns: Returns::default(),
            confirmed: None,
            replies,
            heard: Instant::now(),
            has_replied: Arc::default(),
            released: Instant::now(),
        })
    }

    /// True if one may be sent now, with so many unconfirmed at most.
    pub(super) fn has_room(&mut self, wants_confirm: bool, window: usize) -> bool {
        match self.confirms {
            Confirms::On => {
                let waiting = self.flight.len().saturating_sub(self.told);
                waiting < window && self.flight.len() < window * WINDOWS && self.flight.has_room()
            }
            Confirms::Off => !wants_confirm && self.unconfirmed.has_room(),
            Confirms::Switching(_) => false,
        }
    }

    /// Sends a message for which there is [room](Self::has_room). [`poll`](Self::poll) must follow.
    pub(super) fn send(&mut self, mut outgoing: Outgoing) {
        if !self.is_busy() {
            self.heard = Instant::now();
        }
        // So that they stand in the order in which their time is up.
        if let Some(last) = self.flight.last() {
            outgoing.since = outgoing.since.max(last.since);
        }
        outgoing.sent = true;
        outgoing.acked = None;
        outgoing.is_sure = false;
        let channel = self.channel.clone();
        let mark = self.returns.expect(&outgoing);
        let publish = outgoing.publish();
        let properties = convert::properties(&publish.envelope, mark);
        let body = publish.envelope.payload.clone();
        let exchange = short(&publish.route.exchange);
        let routing_key = short(&publish.route.routing_key);
        let options = BasicPublishOptions { mandatory: publish.mandatory, immediate: false };
        // lapin takes the delivery tag and queues the frames in the first poll, so tags follow our order.
        let writing =
            async move { channel.basic_publish(exchange, routing_key, options, &body, properties).await };
        let is_confirmed = matches!(self.confirms, Confirms::On);
        let spare = if is_confirmed { self.flight.spare() } else { self.unconfirmed.spare() };
        let writing = match spare {
            Some(mut spare) => {
                spare.set(writing);
                spare
            }
            None => Writing::new(writing),
        };
        if is_confirmed {
            self.flight.send(outgoing, writing);
        } else {
            self.unconfirmed.send(outgoing, writing);
        }
    }

    /// Sends a message while no other is on its way. [`poll_only`](Self::poll_only) must follow, or `poll`.
    pub(super) fn send_only(&mut self, outgoing: Outgoing) {
        self.send(outgoing);
        let channel = self.channel.clone();
        // Waits for the last one sent. It is there from the first, whereas its confirm's own future is there when the
        // message is written, and who waits for that is woken twice. What it gives is in the confirm as well.
        self.confirmed = Some(Box::pin(async move { drop(channel.wait_for_confirms().await) }));
    }

    /// Tells callers what has become certain, has `cx` woken when more has, and says how much it was.
    ///
    /// # Errors
    /// If the channel is of no more use.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> lapin::Result<usize> {
        let (returns, mut is_answered) = (&mut self.returns, false);
        self.flight.poll(cx, |outgoing, confirmation| {
            is_answered = true;
            note(outgoing, confirmation, returns);
        })?;
        if is_answered {
            self.heard = Instant::now();
        }
        self.unconfirmed.poll(&self.channel, &mut self.returns)?;
        Ok(self.release())
    }

    /// Sees that there will be [room](Self::has_room) for a request that waits for it, and is ready when there may be. To
    /// be called after that, and only while one waits.
    ///
    /// # Errors
    /// If the channel is of no more use.
    pub(super) fn poll_room(&mut self, wants_confirm: bool, cx: &mut Context<'_>) -> Poll<lapin::Result<()>> {
        let written = self.unconfirmed.poll_written(cx)?;
        if matches!(self.confirms, Confirms::Off) {
            if !wants_confirm {
                return if self.unconfirmed.is_full() { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            // RabbitMQ counts what comes after the switch, and lapin would write that before what waits to be written.
            ready!(written);
            let channel = self.channel.clone();
            // Without a time limit: a server that takes no messages takes this as late as those. One that is gone is
            // found out by the heartbeat.
            let switching = async move { channel.confirm_select(ConfirmSelectOptions::default()).await };
            self.confirms = Confirms::Switching(Box::pin(switching));
        }
        // In confirm mode others are told when there is room, by what they wait for.
        let Confirms::Switching(switching) = &mut self.confirms else { return Poll::Pending };
        let switched = ready!(switching.as_mut().poll(cx));
        self.confirms = Confirms::On;
        Poll::Ready(switched)
    }

    /// As [`poll`](Self::poll), where only one message is on its way, and by the task that waits for it. An error is
    /// left to `poll`.
    pub(super) fn poll_only(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(confirmed) = &mut self.confirmed {
            ready!(confirmed.as_mut().poll(cx));
            self.confirmed = None;
        }
        let returns = &mut self.returns;
        self.flight.poll_only(cx, |outgoing, confirmation| note(outgoing, confirmation, returns)).map(|()| {
            self.release();
        })
    }

    /// Tells what is certain already of those that stand behind one whose confirm does not come: a queue that hangs must
    /// not hold up what goes to others. To be called after [`poll`](Self::poll), which has heard all there was.
    pub(super) fn tell_sure(&mut self) {
        for outgoing in self.flight.iter_mut().filter(|outgoing| !outgoing.is_told) {
            match outgoing.confirmed(false) {
                _ if self.returns.has(outgoing) => outgoing.tell_unroutable(),
                Some(acked) => outgoing.tell_confirmed(acked),
                None => continue,
            }
            self.told += 1;
        }
    }

    /// When the time of the first one is up whose caller waits.
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        let first = self.flight.iter().find(|outgoing| !outgoing.is_told)?;
        Some(first.since.max(self.released) + timeout)
    }

    /// Tells those whose time is up. While those before one are confirmed, its time does not count: how much is on its way
    /// must not make it fail.
    pub(super) fn expire(&mut self, timeout: Duration) -> Option<Late> {
        let released = self.released;
        let waited = |outgoing: &Outgoing| outgoing.since.max(released).elapsed();
        let is_up = |outgoing: &&mut Outgoing| waited(outgoing) >= timeout;
        for outgoing in self.flight.iter_mut().take_while(is_up).filter(|outgoing| !outgoing.is_told) {
            outgoing.tell(Err(PublishError::Unconfirmed { waited: timeout }));
            self.told += 1;
        }
        let first = self.flight.iter().next().filter(|first| first.acked.is_none())?;
        let waited = waited(first);
        let is_alone = || self.flight.iter().any(|outgoing| outgoing.acked.is_some());
        (waited >= timeout).then(|| Late { waited, is_alone: is_alone() })
    }

    /// Tells what has become certain, and how much that was.
    fn release(&mut self) -> usize {
        let mut released = 0;
        while let Some(mut outgoing) = self.flight.release() {
            self.told = self.told.saturating_sub(outgoing.is_told.into());
            if self.returns.take(&outgoing) {
                outgoing.tell_unroutable();
            } else {
                outgoing.tell_confirmed(outgoing.acked == Some(true));
            }
            released += 1;
        }
        if released > 0 && self.flight.len() > 0 {
            self.released = Instant::now();
        }
        released
    }

    /// Hears all that was answered before the channel was gone.
    pub(super) fn hear_out(&mut self) {
        // An error of the channel's is what this follows.
        let _ = self.unconfirmed.poll(&self.channel, &mut self.returns);
        let returns = &mut self.returns;
        self.flight.ask_all(|outgoing, confirmation| note(outgoing, confirmation, returns));
        // What came back for these may have been handed out with others, which were asked before that. Confirms that
        // have come since want a third look, so they do not count.
        self.flight.ask_all(|_, confirmation| {
            note_return(confirmation, returns);
        });
    }

    /// How many may have ended the channel, after [`hear_out`](Self::hear_out).
    pub(super) fn candidates(&self) -> usize {
        self.unconfirmed.iter().chain(self.flight.iter()).filter(|outgoing| outgoing.acked.is_none()).count()
    }

    /// Removes the requests that went without confirms: their callers no longer wait.
    pub(super) fn take_unconfirmed(&mut self) -> Vec<Outgoing> {
        self.unconfirmed.take(&mut self.returns)
    }

    /// True if there are messages whose callers wait, behind another one.
    pub(super) fn are_some_behind(&self) -> bool {
        self.flight.len() > 1 && self.flight.len() > self.told
    }

    /// The moment since which the server has answered nothing, if a task waits for an answer.
    pub(super) fn silent_since(&mut self) -> Option<Instant> {
        if self.has_replied.swap(false, Ordering::Relaxed) {
            self.heard = Instant::now();
        }
        let is_owed = self.flight.len() > self.told || !self.unconfirmed.is_empty();
        is_owed.then_some(self.heard)
    }

    /// True if something may become certain of what was sent.
    pub(super) fn is_busy(&self) -> bool {
        self.flight.len() > 0 || !self.unconfirmed.is_empty()
    }

    /// Tells what is certain although the channel is gone, and gives back all whose callers still wait, in their order.
    pub(super) fn into_unanswered(mut self) -> VecDeque<Outgoing> {
        self.hear_out();
        let mut unanswered = VecDeque::from(self.take_unconfirmed());
        // Behind one that is not answered an ack is not certain: see `flight`.
        let mut is_certain = true;
        for mut outgoing in std::mem::replace(&mut self.flight, Flight::new()).into_items() {
            is_certain &= outgoing.acked.is_some();
            if self.returns.take(&outgoing) {
                outgoing.tell_unroutable();
            } else if let Some(acked) = outgoing.confirmed(is_certain) {
                outgoing.tell_confirmed(acked);
            } else if reply::is_address(&outgoing.publish().route.routing_key) {
                // Perhaps it was what ended the connection, and would end the next one (see `address`).
                let waited = outgoing.since.elapsed();
                outgoing.tell(Err(PublishError::Unconfirmed { waited }));
            } else if !outgoing.is_told {
                unanswered.push_back(outgoing);
            }
        }
        unanswered
    }

    /// Lets `reader` read the replies, from its own task, instead of the reader before it.
    pub(super) fn read_replies(&mut self, reader: &ConsumerHandle) {
        self.leave_replies();
        match self.replies.take() {
            Some(ReplyStream::Unread(replies)) => {
                let has_replied = self.has_replied.clone();
                let read = move |message| {
                    has_replied.store(true, Ordering::Relaxed);
                    read_reply(message)
                };
                let (keeper, deliveries, ended) = delivery_stream::open(replies, false, read);
                reader.attach(deliveries);
                self.replies = Some(ReplyStream::Read(keeper, ended));
            }
            other => self.replies = other,
        }
    }

    /// Stops reading the replies.
    pub(super) fn leave_replies(&mut self) {
        match self.replies.take() {
            // Without what brings more, it has ended, which `ended` tells.
            Some(ReplyStream::Read(keeper, ended)) => {
                self.replies = Some(match keeper.close() {
                    Some(replies) => ReplyStream::Unread(replies),
                    None => ReplyStream::Read(keeper, ended),
                });
            }
            other => self.replies = other,
        }
    }

    /// A reply without a reader.
    ///
    /// # Errors
    /// Ready when no more replies will come, with or without a reader: the channel is lost.
    pub(super) fn poll_stray_reply(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<lapin::Result<lapin::message::Delivery>> {
        // The server has cancelled the consumer.
        let cancelled = || lapin::Error::from(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
        match &mut self.replies {
            None => Poll::Pending,
            Some(ReplyStream::Unread(replies)) => {
                replies.poll_next_unpin(cx).map(|reply| reply.unwrap_or_else(|| Err(cancelled())))
            }
            Some(ReplyStream::Read(keeper, ended)) => {
                // Between two calls there is no reader that would see it.
                if !self.channel.status().connected() {
                    keeper.look();
                }
                ready!(Pin::new(ended).poll(cx))
                    .map_or(Poll::Pending, |error| Poll::Ready(Err(error.unwrap_or_else(cancelled))))
            }
        }
    }

    /// True if it can be sent on, as far as lapin knows.
    pub(super) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }
}

fn read_reply(message: lapin::message::Delivery) -> Delivery {
    let mut delivery = reply::delivery(convert::envelope(message.properties, message.data));
    delivery.routing_key = message.routing_key.into();
    delivery
}

/// Notes a confirm, and the message that came back with it, which may be another's.
fn note(outgoing: &mut Outgoing, confirmation: Confirmation, returns: &mut Returns) {
    outgoing.acked = Some(!confirmation.is_nack());
    outgoing.is_sure = !note_return(confirmation, returns);
}

/// True if there was one.
fn note_return(confirmation: Confirmation, returns: &mut Returns) -> bool {
    let message = confirmation.take_message();
    if let Some(message) = &message {
        returns.note(&message.properties);
    }
    message.is_some()
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
