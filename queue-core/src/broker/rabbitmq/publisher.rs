//! The one task that owns the confirm channel. Callers hand it messages and wait for the outcome; it pipelines
//! them, attributes confirms and returns, and takes what is unresolved over to the next session.
//!
//! One task, because lapin takes a delivery tag and queues the frames under different locks: two tasks on one
//! channel get each other's confirms.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::address;
use super::fault::{self, code};
use super::reply::Replies;
use super::session::{Session, State};
use super::wire::{News, OPEN, Resolved, Wire, next_news};
use crate::broker::{ConsumerHandle, Publish, closed, reply};
use crate::error::{Error, ErrorKind, PublishError, Result};

pub(super) type Outcome = Result<(), PublishError>;
type Opening = Pin<Box<dyn Future<Output = lapin::Result<Wire>> + Send>>;

/// How many publishes are unconfirmed at once. More only fills lapin's memory: at 1 ms to the confirm these are
/// two million a second.
const WINDOW: usize = 2048;

/// What callers ask of the task.
#[allow(clippy::large_enum_variant, reason = "a box would be one allocation more for each publish")]
enum Command {
    One(Publish, oneshot::Sender<Outcome>),
    Many(Vec<Publish>, oneshot::Sender<Vec<Outcome>>),
    ReadReplies(ConsumerHandle, oneshot::Sender<Result<()>>),
}

/// The callers' end.
#[derive(Debug, Clone)]
pub(super) struct PublisherHandle(mpsc::UnboundedSender<Command>);

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

impl PublisherHandle {
    /// Publishes one message and waits for its outcome. The message has been [checked](crate::broker::amqp::check_publish).
    pub(super) async fn publish(&self, publish: Publish) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        self.0.send(Command::One(publish, reply)).map_err(|_| PublishError::Closed)?;
        outcome.await.unwrap_or(Err(PublishError::Closed))
    }

    /// Publishes many; the outcomes stand in the order of the messages.
    pub(super) async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Outcome> {
        let count = publishes.len();
        let (reply, outcomes) = oneshot::channel();
        // A closed task drops the command and with it `reply`.
        let _ = self.0.send(Command::Many(publishes, reply));
        outcomes.await.unwrap_or_else(|_| (0..count).map(|_| Err(PublishError::Closed)).collect())
    }

    /// Hands the replies to this publisher's requests to `reader`. Waits for a connection, up to the publish timeout.
    ///
    /// # Errors
    /// If somebody reads them already, or the broker is away for too long.
    pub(super) async fn read_replies(&self, reader: ConsumerHandle) -> Result<()> {
        let (answer, outcome) = oneshot::channel();
        self.0.send(Command::ReadReplies(reader, answer)).map_err(|_| closed())?;
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }
}

/// Who waits for an outcome.
enum Reply {
    One(oneshot::Sender<Outcome>),
    Many(Arc<Batch>, usize),
}

/// The outcomes of a `publish_all`, answered when the last is in.
struct Batch(Mutex<BatchState>);

struct BatchState {
    outcomes: Vec<Option<Outcome>>,
    left: usize,
    reply: Option<oneshot::Sender<Vec<Outcome>>>,
}

impl Reply {
    fn send(self, outcome: Outcome) {
        match self {
            // A caller that has gone does not want to know.
            Self::One(reply) => drop(reply.send(outcome)),
            Self::Many(batch, at) => {
                let mut batch = batch.0.lock().unwrap_or_else(PoisonError::into_inner);
                batch.outcomes[at] = Some(outcome);
                batch.left -= 1;
                if batch.left == 0
                    && let Some(reply) = batch.reply.take()
                {
                    let outcomes = std::mem::take(&mut batch.outcomes);
                    let closed = || Err(PublishError::Closed);
                    let _ = reply
                        .send(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(closed)).collect());
                }
            }
        }
    }

    /// Whether nobody waits any more.
    fn is_closed(&self) -> bool {
        match self {
            Self::One(reply) => reply.is_closed(),
            Self::Many(batch, _) => {
                let batch = batch.0.lock().unwrap_or_else(PoisonError::into_inner);
                batch.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
            }
        }
    }
}

/// A message on its way.
pub(super) struct Job {
    pub(super) publish: Publish,
    /// `q-publish`: a returned message is known by it.
    pub(super) id: i64,
    since: Instant,
    /// `None` once its caller has been told that no confirm came in time; the confirm is awaited nevertheless.
    reply: Option<Reply>,
    /// Whether it has been sent in an earlier session, or in this one: it may exist.
    sent: bool,
}

pub(super) struct Publisher {
    commands: mpsc::UnboundedReceiver<Command>,
    state: watch::Receiver<State>,
    timeout: Duration,
    /// Not yet sent, or to be sent again; in the order in which they came.
    queue: VecDeque<Job>,
    wire: Option<Wire>,
    /// A channel that is being opened on the session of that number.
    opening: Option<(u64, Opening)>,
    /// How many of the queue's first jobs are sent one at a time, because one of them closed the channel and the
    /// server did not say which.
    suspects: usize,
    next_id: i64,
    /// Who reads the replies, where the messages are requests; `None` for all other messages.
    replies: Option<Replies>,
}

/// A publisher that uses the session in `state`. Spawn [`Publisher::run`].
pub(super) fn publisher(state: watch::Receiver<State>, timeout: Duration) -> (PublisherHandle, Publisher) {
    build(state, timeout, None)
}

/// A publisher of requests.
pub(super) fn requester(state: watch::Receiver<State>, timeout: Duration) -> (PublisherHandle, Publisher) {
    build(state, timeout, Some(Replies::default()))
}

fn build(
    state: watch::Receiver<State>,
    timeout: Duration,
    replies: Option<Replies>,
) -> (PublisherHandle, Publisher) {
    let (handle, commands) = mpsc::unbounded_channel();
    let publisher = Publisher {
        commands,
        state,
        timeout,
        queue: VecDeque::new(),
        wire: None,
        opening: None,
        suspects: 0,
        // Random, so that ids differ between processes too; they wrap around in half an eternity.
        next_id: fastrand::i64(0..i64::MAX / 2),
        replies,
    };
    (PublisherHandle(handle), publisher)
}

impl Publisher {
    /// Runs until all handles are gone or `stop` says so; then what is under way is still waited for, up to the
    /// publish timeout.
    pub(super) async fn run(mut self, stop: tokio_util::sync::CancellationToken) {
        let mut stopping = false;
        // Armed for the earliest deadline at the time; deadlines only grow, so it never fires late.
        let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        let mut armed = false;
        self.follow_session();
        loop {
            self.send_queued();
            if stopping && self.queue.is_empty() && self.in_flight() == 0 {
                return;
            }
            if !armed && let Some(deadline) = self.earliest_deadline() {
                timer.as_mut().reset(deadline);
                armed = true;
            }
            tokio::select! {
                news = next_news(&mut self.wire) => self.hear(news),
                command = self.commands.recv(), if !stopping => match command {
                    Some(command) => self.accept(command),
                    None => stopping = true,
                },
                changed = self.state.changed() => {
                    if changed.is_err() {
                        self.refuse_all();
                        return;
                    }
                    self.follow_session();
                }
                opened = next_wire(&mut self.opening) => {
                    self.opening = None;
                    match opened {
                        Ok(wire) => self.take_up(wire),
                        Err(error) => self.not_opened(&error),
                    }
                }
                () = Replies::stopped(&self.replies) => {
                    self.replies.as_mut().into_iter().for_each(Replies::let_go);
                }
                () = timer.as_mut(), if armed => {
                    armed = false;
                    self.expire();
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.commands.close();
                    while let Ok(command) = self.commands.try_recv() {
                        self.accept(command);
                    }
                }
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.wire.as_ref().map_or(0, |wire| wire.slots.len())
    }

    fn accept(&mut self, command: Command) {
        match command {
            Command::One(publish, reply) => self.enqueue(publish, Reply::One(reply)),
            Command::ReadReplies(reader, answer) => self.read_replies(reader, answer),
            Command::Many(publishes, reply) if publishes.is_empty() => drop(reply.send(Vec::new())),
            Command::Many(publishes, reply) => {
                let outcomes = publishes.iter().map(|_| None).collect();
                let batch = BatchState { outcomes, left: publishes.len(), reply: Some(reply) };
                let batch = Arc::new(Batch(Mutex::new(batch)));
                for (at, publish) in publishes.into_iter().enumerate() {
                    self.enqueue(publish, Reply::Many(batch.clone(), at));
                }
            }
        }
    }

    fn enqueue(&mut self, publish: Publish, reply: Reply) {
        if address::is_nonsense(&publish) {
            return reply.send(address::dropped(&publish));
        }
        if self.replies.as_ref().is_some_and(|replies| !replies.are_read()) {
            return reply.send(Err(PublishError::NoReader));
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.queue.push_back(Job { publish, id, since: Instant::now(), reply: Some(reply), sent: false });
    }

    /// Takes up the present session, or lets go of one that has ended.
    fn follow_session(&mut self) {
        let session = self.state.borrow_and_update().session.clone();
        let Some(session) = session else {
            self.opening = None;
            self.take_back();
            self.end_requests();
            return;
        };
        if self.wire.as_ref().is_some_and(|wire| !Arc::ptr_eq(&wire.session, &session)) {
            self.take_back();
            self.end_requests();
        }
        let under_way = self.opening.as_ref().is_some_and(|(number, _)| *number == session.number);
        if self.wire.is_none() && !under_way {
            self.open(session);
        }
    }

    fn open(&mut self, session: Arc<Session>) {
        let number = session.number;
        let opening = Box::pin(Wire::open(session, self.replies.is_some()));
        self.opening = Some((number, opening));
    }

    fn take_up(&mut self, wire: Wire) {
        self.wire = Some(wire);
        self.replies.as_mut().into_iter().for_each(Replies::opened);
    }

    fn not_opened(&mut self, error: &lapin::Error) {
        tracing::debug!(%error, "cannot open a channel to publish on");
        let Some(session) = self.state.borrow().session.clone() else { return };
        match &mut self.replies {
            // A server that refuses the reply consumer would refuse it on every connection: other messages go on.
            Some(replies) if fault::protocol(error).is_some() && session.is_connected() => {
                replies.refused(fault::lost(error));
            }
            _ => session.fail("it does not open channels"),
        }
    }

    fn read_replies(&mut self, reader: ConsumerHandle, answer: oneshot::Sender<Result<()>>) {
        let Some(replies) = &mut self.replies else { return drop(answer.send(Err(closed()))) };
        replies.read(reader, answer, self.wire.is_some());
        if self.wire.is_none() && self.opening.is_none() {
            self.follow_session();
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Confirm(resolved) => self.resolve(resolved),
            News::Reply(message) => {
                if let Some(replies) = &self.replies {
                    replies.deliver(message);
                }
            }
            News::RepliesFailed(error) => self.channel_failed(&error),
        }
    }

    /// Sends what the window allows.
    fn send_queued(&mut self) {
        let Some(wire) = &mut self.wire else { return };
        if self.queue.is_empty() || self.state.borrow().blocked.is_some() {
            return;
        }
        let window = if self.suspects > 0 { 1 } else { WINDOW };
        while wire.slots.len() < window
            && let Some(mut job) = self.queue.pop_front()
        {
            if !job.sent && job.reply.as_ref().is_none_or(Reply::is_closed) {
                continue;
            }
            job.sent = true;
            wire.send(job);
        }
    }

    fn resolve(&mut self, Resolved { tag, result }: Resolved) {
        let Some(wire) = &mut self.wire else { return };
        match result {
            Ok(confirmation) => {
                wire.confirm(tag, confirmation);
                for (job, outcome) in wire.release() {
                    self.suspects = self.suspects.saturating_sub(1);
                    finish(job, outcome);
                }
            }
            Err(error) => self.channel_failed(&error),
        }
    }

    /// The channel or the whole connection is gone. What the server refused by name fails; the rest is sent again.
    fn channel_failed(&mut self, error: &lapin::Error) {
        let Some(wire) = &self.wire else { return };
        let session = wire.session.clone();
        let alone = wire.slots.len() == 1;
        let before = self.queue.len();
        self.take_back();
        let back = self.queue.len() - before;
        // With one in flight it is clear whose fault a channel's error is, and the connection's end is nobody's.
        if let Some((code, text)) = fault::protocol(error).filter(|_| session.is_connected()) {
            tracing::warn!(code, text, "RabbitMQ closed the publisher's channel");
            let refused = refused_exchange(text);
            let mut kept = VecDeque::with_capacity(self.queue.len());
            for (at, job) in self.queue.drain(..).enumerate() {
                let guilty = match refused {
                    Some(exchange) => at < back && job.publish.route.exchange == exchange,
                    None => alone && at == 0 && back == 1,
                };
                if guilty {
                    let outcome = Err(refusal(&job, code, text));
                    finish(job, outcome);
                } else {
                    kept.push_back(job);
                }
            }
            self.queue = kept;
            self.suspects = if refused.is_none() && !alone { back } else { 0 };
        }
        self.end_requests();
        if session.is_connected() {
            self.open(session);
        }
    }

    /// Answers all requests that wait: their replies would go to an address that is gone with its channel.
    fn end_requests(&mut self) {
        let Some(replies) = &mut self.replies else { return };
        let down = self.state.borrow().down.clone();
        replies.ended(|| {
            let error = Error::new(ErrorKind::Connection, "the connection to RabbitMQ was lost");
            if let Some(down) = &down { error.with_source(down.clone()) } else { error }
        });
        self.suspects = 0;
        for job in std::mem::take(&mut self.queue) {
            let waited = job.since.elapsed();
            let error = if job.sent { PublishError::Unconfirmed { waited } } else { PublishError::NoReader };
            finish(job, Err(error));
        }
    }

    /// Puts what is unresolved back at the head of the queue, to be sent again on the next channel.
    fn take_back(&mut self) {
        let Some(mut wire) = self.wire.take() else { return };
        while let Some(slot) = wire.slots.pop_back() {
            let returned = wire.returned.remove(&slot.job.id).is_some();
            match slot.acked {
                _ if returned => finish_unroutable(slot.job),
                Some(false) => finish_full(slot.job),
                // Perhaps it was what ended the connection, and would end the next one (see `address`).
                _ if reply::is_address(&slot.job.publish.route.routing_key) => {
                    let waited = slot.job.since.elapsed();
                    finish(slot.job, Err(PublishError::Unconfirmed { waited }));
                }
                // Also what was acked: that it was not returned is unknown while earlier confirms are missing.
                _ if slot.job.reply.is_some() => self.queue.push_front(slot.job),
                _ => {}
            }
        }
    }

    fn earliest_deadline(&self) -> Option<Instant> {
        let in_flight = self.wire.iter().flat_map(|wire| &wire.slots).map(|slot| &slot.job);
        let mut waiting = in_flight.chain(&self.queue).filter(|job| job.reply.is_some());
        let job = waiting.next().map(|job| job.since + self.timeout);
        let reader = self.replies.as_ref().and_then(|replies| replies.deadline(self.timeout));
        job.into_iter().chain(reader).min()
    }

    /// Answers those whose time is up.
    fn expire(&mut self) {
        let now = Instant::now();
        let timeout = self.timeout;
        let is_up = |job: &Job| now >= job.since + timeout;
        if let Some(replies) = &mut self.replies {
            replies.expire(timeout, self.state.borrow().down.clone());
        }
        let mut stuck = false;
        if let Some(wire) = &mut self.wire {
            for slot in wire.slots.iter_mut().take_while(|slot| is_up(&slot.job)) {
                // Nothing came for twice as long as anybody waits: what follows must not wait behind it for ever.
                stuck |= now >= slot.job.since + timeout * 2 + OPEN;
                if let Some(reply) = slot.job.reply.take() {
                    reply.send(Err(PublishError::Unconfirmed { waited: timeout }));
                }
            }
        }
        while self.queue.front().is_some_and(is_up)
            && let Some(job) = self.queue.pop_front()
        {
            self.suspects = self.suspects.saturating_sub(1);
            let state = self.state.borrow();
            let error = if job.sent {
                PublishError::Unconfirmed { waited: timeout }
            } else if let Some(reason) = &state.blocked {
                PublishError::Blocked { waited: timeout, reason: reason.clone() }
            } else {
                let source = state.down.as_ref().map(|error| error.clone().into());
                PublishError::Unavailable { waited: timeout, source }
            };
            drop(state);
            finish(job, Err(error));
        }
        if stuck
            && self.state.borrow().blocked.is_none()
            && let Some(wire) = &self.wire
        {
            wire.session.fail("it confirms nothing");
        }
    }

    fn refuse_all(&mut self) {
        self.take_back();
        for job in self.queue.drain(..) {
            let sent = job.sent;
            let error =
                if sent { PublishError::Unconfirmed { waited: self.timeout } } else { PublishError::Closed };
            finish(job, Err(error));
        }
    }
}

async fn next_wire(opening: &mut Option<(u64, Opening)>) -> lapin::Result<Wire> {
    match opening {
        Some((_, opening)) => opening.await,
        None => std::future::pending().await,
    }
}

fn finish(mut job: Job, outcome: Outcome) {
    if let Some(reply) = job.reply.take() {
        reply.send(outcome);
    }
}

fn finish_unroutable(job: Job) {
    let error = unroutable(&job);
    finish(job, Err(error));
}

fn finish_full(job: Job) {
    let error = full(&job);
    finish(job, Err(error));
}

pub(super) fn unroutable(job: &Job) -> PublishError {
    PublishError::Unroutable {
        exchange: job.publish.route.exchange.to_string(),
        routing_key: job.publish.route.routing_key.to_string(),
    }
}

pub(super) fn full(job: &Job) -> PublishError {
    PublishError::QueueFull { routing_key: job.publish.route.routing_key.to_string() }
}

/// The exchange that the server's text names as missing or forbidden.
fn refused_exchange(text: &str) -> Option<&str> {
    ["no exchange '", "to exchange '"].iter().find_map(|before| {
        let rest = &text[text.find(before)? + before.len()..];
        rest.split('\'').next()
    })
}

/// What the server's reason for closing the channel means for the message that it was about.
fn refusal(job: &Job, code: u16, text: &str) -> PublishError {
    match code {
        // Nothing can be bound to an exchange that does not exist.
        code::NOT_FOUND => unroutable(job),
        code::PRECONDITION_FAILED if text.contains("larger than") => {
            let limit = text.rsplit(' ').find_map(|word| word.trim_matches('\'').parse().ok());
            let size = job.publish.envelope.payload.len();
            PublishError::TooLarge { size, limit: limit.unwrap_or(size) }
        }
        _ => PublishError::Invalid(format!("RabbitMQ refused the message: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchange_that_is_missing_or_forbidden_is_found_in_the_servers_words() {
        assert_eq!(refused_exchange("NOT_FOUND - no exchange 'events' in vhost '/'"), Some("events"));
        assert_eq!(
            refused_exchange(
                "ACCESS_REFUSED - write access to exchange 'a.b' in vhost '/' refused for user 'u'"
            ),
            Some("a.b")
        );
        assert_eq!(refused_exchange("PRECONDITION_FAILED - message size 20 is larger than"), None);
    }
}
