//! Headers and properties, each side's read by the other.

use leveret::{Context, Properties, task};
use queue_core::envelope::{HeaderValue, Headers};
use serde_json::json;

use super::{Python, Seen};
use crate::support::Leftovers;

const LEFTOVERS: Leftovers =
    Leftovers { queues: &["interop.headers", "interop.headers.dead"], exchanges: &[] };

with_each_client!(their_headers_reach_the_handler, our_headers_reach_them,);

#[task(queue = "interop.headers")]
async fn inspect(seen: &Seen, context: &Context) {
    let headers: Vec<_> = context.headers().iter().map(|(name, value)| format!("{name} {value:?}")).collect();
    seen.note(json!({ "id": context.id().as_str(), "headers": headers }));
}

async fn their_headers_reach_the_handler(t: &Python) {
    t.declare::<Inspect>().await;
    let (work, mut notes) = t.work::<Inspect>();

    t.run("headers", &["interop.headers"], []).await;

    let mut expected = json!({
        "id": "ä job",
        "headers": [
            "big Int(9007199254740993)",
            "bytes Bytes(b\"\\xff\\0\")",
            "decimal Float(3.14)",
            "int Int(7)",
            "list List([Int(1), String(\"two\"), Null])",
            "lowest Int(-9223372036854775808)",
            "none Null",
            "q-user-id String(\"guest\")",
            "table Table(Headers({\"inner\": String(\"value\")}))",
            "text String(\"grüße\")",
            "time Timestamp(1767323045)",
            "true Bool(true)",
            "x-theirs String(\"kept\")",
        ],
    });
    // pika cannot write floats.
    if t.library == "aio_pika" {
        expected["headers"].as_array_mut().unwrap().insert(3, "float Float(1.5)".into());
    }
    assert_eq!(notes.next().await, expected);
    work.stop().await;
}

async fn our_headers_reach_them(t: &Python) {
    t.declare::<Inspect>().await;
    let properties = Properties::new()
        .header("null", HeaderValue::Null)
        .header("true", true)
        .header("big", (1_i64 << 53) + 1)
        .header("lowest", i64::MIN)
        .header("float", 0.1)
        .header("text", "grüße")
        .header("list", HeaderValue::List(vec![1_i64.into(), "two".into(), HeaderValue::Null]))
        .header("table", HeaderValue::Table(Headers::from([("inner", "value")])));

    t.client.publish_raw("", "interop.headers", "{}", properties).must_route().await.unwrap();
    let headers = t.consume_one("interop.headers").await["headers"].take();

    // pika reads any float as an integer; ours is one on the wire.
    let float = if t.library == "pika" { json!(0) } else { json!(0.1) };
    let expected = json!({
        "null": null, "true": true, "big": 9_007_199_254_740_993_i64, "lowest": i64::MIN, "float": float,
        "text": "grüße", "list": [1, "two", null], "table": { "inner": "value" },
    });
    assert_eq!(headers, expected);
}
