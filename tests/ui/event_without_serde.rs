use leveret::{Client, Event, EventError, subscriber};

#[derive(Event)]
#[event(exchange = "shop.orders", kind = "fanout")]
struct OrderPlaced {
    order: u64,
}

#[subscriber(queue = "mail")]
async fn on_order(event: OrderPlaced) {
    let _ = event.order;
}

async fn place(client: &Client) -> Result<(), EventError> {
    client.publish(OrderPlaced { order: 7 }).await?;
    Ok(())
}

fn main() {
    let _ = place;
}
