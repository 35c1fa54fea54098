use leveret::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
// #[event(..)] is missing
struct OrderPlaced {
    order: u64,
}

fn main() {
    let _ = OrderPlaced::NAME;
}
