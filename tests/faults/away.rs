//! A broker that is away when a process starts, or when it first does something.

use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret::{EnqueueError, ErrorKind, PublishError, task};

use crate::support::{Book, Node, Proxy, builder, client, connect, fresh, log, soon, until, work};

on_each!(Node:
    worker_process_waits_for_a_broker_that_is_not_up_yet,
    worker_of_a_connected_client_waits_for_its_broker,
    worker_that_waits_for_its_broker_can_be_stopped,
    first_enqueue_of_a_task_waits_for_the_broker,
    first_enqueues_of_a_task_give_up_together,
);

#[task(queue = "test.faults.away.start")]
async fn starts(book: &Book, number: u64) {
    book.ran(number);
}

#[task(queue = "test.faults.away.connected")]
async fn connected(book: &Book, number: u64) {
    book.ran(number);
}

#[task(queue = "test.faults.away.first")]
async fn first(_book: &Book, _number: u64) {}

/// A process that only consumes, with nobody to have declared its queue.
async fn worker_process_waits_for_a_broker_that_is_not_up_yet(node: Node) {
    let direct = client(&node.url).await;
    fresh::<Starts>(&direct).await;
    let mut proxy = Proxy::closed(&node.url);
    let (url, book) = (proxy.url(""), Arc::new(Book::default()));
    let process = tokio::spawn({
        let book = book.clone();
        async move {
            let client = builder().wait_for_broker().connect(&url).await.unwrap();
            work::<Starts>(&client, &book).ended().await
        }
    });
    let port = proxy.port().to_string();
    until("three attempts", async || log::lines(&[&port, "RabbitMQ is away"]).len() >= 3).await;
    assert!(!process.is_finished());

    proxy.listen();

    direct.enqueue(Starts { number: 0 }).await.unwrap();
    book.until_ran(1).await;
    process.abort();
    direct.close().await;
}

/// The client had its connection, and lost it before the worker declared its queues.
async fn worker_of_a_connected_client_waits_for_its_broker(node: Node) {
    let direct = client(&node.url).await;
    fresh::<Connected>(&direct).await;
    let proxy = Proxy::to(&node.url);
    let client = connect(&proxy.url(""), builder().publish_timeout(Duration::from_millis(100))).await;
    proxy.refuse();
    let book = Arc::new(Book::default());

    let worker = work::<Connected>(&client, &book);
    let tried = proxy.accepted();
    proxy.until_accepted(tried + 5).await;
    assert!(worker.is_running());
    proxy.pass();

    direct.enqueue(Connected { number: 0 }).await.unwrap();
    book.until_ran(1).await;
    worker.stop().await;
    client.close().await;
    direct.close().await;
}

async fn worker_that_waits_for_its_broker_can_be_stopped(node: Node) {
    let proxy = Proxy::to(&node.url);
    let client = connect(&proxy.url(""), builder().publish_timeout(Duration::from_millis(100))).await;
    proxy.refuse();
    let worker = work::<Connected>(&client, &Arc::new(Book::default()));
    let tried = proxy.accepted();
    proxy.until_accepted(tried + 2).await;

    worker.stop().await;

    client.close().await;
}

async fn first_enqueue_of_a_task_waits_for_the_broker(node: Node) {
    let direct = client(&node.url).await;
    fresh::<First>(&direct).await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    proxy.refuse();

    let enqueuing = tokio::spawn({
        let client = client.clone();
        async move {
            tokio::join!(
                async { client.enqueue(First { number: 0 }).await },
                async { client.enqueue(First { number: 1 }).delay(Duration::from_millis(1)).await },
                client.enqueue_all([First { number: 2 }]),
            )
        }
    });
    let tried = proxy.accepted();
    proxy.until_accepted(tried + 3).await;
    assert!(!enqueuing.is_finished());
    proxy.pass();

    let (one, delayed, batch) = soon("the confirms", enqueuing).await.unwrap();
    one.unwrap();
    delayed.unwrap();
    batch.into_iter().next().unwrap().unwrap();
    client.close().await;
    direct.close().await;
}

async fn first_enqueues_of_a_task_give_up_together(node: Node) {
    let proxy = Proxy::to(&node.url);
    let timeout = Duration::from_secs(1);
    let client = connect(&proxy.url(""), builder().publish_timeout(timeout)).await;
    proxy.refuse();

    let since = Instant::now();
    let enqueues = (0..20).map(async |number| match number % 2 {
        0 => client.enqueue(First { number }).await,
        _ => client.enqueue(First { number }).delay(timeout).await,
    });
    let outcomes = futures_util::future::join_all(enqueues).await;

    // One after another they would take twenty seconds.
    assert!(since.elapsed() < 5 * timeout, "{:?}", since.elapsed());
    for outcome in outcomes {
        let Err(EnqueueError::Publish(error @ PublishError::Unavailable { .. })) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(error.to_string().contains("away for 1s; nothing was sent"), "{error}");
    }
    assert_eq!(client.depth::<First>().await.unwrap_err().kind(), ErrorKind::Connection);
    client.close().await;
}
