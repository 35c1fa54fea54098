//! Jobs of two other queues: real Celery and Dramatiq producers, served by a worker of ours as `docs/from-others.md`
//! has it.

use leveret::{Context, HeaderValue, RawMessage, ResultExt as _, TaskError, TaskResult, subscriber, task};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::program::Program;
use super::{PATIENCE, Python, Seen};
use crate::support::Leftovers;

const LEFTOVERS: Leftovers = Leftovers {
    queues: &[
        "interop.celery",
        "interop.celery.dead",
        "interop.celery.v1",
        "interop.celery.v1.dead",
        "interop.dramatiq",
        "interop.dramatiq.dead",
        "interop.dramatiq.DQ",
        "interop.dramatiq.XQ",
    ],
    exchanges: &["interop.celery", "interop.celery.v1"],
};

with_the_programs!(
    jobs_of_celery_are_worked_retried_and_dead_letters,
    jobs_of_celery_in_its_first_protocol_are_typed,
    jobs_of_dramatiq_are_typed,
);

/// The arguments by position, those by name, and what Celery's own workers do afterwards.
type Arguments<A, K> = (A, K, IgnoredAny);

#[subscriber(queue = "interop.celery", exchange = "", queue_type = "classic", retries = 1, backoff = fixed("50ms"))]
async fn from_celery(seen: &Seen, context: &Context, message: RawMessage) -> TaskResult {
    match message.headers.get("task").and_then(HeaderValue::as_str) {
        Some("shop.charge") => {
            let ((order,), named, _): Arguments<(u64,), Value> =
                serde_json::from_slice(&message.body).permanent()?;
            let has_address = message.reply_to.is_some_and(|address| !address.is_empty());
            seen.note(json!({
                "order": order, "named": named, "attempt": context.attempt(), "reply_to": has_address,
                "id": message.correlation_id, "content_type": message.content_type,
            }));
            if order == 13 { Err("the card was refused".into()) } else { Ok(()) }
        }
        other => Err(TaskError::permanent(format!("task {other:?} is none of ours")).into()),
    }
}

fn producer(t: &Python, program: &str, queue: &str) -> Program {
    Program::start(&t.interpreter, program, &t.url, &[queue])
}

/// Has a producer send a job, and gives the id that it knows it by.
async fn send(producer: &mut Program, job: Value) -> Value {
    producer.feed([job.to_string()]).await;
    producer.next().await
}

async fn jobs_of_celery_are_worked_retried_and_dead_letters(t: &Python) {
    // Either side may come first: Celery declares its queue like this one.
    t.declare::<FromCelery>().await;
    let (mut work, mut notes) = t.work::<FromCelery>();
    let mut celery = producer(t, "celery_send.py", "interop.celery");

    let job = json!({ "task": "shop.charge", "args": [7], "kwargs": { "note": "Grüße" } });
    let id = send(&mut celery, job).await;
    let seen = |order: u64, named: Value, attempt: u32, id: &Value| {
        json!({
            "order": order, "named": named, "attempt": attempt, "reply_to": true, "id": id,
            "content_type": "application/json",
        })
    };
    assert_eq!(notes.next().await, seen(7, json!({ "note": "Grüße" }), 1, &id));
    work.succeeded().await;

    let id = send(&mut celery, json!({ "task": "shop.charge", "args": [13], "kwargs": {} })).await;
    assert_eq!(notes.next().await, seen(13, json!({}), 1, &id));
    assert_eq!(notes.next().await, seen(13, json!({}), 2, &id));
    work.retried().await;
    assert_eq!(work.dead().await.message, "the card was refused");

    send(&mut celery, json!({ "task": "shop.refund", "args": [], "kwargs": {} })).await;
    assert_eq!(work.dead().await.message, r#"task Some("shop.refund") is none of ours"#);
    celery.end().await;
    work.stop().await;
    let letters = t.client.admin().dead_letters("interop.celery.dead", 10).await.unwrap();
    assert_eq!(letters.len(), 2, "{letters:?}");
}

/// Its body is an object with the fields `task`, `args` and `kwargs`.
#[task(queue = "interop.celery.v1", queue_type = "classic", reply = false, retries = 0)]
async fn from_first_protocol(seen: &Seen, task: String, args: (u64,), kwargs: Value) -> TaskResult {
    seen.note(json!({ "task": task, "order": args.0, "named": kwargs }));
    if args.0 == 13 { Err("the card was refused".into()) } else { Ok(()) }
}

async fn jobs_of_celery_in_its_first_protocol_are_typed(t: &Python) {
    let (mut work, mut notes) = t.work::<FromFirstProtocol>();
    let mut celery = Program::start(&t.interpreter, "celery_send.py", &t.url, &["interop.celery.v1", "1"]);

    send(&mut celery, json!({ "task": "shop.charge", "args": [7], "kwargs": { "note": 1 } })).await;
    work.succeeded().await;
    send(&mut celery, json!({ "task": "shop.charge", "args": [13], "kwargs": {} })).await;
    // Not told to a caller, of whom there is none.
    assert_eq!(work.dead().await.message, "the card was refused");

    celery.end().await;
    work.stop().await;
    assert_eq!(notes.next().await, json!({ "task": "shop.charge", "order": 7, "named": { "note": 1 } }));
    assert_eq!(notes.next().await["order"], 13);
}

#[task(queue = "interop.dramatiq", declare = "passive", retries = 0)]
async fn from_dramatiq(
    seen: &Seen,
    actor_name: String,
    message_id: String,
    args: (u64,),
    kwargs: Value,
) -> TaskResult {
    seen.note(json!({ "actor": actor_name, "id": message_id, "order": args.0, "named": kwargs }));
    if args.0 == 13 { Err("the card was refused".into()) } else { Ok(()) }
}

async fn jobs_of_dramatiq_are_typed(t: &Python) {
    // It declares its queues before it sends.
    let mut dramatiq = producer(t, "dramatiq_send.py", "interop.dramatiq");
    let id = send(&mut dramatiq, json!({ "args": [7], "kwargs": { "note": "Grüße" } })).await;
    let (mut work, mut notes) = t.work::<FromDramatiq>();

    let seen = json!({ "actor": "charge", "id": id, "order": 7, "named": { "note": "Grüße" } });
    assert_eq!(tokio::time::timeout(PATIENCE, notes.next()).await.unwrap(), seen);
    work.succeeded().await;
    send(&mut dramatiq, json!({ "args": [13], "kwargs": {} })).await;
    assert_eq!(work.dead().await.message, "the card was refused");

    dramatiq.end().await;
    work.stop().await;
}
