//! Dead letters: they arrive with the reason, and none is lost on the way.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use leveret::PublishError;
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::clock::to_millis;
use queue_core::envelope::{Envelope, HeaderValue, header};
use queue_core::error::SettleError;
use queue_core::settlement::Settlement;
use queue_core::topology::{
    BindingDecl, ExchangeDecl, ExchangeKind, Name, QueueDecl, QueueSpec, Route, Topology,
};

use crate::settle::dead_letter;
use crate::support::fixture::quorum;
use crate::support::{Fixture, next, take, text, until_ready};

pub(crate) async fn dead_letter_arrives_with_its_reason(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let mut job = Envelope::new(r#"{"to":"ada"}"#);
    job.task = Some("send_email".to_owned());
    job.content_type = Some("application/json".to_owned());
    job.content_encoding = Some("utf-8".to_owned());
    job.app_id = Some("billing".to_owned());
    job.cluster_id = Some("west".to_owned());
    job.headers.insert(header::USER_ID, "ada");
    job.attempt = 6;
    job.correlation_id = Some("request 7".to_owned());
    job.enqueued_at = Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    job.headers.insert("tenant", "blue");
    let mut consumer = t.work(&queue, 1).await;
    let mut dead_letters = t.consume(&queue.dead_queue().unwrap()).await;

    t.broker.publish(Publish::to_queue(queue.name().clone(), job.clone())).await.unwrap();
    let before = to_millis(SystemTime::now());
    next(&mut consumer).await.settle(dead_letter("the address is no address")).await.unwrap();
    let dead = next(&mut dead_letters).await;

    let got = &dead.envelope;
    assert_eq!((&got.id, &got.payload, &got.task), (&job.id, &job.payload, &job.task));
    assert_eq!((&got.content_type, &got.correlation_id), (&job.content_type, &job.correlation_id));
    assert_eq!(got.content_encoding, job.content_encoding);
    assert_eq!((&got.app_id, &got.cluster_id), (&job.app_id, &job.cluster_id));
    assert_eq!(got.headers.get(header::USER_ID), Some(&"ada".into()));
    assert_eq!((got.attempt, got.enqueued_at), (6, job.enqueued_at));
    assert_eq!(got.headers.get("tenant"), Some(&"blue".into()));
    assert_eq!(got.headers.get(header::ERROR_KIND), Some(&"permanent".into()));
    assert_eq!(got.headers.get(header::ERROR), Some(&"the address is no address".into()));
    assert_eq!(got.headers.get(header::QUEUE), Some(&queue.name().clone().into_owned().into()));
    let failed_at = got.headers.get(header::FAILED_AT).and_then(HeaderValue::as_int).expect("a time");
    assert!((before..=to_millis(SystemTime::now())).contains(&failed_at), "{failed_at}");
    // The original is gone, now that its copy is confirmed.
    t.send(queue.name(), ["marker"]).await;
    assert_eq!(take(&mut consumer, 1).await, ["marker"]);
}

/// `Ok` means that the copy is there, with no more waiting.
pub(crate) async fn settled_dead_letter_is_present(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    t.send(queue.name(), ["job"]).await;
    let mut consumer = t.work(&queue, 1).await;

    next(&mut consumer).await.settle(dead_letter("no")).await.unwrap();

    assert_eq!(crate::support::ready(&*t.broker, &queue.dead_queue().unwrap()).await, 1);
}

/// A look leaves them where they were, and not somewhere on their way back.
pub(crate) async fn dead_letters_can_be_replayed_as_soon_as_they_were_looked_at(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let dead = queue.dead_queue().unwrap();
    let mut consumer = t.work(&queue, 1).await;
    let admin = t.client.admin();
    // 40 are more than a channel of RabbitMQ has on their way to a quorum queue at once.
    let jobs: Vec<_> = (0..40).map(|n| n.to_string()).collect();
    t.send(queue.name(), jobs.iter().map(String::as_str)).await;

    for _ in 0..5 {
        for _ in &jobs {
            next(&mut consumer).await.settle(dead_letter("no")).await.unwrap();
        }
        for _ in 0..3 {
            assert_eq!(admin.dead_letters(&dead, 100).await.unwrap().len(), jobs.len());
        }
        assert_eq!(admin.replay(&dead, 100, |_| true).await.unwrap(), jobs.len());
        assert!(admin.dead_letters(&dead, 100).await.unwrap().is_empty());
    }
}

pub(crate) async fn dead_letter_without_an_exchange_is_not_lost(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let missing = t.name("missing-dlx");
    let route = Route { exchange: missing.clone(), routing_key: "key".into() };
    refused_dead_letter_comes_back(t, &queue, route, &missing).await;
}

pub(crate) async fn dead_letter_that_nothing_takes_is_not_lost(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let unbound = t.exchange("unbound-dlx", ExchangeKind::Direct).await;
    let route = Route { exchange: unbound.clone(), routing_key: "key".into() };
    refused_dead_letter_comes_back(t, &queue, route, &unbound).await;
}

/// Or its job would come back, and run again.
pub(crate) async fn deleted_dead_letter_queue_is_declared_again(t: &Fixture) {
    for spec in [QueueSpec::new(t.name("jobs")), QueueSpec::new(t.name("jobs")).dlx(t.name("dlx"))] {
        t.declare_spec(&spec).await;
        t.send(spec.name(), ["dead"]).await;
        let mut consumer = t.work(&spec, 1).await;
        let delivery = next(&mut consumer).await;
        let dead = spec.dead_queue().unwrap();

        t.other_client().await.operator().unwrap().delete(&dead).await.unwrap();
        delivery.settle(dead_letter("no")).await.unwrap();

        assert_eq!(crate::support::ready(&*t.broker, &dead).await, 1);
        // As it was: its client finds nothing to object to.
        t.declare_spec(&spec).await;
    }
}

/// A queue keeps its options for its life, so to change them somebody deletes it and the program declares it anew.
pub(crate) async fn deleted_dead_letter_queue_is_declared_as_it_was_last(t: &Fixture) {
    let spec = QueueSpec::new(t.name("jobs")).dlx(t.name("dlx"));
    let dead = spec.dead_queue().unwrap();
    let other = t.other_client().await;
    t.declare_spec(&spec).await;
    other.operator().unwrap().delete(&dead).await.unwrap();
    let kept_for_a_day = spec.dead_letter_ttl(Duration::from_secs(24 * 3600));
    t.declare_spec(&kept_for_a_day).await;
    t.send(kept_for_a_day.name(), ["dead"]).await;
    let mut consumer = t.work(&kept_for_a_day, 1).await;
    let delivery = next(&mut consumer).await;

    other.operator().unwrap().delete(&dead).await.unwrap();
    delivery.settle(dead_letter("no")).await.unwrap();

    assert_eq!(crate::support::ready(&*t.broker, &dead).await, 1);
    t.declare_spec(&kept_for_a_day).await;
}

async fn refused_dead_letter_comes_back(t: &Fixture, queue: &Name, route: Route, exchange: &Name) {
    t.send(queue, ["precious"]).await;
    let options = ConsumeOptions::new(queue.clone()).dead_letter(Some(route));
    let mut consumer = t.consume_with(options).await;

    let delivery = next(&mut consumer).await;
    let since = Instant::now();
    let refused = delivery.settle(dead_letter("no")).await;
    let again = next(&mut consumer).await;

    // Or its handler would run in a hot loop, and not every handler may.
    assert!(since.elapsed() > Duration::from_secs(2), "it is back after {:?}", since.elapsed());
    match refused {
        Err(SettleError::Republish(cause @ (PublishError::Unroutable { .. } | PublishError::Invalid(_)))) => {
            assert!(cause.to_string().contains(exchange.as_ref()), "does not name the exchange: {cause}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(text(&again), "precious");
    assert!(again.redelivered);
    again.settle(Settlement::Ack).await.unwrap();
}

/// A full dead-letter queue refuses the copy, as any full queue does.
pub(crate) async fn dead_letter_refused_by_a_full_queue_is_not_lost(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let (dlx, full) = (t.name("dlx"), t.name("full"));
    let topology = Topology::new()
        .exchange(ExchangeDecl::new(dlx.clone(), ExchangeKind::Direct))
        .queue(quorum(full.clone()).argument("x-max-length", 1_i64).argument("x-overflow", "reject-publish"))
        .binding(BindingDecl::new(dlx.clone(), full.clone(), "key"));
    t.declare(&topology).await;
    let filled = crate::limit::fill(t, &full).await;
    t.send(&queue, ["precious"]).await;
    let route = Route { exchange: dlx, routing_key: "key".into() };
    let mut consumer = t.consume_with(ConsumeOptions::new(queue).dead_letter(Some(route))).await;

    let refused = next(&mut consumer).await.settle(dead_letter("no")).await;
    let again = next(&mut consumer).await;

    assert!(
        matches!(&refused, Err(SettleError::Republish(PublishError::QueueFull { .. }))),
        "{refused:?}, with {filled} in the queue"
    );
    assert_eq!(text(&again), "precious");
}

pub(crate) async fn dead_letter_goes_nowhere_only_where_that_was_asked_for(t: &Fixture) {
    let spec = QueueSpec::new(t.name("jobs")).no_dlx();
    t.declare_spec(&spec).await;
    t.send(spec.name(), ["dropped", "marker"]).await;
    let mut consumer = t.work(&spec, 1).await;

    next(&mut consumer).await.settle(dead_letter("no")).await.unwrap();

    assert_eq!(take(&mut consumer, 1).await, ["marker"]);
    until_ready(&*t.broker, spec.name(), 0).await;
}

/// A job that kills its workers: each of them vanishes with it unsettled.
pub(crate) async fn delivery_limit_ends_in_the_dead_letters(t: &Fixture) {
    let (queue, dead) = (t.name("jobs"), t.name("dead"));
    let decl = QueueDecl::new(queue.clone())
        .argument("x-queue-type", "quorum")
        .argument("x-delivery-limit", 2_i64)
        .argument("x-dead-letter-exchange", "")
        .argument("x-dead-letter-routing-key", dead.clone().into_owned());
    t.declare(&Topology::new().queue(quorum(dead.clone())).queue(decl)).await;
    let mut dead_letters = t.consume(&dead).await;
    t.send(&queue, ["killer"]).await;

    // The limit counts redeliveries: two of them, three deliveries in all.
    for delivery in 0..3 {
        let worker = t.other_client().await;
        let mut consumer = worker.broker().consume(ConsumeOptions::new(queue.clone())).await.unwrap();
        let unsettled = next(&mut consumer).await;
        assert_eq!(unsettled.redelivered, delivery > 0);
        worker.close().await;
    }
    let killer = next(&mut dead_letters).await;

    assert_eq!(text(&killer), "killer");
    assert_eq!(death(&killer.envelope).reason, "delivery_limit");
    until_ready(&*t.broker, &queue, 0).await;
}

/// The newest entry of `x-death`.
#[derive(Debug, PartialEq)]
pub(crate) struct Death {
    pub(crate) reason: String,
    pub(crate) queue: String,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) count: i64,
}

/// What the broker's own dead-lettering wrote. See <https://www.rabbitmq.com/docs/dlx#effects>.
#[track_caller]
pub(crate) fn death(envelope: &Envelope) -> Death {
    let Some(HeaderValue::List(deaths)) = envelope.headers.get("x-death") else {
        panic!("no x-death in {:?}", envelope.headers)
    };
    let Some(HeaderValue::Table(newest)) = deaths.first() else { panic!("no table in {deaths:?}") };
    let string = |name: &str| {
        let value = newest.get(name).and_then(HeaderValue::as_str);
        value.unwrap_or_else(|| panic!("no text `{name}` in {newest:?}")).to_owned()
    };
    let Some(HeaderValue::List(keys)) = newest.get("routing-keys") else { panic!("no keys in {newest:?}") };
    assert!(matches!(newest.get("time"), Some(HeaderValue::Timestamp(_))), "no time in {newest:?}");
    Death {
        reason: string("reason"),
        queue: string("queue"),
        exchange: string("exchange"),
        routing_key: keys.first().and_then(HeaderValue::as_str).expect("a key").to_owned(),
        count: newest.get("count").and_then(HeaderValue::as_int).expect("a count"),
    }
}

/// No worker has had it, so only the broker knows where it came from.
pub(crate) async fn replayed_event_that_expired_keeps_where_it_came_from(t: &Fixture) {
    let spec = QueueSpec::new(t.name("events")).ttl(Duration::from_millis(50));
    t.declare_spec(&spec).await;
    let exchange = t.exchange("events", ExchangeKind::Topic).await;
    t.declare(&Topology::new().binding(BindingDecl::new(exchange.clone(), spec.name().clone(), "a.*"))).await;
    let dead = spec.dead_queue().unwrap();

    t.broker.publish(Publish::to_exchange(exchange.clone(), "a.b", Envelope::new("event"))).await.unwrap();
    until_ready(&*t.broker, &dead, 1).await;
    assert_eq!(t.client.admin().replay(&dead, 10, |_| true).await.unwrap(), 1);

    // The replay expires as well.
    let replayed = next(&mut t.consume(&dead).await).await.envelope;
    assert_eq!(replayed.headers.get(header::REPLAYS), Some(&HeaderValue::Int(1)), "{replayed:?}");
    assert_eq!(replayed.headers.get(header::EXCHANGE), Some(&HeaderValue::from(&*exchange)));
    assert_eq!(replayed.headers.get(header::ROUTING_KEY), Some(&HeaderValue::from("a.b")));
}
