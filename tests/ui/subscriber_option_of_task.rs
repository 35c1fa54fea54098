use leveret::{Event, RawMessage, subscriber};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "orders", kind = "fanout")]
struct OrderPlaced {
    order: u64,
}

#[subscriber(queue = "mail", payload = OnOrder)]
async fn on_order(_event: OrderPlaced) {}

fn main() {
    let _: Option<RawMessage> = None;
}
