//! Time as an argument: the system's, or one that a test moves.
//!
//! tokio's own clock is never paused: it cannot see lapin's runtime or SQLite's thread, and pausing it breaks
//! users' I/O. Code that waits for a point in time asks a [`Clock`].

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

/// `now + after`, or a century later where that is beyond what the system's time can say.
pub(crate) fn moment_after(now: SystemTime, after: Duration) -> SystemTime {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now.checked_add(after).unwrap_or(now + CENTURY)
}

/// Tells the time and waits for it. Clones share one time.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use leveret::broker::Clock;
///
/// let clock = Clock::manual(SystemTime::UNIX_EPOCH);
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(60));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// `None` is the system's clock.
    manual: Option<Arc<watch::Sender<SystemTime>>>,
    /// How far the system's clock is misread, for tests of machines whose clocks disagree.
    shift: Shift,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shift {
    Ahead(Duration),
    Behind(Duration),
}

impl Default for Shift {
    fn default() -> Self {
        Self::Ahead(Duration::ZERO)
    }
}

impl Shift {
    fn of(self, moment: SystemTime) -> SystemTime {
        match self {
            Self::Ahead(by) => moment + by,
            Self::Behind(by) => moment - by,
        }
    }
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still at `now` until [`advance`](Self::advance) moves it.
    pub fn manual(now: SystemTime) -> Self {
        Self { manual: Some(Arc::new(watch::Sender::new(now))), ..Self::default() }
    }

    /// The system's clock, read as if it were so far ahead. For tests of programs whose machines disagree about the time.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use leveret::broker::Clock;
    /// let clock = Clock::ahead(Duration::from_secs(3600));
    /// assert!(clock.now() > SystemTime::now() + Duration::from_secs(3000));
    /// ```
    pub fn ahead(by: Duration) -> Self {
        Self { shift: Shift::Ahead(by), ..Self::default() }
    }

    /// The reverse of [`ahead`](Self::ahead).
    pub fn behind(by: Duration) -> Self {
        Self { shift: Shift::Behind(by), ..Self::default() }
    }

    /// The present moment.
    pub fn now(&self) -> SystemTime {
        let system = || self.shift.of(SystemTime::now());
        self.manual.as_ref().map_or_else(system, |clock| *clock.borrow())
    }

    /// Moves a manual clock forward, and wakes all that waited for a moment that has come.
    ///
    /// # Panics
    /// On the system's clock, which cannot be moved.
    pub fn advance(&self, by: Duration) {
        let clock = self.manual.as_ref().expect("only a manual clock can be advanced");
        clock.send_modify(|now| *now += by);
    }

    /// Moves a manual clock back, as an administrator may do to the system's. Only for our own tests: a moment that users have
    /// waited for should not move away again.
    #[cfg(all(test, feature = "sqlite-system"))]
    pub(crate) fn set_back(&self, by: Duration) {
        let clock = self.manual.as_ref().expect("only a manual clock can be set back");
        clock.send_modify(|now| *now -= by);
    }

    /// True for a clock that a test moves.
    pub fn is_manual(&self) -> bool {
        self.manual.is_some()
    }

    /// True if both are the same clock, so that moving one moves the other.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.manual, &other.manual) {
            (None, None) => self.shift == other.shift,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Waits for `duration`. Unlike [`sleep_until`](Self::sleep_until), it is not affected if the system's clock is set meanwhile.
    /// Cancel safe.
    ///
    /// # Panics
    /// With the system's clock, if it is awaited outside of a tokio runtime.
    pub async fn sleep(&self, duration: Duration) {
        match (&self.manual, self.now().checked_add(duration)) {
            (None, _) => tokio::time::sleep(duration).await,
            (Some(_), Some(moment)) => self.sleep_until(moment).await,
            (Some(_), None) => std::future::pending().await,
        }
    }

    /// Waits until `moment` has come; returns at once if it is past. Cancel safe.
    ///
    /// # Panics
    /// With the system's clock and a moment that is to come, if it is awaited outside of a tokio runtime.
    pub async fn sleep_until(&self, moment: SystemTime) {
        match &self.manual {
            None => {
                // The system's clock may be set back while we sleep, so look again after waking.
                while let Ok(left) = moment.duration_since(self.now()) {
                    if left.is_zero() {
                        break;
                    }
                    tokio::time::sleep(left).await;
                }
            }
            Some(clock) => {
                let mut clock = clock.subscribe();
                // The sender lives in `self`, so it cannot be gone.
                let _ = clock.wait_for(|now| *now >= moment).await;
            }
        }
    }
}

/// Milliseconds since 1970, as `q-eta` and `q-failed-at` carry them. Before 1970 is 0.
pub fn to_millis(moment: SystemTime) -> i64 {
    moment.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The reverse of [`to_millis`]. A negative number is 1970; one beyond what the system can tell is the far
/// future that it can.
pub fn from_millis(millis: i64) -> SystemTime {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn manual_clock_wakes_who_waits_for_a_moment_that_has_come() {
        let clock = Clock::manual(UNIX_EPOCH);
        let waiter = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(UNIX_EPOCH + Duration::from_secs(60)).await }
        });

        clock.advance(Duration::from_secs(59));
        assert!(!waiter.is_finished());
        clock.advance(Duration::from_secs(1));

        waiter.await.unwrap();
        assert_eq!(to_millis(clock.now()), 60_000);
    }

    #[test]
    fn millis_survive_the_round_trip_and_never_panic() {
        assert_eq!(to_millis(from_millis(1_700_000_000_123)), 1_700_000_000_123);
        assert_eq!(to_millis(from_millis(-5)), 0);
        from_millis(i64::MAX);
    }
}
