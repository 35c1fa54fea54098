//! A shop, with a little of everything that a document can say.
#![allow(dead_code, reason = "nothing here runs: it is described")]

use std::collections::BTreeMap;

use leveret::{BoxError, Event, RawMessage, subscriber, task};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a parcel goes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Address {
    pub(crate) street: String,
    pub(crate) zip_code: String,
}

/// A type that knows nothing of schemas.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Opaque(u8);

/// Ships an order.
///
/// Parcels above 30 kg go by another carrier.
#[task(queue = "shop.parcels", dlx = "shop.dlx", priority = 3, ttl = "1h")]
pub(crate) async fn ship(
    /// The order's number.
    order: u64,
    to: Address,
    #[serde(rename = "giftNote")] note: Option<String>,
    #[serde(default)] fragile: bool,
    labels: BTreeMap<String, Vec<Address>>,
    opaque: Opaque,
    maybe_opaque: Option<Opaque>,
) -> Result<Receipt, BoxError> {
    drop((order, to, note, fragile, labels, opaque, maybe_opaque));
    Ok(Receipt { parcel: 1, to: None })
}

/// Seconds instead of serde's struct.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(wait: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(wait.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

/// What the carrier says.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Receipt {
    pub(crate) parcel: u64,
    pub(crate) to: Option<Address>,
}

#[task(
    queue = "shop.parcels",
    dlx = "shop.dlx",
    ttl = "1h",
    format = "msgpack",
    version = 2,
    upcast = upcast_weigh,
    name = "weigh parcel/now"
)]
pub(crate) fn weigh(r#type: String, grams: u32) {
    drop((r#type, grams));
}

fn upcast_weigh(_: u32, payload: serde_json::Value) -> Result<serde_json::Value, String> {
    Ok(payload)
}

/// An order was placed.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(exchange = "shop.orders", kind = "topic", key = "order.{region}.{r#type}.placed", format = "cbor")]
#[serde(rename_all = "kebab-case")]
pub(crate) struct OrderPlaced {
    /// Where.
    region: String,
    #[serde(rename = "kind")]
    r#type: String,
    ship_to: Address,
    opaque: Opaque,
}

/// A van moved, which it describes itself.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Event)]
#[event(exchange = "shop.vans", kind = "fanout")]
pub(crate) struct VanMoved {
    #[schemars(range(min = 1, max = 99))]
    van: u8,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(exchange = "shop.tickets", kind = "headers", headers(region, urgent), name = "ticket")]
pub(crate) struct TicketOpened {
    region: String,
    urgent: bool,
    #[serde(with = "seconds")]
    wait: std::time::Duration,
}

/// Mails whoever ordered.
#[subscriber(queue = "shop.orders.mail", binding = "order.europe.#", binding = "order.africa.*.*")]
pub(crate) async fn mail(event: OrderPlaced) {
    drop(event);
}

#[subscriber(queue = "shop.tickets.urgent", binding(any, urgent = true, region = "europe"), dlx = none)]
pub(crate) async fn answer(ticket: TicketOpened) {
    drop(ticket);
}

#[subscriber(
    queue = "archive",
    exchange = "amq.topic",
    kind = "topic",
    declare = "passive",
    dead_letter_queue = "attic"
)]
pub(crate) async fn archive(message: RawMessage) {
    drop(message);
}

/// Takes messages that others send to the queue by its name.
#[subscriber(queue = "imports", exchange = "", queue_type = "classic", dlx = none)]
pub(crate) async fn import(message: RawMessage) {
    drop(message);
}

/// Was `bill` once, and is sent by programs that read no reply.
#[task(queue = "shop.bills", aliases = ["bill", "shop.bill"], reply = false)]
pub(crate) async fn send_bill(order: u64) -> Result<u64, BoxError> {
    Ok(order)
}
