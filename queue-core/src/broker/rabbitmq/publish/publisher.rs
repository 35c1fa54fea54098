//! Owns the channel that is published on. Callers hand it messages and wait for the outcome; it pipelines them,
//! attributes confirms and returns, and takes what is unresolved over to the next session.
//!
//! One owner at a time, because lapin takes a delivery tag and queues the frames under different locks: two that use a
//! channel at once get each other's confirms. The owner is a task, or for a moment a caller (see `caller`). So all of it
//! stands behind a lock, which is never held across an await.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::backlog::Backlog;
use super::command::{Command, Sent};
use super::outgoing::{One, Outgoing, Remainder};
use super::refused::Candidates;
use super::reply::Replies;
use super::wire::Wire;
use crate::broker::rabbitmq::connection::fault;
use crate::broker::rabbitmq::message::address;
use crate::broker::rabbitmq::supervise::pause::{Waiters, Waits};
use crate::broker::rabbitmq::supervise::probe::Listeners;
use crate::broker::rabbitmq::supervise::session::{Session, State};
use crate::broker::{ConsumerHandle, closed};
use crate::error::{Error, ErrorKind, PublishError, Result};

mod time;

/// A channel that is being opened.
struct Opening {
    /// The number of its session.
    session: u64,
    since: Instant,
    wire: Pin<Box<dyn Future<Output = lapin::Result<Wire>> + Send>>,
}

/// How many publishes are unconfirmed at once. More only fills lapin's memory: at 1 ms to the confirm these are
/// two million a second.
const WINDOW: usize = 2048;

/// How often it is looked whether requests have come back, and whether messages are confirmed that stand behind another
/// which is not. Nearly always the reply, or the other's confirm, is here before.
const TICK: Duration = Duration::from_millis(20);

/// The parts of the broker that a publisher needs.
#[derive(Clone)]
pub(crate) struct Setup {
    /// The connection that is published on.
    pub(crate) state: watch::Receiver<State>,
    pub(crate) timeout: Duration,
    pub(crate) waiters: Arc<Waiters>,
    /// Asked since when the server has said nothing; the publisher is one of them.
    pub(crate) listeners: Arc<Listeners>,
}

/// A publisher that its task and its callers share.
#[derive(Clone)]
pub(crate) struct SharedPublisher(Arc<Mutex<Publisher>>);

pub(super) struct Publisher {
    commands: mpsc::UnboundedReceiver<Command>,
    state: watch::Receiver<State>,
    timeout: Duration,
    /// Not yet sent, or to be sent again.
    backlog: Backlog,
    wire: Option<Wire>,
    /// A channel that is being opened.
    opening: Option<Opening>,
    /// Counts as a waiting task, while a message waits here.
    waits: Option<Waits>,
    waiters: Arc<Waiters>,
    /// How many of the backlog's first messages are sent one at a time, because one of them closed the channel and the
    /// server did not say which.
    one_by_one: usize,
    next_id: i64,
    /// The message whose caller looks after it, which is the only one on its way.
    own: Option<i64>,
    /// Fires at the earliest deadline at the time, or earlier.
    timer: Option<Pin<Box<Sleep>>>,
    /// When it fires, if it does.
    armed: Option<Instant>,
    /// No more is accepted, and the task ends when nothing is left.
    is_stopping: bool,
    /// The reader of the replies, where the messages are requests; `None` for all other messages.
    replies: Option<Replies>,
}

impl SharedPublisher {
    /// A publisher that uses the session of `setup`, and takes commands. Where its messages are requests, it has `replies`.
    pub(super) fn new(setup: &Setup, replies: Option<Replies>) -> (mpsc::UnboundedSender<Command>, Self) {
        let (sender, commands) = mpsc::unbounded_channel();
        let publisher = Publisher {
            commands,
            state: setup.state.clone(),
            timeout: setup.timeout,
            backlog: Backlog::new(),
            wire: None,
            opening: None,
            waits: None,
            waiters: setup.waiters.clone(),
            one_by_one: 0,
            // Random, so that ids differ between processes too; they wrap around in half an eternity.
            next_id: fastrand::i64(0..i64::MAX / 2),
            own: None,
            timer: None,
            armed: None,
            is_stopping: false,
            replies,
        };
        let publisher = Self(Arc::new(Mutex::new(publisher)));
        setup.listeners.add(publisher.clone());
        (sender, publisher)
    }

    /// Runs until all handles are gone or `stop` says so; then what is under way is still waited for, up to the
    /// publish timeout.
    pub(crate) fn run(self, stop: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        // Also when the runtime goes down under it, or before it: callers hold the publisher, and must not wait for ever.
        let end = EndOnDrop(self);
        async move { end.0.run_on(stop).await }
    }

    async fn run_on(&self, stop: CancellationToken) {
        let mut sessions = self.lock().state.clone();
        self.lock().follow_session();
        loop {
            let is_stopping = self.lock().is_stopping;
            tokio::select! {
                () = std::future::poll_fn(|cx| self.lock().drive(cx)) => return,
                changed = sessions.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.lock().follow_session();
                }
                () = stop.cancelled(), if !is_stopping => self.lock().stop(),
            }
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Publisher> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, if it is free.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Publisher>> {
        self.0.try_lock().ok()
    }
}

struct EndOnDrop(SharedPublisher);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.lock().end();
    }
}

impl Publisher {
    /// Does all there is to do, and has `cx` woken when there is more. Ready when there never will be.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // From now on this task looks after it.
        self.own = None;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::ZERO)));
        let is_tick = self.armed.is_some() && timer.as_mut().poll(cx).is_ready();
        if is_tick {
            self.armed = None;
            self.expire();
        }
        loop {
            self.drive_on(cx);
            if self.is_stopping && self.backlog.is_empty() && self.in_flight() == 0 {
                return Poll::Ready(());
            }
            self.wait_for_connection();
            if is_tick && let Some(wire) = &mut self.wire {
                wire.tell_sure();
            }
            if !self.arm(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Hears, opens and sends, until there is nothing left to do at once.
    fn drive_on(&mut self, cx: &mut Context<'_>) {
        loop {
            let mut is_done = !self.poll_commands(cx);
            // After the commands, one of which may have brought the reader.
            if let Some(replies) = &mut self.replies
                && replies.poll_stopped(self.wire.as_mut(), cx)
            {
                self.abandon_requests();
            }
            is_done &= !self.poll_opening(cx);
            is_done &= !self.poll_wire(cx);
            if is_done {
                return;
            }
        }
    }

    /// Sets the timer to the earliest deadline. Whether one has passed meanwhile: those are answered, and a channel may have
    /// been left for them, so that there is more to do.
    fn arm(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.earliest_deadline() else { return false };
        let Some(timer) = self.timer.as_mut().filter(|_| self.armed.is_none_or(|at| at > deadline)) else {
            return false;
        };
        timer.as_mut().reset(deadline);
        self.armed = timer.as_mut().poll(cx).is_pending().then_some(deadline);
        let has_passed = self.armed.is_none();
        if has_passed {
            self.expire();
        }
        has_passed
    }

    /// True if it is looked from time to time only what became of what was sent: of requests, which are answered
    /// otherwise.
    fn is_patient(&self) -> bool {
        self.replies.is_some() && self.backlog.is_empty() && !self.is_stopping
    }

    /// Counts as a waiting task as long as a message waits here and there is no channel.
    fn wait_for_connection(&mut self) {
        let is_reader_waiting =
            || self.replies.as_ref().is_some_and(|replies| replies.deadline(self.timeout).is_some());
        let is_waiting = self.wire.is_none() && (!self.backlog.is_empty() || is_reader_waiting());
        if is_waiting != self.waits.is_some() {
            self.waits = is_waiting.then(|| self.waiters.wait());
        }
    }

    fn in_flight(&self) -> usize {
        self.wire.as_ref().map_or(0, |wire| wire.flight.len())
    }

    /// True if there was one.
    fn poll_commands(&mut self, cx: &mut Context<'_>) -> bool {
        let mut is_any = false;
        while !self.is_stopping
            && let Poll::Ready(command) = self.commands.poll_recv(cx)
        {
            is_any = true;
            match command {
                Some(command) => self.accept(command),
                None => self.is_stopping = true,
            }
        }
        is_any
    }

    /// True if one was opened, or cannot be.
    fn poll_opening(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(opening) = &mut self.opening else { return false };
        let Poll::Ready(opened) = opening.wire.as_mut().poll(cx) else { return false };
        self.opening = None;
        match opened {
            Ok(wire) => self.take_up(wire),
            Err(error) => self.not_opened(&error),
        }
        true
    }

    /// Hears what has come and sends what may be sent. Whether there was anything, and so may be more.
    fn poll_wire(&mut self, cx: &mut Context<'_>) -> bool {
        let is_patient = self.is_patient();
        let Some(wire) = &mut self.wire else { return false };
        let polled =
            if is_patient { wire.poll(&mut Context::from_waker(Waker::noop())) } else { wire.poll(cx) };
        let released = match polled {
            Ok(released) => released,
            Err(error) => {
                self.channel_failed(&error);
                return true;
            }
        };
        self.one_by_one = self.one_by_one.saturating_sub(released);
        let mut is_any = released > 0;
        if is_any {
            self.backlog.progressed();
        }
        // Before more is sent: what was not sent on a channel that is gone can be asked again.
        while let Some(wire) = &mut self.wire
            && let Poll::Ready(reply) = wire.poll_stray_reply(cx)
        {
            is_any = true;
            match reply {
                Ok(reply) => {
                    let id = reply.properties.correlation_id();
                    tracing::debug!(correlation_id = ?id, "ignored a reply: its caller has ended");
                }
                Err(error) => self.channel_failed(&error),
            }
        }
        is_any |= self.send_queued();
        // Last, since to find no room is to be told no more when there is.
        is_any | self.poll_room(cx)
    }

    /// Wakes `cx` when more of the queue may be sent, where the wire does not do so by itself. Returns true if it may be sent now.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> bool {
        if self.state.borrow().blocked.is_some() {
            return false;
        }
        let (Some(wire), Some(wants_confirm)) = (&mut self.wire, self.backlog.next_wants_confirm()) else {
            return false;
        };
        match wire.poll_room(wants_confirm, cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => {
                self.channel_failed(&error);
                true
            }
        }
    }

    fn stop(&mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.accept(command);
        }
        self.is_stopping = true;
    }

    fn accept(&mut self, command: Command) {
        match command {
            Command::Look => {}
            Command::ReadReplies(reader, answer) => self.read_replies(reader, answer),
            Command::One(one) => {
                let outgoing = Outgoing::one(one, self.take_ids(1));
                self.enqueue(outgoing);
            }
            Command::Many(publishes, reply) if publishes.is_empty() => drop(reply.send(Vec::new())),
            Command::Many(publishes, reply) => {
                let id = self.take_ids(publishes.len());
                self.backlog.push_batch(Remainder::new(publishes, reply, id));
            }
        }
    }

    /// The first of so many unused ids.
    fn take_ids(&mut self, count: usize) -> i64 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(i64::try_from(count).unwrap_or(i64::MAX));
        id
    }

    fn enqueue(&mut self, mut outgoing: Outgoing) {
        if address::is_nonsense(outgoing.publish()) {
            let outcome = address::dropped(outgoing.publish());
            outgoing.tell(outcome);
        } else if self.replies.as_ref().is_some_and(|replies| !replies.are_read()) {
            outgoing.tell(Err(PublishError::NoReader));
        } else {
            self.backlog.push(outgoing);
        }
    }

    /// Sends a caller's message at once: a request if there is room for it, another message if nothing else is on its
    /// way, and then its caller looks after it by [`poll_own`](Self::poll_own).
    ///
    /// # Errors
    /// Gives the message back that must go by the task.
    pub(super) fn send_now(&mut self, one: One) -> Result<Sent, One> {
        let is_free = self.backlog.is_empty()
            && self.commands.is_empty()
            && !self.is_stopping
            && self.one_by_one == 0
            && self.state.borrow().blocked.is_none();
        let Some(wire) = self.wire.as_mut().filter(|wire| is_free && wire.is_open()) else {
            return Err(one);
        };
        let is_ready = match &self.replies {
            Some(replies) => replies.are_read() && wire.has_room(one.wants_confirm, WINDOW),
            None => wire.flight.len() == 0,
        };
        if !is_ready || address::is_nonsense(&one.publish) {
            return Err(one);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let outgoing = Outgoing::one(one, id);
        if self.replies.is_some() {
            wire.send(outgoing);
            let by = Instant::now() + TICK;
            Ok(Sent { own: None, is_timed: self.armed.is_some_and(|at| at <= by) })
        } else {
            wire.send_only(outgoing);
            self.own = Some(id);
            Ok(Sent { own: Some(id), is_timed: self.armed.is_some() })
        }
    }

    /// Looks after a message whose caller has sent it: `Ready` when its caller has been told. Pending for ever once the task does.
    pub(super) fn poll_own(&mut self, id: i64, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.wire {
            Some(wire) if self.own == Some(id) => wire.poll_only(cx),
            _ => Poll::Pending,
        }
    }

    /// Takes up the present session, or lets go of one that has ended.
    fn follow_session(&mut self) {
        let session = self.state.borrow_and_update().session.clone();
        let Some(session) = session else {
            self.opening = None;
            self.take_back();
            self.end_requests(None);
            return;
        };
        if self.wire.as_ref().is_some_and(|wire| !Arc::ptr_eq(&wire.session, &session)) {
            self.take_back();
            self.end_requests(None);
        }
        let under_way = self.opening.as_ref().is_some_and(|opening| opening.session == session.number);
        if self.wire.is_none() && !under_way {
            self.open(session);
        }
    }

    fn open(&mut self, session: Arc<Session>) {
        let number = session.number;
        let wire = Box::pin(Wire::open(session, self.replies.is_some()));
        self.opening = Some(Opening { session: number, since: Instant::now(), wire });
    }

    fn take_up(&mut self, wire: Wire) {
        let wire = self.wire.insert(wire);
        if let Some(replies) = &mut self.replies {
            replies.opened(wire);
        }
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
        // Before its place is taken: after that no caller would be told.
        if replies.leave_stopped(self.wire.as_mut()) {
            self.abandon_requests();
        }
        let Some(replies) = &mut self.replies else { return };
        replies.read(reader, answer, self.wire.as_mut());
        if self.wire.is_none() && self.opening.is_none() {
            self.follow_session();
        }
    }

    /// Sends what the window allows. Whether that was anything.
    fn send_queued(&mut self) -> bool {
        let Some(wire) = &mut self.wire else { return false };
        if self.backlog.is_empty() || self.state.borrow().blocked.is_some() {
            return false;
        }
        let window = if self.one_by_one > 0 { 1 } else { WINDOW };
        let mut is_any = false;
        while let Some(wants_confirm) = self.backlog.next_wants_confirm()
            && wire.has_room(wants_confirm, window)
            && let Some(mut outgoing) = self.backlog.take_next()
        {
            // Only a batch may still hold one; the others are told before.
            if address::is_nonsense(outgoing.publish()) {
                let outcome = address::dropped(outgoing.publish());
                outgoing.tell(outcome);
            } else if !outgoing.is_unheard() {
                wire.send(outgoing);
                is_any = true;
            } else if outgoing.sent {
                // A message that was sent before and has no caller any more is not kept for another try.
                self.one_by_one = self.one_by_one.saturating_sub(1);
            }
        }
        is_any
    }

    /// The channel or the whole connection is gone. What the server refused by name fails; the rest is sent again.
    fn channel_failed(&mut self, error: &lapin::Error) {
        let Some(wire) = &mut self.wire else { return };
        let session = wire.session.clone();
        wire.hear_out();
        let alone = wire.candidates() == 1;
        let back = self.take_back();
        // The end of the connection is not the message's fault.
        if let Some((code, text)) = fault::protocol(error).filter(|_| session.is_connected()) {
            tracing::warn!(code, text, "RabbitMQ closed the publisher's channel");
            let candidates = Candidates { back, alone, others_have_gone: self.replies.is_some() };
            let is_known = candidates.answer_refused(&mut self.backlog.singles, code, text);
            self.one_by_one = if is_known { 0 } else { back };
        }
        self.end_requests(Some(fault::lost(error)));
        if session.is_connected() {
            self.open(session);
        }
    }

    /// Answers all requests that wait: their replies would go to an address that is gone with its channel, for this
    /// reason if it is known.
    fn end_requests(&mut self, reason: Option<Error>) {
        let Some(replies) = &mut self.replies else { return };
        let down = self.state.borrow().down.clone();
        replies.ended(|| {
            reason.unwrap_or_else(|| {
                let error = Error::new(ErrorKind::Connection, "the connection to RabbitMQ was lost");
                if let Some(down) = down { error.with_source(down) } else { error }
            })
        });
        self.lose_requests();
    }

    /// Answers all requests that wait, though there is a channel: their replies have no reader any more.
    fn abandon_requests(&mut self) {
        if let Some(wire) = &mut self.wire {
            let unconfirmed = wire.take_unconfirmed();
            unconfirmed.into_iter().rev().for_each(|outgoing| self.backlog.singles.push_front(outgoing));
        }
        self.lose_requests();
    }

    fn lose_requests(&mut self) {
        self.one_by_one = 0;
        self.answer_all(|| PublishError::NoReader);
    }

    /// Answers all of the backlog: what has been sent may exist, and the others hear why they were not.
    fn answer_all(&mut self, why: impl Fn() -> PublishError) {
        for mut outgoing in self.backlog.take_all() {
            let waited = outgoing.since.elapsed();
            let error = if outgoing.sent { PublishError::Unconfirmed { waited } } else { why() };
            outgoing.tell(Err(error));
        }
    }

    /// Puts what is unresolved back at the head of the backlog, to be sent again on the next channel. How much that was.
    fn take_back(&mut self) -> usize {
        let Some(wire) = self.wire.take() else { return 0 };
        self.own = None;
        let mut unanswered = wire.into_unanswered();
        let back = unanswered.len();
        unanswered.append(&mut self.backlog.singles);
        self.backlog.singles = unanswered;
        back
    }

    /// Answers all that wait, and lets go of everything.
    fn end(&mut self) {
        self.stop();
        (self.opening, self.waits) = (None, None);
        self.take_back();
        self.replies.as_mut().into_iter().for_each(Replies::let_go);
        self.answer_all(|| PublishError::Closed);
    }
}
