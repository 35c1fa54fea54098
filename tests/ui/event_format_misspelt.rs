use leveret::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "orders", kind = "fanout", format = "msgpak")]
struct OrderPlaced {
    order: u64,
}

fn main() {
    let _ = OrderPlaced::NAME;
}
