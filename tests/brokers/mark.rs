//! A holder writes into a message that is out ([`Delivery::mark`]): the next holder finds it if this one was lost, and only then.
//! RabbitMQ cannot, and says so.

use queue_core::broker::{ConsumeOptions, Delivery};
use queue_core::envelope::{HeaderValue, header};
use queue_core::error::SettleError;
use queue_core::settlement::Settlement;
use queue_core::topology::Name;

use crate::settle::retry_at_once;
use crate::support::{Fixture, next, take, text, until_ready};

/// Marks the delivery. `false` on a broker that cannot, whose deliveries then say nothing of it.
async fn mark(t: &Fixture, delivery: &mut Delivery, by: &str) -> bool {
    let is_kept = delivery.mark(header::BEGUN, by.into()).await.unwrap();
    assert_eq!(is_kept, t.broker.info().system != "rabbitmq");
    assert_eq!(mark_of(delivery).as_deref(), is_kept.then_some(by));
    is_kept
}

fn mark_of(delivery: &Delivery) -> Option<String> {
    delivery.envelope.headers.get(header::BEGUN).and_then(HeaderValue::as_str).map(str::to_owned)
}

/// Another client takes a job, marks it, and is gone with it.
async fn lose_marked(t: &Fixture, queue: &Name, by: &str) {
    let worker = t.other_client().await;
    let mut consumer = worker.broker().consume(ConsumeOptions::new(queue.clone())).await.unwrap();
    let mut unsettled = next(&mut consumer).await;
    mark(t, &mut unsettled, by).await;
    worker.close().await;
}

pub(crate) async fn mark_stays_when_its_holder_is_lost(t: &Fixture) {
    for queue in [t.quorum_queue("quorum").await, t.plain_queue("classic").await] {
        t.send(&queue, ["job", "other"]).await;
        lose_marked(t, &queue, "first").await;
        lose_marked(t, &queue, "second").await;

        let mut consumer = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(2)).await;
        let (job, other) = (next(&mut consumer).await, next(&mut consumer).await);

        assert_eq!((text(&job), text(&other)), ("job".to_owned(), "other".to_owned()), "of `{queue}`");
        let is_kept = t.broker.info().system != "rabbitmq";
        assert_eq!(mark_of(&job).as_deref(), is_kept.then_some("second"), "of `{queue}`");
        assert_eq!(mark_of(&other), None, "another job of `{queue}` is not marked");
    }
}

pub(crate) async fn mark_goes_when_its_holder_gives_the_job_back(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, ["job"]).await;
    let mut consumer = t.consume(&queue).await;
    for turn in 0..4 {
        let mut delivery = next(&mut consumer).await;
        assert_eq!(mark_of(&delivery), None, "given back {turn} times");
        mark(t, &mut delivery, "first").await;
        mark(t, &mut delivery, "first, again").await;
        if turn % 2 == 0 {
            delivery.settle(Settlement::Release).await.unwrap();
        } else {
            drop(delivery);
        }
    }
    // No longer this consumer's.
    let unmarked = next(&mut consumer).await;
    consumer.finish().await;
    drop(unmarked);
    until_ready(&*t.broker, &queue, 1).await;
    lose_marked(t, &queue, "lost").await;

    let mut consumer = t.consume(&queue).await;
    let mut delivery = next(&mut consumer).await;
    let of_the_lost = mark_of(&delivery);
    mark(t, &mut delivery, "second").await;
    drop(delivery);

    let delivery = next(&mut consumer).await;
    assert_eq!(mark_of(&delivery), of_the_lost, "it is as its last holder found it");
    assert_eq!(of_the_lost.is_some(), t.broker.info().system != "rabbitmq");
}

pub(crate) async fn marked_job_is_settled_as_any_other(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, ["job"]).await;
    let mut consumer = t.consume(&queue).await;
    let mut delivery = next(&mut consumer).await;
    mark(t, &mut delivery, "worker").await;

    delivery.settle(retry_at_once()).await.unwrap();
    let mut delivery = next(&mut consumer).await;
    assert_eq!((text(&delivery), delivery.envelope.attempt), ("job".to_owned(), 2));
    mark(t, &mut delivery, "worker, again").await;
    delivery.settle(Settlement::Ack).await.unwrap();

    t.send(&queue, ["marker"]).await;
    assert_eq!(take(&mut consumer, 1).await, ["marker"]);
    until_ready(&*t.broker, &queue, 0).await;
}

pub(crate) async fn mark_of_a_lost_delivery_is_an_error(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, ["job"]).await;
    let worker = t.other_client().await;
    let mut consumer = worker.broker().consume(ConsumeOptions::new(queue.clone())).await.unwrap();
    let mut lost = next(&mut consumer).await;
    worker.close().await;

    let marked = lost.mark(header::BEGUN, "too late".into()).await;

    let is_refused = match t.broker.info().system {
        "rabbitmq" => matches!(marked, Ok(false)),
        _ => matches!(marked, Err(SettleError::Lost)),
    };
    assert!(is_refused, "{marked:?}");
    let mut consumer = t.consume(&queue).await;
    assert_eq!(mark_of(&next(&mut consumer).await), None);
}
