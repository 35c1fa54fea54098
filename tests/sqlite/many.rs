//! Thousands of queues in one file: a job costs as much as it does beside a few.

use std::time::{Duration, Instant};

use leveret::Client;
use queue_core::broker::{ConsumeOptions, Consumer, Publish};
use queue_core::envelope::Envelope;
use queue_core::settlement::Settlement;
use queue_core::topology::{QueueDecl, Topology};

use crate::support::{Database, next, text};

/// Declares and consumes queues as a worker does, and says how long that takes.
async fn consume(client: &Client, queues: usize) -> (Vec<Consumer>, Duration) {
    let began = Instant::now();
    let all = (0..queues).map(|n| QueueDecl::new(format!("jobs-{n}")));
    client.declare(&all.fold(Topology::new(), Topology::queue)).await.unwrap();
    let mut consumers = Vec::new();
    for n in 0..queues {
        consumers.push(client.broker().consume(ConsumeOptions::new(format!("jobs-{n}"))).await.unwrap());
    }
    (consumers, began.elapsed())
}

/// One of the programs that are compared: who publishes, and who consumes.
struct Side {
    publisher: Client,
    consumers: Vec<Consumer>,
}

impl Side {
    /// How long a job takes from its publish to its ack.
    async fn cost_of_job(&mut self, number: usize) -> Duration {
        let at = number * 7 % self.consumers.len();
        let began = Instant::now();
        let job = Publish::to_queue(format!("jobs-{at}"), Envelope::new(number.to_string()));
        self.publisher.broker().publish(job).await.unwrap();
        let delivery = next(&mut self.consumers[at]).await;
        assert_eq!(text(&delivery), number.to_string());
        delivery.settle(Settlement::Ack).await.unwrap();
        began.elapsed()
    }
}

/// What a job costs at least on either side, taken in turns: a disk or a machine that others use is slow for both at times,
/// but what grows with the queues is never missing. It was seventeen times as much; a busy machine makes it two or three.
async fn costs(few: &mut Side, many: &mut Side) -> (Duration, Duration) {
    let (mut beside_few, mut beside_many) = (Duration::MAX, Duration::MAX);
    for number in 0..100 {
        beside_few = beside_few.min(few.cost_of_job(number).await);
        beside_many = beside_many.min(many.cost_of_job(number).await);
    }
    println!("a job takes {beside_few:?} beside ten queues, {beside_many:?} beside 3,000");
    (beside_few, beside_many)
}

#[tokio::test]
async fn job_costs_the_same_beside_thousands_of_idle_queues() {
    let (few, many) = (Database::new(), Database::new());
    let (few, many) = (few.client("").await, many.client("").await);
    let (consumers, _) = consume(&few, 10).await;
    let mut few = Side { publisher: few, consumers };
    let (consumers, start) = consume(&many, 3000).await;
    let mut many = Side { publisher: many, consumers };

    let (beside_few, beside_many) = costs(&mut few, &mut many).await;

    println!("3,000 queues are declared and consumed within {start:?}");
    assert!(start < Duration::from_secs(10), "{start:?} to start");
    assert!(beside_many < beside_few * 5, "{beside_many:?}, {beside_few:?} beside ten");
    many.publisher.close().await;
    few.publisher.close().await;
}

/// What one program writes has the others look at the file again.
#[tokio::test]
async fn job_of_another_program_costs_the_same_beside_thousands_of_idle_queues() {
    let (few, many) = (Database::new(), Database::new());
    let (few_consumer, many_consumer) = (few.client("").await, many.client("").await);
    let mut few = Side { publisher: few.client("").await, consumers: consume(&few_consumer, 10).await.0 };
    let mut many =
        Side { publisher: many.client("").await, consumers: consume(&many_consumer, 3000).await.0 };

    let (beside_few, beside_many) = costs(&mut few, &mut many).await;

    assert!(beside_many < beside_few * 5, "{beside_many:?}, {beside_few:?} beside ten");
    for client in [few_consumer, many_consumer, few.publisher, many.publisher] {
        client.close().await;
    }
}
