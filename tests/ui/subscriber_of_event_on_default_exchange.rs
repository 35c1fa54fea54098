use leveret::{Event, subscriber};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "shop.orders", kind = "fanout")]
struct OrderPlaced {
    order: u64,
}

#[subscriber(queue = "q", exchange = "")]
async fn on_order(event: OrderPlaced) {
    let _ = event.order;
}

fn main() {}
