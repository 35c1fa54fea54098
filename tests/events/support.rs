//! Events of a shop, and where subscribers note what they got.

use std::sync::Mutex;

use leveret::Event;
use serde::{Deserialize, Serialize};

/// Everybody hears of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "shop.orders", kind = "fanout")]
pub(crate) struct OrderPlaced {
    pub(crate) order: u64,
}

/// Whoever watches the region hears of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "shop.parcels", kind = "topic", key = "parcel.{region}.sent")]
pub(crate) struct ParcelSent {
    pub(crate) region: String,
    pub(crate) number: u64,
}

/// Whoever asked for such a priority hears of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "shop.tickets", kind = "headers", headers(region, urgent), name = "ticket")]
pub(crate) struct TicketOpened {
    pub(crate) region: String,
    pub(crate) urgent: bool,
    pub(crate) text: String,
}

/// Everybody hears of it, in few bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "shop.positions", kind = "fanout", format = "cbor")]
pub(crate) struct VanMoved {
    pub(crate) van: u64,
}

/// Whoever asked for exactly this key hears of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(exchange = "shop.alarms", kind = "direct", key = "{level}")]
pub(crate) struct AlarmRaised {
    pub(crate) level: String,
}

/// What subscribers got, as text.
#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<String>>);

impl Log {
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    /// What was noted, sorted: subscribers run in no order.
    pub(crate) fn sorted(&self) -> Vec<String> {
        let mut notes = self.0.lock().unwrap().clone();
        notes.sort();
        notes
    }
}
