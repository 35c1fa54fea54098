//! What a broker cannot carry is a typed error before it is sent, and the client lives on.

use leveret::{Client, ErrorKind, PublishError};
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::{Envelope, HeaderValue, Headers};
use queue_core::settlement::Settlement;
use queue_core::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};

use crate::support::fixture::message;
use crate::support::{Fixture, next, text};

/// One byte more than AMQP's short string holds.
fn long() -> String {
    "x".repeat(256)
}

async fn assert_publishes_still(t: &Fixture, client: &Client) {
    let queue = t.plain_queue("alive").await;
    client.broker().publish(message(&queue, "alive")).await.unwrap();
}

pub(crate) async fn overlong_names_are_refused_by_a_publish(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let with = |change: fn(&mut Envelope)| {
        let mut publish = message(&queue, "job");
        change(&mut publish.envelope);
        publish
    };
    let publishes = [
        ("routing key", Publish::to_queue(long(), Envelope::new("job"))),
        ("exchange", Publish::to_exchange(long(), "key", Envelope::new("job"))),
        ("id", with(|job| job.id = long().into())),
        ("task", with(|job| job.task = Some(long()))),
        ("content type", with(|job| job.content_type = Some(long()))),
        ("correlation id", with(|job| job.correlation_id = Some(long()))),
        ("reply to", with(|job| job.reply_to = Some(long()))),
        ("header name", with(|job| job.headers.insert(long(), 1_i64))),
        (
            "nested header name",
            with(|job| {
                let nested = [(long(), 1_i64)].into();
                job.headers.insert("table", HeaderValue::Table(nested));
            }),
        ),
    ];

    for (what, publish) in publishes {
        let result = t.broker.publish(publish).await;
        assert!(matches!(result, Err(PublishError::Invalid(_))), "{what}: {result:?}");
    }

    assert_publishes_still(t, &t.client).await;
}

pub(crate) async fn overlong_names_are_refused_everywhere_else(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let topologies = [
        Topology::new().queue(QueueDecl::new(long())),
        Topology::new().exchange(ExchangeDecl::new(long(), ExchangeKind::Direct)),
        Topology::new().binding(BindingDecl::new("amq.direct", queue.clone(), long())),
        Topology::new().queue(QueueDecl::new(t.name("argument")).argument(long(), 1_i64)),
    ];

    for topology in topologies {
        t.delete_later(&topology);
        let Err(error) = t.broker.declare(&topology).await else { panic!("was declared: {topology:?}") };
        assert!(matches!(error.kind(), ErrorKind::Config | ErrorKind::Topology), "{error:?}");
    }
    assert!(t.broker.consume(ConsumeOptions::new(long())).await.is_err());
    assert!(t.broker.operator().unwrap().inspect(&long()).await.is_err());
    assert!(t.broker.operator().unwrap().purge(&long()).await.is_err());
    // There is no such queue, so that deleting it is no error, and refusing the name is none either.
    let _ = t.broker.operator().unwrap().delete(&long()).await;
    let mut named = ConsumeOptions::new(queue);
    named.name = Some(long());
    // A consumer's name is for people; a broker may cut it.
    let _ = t.broker.consume(named).await;

    assert_publishes_still(t, &t.client).await;
}

pub(crate) async fn headers_over_the_cap_are_refused(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let with_header_of = |bytes: usize| {
        let mut publish = message(&queue, "job");
        publish.envelope.headers.insert("blob", "x".repeat(bytes));
        publish
    };
    let with_many = || {
        let mut publish = message(&queue, "job");
        for n in 0..4000_u32 {
            publish.envelope.headers.insert(format!("header-{n}"), n);
        }
        publish
    };

    for too_much in [with_header_of(33 * 1024), with_header_of(5 * 1024 * 1024), with_many()] {
        let result = t.broker.publish(too_much).await;
        assert!(matches!(result, Err(PublishError::Invalid(_))), "{result:?}");
    }

    // Just under the cap fits, our own header beside it.
    t.broker.publish(with_header_of(31 * 1024)).await.unwrap();
    let mut consumer = t.consume(&queue).await;
    let got = next(&mut consumer).await;
    assert_eq!(got.envelope.headers.get("blob"), Some(&"x".repeat(31 * 1024).into()));
}

/// Whoever reads them walks them by recursion, and SQLite's column of JSON has a limit of its own.
pub(crate) async fn headers_nested_too_deep_are_refused(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let nested = |depth| (0..depth).fold(HeaderValue::Null, |inner, _| HeaderValue::List(vec![inner]));
    let with_header = |value: HeaderValue| {
        let mut publish = message(&queue, "job");
        publish.envelope.headers.insert("deep", value);
        publish
    };

    let result = t.broker.publish(with_header(nested(Headers::MAX_DEPTH + 1))).await;
    t.broker.publish(with_header(nested(Headers::MAX_DEPTH))).await.unwrap();

    assert!(matches!(result, Err(PublishError::Invalid(_))), "{result:?}");
    let mut consumer = t.consume(&queue).await;
    assert_eq!(next(&mut consumer).await.envelope.headers.get("deep"), Some(&nested(Headers::MAX_DEPTH)));
}

/// Erlang has no such floats, and RabbitMQ ends the connection: with it would go what others are publishing.
pub(crate) async fn floats_that_are_no_numbers_are_refused(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;

    for float in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
        let nested = HeaderValue::List(vec![HeaderValue::Table([("deep", float)].into())]);
        for value in [HeaderValue::Float(float), nested] {
            let mut publish = message(&queue, "job");
            publish.envelope.headers.insert("weight", value);
            let result = t.broker.publish(publish).await;
            assert!(matches!(result, Err(PublishError::Invalid(_))), "{float}: {result:?}");
        }
    }

    assert_publishes_still(t, &t.client).await;
}

/// RabbitMQ refuses more than 16 MiB since 4.0 by closing the channel; 3 takes up to 128 MiB.
pub(crate) async fn huge_body_is_kept_or_refused(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let huge = Envelope::new(vec![b'x'; 20_000_000]);

    let result = t.broker.publish(Publish::to_queue(queue.clone(), huge)).await;
    t.broker.publish(message(&queue, "next")).await.unwrap();

    let mut consumer = t.consume(&queue).await;
    match result {
        Ok(()) => {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.envelope.payload.len(), 20_000_000);
            delivery.settle(Settlement::Ack).await.unwrap();
        }
        Err(error) => {
            assert!(matches!(error, PublishError::TooLarge { .. } | PublishError::Invalid(_)), "{error:?}");
        }
    }
    assert_eq!(text(&next(&mut consumer).await), "next");
}
