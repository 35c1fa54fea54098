//! The guide's lines in Pika, beside those in Leveret (`docs/from-others.md`): both declare the same queues and exchanges, and what the ones
//! publish the others work.

use std::future::IntoFuture as _;

use leveret::{Client, Event, TaskError, TaskResult, Worker, subscriber, task};
use serde::{Deserialize, Serialize};
use serde_json::json;

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
    with_each_client!(@client pika, 3; theirs_are_worked_by_ours ours_are_worked_by_theirs);
}
mod rabbitmq4 {
    with_each_client!(@client pika, 4; theirs_are_worked_by_ours ours_are_worked_by_theirs);
}
mod rabbitmq43 {
    with_each_client!(@client pika, 43; theirs_are_worked_by_ours ours_are_worked_by_theirs);
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

fn ours(t: &Python) -> Worker {
    let worker = Worker::new(&t.client).task::<Resize>().task::<Email>().task::<Watch>().task::<Add>();
    worker.task::<Pay>().signals(false)
}

async fn theirs_are_worked_by_ours(t: &Python) {
    let blocks = || python_blocks([0; 5]);

    // Whoever comes second would be refused if it declared anything else.
    t.run("beside", &[], blocks()).await;
    ours(t).declare().await.unwrap();
    t.run("beside", &[], blocks()).await;
    lines(&t.client).await.unwrap();

    // Each block ran twice, and ours once. Their two sums, which came back to a classic queue when their program ended, stand at
    // its end since; so they may not have been worked before ours.
    let summary = ours(t).run_until_idle().await.unwrap();
    assert!((3 * 3..=3 * 3 + 2).contains(&summary.succeeded), "{summary}");
    assert_eq!(summary.dead, 3, "{summary}");
    assert_eq!(look(&t.client).await.unwrap(), ["7 cents are too much"; 3]);
}

async fn ours_are_worked_by_theirs(t: &Python) {
    ours(t).declare().await.unwrap();
    t.client.enqueue(Resize { image: 8 }).await.unwrap();
    t.client.publish(Sold { order: 8 }).must_route().await.unwrap();
    t.client.publish(Sent { region: "europe".into(), number: 8 }).must_route().await.unwrap();
    t.client.enqueue(Pay { cents: 8 }).await.unwrap();
    let mut program = t.start("beside", &[]);

    // Each works one of ours, and then its own. Of the sums, its own is two messages: the request and the reply.
    program.feed(python_blocks([2, 2, 2, 3, 2])).await;
    let printed = async {
        let mut printed = Vec::new();
        for _ in 0..7 {
            printed.push(program.next().await);
        }
        printed
    };
    let (sum, printed) = tokio::join!(t.client.call(Add { a: 2, b: 3 }).into_future(), printed);
    program.end().await;

    let expected = [
        "resizing 8",
        "resizing 7",
        "thanks for order 8",
        "thanks for order 7",
        "parcel 8 is on its way",
        "parcel 7 is on its way",
        "the sum is 3",
    ];
    assert_eq!(printed, expected);
    assert_eq!(sum.unwrap(), 5);
    for queue in ["images", "sales.email", "parcels.europe", "sums", "payments"] {
        t.until_ready(queue, 0).await;
    }
    t.until_ready("payments.dead", 2).await;
    let letters = t.client.admin().dead_letters("payments.dead", 100).await.unwrap();
    let letters = letters.iter().map(|letter| (letter.kind.as_deref(), &*letter.payload)).collect::<Vec<_>>();
    // Ours as we write it, and theirs as they do.
    let [ours, theirs] =
        [br#"{"cents":8}"#.as_slice(), br#"{"cents": 7}"#].map(|body| (Some("rejected"), body));
    assert_eq!(letters, [ours, theirs]);
}

/// The guide's blocks of Python, each as a line of JSON with the number of messages that it works.
fn python_blocks(messages: [u32; 5]) -> Vec<String> {
    let blocks = crate::beside::section()
        .split("```python\n")
        .skip(1)
        .map(|rest| rest.split("```").next().expect("its end"));
    let blocks: Vec<_> = blocks.collect();
    assert_eq!(blocks.len(), messages.len(), "one of each pattern: {blocks:#?}");
    blocks.into_iter().zip(messages).map(|line| json!(line).to_string()).collect()
}

/// The guide's last lines of each pattern.
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

    Ok(())
}

/// The guide's look at the dead letters, and what it sees.
async fn look(client: &Client) -> leveret::Result<Vec<String>> {
    for letter in client.admin().dead_letters("payments.dead", 100).await? {
        println!("{}: {}", letter.id, letter.error.unwrap_or_default());
    }

    let letters = client.admin().dead_letters("payments.dead", 100).await?;
    Ok(letters.into_iter().filter_map(|letter| letter.error).collect())
}
