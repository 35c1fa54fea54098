//! Calls from them to us and back.

use std::time::Duration;

use leveret::{BoxError, CallError, TaskError, task};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Python;
use crate::support::Leftovers;

const LEFTOVERS: Leftovers = Leftovers {
    queues: &["interop.quotes", "interop.quotes.dead", "interop.join"],
    exchanges: &["interop.quotes.dlx"],
};

with_each_client!(
    their_calls_are_answered,
    their_calls_are_answered_by_direct_reply_to,
    their_calls_hear_of_errors_as_plain_json,
    they_answer_our_calls,
    their_answer_of_another_shape_is_named,
);

#[derive(Debug, Serialize, Deserialize)]
struct Price {
    item: String,
    cents: u64,
    /// `null` in JSON.
    note: Option<String>,
}

#[task(queue = "interop.quotes", dlx = "interop.quotes.dlx", retries = 3)]
async fn quote(item: String, count: u64) -> Result<Price, BoxError> {
    if item.is_empty() {
        return Err(TaskError::permanent("nothing can be quoted: »item« is empty").into());
    }
    Ok(Price { item, cents: count.checked_mul(5).ok_or("too many")?, note: None })
}

async fn ask(t: &Python, arguments: &[&str], requests: &[Value]) -> Vec<Value> {
    let mut program = t.start("call", arguments);
    program.feed(requests.iter().map(Value::to_string)).await;
    let mut replies = Vec::new();
    for _ in requests {
        replies.push(program.next().await);
    }
    program.end().await;
    replies
}

async fn their_calls_are_answered(t: &Python) {
    t.declare::<Quote>().await;
    let (work, _notes) = t.work::<Quote>();

    let replies = ask(
        t,
        &["interop.quotes"],
        &[json!({ "item": "Äpfel", "count": 3 }), json!({ "item": "b", "count": 0 })],
    )
    .await;

    assert_eq!(replies[0], json!({ "item": "Äpfel", "cents": 15, "note": null }));
    assert_eq!(replies[1], json!({ "item": "b", "cents": 0, "note": null }));
    work.stop().await;
    assert_eq!(t.client.admin().depth("interop.quotes").await.unwrap().ready, 0);
}

async fn their_calls_are_answered_by_direct_reply_to(t: &Python) {
    t.declare::<Quote>().await;
    let (work, _notes) = t.work::<Quote>();

    let replies = ask(t, &["interop.quotes", "direct"], &[json!({ "item": "a", "count": 3 })]).await;

    assert_eq!(replies, [json!({ "item": "a", "cents": 15, "note": null })]);
    work.stop().await;
}

/// Of the handler, and of what is no job at all. Whoever called knows, so there is no dead letter.
async fn their_calls_hear_of_errors_as_plain_json(t: &Python) {
    t.declare::<Quote>().await;
    let (work, _notes) = t.work::<Quote>();

    let requests = [
        json!({ "item": "", "count": 1 }),
        json!({ "item": "a", "count": u64::MAX }),
        json!({ "item": "a" }),
        json!(["a", 1]),
        json!({ "item": "a", "count": 1 }),
    ];
    let replies = ask(t, &["interop.quotes"], &requests).await;

    assert_eq!(replies[0], json!({ "error": "nothing can be quoted: »item« is empty", "kind": "permanent" }));
    assert_eq!(replies[1], json!({ "error": "too many", "kind": "failed" }));
    assert_eq!(replies[2]["kind"], "bad-message");
    assert!(replies[2]["error"].as_str().unwrap().contains("missing field `count`"), "{}", replies[2]);
    assert_eq!(replies[3]["kind"], "bad-message");
    assert_eq!(replies[4]["cents"], 5);
    work.stop().await;
    assert_eq!(t.client.admin().depth("interop.quotes.dead").await.unwrap().ready, 0);
}

/// Worked by Python; here it is only called.
#[task(queue = "interop.join", queue_type = "classic")]
async fn join(words: Vec<String>, between: String) -> Result<String, BoxError> {
    unreachable!("worked by Python: {words:?} {between}")
}

async fn they_answer_our_calls(t: &Python) {
    let mut program = t.start("serve", &["interop.join", "3"]);
    program.ready().await;
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let call = |words| t.client.call(Join { words, between: "–".into() }).timeout(Duration::from_secs(20));

    let (one, two) = tokio::join!(call(words(&["ä", "b"])), call(words(&["日本"])));
    let refused = call(Vec::new()).await.unwrap_err();

    assert_eq!((one.unwrap(), two.unwrap()), ("ä–b".to_owned(), "日本".to_owned()));
    assert_eq!(refused.to_string(), "task `join` failed (permanent): no words");
    program.end().await;
}

mod of_another_shape {
    use super::*;

    /// The same task, by somebody who thinks that it counts.
    #[task(queue = "interop.join", queue_type = "classic")]
    pub(super) async fn join(words: Vec<String>, between: String) -> Result<u64, BoxError> {
        unreachable!("worked by Python: {words:?} {between}")
    }
}

async fn their_answer_of_another_shape_is_named(t: &Python) {
    let mut program = t.start("serve", &["interop.join", "1"]);
    program.ready().await;

    let call = of_another_shape::Join { words: vec!["a".into()], between: String::new() };
    let error = t.client.call(call).timeout(Duration::from_secs(20)).await.unwrap_err();

    assert!(matches!(error, CallError::Decode { task: "join", expected: "u64", .. }), "{error}");
    program.end().await;
}
