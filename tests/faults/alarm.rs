//! A node that runs out of memory blocks whoever publishes, and nobody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret::{Client, PublishError, task};
use queue_core::broker::Health;

use crate::support::{
    Book, Private, builder, client, connect, fresh, message, queue, ready, send, soon, until, work,
};

on_each!(Private: publishers_wait_and_are_told_while_workers_go_on);

#[task(queue = "test.faults.alarm")]
async fn works(book: &Book, number: u64) {
    book.ran(number);
}

async fn publishers_wait_and_are_told_while_workers_go_on(node: Private) {
    let (patient, book) = (client(&node.url).await, Arc::new(Book::default()));
    fresh::<Works>(&patient).await;
    let queue = queue(&patient, "alarm").await;
    let hasty = connect(&node.url, builder().publish_timeout(Duration::from_secs(1))).await;
    send(&hasty, &queue, 1).await;
    send(&patient, &queue, 1).await;
    for enqueued in patient.enqueue_all((0..10).map(|number| Works { number })).await {
        enqueued.unwrap();
    }

    node.ctl(&["set_vm_memory_high_watermark", "0"]).await;

    // RabbitMQ tells a connection at its next message, and keeps that one unread: it may exist.
    let first = publish(&hasty, &queue).await;
    assert!(matches!(first, Err(PublishError::Unconfirmed { .. })), "{first:?}");
    // From then on nothing is sent.
    let second = publish(&hasty, &queue).await;
    let Err(error @ PublishError::Blocked { .. }) = second else { panic!("{second:?}") };
    assert!(error.to_string().contains("blocking publishers for 1s (low on memory)"), "{error}");
    assert!(matches!(hasty.info().health, Health::Blocked(_)), "{:?}", hasty.info());
    // Who waits longer gets through, as soon as there is memory again.
    let waiting = tokio::spawn({
        let (client, queue) = (patient.clone(), queue.clone());
        async move { publish(&client, &queue).await }
    });
    // Jobs that were there are delivered and acked.
    let worker = work::<Works>(&patient, &book);
    book.until_ran(10).await;
    worker.stop().await;
    // A client that is blocked can be closed.
    let since = Instant::now();
    soon("the close", hasty.close()).await;
    assert!(since.elapsed() <= Duration::from_secs(10), "{:?}", since.elapsed());
    assert!(!waiting.is_finished());

    node.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;

    soon("the confirm", waiting).await.unwrap().unwrap();
    until("its health", async || patient.info().health == Health::Up).await;
    assert!((3..=4).contains(&ready(&patient, &queue).await));
    patient.close().await;
}

async fn publish(client: &Client, queue: &queue_core::topology::Name) -> Result<(), PublishError> {
    soon("an answer", client.broker().publish(message(queue, "x"))).await
}
