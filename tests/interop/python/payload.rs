//! Payloads that JSON libraries read in different ways.

use leveret::task;
use queue_core::settlement::ReasonKind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Python, Seen};
use crate::support::Leftovers;

const LEFTOVERS: Leftovers = Leftovers {
    queues: &[
        "interop.payloads",
        "interop.payloads.dead",
        "interop.payloads.ours",
        "interop.payloads.ours.dead",
        "interop.megabytes",
        "interop.megabytes.dead",
    ],
    exchanges: &["interop.payloads.dlx"],
};

with_each_client!(
    their_payloads_arrive_unchanged,
    our_payloads_arrive_unchanged,
    megabyte_passes_both_ways,
    their_bad_payloads_are_dead_letters_that_say_why,
);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Nested {
    list: Vec<Option<i64>>,
}

/// The handler says what it saw by Debug: JSON on the way back could hide what JSON on the way here did.
#[task(queue = "interop.payloads", dlx = "interop.payloads.dlx")]
async fn measure(
    seen: &Seen,
    text: String,
    signed: i64,
    unsigned: u64,
    float: f64,
    maybe: Option<String>,
    nested: Option<Nested>,
) {
    seen.note(format!("{text:?} {signed} {unsigned} {float:?} {maybe:?} {nested:?}").into());
}

/// A payload, and how the handler sees it.
fn payloads() -> Vec<(Value, String)> {
    let big = (1_i64 << 53) + 1;
    vec![
        (
            json!({ "text": "a", "signed": 1, "unsigned": 2, "float": 0.5, "maybe": "b", "nested": { "list": [1, null, -1] } }),
            r#""a" 1 2 0.5 Some("b") Some(Nested { list: [Some(1), None, Some(-1)] })"#.to_owned(),
        ),
        // Null and missing are both nothing, and what is not known is passed over.
        (
            json!({ "text": "", "signed": 0, "unsigned": 0, "float": -0.0, "maybe": null, "nested": null, "new": {} }),
            r#""" 0 0 -0.0 None None"#.to_owned(),
        ),
        (
            json!({ "text": "é 日本 🐇 \u{1f}\u{2028}/", "signed": 1, "unsigned": 1, "float": 3 }),
            "\"é 日本 🐇 \\u{1f}\\u{2028}/\" 1 1 3.0 None None".to_owned(),
        ),
        // Beyond what a double holds exactly.
        (
            json!({ "text": "", "signed": -big, "unsigned": big, "float": 0.1 }),
            format!(r#""" {} {big} 0.1 None None"#, -big),
        ),
        (
            json!({ "text": "", "signed": i64::MIN, "unsigned": u64::MAX, "float": f64::MAX }),
            format!(r#""" {} {} {:?} None None"#, i64::MIN, u64::MAX, f64::MAX),
        ),
        (
            json!({ "text": "", "signed": i64::MAX, "unsigned": i64::MAX, "float": 5e-324 }),
            format!(r#""" {} {} 5e-324 None None"#, i64::MAX, i64::MAX),
        ),
        (
            json!({ "text": "", "signed": 0, "unsigned": 0, "float": 1.7976931348623153e-300 }),
            r#""" 0 0 1.7976931348623153e-300 None None"#.to_owned(),
        ),
    ]
}

async fn their_payloads_arrive_unchanged(t: &Python) {
    t.declare::<Measure>().await;
    let (bodies, expected): (Vec<_>, Vec<_>) = payloads().into_iter().unzip();
    let (work, mut notes) = t.work::<Measure>();

    t.publish("interop.payloads", bodies).await;

    assert_eq!(notes.take(expected.len()).await, expected);
    work.stop().await;
}

#[task(queue = "interop.payloads.ours")]
async fn our_payload(value: Value) {
    unreachable!("worked by Python: {value}");
}

async fn our_payloads_arrive_unchanged(t: &Python) {
    let bodies: Vec<_> = payloads().into_iter().map(|(body, _)| body).collect();

    for enqueued in t.client.enqueue_all(bodies.iter().map(|value| OurPayload { value: value.clone() })).await
    {
        enqueued.unwrap();
    }

    let mut program = t.start("consume", &["interop.payloads.ours", &bodies.len().to_string()]);
    for body in bodies {
        assert_eq!(program.next().await["body"]["value"], body);
    }
    program.end().await;
}

#[task(queue = "interop.megabytes")]
async fn weigh(seen: &Seen, text: String) {
    seen.note(json!({ "bytes": text.len(), "same": text.chars().all(|c| c == 'ü') }));
}

async fn megabyte_passes_both_ways(t: &Python) {
    t.declare::<Weigh>().await;
    let text = "ü".repeat(500_000);

    t.client.enqueue(Weigh { text: text.clone() }).await.unwrap();
    let taken = t.consume_one("interop.megabytes").await;
    assert!(taken["body"] == json!({ "text": text }), "the text came changed");

    let (work, mut notes) = t.work::<Weigh>();
    t.publish("interop.megabytes", [json!({ "text": text })]).await;
    assert_eq!(notes.next().await, json!({ "bytes": 1_000_000, "same": true }));
    work.stop().await;
}

async fn their_bad_payloads_are_dead_letters_that_say_why(t: &Python) {
    t.declare::<Measure>().await;
    let good = r#""text": "", "signed": 0, "unsigned": 0"#;
    let bad = [
        // Python's json writes and reads these, which are not JSON.
        (format!("{{{good}, \"float\": NaN}}"), "expected value"),
        (format!("{{{good}, \"float\": -Infinity}}"), "invalid number"),
        (
            r#"{"text": "", "signed": 0, "unsigned": 18446744073709551616, "float": 0}"#.to_owned(),
            "expected u64",
        ),
        (
            r#"{"text": "", "signed": 9223372036854775808, "unsigned": 0, "float": 0}"#.to_owned(),
            "expected i64",
        ),
        (r#"{"text": "", "signed": 1.5, "unsigned": 0, "float": 0}"#.to_owned(), "expected i64"),
        (r#"{"text": null, "signed": 0, "unsigned": 0, "float": 0}"#.to_owned(), "expected a string"),
        (format!("{{{good}}}"), "missing field `float`"),
        (r#"["", 0, 0, 0.5, null, null]"#.to_owned(), "is not a JSON object"),
        ("null".to_owned(), "is not a JSON object"),
    ];
    let (mut work, _notes) = t.work::<Measure>();

    t.run("publish", &["interop.payloads"], bad.iter().map(|(body, _)| body.clone())).await;

    for (body, words) in &bad {
        let reason = work.dead().await;
        assert!(
            reason.kind == ReasonKind::BadMessage && reason.message.contains(words),
            "{body} is a dead letter because: {reason}"
        );
    }
    work.stop().await;
    let letters = t.client.admin().dead_letters("interop.payloads.dead", 20).await.unwrap();
    assert_eq!(letters.len(), bad.len());
}
