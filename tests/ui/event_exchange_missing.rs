use leveret::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(kind = "fanout")]
struct OrderPlaced {
    order: u64,
}

fn main() {
    let _ = OrderPlaced::NAME;
}
