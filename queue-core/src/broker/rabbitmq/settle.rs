//! Settles deliveries: a retry or dead letter is published and confirmed before the original is acked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Core;
use super::ledger::Ledger;
use crate::broker::amqp::check_publish;
use crate::broker::tries::Tries;
use crate::broker::{Publish, Settler};
use crate::envelope::Envelope;
use crate::error::{PublishError, SettleError};
use crate::settlement::{self, Reason, Settlement};
use crate::topology::Name;

/// When a retry is due whose time is beyond all time.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What settles one delivery; gives it back if it is dropped unused.
pub(super) struct Receipt {
    ledger: Arc<Ledger>,
    tag: u64,
    settled: bool,
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("queue", &self.ledger.queue)
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

impl Receipt {
    pub(super) fn new(ledger: Arc<Ledger>, tag: u64) -> Self {
        Self { ledger, tag, settled: false }
    }

    fn ack(&mut self) -> Result<(), SettleError> {
        self.settled = true;
        if self.ledger.ack(self.tag) { Ok(()) } else { Err(SettleError::Lost) }
    }

    /// Publishes the copy, then acks. What cannot be published goes back to the queue.
    async fn replace(mut self: Box<Self>, copy: Copy) -> Result<(), SettleError> {
        // The job will be delivered again, so a copy would be one too many.
        if !self.ledger.is_open() {
            return Err(SettleError::Lost);
        }
        let mut tries = Tries::new();
        while let Err(error) = copy.publish(&self.ledger.core).await {
            tracing::warn!(queue = %self.ledger.queue, %error, "the copy of a job was not confirmed");
            // Dropping the receipt gives the original back.
            let pause = tries.pause_after(&error).ok_or(SettleError::Republish(error))?;
            tokio::time::sleep(pause).await;
        }
        self.ack()
    }
}

/// What takes the original's place.
enum Copy {
    Retry(Envelope, std::time::SystemTime, Name),
    Dead(Publish),
}

impl Copy {
    async fn publish(&self, core: &Arc<Core>) -> Result<(), PublishError> {
        match self {
            Self::Retry(envelope, eta, queue) => {
                core.publish_delayed(envelope.clone(), queue.clone(), *eta).await
            }
            Self::Dead(publish) => {
                check_publish(publish)?;
                core.publisher.publish(publish.clone()).await
            }
        }
    }
}

#[async_trait]
impl Settler for Receipt {
    async fn settle(
        mut self: Box<Self>,
        envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), SettleError> {
        let ledger = self.ledger.clone();
        let now = || ledger.core.shared.settings.clock.now();
        match settlement {
            Settlement::Ack => self.ack(),
            Settlement::Release => {
                self.settled = true;
                if self.ledger.release(self.tag) { Ok(()) } else { Err(SettleError::Lost) }
            }
            Settlement::Retry { after, attempt, reason } => {
                let now = now();
                let copy = settlement::retry_copy(envelope, attempt, &reason, now);
                let eta = now.checked_add(after).unwrap_or(now + FAR);
                let copy = Copy::Retry(copy, eta, ledger.queue.clone());
                self.on_runtime(copy).await
            }
            Settlement::DeadLetter { reason } => match ledger.dead_letter.clone() {
                Some(route) => {
                    let copy = settlement::dead_copy(envelope, &ledger.queue, &reason, now());
                    let publish = Publish { route, envelope: copy, mandatory: true, not_before: None };
                    self.on_runtime(Copy::Dead(publish)).await
                }
                None => {
                    lost(&ledger.queue, &envelope, &reason);
                    self.ack()
                }
            },
        }
    }
}

impl Receipt {
    /// Replaces on the broker's runtime, so that a caller that is dropped half-way leaves no half settlement.
    async fn on_runtime(self: Box<Self>, copy: Copy) -> Result<(), SettleError> {
        let handle = self.ledger.core.handle.clone();
        match handle.spawn(self.replace(copy)).await {
            Ok(settled) => settled,
            Err(_) => Err(SettleError::Lost),
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.settled {
            self.ledger.release(self.tag);
        }
    }
}

/// Says what is dropped for good, because its queue has no dead letters.
fn lost(queue: &str, envelope: &Envelope, reason: &Reason) {
    tracing::error!(queue, job = %envelope.id, task = envelope.task, %reason, "a failed job is dropped: its queue has no dead letters");
}
