//! Stopping consumers and closing clients.

use futures_util::future::join_all;
use leveret::{ErrorKind, PublishError};
use queue_core::broker::{ConsumeOptions, Health};
use queue_core::error::SettleError;
use queue_core::settlement::Settlement;
use queue_core::topology::{QueueDecl, Topology};

use crate::support::fixture::message;
use crate::support::wait::PATIENCE;
use crate::support::{Fixture, next, take, text, until_ready};

pub(crate) async fn broker_says_what_it_is(t: &Fixture) {
    let info = t.broker.info();

    assert!(["memory", "sqlite", "rabbitmq"].contains(&info.system), "{info:?}");
    assert_eq!(info.health, Health::Up);
}

/// What is already here can be worked on or given back; nothing more is sent.
pub(crate) async fn stopped_consumer_ends_after_what_is_here(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, (0..20).map(|n| n.to_string())).await;
    let mut consumer = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(5)).await;
    let first = next(&mut consumer).await;
    // All five are here, or on their way to us.
    until_ready(&*t.broker, &queue, 15).await;

    consumer.stop();
    first.settle(Settlement::Ack).await.unwrap();
    let mut rest = 0;
    while let Some(delivery) = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("an end") {
        rest += 1;
        delivery.unwrap().settle(Settlement::Ack).await.unwrap();
    }

    // One more could have come in between the stop and its arrival at the broker, for the one that was acked.
    assert!(rest <= 5, "{rest} came after the stop");
    let mut other = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(20)).await;
    take(&mut other, 19 - rest).await;
    until_ready(&*t.broker, &queue, 0).await;
}

pub(crate) async fn stopped_consumer_takes_no_new_jobs(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let mut stopped = t.consume(&queue).await;

    stopped.stop();
    let end = tokio::time::timeout(PATIENCE, stopped.next()).await.expect("an end");
    assert!(end.is_none(), "{end:?}");
    t.send(&queue, ["job"]).await;
    let mut other = t.consume(&queue).await;

    assert_eq!(take(&mut other, 1).await, ["job"]);
    let end = tokio::time::timeout(PATIENCE, stopped.next()).await.expect("an end, still");
    assert!(end.is_none(), "{end:?}");
}

pub(crate) async fn finished_consumer_has_settled_what_was_taken_and_given_back_the_rest(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, (0..10).map(|n| n.to_string())).await;
    let mut consumer = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(5)).await;
    assert_eq!(take(&mut consumer, 2).await, ["0", "1"]);

    tokio::time::timeout(PATIENCE, consumer.finish()).await.expect("an end");

    until_ready(&*t.broker, &queue, 8).await;
}

pub(crate) async fn consumer_finishes_while_a_delivery_is_held(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, ["held"]).await;
    let mut consumer = t.consume(&queue).await;
    let held = next(&mut consumer).await;

    tokio::time::timeout(PATIENCE, consumer.finish()).await.expect("an end");
    held.settle(Settlement::Ack).await.unwrap();
    t.send(&queue, ["next"]).await;

    assert_eq!(take(&mut t.consume(&queue).await, 1).await, ["next"]);
}

pub(crate) async fn closed_client_says_so(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let client = t.other_client().await;
    let broker = client.broker();
    let mut consumer = broker.consume(ConsumeOptions::new(queue.clone())).await.unwrap();
    t.send(&queue, ["held"]).await;
    let held = next(&mut consumer).await;

    client.close().await;
    // Twice is fine, also at once.
    join_all([client.close(), client.close()]).await;

    let end = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("an end");
    assert!(end.is_none(), "{end:?}");
    let settled = held.settle(Settlement::Ack).await;
    assert!(matches!(settled, Err(SettleError::Lost)), "{settled:?}");
    let published = broker.publish(message(&queue, "job")).await;
    assert!(matches!(published, Err(PublishError::Closed)), "{published:?}");
    let batch = broker.publish_all(vec![message(&queue, "a"), message(&queue, "b")]).await;
    assert!(matches!(batch[..], [Err(PublishError::Closed), Err(PublishError::Closed)]), "{batch:?}");
    let declared = broker.declare(&Topology::new().queue(QueueDecl::new(queue.clone()))).await;
    assert_eq!(declared.unwrap_err().kind(), ErrorKind::Closed);
    let consumed = broker.consume(ConsumeOptions::new(queue.clone())).await;
    assert_eq!(consumed.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(broker.inspect(&queue).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(broker.purge(&queue).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(broker.delete(&queue).await.unwrap_err().kind(), ErrorKind::Closed);
    // Others are untouched.
    let mut ours = t.consume(&queue).await;
    assert_eq!(text(&next(&mut ours).await), "held");
}

/// What was being published when the client closed is either kept or refused, and the answer is true.
pub(crate) async fn close_answers_everybody_who_waits(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let client = t.other_client().await;
    let publishing: Vec<_> = (0..50)
        .map(|n| {
            let (client, publish) = (client.clone(), message(&queue, n.to_string()));
            tokio::spawn(async move { client.broker().publish(publish).await })
        })
        .collect();
    tokio::task::yield_now().await;

    client.close().await;
    let results =
        tokio::time::timeout(PATIENCE, join_all(publishing)).await.expect("an answer for everybody");

    let results: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    let kept = results.iter().filter(|result| result.is_ok()).count() as u64;
    let unknown = results.iter().filter(|result| matches!(result, Err(PublishError::Unconfirmed { .. })));
    let unknown = unknown.count() as u64;
    let there = crate::support::ready(&*t.broker, &queue).await;
    assert!((kept..=kept + unknown).contains(&there), "{there} are there: {results:?}");
}

/// A worker closes its client while its consumer waits.
pub(crate) async fn close_ends_a_consumer_that_waits(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let client = t.other_client().await;
    let mut consumer = client.broker().consume(ConsumeOptions::new(queue)).await.unwrap();
    let waiting = tokio::spawn(async move { consumer.next().await.is_none() });
    tokio::task::yield_now().await;

    client.close().await;

    assert!(tokio::time::timeout(PATIENCE, waiting).await.expect("it wakes").unwrap());
}
