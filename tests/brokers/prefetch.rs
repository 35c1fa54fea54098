//! Prefetch is exact: a consumer holds so many unsettled deliveries, and not one more.

use std::collections::VecDeque;

use queue_core::broker::{ConsumeOptions, Consumer};
use queue_core::settlement::Settlement;
use queue_core::topology::Name;

use crate::support::{Fixture, next, ready, take, text, until_ready};

/// Nothing signals that a delivery does *not* come. But the queue has handled one more message, and says that all
/// that were ready are so still.
async fn assert_no_more_is_sent(t: &Fixture, queue: &Name, consumer: &mut Consumer, ready_before: u64) {
    until_ready(&*t.broker, queue, ready_before).await;
    t.send(queue, ["one more"]).await;
    assert_eq!(ready(&*t.broker, queue).await, ready_before + 1);
    assert!(consumer.try_next().is_none());
}

pub(crate) async fn prefetch_is_exact(t: &Fixture) {
    for prefetch in [1_u16, 2, 10] {
        let queue = t.quorum_queue("jobs").await;
        t.send(&queue, (0..30).map(|n| n.to_string())).await;
        let mut consumer = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(prefetch)).await;

        let mut held = Vec::new();
        for _ in 0..prefetch {
            held.push(next(&mut consumer).await);
        }
        let left = 30 - u64::from(prefetch);
        assert_no_more_is_sent(t, &queue, &mut consumer, left).await;

        // One settlement makes room for one.
        held.remove(0).settle(Settlement::Ack).await.unwrap();
        held.push(next(&mut consumer).await);
        assert_no_more_is_sent(t, &queue, &mut consumer, left).await;
    }
}

pub(crate) async fn fifty_jobs_pass_under_prefetch_two(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    t.send(&queue, (0..50).map(|n| n.to_string())).await;
    let mut consumer = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(2)).await;
    let mut held = VecDeque::new();
    let mut seen = Vec::new();

    while seen.len() < 50 {
        while held.len() < 2 && seen.len() + held.len() < 50 {
            held.push_back(next(&mut consumer).await);
        }
        assert!(consumer.try_next().is_none(), "a third delivery while two are unsettled");
        let oldest = held.pop_front().expect("two are held");
        seen.push(text(&oldest));
        oldest.settle(Settlement::Ack).await.unwrap();
    }

    assert_eq!(seen, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// Every kind of settlement frees the slot it held.
pub(crate) async fn each_settlement_makes_room_for_one(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    t.send(queue.name(), ["acked", "dead", "retried", "dropped"]).await;
    let mut consumer = t.work(&queue, 1).await;

    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    next(&mut consumer).await.settle(crate::settle::dead_letter("no")).await.unwrap();
    next(&mut consumer).await.settle(crate::settle::retry_at_once()).await.unwrap();
    drop(next(&mut consumer).await);

    let mut left = take(&mut consumer, 2).await;
    left.sort();
    assert_eq!(left, ["dropped", "retried"]);
}

pub(crate) async fn two_consumers_share_the_work(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let other = t.other_client().await;
    let mut ours = t.consume(&queue).await;
    let mut theirs = other.broker().consume(ConsumeOptions::new(queue.clone())).await.unwrap();
    t.send(&queue, (0..20).map(|n| n.to_string())).await;

    // Both hold one at any time, so that neither can have taken what the other could have worked on.
    for _ in 0..10 {
        let (one, another) = (next(&mut ours).await, next(&mut theirs).await);
        one.settle(Settlement::Ack).await.unwrap();
        another.settle(Settlement::Ack).await.unwrap();
    }

    until_ready(&*t.broker, &queue, 0).await;
}

pub(crate) async fn busy_consumer_hoards_nothing(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let mut busy = t.consume(&queue).await;
    t.send(&queue, ["long"]).await;
    let long = next(&mut busy).await;
    t.send(&queue, (0..10).map(|n| n.to_string())).await;

    let mut idle = t.consume(&queue).await;

    assert_eq!(take(&mut idle, 10).await, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    long.settle(Settlement::Ack).await.unwrap();
}

/// A wide prefetch is not a first-come monopoly: who consumes gets a share.
pub(crate) async fn deliveries_go_round_among_consumers(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let wide = || ConsumeOptions::new(queue.clone()).prefetch(40);
    let (mut one, mut another) = (t.consume_with(wide()).await, t.consume_with(wide()).await);

    t.send(&queue, (0..40).map(|n| n.to_string())).await;

    // Each is promised at least a quarter; twenty each is what brokers do.
    take(&mut one, 10).await;
    take(&mut another, 10).await;
}
