//! Delays: never early, never lost, none behind another.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use leveret::PublishError;
use queue_core::broker::Publish;
use queue_core::envelope::{Envelope, header};
use queue_core::settlement::Settlement;
use queue_core::topology::{Name, Namespace, QueueDecl, QueueSpec, Topology, delay_ladder};

use crate::settle::retry_in;
use crate::support::fixture::message;
use crate::support::{Fixture, next, ready, take, text, until_ready};

/// How late a delayed job may be on a loaded machine. What is usual is milliseconds; the benchmarks tell.
const LATENESS: Duration = Duration::from_secs(5);

fn delayed(queue: &Name, text: impl Into<String>, after: Duration) -> Publish {
    let mut publish = message(queue, text);
    publish.not_before = Some(SystemTime::now() + after);
    publish
}

pub(crate) async fn delayed_job_arrives_not_earlier(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let mut consumer = t.work(&queue, 1).await;
    let mut publish = delayed(queue.name(), "later", Duration::from_millis(700));
    publish.envelope.headers.insert("tenant", "blue");
    publish.envelope.priority = Some(3);
    let (due, id) = (publish.not_before.unwrap(), publish.envelope.id.clone());

    t.broker.publish(publish).await.unwrap();
    let delivery = next(&mut consumer).await;
    let arrived = SystemTime::now();

    assert!(arrived >= due, "{:?} early", due.duration_since(arrived));
    assert!(arrived < due + LATENESS, "{:?} late", arrived.duration_since(due));
    assert_eq!((text(&delivery), &delivery.envelope.id), ("later".to_owned(), &id));
    assert_eq!(delivery.envelope.attempt, 1);
    assert_eq!(delivery.envelope.priority, Some(3));
    assert_eq!(delivery.envelope.headers.get("tenant"), Some(&"blue".into()));
    assert_eq!(delivery.queue, *queue.name());
    let traces: Vec<_> = delivery.envelope.headers.iter().map(|(name, _)| name).collect();
    assert!(!traces.iter().any(|name| header::is_broker_trace(name)), "{traces:?}");
}

pub(crate) async fn delay_of_zero_or_past_is_now(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let mut past = message(&queue, "past");
    past.not_before = Some(SystemTime::UNIX_EPOCH);

    t.broker.publish(delayed(&queue, "zero", Duration::ZERO)).await.unwrap();
    t.broker.publish(past).await.unwrap();
    let mut consumer = t.consume(&queue).await;

    let mut texts = take(&mut consumer, 2).await;
    texts.sort();
    assert_eq!(texts, ["past", "zero"]);
}

pub(crate) async fn short_delay_does_not_wait_behind_a_long_one(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let mut consumer = t.consume(&queue).await;

    t.broker.publish(delayed(&queue, "long", Duration::from_secs(10))).await.unwrap();
    let short = delayed(&queue, "short", Duration::from_millis(200));
    let due = short.not_before.unwrap();
    t.broker.publish(short).await.unwrap();
    let delivery = next(&mut consumer).await;

    let arrived = SystemTime::now();
    assert_eq!(text(&delivery), "short");
    assert!((due..due + LATENESS).contains(&arrived), "due {due:?}, arrived {arrived:?}");
}

/// A batch of delayed jobs, each retried after a delay once more: 200 delays of up to two seconds.
pub(crate) async fn many_delays_none_early_none_lost(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let mut consumer = t.work(&queue, 50).await;
    let mut random = fastrand::Rng::with_seed(7);
    let mut delay = || Duration::from_micros(random.u64(0..2_000_000));

    // The payload says when the job is due, in microseconds, so that nothing is rounded.
    let due = |after: Duration| {
        let due = SystemTime::now() + after;
        (due, due.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros().to_string())
    };
    let batch = (0..100).map(|_| {
        let (due, micros) = due(delay());
        let mut publish = message(queue.name(), micros);
        publish.not_before = Some(due);
        publish
    });
    for result in t.broker.publish_all(batch.collect()).await {
        result.unwrap();
    }

    // Each job is delayed once more by a retry, and must then be at least so much later. One may come twice: the
    // ladder is shared, and whoever was moving a job may have been closed before it could say so.
    let (mut done, mut waiting) = (HashSet::new(), HashMap::new());
    while done.len() < 100 {
        let delivery = next(&mut consumer).await;
        let arrived = SystemTime::now();
        let first_due = SystemTime::UNIX_EPOCH + Duration::from_micros(text(&delivery).parse().unwrap());
        let id = delivery.envelope.id.clone();
        if delivery.envelope.attempt == 1 {
            assert!(arrived >= first_due, "{:?} early", first_due.duration_since(arrived));
            assert!(arrived < first_due + LATENESS, "{:?} late", arrived.duration_since(first_due));
            let after = delay();
            // A job that came twice is retried twice, and either may come first.
            let dues: &mut Vec<SystemTime> = waiting.entry(id).or_default();
            dues.push(SystemTime::now() + after);
            delivery.settle(retry_in(after)).await.unwrap();
        } else {
            let dues = &waiting[&id];
            let (first, last) = (dues.iter().min().unwrap(), dues.iter().max().unwrap());
            assert!(arrived >= *first, "the retry came {:?} early", first.duration_since(arrived));
            assert!(arrived < *last + LATENESS, "the retry came {:?} late", arrived.duration_since(*last));
            done.insert(id);
            delivery.settle(Settlement::Ack).await.unwrap();
        }
    }
}

pub(crate) async fn delayed_job_survives_its_publisher(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let publisher = t.other_client().await;

    publisher.broker().publish(delayed(&queue, "orphan", Duration::from_millis(500))).await.unwrap();
    publisher.close().await;
    let mut consumer = t.consume(&queue).await;

    assert_eq!(take(&mut consumer, 1).await, ["orphan"]);
}

/// Who consumes an unrelated queue routes delayed jobs too: any worker will do.
pub(crate) async fn delayed_job_reaches_a_queue_that_nobody_consumes(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let unrelated = t.plain_queue("unrelated").await;
    let _consumer = t.consume(&unrelated).await;

    t.broker.publish(delayed(&queue, "later", Duration::from_millis(300))).await.unwrap();

    until_ready(&*t.broker, &queue, 1).await;
}

/// A queue that refuses holds up nobody but its own jobs.
pub(crate) async fn delayed_job_of_a_full_queue_waits_for_room(t: &Fixture) {
    let spec = QueueSpec::new(t.name("jobs")).max_length(3);
    t.declare_spec(&spec).await;
    let filled = crate::limit::fill(t, spec.name()).await;
    let clock = t.plain_queue("clock").await;
    let mut ticks = t.consume(&clock).await;

    t.broker.publish(delayed(spec.name(), "patient", Duration::from_millis(100))).await.unwrap();
    t.broker.publish(delayed(&clock, "tick", Duration::from_millis(500))).await.unwrap();
    // When the tick is here, the patient one has been due, and has found the queue full.
    assert_eq!(text(&next(&mut ticks).await), "tick");
    assert_eq!(ready(&*t.broker, spec.name()).await, filled);
    let mut consumer = t.work(&spec, 1).await;

    let texts = take(&mut consumer, filled as usize + 1).await;
    assert!(texts.contains(&"patient".to_owned()), "{texts:?}");
}

/// RabbitMQ 4 drops what has come back twenty times, unless its queue says otherwise.
pub(crate) async fn what_has_nowhere_to_go_may_be_looked_at_often(t: &Fixture) {
    let namespace = Namespace::new(t.name("namespace")).unwrap();
    let ladder = delay_ladder(&namespace).queues;
    let queue = ladder.into_iter().find(|queue| queue.name == namespace.unroutable()).unwrap();
    let name = queue.name.clone();
    t.declare(&Topology::new().queue(queue)).await;
    t.send(&name, ["homeless"]).await;

    for look in 0..25 {
        // A quorum queue counts late what has come back to it.
        until_ready(&*t.broker, &name, 1).await;
        assert_eq!(t.client.admin().dead_letters(&name, 1).await.unwrap().len(), 1, "look {look}");
    }
}

/// "Drain and delete" is how a queue gets other options: delayed jobs outlive it.
pub(crate) async fn delayed_jobs_whose_queue_is_gone_wait_for_it(t: &Fixture) {
    const JOBS: usize = 20;
    let queue = t.name("jobs");
    let clock = t.plain_queue("clock").await;
    let mut ticks = t.consume(&clock).await;
    let batch = (0..JOBS).map(|n| delayed(&queue, n.to_string(), Duration::from_secs(2)));
    for result in t.broker.publish_all(batch.collect()).await {
        result.unwrap();
    }
    t.broker.publish(delayed(&clock, "tick", Duration::from_millis(2_500))).await.unwrap();

    // When the tick is here, the others have been due, and found no queue.
    assert_eq!(text(&next(&mut ticks).await), "tick");
    t.declare(&Topology::new().queue(QueueDecl::new(queue.clone()).argument("x-max-priority", 3_i64))).await;
    let mut consumer = t.consume(&queue).await;

    let mut missing: HashSet<_> = (0..JOBS).map(|n| n.to_string()).collect();
    while !missing.is_empty() {
        let delivery = next(&mut consumer).await;
        missing.remove(&text(&delivery));
        let headers: Vec<_> = delivery.envelope.headers.iter().map(|(name, _)| name).collect();
        assert!(headers.is_empty(), "{headers:?}");
        delivery.settle(Settlement::Ack).await.unwrap();
    }
}

/// It has been looked for for all but a millisecond of an hour when it is looked for the last time.
pub(crate) async fn delayed_job_whose_queue_stays_away_is_set_aside_and_can_be_replayed(t: &Fixture) {
    let queue = t.name("jobs");
    let unrelated = t.plain_queue("unrelated").await;
    let _router = t.consume(&unrelated).await;
    let mut publish = delayed(&queue, "homeless", Duration::from_millis(200));
    publish.envelope.headers.insert(header::MISSING, 3_599_999_i64);
    publish.envelope.headers.insert("tenant", "blue");
    let id = publish.envelope.id.clone();

    t.broker.publish(publish).await.unwrap();

    let (admin, unroutable) = (t.client.admin(), t.client.namespace().unroutable());
    let is_set_aside = async || {
        // What an earlier run has left lies there too.
        let letters = admin.dead_letters(&unroutable, 1000).await.unwrap_or_default();
        letters.into_iter().find(|letter| letter.id == id)
    };
    let deadline = SystemTime::now() + LATENESS * 4;
    let letter = loop {
        match is_set_aside().await {
            Some(letter) => break letter,
            None => assert!(SystemTime::now() < deadline, "it is not set aside"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(letter.queue.as_deref(), Some(&*queue));
    t.declare(&Topology::new().queue(QueueDecl::new(queue.clone()))).await;
    assert_eq!(admin.replay(&unroutable, 1, |letter| letter.id == id).await.unwrap(), 1);
    let delivery = next(&mut t.consume(&queue).await).await;

    assert_eq!((text(&delivery), &delivery.envelope.id), ("homeless".to_owned(), &id));
    let headers: Vec<_> = delivery.envelope.headers.iter().map(|(name, _)| name).collect();
    assert_eq!(headers, [header::COPY, header::REPLAYS, "tenant"]);
    delivery.settle(Settlement::Ack).await.unwrap();
}

pub(crate) async fn delay_by_an_exchange_is_refused(t: &Fixture) {
    let mut publish = Publish::to_exchange("amq.fanout", "", Envelope::new("later"));
    publish.not_before = Some(SystemTime::now() + Duration::from_secs(1));

    let result = t.broker.publish(publish).await;

    assert!(matches!(result, Err(PublishError::Invalid(_))), "{result:?}");
}

pub(crate) async fn delayed_jobs_keep_their_priority_at_their_queue(t: &Fixture) {
    let queue = t.name("jobs");
    t.declare(&Topology::new().queue(QueueDecl::new(queue.clone()).argument("x-max-priority", 5_i64))).await;
    let unrelated = t.plain_queue("unrelated").await;
    let _router = t.consume(&unrelated).await;
    for (text, priority) in [("low", 1), ("high", 5)] {
        let mut publish = delayed(&queue, text, Duration::from_millis(300));
        publish.envelope.priority = Some(priority);
        t.broker.publish(publish).await.unwrap();
    }
    crate::support::until_ready(&*t.broker, &queue, 2).await;

    let mut consumer = t.consume(&queue).await;

    assert_eq!(take(&mut consumer, 2).await, ["high", "low"]);
}

/// Those of a batch that are delayed and those that are not get their own results.
pub(crate) async fn batch_may_mix_delayed_and_immediate(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let missing = t.name("missing");
    let batch = vec![
        delayed(&queue, "later", Duration::from_millis(250)),
        message(&queue, "now"),
        message(&missing, "nowhere"),
        delayed(&queue, "at once", Duration::ZERO),
    ];

    let results = t.broker.publish_all(batch).await;
    let mut consumer = t.consume(&queue).await;

    assert!(
        matches!(results[..], [Ok(()), Ok(()), Err(PublishError::Unroutable { .. }), Ok(())]),
        "{results:?}"
    );
    let mut texts = take(&mut consumer, 3).await;
    assert_eq!(texts.pop().as_deref(), Some("later"));
    assert_eq!(texts.into_iter().collect::<HashSet<_>>(), ["now", "at once"].map(str::to_owned).into());
}
