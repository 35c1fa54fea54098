//! A peer that vanishes without closing: the connection stays open and silent. Heartbeats find that out within twice
//! their interval, whether the connection was idle or had much to send.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use leveret::PublishError;
use queue_core::settlement::Settlement;

use crate::support::{
    Node, Proxy, builder, client, connect, consume, message, next, queue, ready, send, soon, text, until,
};

on_each!(Node:
    idle_connections_are_given_up_within_two_heartbeats,
    connection_with_a_full_send_buffer_is_given_up_as_well,
    publish_without_an_answer_is_unconfirmed_and_never_ok,
    close_ends_within_its_deadline,
);

const HEARTBEAT: Duration = Duration::from_secs(2);
/// How much later a busy machine may notice.
const SLACK: Duration = Duration::from_secs(2);

fn options() -> String {
    format!("heartbeat={}&socket_timeout=2", HEARTBEAT.as_secs())
}

async fn idle_connections_are_given_up_within_two_heartbeats(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "idle").await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url(&options())).await;
    let mut consumer = consume(&client, &queue, 1).await;
    until("both connections, and no others", async || proxy.client_sockets() == 2).await;
    let opened = proxy.accepted();

    proxy.freeze();
    let frozen = Instant::now();
    // Both roles dial anew; what they dial does not answer either.
    proxy.until_accepted(opened + 1).await;

    let noticed = frozen.elapsed();
    assert!(noticed <= 2 * HEARTBEAT + SLACK, "noticed after {noticed:?}");
    proxy.pass();
    send(&direct, &queue, 1).await;
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    client.broker().publish(message(&queue, "x")).await.unwrap();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    until("the old sockets to be gone", async || proxy.client_sockets() == 2).await;
    client.close().await;
    direct.close().await;
}

async fn connection_with_a_full_send_buffer_is_given_up_as_well(node: Node) {
    const COUNT: usize = 300;
    let direct = client(&node.url).await;
    let queue = queue(&direct, "full").await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url(&options())).await;
    client.broker().publish(message(&queue, "warm")).await.unwrap();
    until("one connection, and no others", async || proxy.client_sockets() == 1).await;
    let opened = proxy.accepted();

    proxy.freeze();
    let frozen = Instant::now();
    // More than the kernel's buffers on the way take.
    let bodies = (0..COUNT).map(|number| format!("{number:0>60000}"));
    let messages = bodies.map(|body| message(&queue, body)).collect();
    let publishing = tokio::spawn({
        let client = client.clone();
        async move { client.broker().publish_all(messages).await }
    });
    proxy.until_accepted(opened).await;

    let noticed = frozen.elapsed();
    assert!(noticed <= 2 * HEARTBEAT + SLACK, "noticed after {noticed:?}");
    assert!(!publishing.is_finished(), "nothing can be confirmed");
    proxy.pass();
    for published in soon("the confirms", publishing).await.unwrap() {
        published.unwrap();
    }
    let mut consumer = consume(&direct, &queue, 50).await;
    let mut seen = HashSet::new();
    while seen.len() < COUNT + 1 {
        let delivery = next(&mut consumer).await;
        seen.insert(text(&delivery));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    until("the old socket to be gone", async || proxy.client_sockets() == 1).await;
    client.close().await;
    direct.close().await;
}

async fn publish_without_an_answer_is_unconfirmed_and_never_ok(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "unconfirmed").await;
    let proxy = Proxy::to(&node.url);
    let client = connect(&proxy.url(""), builder().publish_timeout(Duration::from_millis(500))).await;
    client.broker().publish(message(&queue, "warm")).await.unwrap();

    proxy.freeze();
    let published = soon("an answer", client.broker().publish(message(&queue, "x"))).await;

    let Err(PublishError::Unconfirmed { waited }) = published else { panic!("{published:?}") };
    assert_eq!(waited, Duration::from_millis(500));
    // Nor after the connection is replaced: nobody waits for it any more, so it is not sent again.
    proxy.reset();
    until("the connection", async || client.broker().publish(message(&queue, "y")).await.is_ok()).await;
    assert!((2..=3).contains(&ready(&direct, &queue).await));
    client.close().await;
    direct.close().await;
}

async fn close_ends_within_its_deadline(node: Node) {
    let direct = client(&node.url).await;
    let queue = queue(&direct, "close").await;
    send(&direct, &queue, 3).await;
    let proxy = Proxy::to(&node.url);
    let client = client(&proxy.url("")).await;
    let mut consumer = consume(&client, &queue, 2).await;
    let _held = next(&mut consumer).await;
    proxy.freeze();
    let publishing = tokio::spawn({
        let (client, message) = (client.clone(), message(&queue, "x"));
        async move { client.broker().publish(message).await }
    });
    until("the publish to be on its way", async || proxy.client_sockets() >= 2).await;

    let since = Instant::now();
    client.close().await;

    assert!(since.elapsed() <= Duration::from_secs(10) + SLACK, "{:?}", since.elapsed());
    let published = soon("an answer", publishing).await.unwrap();
    assert!(
        matches!(published, Err(PublishError::Unconfirmed { .. } | PublishError::Closed)),
        "{published:?}"
    );
    soon("the consumer's end", async { while consumer.next().await.is_some() {} }).await;
    until("the sockets to be gone", async || proxy.client_sockets() == 0).await;
    direct.close().await;
}
