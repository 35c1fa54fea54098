//! This client's consumers, and what was claimed for them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::command::Ticket;
use super::ids::ConsumerId;
use crate::broker::ConsumerHandle;
use crate::envelope::Envelope;
use crate::topology::{Name, Route};

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) handle: ConsumerHandle,
    pub(super) queue_name: Name,
    pub(super) name: Option<String>,
    pub(super) prefetch: u32,
    /// Deliveries not yet settled.
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

/// The consumers of one queue, by its name: they outlive it, and go on when it is declared again.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Those that can take one more, the next one first.
    pub(super) turn: VecDeque<ConsumerId>,
    /// All of them.
    pub(super) members: Vec<ConsumerId>,
}

/// A job that was claimed for a consumer, to be delivered when the transaction is committed.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) ticket: Ticket,
    /// How often the job came back because its holder was lost.
    pub(super) losses: i64,
    pub(super) envelope: Envelope,
    pub(super) exchange: String,
    pub(super) routing_key: String,
}

/// This client's reply consumer: one at most.
#[derive(Debug)]
pub(super) struct ReplyConsumer {
    pub(super) id: ConsumerId,
    /// The address that workers find in `reply_to`.
    pub(super) address: String,
    pub(super) handle: ConsumerHandle,
}
