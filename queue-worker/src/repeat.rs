//! Recognises a delivery that this worker has had before. The broker delivers a job again when its settlement has not arrived:
//! the ack was lost with its connection, or the job still runs on a delivery that was lost. Neither needs to run twice here.
//! `process` asks before a job begins, and records each job that has ended.
//!
//! A worker remembers the errands of each queue separately, in this process only, and a bounded number of them; other workers run
//! such a job again.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use queue_core::broker::Delivery;
use queue_core::envelope::{Envelope, HeaderValue, JobId, header};
use queue_core::settlement::Settlement;

use crate::decide::Fate;

/// How long an errand is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);
/// How many errands are remembered: twice the number of deliveries that the broker can have under way to us, within these bounds.
const FEWEST: usize = 256;
const MOST: usize = 10_000;

/// Names one errand of a queue: a copy of a job, on one attempt. The id alone does not: it stays the same when a job is retried,
/// snoozed or replayed, and two jobs may have been given one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    attempt: Attempt,
    copy: u32,
}

/// One attempt of a job, of which there may be several copies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Attempt {
    id: JobId,
    number: u32,
    /// Tells jobs apart whose id a user has chosen.
    serial: Option<i64>,
    /// The moment of its last failure. A dead letter that another program puts back into the queue has the number of the copy that
    /// failed.
    failed_at: Option<i64>,
}

impl Key {
    /// The job's id.
    pub(crate) fn id(&self) -> &JobId {
        &self.attempt.id
    }

    /// The errand of a message. `None` where it cannot be told from another one: other programs may give one id to many messages.
    /// Ours have a generated id, or a serial number beside a chosen one, and count their copies.
    pub(crate) fn of(message: &Envelope) -> Option<Self> {
        let headers = &message.headers;
        if headers.get(header::NO_ID).is_some() || message.copy_number() == u32::MAX {
            return None;
        }
        let int = |name| headers.get(name).and_then(HeaderValue::as_int);
        let serial = int(header::SERIAL);
        if serial.is_none() && !message.id.is_generated() {
            return None;
        }
        let attempt = Attempt {
            id: message.id.clone(),
            number: message.attempt,
            serial,
            failed_at: int(header::FAILED_AT),
        };
        Some(Self { attempt, copy: message.copy_number() })
    }
}

/// The errands of one queue that this worker knows.
#[derive(Debug)]
pub(crate) struct Repeats {
    /// Errands that have ended and whose settlement may not have reached the broker; the latest last.
    ended: Mutex<VecDeque<Ended>>,
    /// The largest number of these.
    most: usize,
    /// Errands whose handlers wait for something, with the deliveries that have arrived again meanwhile.
    running: Mutex<HashMap<Attempt, Held>>,
}

/// The repeated deliveries of a copy that runs.
#[derive(Debug)]
struct Held {
    copy: u32,
    deliveries: Vec<Delivery>,
}

#[derive(Debug)]
struct Ended {
    key: Key,
    since: Instant,
    unheard: Unheard,
}

/// A settlement that has not reached the broker, or may not have: the broker delivers the job again, which need not run again.
#[derive(Debug)]
pub(crate) enum Unheard {
    /// The worker has reported it already. The next delivery only needs an ack.
    Told,
    /// The delivery was lost before it was settled. The next one is settled instead.
    Untold(Settlement, Fate),
}

/// The state of a repeated delivery's errand.
pub(crate) enum Met {
    /// It is new here, and must run.
    New(Delivery),
    /// It runs already. Its settlement will settle this delivery, too.
    Running,
    /// It has ended, and must be settled like this.
    Ended(Delivery, Unheard),
}

impl Repeats {
    /// For a queue with this many unsettled deliveries at most.
    pub(crate) fn new(prefetch: u16) -> Self {
        Self {
            ended: Mutex::default(),
            most: (2 * usize::from(prefetch)).clamp(FEWEST, MOST),
            running: Mutex::default(),
        }
    }

    /// Looks up the errand of a repeated delivery. Each ended errand is matched once.
    pub(crate) fn meet(&self, key: &Key, delivery: Delivery) -> Met {
        // Another worker may move a job that runs here, as a copy of the same errand.
        let is_moved = delivery.envelope.headers.get(header::CRASHES).is_some();
        if let Some(held) = self.running().get_mut(&key.attempt)
            && (held.copy == key.copy || is_moved)
        {
            held.deliveries.push(delivery);
            return Met::Running;
        }
        match self.take_ended(key) {
            Some(unheard) => Met::Ended(delivery, unheard),
            None => Met::New(delivery),
        }
    }

    /// Records an errand that has ended and whose settlement may not have reached the broker.
    pub(crate) fn note_ended(&self, key: Key, unheard: Unheard) {
        let mut ended = self.ended();
        ended.push_back(Ended { key, since: Instant::now(), unheard });
        if ended.len() > self.most {
            ended.pop_front();
        }
    }

    /// Removes the record of an errand that has ended.
    pub(crate) fn take_ended(&self, key: &Key) -> Option<Unheard> {
        let mut ended = self.ended();
        let at = ended.iter().rposition(|ended| ended.key == *key)?;
        let found = ended.remove(at)?;
        (found.since.elapsed() < REMEMBERED_FOR).then_some(found.unheard)
    }

    /// Begins to run an errand.
    pub(crate) fn begin(&self, key: Option<Key>) -> Running<'_> {
        Running { repeats: self, key, is_noted: AtomicBool::new(false) }
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Attempt, Held>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An errand that runs here. Dropped, it gives back the deliveries that it holds.
pub(crate) struct Running<'a> {
    repeats: &'a Repeats,
    key: Option<Key>,
    is_noted: AtomicBool,
}

impl Running<'_> {
    /// The errand, if it can be told from others.
    pub(crate) fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Holds repeated deliveries of this errand from the first poll on; never ends. A handler that finishes at once has ended before
    /// its job could be delivered again, and costs no lock.
    pub(crate) async fn note(&self) -> Infallible {
        if let Some(key) = &self.key {
            // Two messages may be one errand, where a publish was sent twice: then the first holds the repeated deliveries.
            if let Entry::Vacant(place) = self.repeats.running().entry(key.attempt.clone()) {
                place.insert(Held { copy: key.copy, deliveries: Vec::new() });
                self.is_noted.store(true, Ordering::Relaxed);
            }
        }
        std::future::pending().await
    }

    /// The latest delivery that arrived meanwhile and is still ours. More may arrive.
    pub(crate) fn take_latest(&self) -> Option<Delivery> {
        loop {
            // Dropped outside of the lock: giving one back takes the broker's lock.
            let latest = self.repeats.running().get_mut(&self.noted()?.attempt)?.deliveries.pop()?;
            if !latest.is_lost() {
                return Some(latest);
            }
        }
    }

    /// Like [`take_latest`](Self::take_latest); after `None`, no more deliveries are held.
    pub(crate) fn take_last(&self) -> Option<Delivery> {
        loop {
            if let Some(latest) = self.take_latest() {
                return Some(latest);
            }
            let mut running = self.repeats.running();
            let key = self.noted()?;
            if running.get(&key.attempt).is_none_or(|held| held.deliveries.is_empty()) {
                running.remove(&key.attempt);
                self.is_noted.store(false, Ordering::Relaxed);
                return None;
            }
        }
    }

    /// The key under which deliveries are held.
    fn noted(&self) -> Option<&Key> {
        self.key.as_ref().filter(|_| self.is_noted.load(Ordering::Relaxed))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if *self.is_noted.get_mut()
            && let Some(key) = &self.key
        {
            let held = self.repeats.running().remove(&key.attempt);
            drop(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use async_trait::async_trait;
    use queue_core::broker::Settler;
    use queue_core::error::SettleError;
    use queue_core::settlement::{Reason, ReasonKind, dead_copy};

    use super::*;

    #[derive(Debug)]
    struct Nowhere;

    #[async_trait]
    impl Settler for Nowhere {
        async fn settle(self: Box<Self>, _: Envelope, _: Settlement) -> Result<(), SettleError> {
            Ok(())
        }
    }

    fn again(message: &Envelope) -> Delivery {
        Delivery::new(message.clone(), "emails".into(), Box::new(Nowhere))
    }

    fn with(message: &Envelope, change: impl FnOnce(&mut Envelope)) -> Envelope {
        let mut changed = message.clone();
        change(&mut changed);
        changed
    }

    #[test]
    fn copies_attempts_and_jobs_of_one_id_are_different_errands() {
        let job = Envelope::new("{}");
        let chosen = with(&job, |job| job.id = "order-7".into());
        let numbered = |serial: i64| with(&chosen, |job| job.headers.insert(header::SERIAL, serial));
        let key = Key::of(&job);

        assert!(key.is_some());
        assert_eq!(key, Key::of(&job.clone()));
        assert_ne!(key, Key::of(&with(&job, |job| job.attempt = 2)));
        assert_ne!(key, Key::of(&with(&job, |job| job.headers.insert(header::COPY, 1_i64))));
        let letter = dead_copy(job.clone(), "emails", &Reason::new(ReasonKind::Failed, "no"), UNIX_EPOCH);
        assert_ne!(key, Key::of(&letter), "an operator may put it back by other means than a replay");
        assert_ne!(Key::of(&numbered(1)), Key::of(&numbered(2)));
        assert_eq!(Key::of(&numbered(1)), Key::of(&numbered(1)));
    }

    #[test]
    fn message_whose_id_may_be_that_of_another_is_no_errand() {
        let job = Envelope::new("{}");

        assert_eq!(Key::of(&with(&job, |job| job.id = "order-7".into())), None);
        for foreign in ["9f1c8a1e-6f0f-4c3e-9d5e-0d4b6a3f2c11", "01993c1f-93a0-7a3e-8d5e-0d4b6a3f2c11"] {
            assert_eq!(Key::of(&with(&job, |job| job.id = foreign.into())), None);
        }
        let endless = |job: &mut Envelope| job.headers.insert(header::COPY, i64::MAX);
        assert_eq!(Key::of(&with(&job, endless)), None, "its copies are not told apart");
        assert_eq!(Key::of(&with(&job, |job| job.headers.insert(header::NO_ID, true))), None);
    }

    #[test]
    fn ended_errand_is_known_once_and_the_oldest_is_forgotten() {
        let (repeats, job) = (Repeats::new(1), Envelope::new("{}"));
        let key = Key::of(&job).unwrap();
        let is_new = || matches!(repeats.meet(&key, again(&job)), Met::New(_));
        assert!(is_new());

        repeats.note_ended(key.clone(), Unheard::Told);
        assert!(matches!(repeats.meet(&key, again(&job)), Met::Ended(_, Unheard::Told)));
        assert!(is_new());

        repeats.note_ended(key.clone(), Unheard::Told);
        for _ in 0..FEWEST {
            repeats.note_ended(Key::of(&Envelope::new("{}")).unwrap(), Unheard::Told);
        }
        assert!(is_new());
    }

    #[test]
    fn running_errand_holds_what_comes_again_until_it_has_ended() {
        let (repeats, job) = (Repeats::new(1), Envelope::new("{}"));
        let key = Key::of(&job).unwrap();
        let running = repeats.begin(Some(key.clone()));
        let meet = || repeats.meet(&key, again(&job));
        assert!(matches!(meet(), Met::New(_)), "its handler has not waited yet");

        let mut note = Box::pin(running.note());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(note.as_mut().poll(&mut cx).is_pending());
        drop(note);
        assert!(matches!((meet(), meet()), (Met::Running, Met::Running)));

        assert!(running.take_latest().is_some() && running.take_latest().is_some());
        let copy = with(&job, |job| job.headers.insert(header::COPY, 1_i64));
        assert!(
            matches!(repeats.meet(&Key::of(&copy).unwrap(), again(&copy)), Met::New(_)),
            "a snooze, perhaps"
        );
        let moved = with(&copy, |job| job.headers.insert(header::CRASHES, 1_i64));
        assert!(matches!(repeats.meet(&Key::of(&moved).unwrap(), again(&moved)), Met::Running));
        assert!(running.take_latest().is_some());
        assert!(running.take_latest().is_none());
        assert!(matches!(meet(), Met::Running), "it has not ended");
        assert!(running.take_last().is_some());
        assert!(running.take_last().is_none());
        assert!(matches!(meet(), Met::New(_)));
    }
}
