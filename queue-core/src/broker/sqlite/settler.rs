//! Settles one delivery, by asking the writer.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};

use async_trait::async_trait;

use super::command::{Command, Reply, Ticket};
use super::tenure::Tenure;
use crate::broker::Settler;
use crate::broker::amqp::Plan;
use crate::broker::tries::{Tries, is_refusal};
use crate::clock::Clock;
use crate::envelope::{Envelope, HeaderValue};
use crate::error::SettleError;
use crate::settlement::Settlement;

/// Settles one delivery of the SQLite broker, by asking its writer.
#[derive(Debug)]
pub(super) struct SqliteSettler {
    /// Weak, so that a forgotten delivery does not keep the file open.
    pub(super) writer: Weak<Sender<Command>>,
    /// Taken when it is settled.
    pub(super) ticket: Option<Ticket>,
    pub(super) clock: Clock,
    pub(super) tenure: Arc<Tenure>,
}

impl SqliteSettler {
    /// The same for this delivery.
    pub(super) fn with(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }

    fn send(&self, command: Command) -> bool {
        self.writer.upgrade().is_some_and(|writer| writer.send(command).is_ok())
    }
}

#[async_trait]
impl Settler for SqliteSettler {
    async fn settle(
        mut self: Box<Self>,
        envelope: Envelope,
        settlement: Settlement,
    ) -> Result<(), SettleError> {
        let Some(ticket) = &self.ticket else { return Err(SettleError::Lost) };
        let (queue, dead_letter) = (ticket.queue_name.clone(), ticket.dead_letter.as_deref());
        let plan = Plan::new(settlement, envelope, &queue, dead_letter, || self.clock.now());
        let plan = Arc::new(plan);
        let mut tries = Tries::new();
        loop {
            let Some(ticket) = self.ticket.take() else { return Err(SettleError::Lost) };
            let (reply, answer) = Reply::channel();
            let command = Command::Settle { ticket: ticket.clone(), plan: plan.clone(), reply };
            if !self.send(command) {
                return Err(SettleError::Lost);
            }
            let error = match answer.await {
                Ok(Err(SettleError::Republish(error))) if is_refusal(&error) => error,
                settled => {
                    let settled = settled.unwrap_or(Err(SettleError::Lost));
                    if settled.is_ok() {
                        plan.tell_loss(&queue);
                    }
                    return settled;
                }
            };
            // The delivery is ours again. Dropping the ticket gives the original back.
            self.ticket = Some(ticket);
            tries.pause_after(error).await?;
        }
    }

    async fn mark(&mut self, name: &str, value: &HeaderValue) -> Result<bool, SettleError> {
        let Some(ticket) = self.ticket.clone() else { return Err(SettleError::Lost) };
        let (reply, answer) = Reply::channel();
        let command = Command::Mark { ticket, name: name.to_owned(), value: value.clone(), reply };
        if !self.send(command) {
            return Err(SettleError::Lost);
        }
        answer.await.unwrap_or(Err(SettleError::Lost)).map(|()| true)
    }

    fn is_lost(&self) -> bool {
        self.ticket.as_ref().is_none_or(|ticket| !self.tenure.holds(ticket.client, ticket.queue))
    }
}

impl Drop for SqliteSettler {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.send(Command::GiveBack(ticket));
        }
    }
}
