//! Keeps one connection: a numbered session that dies whole at its first error and is built anew, for ever, with
//! capped and jittered pauses. The publisher and the consumers watch it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::{Channel, Event};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect::{self, Link};
use super::fault::{Cause, Fault};
use super::pause::Pauses;
use super::shared::Shared;
use super::silence::Question;
use crate::error::{Error, ErrorKind, chain};

/// The connections' roles, which stand in their names.
pub(super) const PUBLISHER: &str = "publisher";
pub(super) const CONSUMER: &str = "consumer";
/// That of a queue which consumes apart from the others.
pub(super) const APART: &str = "apart consumer";
/// How long a session must have lived for the pauses to begin anew.
const SETTLED: Duration = Duration::from_secs(30);
/// How often a session is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a host may take before the next one is tried beside it.
const NEXT_HOST: Duration = Duration::from_secs(2);
/// How long a polite close may take.
const CLOSE: Duration = Duration::from_secs(2);

/// One connection's life.
#[derive(Debug)]
pub(super) struct Session {
    /// Counts up; in log lines.
    pub(super) number: u64,
    pub(super) link: Link,
    /// Cancelled by whoever sees that the connection is of no more use.
    dead: CancellationToken,
}

impl Session {
    /// Opens a channel, within the connect deadline.
    pub(super) async fn channel(&self, deadline: Duration) -> lapin::Result<Channel> {
        let opened = tokio::time::timeout(deadline, self.link.connection.create_channel()).await;
        opened.unwrap_or_else(|_| {
            self.fail("it did not open a channel in time");
            Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into())
        })
    }

    /// Whether the connection lives, as far as lapin knows.
    pub(super) fn is_connected(&self) -> bool {
        self.link.connection.status().connected() && !self.dead.is_cancelled()
    }

    /// Gives the connection up.
    pub(super) fn fail(&self, why: &str) {
        if !self.dead.is_cancelled() {
            tracing::warn!(session = self.number, "giving up the connection to RabbitMQ: {why}");
            self.dead.cancel();
        }
    }
}

/// How a connection is at the moment.
#[derive(Clone, Default)]
pub(super) struct State {
    /// The session, while there is one.
    pub(super) session: Option<Arc<Session>>,
    /// Why the server takes no messages, while it does not.
    pub(super) blocked: Option<String>,
    /// Why there is no session.
    pub(super) down: Option<Arc<Error>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.session.as_ref().map(|session| session.number);
        f.debug_struct("State").field("session", &session).field("blocked", &self.blocked).finish()
    }
}

/// Opens a connection to the first host that answers, beginning with the one that last worked. One that does not answer
/// soon is still waited for while the next is tried: a node that has frozen must not hold up the others.
///
/// # Errors
/// The one of the greatest [`Cause`]; of several such the last.
pub(super) async fn open_any(shared: &Shared, role: &str) -> Result<Link, Fault> {
    let Shared { target, hosts, settings, .. } = shared;
    let name = format!("{} {role}", settings.name);
    let mut left = hosts.in_order().into_iter();
    let mut opening = FuturesUnordered::new();
    let mut worst: Option<Fault> = None;
    loop {
        if let Some(at) = left.next() {
            opening.push(connect::open(target, at, &name, target.deadline));
        }
        let opened = tokio::select! {
            Some(opened) = opening.next() => opened,
            () = tokio::time::sleep(NEXT_HOST), if left.len() > 0 => continue,
            else => break,
        };
        match opened {
            Ok(link) => {
                hosts.worked(link.at);
                return Ok(link);
            }
            Err(fault) => {
                tracing::debug!(error = %chain(&fault.error), "cannot connect");
                if worst.as_ref().is_none_or(|worst| worst.cause <= fault.cause) {
                    worst = Some(fault);
                }
            }
        }
    }
    Err(worst.unwrap_or_else(|| Fault::refused(Error::config("the URL names no host"))))
}

/// Keeps a connection in `state` until the broker is closed or nobody looks at `state` any more. `first` is a
/// connection that is already there.
pub(super) async fn supervise(
    shared: Arc<Shared>,
    role: &'static str,
    state: watch::Sender<State>,
    mut first: Option<Link>,
) {
    let mut pauses = Pauses::new();
    loop {
        let connected = async {
            let link = match first.take() {
                Some(link) => link,
                None => open_any(&shared, role).await?,
            };
            // What was declared may be gone with the node's disk, or never have been on this one.
            shared.redeclare().await?;
            // Of those that consume only this one: whoever declares an exclusive queue owns it.
            if role == CONSUMER {
                super::exclusive::declare(&shared, &link).await?;
            }
            Ok::<_, Fault>(link)
        };
        let connected = tokio::select! {
            connected = connected => connected,
            () = shared.closed.cancelled() => break,
            () = state.closed() => break,
        };
        match connected {
            Ok(link) => {
                let session = Arc::new(Session {
                    number: shared.sessions.fetch_add(1, Ordering::Relaxed) + 1,
                    link,
                    dead: CancellationToken::new(),
                });
                let since = Instant::now();
                let error = live(&shared, role, &state, &session).await;
                if shared.closed.is_cancelled() || state.is_closed() {
                    session.link.close(CLOSE).await;
                    break;
                }
                session.dead.cancel();
                session.link.cut();
                tracing::warn!(role, session = session.number, error = %chain(&error), "the session ended");
                state.send_replace(State { down: Some(Arc::new(error)), ..State::default() });
                if since.elapsed() > SETTLED {
                    pauses = Pauses::new();
                }
                pauses.failed(Cause::Unwell);
            }
            Err(Fault { cause, error }) => {
                match pauses.failed(cause) {
                    Some(pause) if cause.is_for_a_person() => {
                        tracing::error!(role, ?pause, error = %chain(&error), "RabbitMQ refuses us; trying again");
                    }
                    Some(pause) => {
                        tracing::warn!(role, ?pause, error = %chain(&error), "RabbitMQ is away; trying again");
                    }
                    // Said already.
                    None => tracing::debug!(role, error = %chain(&error), "RabbitMQ is still away"),
                }
                state.send_replace(State { down: Some(Arc::new(error)), ..State::default() });
            }
        }
        tokio::select! {
            () = pauses.rest(&shared.waiters) => {}
            () = shared.closed.cancelled() => break,
            () = state.closed() => break,
        }
    }
    state.send_replace(State::default());
}

/// A question that the node is being asked: yields the question, and whether the node has answered.
type Asking = Pin<Box<dyn Future<Output = (Question, bool)> + Send>>;

/// Watches a session until it is dead, or the broker is closed and flushed.
async fn live(
    shared: &Arc<Shared>,
    role: &str,
    state: &watch::Sender<State>,
    session: &Arc<Session>,
) -> Error {
    let mut events = Box::pin(session.link.connection.events_listener());
    tracing::info!(role, session = session.number, host = %session.link.host, "connected to RabbitMQ");
    state.send_replace(State { session: Some(session.clone()), ..State::default() });
    let mut looks = tokio::time::interval(LOOK);
    let mut blocked_since = None;
    let mut left = shared.hosts.watch();
    // While the node is being asked, which takes seconds, `asking` has the question.
    let mut question = (role == PUBLISHER).then(|| Question::new(session.clone()));
    let mut asking: Option<Asking> = None;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(role, session = session.number, reason, "RabbitMQ blocks publishers");
                    blocked_since = Some(Instant::now());
                    state.send_modify(|state| state.blocked = Some(reason));
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!(role, session = session.number, "RabbitMQ takes messages again");
                    blocked_since = None;
                    state.send_modify(|state| state.blocked = None);
                }
                // A channel's error comes by here too, and is its owner's business.
                Some(Event::Error(error)) if !session.is_connected() => return super::fault::lost(&error),
                Some(_) => {}
                None => return gone(),
            },
            // Belt and braces: whatever ends a connection without an event.
            _ = looks.tick() => {
                if !session.is_connected() {
                    return gone();
                }
                if let (Some(since), Some(limit)) = (blocked_since, shared.target.blocked_timeout)
                    && since.elapsed() >= limit
                {
                    session.fail("it was blocked for longer than `blocked_connection_timeout`");
                    return gone();
                }
                // A server that blocks us has said why it is silent.
                if blocked_since.is_none()
                    && shared.hosts.has_another(session.link.at, &shared.target.hosts)
                    && let Some(due) = question.take_if(|question| question.is_due(shared.silent_since()))
                {
                    asking = Some(Box::pin(due.ask(shared.clone())));
                }
            }
            // Polled again after another arm has won: `asking` keeps what it has reached.
            (asked, answers) = async { asking.as_mut().expect("the arm's condition says so").await },
                if asking.is_some() =>
            {
                (asking, question) = (None, Some(asked));
                let host = &session.link.host;
                // To ask takes seconds, in which callers may have been answered.
                let is_still_silent =
                    || question.as_ref().is_some_and(|question| question.lasts(shared.silent_since()));
                if answers {
                    question.iter_mut().for_each(Question::say_that_it_answers);
                } else if blocked_since.is_none() && is_still_silent() {
                    shared.hosts.leave(session.link.at);
                    session.fail(&format!("{host} says nothing while callers wait; going to another host"));
                    return gone();
                }
            }
            // The publisher found out that its node says nothing, and ours is the same.
            Ok(()) = left.changed() => {
                if shared.hosts.is_left(session.link.at) {
                    session.fail("its node says nothing");
                    return gone();
                }
            }
            () = session.dead.cancelled() => return gone(),
            () = shared.flushed.cancelled() => return gone(),
            () = state.closed() => return gone(),
        }
    }
}

pub(super) fn gone() -> Error {
    Error::new(ErrorKind::Connection, "the connection to RabbitMQ is gone")
}
