//! Keeps one connection: a numbered session that dies whole at its first error and is built anew, for ever, with
//! capped and jittered pauses. The publisher and the consumers watch it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::StreamExt;
use lapin::{Channel, Event};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::connect::{self, Link};
use super::fault::Fault;
use crate::error::{Error, ErrorKind, chain};

/// The connections' roles, which stand in their names.
pub(super) const PUBLISHER: &str = "publisher";
pub(super) const CONSUMER: &str = "consumer";
/// That of a queue which consumes apart from the others.
pub(super) const APART: &str = "apart consumer";
/// How long a session must have lived for the pauses to begin anew.
const SETTLED: Duration = Duration::from_secs(30);
/// How long a polite close may take.
const CLOSE: Duration = Duration::from_secs(2);

/// One connection's life.
#[derive(Debug)]
pub(super) struct Session {
    /// Counts up; in log lines.
    pub(super) number: u64,
    link: Link,
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

/// Opens a connection to the first host that answers, beginning with the one that last worked.
///
/// # Errors
/// The last host's, or the first that only a person can mend.
pub(super) async fn open_any(shared: &Shared, role: &str) -> Result<Link, Fault> {
    let hosts = &shared.target.hosts;
    let first = shared.good_host.load(Ordering::Relaxed);
    let mut worst: Option<Fault> = None;
    for turn in 0..hosts.len() {
        let at = (first + turn) % hosts.len();
        let name = format!("{} {role}", shared.settings.name);
        match connect::open(&shared.target, &hosts[at], &name).await {
            Ok(link) => {
                shared.good_host.store(at, Ordering::Relaxed);
                return Ok(link);
            }
            Err(fault) => {
                tracing::debug!(host = %hosts[at], error = %chain(&fault.error), "cannot connect");
                if worst.as_ref().is_none_or(|worst| !worst.permanent) {
                    worst = Some(fault);
                }
            }
        }
    }
    Err(worst.unwrap_or_else(|| Fault { permanent: true, error: Error::config("the URL names no host") }))
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
        let pause = match connected {
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
                pauses.next(false)
            }
            Err(fault) => {
                let pause = pauses.next(fault.permanent);
                if fault.permanent {
                    tracing::error!(role, ?pause, error = %chain(&fault.error), "RabbitMQ refuses us; trying again");
                } else {
                    tracing::warn!(role, ?pause, error = %chain(&fault.error), "RabbitMQ is away; trying again");
                }
                state.send_replace(State { down: Some(Arc::new(fault.error)), ..State::default() });
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.closed.cancelled() => break,
            () = state.closed() => break,
        }
    }
    state.send_replace(State::default());
}

/// Watches a session until it is dead, or the broker is closed and flushed.
async fn live(shared: &Shared, role: &str, state: &watch::Sender<State>, session: &Arc<Session>) -> Error {
    let mut events = Box::pin(session.link.connection.events_listener());
    tracing::info!(role, session = session.number, host = %session.link.host, "connected to RabbitMQ");
    state.send_replace(State { session: Some(session.clone()), ..State::default() });
    let mut looks = tokio::time::interval(Duration::from_secs(1));
    let mut blocked_since = None;
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

/// Pauses between attempts: exponential with full jitter, so that a thousand workers do not come back at once.
pub(super) struct Pauses {
    /// 0.2 s, 0.4 s … 30 s.
    away: ExponentialBackoff,
    /// 5 s, 10 s … 60 s: who is refused for good must not hammer, since servers lock accounts.
    refused: ExponentialBackoff,
}

impl Pauses {
    pub(super) fn new() -> Self {
        let builder = |min, max| {
            ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(min))
                .with_max_delay(Duration::from_secs(max))
                .with_factor(2.0)
                .without_max_times()
                .build()
        };
        Self { away: builder(200, 30), refused: builder(5000, 60) }
    }

    pub(super) fn next(&mut self, refused: bool) -> Duration {
        let (pauses, least) = if refused { (&mut self.refused, 0.5) } else { (&mut self.away, 0.0) };
        // Without a maximum of times it never ends.
        let pause = pauses.next().unwrap_or(Duration::from_secs(60));
        Duration::from_millis(20) + pause.mul_f64(least + fastrand::f64() * (1.0 - least))
    }
}

/// The state shared by all of one broker's sessions, for `good_host`.
pub(super) type HostIndex = AtomicUsize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_cap_and_never_end() {
        let mut pauses = Pauses::new();

        let away: Vec<_> = (0..10_000).map(|_| pauses.next(false)).collect();
        let refused: Vec<_> = (0..1000).map(|_| pauses.next(true)).collect();

        assert!(away[0] <= Duration::from_millis(220));
        assert!(away.iter().all(|pause| *pause <= Duration::from_millis(30_020)));
        assert!(away[100..].iter().any(|pause| *pause > Duration::from_secs(20)));
        assert!(refused[10..].iter().all(|pause| *pause >= Duration::from_secs(30)));
        assert!(refused.iter().all(|pause| *pause <= Duration::from_millis(60_020)));
    }
}
