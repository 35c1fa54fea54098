//! A broker that is away when a process starts, or when it first does something.

use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret::{EnqueueError, ErrorKind, PublishError, task};

use crate::support::{
    Book, Node, Proxy, builder, client, connect, consume, fresh, log, message, next, queue, send, soon,
    until, work,
};

on_each!(Node:
    worker_process_waits_for_a_broker_that_is_not_up_yet,
    worker_of_a_connected_client_waits_for_its_broker,
    worker_that_waits_for_its_broker_can_be_stopped,
    first_enqueue_of_a_task_waits_for_the_broker,
    first_enqueues_of_a_task_give_up_together,
    broker_that_is_back_is_found_while_callers_wait,
    connecting_client_finds_a_broker_that_is_back,
    fifty_clients_come_back_one_after_another,
);

/// How soon a broker that is back is found by those who wait: a look a second, a login, and a busy machine.
const FOUND: Duration = Duration::from_secs(4);
/// After so many looks in vain the pauses have grown long.
const LOOKS: usize = 10;

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

async fn broker_that_is_back_is_found_while_callers_wait(node: Node) {
    let direct = client(&node.url).await;
    let (published, consumed) = (queue(&direct, "found").await, queue(&direct, "found").await);
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    let mut consumer = consume(&client, &consumed, 1).await;
    proxy.refuse();
    let publishing = tokio::spawn({
        let (client, message) = (client.clone(), message(&published, "waits"));
        async move { client.broker().publish(message).await }
    });
    // Of two connections.
    proxy.until_accepted(proxy.accepted() + 2 * LOOKS).await;
    send(&direct, &consumed, 1).await;

    proxy.pass();
    let back = Instant::now();
    soon("the confirm", publishing).await.unwrap().unwrap();
    let confirmed = back.elapsed();
    next(&mut consumer).await;
    let delivered = back.elapsed();

    assert!(confirmed < FOUND, "confirmed {confirmed:?} after the broker was back");
    assert!(delivered < FOUND, "delivered {delivered:?} after the broker was back");
    client.close().await;
    direct.close().await;
}

async fn connecting_client_finds_a_broker_that_is_back(node: Node) {
    let proxy = Proxy::to(&node.url);
    proxy.refuse();
    let url = proxy.url("");
    let connecting = tokio::spawn(async move { builder().wait_for_broker().connect(&url).await });
    proxy.until_accepted(proxy.accepted() + LOOKS).await;

    proxy.pass();
    let back = Instant::now();
    let client = soon("the connection", connecting).await.unwrap().unwrap();

    assert!(back.elapsed() < FOUND, "connected {:?} after the broker was back", back.elapsed());
    client.close().await;
}

/// All of whom wait. Logins cost a server much, so they must not come at once.
async fn fifty_clients_come_back_one_after_another(node: Node) {
    const CLIENTS: usize = 50;
    let direct = client(&node.url).await;
    let queue = queue(&direct, "storm").await;
    let proxy = Proxy::to(&node.url);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(client(&proxy.url("")).await);
    }
    proxy.refuse();
    let publishing = clients.iter().map(|client| {
        let (client, message) = (client.clone(), message(&queue, "waits"));
        tokio::spawn(async move { client.broker().publish(message).await })
    });
    let publishing: Vec<_> = publishing.collect();
    proxy.until_accepted(proxy.accepted() + CLIENTS * LOOKS / 2).await;

    proxy.pass();
    let back = Instant::now();
    for publishing in publishing {
        soon("the confirm", publishing).await.unwrap().unwrap();
    }

    let mut logins: Vec<_> = proxy.passed().into_iter().filter(|at| *at >= back).collect();
    logins.sort();
    let within = |start: &Instant| {
        let window = *start..*start + Duration::from_millis(100);
        logins.iter().filter(|at| window.contains(*at)).count()
    };
    let most = logins.iter().map(within).max().unwrap();
    assert!(logins.len() >= CLIENTS, "{} logins", logins.len());
    assert!(most <= CLIENTS / 2, "{most} of {} logins within 100 ms", logins.len());
    assert!(back.elapsed() < 4 * FOUND, "the last was confirmed after {:?}", back.elapsed());
    for client in clients {
        client.close().await;
    }
    direct.close().await;
}
