//! Exchanges and bindings, as AMQP 0-9-1 defines them.

use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::{Envelope, HeaderValue};
use queue_core::topology::{BindingDecl, ExchangeKind, Name, QueueDecl, Topology};

use crate::support::{Fixture, ready, take};

/// Publishes `text` and waits for the confirm: it is then in every queue that it reaches.
async fn publish(t: &Fixture, exchange: &Name, key: &str, text: &str) {
    let publish = Publish::to_exchange(exchange.clone(), key.to_owned(), Envelope::new(text.to_owned()));
    t.broker.publish(publish).await.unwrap();
}

/// All that is in a queue.
pub(crate) async fn contents(t: &Fixture, queue: &Name) -> Vec<String> {
    let count = ready(&*t.broker, queue).await;
    let mut consumer = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(50)).await;
    take(&mut consumer, count as usize).await
}

pub(crate) async fn direct_exchange_routes_by_the_exact_key(t: &Fixture) {
    let exchange = t.exchange("direct", ExchangeKind::Direct).await;
    let red = t.bound_queue(&exchange, "red").await;
    let pattern = t.bound_queue(&exchange, "#").await;
    let also_red = t.bound_queue(&exchange, "red").await;

    for key in ["red", "re", "red.", "", "#", "RED"] {
        publish(t, &exchange, key, key).await;
    }

    assert_eq!(contents(t, &red).await, ["red"]);
    assert_eq!(contents(t, &also_red).await, ["red"]);
    assert_eq!(contents(t, &pattern).await, ["#"]);
}

pub(crate) async fn fanout_reaches_a_hundred_queues(t: &Fixture) {
    let exchange = t.exchange("fanout", ExchangeKind::Fanout).await;
    let queues: Vec<_> = (0..100).map(|_| t.name("bound")).collect();
    let mut topology = Topology::new();
    for (n, queue) in queues.iter().enumerate() {
        let binding = BindingDecl::new(exchange.clone(), queue.clone(), format!("ignored {n}"));
        topology = topology.queue(QueueDecl::new(queue.clone())).binding(binding);
    }
    t.declare(&topology).await;

    let mut event = Publish::to_exchange(exchange, "any key", Envelope::new("event"));
    event.mandatory = true;
    t.broker.publish(event).await.unwrap();

    for queue in &queues {
        assert_eq!(contents(t, queue).await, ["event"]);
    }
}

pub(crate) async fn headers_exchange_matches_all_or_any(t: &Fixture) {
    let exchange = t.exchange("headers", ExchangeKind::Headers).await;
    let bind = async |arguments: &[(&str, HeaderValue)]| {
        let queue = t.plain_queue("bound").await;
        let mut binding = BindingDecl::new(exchange.clone(), queue.clone(), "");
        for (name, value) in arguments {
            binding = binding.argument(*name, value.clone());
        }
        t.declare(&Topology::new().binding(binding)).await;
        queue
    };
    let colour = || ("colour", HeaderValue::from("red"));
    let weight = || ("weight", HeaderValue::from(7_i64));
    let all = bind(&[("x-match", "all".into()), colour(), weight()]).await;
    let any = bind(&[("x-match", "any".into()), colour(), weight()]).await;
    let by_default = bind(&[colour(), weight()]).await;
    let present = bind(&[("x-match", "all".into()), ("colour", HeaderValue::Null)]).await;

    let messages: [(&str, &[(&str, HeaderValue)]); 6] = [
        ("both", &[colour(), weight()]),
        ("both and more", &[colour(), weight(), ("shape", "round".into())]),
        ("colour", &[colour()]),
        ("other values", &[("colour", "blue".into()), ("weight", HeaderValue::from(8_i64))]),
        ("other type", &[("weight", HeaderValue::from("7"))]),
        ("none", &[]),
    ];
    for (text, headers) in messages {
        let mut envelope = Envelope::new(text);
        envelope.headers = headers.iter().cloned().collect();
        t.broker.publish(Publish::to_exchange(exchange.clone(), "ignored", envelope)).await.unwrap();
    }

    assert_eq!(contents(t, &all).await, ["both", "both and more"]);
    assert_eq!(contents(t, &by_default).await, ["both", "both and more"]);
    assert_eq!(contents(t, &any).await, ["both", "both and more", "colour"]);
    assert_eq!(contents(t, &present).await, ["both", "both and more", "colour", "other values"]);
}

pub(crate) async fn queue_bound_twice_gets_a_message_once(t: &Fixture) {
    let exchange = t.exchange("topic", ExchangeKind::Topic).await;
    let queue = t.bound_queue(&exchange, "a.*").await;
    let again = BindingDecl::new(exchange.clone(), queue.clone(), "a.*");
    let also = BindingDecl::new(exchange.clone(), queue.clone(), "#");

    t.declare(&Topology::new().binding(again.clone()).binding(again).binding(also)).await;
    publish(t, &exchange, "a.b", "once").await;

    assert_eq!(contents(t, &queue).await, ["once"]);
}

/// `amq.direct` and its like are there without being declared.
pub(crate) async fn standard_exchanges_are_there(t: &Fixture) {
    for exchange in ["amq.direct", "amq.topic", "amq.fanout"] {
        let key = t.name("key");
        let queue = t.bound_queue(&exchange.into(), &key).await;

        publish(t, &exchange.into(), &key, exchange).await;

        // Others may bind to these, and so may reach our queue by fanout.
        assert!(contents(t, &queue).await.contains(&exchange.to_owned()));
    }
}

pub(crate) async fn bindings_of_a_deleted_queue_are_gone(t: &Fixture) {
    let exchange = t.exchange("fanout", ExchangeKind::Fanout).await;
    let queue = t.bound_queue(&exchange, "").await;

    t.broker.operator().unwrap().delete(&queue).await.unwrap();
    t.declare(&Topology::new().queue(QueueDecl::new(queue.clone()))).await;
    publish(t, &exchange, "", "nobody").await;

    assert_eq!(ready(&*t.broker, &queue).await, 0);
}

pub(crate) async fn unbound_queue_gets_nothing_more_by_that_binding(t: &Fixture) {
    for kind in [ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic] {
        let exchange = t.exchange("unbind", kind).await;
        let queue = t.bound_queue(&exchange, "a").await;
        let other = t.bound_queue(&exchange, "a").await;
        let binding = |key: &'static str| BindingDecl::new(exchange.clone(), queue.clone(), key);
        t.broker.declare(&Topology::new().binding(binding("b"))).await.unwrap();

        publish(t, &exchange, "a", "before").await;
        t.broker.declare(&Topology::new().unbind(binding("a"))).await.unwrap();
        publish(t, &exchange, "a", "after").await;
        publish(t, &exchange, "b", "by the other binding").await;
        // What is not there is taken out already.
        t.broker.declare(&Topology::new().unbind(binding("a"))).await.unwrap();

        let left: &[&str] = match kind {
            ExchangeKind::Fanout => &["before", "after", "by the other binding"],
            _ => &["before", "by the other binding"],
        };
        assert_eq!(contents(t, &queue).await, left, "{kind:?}");
        assert!(contents(t, &other).await.contains(&"after".to_owned()), "{kind:?}");
    }
}

pub(crate) async fn unbound_queue_gets_nothing_more_by_those_headers(t: &Fixture) {
    let exchange = t.exchange("unbind.headers", ExchangeKind::Headers).await;
    let queue = t.plain_queue("unbind.headers").await;
    let binding = |region: &str| {
        let binding = BindingDecl::new(exchange.clone(), queue.clone(), "");
        binding.argument("x-match", "all").argument("region", region)
    };
    let bound = Topology::new().binding(binding("europe")).binding(binding("asia"));
    t.declare(&bound).await;

    t.declare(&Topology::new().unbind(binding("europe"))).await;
    for region in ["europe", "asia"] {
        let mut message = Publish::to_exchange(exchange.clone(), "", Envelope::new(region));
        message.envelope.headers.insert("region", region);
        t.broker.publish(message).await.unwrap();
    }

    assert_eq!(contents(t, &queue).await, ["asia"]);
}

/// AMQP cannot list bindings: without its management API, RabbitMQ refuses rather than leaving some behind.
pub(crate) async fn exact_bindings_take_out_all_others_or_are_refused(t: &Fixture) {
    let exchange = t.exchange("exact", ExchangeKind::Topic).await;
    let queue = t.bound_queue(&exchange, "order.old").await;
    let exact = Topology::new()
        .queue(QueueDecl::new(queue.clone()).exact_bindings())
        .binding(BindingDecl::new(exchange.clone(), queue.clone(), "order.new"));

    let declared = t.broker.declare(&exact).await;

    if !t.lists_bindings() {
        let error = declared.unwrap_err();
        assert_eq!(error.kind(), leveret::ErrorKind::Config);
        assert!(error.to_string().contains(&*queue), "{error}");
        return;
    }
    declared.unwrap();
    for key in ["order.old", "order.new"] {
        publish(t, &exchange, key, key).await;
    }
    assert_eq!(contents(t, &queue).await, ["order.new"]);
}

/// Of several exchanges, of patterns with every character that a path would read otherwise, and of headers.
pub(crate) async fn exact_bindings_keep_what_is_made_and_nothing_else(t: &Fixture) {
    if !t.lists_bindings() {
        return;
    }
    let topic = t.exchange("exact.topic", ExchangeKind::Topic).await;
    let headers = t.exchange("exact.headers", ExchangeKind::Headers).await;
    let queue = t.bound_queue(&topic, "*").await;
    let binding = |key: &'static str| BindingDecl::new(topic.clone(), queue.clone(), key);
    let matching = |kind: &str, size: i64| {
        let binding = BindingDecl::new(headers.clone(), queue.clone(), "");
        binding.argument("x-match", "all").argument("kind", kind).argument("size", size)
    };
    let old = Topology::new()
        .binding(binding("a/b?c=d&e~f %2f.#"))
        .binding(binding("kept/ü %.*"))
        .binding(binding("*"))
        .binding(matching("old", 1))
        .binding(matching("kept", 2));
    t.declare(&old).await;

    let exact = Topology::new()
        .queue(QueueDecl::new(queue.clone()).exact_bindings())
        .binding(binding("kept/ü %.*"))
        .binding(matching("kept", 2));
    // And once more, when there is nothing to take out.
    t.declare(&exact).await;
    t.declare(&exact).await;

    for key in ["a/b?c=d&e~f %2f.x", "word", "kept/ü %.x"] {
        publish(t, &topic, key, key).await;
    }
    for (kind, size) in [("old", 1_i64), ("kept", 2)] {
        let mut message = Publish::to_exchange(headers.clone(), "", Envelope::new(kind));
        message.envelope.headers.insert("kind", kind);
        message.envelope.headers.insert("size", size);
        t.broker.publish(message).await.unwrap();
    }
    assert_eq!(contents(t, &queue).await, ["kept/ü %.x", "kept"]);
}
