//! Patience with delayed jobs whose queue has gone. A queue that gets other options is deleted and declared anew, and its
//! delayed jobs outlive that: they wait, and their queue is looked for again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a queue is looked for before its delayed jobs are set aside.
const PATIENCE: Duration = Duration::from_secs(3600);
/// The first pause before it is looked for again. It doubles: 1 s, 1 s, 2 s, 4 s … 32 s.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(32);
/// The pause between two log lines about one missing or full queue.
const SAY_AGAIN: Duration = Duration::from_secs(600);

/// How long a job waits before its queue, which it has waited for `missing` already, is looked for again. `None` after an
/// hour: it is set aside.
pub(crate) fn next_look(missing: Duration) -> Option<Duration> {
    let left = PATIENCE.checked_sub(missing).filter(|left| !left.is_zero())?;
    Some(missing.clamp(PAUSE, LONGEST_PAUSE).min(left))
}

/// Keeps a thousand jobs of one queue from logging the same thing a thousand times.
#[derive(Debug, Default)]
pub(crate) struct Complaints(HashMap<String, Instant>);

impl Complaints {
    /// True if it is time to log again what is wrong with a queue.
    pub(crate) fn is_due(&mut self, queue: &str) -> bool {
        let now = Instant::now();
        if self.0.get(queue).is_some_and(|last| now.duration_since(*last) < SAY_AGAIN) {
            return false;
        }
        self.0.retain(|_, last| now.duration_since(*last) < SAY_AGAIN);
        self.0.insert(queue.to_owned(), now);
        true
    }
}

/// The remedy for a missing queue.
pub(crate) const REMEDY: &str =
    "start a worker of this queue, or declare it otherwise: the job waits for it for an hour";
/// The remedy for a job that was set aside.
pub(crate) const SET_ASIDE: &str = "its queue, which `q-target` names, has been missing for an hour: declare it, and put the job back with `Admin::replay`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_is_looked_for_at_growing_intervals_for_an_hour() {
        let mut missing = Duration::ZERO;
        let mut pauses = Vec::new();
        while let Some(pause) = next_look(missing) {
            pauses.push(pause.as_secs());
            missing += pause;
        }

        assert_eq!(pauses[..8], [1, 1, 2, 4, 8, 16, 32, 32]);
        assert_eq!(missing, PATIENCE);
        assert!(pauses.len() < 130, "{}", pauses.len());
        assert_eq!(next_look(Duration::MAX), None);
    }

    #[test]
    fn queue_is_complained_of_once_at_a_time() {
        let mut complaints = Complaints::default();

        assert!(complaints.is_due("a"));
        assert!(complaints.is_due("b"));
        assert!(!complaints.is_due("a"));
    }
}
