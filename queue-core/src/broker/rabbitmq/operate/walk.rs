//! Walks through a queue for an operator. Only a consumer sees what a queue holds, so each page has one of its own, which
//! is cancelled as soon as it has its messages; they are held until the walk ends.
//!
//! Before RabbitMQ 4.3 a quorum queue counts each time a message comes back to it, and drops it when that is too often.
//! So nothing is given back while the queue still delivers, or it would come again at once; and what has come back often
//! is replaced by a copy, whose count begins anew.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery as Message;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::turn::{Lock, Turn, Turns};
use crate::broker::rabbitmq::connection::fault::{self, code};
use crate::broker::rabbitmq::connection::runtime::Tasks;
use crate::broker::rabbitmq::consume::ledger::{Ledger, STASHED};
use crate::broker::rabbitmq::consume::settle::Receipt;
use crate::broker::rabbitmq::message::convert::{self, short};
use crate::broker::rabbitmq::message::wear;
use crate::broker::rabbitmq::publish::publishing::Publishing;
use crate::broker::rabbitmq::topology::declare;
use crate::broker::tries::is_refusal;
use crate::broker::{ConsumeOptions, Delivery, Found, Mark, Place, Publish, Settings, Walk, closed};
use crate::envelope::Envelope;
use crate::error::{Error, ErrorKind, Result};
use crate::settlement::renewed_copy;
use crate::topology::Name;

/// How long a queue that counted messages may take to hand over the next one. Another consumer may have taken
/// it, so running out of time is no error.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait before a queue that may be on its way out is asked about.
const GOING: Duration = Duration::from_millis(100);
/// How long the server may take for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How many messages are passed at once on the way to a mark.
const SKIPPED: u16 = 1024;
/// How often a message may have come back to be given back once more. RabbitMQ 4 drops it after twenty times, and after
/// fewer where a policy says so, of which AMQP tells nothing.
const WORN: i64 = 10;
/// With more settlements than these on their way, the nack that follows may be [stashed](STASHED). Two fewer, to be on the
/// safe side: to ask in vain costs two round trips, and a nack that is stashed and forgotten costs each letter a delivery.
const BUSY: usize = STASHED - 2;

/// The parts of the broker that a walk needs.
pub(crate) struct Walking {
    pub(crate) settings: Arc<Settings>,
    pub(crate) publishing: Arc<Publishing>,
    pub(crate) turns: Turns,
    pub(crate) tasks: Arc<Tasks>,
}

/// A walk, whose steps are carried out on the broker's runtime: one that is begun is done, whether anybody waits or not.
pub(crate) struct RabbitWalk {
    with: Arc<Walking>,
    /// `None` while a step has it, and after a step whose caller has ended.
    hold: Option<Hold>,
    /// How many messages it has passed.
    passed: u64,
}

impl RabbitWalk {
    /// Waits for a turn at the queue, and begins to walk. Runs on the broker's runtime.
    pub(crate) async fn begin(with: Arc<Walking>, queue: Name) -> Result<Self> {
        let hold = Hold::open(with.clone(), queue).await?;
        Ok(Self { with, hold: Some(hold), passed: 0 })
    }
}

/// The messages that a walk holds. Dropped, it gives that back, in a task of its own.
struct Hold {
    with: Arc<Walking>,
    ledger: Arc<Ledger>,
    queue: Name,
    /// Keeps other operators away; taken when the walk is over.
    lock: Option<Lock>,
    /// How many consumers there have been.
    pages: usize,
    /// How many messages have been taken out, and are acked one by one.
    taken: usize,
    /// A page failed: the channel is closed without a word more, and the server takes everything back with it.
    has_failed: bool,
    /// [`leave`](Self::leave) has been called, so that dropping the hold does nothing more.
    has_left: bool,
    /// Those that have come back often, to be replaced.
    worn: BTreeMap<u64, Envelope>,
}

impl fmt::Debug for RabbitWalk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.hold.as_ref().map(|hold| &hold.queue);
        f.debug_struct("RabbitWalk").field("queue", &queue).finish_non_exhaustive()
    }
}

#[async_trait]
impl Walk for RabbitWalk {
    async fn next(&mut self, count: u16) -> Result<Vec<Found>> {
        let mut hold = self.hold.take().ok_or_else(ended)?;
        let (tell, told) = oneshot::channel();
        self.with.tasks.spawn(async move {
            let found = hold.page(count.max(1)).await;
            // The caller has ended: the held messages go back with it.
            let _ = tell.send((hold, found));
        });
        let (hold, found) = told.await.map_err(|_| closed())?;
        // After an error there is no channel, and the server has taken everything back.
        self.hold = found.is_ok().then_some(hold);
        self.passed += found.as_ref().map_or(0, |found| found.len() as u64);
        found
    }

    fn mark(&self) -> Option<Mark> {
        (self.passed > 0).then_some(Mark { level: 0, place: self.passed })
    }

    async fn go_to(&mut self, mark: Mark) -> Result<()> {
        while self.passed < mark.place {
            let left = mark.place - self.passed;
            // The messages themselves are let go at once.
            if self.next(u16::try_from(left).unwrap_or(SKIPPED).min(SKIPPED)).await?.is_empty() {
                break;
            }
        }
        Ok(())
    }

    async fn take(&mut self, found: Found) -> Result<Option<Delivery>> {
        let hold = self.hold.as_mut().ok_or_else(ended)?;
        let Found { place: Place(tag), envelope } = found;
        hold.taken += 1;
        hold.worn.remove(&tag);
        let receipt = Receipt::new(hold.ledger.clone(), tag);
        Ok(Some(Delivery::new(envelope, hold.queue.clone(), Box::new(receipt))))
    }

    async fn end(mut self: Box<Self>) {
        let Some(hold) = self.hold.take() else { return };
        let (tell, told) = oneshot::channel::<()>();
        self.with.tasks.spawn(async move {
            hold.give_back().await;
            drop(tell);
        });
        let _ = told.await;
    }
}

/// The error of a step after one that failed, or whose caller did not wait for it.
fn ended() -> Error {
    Error::new(ErrorKind::Connection, "this walk through the queue is over: begin another one")
}

impl Hold {
    async fn open(with: Arc<Walking>, queue: Name) -> Result<Self> {
        let turn = with.turns.wait(&queue).await?;
        let Turn { channel, keeps, lock } = turn;
        // Without dead letters, since an operator only takes out.
        let ledger =
            Ledger::new(with.publishing.clone(), channel, keeps, &ConsumeOptions::new(queue.clone()));
        ledger.send_at_once();
        let hold = Self {
            with,
            ledger,
            queue,
            lock: Some(lock),
            pages: 0,
            taken: 0,
            has_failed: false,
            has_left: false,
            worn: BTreeMap::new(),
        };
        // That it does not exist is said before anybody walks.
        hold.ready().await?;
        Ok(hold)
    }

    /// How many messages are ready, as far as the queue has counted.
    async fn ready(&self) -> Result<usize> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asked = self.ledger.channel().queue_declare(short(&self.queue), options, Default::default());
        let there = self.answer(asked).await?;
        Ok(usize::try_from(there.message_count()).unwrap_or(usize::MAX))
    }

    /// The server's answer.
    async fn answer<T>(&self, asked: impl Future<Output = lapin::Result<T>>) -> Result<T> {
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            // A quorum queue that is just being deleted.
            Ok(Err(error))
                if fault::protocol(&error).is_some_and(|(code, _)| code == code::INTERNAL_ERROR) =>
            {
                Err(self.gone().await)
            }
            Ok(Err(error)) => Err(declare::refusal_to_operator(&self.queue, &error)),
            Err(_) => {
                let words = format!("RabbitMQ did not answer for queue `{}` within {ANSWER:?}", self.queue);
                Err(Error::new(ErrorKind::Connection, words))
            }
        }
    }

    /// The next messages. After an error the walk is over: it is not known what the queue still delivers.
    async fn page(&mut self, count: u16) -> Result<Vec<Found>> {
        let messages = self.consume(count).await;
        self.has_failed |= messages.is_err();
        Ok(messages?.into_iter().map(|message| self.found(message)).collect())
    }

    /// Consumes the next messages, and returns when the queue delivers no more of them.
    async fn consume(&mut self, count: u16) -> Result<Vec<Message>> {
        let ready = self.ready().await?;
        self.pages += 1;
        let channel = self.ledger.channel().clone();
        let name = &self.with.settings.name;
        // The server gives back by consumer, in the order of their names: all numbers have the same length.
        let tag = format!("operator-{:06}-{}", self.pages, crate::envelope::truncate(name, 200));
        let tag = short(&tag);
        let qos = || channel.basic_qos(count, BasicQosOptions { global: false });
        self.answer(qos()).await?;
        let consuming = channel.basic_consume(
            short(&self.queue),
            tag.clone(),
            BasicConsumeOptions::default(),
            Default::default(),
        );
        let mut messages = self.answer(consuming).await?;
        // An answer on the channel comes after what the queue had for us when it answered `basic.consume`.
        self.answer(qos()).await?;
        let wanted = ready.min(count.into());
        let mut held = Vec::with_capacity(wanted);
        while held.len() < count.into() {
            let next = if held.len() < wanted {
                match tokio::time::timeout(PATIENCE, messages.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        tracing::warn!(
                            queue = %self.queue, counted = ready, seen = held.len(),
                            "the queue does not hand over all that it counts: another consumer has them, perhaps"
                        );
                        break;
                    }
                }
            } else {
                // A quorum queue counts late what has just come back to it, but hands it over.
                match messages.next().now_or_never() {
                    Some(next) => next,
                    None => break,
                }
            };
            held.push(self.message(next).await?);
        }
        self.answer(channel.basic_cancel(tag, BasicCancelOptions::default())).await?;
        while let Some(late) = messages.next().await {
            held.push(self.message(Some(late)).await?);
        }
        Ok(held)
    }

    /// A message, unless the queue has gone, or the connection.
    async fn message(&self, next: Option<lapin::Result<Message>>) -> Result<Message> {
        let queue = &self.queue;
        let words = match next {
            Some(Ok(message)) => return Ok(message),
            Some(Err(error)) if fault::is_unparsable(&error) => format!(
                "queue `{queue}` holds a message that cannot be parsed (a name or property that is not UTF-8): take it out \
                 with another client"
            ),
            Some(Err(error)) => return Err(fault::lost(&error)),
            None => return Err(self.gone().await),
        };
        Err(Error::new(ErrorKind::Topology, words))
    }

    /// The reason why the server ended a consumer without a word. Where the queue is being deleted, it does that first; and a quorum
    /// queue that is asked about in between fails, and takes the connection with it. So it is asked about after a moment, and
    /// not on the connection of this walk.
    async fn gone(&self) -> Error {
        let queue = &self.queue;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            tokio::time::sleep(GOING).await;
            match self.with.turns.look_for(queue).await {
                Err(error) if error.kind() == ErrorKind::NotFound => return error,
                _ => {}
            }
        }
        let words = format!(
            "queue `{queue}` lost its leader, or was deleted and declared anew, while it was looked at"
        );
        Error::new(ErrorKind::Topology, words)
    }

    fn found(&mut self, message: Message) -> Found {
        let (tag, redelivered) = (message.delivery_tag, message.redelivered);
        self.ledger.deliver(tag);
        let envelope = convert::envelope(message.properties, message.data);
        if wear::returns(redelivered, &envelope).is_some_and(|returns| returns >= WORN) {
            self.worn.insert(tag, envelope.clone());
        }
        Found::new(Place(tag), envelope)
    }

    /// Gives back what is held, and returns when the queue has it.
    async fn give_back(mut self) {
        self.leave().await;
    }

    fn leave(&mut self) -> impl Future<Output = ()> + Send + 'static {
        self.has_left = true;
        let (with, ledger, queue) = (self.with.clone(), self.ledger.clone(), self.queue.clone());
        let (worn, lock, has_failed) = (std::mem::take(&mut self.worn), self.lock.take(), self.has_failed);
        let (taken, pages) = (self.taken, self.pages);
        async move {
            // Whatever a consumer that may live on has delivered goes back with the channel.
            if !has_failed {
                let renewed = renew(&with, &ledger, &queue, worn).await;
                let is_busy = taken + renewed > BUSY;
                let giving = ledger.give_all_back(&queue, is_busy, pages > BUSY);
                match tokio::time::timeout(ANSWER, giving).await {
                    Ok(Ok(())) => {}
                    gone => {
                        tracing::debug!(%queue, ?gone, "the queue does not say that it has the messages back")
                    }
                }
            }
            if let Some(lock) = &lock {
                lock.open(ledger.channel()).await;
            }
            let close = ledger.channel().close(200, short("seen"));
            let _ = tokio::time::timeout(ANSWER, close).await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.has_left {
            let leaving = self.leave();
            self.with.tasks.spawn(leaving);
        }
    }
}

/// Puts copies in the place of messages that have come back often, and says of how many: confirmed, before the
/// originals are acked. What is not confirmed is given back once more.
///
/// Ends when the originals come back by themselves, since a copy would stand beside each; and when the broker takes
/// nothing more, since the walk keeps all others from the queue meanwhile.
async fn renew(with: &Walking, ledger: &Arc<Ledger>, queue: &Name, worn: BTreeMap<u64, Envelope>) -> usize {
    let deadline = Instant::now() + with.settings.publish_timeout;
    let mut renewed = 0;
    for (tag, envelope) in worn {
        if !ledger.is_open() || Instant::now() >= deadline {
            break;
        }
        let copy = Publish::to_queue(queue.clone(), renewed_copy(envelope));
        let published = tokio::select! {
            biased;
            published = with.publishing.publish(copy) => published,
            () = ledger.gone() => break,
        };
        match published {
            Ok(()) if ledger.ack(tag) => renewed += 1,
            Ok(()) => break,
            Err(error) => {
                tracing::warn!(%queue, %error, "a message that has come back often could not be written anew");
                if !is_refusal(&error) {
                    break;
                }
            }
        }
    }
    if renewed > 0 {
        tracing::debug!(%queue, renewed, "messages that had come back often stand anew at the end of their queue");
    }
    renewed
}
