//! For how long this client's claims surely hold. Written by the writer after each commit; read by deliveries, which
//! cannot wait for the writer before their job begins.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ids::{ClientId, QueueId};

/// The number of a client that has left the file: none has it.
const LEFT: ClientId = -1;

#[derive(Debug)]
pub(super) struct Tenure {
    /// The number under which the client stands in the file.
    client: AtomicI64,
    /// When the others may take the client for dead, unless it gives a beat before: milliseconds after `epoch`.
    until: AtomicU64,
    epoch: Instant,
    /// True if `gone` holds any.
    is_any_gone: AtomicBool,
    /// Queues that were deleted while this client consumed them.
    gone: Mutex<HashSet<QueueId>>,
}

impl Default for Tenure {
    fn default() -> Self {
        Self {
            client: AtomicI64::new(0),
            until: AtomicU64::new(0),
            epoch: Instant::now(),
            is_any_gone: AtomicBool::new(false),
            gone: Mutex::default(),
        }
    }
}

impl Tenure {
    /// The client gave a beat, after which the others wait for so long.
    pub(super) fn renew(&self, client: ClientId, beat: Instant, patience: Duration) {
        let until = beat.saturating_duration_since(self.epoch).saturating_add(patience);
        self.until.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
        // What the writer still commits for a client that leaves does not bring it back.
        let stays = |present| (present != LEFT).then_some(client);
        let _ = self.client.fetch_update(Ordering::AcqRel, Ordering::Acquire, stays);
    }

    /// The number of the client, unless it has left the file.
    pub(super) fn client(&self) -> Option<ClientId> {
        Some(self.client.load(Ordering::Acquire)).filter(|client| *client != LEFT)
    }

    /// The client leaves the file.
    pub(super) fn end(&self) {
        self.client.store(LEFT, Ordering::Release);
    }

    /// These queues are deleted, with all that is claimed of them.
    pub(super) fn lose(&self, queues: impl IntoIterator<Item = QueueId>) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.extend(queues);
        self.is_any_gone.store(!gone.is_empty(), Ordering::Release);
    }

    /// True if a job that `client` has claimed of `queue` is still its own. When in doubt, it is not.
    pub(super) fn holds(&self, client: ClientId, queue: QueueId) -> bool {
        self.client.load(Ordering::Acquire) == client
            && self.epoch.elapsed() < Duration::from_millis(self.until.load(Ordering::Acquire))
            && !(self.is_any_gone.load(Ordering::Acquire)
                && self.gone.lock().unwrap_or_else(PoisonError::into_inner).contains(&queue))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn claims_hold_until_the_others_may_take_the_client_for_dead() {
        let tenure = Tenure::default();
        assert!(!tenure.holds(1, 7), "it is not registered");

        tenure.renew(1, Instant::now(), LONG);
        assert!(tenure.holds(1, 7));
        assert!(!tenure.holds(2, 7), "another client's");

        tenure.renew(1, Instant::now(), Duration::ZERO);
        assert!(!tenure.holds(1, 7), "nobody knows");

        tenure.renew(3, Instant::now(), LONG);
        assert!(!tenure.holds(1, 7), "it began anew under another number");
    }

    #[test]
    fn claims_end_with_their_queue_and_with_their_client() {
        let tenure = Tenure::default();
        tenure.renew(1, Instant::now(), LONG);

        tenure.lose([7]);
        assert!(!tenure.holds(1, 7));
        assert!(tenure.holds(1, 8));

        tenure.end();
        assert!(!tenure.holds(1, 8));
        tenure.renew(1, Instant::now(), LONG);
        assert!(!tenure.holds(1, 8), "the writer is at its last words");
    }
}
