use leveret::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "orders", kind = "topic", key = "order.order}")]
struct OrderPlaced {
    order: u64,
}

fn main() {
    let _ = OrderPlaced::NAME;
}
