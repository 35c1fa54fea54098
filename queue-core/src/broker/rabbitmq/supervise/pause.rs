//! Decides when a connection is tried again: after growing pauses, and while a task waits for it, within a second. Used by
//! `supervision`, and by `connect` for the first connection.
//!
//! To look whether a server listens costs a TCP connect. To log in costs the server much more, so all pauses are
//! jittered: many clients that wait for one server come back one after another.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::rabbitmq::connection::fault::Cause;

/// The shortest pause between looks, while a caller waits, for a server that was away.
const LOOK: Duration = Duration::from_secs(1);
/// The pause between looks at a server that answers but is not well: each attempt may cost it a login.
const LOOK_AT_UNWELL: Duration = Duration::from_secs(5);

/// Counts the tasks that wait for a connection.
#[derive(Debug, Default)]
pub(crate) struct Waiters(watch::Sender<usize>);

/// Counts as one who waits, while it lives.
#[derive(Debug)]
pub(crate) struct Waits(Arc<Waiters>);

impl Waiters {
    /// Waits for a connection from now on.
    pub(crate) fn wait(self: &Arc<Self>) -> Waits {
        self.0.send_modify(|waiters| *waiters += 1);
        Waits(self.clone())
    }

    /// Waits until there is one.
    async fn any(&self) {
        // Its sender is here, so it cannot fail.
        let _ = self.0.subscribe().wait_for(|waiters| *waiters > 0).await;
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.0.send_modify(|waiters| *waiters -= 1);
    }
}

/// The pauses between the attempts of one connection.
pub(crate) struct Pauses {
    growing: Growing,
    /// The reason why the last attempt failed, and when its pause is over.
    last: Option<(Cause, Instant)>,
}

impl Pauses {
    pub(crate) fn new() -> Self {
        Self { growing: Growing::new(), last: None }
    }

    /// Notes why an attempt failed. Returns the pause that begins with it; `None` within one that has begun already, in
    /// which somebody looked for nothing.
    pub(crate) fn failed(&mut self, cause: Cause) -> Option<Duration> {
        let now = Instant::now();
        let is_refused = cause.is_for_a_person();
        if let Some((last, until)) = &mut self.last
            && *until > now
            && last.is_for_a_person() == is_refused
        {
            *last = cause;
            return None;
        }
        let pause = self.growing.next(is_refused);
        self.last = Some((cause, now + pause));
        Some(pause)
    }

    /// Waits until the next attempt is due. Cancel safe.
    pub(crate) async fn rest(&self, waiters: &Waiters) {
        let Some((cause, until)) = self.last else { return };
        let look = async {
            match look_after(cause) {
                Some(longest) => {
                    waiters.any().await;
                    tokio::time::sleep(longest.mul_f64(0.2 + 0.8 * fastrand::f64())).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = look => {}
        }
    }
}

/// After how long it is looked again at most, while somebody waits. Those who are refused do not look: servers lock
/// accounts.
fn look_after(cause: Cause) -> Option<Duration> {
    match cause {
        Cause::Absent => Some(LOOK),
        Cause::Silent | Cause::Unwell => Some(LOOK_AT_UNWELL),
        Cause::Unfit | Cause::Refused => None,
    }
}

/// Exponential with full jitter, so that a thousand workers do not come back at once.
struct Growing {
    /// 0.2 s, 0.4 s … 30 s.
    away: ExponentialBackoff,
    /// 5 s, 10 s … 60 s: a client that is refused for good must not hammer, since servers lock accounts.
    refused: ExponentialBackoff,
}

impl Growing {
    fn new() -> Self {
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

    fn next(&mut self, is_refused: bool) -> Duration {
        let (pauses, least) = if is_refused { (&mut self.refused, 0.5) } else { (&mut self.away, 0.0) };
        // Without a maximum of times it never ends.
        let pause = pauses.next().unwrap_or(Duration::from_secs(60));
        Duration::from_millis(20) + pause.mul_f64(least + fastrand::f64() * (1.0 - least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_cap_and_never_end() {
        let mut pauses = Growing::new();

        let away: Vec<_> = (0..10_000).map(|_| pauses.next(false)).collect();
        let refused: Vec<_> = (0..1000).map(|_| pauses.next(true)).collect();

        assert!(away[0] <= Duration::from_millis(220));
        assert!(away.iter().all(|pause| *pause <= Duration::from_millis(30_020)));
        assert!(away[100..].iter().any(|pause| *pause > Duration::from_secs(20)));
        assert!(refused[10..].iter().all(|pause| *pause >= Duration::from_secs(30)));
        assert!(refused.iter().all(|pause| *pause <= Duration::from_millis(60_020)));
    }

    /// Pauses that have grown long.
    fn long(cause: Cause) -> Pauses {
        let mut pauses = Pauses::new();
        loop {
            pauses.last = None;
            if pauses.failed(cause).is_some_and(|pause| pause > 5 * LOOK_AT_UNWELL) {
                return pauses;
            }
        }
    }

    #[tokio::test]
    async fn waiter_cuts_a_long_pause_short() {
        let (waiters, pauses) = (Arc::new(Waiters::default()), long(Cause::Absent));
        let since = Instant::now();

        let _waits = waiters.wait();
        pauses.rest(&waiters).await;

        assert!(since.elapsed() < 2 * LOOK, "{:?}", since.elapsed());
    }

    #[tokio::test]
    async fn pause_is_kept_where_nobody_waits_or_a_person_must_act() {
        let waiters = Arc::new(Waiters::default());
        let rests = async |pauses: &Pauses| {
            tokio::time::timeout(LOOK + LOOK / 10, pauses.rest(&waiters)).await.is_err()
        };
        drop(waiters.wait());

        let (absent, refused) = (long(Cause::Absent), long(Cause::Refused));
        let is_kept = rests(&absent).await;
        let _waits = waiters.wait();
        let is_kept_when_refused = rests(&refused).await;

        assert!(is_kept && is_kept_when_refused);
    }

    #[test]
    fn looks_within_a_pause_begin_no_other() {
        let mut pauses = long(Cause::Absent);

        assert_eq!(pauses.failed(Cause::Absent), None);
        assert_eq!(pauses.failed(Cause::Unwell), None);
        // A person is told at once, and the pause is that of one who is refused.
        assert!(pauses.failed(Cause::Refused).is_some());
    }
}
