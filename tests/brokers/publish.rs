//! Publishing: what is confirmed is there, what is refused says why, and everything arrives as it was sent.

use std::collections::HashSet;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use leveret::PublishError;
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::{Envelope, HeaderValue, Headers};
use queue_core::settlement::Settlement;
use queue_core::topology::{ExchangeKind, Name};

use crate::support::fixture::message;
use crate::support::{Fixture, next, ready, take, text};

pub(crate) async fn every_field_of_an_envelope_survives(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let mut consumer = t.consume(&queue).await;
    let mut sent = Envelope::new((0..=255).collect::<Vec<u8>>());
    sent.id = "an id of ours, ünïcode".into();
    sent.task = Some("send_email".to_owned());
    sent.content_type = Some("application/json".to_owned());
    sent.content_encoding = Some("gzip".to_owned());
    sent.attempt = 3;
    sent.priority = Some(4);
    sent.enqueued_at = Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    sent.correlation_id = Some("request 7".to_owned());
    sent.reply_to = Some("replies".to_owned());
    sent.expiration = Some(Duration::from_secs(3600));
    sent.app_id = Some("billing".to_owned());
    sent.cluster_id = Some("west".to_owned());
    sent.headers = every_kind_of_header();

    t.broker.publish(Publish::to_queue(queue.clone(), sent.clone())).await.unwrap();
    let delivery = next(&mut consumer).await;

    let got = delivery.envelope.clone();
    assert_eq!(got.id, sent.id);
    assert_eq!(got.task, sent.task);
    assert_eq!(got.payload, sent.payload);
    assert_eq!((got.content_type, got.content_encoding), (sent.content_type, sent.content_encoding));
    assert_eq!(got.attempt, sent.attempt);
    assert_eq!(got.priority, sent.priority);
    assert_eq!(got.enqueued_at, sent.enqueued_at);
    assert_eq!(got.correlation_id, sent.correlation_id);
    assert_eq!(got.reply_to, sent.reply_to);
    assert_eq!(got.expiration, sent.expiration);
    assert_eq!((got.app_id, got.cluster_id), (sent.app_id, sent.cluster_id));
    for (name, value) in sent.headers.iter() {
        assert_eq!(got.headers.get(name), Some(value), "header `{name}`");
    }
    assert_eq!(got.headers.len(), sent.headers.len(), "headers were added: {:?}", got.headers);
}

fn every_kind_of_header() -> Headers {
    let nested = Headers::from([
        ("deep", HeaderValue::Table(Headers::from([("deeper", HeaderValue::Null)]))),
        ("list", HeaderValue::List(vec![HeaderValue::Int(1), HeaderValue::from("two")])),
    ]);
    Headers::from([
        ("null", HeaderValue::Null),
        ("true", HeaderValue::Bool(true)),
        ("false", HeaderValue::Bool(false)),
        ("zero", HeaderValue::Int(0)),
        ("small", HeaderValue::Int(-1)),
        ("largest", HeaderValue::Int(i64::MAX)),
        ("smallest", HeaderValue::Int(i64::MIN)),
        ("float", HeaderValue::Float(-0.1)),
        ("largest float", HeaderValue::Float(f64::MAX)),
        ("tiny float", HeaderValue::Float(f64::MIN_POSITIVE)),
        ("text", HeaderValue::from("grüße, 世界")),
        ("empty text", HeaderValue::from("")),
        ("not UTF-8", HeaderValue::Bytes(Bytes::from_static(&[0xff, 0xfe, 0x00, 0x80]))),
        ("timestamp", HeaderValue::Timestamp(1_700_000_000)),
        (
            "list",
            HeaderValue::List(vec![
                HeaderValue::Null,
                HeaderValue::Float(1.5),
                HeaderValue::Bytes(Bytes::from_static(&[0xc3, 0x28])),
                HeaderValue::List(vec![]),
                HeaderValue::Table(nested.clone()),
            ]),
        ),
        ("empty list", HeaderValue::List(vec![])),
        ("table", HeaderValue::Table(nested)),
        ("empty table", HeaderValue::Table(Headers::new())),
        ("ключ", HeaderValue::from("a name that is not ASCII")),
    ])
}

pub(crate) async fn bare_message_arrives_without_additions(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let mut consumer = t.consume(&queue).await;
    let sent = Envelope::new("");

    t.broker.publish(Publish::to_queue(queue.clone(), sent.clone())).await.unwrap();
    let got = next(&mut consumer).await.envelope.clone();

    assert_eq!(got.id, sent.id);
    assert!(got.payload.is_empty());
    assert_eq!(got.attempt, 1);
    assert_eq!((got.task, got.content_type, got.priority), (None, None, None));
    assert_eq!((got.correlation_id, got.reply_to, got.expiration), (None, None, None));
    assert!(got.headers.is_empty(), "{:?}", got.headers);
}

pub(crate) async fn body_of_many_frames_survives(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let mut consumer = t.consume(&queue).await;
    let body: Bytes = (0..3_000_001_u32).map(|i| (i % 251) as u8).collect::<Vec<u8>>().into();

    t.broker.publish(Publish::to_queue(queue, Envelope::new(body.clone()))).await.unwrap();

    assert!(next(&mut consumer).await.envelope.payload == body, "the body was changed");
}

pub(crate) async fn delivery_says_where_it_came_from(t: &Fixture) {
    let exchange = t.exchange("news", ExchangeKind::Topic).await;
    let queue = t.bound_queue(&exchange, "weather.*").await;
    let mut consumer = t.consume(&queue).await;

    let news = Publish::to_exchange(exchange.clone(), "weather.today", Envelope::new("rain"));
    t.broker.publish(news).await.unwrap();
    let delivery = next(&mut consumer).await;

    assert_eq!(delivery.queue, queue);
    assert_eq!(delivery.exchange, exchange);
    assert_eq!(delivery.routing_key, "weather.today");
    assert!(!delivery.redelivered);
}

pub(crate) async fn jobs_arrive_in_the_order_they_were_published(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let expected: Vec<_> = (0..300).map(|n| n.to_string()).collect();
    let (one_by_one, pipelined) = expected.split_at(20);

    for text in one_by_one {
        t.broker.publish(message(&queue, text)).await.unwrap();
    }
    t.send(&queue, pipelined).await;
    let mut consumer = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(20)).await;

    assert_eq!(take(&mut consumer, 300).await, expected);
}

pub(crate) async fn confirmed_means_present(t: &Fixture) {
    for queue in [t.quorum_queue("quorum").await, t.plain_queue("classic").await] {
        for count in 1..=5 {
            t.broker.publish(message(&queue, "job")).await.unwrap();

            assert_eq!(ready(&*t.broker, &queue).await, count, "in `{queue}`, right after the confirm");
        }
    }
}

pub(crate) async fn mandatory_message_that_no_queue_takes_is_an_error(t: &Fixture) {
    let missing = t.name("missing");
    let exchange = t.exchange("unbound", ExchangeKind::Direct).await;
    let mut to_exchange = Publish::to_exchange(exchange.clone(), "nobody", Envelope::new("lost?"));
    to_exchange.mandatory = true;

    let by_default = t.broker.publish(message(&missing, "lost?")).await.unwrap_err();
    let by_exchange = t.broker.publish(to_exchange).await.unwrap_err();

    assert!(
        matches!(&by_default, PublishError::Unroutable { exchange, routing_key }
            if exchange.is_empty() && *routing_key == missing),
        "{by_default:?}"
    );
    assert!(
        matches!(&by_exchange, PublishError::Unroutable { exchange: named, routing_key }
            if *named == exchange && routing_key == "nobody"),
        "{by_exchange:?}"
    );
}

pub(crate) async fn message_that_is_not_mandatory_may_reach_nobody(t: &Fixture) {
    let exchange = t.exchange("unbound", ExchangeKind::Fanout).await;
    let mut to_missing = message(&t.name("missing"), "nobody waits");
    to_missing.mandatory = false;

    t.broker.publish(Publish::to_exchange(exchange, "", Envelope::new("nobody listens"))).await.unwrap();
    t.broker.publish(to_missing).await.unwrap();
}

/// RabbitMQ answers by closing the channel, and with it goes what was on its way.
pub(crate) async fn missing_exchange_fails_only_its_own_publish(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let missing = t.name("missing");
    let lost = || Publish::to_exchange(missing.clone(), "key", Envelope::new("lost"));

    let alone = t.broker.publish(lost()).await;
    t.broker.publish(message(&queue, "next")).await.unwrap();
    let mut batch: Vec<_> = (0..20).map(|n| message(&queue, n.to_string())).collect();
    batch.insert(10, lost());
    let mut results = t.broker.publish_all(batch).await;

    for refused in [alone, results.remove(10)] {
        let error = refused.expect_err("there is no such exchange");
        assert!(matches!(error, PublishError::Unroutable { .. } | PublishError::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains(missing.as_ref()), "does not name the exchange: {error}");
    }
    for (n, result) in results.iter().enumerate() {
        assert!(result.is_ok(), "publish {n} shared the fate of another: {result:?}");
    }
    // At least once: what was on its way may have been published again.
    let mut consumer = t.consume(&queue).await;
    let mut left: HashSet<_> = (0..20).map(|n| n.to_string()).chain(["next".to_owned()]).collect();
    while !left.is_empty() {
        let delivery = next(&mut consumer).await;
        left.remove(&text(&delivery));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
}

/// Without a header that names the publish, 48 of 1,000 such jobs were reported as kept on RabbitMQ 3.10.
pub(crate) async fn results_of_a_batch_are_those_of_its_messages(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let missing = t.name("missing");
    let is_good = |n: usize| n % 4 != 3;
    let target = |n| if is_good(n) { &queue } else { &missing };

    let batch = (0..1000).map(|n| message(target(n), n.to_string())).collect();
    let results = t.broker.publish_all(batch).await;

    assert_eq!(results.len(), 1000);
    for (n, result) in results.iter().enumerate() {
        match result {
            Ok(()) => assert!(is_good(n), "publish {n} went nowhere and was confirmed"),
            Err(PublishError::Unroutable { routing_key, .. }) => {
                assert!(!is_good(n), "publish {n} was blamed for another's return");
                assert_eq!(*routing_key, missing);
            }
            Err(other) => panic!("publish {n}: {other:?}"),
        }
    }
    assert_eq!(ready(&*t.broker, &queue).await, 750);
    let mut consumer = t.consume_with(ConsumeOptions::new(queue).prefetch(100)).await;
    let expected: Vec<_> = (0..1000).filter(|&n| is_good(n)).map(|n| n.to_string()).collect();
    assert_eq!(take(&mut consumer, 750).await, expected);
}

/// So long that it is not published in one piece.
pub(crate) async fn results_of_a_long_batch_are_those_of_its_messages(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let missing = t.name("missing");
    let is_good = |n: usize| n % 3 != 2;
    let target = |n| if is_good(n) { &queue } else { &missing };

    let batch = (0..5000).map(|n| message(target(n), n.to_string())).collect();
    let results = t.broker.publish_all(batch).await;

    assert_eq!(results.len(), 5000);
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.is_ok(), is_good(n), "publish {n}: {result:?}");
    }
}

pub(crate) async fn concurrent_publishers_get_their_own_results(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let missing = t.name("missing");

    let publishers = (0..40).map(|publisher| {
        let (broker, queue, missing) = (t.broker.clone(), queue.clone(), missing.clone());
        tokio::spawn(async move {
            for n in 0..10 {
                let is_good = (publisher + n) % 3 != 0;
                let target = if is_good { &queue } else { &missing };
                // All carry one id: attribution must not rest on it alone.
                let mut publish = message(target, "job");
                publish.envelope.id = "the same".into();
                let result = broker.publish(publish).await;
                assert_eq!(result.is_ok(), is_good, "publisher {publisher}, job {n}: {result:?}");
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }

    let good = (0..40).flat_map(|p| (0..10).map(move |n| p + n)).filter(|sum| sum % 3 != 0).count();
    assert_eq!(ready(&*t.broker, &queue).await, good as u64);
}

pub(crate) async fn empty_batch_has_no_results(t: &Fixture) {
    assert!(t.broker.publish_all(vec![]).await.is_empty());
}

pub(crate) async fn two_jobs_of_one_id_are_two_jobs(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let twin = |text: &str| {
        let mut publish = message(&queue, text);
        publish.envelope.id = "twin".into();
        publish
    };

    for result in t.broker.publish_all(vec![twin("first"), twin("second")]).await {
        result.unwrap();
    }
    let mut consumer = t.consume(&queue).await;

    assert_eq!(take(&mut consumer, 2).await, ["first", "second"]);
}

/// A caller may give up waiting, as `select!` and timeouts do; the next publish must get its own answer.
pub(crate) async fn abandoned_publish_does_not_answer_for_the_next(t: &Fixture) {
    let queue: Name = t.plain_queue("jobs").await;
    let missing = t.name("missing");

    for n in 0..50 {
        let abandoned = t.broker.publish(message(&missing, "abandoned"));
        let _ = futures_util::FutureExt::now_or_never(abandoned);
        t.broker.publish(message(&queue, n.to_string())).await.unwrap();
    }

    assert_eq!(ready(&*t.broker, &queue).await, 50);
}

pub(crate) async fn message_by_the_default_exchange_must_reach_its_queue(t: &Fixture) {
    let (queue, missing) = (t.plain_queue("jobs").await, t.name("missing"));
    let by_default = |key: &Name| Publish::to_exchange("", key.clone(), Envelope::new("job"));

    let refused = t.broker.publish(by_default(&missing)).await;
    let mut results = t.broker.publish_all(vec![by_default(&queue), by_default(&missing)]).await;

    assert!(matches!(refused, Err(PublishError::Unroutable { .. })), "{refused:?}");
    assert!(matches!(results.pop(), Some(Err(PublishError::Unroutable { .. }))));
    results.pop().unwrap().unwrap();
    let mut optional = by_default(&missing);
    optional.mandatory = false;
    t.broker.publish(optional).await.unwrap();
}
