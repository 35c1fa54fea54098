//! Settles one delivery of the memory broker.

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use async_trait::async_trait;

use super::consumer::{ClientId, ConsumerId};
use super::queue::QueueId;
use super::shared::Shared;
use crate::broker::Settler;
use crate::broker::amqp::Plan;
use crate::broker::tries::Tries;
use crate::envelope::Envelope;
use crate::error::SettleError;
use crate::settlement::Settlement;
use crate::topology::Route;

/// Which message is out for delivery, and to whom.
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

impl Ticket {
    pub(super) fn settler(self, shared: &Weak<Shared>) -> Box<MemorySettler> {
        Box::new(MemorySettler { shared: shared.clone(), ticket: Some(self) })
    }
}

#[derive(Debug)]
pub(super) struct MemorySettler {
    /// Weak, so that a delivery somebody forgot does not keep a broker's messages.
    shared: Weak<Shared>,
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
        let (Some(ticket), mut shared) = (&self.ticket, self.shared.upgrade()) else {
            return Err(SettleError::Lost);
        };
        let now = || shared.as_ref().map_or_else(SystemTime::now, |shared| shared.clock().now());
        let plan = Plan::new(settlement, envelope, &ticket.queue_name, ticket.dead_letter.as_deref(), now);
        let mut tries = Tries::new();
        loop {
            let (Some(ticket), Some(open)) = (&self.ticket, shared.take()) else {
                return Err(SettleError::Lost);
            };
            let error = match open.with(|state| state.settle(ticket, &plan)) {
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
            shared = self.shared.upgrade();
        }
    }

    fn is_lost(&self) -> bool {
        let (Some(ticket), Some(shared)) = (&self.ticket, self.shared.upgrade()) else { return true };
        shared.losses().count() != ticket.losses && !shared.look(|state| state.is_held(ticket))
    }
}

impl Drop for MemorySettler {
    fn drop(&mut self) {
        if let (Some(ticket), Some(shared)) = (self.ticket.take(), self.shared.upgrade()) {
            shared.with(|state| state.give_back(&ticket));
        }
    }
}
