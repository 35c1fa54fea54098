//! What happens in the shop, for whoever wants to know.

use leveret::Event;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An order was paid. Its key is `order.europe.paid`, so that an office can listen to its region.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Event)]
#[event(exchange = "shop.events", kind = "topic", key = "order.{region}.paid")]
pub(crate) struct OrderPaid {
    /// The order's number: the id of the job that charged it.
    pub(crate) order: String,
    pub(crate) customer: String,
    /// One word: it becomes part of the key.
    pub(crate) region: String,
    pub(crate) cents: u64,
}
