//! A node that freezes, of several that the URL names: it keeps its connections, and says nothing. While somebody waits it is
//! left within seconds, long before its heartbeats are missed. A node whose queue hangs is not frozen, nor is one
//! that has said why it takes no messages.

use std::collections::HashMap;
use std::future::IntoFuture as _;
use std::time::{Duration, Instant};

use leveret::{PublishError, Worker, task};
use queue_core::settlement::Settlement;
use queue_core::topology::{Name, QueueDecl, Topology};

use crate::operator::tell_process;
use crate::support::{
    Node, Private, Proxy, Role, builder, client, connect, consume, log, message, next, queue, ready, run,
    send, soon, text, unique, until,
};

on_each!(Node:
    frozen_node_is_left_while_somebody_waits,
    frozen_first_host_holds_up_no_start,
    node_that_answers_while_it_is_asked_is_kept,
    node_that_answers_calls_is_not_asked,
);

mod private {
    use super::{
        node_that_blocks_publishers_is_kept, node_whose_queue_hangs_is_kept,
        suspended_node_is_left_and_nothing_is_lost,
    };

    on_each!(Private:
        suspended_node_is_left_and_nothing_is_lost,
        node_whose_queue_hangs_is_kept,
        node_that_blocks_publishers_is_kept,
    );
}

/// How soon a frozen node is left. Two heartbeats would be 30 s.
const LEFT: Duration = Duration::from_secs(12);

/// The URL that names both.
fn both(first: &Proxy, second: &Proxy) -> String {
    let host = |proxy: &Proxy| format!("127.0.0.1:{}", proxy.port());
    first.url("").replace(&host(first), &format!("{},{}", host(first), host(second)))
}

async fn frozen_node_is_left_while_somebody_waits(node: Node) {
    let direct = client(&node.url).await;
    let (published, consumed) = (queue(&direct, "frozen").await, queue(&direct, "frozen").await);
    let (first, second) = (Proxy::to(&node.url), Proxy::to(&node.url));
    let client = client(&both(&first, &second)).await;
    let mut consumer = consume(&client, &consumed, 1).await;
    client.broker().publish(message(&published, "before")).await.unwrap();
    assert_eq!(second.accepted(), 0);

    first.freeze();
    let frozen = Instant::now();
    send(&client, &published, 100).await;
    let confirmed = frozen.elapsed();
    // Whose connection was frozen as well. The node, which is well, may still send one to that.
    send(&direct, &consumed, 2).await;
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    let delivered = frozen.elapsed();

    assert!(confirmed < LEFT, "confirmed after {confirmed:?}");
    assert!(delivered < LEFT, "delivered after {delivered:?}");
    assert!(!log::lines(&["WARN", "says nothing", &first.port().to_string()]).is_empty());
    // What the frozen node was sent had not arrived; what comes now is new.
    assert_eq!(ready(&direct, &published).await, 101);
    client.close().await;
    direct.close().await;
}

async fn frozen_first_host_holds_up_no_start(node: Node) {
    let (first, second) = (Proxy::to(&node.url), Proxy::to(&node.url));
    first.freeze();

    let since = Instant::now();
    let client = client(&both(&first, &second)).await;
    let took = since.elapsed();

    // `socket_timeout` would be ten seconds.
    assert!(took < Duration::from_secs(7), "connected after {took:?}");
    client.close().await;
}

/// The question takes seconds. What has come by then counts, not only whether it was answered itself.
async fn node_that_answers_while_it_is_asked_is_kept(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "slow").await;
    let (first, second) = (Proxy::to(&node.url), Proxy::to(&node.url));
    let client = client(&both(&first, &second)).await;
    client.broker().publish(message(&queue, "before")).await.unwrap();
    let before = first.accepted();

    first.freeze();
    let publishing = client.broker().publish(message(&queue, "x"));
    let thawing = async {
        first.until_accepted(before).await;
        // The question by a connection, which from now on is the only one that hangs.
        first.freeze_only(Role::Question);
        Instant::now()
    };
    let (published, thawed) = tokio::join!(publishing, thawing);
    published.unwrap();
    until("the verdict", async || thawed.elapsed() > Duration::from_secs(5)).await;

    assert_eq!(second.accepted(), 0, "a healthy node was left");
    assert!(log::lines(&["says nothing", &first.port().to_string()]).is_empty());
    first.pass();
    client.close().await;
    direct.close().await;
}

#[task(queue = "test.faults.frozen.asked", queue_type = "classic", dlx = none, concurrency = 10)]
async fn asked(number: u64) -> Result<u64, std::convert::Infallible> {
    Ok(number)
}

async fn node_that_answers_calls_is_not_asked(node: Node) {
    let working = client(&node.url).await;
    let worker = run(Worker::new(&working).task::<Asked>());
    let (first, second) = (Proxy::to(&node.url), Proxy::to(&node.url));
    let client = client(&both(&first, &second)).await;
    soon("a reply", client.call(Asked { number: 0 }).into_future()).await.unwrap();

    // One call is always waiting. Two seconds of silence would be asked about.
    let since = Instant::now();
    let calls = async || {
        while since.elapsed() < Duration::from_secs(5) {
            assert_eq!(client.call(Asked { number: 1 }).await.unwrap(), 1);
        }
    };
    tokio::join!(calls(), calls(), calls());

    let said = log::lines(&["the node answers", &first.port().to_string()]);
    assert!(said.is_empty(), "{said:?}");
    assert_eq!(second.accepted(), 0);
    worker.stop().await;
    client.close().await;
    working.close().await;
}

/// One node of its own, and as the next host one that others use. They are no cluster, so each has a queue of that name.
async fn suspended_node_is_left_and_nothing_is_lost(node: Private) {
    let other = Node::of(node.number).await.unwrap();
    let (here, there) = (client(&node.url).await, client(&other.url).await);
    let queue: Name = unique("suspended").into();
    for client in [&here, &there] {
        let decl = QueueDecl::new(queue.clone()).argument("x-expires", 600_000_i64);
        client.declare(&Topology::new().queue(decl)).await.unwrap();
    }
    let host = |url: &str| url.split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
    let hosts = format!("{},{}", host(&node.url), host(&other.url));
    let both = client(&node.url.replace(&host(&node.url), &hosts)).await;
    both.broker().publish(message(&queue, "before")).await.unwrap();

    node.signal("STOP").await;
    let frozen = Instant::now();
    let batch = (0..500).map(|number| message(&queue, number.to_string())).collect();
    let (alone, batch) =
        tokio::join!(both.broker().publish(message(&queue, "alone")), both.broker().publish_all(batch));
    let took = frozen.elapsed();
    node.signal("CONT").await;

    alone.unwrap();
    batch.into_iter().for_each(|outcome| outcome.unwrap());
    assert!(took < LEFT, "confirmed after {took:?}");
    assert_eq!(ready(&there, &queue).await, 501);
    // What the suspended node had been sent may be there too: once, under the same id.
    let mut elsewhere = HashMap::new();
    let mut consumer = consume(&there, &queue, 600).await;
    for _ in 0..501 {
        let delivery = next(&mut consumer).await;
        elsewhere.insert(delivery.envelope.id.clone(), text(&delivery));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    let mut consumer = consume(&here, &queue, 600).await;
    let before = next(&mut consumer).await;
    assert_eq!(text(&before), "before");
    before.settle(Settlement::Ack).await.unwrap();
    // When it has seen the ends of the other client's connections, nothing more comes.
    let is_over = async || node.ctl(&["list_connections", "state"]).await.matches("running").count() == 2;
    until("the connections' ends", is_over).await;
    while let Some(delivery) = consumer.try_next() {
        let delivery = delivery.unwrap();
        assert_eq!(
            elsewhere.remove(&delivery.envelope.id),
            Some(text(&delivery)),
            "a third copy, or another id"
        );
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    for client in [here, there, both] {
        client.close().await;
    }
}

/// As a quorum queue without a majority. So many messages to it, that the server reads no more from their connection.
async fn node_whose_queue_hangs_is_kept(node: Private) {
    let direct = client(&node.url).await;
    let stuck = queue(&direct, "stuck").await;
    let (first, second) = (Proxy::to(&node.url), Proxy::to(&node.url));
    let client = client(&both(&first, &second)).await;
    client.broker().publish(message(&stuck, "before")).await.unwrap();
    tell_process(&node, "suspend", &stuck).await;

    let publishing = tokio::spawn({
        let batch = (0..2000).map(|number| message(&stuck, number.to_string())).collect();
        let client = client.clone();
        async move { client.broker().publish_all(batch).await }
    });
    let port = first.port().to_string();
    until("an answer", async || !log::lines(&["the node answers", &port]).is_empty()).await;

    assert!(!publishing.is_finished(), "the queue was not stuck");
    assert_eq!(second.accepted(), 0, "a healthy node was left");
    tell_process(&node, "resume", &stuck).await;
    for published in soon("the confirms", publishing).await.unwrap() {
        published.unwrap();
    }
    assert_eq!(first.opened(Role::Publisher), 1);
    client.close().await;
    direct.close().await;
}

async fn node_that_blocks_publishers_is_kept(node: Private) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "blocked").await;
    let (first, second) = (Proxy::to(&node.url), Proxy::to(&node.url));
    // Longer than a frozen node would be given.
    let client = connect(&both(&first, &second), builder().publish_timeout(LEFT)).await;
    client.broker().publish(message(&queue, "before")).await.unwrap();

    node.ctl(&["set_vm_memory_high_watermark", "0"]).await;
    let unconfirmed = soon("an answer", client.broker().publish(message(&queue, "x"))).await;
    node.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;

    assert!(matches!(unconfirmed, Err(PublishError::Unconfirmed { .. })), "{unconfirmed:?}");
    assert_eq!(second.accepted(), 0, "a healthy node was left");
    client.broker().publish(message(&queue, "after")).await.unwrap();
    assert_eq!(first.opened(Role::Publisher), 1);
    client.close().await;
    direct.close().await;
}
