//! When a worker has nothing left to do: what `run_until_idle` waits for.
//!
//! Where the broker counts everything (memory, SQLite), idle is exact: in none of the worker's queues is a job
//! ready, unsettled (by whomever) or delayed. RabbitMQ tells only what is ready. There, idle means that nothing is
//! ready, nothing runs here, no retry that this worker scheduled is outstanding, and all that stays so for
//! [`QUIET`]; jobs that others have delayed, or hold, are not waited for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use queue_core::envelope::{Envelope, JobId};
use queue_core::error::{ErrorKind, Result};
use queue_core::settlement::Settlement;
use queue_core::topology::Name;
use tokio::sync::Notify;

use crate::fetch::Lane;

/// How long a queue that does not tell what is unsettled must stay quiet. Longer than a delivery is on its way.
const QUIET: Duration = Duration::from_millis(300);
/// How often the queues are looked at while nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(50);
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

    fn retries(&self) -> MutexGuard<'_, HashMap<Retry, Vec<Instant>>> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Two equal answers mean that nothing began or ended in between.
    fn counts(&self) -> (u64, u64) {
        (self.began.load(Ordering::SeqCst), self.ended.load(Ordering::SeqCst))
    }

    fn awaits_retries(&self) -> bool {
        let mut retries = self.retries();
        let now = Instant::now();
        retries.retain(|_, outstanding| {
            outstanding.retain(|until| *until > now);
            !outstanding.is_empty()
        });
        !retries.is_empty()
    }
}

/// What one look at all queues found.
enum Look {
    Busy,
    /// Nothing is there that the broker tells of; it does not tell all.
    Quiet,
    Empty,
}

/// Waits until the worker of these lanes is idle. Cancel safe.
///
/// # Errors
/// If the client is closed.
pub(crate) async fn until_idle(activity: &Activity, lanes: &[Arc<Lane>]) -> Result<()> {
    let mut quiet_since: Option<((u64, u64), Instant)> = None;
    loop {
        let before = activity.counts();
        let look = if before.0 == before.1 { look(lanes).await? } else { Look::Busy };
        // A job that ended while we looked may have enqueued more where we had looked already.
        let is_still = activity.counts() == before;
        match look {
            Look::Empty if is_still => return Ok(()),
            Look::Quiet if is_still && !activity.awaits_retries() => match quiet_since {
                Some((counts, since)) if counts == before => {
                    if since.elapsed() >= QUIET {
                        return Ok(());
                    }
                }
                _ => quiet_since = Some((before, Instant::now())),
            },
            _ => quiet_since = None,
        }
        tokio::select! {
            () = activity.changed.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn look(lanes: &[Arc<Lane>]) -> Result<Look> {
    let mut found = Look::Empty;
    for lane in lanes {
        let stats = match lane.shared.client.broker().inspect(&lane.queue).await {
            Ok(stats) => stats,
            Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
            // A broker that is away comes back; a queue that is gone ends its consumer, and so the worker.
            Err(_) => return Ok(Look::Busy),
        };
        match (stats.unsettled, stats.delayed) {
            _ if stats.ready > 0 => return Ok(Look::Busy),
            (Some(0), Some(0)) => {}
            (Some(_), Some(_)) => return Ok(Look::Busy),
            _ => found = Look::Quiet,
        }
    }
    Ok(found)
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
