//! Dead letters with expiry and length limits, on the queues of the textbook Pika set-up.
//!
//! ```sh
//! export LEVERET_URL=amqp://guest:guest@localhost/
//! cargo run --features rabbitmq --example dead_letters publish 10
//! cargo run --features rabbitmq --example dead_letters work      # until Ctrl-C
//! cargo run --features rabbitmq --example dead_letters list
//! ```
//!
//! Declared argument for argument as a Pika program would, so that either side may come first:
//! `orders.processing` dead-letters to the exchange `dlx` with the key `failed`, its messages expire after an hour,
//! and beyond 100,000 the oldest one makes room; `dead.letters` keeps what arrives for 7 days. On `memory:`, which
//! ends with the process, `publish` works and lists at once.

use std::process::ExitCode;

use leveret::{BoxError, Client, TaskError, TaskResult, Worker, task};

/// Charges one order. Every third has no card, and no retry will mend that.
#[task(
    queue = "orders.processing",
    queue_type = "classic",
    dlx = "dlx",
    dead_letter_queue = "dead.letters",
    dead_letter_key = "failed",
    dead_letter_ttl = "7d",
    ttl = "1h",
    max_length = 100_000,
    overflow = "dead-letter"
)]
async fn charge(order: u64, cents: u64) -> TaskResult {
    if order.is_multiple_of(3) {
        return Err(TaskError::permanent(format!("order {order} has no card")).into());
    }
    println!("order {order}: charged {cents} cents");
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["publish", count] => match count.parse() {
            Ok(count) => publish(count).await,
            Err(_) => return usage(),
        },
        ["work"] => work().await,
        ["list"] => list().await,
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dead_letters: {}", leveret::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: dead_letters publish N | dead_letters work | dead_letters list");
    ExitCode::from(2)
}

async fn publish(count: u64) -> Result<(), BoxError> {
    let client = Client::from_env().await?;
    let orders = (1..=count).map(|order| Charge { order, cents: order * 100 });
    client.enqueue_all(orders).await.all_ok()?;
    println!("published {count} orders");
    if client.info().system == "memory" {
        Worker::new(&client).run_until_idle().await?;
        show(&client).await?;
    }
    client.close().await;
    Ok(())
}

async fn work() -> Result<(), BoxError> {
    let client = Client::from_env().await?;
    if client.info().system == "memory" {
        println!("`memory:` ends with its process, so nobody can publish to this one; set LEVERET_URL");
    }
    println!("waiting for orders; Ctrl-C ends");
    Worker::new(&client).run().await?;
    client.close().await;
    Ok(())
}

async fn list() -> Result<(), BoxError> {
    let client = Client::from_env().await?;
    // Declares the queues where nobody has yet, so that an empty list is no error.
    client.depth::<Charge>().await?;
    show(&client).await?;
    client.close().await;
    Ok(())
}

async fn show(client: &Client) -> Result<(), BoxError> {
    let letters = client.admin().dead_letters("dead.letters", 100).await?;
    println!("dead letters: {}", letters.len());
    for letter in letters {
        println!(
            "{}  {}  {}: {}  {}",
            letter.id,
            letter.queue.as_deref().unwrap_or("?"),
            letter.kind.as_deref().unwrap_or("?"),
            letter.error.as_deref().unwrap_or("(the broker gave no more)"),
            String::from_utf8_lossy(&letter.payload)
        );
    }
    Ok(())
}
