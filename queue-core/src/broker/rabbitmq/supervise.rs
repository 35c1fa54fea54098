//! Keeps one connection: a numbered session that dies whole at its first error and is built anew, for ever, with
//! capped and jittered pauses. The publisher and the consumers watch it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Event;
use tokio::sync::watch;
use tokio::time::Instant;

use super::connect::Link;
use super::fault::{self, Cause, Fault};
use super::pause::Pauses;
use super::redeclare;
use super::session::{Session, State, gone};
use super::shared::Shared;
use super::silence::Question;
use crate::error::{Error, chain};

/// The connections' roles, which stand in their names.
pub(super) const PUBLISHER: &str = "publisher";
pub(super) const CONSUMER: &str = "consumer";
/// That of a queue which consumes apart from the others.
pub(super) const APART: &str = "apart consumer";
/// How long a session must have lived for the pauses to begin anew.
const SETTLED: Duration = Duration::from_secs(30);
/// How often a session is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a polite close may take.
const CLOSE: Duration = Duration::from_secs(2);

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
                None => shared.dialer.dial(role).await?,
            };
            // What was declared may be gone with the node's disk, or never have been on this one.
            redeclare::all(&shared.dialer, &shared.declared).await?;
            // Of those that consume only this one: whoever declares an exclusive queue owns it.
            if role == CONSUMER {
                redeclare::exclusive(&shared.dialer, &shared.declared, &link).await?;
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
                let number = shared.sessions.fetch_add(1, Ordering::Relaxed) + 1;
                let session = Arc::new(Session::new(number, link));
                let since = Instant::now();
                let error = live(&shared, role, &state, &session).await;
                if shared.closed.is_cancelled() || state.is_closed() {
                    session.link.close(CLOSE).await;
                    break;
                }
                session.end();
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
    let mut left = shared.dialer.hosts.watch();
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
                Some(Event::Error(error)) if !session.is_connected() => return fault::lost(&error),
                Some(_) => {}
                None => return gone(),
            },
            // Belt and braces: whatever ends a connection without an event.
            _ = looks.tick() => {
                if !session.is_connected() {
                    return gone();
                }
                if let (Some(since), Some(limit)) = (blocked_since, shared.dialer.target.blocked_timeout)
                    && since.elapsed() >= limit
                {
                    session.fail("it was blocked for longer than `blocked_connection_timeout`");
                    return gone();
                }
                // A server that blocks us has said why it is silent.
                if blocked_since.is_none()
                    && shared.dialer.hosts.has_another(session.link.at, &shared.dialer.target.hosts)
                    && let Some(due) = question.take_if(|question| question.is_due(shared.publishers.silent_since()))
                {
                    asking = Some(Box::pin(due.ask(shared.dialer.clone())));
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
                    || question.as_ref().is_some_and(|question| question.lasts(shared.publishers.silent_since()));
                if answers {
                    question.iter_mut().for_each(Question::say_that_it_answers);
                } else if blocked_since.is_none() && is_still_silent() {
                    shared.dialer.hosts.leave(session.link.at);
                    session.fail(&format!("{host} says nothing while callers wait; going to another host"));
                    return gone();
                }
            }
            // The publisher found out that its node says nothing, and ours is the same.
            Ok(()) = left.changed() => {
                if shared.dialer.hosts.is_left(session.link.at) {
                    session.fail("its node says nothing");
                    return gone();
                }
            }
            () = session.ended() => return gone(),
            () = shared.flushed.cancelled() => return gone(),
            () = state.closed() => return gone(),
        }
    }
}
