//! Settles deliveries: a retry or dead letter is published and confirmed before the original is acked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions};
use tokio::sync::watch;

use super::Core;
use super::convert::short;
use super::session::State;
use crate::broker::amqp::check_publish;
use crate::broker::tries::Tries;
use crate::broker::{Publish, Settler};
use crate::envelope::Envelope;
use crate::error::{PublishError, SettleError};
use crate::settlement::{self, Reason, Settlement};
use crate::topology::{Name, Route};

/// When a retry is due whose time is beyond all time.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// One channel's deliveries. It dies with its session: a tag of an old channel is never sent on a new one, where it
/// would ack another message.
pub(super) struct Ledger {
    channel: Channel,
    /// Keeps the connection: a delivery outlives its consumer.
    _connection: watch::Receiver<State>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("channel", &self.channel.id()).finish()
    }
}

impl Ledger {
    pub(super) fn new(channel: Channel, connection: watch::Receiver<State>) -> Self {
        Self { channel, _connection: connection }
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Returns when the server has every settlement: it handles a channel's frames in their order, so that its answer
    /// to a question says that it has what came before.
    ///
    /// With a `queue`, returns when that has them as well. A channel has only so many settlements on their way to a
    /// quorum queue, stashes the others until it hears that those have arrived, and forgets them when it closes. The
    /// answer to a first `basic.get` comes after the arrival; that to a second one after the news of it; and the stash
    /// is sent before the next question is handled. What the queue hands over goes back.
    pub(super) async fn barrier(&self, queue: Option<&str>) -> lapin::Result<()> {
        for queue in [queue, queue].into_iter().flatten() {
            let got = self.channel.basic_get(short(queue), BasicGetOptions { no_ack: false }).await?;
            if let Some(message) = got {
                self.release(message.delivery.delivery_tag);
            }
        }
        self.channel.basic_qos(1, BasicQosOptions { global: false }).await
    }

    /// Whether the deliveries are still ours.
    fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// Queues an ack; `false` if the channel is gone. The first poll queues the frame, and to wait for it to be
    /// written would cost a wake each.
    fn ack(&self, tag: u64) -> bool {
        let sent = self.channel.basic_ack(tag, BasicAckOptions { multiple: false }).now_or_never();
        !matches!(sent, Some(Err(_)))
    }

    /// Gives a delivery back. By nack: a quorum queue of RabbitMQ 4.3 does not count it as a failed delivery.
    pub(super) fn release(&self, tag: u64) -> bool {
        let options = BasicNackOptions { multiple: false, requeue: true };
        !matches!(self.channel.basic_nack(tag, options).now_or_never(), Some(Err(_)))
    }
}

/// What settles one delivery; gives it back if it is dropped unused.
pub(super) struct Receipt {
    core: Arc<Core>,
    ledger: Arc<Ledger>,
    tag: u64,
    queue: Name,
    dead_letter: Option<Route>,
    settled: bool,
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("queue", &self.queue).field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl Receipt {
    pub(super) fn new(
        core: Arc<Core>,
        ledger: Arc<Ledger>,
        tag: u64,
        queue: Name,
        dead_letter: Option<Route>,
    ) -> Self {
        Self { core, ledger, tag, queue, dead_letter, settled: false }
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
        while let Err(error) = copy.publish(&self.core).await {
            tracing::warn!(queue = %self.queue, %error, "the copy of a job was not confirmed");
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
        let now = self.core.shared.settings.clock.now();
        match settlement {
            Settlement::Ack => self.ack(),
            Settlement::Release => {
                self.settled = true;
                if self.ledger.release(self.tag) { Ok(()) } else { Err(SettleError::Lost) }
            }
            Settlement::Retry { after, attempt, reason } => {
                let copy = settlement::retry_copy(envelope, attempt, &reason, now);
                let copy = Copy::Retry(copy, now.checked_add(after).unwrap_or(now + FAR), self.queue.clone());
                self.on_runtime(copy).await
            }
            Settlement::DeadLetter { reason } => match self.dead_letter.take() {
                Some(route) => {
                    let copy = settlement::dead_copy(envelope, &self.queue, &reason, now);
                    let publish = Publish { route, envelope: copy, mandatory: true, not_before: None };
                    self.on_runtime(Copy::Dead(publish)).await
                }
                None => {
                    lost(&self.queue, &envelope, &reason);
                    self.ack()
                }
            },
        }
    }
}

impl Receipt {
    /// Replaces on the broker's runtime, so that a caller that is dropped half-way leaves no half settlement.
    async fn on_runtime(self: Box<Self>, copy: Copy) -> Result<(), SettleError> {
        let handle = self.core.handle.clone();
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
