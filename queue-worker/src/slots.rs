//! Limits how many jobs of a queue run at once. A job takes a slot, and keeps it until its function has returned, which may be
//! long after its timeout. Taken by `fetch`, kept by the job's `Context`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore};

/// The slots of one queue, and the number of its deliveries in hand.
#[derive(Debug)]
pub(crate) struct Slots {
    /// As many permits as jobs may still begin.
    free: Semaphore,
    total: u16,
    /// The number of taken slots. The semaphore does not know it: it hands a released permit straight to the next waiter.
    taken: AtomicUsize,
    /// The number of deliveries that are taken and not settled.
    in_hand: AtomicUsize,
    /// Told when there is none.
    none_in_hand: Notify,
}

/// The right to run one job. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

/// A delivery that is not settled, until this is dropped.
#[derive(Debug)]
pub(crate) struct InHand(Arc<Slots>);

impl Slots {
    pub(crate) fn new(total: u16) -> Arc<Self> {
        Arc::new(Self {
            free: Semaphore::new(total.into()),
            total,
            taken: AtomicUsize::new(0),
            in_hand: AtomicUsize::new(0),
            none_in_hand: Notify::new(),
        })
    }

    /// Waits for a free slot. Cancel safe.
    pub(crate) async fn take(self: &Arc<Self>) -> Slot {
        self.free.acquire().await.expect("slots are never closed").forget();
        self.taken.fetch_add(1, Ordering::SeqCst);
        Slot(Arc::clone(self))
    }

    /// Waits until functions that go on after their timeout hold all slots. A delivery that arrives then could not run here, and
    /// would not reach another worker. Cancel safe.
    pub(crate) async fn clogged(&self) {
        loop {
            let none_in_hand = self.none_in_hand.notified();
            // In this order: a job gives its slot back before it is in hand no more.
            if self.in_hand.load(Ordering::SeqCst) == 0 && self.taken() == usize::from(self.total) {
                return;
            }
            none_in_hand.await;
        }
    }

    /// Counts a delivery that is taken.
    pub(crate) fn take_in_hand(self: &Arc<Self>) -> InHand {
        self.in_hand.fetch_add(1, Ordering::SeqCst);
        InHand(Arc::clone(self))
    }

    /// Waits until no job runs: not even a blocking function that has outlived its timeout. Only after fetching
    /// has ended.
    pub(crate) async fn all_free(&self) {
        let _ = self.free.acquire_many(self.total.into()).await.expect("slots are never closed");
    }

    /// The number of slots.
    pub(crate) fn total(&self) -> u16 {
        self.total
    }

    /// The number of taken slots.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Before the next waiter takes it.
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
        self.0.free.add_permits(1);
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if self.0.in_hand.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.none_in_hand.notify_one();
        }
    }
}
