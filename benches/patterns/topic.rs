//! Publishing to a topic exchange with a hundred bindings, beside a lapin loop by hand that confirms, too.

use futures_util::future::{join_all, try_join_all};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use leveret::{Client, Event};
use queue_core::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};
use serde::{Deserialize, Serialize};

use crate::Plan;
use crate::measure::{Sample, Stopwatch, spread, thousands};

/// How many are under way at once.
const PIPELINE: usize = 32;
const BINDINGS: usize = 100;

/// About 256 bytes of JSON.
#[derive(Debug, Clone, Serialize, Deserialize, Event)]
#[event(exchange = "bench.changes", kind = "topic", key = "order.{region}.placed")]
struct Changed {
    region: String,
    text: String,
}

impl Changed {
    fn new(number: usize) -> Self {
        Self { region: format!("r{}", number % BINDINGS), text: "x".repeat(225) }
    }
}

/// Each region's orders reach one queue, which keeps the last only.
fn topology() -> Topology {
    let exchange = ExchangeDecl::new(Changed::EXCHANGE, ExchangeKind::Topic);
    (0..BINDINGS).fold(Topology::new().exchange(exchange), |topology, n| {
        let queue = format!("bench.changes.r{n}");
        let declared = QueueDecl::new(queue.clone()).argument("x-max-length", 1_i64);
        let pattern = format!("order.r{n}.*");
        topology.queue(declared).binding(BindingDecl::new(Changed::EXCHANGE, queue, pattern))
    })
}

pub(crate) async fn bench(url: &str, plan: &Plan) {
    let events = plan.calls * 2;
    println!(
        "publish to a topic exchange with {BINDINGS} bindings, {PIPELINE} at once, {} events",
        thousands(events as f64)
    );
    let client = Client::connect(url).await.expect("the node answers");
    client.declare(&topology()).await.expect("declared");

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        // Who comes second has a warmer node.
        if round % 2 == 0 {
            ours.push(publish(&client, events).await);
            theirs.push(by_hand(url, events).await);
        } else {
            theirs.push(by_hand(url, events).await);
            ours.push(publish(&client, events).await);
        }
    }
    for n in 0..BINDINGS {
        client.operator().unwrap().delete(&format!("bench.changes.r{n}")).await.expect("deleted");
    }
    client.close().await;

    for (name, samples) in [("ours", &ours), ("by hand, confirmed", &theirs)] {
        let (rate, low, high) = spread(samples.iter().map(Sample::rate));
        let (cpu, ..) = spread(samples.iter().map(Sample::cpu_per_job));
        println!(
            "{name:<28} {:>8} events/s ({}–{}), {cpu:.0} µs of client CPU per event",
            thousands(rate),
            thousands(low),
            thousands(high)
        );
    }
    let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours.rate() / theirs.rate());
    let (ratio, low, high) = spread(ratios);
    println!("{:<28} {ratio:>8.2} ({low:.2}–{high:.2})\n", "ratio");
}

async fn publish(client: &Client, events: usize) -> Sample {
    let watch = Stopwatch::start();
    for start in (0..events).step_by(PIPELINE) {
        let publishes = (start..events.min(start + PIPELINE))
            .map(|number| client.publish(Changed::new(number)).into_future());
        try_join_all(publishes).await.expect("published");
    }
    watch.stop(events)
}

/// One task publishes and confirms, so that confirms do not mix.
async fn by_hand(url: &str, events: usize) -> Sample {
    let connection =
        Connection::connect(url, ConnectionProperties::default()).await.expect("the node answers");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let watch = Stopwatch::start();
    for start in (0..events).step_by(PIPELINE) {
        let publishes = (start..events.min(start + PIPELINE)).map(|number| {
            let event = Changed::new(number);
            let body = serde_json::to_vec(&event).expect("JSON");
            let key = format!("order.{}.placed", event.region);
            let properties = BasicProperties::default()
                .with_content_type("application/json".into())
                .with_delivery_mode(2)
                .with_message_id(leveret::JobId::new().as_str().into())
                .with_type(Changed::NAME.into());
            let channel = &channel;
            async move {
                let options = BasicPublishOptions::default();
                let confirm = channel
                    .basic_publish(Changed::EXCHANGE.into(), key.as_str().into(), options, &body, properties)
                    .await
                    .expect("sent");
                assert!(matches!(confirm.await, Ok(Confirmation::Ack(_))), "not confirmed");
            }
        });
        join_all(publishes).await;
    }
    let sample = watch.stop(events);
    connection.close(200, "done".into()).await.expect("closed");
    sample
}
