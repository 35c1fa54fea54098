//! Settles one delivery of the memory broker.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use async_trait::async_trait;

use super::ids::{ClientId, ConsumerId, QueueId};
use crate::broker::Settler;
use crate::broker::amqp::Plan;
use crate::broker::tries::Tries;
use crate::envelope::{Envelope, HeaderValue};
use crate::error::SettleError;
use crate::settlement::Settlement;
use crate::topology::Route;

/// A message that is out for delivery, and its holder.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub(super) client: ClientId,
    /// `None` if it was taken without a consumer.
    pub(super) consumer: Option<ConsumerId>,
    pub(super) queue: QueueId,
    pub(super) queue_name: Arc<str>,
    pub(super) tag: u64,
    pub(super) dead_letter: Option<Arc<Route>>,
    /// How many losses there had been when it was delivered.
    pub(super) losses: u64,
}

/// All that is out for delivery, as the settler of one delivery sees it. It takes the broker's lock.
pub(super) trait Deliveries: fmt::Debug + Send + Sync {
    /// The broker's time.
    fn now(&self) -> SystemTime;
    /// Carries a settlement out.
    fn settle(&self, ticket: &Ticket, plan: &Plan) -> Result<(), SettleError>;
    /// Writes a header into the message of a delivery.
    fn mark(&self, ticket: &Ticket, name: &str, value: &HeaderValue) -> Result<(), SettleError>;
    /// True if neither the delivery's queue nor its client has gone.
    fn holds(&self, ticket: &Ticket) -> bool;
    /// Puts a delivery back into its queue.
    fn give_back(&self, ticket: &Ticket);
}

impl Ticket {
    pub(super) fn settler(self, deliveries: &Weak<dyn Deliveries>) -> Box<MemorySettler> {
        Box::new(MemorySettler { deliveries: deliveries.clone(), ticket: Some(self) })
    }
}

#[derive(Debug)]
pub(super) struct MemorySettler {
    /// Weak, so that a forgotten delivery does not keep a broker's messages.
    deliveries: Weak<dyn Deliveries>,
    /// Taken when it is settled.
    ticket: Option<Ticket>,
}

#[async_trait]
impl Settler for MemorySettler {
    async fn settle(
        mut self: Box<Self>,
        envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), SettleError> {
        let (Some(ticket), mut deliveries) = (&self.ticket, self.deliveries.upgrade()) else {
            return Err(SettleError::Lost);
        };
        let now = || deliveries.as_ref().map_or_else(SystemTime::now, |deliveries| deliveries.now());
        let plan = Plan::new(settlement, envelope, &ticket.queue_name, ticket.dead_letter.as_deref(), now);
        let mut tries = Tries::new();
        loop {
            let (Some(ticket), Some(open)) = (&self.ticket, deliveries.take()) else {
                return Err(SettleError::Lost);
            };
            let error = match open.settle(ticket, &plan) {
                Err(SettleError::Republish(error)) => error,
                settled => {
                    if settled.is_ok() {
                        plan.tell_loss(&ticket.queue_name);
                    }
                    self.ticket = None;
                    return settled;
                }
            };
            // Dropping the ticket gives the original back.
            drop(open);
            tries.pause_after(error).await?;
            deliveries = self.deliveries.upgrade();
        }
    }

    async fn mark(&mut self, name: &str, value: &HeaderValue) -> Result<bool, SettleError> {
        let (Some(ticket), Some(deliveries)) = (&self.ticket, self.deliveries.upgrade()) else {
            return Err(SettleError::Lost);
        };
        deliveries.mark(ticket, name, value).map(|()| true)
    }

    fn is_lost(&self) -> bool {
        let (Some(ticket), Some(deliveries)) = (&self.ticket, self.deliveries.upgrade()) else { return true };
        !deliveries.holds(ticket)
    }
}

impl Drop for MemorySettler {
    fn drop(&mut self) {
        if let (Some(ticket), Some(deliveries)) = (self.ticket.take(), self.deliveries.upgrade()) {
            deliveries.give_back(&ticket);
        }
    }
}
