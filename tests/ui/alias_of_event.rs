use leveret::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "shop.orders", kind = "fanout", aliases = ["OrderMade"])]
struct OrderPlaced {
    order: u64,
}

fn main() {}
