use leveret::{Event, RawMessage, subscriber};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "orders", kind = "topic", key = "order.{order}")]
struct OrderPlaced {
    order: u64,
}

#[subscriber(queue = "mail", binding = "#.order.#.placed.#")]
async fn on_order(_event: OrderPlaced) {}

fn main() {
    let _: Option<RawMessage> = None;
}
