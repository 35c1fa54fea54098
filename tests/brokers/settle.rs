//! What becomes of a delivery: `Ack | Retry | Release`, a delivery dropped, a worker gone. Dead letters stand in
//! [`dead_letter`](crate::dead_letter).

use std::collections::HashSet;
use std::time::{Duration, Instant, UNIX_EPOCH};

use queue_core::broker::{ConsumeOptions, Consumer, Publish};
use queue_core::envelope::{Envelope, HeaderValue, header};
use queue_core::error::SettleError;
use queue_core::settlement::{Reason, ReasonKind, Settlement};
use queue_core::topology::{Name, QueueDecl, Topology};

use crate::support::fixture::message;
use crate::support::{Fixture, next, take, text, until, until_ready};

pub(crate) fn dead_letter(why: &str) -> Settlement {
    Settlement::DeadLetter { reason: Reason::new(ReasonKind::Permanent, why) }
}

pub(crate) fn retry_in(after: Duration) -> Settlement {
    Settlement::Retry { after, attempt: 2, reason: Reason::new(ReasonKind::Failed, "not this time") }
}

pub(crate) fn retry_at_once() -> Settlement {
    retry_in(Duration::ZERO)
}

pub(crate) async fn acked_job_never_comes_back(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let client = t.other_client().await;
    t.send(&queue, ["acked"]).await;
    let mut consumer = client.broker().consume(ConsumeOptions::new(queue.clone())).await.unwrap();

    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    client.close().await;
    t.send(&queue, ["marker"]).await;
    let mut consumer = t.consume(&queue).await;

    assert_eq!(take(&mut consumer, 1).await, ["marker"]);
    until_ready(&*t.broker, &queue, 0).await;
}

pub(crate) async fn unsettled_job_comes_back(t: &Fixture) {
    for queue in [t.quorum_queue("quorum").await, t.plain_queue("classic").await] {
        let client = t.other_client().await;
        t.send(&queue, ["unfinished"]).await;
        let mut consumer = client.broker().consume(ConsumeOptions::new(queue.clone())).await.unwrap();
        let unsettled = next(&mut consumer).await;
        assert!(!unsettled.redelivered);

        client.close().await;
        let mut consumer = t.consume(&queue).await;
        let again = next(&mut consumer).await;

        assert_eq!(text(&again), "unfinished");
        assert!(again.redelivered, "`redelivered` must say that somebody may have worked on it");
        assert_eq!(again.envelope.id, unsettled.envelope.id);
        assert_eq!(again.envelope.attempt, 1);
        let late = unsettled.settle(Settlement::Ack).await;
        assert!(matches!(late, Err(SettleError::Lost)), "{late:?}");
        again.settle(Settlement::Ack).await.unwrap();
    }
}

pub(crate) async fn deliveries_nobody_took_go_back_when_the_consumer_is_dropped(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, (0..10).map(|n| n.to_string())).await;
    let mut dropped = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(5)).await;
    let first = next(&mut dropped).await;

    drop(dropped);
    let mut consumer = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(10)).await;

    let rest: HashSet<_> = take(&mut consumer, 9).await.into_iter().collect();
    assert_eq!(rest, (1..10).map(|n| n.to_string()).collect());
    first.settle(Settlement::Ack).await.unwrap();
}

/// A worker that shuts down stops its consumer first and lets the running jobs finish.
pub(crate) async fn delivery_outlives_its_consumer(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, ["running"]).await;
    let mut dropped = t.consume(&queue).await;
    let running = next(&mut dropped).await;

    drop(dropped);
    t.send(&queue, ["marker"]).await;
    let mut consumer = t.consume(&queue).await;
    assert_eq!(take(&mut consumer, 1).await, ["marker"]);
    running.settle(Settlement::Ack).await.unwrap();

    t.send(&queue, ["another marker"]).await;
    assert_eq!(take(&mut consumer, 1).await, ["another marker"]);
    until_ready(&*t.broker, &queue, 0).await;
}

pub(crate) async fn released_job_comes_back_first_and_costs_no_attempt(t: &Fixture) {
    for queue in [t.quorum_queue("quorum").await, t.plain_queue("classic").await] {
        t.send(&queue, ["a", "b", "c"]).await;
        let mut consumer = t.consume(&queue).await;

        let released = next(&mut consumer).await;
        let id = released.envelope.id.clone();
        released.settle(Settlement::Release).await.unwrap();
        let again = next(&mut consumer).await;

        assert_eq!((text(&again), &again.envelope.id), ("a".to_owned(), &id));
        assert!(again.redelivered);
        assert_eq!(again.envelope.attempt, 1);
        again.settle(Settlement::Ack).await.unwrap();
        assert_eq!(take(&mut consumer, 2).await, ["b", "c"]);
    }
}

pub(crate) async fn delivery_dropped_unsettled_comes_back(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, ["a", "b"]).await;
    let mut consumer = t.consume(&queue).await;

    drop(next(&mut consumer).await);
    let again = next(&mut consumer).await;

    assert_eq!(text(&again), "a");
    assert!(again.redelivered);
    again.settle(Settlement::Ack).await.unwrap();
    assert_eq!(take(&mut consumer, 1).await, ["b"]);
}

/// A handler that blocks its thread, as none should, holds no other job's ack back, nor who closes the broker.
pub(crate) async fn ack_counts_though_its_thread_is_blocked(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    t.send(&queue, ["a", "b", "c", "d"]).await;
    let client = t.other_client().await;
    let options = ConsumeOptions::new(queue.clone()).prefetch(2);
    let mut consumer = client.broker().consume(options).await.unwrap();
    let (first, _second) = (next(&mut consumer).await, next(&mut consumer).await);
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();

    let blocking = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            first.settle(Settlement::Ack).await.unwrap();
            let _ = blocked.recv();
        });
    });

    // The next one was delivered in its place.
    until_ready(&*t.broker, &queue, 1).await;
    let since = Instant::now();
    client.close().await;
    assert!(since.elapsed() < Duration::from_secs(4), "closing took {:?}", since.elapsed());
    drop(unblock);
    blocking.join().unwrap();
}

pub(crate) async fn retried_job_comes_back_not_earlier_and_unchanged(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let mut consumer = t.work(&queue, 1).await;
    let mut job = Envelope::new(r#"{"to":"ada"}"#);
    job.task = Some("send_email".to_owned());
    job.content_type = Some("application/json".to_owned());
    job.content_encoding = Some("utf-8".to_owned());
    job.app_id = Some("billing".to_owned());
    job.cluster_id = Some("west".to_owned());
    job.headers.insert(header::USER_ID, "ada");
    job.correlation_id = Some("request 7".to_owned());
    job.reply_to = Some("replies".to_owned());
    job.enqueued_at = Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    job.headers.insert("tenant", "blue");
    job.headers.insert("weight", 7_i64);
    t.broker.publish(Publish::to_queue(queue.name().clone(), job.clone())).await.unwrap();
    let after = Duration::from_millis(400);

    let delivery = next(&mut consumer).await;
    let settled = Instant::now();
    delivery.settle(retry_in(after)).await.unwrap();
    let again = next(&mut consumer).await;
    let waited = settled.elapsed();

    assert!(waited >= after, "came back {:?} early", after - waited);
    assert!(waited < after + Duration::from_secs(5), "came back after {waited:?}");
    let got = &again.envelope;
    assert_eq!(got.attempt, 2);
    assert_eq!((&got.id, &got.payload, &got.task), (&job.id, &job.payload, &job.task));
    assert_eq!((&got.content_type, &got.correlation_id), (&job.content_type, &job.correlation_id));
    assert_eq!(got.content_encoding, job.content_encoding);
    assert_eq!((&got.app_id, &got.cluster_id), (&job.app_id, &job.cluster_id));
    assert_eq!(got.headers.get(header::USER_ID), Some(&"ada".into()));
    assert_eq!((&got.reply_to, got.enqueued_at), (&job.reply_to, job.enqueued_at));
    assert_eq!(got.headers.get("tenant"), Some(&"blue".into()));
    assert_eq!(got.headers.get("weight"), Some(&7_i64.into()));
    assert_eq!(got.headers.get(header::ERROR), Some(&"not this time".into()));
    assert_eq!(got.headers.get(header::ERROR_KIND), Some(&"failed".into()));
    assert_eq!(again.queue, *queue.name());
    again.settle(Settlement::Ack).await.unwrap();
    assert_nothing_before_a_marker(t, queue.name(), &mut consumer).await;
}

/// What adds up to a moment that no clock knows must not make the job come back at once.
pub(crate) async fn retry_beyond_all_time_is_settled(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, ["never again", "next"]).await;
    let mut consumer = t.consume(&queue).await;

    next(&mut consumer).await.settle(retry_in(Duration::MAX)).await.unwrap();

    let delivery = next(&mut consumer).await;
    assert_eq!(text(&delivery), "next");
    delivery.settle(Settlement::Ack).await.unwrap();
    assert_nothing_before_a_marker(t, &queue, &mut consumer).await;
}

/// A consumer with room would swallow what has come back by mistake; behind it comes what is sent now.
async fn assert_nothing_before_a_marker(t: &Fixture, queue: &Name, consumer: &mut Consumer) {
    t.send(queue, ["marker"]).await;
    assert_eq!(take(consumer, 1).await, ["marker"]);
}

pub(crate) async fn retry_at_once_comes_back(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    t.send(queue.name(), ["job"]).await;
    let mut consumer = t.work(&queue, 1).await;

    for attempt in 1..5 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.envelope.attempt, attempt);
        let reason = Reason::new(ReasonKind::Failed, format!("attempt {attempt}"));
        let after = Duration::ZERO;
        delivery.settle(Settlement::Retry { after, attempt: attempt + 1, reason }).await.unwrap();
    }

    let last = next(&mut consumer).await;
    assert_eq!(last.envelope.attempt, 5);
    assert_eq!(last.envelope.headers.get(header::ERROR), Some(&"attempt 4".into()));
}

pub(crate) async fn retried_job_keeps_its_priority(t: &Fixture) {
    let queue = t.name("jobs");
    t.declare(&Topology::new().queue(QueueDecl::new(queue.clone()).argument("x-max-priority", 5_i64))).await;
    let mut urgent = message(&queue, "urgent");
    urgent.envelope.priority = Some(4);
    t.broker.publish(urgent).await.unwrap();
    let mut consumer = t.consume(&queue).await;

    next(&mut consumer).await.settle(retry_in(Duration::from_millis(150))).await.unwrap();
    let again = next(&mut consumer).await;

    assert_eq!(again.envelope.priority, Some(4));
    assert_eq!((text(&again), again.envelope.attempt), ("urgent".to_owned(), 2));
}

/// RabbitMQ 3 silently drops a copy whose `x-death` shows a cycle.
pub(crate) async fn retried_copy_carries_no_trace_of_the_broker(t: &Fixture) {
    let dead = t.quorum_queue("dead").await;
    let short_lived = t.name("short-lived");
    let decl = QueueDecl::new(short_lived.clone())
        .argument("x-message-ttl", 1_i64)
        .argument("x-dead-letter-exchange", "")
        .argument("x-dead-letter-routing-key", dead.clone().into_owned());
    t.declare(&Topology::new().queue(decl)).await;
    t.send(&short_lived, ["expired"]).await;
    let mut consumer = t.consume(&dead).await;

    let expired = next(&mut consumer).await;
    assert!(expired.envelope.headers.get("x-death").is_some(), "{:?}", expired.envelope.headers);
    expired.settle(retry_in(Duration::from_millis(150))).await.unwrap();
    let again = next(&mut consumer).await;

    let traces: Vec<_> = again.envelope.headers.iter().map(|(name, _)| name).collect();
    // The delay itself may run through dead-lettering; what counts is that no trace names the user's queues.
    let traces: Vec<_> = traces.into_iter().filter(|name| header::is_broker_trace(name)).collect();
    assert!(traces.is_empty(), "{traces:?}");
    assert_eq!(text(&again), "expired");
}

/// `CC` sends a message to more queues (RabbitMQ's sender-selected distribution). It is about the original, and must
/// not send each retry and dead letter there as well.
pub(crate) async fn copies_do_not_go_where_the_original_was_copied_to(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let copied = t.plain_queue("copied").await;
    let mut consumer = t.work(&queue, 1).await;
    let mut publish = message(queue.name(), "job");
    let to = HeaderValue::List(vec![copied.clone().into_owned().into()]);
    publish.envelope.headers.insert("CC", to);
    t.broker.publish(publish).await.unwrap();

    let first = next(&mut consumer).await;
    // A broker that does not know `CC` sends it nowhere.
    let before = crate::support::ready(&*t.broker, &copied).await;
    assert!(before <= 1);
    first.settle(retry_in(Duration::from_millis(130))).await.unwrap();
    next(&mut consumer).await.settle(dead_letter("no")).await.unwrap();

    assert_eq!(crate::support::ready(&*t.broker, &copied).await, before);
}

/// The message passes a cycle of dead-lettering and retrying more often than RabbitMQ lets its own pass.
pub(crate) async fn job_may_be_dead_lettered_and_retried_over_and_over(t: &Fixture) {
    let dead = t.quorum_queue("dead").await;
    let work = t.name("work");
    let decl = QueueDecl::new(work.clone())
        .argument("x-message-ttl", 1_i64)
        .argument("x-dead-letter-exchange", "")
        .argument("x-dead-letter-routing-key", dead.clone().into_owned());
    t.declare(&Topology::new().queue(decl)).await;
    t.send(&work, ["wanderer"]).await;
    let mut consumer = t.consume(&dead).await;

    for _ in 0..5 {
        let delivery = next(&mut consumer).await;
        assert_eq!(text(&delivery), "wanderer");
        // What an operator's replay does: the copy goes to the work queue, then the original is acked.
        let mut copy = delivery.envelope.clone();
        queue_core::settlement::strip_broker_traces(&mut copy);
        t.broker.publish(Publish::to_queue(work.clone(), copy)).await.unwrap();
        delivery.settle(Settlement::Ack).await.unwrap();
    }

    assert_eq!(take(&mut consumer, 1).await, ["wanderer"]);
}

/// A worker with many slots settles from many tasks at once, out of order.
pub(crate) async fn concurrent_settlements_do_not_mix(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let dead = queue.dead_queue().expect("it has one");
    t.send(queue.name(), (0..64).map(|n| n.to_string())).await;
    let mut consumer = t.work(&queue, 64).await;
    let mut deliveries = Vec::new();
    for _ in 0..64 {
        deliveries.push(next(&mut consumer).await);
    }

    let settling: Vec<_> = deliveries
        .into_iter()
        .rev()
        .enumerate()
        .map(|(n, delivery)| {
            let settlement = match n % 4 {
                0 => Settlement::Ack,
                1 => dead_letter("no"),
                2 => retry_in(Duration::from_millis(130)),
                _ => Settlement::Release,
            };
            tokio::spawn(delivery.settle(settlement))
        })
        .collect();
    for settled in settling {
        settled.await.unwrap().unwrap();
    }

    // Reversed, so that `n % 4` was 3 for the jobs 0, 4, 8 … and 2 for 1, 5, 9 …
    let mut back = HashSet::new();
    while back.len() < 32 {
        let delivery = next(&mut consumer).await;
        let number: u32 = text(&delivery).parse().unwrap();
        let expected_attempt = if number.is_multiple_of(4) { 1 } else { 2 };
        assert!(number % 4 < 2, "job {number} was settled for good and came back");
        assert_eq!(delivery.envelope.attempt, expected_attempt, "job {number}");
        back.insert(number);
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    let mut dead_letters = t.consume(&dead).await;
    let dead: HashSet<u32> =
        take(&mut dead_letters, 16).await.iter().map(|text| text.parse().unwrap()).collect();
    assert!(dead.iter().all(|number| number % 4 == 2), "{dead:?}");
    assert_nothing_before_a_marker(t, queue.name(), &mut consumer).await;
}

/// Whoever holds a delivery that it has not begun asks whether to begin.
pub(crate) async fn delivery_is_lost_with_its_client_and_not_with_its_consumer(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let other = t.other_client().await;
    let options = ConsumeOptions::new(queue.clone()).prefetch(2);
    let mut theirs = other.broker().consume(options.clone()).await.unwrap();
    t.send(&queue, ["held", "untaken"]).await;
    let held = next(&mut theirs).await;
    let untaken = next(&mut theirs).await;
    assert!(!held.is_lost());

    theirs.stop();
    drop(theirs);
    assert!(!held.is_lost(), "it may still be settled");
    other.close().await;

    assert!(held.is_lost() && untaken.is_lost());
    // Somebody else has them meanwhile: the first client's change nothing.
    let mut ours = t.consume_with(options).await;
    let again = next(&mut ours).await;
    drop((held, untaken));
    let behind = next(&mut ours).await;
    assert!(!again.is_lost() && !behind.is_lost());
    again.settle(Settlement::Ack).await.unwrap();
    behind.settle(Settlement::Ack).await.unwrap();
}

pub(crate) async fn deliveries_of_a_deleted_queue_are_lost(t: &Fixture) {
    let (deleted, kept) = (t.quorum_queue("deleted").await, t.quorum_queue("kept").await);
    let other = t.other_client().await;
    let mut consumer =
        other.broker().consume(ConsumeOptions::new(deleted.clone()).prefetch(2)).await.unwrap();
    let mut beside = other.broker().consume(ConsumeOptions::new(kept.clone())).await.unwrap();
    t.send(&deleted, ["one", "two"]).await;
    t.send(&kept, ["kept"]).await;
    let (one, two, kept) = (next(&mut consumer).await, next(&mut consumer).await, next(&mut beside).await);

    t.broker.operator().unwrap().delete(&deleted).await.unwrap();

    // A server, or another program, tells its consumers in its own time.
    until("both are lost", async || one.is_lost() && two.is_lost()).await;
    assert!(!kept.is_lost());
    kept.settle(Settlement::Ack).await.unwrap();
}
