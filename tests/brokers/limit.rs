//! What queues do on their own: lengths, ages and priorities.

use std::time::Duration;

use leveret::PublishError;
use queue_core::broker::ConsumeOptions;
use queue_core::settlement::Settlement;
use queue_core::topology::{Name, Overflow, QueueDecl, QueueSpec, Topology};

use crate::dead_letter::{Death, death};
use crate::support::fixture::message;
use crate::support::wait::PATIENCE;
use crate::support::{Fixture, next, ready, take, text, until_ready};

/// Publishes to a queue that refuses when it is full, until it does; says how many it took. The limit is approximate
/// on RabbitMQ, but not endless.
pub(crate) async fn fill(t: &Fixture, queue: &Name) -> u64 {
    for taken in 0..200 {
        match t.broker.publish(message(queue, taken.to_string())).await {
            Ok(()) => {}
            Err(PublishError::QueueFull { routing_key }) => {
                assert_eq!(routing_key, *queue);
                return taken;
            }
            Err(other) => panic!("publish {taken} to `{queue}`: {other:?}"),
        }
    }
    panic!("`{queue}` took 200 messages and is not full");
}

pub(crate) async fn full_queue_refuses_until_there_is_room(t: &Fixture) {
    let spec = QueueSpec::new(t.name("jobs")).max_length(5);
    t.declare_spec(&spec).await;

    let taken = fill(t, spec.name()).await;

    assert!(taken >= 5, "only {taken} of 5 were taken");
    assert_eq!(ready(&*t.broker, spec.name()).await, taken, "what was refused must not be kept");
    let mut consumer = t.work(&spec, 10).await;
    let expected: Vec<_> = (0..taken).map(|n| n.to_string()).collect();
    assert_eq!(take(&mut consumer, taken as usize).await, expected);

    // The queue tells its publishers after a moment that it has room again.
    let deadline = std::time::Instant::now() + PATIENCE;
    while let Err(error) = t.broker.publish(message(spec.name(), "room again")).await {
        assert!(matches!(error, PublishError::QueueFull { .. }), "{error:?}");
        assert!(std::time::Instant::now() < deadline, "still refused after {PATIENCE:?}");
    }
    assert_eq!(take(&mut consumer, 1).await, ["room again"]);
}

/// A batch that does not fit: each job is either refused or kept.
pub(crate) async fn batch_into_a_full_queue_is_told_apart(t: &Fixture) {
    let spec = QueueSpec::new(t.name("jobs")).max_length(10);
    t.declare_spec(&spec).await;

    let batch = (0..300).map(|n| message(spec.name(), n.to_string())).collect();
    let results = t.broker.publish_all(batch).await;

    let kept: Vec<_> = (0..300).filter(|&n| results[n].is_ok()).map(|n| n.to_string()).collect();
    for result in &results {
        assert!(matches!(result, Ok(()) | Err(PublishError::QueueFull { .. })), "{result:?}");
    }
    assert!(kept.len() >= 10, "{} were kept at a limit of 10", kept.len());
    assert_eq!(ready(&*t.broker, spec.name()).await, kept.len() as u64);
    // RabbitMQ tells a publisher after the fact that it is to stop, so that all of a batch may have been kept. But
    // then it does tell.
    let more = fill(t, spec.name()).await;
    let mut consumer = t.work(&spec, 10).await;
    assert_eq!(take(&mut consumer, kept.len()).await, kept);
    take(&mut consumer, more as usize).await;
}

pub(crate) async fn overflow_dead_letters_the_oldest(t: &Fixture) {
    let spec = QueueSpec::new(t.name("jobs")).max_length(3).overflow(Overflow::DeadLetter);
    t.declare_spec(&spec).await;
    let mut dead_letters = t.consume(&spec.dead_queue().unwrap()).await;

    t.send(spec.name(), ["1", "2", "3", "4", "5"]).await;

    for expected in ["1", "2"] {
        let dead = next(&mut dead_letters).await;
        assert_eq!(text(&dead), expected);
        assert_eq!(death(&dead.envelope), a_death("maxlen", spec.name()));
        dead.settle(Settlement::Ack).await.unwrap();
    }
    let mut consumer = t.work(&spec, 1).await;
    assert_eq!(take(&mut consumer, 3).await, ["3", "4", "5"]);
}

pub(crate) async fn job_too_old_for_its_queue_becomes_a_dead_letter(t: &Fixture) {
    let spec = QueueSpec::new(t.name("jobs")).ttl(Duration::from_millis(100));
    t.declare_spec(&spec).await;
    let mut dead_letters = t.consume(&spec.dead_queue().unwrap()).await;

    t.send(spec.name(), ["old"]).await;
    let dead = next(&mut dead_letters).await;

    assert_eq!(text(&dead), "old");
    assert_eq!(death(&dead.envelope), a_death("expired", spec.name()));
    until_ready(&*t.broker, spec.name(), 0).await;
}

pub(crate) async fn message_expires_by_its_own_expiration(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let mut dead_letters = t.consume(&queue.dead_queue().unwrap()).await;
    let mut publish = message(queue.name(), "short-lived");
    publish.envelope.expiration = Some(Duration::from_millis(50));

    t.broker.publish(publish).await.unwrap();
    let dead = next(&mut dead_letters).await;

    assert_eq!(text(&dead), "short-lived");
    assert_eq!(death(&dead.envelope), a_death("expired", queue.name()));
    // Or it would expire among the dead letters once more.
    assert_eq!(dead.envelope.expiration, None);
}

pub(crate) async fn expired_message_is_never_delivered(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let mut publish = message(&queue, "too late");
    publish.envelope.expiration = Some(Duration::ZERO);

    t.broker.publish(publish).await.unwrap();
    t.send(&queue, ["marker"]).await;
    let mut consumer = t.consume(&queue).await;

    assert_eq!(take(&mut consumer, 1).await, ["marker"]);
}

/// However many are handed out at once.
pub(crate) async fn message_that_expired_behind_another_is_not_delivered_with_it(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let clock = t.work_queue("clock").await;
    let mut ticks = t.consume(&clock.dead_queue().unwrap()).await;
    let mut short = message(&queue, "too late");
    short.envelope.expiration = Some(Duration::from_millis(50));
    let mut tick = message(clock.name(), "tick");
    tick.envelope.expiration = Some(Duration::from_millis(150));

    t.send(&queue, ["first"]).await;
    t.broker.publish(short).await.unwrap();
    t.send(&queue, ["last"]).await;
    t.broker.publish(tick).await.unwrap();
    // When this one has expired, the other has as well.
    next(&mut ticks).await;
    let mut consumer = t.consume_with(ConsumeOptions::new(queue).prefetch(3)).await;

    let (first, last) = (next(&mut consumer).await, next(&mut consumer).await);
    assert_eq!((text(&first), text(&last)), ("first".to_owned(), "last".to_owned()));
}

pub(crate) async fn higher_priority_is_delivered_first(t: &Fixture) {
    let queue = t.name("jobs");
    t.declare(&Topology::new().queue(QueueDecl::new(queue.clone()).argument("x-max-priority", 5_i64))).await;
    let with = |text: &str, priority: Option<u8>| {
        let mut publish = message(&queue, text);
        publish.envelope.priority = priority;
        publish
    };
    let batch = vec![
        with("none", None),
        with("1 a", Some(1)),
        with("5", Some(5)),
        with("over the maximum", Some(200)),
        with("1 b", Some(1)),
        with("0", Some(0)),
        with("3", Some(3)),
    ];

    for result in t.broker.publish_all(batch).await {
        result.unwrap();
    }
    let mut consumer = t.consume(&queue).await;

    // Over the maximum counts as the maximum, none as 0, and equals keep their order.
    let expected = ["5", "over the maximum", "3", "1 a", "1 b", "none", "0"];
    assert_eq!(take(&mut consumer, 7).await, expected);
}

/// As RabbitMQ does from 4.3 on. 4.0 has two levels, of which the higher gets two turns of three; 3.10 has none.
pub(crate) async fn quorum_queue_delivers_by_32_strict_levels(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let with = |text: &str, priority: Option<u8>| {
        let mut publish = message(&queue, text);
        publish.envelope.priority = priority;
        publish
    };
    let batch = vec![
        with("none", None),
        with("3", Some(3)),
        with("4", Some(4)),
        with("0", Some(0)),
        with("31", Some(31)),
        with("5", Some(5)),
        with("over the maximum", Some(255)),
        with("none again", None),
        with("30", Some(30)),
    ];

    for result in t.broker.publish_all(batch).await {
        result.unwrap();
    }
    let mut consumer = t.consume(&queue).await;
    let mut taken = take(&mut consumer, 9).await;

    // Over the maximum counts as the maximum, none as 4, and equals keep their order.
    let mut expected = ["31", "over the maximum", "30", "5", "none", "4", "none again", "3", "0"];
    if t.is_older_rabbitmq() {
        taken.sort();
        expected.sort_unstable();
    }
    assert_eq!(taken, expected);
}

fn a_death(reason: &str, queue: &Name) -> Death {
    Death {
        reason: reason.to_owned(),
        queue: queue.clone().into_owned(),
        exchange: String::new(),
        routing_key: queue.clone().into_owned(),
        count: 1,
    }
}
