//! Decides when a job that failed or was put off runs again, and when it is a dead letter. Pure: no clock, no randomness, no
//! broker.

use std::time::{Duration, SystemTime};

use crate::clock::moment_after;
use crate::outcome::{Failure, Outcome, Verdict};
use crate::settlement::Settlement;

/// The shortest snooze. A job that is put off for no time at all would run again and again, as fast as its worker can.
pub const MIN_SNOOZE: Duration = Duration::from_secs(1);

/// The waits between attempts. `#[task(backoff = ..)]` sets it: `"1s"`, `exponential("1s", max = "1h")` or `fixed("30s")`.
///
/// ```
/// use std::time::Duration;
///
/// use leveret::Backoff;
///
/// let backoff = Backoff::exponential(Duration::from_secs(1));
/// // 1 s, 2 s, 4 s, and up to a quarter more; here without that jitter.
/// assert_eq!(backoff.delay(3, 0.0), Duration::from_secs(4));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backoff {
    /// `base`, twice that, four times that … at most `cap`.
    Exponential {
        /// The wait after the first failure.
        base: Duration,
        /// The longest wait, before jitter.
        cap: Duration,
    },
    /// One wait for all attempts.
    Fixed(Duration),
}

impl Backoff {
    /// 10 minutes.
    pub const DEFAULT_CAP: Duration = Duration::from_secs(600);

    /// Doubling from `base`, at most [`DEFAULT_CAP`](Self::DEFAULT_CAP), or `base` where that is longer.
    pub const fn exponential(base: Duration) -> Self {
        let cap = if base.as_nanos() > Self::DEFAULT_CAP.as_nanos() { base } else { Self::DEFAULT_CAP };
        Self::Exponential { base, cap }
    }

    /// How long a job waits after its `attempt`th failure: `base * 2^(attempt - 1)`, at most `cap`, and up to a
    /// quarter more by `jitter`, a random number from 0 to 1. Never less than stated.
    ///
    /// With the defaults: 1 s, 2 s, 4 s … 10 min, each up to 25 % longer, so that a thousand jobs that failed
    /// together do not come back together.
    pub fn delay(&self, attempt: u32, jitter: f64) -> Duration {
        let wait = match *self {
            Self::Exponential { base, cap } => {
                let factor = 2_u32.saturating_pow(attempt.saturating_sub(1));
                base.saturating_mul(factor).min(cap)
            }
            Self::Fixed(wait) => wait,
        };
        wait.saturating_add(wait.mul_f64(0.25 * jitter.clamp(0.0, 1.0)))
    }
}

impl Default for Backoff {
    /// 1 s, 2 s, 4 s … 10 min.
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1))
    }
}

/// How often a task is tried, and how long it waits in between. `#[task(retries = .., backoff = ..)]` sets it.
///
/// ```
/// use std::time::Duration;
///
/// use leveret::{Backoff, RetryPolicy, Task, task};
///
/// #[task(queue = "imports", retries = 3, backoff = fixed("30s"))]
/// async fn import(path: String) {
///     println!("{path}");
/// }
///
/// let policy = RetryPolicy::new(3, Backoff::Fixed(Duration::from_secs(30)));
/// assert_eq!(Import::options().retry, policy);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How many attempts follow the first; 0 means one attempt in all.
    pub retries: u32,
    /// How long the waits are.
    pub backoff: Backoff,
}

impl RetryPolicy {
    /// `retries` attempts after the first, with waits by `backoff`.
    pub const fn new(retries: u32, backoff: Backoff) -> Self {
        Self { retries, backoff }
    }
}

impl Default for RetryPolicy {
    /// 5 retries after 1 s, 2 s, 4 s, 8 s and 16 s: six attempts over about half a minute.
    fn default() -> Self {
        Self::new(5, Backoff::default())
    }
}

/// Decides what becomes of a job after its `attempt`th attempt (from 1). `jitter` is a random number from 0 to 1; `now` is
/// called only where it is needed, since most jobs succeed.
pub fn decide(
    outcome: &Outcome,
    attempt: u32,
    policy: &RetryPolicy,
    jitter: f64,
    now: impl FnOnce() -> SystemTime,
) -> Settlement {
    let (reason, verdict) = match outcome {
        Outcome::Success | Outcome::Reply(_) => return Settlement::Ack,
        Outcome::Snooze { after } => return snooze(*after, now()),
        Outcome::Failure(Failure { reason, verdict, .. }) => (reason, verdict),
    };
    let after = match verdict {
        // A layer has made a `Failure` of the error, and no `Outcome`.
        Verdict::Snooze(after) => return snooze(*after, now()),
        Verdict::Permanent => None,
        _ if attempt > policy.retries => None,
        Verdict::Retry => Some(policy.backoff.delay(attempt, jitter)),
        Verdict::RetryIn(after) => Some(*after),
    };
    let reason = reason.clone();
    match after {
        Some(after) => Settlement::Retry { after, attempt: attempt.saturating_add(1), reason },
        None => Settlement::DeadLetter { reason },
    }
}

/// Snoozes a job: at least [`MIN_SNOOZE`] later it comes again.
pub fn snooze(after: Duration, now: SystemTime) -> Settlement {
    Settlement::Snooze { until: moment_after(now, after.max(MIN_SNOOZE)) }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::outcome::{ReasonKind, TaskError};

    const S: Duration = Duration::from_secs(1);
    const NOW: SystemTime = UNIX_EPOCH;

    fn decide(outcome: &Outcome, attempt: u32, policy: &RetryPolicy) -> Settlement {
        super::decide(outcome, attempt, policy, 0.0, || NOW)
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let waits: Vec<_> =
            (1..=12).map(|attempt| Backoff::default().delay(attempt, 0.0).as_secs()).collect();

        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        assert_eq!(Backoff::default().delay(u32::MAX, 0.0), 600 * S);
    }

    #[test]
    fn jitter_adds_at_most_a_quarter_and_never_takes_away() {
        assert_eq!(Backoff::Fixed(4 * S).delay(1, 0.0), 4 * S);
        assert_eq!(Backoff::Fixed(4 * S).delay(1, 1.0), 5 * S);
        assert_eq!(Backoff::Fixed(Duration::MAX).delay(1, 0.0), Duration::MAX);
    }

    #[test]
    fn retries_are_counted_after_the_first_attempt() {
        let policy = RetryPolicy::new(2, Backoff::Fixed(S));
        let failed = Outcome::failed(ReasonKind::Failed, "no");

        let after = |attempt| decide(&failed, attempt, &policy);

        assert!(matches!(after(1), Settlement::Retry { attempt: 2, .. }));
        assert!(matches!(after(2), Settlement::Retry { attempt: 3, .. }));
        assert!(matches!(after(3), Settlement::DeadLetter { .. }));
    }

    #[test]
    fn permanent_failure_is_dead_at_once_and_success_is_acked() {
        let policy = RetryPolicy::default();

        let dead = decide(&Outcome::dead(ReasonKind::Permanent, "no"), 1, &policy);

        assert!(matches!(dead, Settlement::DeadLetter { .. }));
        assert_eq!(decide(&Outcome::Success, 1, &policy), Settlement::Ack);
    }

    #[test]
    fn snoozed_job_comes_again_however_often_it_was_tried() {
        let policy = RetryPolicy::new(0, Backoff::default());
        let error = TaskError::snooze(60 * S);
        let by_layer = Outcome::Failure(Failure::from_error(error.into()));

        for outcome in [Outcome::Snooze { after: 60 * S }, by_layer] {
            assert_eq!(decide(&outcome, 99, &policy), Settlement::Snooze { until: NOW + 60 * S });
        }
    }

    #[test]
    fn snooze_is_a_second_at_least_and_a_century_where_it_has_no_end() {
        let until = |after| match snooze(after, NOW) {
            Settlement::Snooze { until } => until.duration_since(NOW).unwrap(),
            other => panic!("{other:?}"),
        };

        assert_eq!(until(Duration::ZERO), S);
        assert_eq!(until(Duration::from_millis(1_001)), Duration::from_millis(1_001));
        assert_eq!(until(Duration::MAX), 100 * 365 * 24 * 3600 * S);
    }
}
