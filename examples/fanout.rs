//! Fan-out: one order, four services. Each service has a queue of its own, and gets a copy of every event.
//!
//! `cargo run --example fanout` needs no server: all four services live in this process. On a broker that
//! processes share, SQLite's or RabbitMQ, each may be a program of its own, and in as many processes as it likes:
//!
//! ```sh
//! export LEVERET_URL=amqp://guest:guest@localhost/
//! cargo run --features rabbitmq --example fanout work order.events.email      # until Ctrl-C
//! cargo run --features rabbitmq --example fanout work order.events.stock
//! cargo run --features rabbitmq --example fanout publish 3
//! ```

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret::{BoxError, Client, Event, TaskError, TaskResult, Worker, subscriber};
use serde::{Deserialize, Serialize};

/// What has happened. Whoever wants to know has a queue; whoever publishes knows none of them.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(exchange = "order.events", kind = "fanout")]
struct OrderPlaced {
    order: u64,
    customer: String,
    cents: u64,
}

#[subscriber(queue = "order.events.email")]
async fn confirm_by_email(event: OrderPlaced) {
    println!("email: dear {}, we have your order {}", event.customer, event.order);
}

#[subscriber(queue = "order.events.stock")]
async fn reserve(event: OrderPlaced) {
    println!("stock: goods of order {} are reserved", event.order);
}

/// Fails for an order that costs nothing. That is this service's dead letter; the other three do not notice.
#[subscriber(queue = "order.events.invoice", dlx = "order.events.dlx")]
async fn write_invoice(event: OrderPlaced) -> TaskResult {
    if event.cents == 0 {
        return Err(TaskError::permanent(format!("order {} costs nothing", event.order)).into());
    }
    println!("invoice: order {} costs {} cents", event.order, event.cents);
    Ok(())
}

/// Ten at once: the order in which they are counted does not matter.
#[subscriber(queue = "order.events.statistics", concurrency = 10)]
async fn count(sales: &Sales, event: OrderPlaced) {
    let before = sales.cents.fetch_add(event.cents, Ordering::Relaxed);
    println!("statistics: {} cents were sold", before + event.cents);
}

/// The state of the statistics service.
#[derive(Default)]
struct Sales {
    cents: AtomicU64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        [] => all_at_once().await,
        ["publish", count] => match count.parse() {
            Ok(count) => publish(count).await,
            Err(_) => return usage(),
        },
        ["work", queue] => work(queue).await,
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanout: {}", leveret::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: fanout | fanout publish N | fanout work QUEUE");
    ExitCode::from(2)
}

async fn all_at_once() -> Result<(), BoxError> {
    let client = Client::from_env().await?;
    let services = Worker::new(&client).state(Sales::default());
    // An event goes to the queues that are there. A service's queue is, once the service was started for the first time.
    services.declare().await?;

    place_orders(&client, 2).await?;
    println!("{}", services.run_until_idle().await?);

    for letter in client.admin().dead_letters("order.events.invoice.dead", 10).await? {
        println!("dead letter: {}", letter.error.unwrap_or_default());
    }
    client.close().await;
    Ok(())
}

async fn publish(count: u64) -> Result<(), BoxError> {
    let client = Client::from_env().await?;
    place_orders(&client, count).await?;
    client.close().await;
    Ok(())
}

/// The first costs nothing.
async fn place_orders(client: &Client, count: u64) -> Result<(), BoxError> {
    for order in 1..=count {
        let event = OrderPlaced { order, customer: "Ada".to_owned(), cents: (order - 1) * 250 };
        // Confirmed: the broker has it. That nobody listens would be no error; `.must_route()` makes it one.
        client.publish(event).await?;
        println!("order {order} was placed");
    }
    Ok(())
}

async fn work(queue: &str) -> Result<(), BoxError> {
    let client = Client::from_env().await?;
    if client.info().system == "memory" {
        println!("`memory:` ends with its process, so nobody can publish to this one; set LEVERET_URL");
    }
    let service = Worker::new(&client).state(Sales::default()).queues([queue]);
    service.declare().await?;
    println!("waiting for events in {queue}; Ctrl-C ends");
    service.run().await?;
    client.close().await;
    Ok(())
}
