//! What `publish` says, and what it sends.

use leveret::{Client, Event, EventError, Properties, PublishError};
use queue_core::broker::{ConsumeOptions, Delivery};
use queue_core::envelope::HeaderValue;
use queue_core::topology::{BindingDecl, QueueDecl, Topology};

use crate::support::{OrderPlaced, ParcelSent, TicketOpened};

/// A client on a broker of its own, with a queue bound to all of an exchange.
async fn listening<E: Event>(key: &'static str) -> (Client, queue_core::broker::Consumer) {
    let client = Client::connect("memory:").await.unwrap();
    let exchange = queue_core::topology::ExchangeDecl::new(E::EXCHANGE, E::KIND);
    let topology = Topology::new().exchange(exchange).queue(QueueDecl::new("all")).binding(BindingDecl::new(
        E::EXCHANGE,
        "all",
        key,
    ));
    client.declare(&topology).await.unwrap();
    let consumer = client.broker().consume(ConsumeOptions::new("all").prefetch(10)).await.unwrap();
    (client, consumer)
}

async fn next(consumer: &mut queue_core::broker::Consumer) -> Delivery {
    consumer.next().await.unwrap().unwrap()
}

#[tokio::test]
async fn event_is_plain_json_under_its_name() {
    let (client, mut consumer) = listening::<OrderPlaced>("").await;

    let id = client.publish(OrderPlaced { order: 7 }).header("tenant", "blue").await.unwrap();
    let sent = next(&mut consumer).await;

    assert_eq!(sent.envelope.payload, r#"{"order":7}"#);
    assert_eq!(sent.envelope.id, id);
    assert_eq!(sent.envelope.task.as_deref(), Some("OrderPlaced"));
    assert_eq!(sent.envelope.content_type.as_deref(), Some("application/json"));
    assert_eq!(sent.envelope.headers.get("tenant"), Some(&"blue".into()));
    assert_eq!(sent.exchange, "shop.orders");
}

#[tokio::test]
async fn key_is_filled_from_the_events_fields() {
    let (client, mut consumer) = listening::<ParcelSent>("parcel.europe.*").await;

    client.publish(ParcelSent { region: "asia".into(), number: 1 }).await.unwrap();
    client.publish(ParcelSent { region: "europe".into(), number: 2 }).await.unwrap();

    assert_eq!(next(&mut consumer).await.routing_key, "parcel.europe.sent");
}

#[tokio::test]
async fn field_that_is_no_word_is_refused_by_name() {
    let (client, _consumer) = listening::<ParcelSent>("#").await;

    let refused = client.publish(ParcelSent { region: "eu.west".into(), number: 1 }).await;

    let Err(EventError::Publish(PublishError::Invalid(words))) = refused else { panic!("{refused:?}") };
    assert!(words.contains("`ParcelSent`") && words.contains("`region` is `eu.west`"), "{words}");
}

#[tokio::test]
async fn fields_become_headers() {
    let (client, mut consumer) = listening::<TicketOpened>("").await;

    let ticket = TicketOpened { region: "europe".into(), urgent: true, text: "help".into() };
    client.publish(ticket).await.unwrap();
    let sent = next(&mut consumer).await;

    assert_eq!(sent.envelope.task.as_deref(), Some("ticket"));
    assert_eq!(sent.envelope.headers.get("region"), Some(&"europe".into()));
    assert_eq!(sent.envelope.headers.get("urgent"), Some(&HeaderValue::Bool(true)));
    assert_eq!(sent.envelope.headers.get("text"), None);
}

#[tokio::test]
async fn nobody_listening_is_an_error_only_where_that_was_asked_for() {
    let client = Client::connect("memory:").await.unwrap();

    client.publish(OrderPlaced { order: 1 }).await.unwrap();
    let refused = client.publish(OrderPlaced { order: 2 }).must_route().await;

    assert!(matches!(refused, Err(EventError::Publish(PublishError::Unroutable { .. }))), "{refused:?}");
}

#[tokio::test]
async fn exchange_of_another_kind_is_named() {
    let client = Client::connect("memory:").await.unwrap();
    let other =
        queue_core::topology::ExchangeDecl::new("shop.orders", queue_core::topology::ExchangeKind::Topic);
    client.declare(&Topology::new().exchange(other)).await.unwrap();

    let refused = client.publish(OrderPlaced { order: 1 }).await.unwrap_err();

    let words = leveret::error_chain(&refused);
    assert!(
        words.contains("`shop.orders`") && words.contains("topic") && words.contains("fanout"),
        "{words}"
    );
}

#[tokio::test]
async fn header_of_ours_is_refused() {
    let client = Client::connect("memory:").await.unwrap();

    let event = client.publish(OrderPlaced { order: 1 }).header("q-attempt", 3_i64).await;
    let raw = client.publish_raw("amq.topic", "k", "x", Properties::new().header("q-eta", 1_i64)).await;

    assert!(matches!(event, Err(EventError::Publish(PublishError::Invalid(_)))), "{event:?}");
    assert!(matches!(raw, Err(PublishError::Invalid(_))), "{raw:?}");
}

#[tokio::test]
async fn raw_message_is_sent_as_it_is() {
    let client = Client::connect("memory:").await.unwrap();
    client.declare(&Topology::new().queue(QueueDecl::new("csv"))).await.unwrap();

    let properties = Properties::new().kind("rows").content_type("text/csv").correlation_id("c").priority(3);
    let properties = properties.content_encoding("gzip").app_id("billing");
    let id = client.publish_raw("", "csv", "a,b\n1,2\n", properties).must_route().await.unwrap();
    let nowhere = client.publish_raw("", "nowhere", "x", Properties::new()).must_route().await;

    let mut consumer = client.broker().consume(ConsumeOptions::new("csv")).await.unwrap();
    let sent = next(&mut consumer).await.envelope;
    assert_eq!((sent.id, &*sent.payload), (id, &b"a,b\n1,2\n"[..]));
    assert_eq!((sent.task.as_deref(), sent.content_type.as_deref()), (Some("rows"), Some("text/csv")));
    assert_eq!((sent.correlation_id.as_deref(), sent.priority), (Some("c"), Some(3)));
    assert_eq!((sent.content_encoding.as_deref(), sent.app_id.as_deref()), (Some("gzip"), Some("billing")));
    assert!(matches!(nowhere, Err(PublishError::Unroutable { .. })), "{nowhere:?}");
}
