//! A message in a worker's hands, and its settlement.

use std::fmt;

use async_trait::async_trait;

use crate::envelope::{Envelope, HeaderValue, header};
use crate::error::SettleError;
use crate::settlement::{Settlement, note_route};
use crate::topology::Name;

/// The broker's account of a message's earlier holders. A copy is a message of its own, with none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Returns {
    /// The message has had no holder.
    #[default]
    Never,
    /// It has come back. So many of its holders were lost with it: their process ended, or their connection. What was given back
    /// in order counts only where the broker cannot tell it from that.
    Counted(u64),
    /// It has come back, and the broker counts nothing.
    Uncounted,
}

/// An envelope handed to a worker and not yet settled. Dropped without a settlement, it is released.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// The job.
    pub envelope: Envelope,
    /// The queue it came from.
    pub queue: Name,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// True if it has been delivered before and not settled.
    pub redelivered: bool,
    /// The broker's account of the message's earlier holders.
    pub returns: Returns,
    settler: Box<dyn Settler>,
}

impl Delivery {
    /// A delivery that `settler` settles.
    pub fn new(mut envelope: Envelope, queue: Name, settler: Box<dyn Settler>) -> Self {
        // Some AMQP clients write the property `type` always, and leave it empty.
        envelope.task = envelope.task.filter(|task| !task.is_empty());
        let routing_key = String::new();
        let (exchange, returns) = (String::new(), Returns::Never);
        Self { envelope, queue, exchange, routing_key, redelivered: false, returns, settler }
    }

    /// Carries the settlement out. When it returns `Ok`, a retry or dead letter is confirmed by the broker, and
    /// only then was the original acked.
    ///
    /// Not cancel safe: a dropped future leaves the delivery released or settled, whichever came first.
    ///
    /// # Errors
    /// If it did not reach the broker; the broker then delivers the job again.
    pub async fn settle(mut self, settlement: Settlement) -> Result<(), SettleError> {
        if matches!(settlement, Settlement::Move { .. }) {
            note_route(&mut self.envelope, &self.exchange, &self.routing_key);
        }
        self.settler.settle(self.envelope, settlement).await
    }

    /// Writes a header into the message where the broker keeps it, so that the next holder, after this one was lost, finds it
    /// there. The envelope has it from now on, too. Returns `false` where a broker cannot do that.
    ///
    /// # Errors
    /// If the delivery is lost.
    pub async fn mark(&mut self, name: &str, value: HeaderValue) -> Result<bool, SettleError> {
        let is_kept = self.settler.mark(name, &value).await?;
        if is_kept {
            self.envelope.headers.insert(name, value);
        }
        Ok(is_kept)
    }

    /// True if the broker has taken the delivery back, or is about to: its connection or channel is lost, its queue is
    /// deleted, the client is closed, or another program has taken the job over. The broker delivers the job again, so
    /// a job that has not begun must not begin: drop the delivery instead.
    ///
    /// Neither waits nor asks a server, so `false` is no promise.
    ///
    /// ```
    /// use queue_core::broker::{ConsumeOptions, Publish};
    /// use queue_core::client::Client;
    /// use queue_core::envelope::Envelope;
    /// use queue_core::topology::{QueueDecl, Topology};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::connect("memory:").await?;
    /// client.declare(&Topology::new().queue(QueueDecl::new("emails"))).await?;
    /// client.broker().publish(Publish::to_queue("emails", Envelope::new("{}"))).await?;
    /// let mut consumer = client.broker().consume(ConsumeOptions::new("emails")).await?;
    /// let delivery = consumer.next().await.expect("the client is open")?;
    /// assert!(!delivery.is_lost());
    ///
    /// client.close().await;
    /// assert!(delivery.is_lost());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.settler.is_lost()
    }

    /// True if a settlement that was `Ok` may not reach the broker: AMQP does not confirm acks, and an ack that is under way
    /// when the connection breaks is lost. The broker then delivers the job again.
    #[must_use]
    pub fn ack_may_be_lost(&self) -> bool {
        self.settler.ack_may_be_lost()
    }

    /// Reads what AMQP's own fields no longer say of a copy that took the place of a message that was given back or moved.
    #[cfg_attr(
        not(any(feature = "memory", feature = "rabbitmq", feature = "sqlite-system")),
        allow(dead_code, reason = "only brokers deliver")
    )]
    pub(crate) fn restore_origin(&mut self) {
        let headers = &self.envelope.headers;
        if headers.get(header::REDELIVERED).is_none() {
            return;
        }
        self.redelivered = true;
        let text = |name: &str| headers.get(name).and_then(|value| value.as_str().map(str::to_owned));
        if let (Some(exchange), Some(routing_key)) = (text(header::EXCHANGE), text(header::ROUTING_KEY)) {
            self.exchange = exchange;
            self.routing_key = routing_key;
        }
    }

    /// True if the broker has taken the delivery back, so that settling it does nothing.
    #[cfg(feature = "rabbitmq")]
    pub(crate) fn is_gone(&self) -> bool {
        self.settler.is_gone()
    }
}

/// Settles one delivery. Dropped without a call, it gives the delivery back to its queue; do that for a [`Settlement`] that you
/// do not know, since later versions have more of them.
#[async_trait]
pub trait Settler: fmt::Debug + Send + Sync {
    /// See [`Delivery::settle`].
    async fn settle(self: Box<Self>, envelope: Envelope, settlement: Settlement) -> Result<(), SettleError>;

    /// See [`Delivery::mark`]. The default cannot.
    async fn mark(&mut self, _name: &str, _value: &HeaderValue) -> Result<bool, SettleError> {
        Ok(false)
    }

    /// See [`Delivery::is_lost`]. Asked before each job, so it must be as fast as reading an atomic.
    fn is_lost(&self) -> bool {
        false
    }

    /// See [`Delivery::ack_may_be_lost`].
    fn ack_may_be_lost(&self) -> bool {
        false
    }

    /// True if a settlement would come too late even for a job that runs: the broker delivers it again. A delivery may be
    /// [lost](Self::is_lost) before that, where only what has not begun goes back. Only RabbitMQ's own router asks.
    #[doc(hidden)]
    fn is_gone(&self) -> bool {
        self.is_lost()
    }
}
