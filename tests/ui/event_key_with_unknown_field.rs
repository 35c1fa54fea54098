use leveret::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "orders", kind = "topic", key = "order.{regoin}.placed")]
struct OrderPlaced {
    region: String,
}

fn main() {
    let _ = OrderPlaced::NAME;
}
