//! A message with a name that is not UTF-8, which lapin cannot parse: it ends the connection that it arrives on, again
//! and again. Its queue is given up, and no other.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use leveret::{Task, Worker, task};
use queue_core::settlement::Settlement;
use queue_core::topology::{Name, QueueDecl, Topology};

use crate::support::{
    Book, Node, Private, Proxy, builder, client, connect, consume, fresh, log, message, next, queue, run,
    send, soon, text, unique, until, until_ready,
};

on_each!(Node:
    message_that_cannot_be_parsed_stops_its_own_queue_only,
    worker_goes_on_with_its_other_queues,
    exclusive_queue_stays_with_the_connection_that_consumes_it,
);

mod router {
    on_each!(Private: delays_go_on_when_the_message_is_gone);

    use super::delays_go_on_when_the_message_is_gone;
}

/// Publishes a message that no AMQP library would write: its id is not UTF-8.
async fn poison(node: &Node, queue: &str) {
    let proxy = Proxy::to(&node.url);
    proxy.rewrite(b"not-utf8", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe");
    let client = client(&proxy.url("")).await;
    let mut message = message(&queue.to_owned().into(), "poison");
    message.envelope.id = "not-utf8".into();
    client.broker().publish(message).await.unwrap();
    client.close().await;
}

async fn message_that_cannot_be_parsed_stops_its_own_queue_only(node: Node) {
    let client = client(&node.url).await;
    let (bad, good, idle) =
        (queue(&client, "bad").await, queue(&client, "good").await, queue(&client, "idle").await);
    // What comes before the message, on each connection anew, does not make it any better.
    send(&client, &bad, 1).await;
    let mut consumers =
        [consume(&client, &bad, 2).await, consume(&client, &good, 1).await, consume(&client, &idle, 1).await];
    let mut held = vec![next(&mut consumers[0]).await];

    poison(&node, &bad).await;
    let error = loop {
        match soon("the error", consumers[0].next()).await.expect("it says why") {
            Ok(delivery) => held.push(delivery),
            Err(error) => break error,
        }
    };

    assert!(held.iter().all(|delivery| text(delivery) == "0"), "lapin has read it");
    let words = error.to_string();
    assert!(words.contains(&format!("queue `{bad}`")) && words.contains("UTF-8"), "{words}");
    assert!(words.contains("take the message out with another client"), "{words}");
    assert!(soon("the end", consumers[0].next()).await.is_none());
    // Those that had nothing to deliver meanwhile are well.
    for (consumer, queue) in consumers[1..].iter_mut().zip([&good, &idle]) {
        client.broker().publish(message(queue, "x")).await.unwrap();
        let delivery = next(consumer).await;
        assert_eq!(text(&delivery), "x");
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    // It is still there.
    until_ready(&client, &bad, 2).await;
    client.close().await;
}

#[task(queue = "test.faults.unparsable.bad", queue_type = "classic")]
async fn bad(book: &Book, number: u64) {
    book.ran(number);
}

#[task(queue = "test.faults.unparsable.good")]
async fn good(book: &Book, number: u64) {
    book.ran(number);
}

async fn worker_goes_on_with_its_other_queues(node: Node) {
    let (client, book) = (client(&node.url).await, Arc::new(Book::default()));
    fresh::<Bad>(&client).await;
    fresh::<Good>(&client).await;
    client.declare_queue(Bad::queue()).await.unwrap();
    poison(&node, Bad::queue().name()).await;

    let name = unique("worker");
    let worker = Worker::new(&client).name(name.clone()).task::<Bad>().task::<Good>().shared(book.clone());
    let worker = run(worker);
    let said = || log::lines(&[&name, "ERROR", "cannot be consumed"]);
    until("the queue to be given up", async || !said().is_empty()).await;

    client.enqueue(Good { number: 1 }).await.unwrap();
    book.until_ran(1).await;
    assert!(worker.is_running());
    assert!(said()[0].contains(&**Bad::queue().name()), "{:?}", said());
    worker.stop().await;
    client.close().await;
}

/// Whoever goes apart does so on connections of his own, and must not take the queue along.
async fn exclusive_queue_stays_with_the_connection_that_consumes_it(node: Node) {
    let client = client(&node.url).await;
    let (bad, mine) = (queue(&client, "bad").await, Name::from(unique("mine")));
    client.declare(&Topology::new().queue(QueueDecl::new(mine.clone()).exclusive())).await.unwrap();
    let mut consumers = [consume(&client, &bad, 1).await, consume(&client, &mine, 1).await];

    poison(&node, &bad).await;
    let given_up = soon("the error", consumers[0].next()).await.expect("it says why");
    assert!(given_up.is_err());

    // It went with its connection, and is back with the next.
    let sent = async || client.broker().publish(message(&mine, "x")).await.is_ok();
    until("the exclusive queue to be there", sent).await;
    next(&mut consumers[1]).await.settle(Settlement::Ack).await.unwrap();
    client.close().await;
}

/// The queue by which all delayed jobs come is given up like any other, and tried again.
async fn delays_go_on_when_the_message_is_gone(node: Private) {
    let namespace = unique("namespace");
    let client = connect(&node.url, builder().namespace(namespace.clone()).unwrap()).await;
    let queue = queue(&client, "delayed").await;
    let mut consumer = consume(&client, &queue, 1).await;
    let due = client.namespace().due();

    poison(&node, &due).await;
    let said = || log::lines(&["ERROR", &due, "delayed jobs cannot be routed"]);
    until("the queue to be given up", async || !said().is_empty()).await;
    assert_eq!(client.operator().unwrap().purge(&due).await.unwrap(), 1);

    let mut delayed = message(&queue, "x");
    delayed.not_before = Some(SystemTime::now() + Duration::from_millis(200));
    client.broker().publish(delayed).await.unwrap();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    client.close().await;
}
