//! Events by exchanges: they subscribe to ours, and we to theirs.

use leveret::{Context, Event, subscriber};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Python, Seen};
use crate::support::Leftovers;

const LEFTOVERS: Leftovers = Leftovers {
    queues: &[
        "interop.fanout.ours",
        "interop.fanout.ours.dead",
        "interop.topic.ours",
        "interop.topic.ours.dead",
        "interop.by-headers.ours",
        "interop.by-headers.ours.dead",
    ],
    exchanges: &["interop.fanout", "interop.topic", "interop.by-headers"],
};

with_each_client!(
    they_hear_of_our_events,
    they_hear_of_our_events_by_pattern,
    they_hear_of_our_events_by_headers,
    we_hear_of_their_events,
    we_hear_of_their_events_by_pattern,
    we_hear_of_their_events_by_headers,
);

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(exchange = "interop.fanout", kind = "fanout")]
struct Placed {
    order: u64,
    note: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(exchange = "interop.topic", kind = "topic", key = "order.{region}.placed")]
struct PlacedIn {
    region: String,
    order: u64,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(exchange = "interop.by-headers", kind = "headers", headers(region, urgent))]
struct Ticket {
    region: String,
    urgent: bool,
}

#[subscriber(queue = "interop.fanout.ours")]
async fn on_placed(seen: &Seen, event: Placed) {
    seen.note(json!({ "order": event.order, "note": event.note }));
}

#[subscriber(queue = "interop.topic.ours", binding = "order.europe.*", binding = "#.urgent")]
async fn on_placed_in(seen: &Seen, context: &Context, event: PlacedIn) {
    seen.note(json!({ "key": context.routing_key(), "order": event.order }));
}

#[subscriber(queue = "interop.by-headers.ours", binding(any, region = "europe", urgent = true))]
async fn on_ticket(seen: &Seen, event: Ticket) {
    seen.note(json!({ "region": event.region, "urgent": event.urgent }));
}

async fn they_hear_of_our_events(t: &Python) {
    t.declare::<OnPlaced>().await;
    let mut program = t.start("subscribe", &["interop.fanout", "fanout", "2", ""]);
    program.ready().await;
    let (work, mut notes) = t.work::<OnPlaced>();

    for (order, note) in [(1, Some("grüße".to_owned())), (2, None)] {
        t.client.publish(Placed { order, note }).must_route().await.unwrap();
    }

    for expected in [json!({ "order": 1, "note": "grüße" }), json!({ "order": 2, "note": null })] {
        let theirs = program.next().await;
        assert_eq!((&theirs["body"], &theirs["type"]), (&expected, &"Placed".into()));
        assert_eq!(notes.next().await, expected);
    }
    program.end().await;
    work.stop().await;
}

async fn they_hear_of_our_events_by_pattern(t: &Python) {
    // Whoever comes first declares the exchange.
    let mut program =
        t.start("subscribe", &["interop.topic", "topic", "2", "order.europe.*", "order.asia.#"]);
    program.ready().await;

    for (order, region) in [(1, "europe"), (2, "africa"), (3, "asia")] {
        t.client.publish(PlacedIn { region: region.into(), order }).await.unwrap();
    }

    for (order, region) in [(1, "europe"), (3, "asia")] {
        let theirs = program.next().await;
        assert_eq!(theirs["body"], json!({ "region": region, "order": order }));
        assert_eq!(theirs["key"], format!("order.{region}.placed"));
    }
    program.end().await;
}

async fn they_hear_of_our_events_by_headers(t: &Python) {
    let binding = r#"{"x-match": "all", "region": "asia", "urgent": true}"#;
    let mut program = t.start("subscribe", &["interop.by-headers", "headers", "1", binding]);
    program.ready().await;

    for (region, urgent) in [("asia", false), ("europe", true), ("asia", true)] {
        t.client.publish(Ticket { region: region.into(), urgent }).await.unwrap();
    }

    let theirs = program.next().await;
    assert_eq!(theirs["body"], json!({ "region": "asia", "urgent": true }));
    assert_eq!((&theirs["headers"]["region"], &theirs["headers"]["urgent"]), (&"asia".into(), &true.into()));
    program.end().await;
}

/// A line for `emit`.
fn emitted(key: &str, headers: serde_json::Value, body: serde_json::Value) -> String {
    json!({ "key": key, "headers": headers, "body": body }).to_string()
}

async fn we_hear_of_their_events(t: &Python) {
    // They declare the exchange first.
    let mut program = t.start("emit", &["interop.fanout", "fanout"]);
    program.ready().await;
    t.declare::<OnPlaced>().await;
    let (work, mut notes) = t.work::<OnPlaced>();

    program
        .feed([
            emitted("", json!({}), json!({ "order": u64::MAX, "note": "日本" })),
            // Without a field, and with one that we do not know.
            emitted("ignored", json!({}), json!({ "order": 2, "colour": "red" })),
        ])
        .await;
    program.end().await;

    assert_eq!(notes.next().await, json!({ "order": u64::MAX, "note": "日本" }));
    assert_eq!(notes.next().await, json!({ "order": 2, "note": null }));
    work.stop().await;
}

async fn we_hear_of_their_events_by_pattern(t: &Python) {
    let mut program = t.start("emit", &["interop.topic", "topic"]);
    program.ready().await;
    t.declare::<OnPlacedIn>().await;
    let (work, mut notes) = t.work::<OnPlacedIn>();

    let keys = ["order.europe.placed", "order.asia.placed", "order.europe.very.placed", "a.b.urgent"];
    let events = keys.iter().enumerate();
    program.feed(events.map(|(n, key)| emitted(key, json!({}), json!({ "region": "r", "order": n })))).await;
    program.end().await;

    assert_eq!(notes.next().await, json!({ "key": "order.europe.placed", "order": 0 }));
    assert_eq!(notes.next().await, json!({ "key": "a.b.urgent", "order": 3 }));
    work.stop().await;
}

async fn we_hear_of_their_events_by_headers(t: &Python) {
    let mut program = t.start("emit", &["interop.by-headers", "headers"]);
    program.ready().await;
    t.declare::<OnTicket>().await;
    let (work, mut notes) = t.work::<OnTicket>();

    let tickets = [("asia", false), ("europe", false), ("asia", true)];
    program
        .feed(tickets.map(|(region, urgent)| {
            let ticket = json!({ "region": region, "urgent": urgent });
            emitted("", ticket.clone(), ticket)
        }))
        .await;
    program.end().await;

    assert_eq!(notes.next().await, json!({ "region": "europe", "urgent": false }));
    assert_eq!(notes.next().await, json!({ "region": "asia", "urgent": true }));
    work.stop().await;
}
