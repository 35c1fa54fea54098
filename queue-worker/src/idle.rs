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
use tokio::sync::Notify;

use crate::fetch::Lane;

/// How long a queue that does not tell what is unsettled must stay quiet. Longer than a delivery is on its way.
const QUIET: Duration = Duration::from_millis(300);
/// How often the queues are looked at while nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// By how much a retry may be late before we conclude that another worker has taken it.
const LATE: Duration = Duration::from_secs(10);

/// What a worker has been doing. Costs nothing unless [`watch`](Self::watch)ed.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    is_watched: AtomicBool,
    began: AtomicU64,
    ended: AtomicU64,
    /// Retries that this worker scheduled and that have not come back, by when they are given up.
    retries: Mutex<HashMap<JobId, Instant>>,
    changed: Notify,
}

impl Activity {
    pub(crate) fn watch(&self) {
        self.is_watched.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// A delivery is in our hands.
    pub(crate) fn began(&self, envelope: &Envelope) {
        if self.is_watched() {
            self.began.fetch_add(1, Ordering::SeqCst);
            self.retries().remove(&envelope.id);
        }
    }

    /// It has been settled so.
    pub(crate) fn ended(&self, id: &JobId, settlement: &Settlement) {
        if self.is_watched() {
            if let Settlement::Retry { after, .. } = settlement {
                let until = Instant::now().checked_add(after.saturating_add(LATE));
                self.retries().extend(until.map(|until| (id.clone(), until)));
            }
            self.ended.fetch_add(1, Ordering::SeqCst);
            self.changed.notify_one();
        }
    }

    fn retries(&self) -> MutexGuard<'_, HashMap<JobId, Instant>> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Two equal answers mean that nothing began or ended in between.
    fn counts(&self) -> (u64, u64) {
        (self.began.load(Ordering::SeqCst), self.ended.load(Ordering::SeqCst))
    }

    fn awaits_retries(&self) -> bool {
        let mut retries = self.retries();
        let now = Instant::now();
        retries.retain(|_, until| *until > now);
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
