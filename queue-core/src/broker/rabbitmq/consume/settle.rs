//! Settles deliveries: a retry or dead letter is published and confirmed before the original is acked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::ledger::Ledger;
use crate::broker::amqp::{Plan, check_publish};
use crate::broker::tries::Tries;
use crate::broker::{Publish, Settler};
use crate::envelope::Envelope;
use crate::error::{PublishError, SettleError};
use crate::settlement::Settlement;

/// How long the server may take to receive the ack of a message that was moved.
const ACKS_ARRIVE: Duration = Duration::from_secs(5);

/// Settles one delivery; gives it back if it is dropped unused.
pub(crate) struct Receipt {
    ledger: Arc<Ledger>,
    tag: u64,
    settled: bool,
    /// The copy that takes the message's place when it is given back; `None` where the server does not count that, or not
    /// often enough yet.
    anew: Option<Box<Publish>>,
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
    pub(crate) fn new(ledger: Arc<Ledger>, tag: u64) -> Self {
        Self { ledger, tag, settled: false, anew: None }
    }

    /// The settler of a message that was returned so often that its queue may drop it the next time: given back, it is
    /// published anew.
    pub(super) fn published_anew(mut self, copy: Publish) -> Self {
        self.anew = Some(Box::new(copy));
        self
    }

    fn ack(&mut self) -> Result<(), SettleError> {
        self.settled = true;
        let is_timed_out = self.is_timed_out();
        // Also where the server will hear nothing of it: the channel is closed when nothing is out any more.
        if self.ledger.ack(self.tag) && !is_timed_out { Ok(()) } else { Err(SettleError::Lost) }
    }

    fn is_timed_out(&self) -> bool {
        self.ledger.is_timed_out(self.tag)
    }

    /// Publishes the copy, then acks. What cannot be published goes back to the queue.
    async fn replace(mut self: Box<Self>, plan: Plan) -> Result<(), SettleError> {
        let mut tries = Tries::new();
        while let Err(error) = self.publish_copy_while_ours(&plan).await? {
            tracing::warn!(queue = %self.ledger.queue, %error, "the copy of a job was not confirmed");
            // Dropping the receipt gives the original back.
            tries.pause_after(error).await?;
        }
        self.ack().map_err(|_| SettleError::Unacked)
    }

    /// Publishes the copy, unless the original is lost, before or meanwhile: that will be delivered again, so a copy would
    /// be one too many. What is no longer waited for is not sent on the publisher's next connection.
    async fn publish_copy_while_ours(&self, plan: &Plan) -> Result<Result<(), PublishError>, SettleError> {
        if !self.ledger.is_open() || self.is_timed_out() {
            return Err(SettleError::Lost);
        }
        tokio::select! {
            biased;
            published = self.publish_copy(plan) => Ok(published),
            () = self.ledger.gone() => Err(SettleError::Lost),
        }
    }

    async fn publish_copy(&self, plan: &Plan) -> Result<(), PublishError> {
        let publishing = &self.ledger.publishing;
        match plan {
            Plan::Delay { copy, due } => {
                let delay = due.duration_since(publishing.settings.clock.now()).unwrap_or_default();
                publishing.publish_delayed(copy.clone(), self.ledger.queue.clone(), delay).await
            }
            Plan::Publish(copy) => {
                check_publish(copy)?;
                let since = Instant::now();
                match publishing.publisher.publish(copy.clone()).await {
                    Err(PublishError::Unroutable { .. })
                        if publishing.restorer.restore(&copy.route, since).await =>
                    {
                        publishing.publisher.publish(copy.clone()).await
                    }
                    published => published,
                }
            }
            Plan::Ack | Plan::Release | Plan::Drop { .. } => Ok(()),
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
        let now = || ledger.publishing.settings.clock.now();
        let is_move = matches!(settlement, Settlement::Move { .. });
        let plan = Plan::new(settlement, envelope, &ledger.queue, ledger.dead_letter.as_ref(), now);
        match &plan {
            Plan::Ack => self.ack(),
            Plan::Drop { .. } => self.ack().inspect(|()| plan.tell_loss(&ledger.queue)),
            Plan::Release => self.give_back().await,
            Plan::Delay { .. } | Plan::Publish(_) => {
                self.on_runtime(plan).await?;
                // The copy may end this process when it runs. An ack that has not arrived by then would leave the original.
                if is_move { acks_arrive(&ledger).await } else { Ok(()) }
            }
        }
    }

    fn is_lost(&self) -> bool {
        self.ledger.is_lost()
    }

    fn ack_may_be_lost(&self) -> bool {
        true
    }

    fn is_gone(&self) -> bool {
        !self.ledger.is_open() || self.is_timed_out()
    }
}

/// Returns when the server has the acks of a channel.
async fn acks_arrive(ledger: &Ledger) -> Result<(), SettleError> {
    match tokio::time::timeout(ACKS_ARRIVE, ledger.barrier(None, drop)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(SettleError::Unacked),
    }
}

impl Receipt {
    /// Replaces on the broker's runtime, so that a caller that is dropped half-way leaves no half settlement.
    async fn on_runtime(self: Box<Self>, plan: Plan) -> Result<(), SettleError> {
        let handle = self.ledger.tasks.handle().clone();
        match handle.spawn(self.replace(plan)).await {
            Ok(settled) => settled,
            Err(_) => Err(SettleError::Lost),
        }
    }
}

/// Giving back costs a message nothing, though RabbitMQ before 4.3 counts each return to a quorum queue: before there are too
/// many, a copy is published in its place, for which the server counts anew. It stands at the end of the queue, and its time
/// to live begins anew.
impl Receipt {
    async fn give_back(mut self: Box<Self>) -> Result<(), SettleError> {
        let Some(copy) = self.anew.take() else { return self.release() };
        let (tell, told) = oneshot::channel();
        let ledger = self.ledger.clone();
        ledger.publish_anew(async move {
            // The caller may no longer wait.
            let _ = tell.send(self.publish_anew(*copy).await);
        });
        told.await.unwrap_or(Err(SettleError::Lost))
    }

    fn release(&mut self) -> Result<(), SettleError> {
        self.settled = true;
        if self.ledger.release(self.tag) { Ok(()) } else { Err(SettleError::Lost) }
    }

    /// Publishes the copy, then acks. Where the copy is not confirmed, the original goes back after all, and is counted: it
    /// must not stay with a worker that stops.
    async fn publish_anew(mut self, copy: Publish) -> Result<(), SettleError> {
        let ledger = self.ledger.clone();
        // The server has it back already, so that a copy would be one too many.
        if !ledger.is_open() || self.is_timed_out() {
            self.settled = true;
            return Err(SettleError::Lost);
        }
        let publishing = &ledger.publishing;
        if !publishing.is_ready() || check_publish(&copy).is_err() {
            return self.release();
        }
        let published = tokio::select! {
            biased;
            published = publishing.publisher.publish(copy) => published,
            // It comes again by itself.
            () = ledger.gone() => return Err(SettleError::Lost),
        };
        match published {
            Ok(()) => self.ack(),
            Err(error) => {
                tracing::debug!(queue = %ledger.queue, %error, "a job that was given back could not be published anew");
                self.release()
            }
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        match self.anew.take() {
            Some(copy) if self.ledger.is_open() => {
                // If the publisher has ended, it is dropped and gives the original back.
                let receipt = Self::new(self.ledger.clone(), self.tag);
                self.ledger.publish_anew(async move {
                    let _ = receipt.publish_anew(*copy).await;
                });
            }
            _ => {
                self.ledger.release(self.tag);
            }
        }
    }
}
