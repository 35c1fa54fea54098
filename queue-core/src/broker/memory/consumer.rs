//! The consumers of all queues, and what must be dropped when the lock is free.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::ids::{ClientId, ConsumerId, QueueId};
use super::settler::Deliveries;
use crate::broker::{ConsumerHandle, Delivery};
use crate::topology::{Name, Route};

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) handle: ConsumerHandle,
    pub(super) client: ClientId,
    pub(super) queue_name: Name,
    /// `None` while the queue is deleted; the consumer goes on when it is declared again.
    pub(super) queue: Option<QueueId>,
    pub(super) prefetch: u32,
    /// Deliveries not yet settled, also those of a queue that has been deleted since.
    pub(super) in_flight: u32,
    /// True if it stands in its queue's line of consumers that can take one more.
    pub(super) is_in_turn: bool,
    pub(super) dead_letter: Option<Arc<Route>>,
}

impl Subscription {
    pub(super) fn has_room(&self) -> bool {
        self.in_flight < self.prefetch
    }
}

#[derive(Debug)]
pub(super) struct Consumers {
    pub(super) by_id: HashMap<ConsumerId, Subscription>,
    /// For the settlers of deliveries.
    pub(super) deliveries: Weak<dyn Deliveries>,
    /// The delivery tag given out last.
    pub(super) tags: u64,
    pub(super) losses: Arc<Losses>,
    pub(super) discarded: Discarded,
}

/// Counts how often deliveries were lost: with their client or with their queue. A delivery that is as old as the last
/// loss looks at the queue itself; the others are spared the lock.
#[derive(Debug, Default)]
pub(super) struct Losses(AtomicU64);

impl Losses {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Deliveries to drop after the lock has been released: a delivery that is dropped takes the lock to go back to
/// its queue.
#[derive(Debug, Default)]
pub(super) struct Discarded {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) handles: Vec<ConsumerHandle>,
}
