//! Counts the work of a worker. `fetch` and `settle` count deliveries, for `idle`; `execute` records running jobs, for the registry
//! by `run`.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use queue_core::envelope::{Envelope, JobId};
use queue_core::settlement::Settlement;
use queue_core::store::{Member, RunningJob};
use queue_core::topology::Name;
use tokio::sync::Notify;

/// How late a copy may be before another worker must have taken it.
const LATE: Duration = Duration::from_secs(10);

/// Names a copy: queue, id, attempt and its number. An event has the same id in every queue. There may be several,
/// since two jobs may have been given one id.
type Copy = (Name, JobId, u32, u32);

/// A copy that a settlement schedules, and how long it waits.
#[derive(Debug)]
pub(crate) struct Scheduled {
    copy: Copy,
    after: Duration,
}

/// The work of a worker. Costs nothing unless [`watch`](Self::watch)ed or [shown](Self::show).
#[derive(Debug, Default)]
pub(crate) struct Activity {
    is_watched: AtomicBool,
    /// True if a registry shows the running jobs.
    is_shown: AtomicBool,
    running: Mutex<Running>,
    began: AtomicU64,
    ended: AtomicU64,
    /// Retries and snoozed jobs that this worker scheduled and that have not come back, with the moment at which each is given up.
    scheduled: Mutex<HashMap<Copy, Vec<Instant>>>,
    changed: Notify,
}

/// The jobs whose handlers wait for something, in the order in which they began to wait.
#[derive(Debug, Default)]
struct Running {
    jobs: BTreeMap<u64, RunningJob>,
    last: u64,
}

/// Removes a job from the shown ones when it is dropped.
struct Shown<'a> {
    activity: &'a Activity,
    number: u64,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.activity.running().jobs.remove(&self.number);
    }
}

/// Says when it is dropped that a job has ended.
pub(crate) struct Settling<'a>(Option<&'a Activity>);

impl Settling<'_> {
    /// As [`Activity::ended`].
    pub(crate) fn ended(mut self, scheduled: Option<Scheduled>) {
        if let Some(activity) = self.0.take() {
            activity.ended(scheduled);
        }
    }
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        if let Some(activity) = self.0 {
            activity.ended(None);
        }
    }
}

impl Activity {
    /// Shows running jobs from now on.
    pub(crate) fn show(&self) {
        self.is_shown.store(true, Ordering::Relaxed);
    }

    /// Shows a job while this is awaited, which never ends. Begins when it is first polled: a handler that finishes at once is
    /// not worth a lock. One that waits has taken one for its timeout and its worker's end already.
    pub(crate) async fn showing(&self, job: impl FnOnce() -> RunningJob) -> Infallible {
        let _shown = self.is_shown.load(Ordering::Relaxed).then(|| {
            let job = job();
            let mut running = self.running();
            running.last += 1;
            let number = running.last;
            running.jobs.insert(number, job);
            Shown { activity: self, number }
        });
        std::future::pending().await
    }

    /// The jobs that have been shown for longest, the oldest first.
    pub(crate) fn shown(&self) -> Vec<RunningJob> {
        self.running().jobs.values().take(Member::MOST_SHOWN).cloned().collect()
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn watch(&self) {
        self.is_watched.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Counts a delivery of this queue that the worker has taken.
    pub(crate) fn began(&self, queue: &Name, envelope: &Envelope) {
        if self.is_watched() {
            self.began.fetch_add(1, Ordering::SeqCst);
            let copy = (queue.clone(), envelope.id.clone(), envelope.attempt, envelope.copy_number());
            if let Some(outstanding) = self.scheduled().get_mut(&copy) {
                outstanding.pop();
            }
        }
    }

    /// The copy that comes back after this settlement; `None` if there is none, or the worker is not watched.
    pub(crate) fn schedules(
        &self,
        queue: &Name,
        envelope: &Envelope,
        settlement: &Settlement,
        now: impl FnOnce() -> SystemTime,
    ) -> Option<Scheduled> {
        if !self.is_watched() {
            return None;
        }
        let (attempt, after) = match settlement {
            Settlement::Retry { after, attempt, .. } => (*attempt, *after),
            Settlement::Snooze { until } => {
                (envelope.attempt, until.duration_since(now()).unwrap_or_default())
            }
            _ => return None,
        };
        let number = envelope.copy_number().saturating_add(1);
        Some(Scheduled { copy: (queue.clone(), envelope.id.clone(), attempt, number), after })
    }

    /// Counts a settled delivery, and the copy that will come back if one was scheduled.
    pub(crate) fn ended(&self, scheduled: Option<Scheduled>) {
        if self.is_watched() {
            if let Some(Scheduled { copy, after }) = scheduled
                && let Some(until) = Instant::now().checked_add(after.saturating_add(LATE))
            {
                self.scheduled().entry(copy).or_default().push(until);
            }
            self.ended.fetch_add(1, Ordering::SeqCst);
            self.changed.notify_one();
        }
    }

    /// A settlement under way. Where it is cut off by a time limit, the job counts as ended all the same.
    pub(crate) fn settling(&self) -> Settling<'_> {
        Settling(Some(self))
    }

    /// Waits until a job has ended. Cancel safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn scheduled(&self) -> MutexGuard<'_, HashMap<Copy, Vec<Instant>>> {
        self.scheduled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Two equal answers mean that nothing began or ended in between.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.began.load(Ordering::SeqCst), self.ended.load(Ordering::SeqCst))
    }

    /// True if a retry or a snoozed job has yet to come back.
    pub(crate) fn awaits_copies(&self) -> bool {
        let mut scheduled = self.scheduled();
        let now = Instant::now();
        scheduled.retain(|_, outstanding| {
            outstanding.retain(|until| *until > now);
            !outstanding.is_empty()
        });
        !scheduled.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use queue_core::envelope::header;
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

    fn copy(of: &Envelope, attempt: u32, number: u32) -> Envelope {
        let mut again = of.clone();
        again.attempt = attempt;
        again.headers.insert(header::COPY, number);
        again
    }

    fn settled(activity: &Activity, queue: &Name, job: &Envelope, settlement: &Settlement) {
        activity.ended(activity.schedules(queue, job, settlement, || UNIX_EPOCH));
    }

    #[test]
    fn job_whose_settlement_is_cut_off_has_ended_once() {
        let (activity, job) = (watched(), Envelope::new("{}"));

        activity.began(&QUEUE, &job);
        drop(activity.settling());
        activity.began(&QUEUE, &job);
        activity.settling().ended(None);

        assert_eq!(activity.counts(), (2, 2));
    }

    #[test]
    fn retry_of_an_event_is_awaited_though_another_queue_has_its_own_copy() {
        let (activity, event) = (watched(), Envelope::new("{}"));
        activity.began(&QUEUE, &event);
        settled(&activity, &QUEUE, &event, &retry(2));
        activity.began(&OTHER, &event);
        settled(&activity, &OTHER, &event, &Settlement::Ack);

        assert!(activity.awaits_copies());
        activity.began(&QUEUE, &copy(&event, 2, 1));
        assert!(!activity.awaits_copies());
    }

    #[test]
    fn job_is_shown_while_its_handler_waits_and_where_somebody_looks() {
        let activity = Activity::default();
        let job = |id: &str| RunningJob::new(id.into(), "task", QUEUE, std::time::UNIX_EPOCH);
        let wait = |id: &'static str| {
            let mut waiting = Box::pin(activity.showing(move || job(id)));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
            waiting
        };
        let ids = || activity.shown().iter().map(|job| job.id.to_string()).collect::<Vec<_>>();

        let unseen = wait("unseen");
        activity.show();
        let first = wait("first");
        let many: Vec<_> = (0..Member::MOST_SHOWN).map(|_| wait("later")).collect();

        assert_eq!((&*ids()[0], ids().len()), ("first", Member::MOST_SHOWN));
        drop(first);
        assert!(!ids().contains(&"first".to_owned()));
        drop((unseen, many));
        assert!(ids().is_empty());
    }

    #[test]
    fn retries_of_two_jobs_with_one_id_are_both_awaited() {
        let (activity, job) = (watched(), Envelope::new("{}"));
        for _ in 0..2 {
            activity.began(&QUEUE, &job);
            settled(&activity, &QUEUE, &job, &retry(2));
        }

        activity.began(&QUEUE, &copy(&job, 2, 1));
        assert!(activity.awaits_copies());
        activity.began(&QUEUE, &copy(&job, 2, 1));
        assert!(!activity.awaits_copies());
    }

    /// It comes back under the same id and attempt, and so does a job of the same id that was never snoozed.
    #[test]
    fn snoozed_job_is_awaited_though_its_namesake_comes_first() {
        let (activity, job) = (watched(), Envelope::new("{}"));
        let snooze = Settlement::Snooze { until: UNIX_EPOCH + Duration::from_secs(1) };
        activity.began(&QUEUE, &job);
        settled(&activity, &QUEUE, &job, &snooze);
        activity.began(&QUEUE, &job);

        assert!(activity.awaits_copies());
        activity.began(&QUEUE, &copy(&job, 1, 1));
        assert!(!activity.awaits_copies());
    }
}
