//! A queue that is deleted under its consumer: declared again where it is ours, waited for where it is not. Never a busy
//! loop, and one line in the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret::{Task, task};
use queue_core::broker::Publish;
use queue_core::envelope::Envelope;
use queue_core::settlement::Settlement;
use queue_core::topology::{BindingDecl, Name, QueueDecl, Topology};

use crate::support::{
    Book, Node, Private, Proxy, client, consume, fresh, log, message, next, queue, soon, unique, until, work,
};

on_each!(Node:
    deleted_queue_of_a_worker_is_declared_again,
    deleted_queue_of_ours_costs_one_attempt_and_one_line,
    deleted_queue_of_somebody_else_is_waited_for,
    deleted_queue_is_declared_again_though_another_cannot_be,
);

mod operator {
    on_each!(Private: deleted_exclusive_queue_is_declared_again_with_its_bindings);

    use super::deleted_exclusive_queue_is_declared_again_with_its_bindings;
}

#[task(queue = "test.faults.deleted")]
async fn deleted(book: &Book, number: u64) {
    book.ran(number);
}

async fn deleted_queue_of_a_worker_is_declared_again(node: Node) {
    let direct = client(&node.url).await;
    fresh::<Deleted>(&direct).await;
    let (client, book) = (client(&node.url).await, Arc::new(Book::default()));
    let worker = work::<Deleted>(&client, &book);
    client.enqueue(Deleted { number: 0 }).await.unwrap();
    book.until_ran(1).await;

    direct.operator().unwrap().delete(Deleted::queue().name()).await.unwrap();
    until("the queue and its consumer", async || {
        let stats = direct.operator().unwrap().inspect(Deleted::queue().name()).await;
        stats.is_ok_and(|stats| stats.consumers == 1)
    })
    .await;

    client.enqueue(Deleted { number: 1 }).await.unwrap();
    book.until_ran(2).await;
    worker.stop().await;
    // With the same arguments as before, dead-lettering and all: another client finds nothing to object to.
    direct.declare_queue(Deleted::queue()).await.unwrap();
    client.close().await;
    direct.close().await;
}

async fn deleted_queue_of_ours_costs_one_attempt_and_one_line(node: Node) {
    let direct = client(&node.url).await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    let queue = queue(&client, "ours").await;
    let mut consumer = consume(&client, &queue, 1).await;
    let asked = proxy.sent(queue.as_bytes());

    direct.operator().unwrap().delete(&queue).await.unwrap();
    until("the queue and its consumer", async || {
        direct.operator().unwrap().inspect(&queue).await.is_ok_and(|stats| stats.consumers == 1)
    })
    .await;

    direct.broker().publish(message(&queue, "x")).await.unwrap();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    assert_eq!(proxy.sent(queue.as_bytes()) - asked, 2, "one declaration and one `basic.consume`");
    let said = log::lines(&[&queue]);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("WARN") && said[0].contains("deleted"), "{said:?}");
    // RabbitMQ 4.3 ends a consumer in the same way when its job ran for too long.
    assert!(said[0].contains("consumer_timeout"), "{said:?}");
    soon("the close", client.close()).await;
    direct.close().await;
}

async fn deleted_queue_of_somebody_else_is_waited_for(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "theirs").await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    let mut consumer = consume(&client, &queue, 1).await;
    let asked = proxy.sent(queue.as_bytes());

    direct.operator().unwrap().delete(&queue).await.unwrap();
    let since = Instant::now();
    until("five attempts", async || proxy.sent(queue.as_bytes()) >= asked + 5).await;

    // After pauses of 100, 200, 400, 800 and 1600 ms; a busy loop would have been through at once.
    assert!(since.elapsed() >= Duration::from_millis(3000), "{:?}", since.elapsed());
    let said = log::lines(&[&queue]);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("WARN") && said[0].contains("deleted"), "{said:?}");
    let decl = QueueDecl::new(queue.clone()).argument("x-expires", 600_000_i64);
    direct.declare(&Topology::new().queue(decl)).await.unwrap();
    direct.broker().publish(message(&queue, unique("x"))).await.unwrap();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    client.close().await;
    direct.close().await;
}

/// That a refusal closes the channel must not cost the queues behind it.
async fn deleted_queue_is_declared_again_though_another_cannot_be(node: Node) {
    let (direct, client) = (client(&node.url).await, client(&node.url).await);
    let theirs = queue(&client, "theirs").await;
    let ours = queue(&client, "ours").await;
    let mut consumer = consume(&client, &ours, 1).await;
    direct.operator().unwrap().delete(&theirs).await.unwrap();
    let other =
        QueueDecl::new(theirs.clone()).argument("x-expires", 600_000_i64).argument("x-max-length", 1_i64);
    direct.declare(&Topology::new().queue(other)).await.unwrap();

    direct.operator().unwrap().delete(&ours).await.unwrap();
    until("it is declared again", async || direct.operator().unwrap().inspect(&ours).await.is_ok()).await;

    client.broker().publish(message(&ours, "x")).await.unwrap();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    let said = log::lines(&["ERROR", "cannot be declared again", &theirs, "x-max-length"]);
    assert!(!said.is_empty(), "nothing is said of the other");
    client.close().await;
    direct.close().await;
}

/// Only by an operator: other clients may not delete it.
async fn deleted_exclusive_queue_is_declared_again_with_its_bindings(node: Private) {
    let client = client(&node.url).await;
    let mine = Name::from(unique("mine"));
    let binding = BindingDecl::new("amq.direct", mine.clone(), mine.clone());
    let topology = Topology::new().queue(QueueDecl::new(mine.clone()).exclusive()).binding(binding);
    client.declare(&topology).await.unwrap();
    let mut consumer = consume(&client, &mine, 1).await;

    node.ctl(&["delete_queue", &mine]).await;

    let sent = async || {
        let mut message = Publish::to_exchange("amq.direct", mine.clone(), Envelope::new("x"));
        message.mandatory = true;
        client.broker().publish(message).await.is_ok()
    };
    until("the queue to be there, and bound", sent).await;
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    client.close().await;
}
