//! What a worker has been doing, where somebody waits until it is idle. Told by `fetch` and `settle`, read by `idle`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use queue_core::envelope::{Envelope, JobId};
use queue_core::settlement::Settlement;
use queue_core::topology::Name;
use tokio::sync::Notify;

/// By how much a retry may be late before we conclude that another worker has taken it.
const LATE: Duration = Duration::from_secs(10);

/// What a retry is known by: queue, id and attempt. An event has the same id in every queue. There may be several, since
/// two jobs may have been given one id.
type Retry = (Name, JobId, u32);

/// What a worker has been doing. Costs nothing unless [`watch`](Self::watch)ed.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    is_watched: AtomicBool,
    began: AtomicU64,
    ended: AtomicU64,
    /// Retries that this worker scheduled and that have not come back: when each is given up.
    retries: Mutex<HashMap<Retry, Vec<Instant>>>,
    changed: Notify,
}

impl Activity {
    pub(crate) fn watch(&self) {
        self.is_watched.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// A delivery of this queue is in our hands.
    pub(crate) fn began(&self, queue: &Name, envelope: &Envelope) {
        if self.is_watched() {
            self.began.fetch_add(1, Ordering::SeqCst);
            let retry = (queue.clone(), envelope.id.clone(), envelope.attempt);
            if let Some(outstanding) = self.retries().get_mut(&retry) {
                outstanding.pop();
            }
        }
    }

    /// It has been settled so.
    pub(crate) fn ended(&self, queue: &Name, id: &JobId, settlement: &Settlement) {
        if self.is_watched() {
            if let Settlement::Retry { after, attempt, .. } = settlement
                && let Some(until) = Instant::now().checked_add(after.saturating_add(LATE))
            {
                self.retries().entry((queue.clone(), id.clone(), *attempt)).or_default().push(until);
            }
            self.ended.fetch_add(1, Ordering::SeqCst);
            self.changed.notify_one();
        }
    }

    /// Waits until a job has ended. Cancel safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn retries(&self) -> MutexGuard<'_, HashMap<Retry, Vec<Instant>>> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Two equal answers mean that nothing began or ended in between.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.began.load(Ordering::SeqCst), self.ended.load(Ordering::SeqCst))
    }

    pub(crate) fn awaits_retries(&self) -> bool {
        let mut retries = self.retries();
        let now = Instant::now();
        retries.retain(|_, outstanding| {
            outstanding.retain(|until| *until > now);
            !outstanding.is_empty()
        });
        !retries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use queue_core::settlement::{Reason, ReasonKind};

    use super::*;

    const QUEUE: Name = Name::Borrowed("a");
    const OTHER: Name = Name::Borrowed("b");

    fn retry(attempt: u32) -> Settlement {
        let reason = Reason::new(ReasonKind::Failed, "no");
        Settlement::Retry { after: Duration::from_secs(1), attempt, reason }
    }

    fn watched() -> Activity {
        let activity = Activity::default();
        activity.watch();
        activity
    }

    fn attempt(of: &Envelope, attempt: u32) -> Envelope {
        let mut again = of.clone();
        again.attempt = attempt;
        again
    }

    #[test]
    fn retry_of_an_event_is_awaited_though_another_queue_has_its_own_copy() {
        let (activity, event) = (watched(), Envelope::new("{}"));
        activity.began(&QUEUE, &event);
        activity.ended(&QUEUE, &event.id, &retry(2));
        activity.began(&OTHER, &event);
        activity.ended(&OTHER, &event.id, &Settlement::Ack);

        assert!(activity.awaits_retries());
        activity.began(&QUEUE, &attempt(&event, 2));
        assert!(!activity.awaits_retries());
    }

    #[test]
    fn retries_of_two_jobs_with_one_id_are_both_awaited() {
        let (activity, job) = (watched(), Envelope::new("{}"));
        for _ in 0..2 {
            activity.began(&QUEUE, &job);
            activity.ended(&QUEUE, &job.id, &retry(2));
        }

        activity.began(&QUEUE, &attempt(&job, 2));
        assert!(activity.awaits_retries());
        activity.began(&QUEUE, &attempt(&job, 2));
        assert!(!activity.awaits_retries());
    }
}
