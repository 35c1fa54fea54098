//! Keeps one connection: a numbered session that dies whole at its first error and is built anew, for ever, with
//! capped and jittered pauses. The publisher and the consumers watch it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Event;
use tokio::sync::watch;
use tokio::time::Instant;

use super::pause::{Pauses, Waiters};
use super::probe::{Listeners, Probe};
use super::session::{Session, State};
use crate::broker::rabbitmq::connection::closing::Closing;
use crate::broker::rabbitmq::connection::connect::Link;
use crate::broker::rabbitmq::connection::dial::Dialer;
use crate::broker::rabbitmq::connection::fault::{self, Cause, Fault, gone};
use crate::broker::rabbitmq::topology::declared::Declared;
use crate::broker::rabbitmq::topology::redeclare;
use crate::error::{Error, chain};

/// The connections' roles, which stand in their names.
pub(crate) const PUBLISHER: &str = "publisher";
pub(super) const CONSUMER: &str = "consumer";
/// The role of the connection of a queue that consumes apart from the others.
pub(super) const APART: &str = "apart consumer";
/// How long a session must have lived for the pauses to begin anew.
const SETTLED: Duration = Duration::from_secs(30);
/// How often a session is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a polite close may take.
const CLOSE: Duration = Duration::from_secs(2);

/// The parts of the broker that keeping a connection needs.
pub(crate) struct Supervision {
    pub(super) dialer: Arc<Dialer>,
    pub(super) declared: Arc<Declared>,
    /// Counts the tasks that wait for a connection.
    pub(crate) waiters: Arc<Waiters>,
    /// The tasks that wait for answers from the node that is published to.
    pub(crate) listeners: Arc<Listeners>,
    pub(super) closing: Closing,
    /// How many sessions there have been.
    sessions: AtomicU64,
}

impl Supervision {
    pub(crate) fn new(dialer: Arc<Dialer>, declared: Arc<Declared>, closing: Closing) -> Self {
        let (waiters, listeners) = (Arc::default(), Arc::default());
        Self { dialer, declared, waiters, listeners, closing, sessions: AtomicU64::new(0) }
    }
}

/// Keeps a connection in `state` until the broker is closed or `state` has no receiver any more. `first` is a
/// connection that is already there.
pub(crate) async fn supervise(
    with: Arc<Supervision>,
    role: &'static str,
    state: watch::Sender<State>,
    mut first: Option<Link>,
) {
    let mut pauses = Pauses::new();
    loop {
        let connected = async {
            let link = match first.take() {
                Some(link) => link,
                None => with.dialer.dial(role).await?,
            };
            // What was declared may be gone with the node's disk, or never have been on this one.
            redeclare::all(&with.dialer, &with.declared).await?;
            // Of those that consume only this one: whoever declares an exclusive queue owns it.
            if role == CONSUMER {
                redeclare::exclusive(&with.dialer, &with.declared, &link).await?;
            }
            Ok::<_, Fault>(link)
        };
        let connected = tokio::select! {
            connected = connected => connected,
            () = with.closing.closed.cancelled() => break,
            () = state.closed() => break,
        };
        match connected {
            Ok(link) => {
                let number = with.sessions.fetch_add(1, Ordering::Relaxed) + 1;
                let session = Arc::new(Session::new(number, link));
                let since = Instant::now();
                let error = live(&with, role, &state, &session).await;
                if with.closing.closed.is_cancelled() || state.is_closed() {
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
            () = pauses.rest(&with.waiters) => {}
            () = with.closing.closed.cancelled() => break,
            () = state.closed() => break,
        }
    }
    state.send_replace(State::default());
}

/// The node is being asked: yields the probe, and whether the node has answered.
type Asking = Pin<Box<dyn Future<Output = (Probe, bool)> + Send>>;

/// Watches a session until it is dead, or the broker is closed and flushed.
async fn live(with: &Supervision, role: &str, state: &watch::Sender<State>, session: &Arc<Session>) -> Error {
    let mut events = Box::pin(session.link.connection.events_listener());
    tracing::info!(role, session = session.number, host = %session.link.host, "connected to RabbitMQ");
    state.send_replace(State { session: Some(session.clone()), ..State::default() });
    let mut looks = tokio::time::interval(LOOK);
    let mut blocked_since = None;
    let mut left = with.dialer.hosts.watch();
    // While the node is being asked, which takes seconds, `asking` has the probe.
    let mut probe = (role == PUBLISHER).then(|| Probe::new(session.clone()));
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
                if let (Some(since), Some(limit)) = (blocked_since, with.dialer.target.blocked_timeout)
                    && since.elapsed() >= limit
                {
                    session.fail("it was blocked for longer than `blocked_connection_timeout`");
                    return gone();
                }
                // A server that blocks us has said why it is silent.
                if blocked_since.is_none()
                    && with.dialer.hosts.has_another(session.link.at, &with.dialer.target.hosts)
                    && let Some(due) = probe.take_if(|probe| probe.is_due(with.listeners.silent_since()))
                {
                    asking = Some(Box::pin(due.ask(with.dialer.clone())));
                }
            }
            // Polled again after another arm has won: `asking` keeps what it has reached.
            (asked, answers) = async { asking.as_mut().expect("the arm's condition says so").await },
                if asking.is_some() =>
            {
                (asking, probe) = (None, Some(asked));
                let host = &session.link.host;
                // To ask takes seconds, in which callers may have been answered.
                let is_still_silent =
                    || probe.as_ref().is_some_and(|probe| probe.lasts(with.listeners.silent_since()));
                if answers {
                    probe.iter_mut().for_each(Probe::say_that_it_answers);
                } else if blocked_since.is_none() && is_still_silent() {
                    with.dialer.hosts.leave(session.link.at);
                    session.fail(&format!("{host} says nothing while callers wait; going to another host"));
                    return gone();
                }
            }
            // The publisher found out that its node says nothing, and ours is the same.
            Ok(()) = left.changed() => {
                if with.dialer.hosts.is_left(session.link.at) {
                    session.fail("its node says nothing");
                    return gone();
                }
            }
            () = session.ended() => return gone(),
            () = with.closing.flushed.cancelled() => return gone(),
            () = state.closed() => return gone(),
        }
    }
}
