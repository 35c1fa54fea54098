//! A node that runs out of memory blocks whoever publishes, and nobody else.

use std::convert::Infallible;
use std::future::IntoFuture as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret::{Client, PublishError, Task as _, Worker, task};
use queue_core::broker::Health;

use crate::control::{walk, worn};
use crate::support::{
    Book, PATIENCE, Private, builder, client, connect, fresh, message, queue, ready, run, send, soon, until,
    work,
};

on_each!(Private:
    publishers_wait_and_are_told_while_workers_go_on,
    calls_that_wait_for_memory_are_answered_when_there_is,
    walk_waits_once_for_memory_and_not_for_each_worn_letter,
);

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

#[task(queue = "test.faults.alarm.asked", queue_type = "classic", dlx = none)]
async fn asked(number: u64) -> Result<u64, Infallible> {
    Ok(number)
}

/// Calls of it are confirmed, which those of the other are not.
#[task(queue = "test.faults.alarm.limited", queue_type = "classic", dlx = none, max_length = 1000)]
async fn limited(number: u64) -> Result<u64, Infallible> {
    Ok(number)
}

async fn calls_that_wait_for_memory_are_answered_when_there_is(node: Private) {
    let working = client(&node.url).await;
    let worker = run(Worker::new(&working).task::<Asked>().task::<Limited>());
    // Answers must come sooner than a call gives up that nobody looks after.
    let calling = connect(&node.url, builder().publish_timeout(PATIENCE * 3)).await;
    assert_eq!(
        soon("a reply", calling.call(Asked { number: 0 }).timeout(PATIENCE).into_future()).await.unwrap(),
        0
    );
    calling.declare_queue(Limited::queue()).await.unwrap();

    node.ctl(&["set_vm_memory_high_watermark", "0"]).await;

    let ask = |number| tokio::spawn(calling.call(Asked { number }).timeout(PATIENCE * 3).into_future());
    let ask_limited =
        |number| tokio::spawn(calling.call(Limited { number }).timeout(PATIENCE * 3).into_future());
    // One of them is what RabbitMQ blocks the connection at.
    let mut calls = vec![ask(1), ask_limited(2)];
    until("the block", async || matches!(calling.info().health, Health::Blocked(_))).await;
    calls.extend([ask_limited(3), ask(4)]);
    tokio::task::yield_now().await;

    node.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;

    for (call, number) in calls.into_iter().zip(1..) {
        assert_eq!(soon("a reply", call).await.unwrap().unwrap(), number);
    }
    worker.stop().await;
    calling.close().await;
    working.close().await;
}

/// It keeps others from the queue until it ends.
async fn walk_waits_once_for_memory_and_not_for_each_worn_letter(node: Private) {
    let direct = client(&node.url).await;
    let queue = worn(&direct, 5).await;
    let timeout = Duration::from_secs(2);
    let client = connect(&node.url, builder().publish_timeout(timeout)).await;
    let walk = walk(&client, &queue, 5).await;

    node.ctl(&["set_vm_memory_high_watermark", "0"]).await;
    let since = Instant::now();
    walk.end().await;
    let took = since.elapsed();
    node.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;

    assert!(took < timeout * 3, "it took {took:?}");
    // The copy that was on its way when RabbitMQ blocked the connection may have come beside its original.
    until("the letters", async || (5..=6).contains(&ready(&direct, &queue).await)).await;
    client.close().await;
    direct.close().await;
}

async fn publish(client: &Client, queue: &queue_core::topology::Name) -> Result<(), PublishError> {
    soon("an answer", client.broker().publish(message(queue, "x"))).await
}
