//! Topics: a routing key of words, and subscribers that choose by patterns. `*` stands for one word, `#` for any number.
//!
//! `cargo run --example topics` needs no server. The same program runs on RabbitMQ:
//!
//! ```sh
//! LEVERET_URL=amqp://guest:guest@localhost/ cargo run --features rabbitmq --example topics
//! ```

use std::fmt;

use leveret::{Client, Context, Event, RawMessage, Worker, subscriber};
use serde::{Deserialize, Serialize};

/// Its key is filled from its fields: `order.europe.placed`. A field that is not there is an error of the compiler.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(exchange = "order.changes", kind = "topic", key = "order.{region}.{status}")]
struct OrderChanged {
    order: u64,
    region: String,
    status: Status,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Placed,
    Shipped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Placed => "placed",
            Self::Shipped => "shipped",
        })
    }
}

/// All that happens to orders. It keeps messages as they are, so it takes them as they are.
#[subscriber(
    exchange = "order.changes",
    kind = "topic",
    queue = "order.changes.archive",
    binding = "order.#"
)]
async fn archive(message: RawMessage) {
    println!("archive: {} {}", message.routing_key, String::from_utf8_lossy(&message.body));
}

/// What happens in Europe.
#[subscriber(queue = "order.changes.europe", binding = "order.europe.*")]
async fn tell_the_office(event: OrderChanged) {
    println!("office in Europe: order {} was {}", event.order, event.status);
}

/// What was placed, wherever. A second `binding = ".."` would add to it.
#[subscriber(queue = "order.changes.warehouse", binding = "*.*.placed")]
async fn pack(context: &Context, event: OrderChanged) {
    println!("warehouse: pack order {} ({})", event.order, context.routing_key());
}

#[tokio::main]
async fn main() -> leveret::Result<()> {
    let client = Client::from_env().await?;
    let services = Worker::new(&client);
    // An event goes to the queues that are there.
    services.declare().await?;

    for (order, region, status) in [
        (1, "europe", Status::Placed),
        (2, "asia", Status::Placed),
        (1, "europe", Status::Shipped),
        (2, "asia", Status::Shipped),
    ] {
        client.publish(OrderChanged { order, region: region.to_owned(), status }).must_route().await?;
    }

    println!("{}", services.run_until_idle().await?);
    client.close().await;
    Ok(())
}
