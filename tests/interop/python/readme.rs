//! The README's lines in Pika, beside those in Leveret: both declare the same queues and exchanges, and what the ones
//! publish the others work.

use leveret::{Client, Event, TaskError, TaskResult, Worker, subscriber, task};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Python;
use crate::support::Leftovers;

const LEFTOVERS: Leftovers = Leftovers {
    queues: &[
        "images",
        "images.dead",
        "sales.email",
        "sales.email.dead",
        "parcels.europe",
        "parcels.europe.dead",
        "sums",
        "sums.dead",
        "payments",
        "payments.dead",
    ],
    exchanges: &["sales", "parcels", "payments.dlx"],
};

mod rabbitmq3 {
    with_each_client!(@client pika, 3; lines_declare_alike_and_are_worked);
}
mod rabbitmq4 {
    with_each_client!(@client pika, 4; lines_declare_alike_and_are_worked);
}

#[task(queue = "images", queue_type = "classic")]
async fn resize(image: u64) {
    println!("resizing {image}");
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "sales", kind = "fanout")]
struct Sold {
    order: u64,
}

#[subscriber(queue = "sales.email", queue_type = "classic")]
async fn email(event: Sold) {
    println!("thanks for order {}", event.order);
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "parcels", kind = "topic", key = "parcel.{region}.sent")]
struct Sent {
    region: String,
    number: u64,
}

#[subscriber(queue = "parcels.europe", queue_type = "classic", binding = "parcel.europe.*")]
async fn watch(event: Sent) {
    println!("parcel {} is on its way", event.number);
}

#[task(queue = "sums", queue_type = "classic")]
async fn add(a: u64, b: u64) -> Result<u64, &'static str> {
    a.checked_add(b).ok_or("the sum is too large")
}

#[task(queue = "payments", queue_type = "classic", dlx = "payments.dlx", retries = 3)]
async fn pay(cents: u64) -> TaskResult {
    Err(TaskError::permanent(format!("{cents} cents are too much")).into())
}

async fn lines_declare_alike_and_are_worked(t: &Python) {
    let ours = || {
        let worker = Worker::new(&t.client).task::<Resize>().task::<Email>().task::<Watch>().task::<Add>();
        worker.task::<Pay>().signals(false)
    };
    let blocks = python_blocks();
    assert_eq!(blocks.len(), 5, "one of each pattern: {blocks:#?}");

    // Whoever comes second would be refused if it declared anything else.
    t.run("readme", &[], blocks.clone()).await;
    ours().declare().await.unwrap();
    t.run("readme", &[], blocks).await;
    lines(&t.client).await.unwrap();

    // Each block ran twice, and ours once. The sums are worked already.
    let summary = ours().run_until_idle().await.unwrap();
    assert_eq!((summary.succeeded, summary.dead), (3 * 3, 3), "{summary}");
}

/// The README's blocks of Python, each as a line of JSON.
fn python_blocks() -> Vec<String> {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once("\n## Beside Pika\n").expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let blocks = section.split("```python\n").skip(1).map(|rest| rest.split("```").next().expect("its end"));
    blocks.map(|block| Value::from(block).to_string()).collect()
}

/// The README's last lines of each pattern.
async fn lines(client: &Client) -> leveret::Result<()> {
    client.enqueue(Resize { image: 7 }).await?;

    client.publish(Sold { order: 7 }).await?;

    client.publish(Sent { region: "europe".into(), number: 7 }).await?;

    let worker = Worker::new(client).task::<Add>().signals(false);
    let handle = worker.handle();
    let working = tokio::spawn(worker.run());

    let sum: u64 = client.call(Add { a: 1, b: 2 }).await?;

    assert_eq!(sum, 3);
    handle.shutdown();
    working.await.expect("no panic")?;
    client.enqueue(Pay { cents: 7 }).await?;

    for letter in client.admin().dead_letters("payments.dead", 100).await? {
        println!("{}: {}", letter.id, letter.error.unwrap_or_default());
    }

    Ok(())
}
