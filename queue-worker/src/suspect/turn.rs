//! The turn of a job that runs alone: while a job wants or has it, the worker's queues fetch nothing. Watched by `fetch`, taken
//! by `inspect`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;

/// How long the other jobs stand still for a job that runs alone. A long job that does no harm must not block the others for
/// longer.
const STILL: Duration = Duration::from_secs(30);
/// How long a job that must run alone waits for the running jobs. After each wait in vain the next is twice as long, so that it
/// runs in the end; the others go on in between.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often that wait is doubled.
const DOUBLINGS: u32 = 4;
/// The pause between two looks at the number of running jobs.
const LOOK: Duration = Duration::from_millis(10);

/// Gives out one turn at a time.
#[derive(Debug)]
pub(crate) struct Turns {
    one: Arc<Semaphore>,
    /// The last value of `told`, for the check before each job.
    is_wanted: AtomicBool,
    told: watch::Sender<bool>,
    /// [`STILL`]; shorter in tests.
    still: Duration,
    /// [`PATIENCE`]; shorter in tests.
    patience: Duration,
    /// How often in a row the other jobs have not ended in time.
    in_vain: AtomicU32,
}

/// A turn to run alone. The other jobs go on when it is dropped, or when they have stood still for long enough.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    since: Instant,
    _one: OwnedSemaphorePermit,
}

impl Default for Turns {
    fn default() -> Self {
        Self::with(STILL, PATIENCE)
    }
}

impl Turns {
    fn with(still: Duration, patience: Duration) -> Self {
        Self {
            one: Arc::new(Semaphore::new(1)),
            is_wanted: AtomicBool::new(false),
            told: watch::Sender::new(false),
            still,
            patience,
            in_vain: AtomicU32::new(0),
        }
    }

    /// True if a job wants to run alone.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Acquire)
    }

    /// Waits until a job wants to run alone. Cancel safe.
    pub(crate) async fn wanted(&self) {
        // The sender lives as long as `self`.
        let _ = self.told.subscribe().wait_for(|is_wanted| *is_wanted).await;
    }

    /// Waits until the others may go on. Cancel safe.
    pub(crate) async fn over(&self) {
        let _ = self.told.subscribe().wait_for(|is_wanted| !*is_wanted).await;
    }

    /// Takes the turn, unless another job has it. From now on nothing is fetched.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Turn> {
        let one = self.one.clone().try_acquire_owned().ok()?;
        Some(self.begin(one))
    }

    /// Takes the turn, when no other job has it. Cancel safe.
    pub(crate) async fn take(self: &Arc<Self>) -> Turn {
        let one = self.one.clone().acquire_owned().await.expect("turns are never closed");
        self.begin(one)
    }

    fn begin(self: &Arc<Self>, one: OwnedSemaphorePermit) -> Turn {
        self.tell(true);
        Turn { turns: self.clone(), since: Instant::now(), _one: one }
    }

    fn tell(&self, is_wanted: bool) {
        self.is_wanted.store(is_wanted, Ordering::Release);
        self.told.send_replace(is_wanted);
    }

    /// How long to wait for the other jobs.
    fn patience(&self) -> Duration {
        self.patience * 2_u32.pow(self.in_vain.load(Ordering::Relaxed).min(DOUBLINGS))
    }
}

impl Turn {
    /// Waits until no more than `own` of `jobs` run, and returns true if that happened in time. After the last wait in vain it also
    /// returns true, and the job runs beside those that do not end. Cancel safe.
    pub(crate) async fn is_alone(&mut self, jobs: &TaskTracker, own: usize) -> bool {
        let all_ended = async {
            loop {
                // Rare enough to poll. The pause comes first, since a queue may just have taken one more.
                tokio::time::sleep(LOOK).await;
                if jobs.len() <= own {
                    break;
                }
            }
        };
        let is_alone = tokio::time::timeout(self.turns.patience(), all_ended).await.is_ok();
        let in_vain = &self.turns.in_vain;
        let is_last = !is_alone && in_vain.load(Ordering::Relaxed) >= DOUBLINGS;
        if is_alone || is_last {
            in_vain.store(0, Ordering::Relaxed);
            // From now on the others stand still for the job, and not for each other.
            self.since = Instant::now();
            return true;
        }
        in_vain.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// True if the other jobs have stood still for long enough.
    pub(crate) fn is_long(&self) -> bool {
        self.since.elapsed() >= self.turns.still
    }

    /// Runs a job alone. After a while the other jobs go on beside it.
    pub(crate) async fn during<T>(
        &self,
        mut job: std::pin::Pin<&mut (impl Future<Output = T> + ?Sized)>,
    ) -> T {
        tokio::select! {
            biased;
            ended = &mut job => return ended,
            () = tokio::time::sleep(self.turns.still.saturating_sub(self.since.elapsed())) => {}
        }
        self.turns.tell(false);
        job.await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.tell(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_stand_still_while_one_runs_alone_but_not_for_long() {
        let turns = Arc::new(Turns::with(Duration::from_millis(1), PATIENCE));
        let turn = turns.try_take().unwrap();
        assert!(turns.is_wanted() && turns.try_take().is_none());
        turns.wanted().await;

        // It ends when the others go on.
        turn.during(std::pin::pin!(turns.over())).await;

        assert!(turns.try_take().is_none(), "no other runs alone beside it");
        drop(turn);
        assert!(turns.try_take().is_some());
    }

    #[tokio::test]
    async fn what_does_not_end_is_waited_for_longer_each_time_and_not_for_ever() {
        let (turns, jobs) = (Arc::new(Turns::with(STILL, Duration::from_millis(15))), TaskTracker::new());
        let _endless = jobs.token();
        let mut turn = turns.try_take().unwrap();
        let mut patience = Vec::new();

        while !turn.is_alone(&jobs, 0).await {
            patience.push(turns.patience().as_millis());
        }

        assert_eq!(patience, [30, 60, 120, 240]);
        assert_eq!(turns.patience().as_millis(), 15, "the next one begins anew");
        assert!(turn.is_alone(&jobs, 1).await, "it is the one that runs");
    }
}
