use leveret::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "orders", kind = "fanout")]
enum OrderPlaced {
    Now,
}

fn main() {}
