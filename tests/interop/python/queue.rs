//! Queues that their programs have declared already, or declare later: durable, classic, with the arguments of the
//! tutorials.

use leveret::{TaskError, TaskResult, task};
use serde_json::json;

use super::{Python, Seen};
use crate::support::Leftovers;

const LEFTOVERS: Leftovers = Leftovers {
    queues: &[
        "interop.plain",
        "interop.orders",
        "interop.orders.failed",
        "interop.as-it-is",
        "interop.as-it-is.dead",
    ],
    exchanges: &["interop.orders.dlx"],
};

with_each_client!(
    their_queue_is_declared_alike,
    our_queue_is_declared_alike,
    their_queue_with_dead_letters_is_declared_alike,
    their_queue_is_worked_as_it_is,
    their_queue_with_dead_letters_is_worked_as_it_is,
);

/// What `queue` and the dead-letter arguments of `declare` are called here.
const DEAD: [&str; 4] = ["interop.orders", "interop.orders.dlx", "failed", "interop.orders.failed"];

#[task(queue = "interop.plain", queue_type = "classic")]
async fn plain(seen: &Seen, number: u32) {
    seen.note(json!(number));
}

async fn their_queue_is_declared_alike(t: &Python) {
    t.run("declare", &["interop.plain"], []).await;
    t.publish("interop.plain", [json!({ "number": 1 })]).await;

    let (work, mut notes) = t.work::<Plain>();

    assert_eq!(notes.next().await, 1);
    work.stop().await;
}

async fn our_queue_is_declared_alike(t: &Python) {
    t.declare::<Plain>().await;

    t.run("declare", &["interop.plain"], []).await;
    t.publish("interop.plain", [json!({ "number": 1 })]).await;

    let (work, mut notes) = t.work::<Plain>();
    assert_eq!(notes.next().await, 1);
    work.stop().await;
}

/// Fails for odd numbers, for good.
fn even(number: u32) -> TaskResult {
    if number.is_multiple_of(2) {
        Ok(())
    } else {
        Err(TaskError::permanent(format!("{number} is odd")).into())
    }
}

#[task(
    queue = "interop.orders",
    queue_type = "classic",
    dlx = "interop.orders.dlx",
    dead_letter_key = "failed",
    dead_letter_queue = "interop.orders.failed"
)]
async fn order(seen: &Seen, number: u32) -> TaskResult {
    seen.note(json!(number));
    even(number)
}

async fn their_queue_with_dead_letters_is_declared_alike(t: &Python) {
    t.run("declare", &DEAD, []).await;
    t.publish("interop.orders", [json!({ "number": 1 }), json!({ "number": 2 })]).await;

    let (work, mut notes) = t.work::<Order>();

    assert_eq!(notes.take(2).await, [1, 2]);
    let dead = t.consume_one("interop.orders.failed").await;
    assert_eq!((&dead["body"]["number"], &dead["headers"]["q-error"]), (&1.into(), &"1 is odd".into()));
    work.stop().await;
    // Theirs declares it once more, as each of their programs does at its start.
    t.run("declare", &DEAD, []).await;
}

#[task(queue = "interop.as-it-is", declare = "passive")]
async fn as_it_is(seen: &Seen, number: u32) -> TaskResult {
    seen.note(json!(number));
    even(number)
}

async fn their_queue_is_worked_as_it_is(t: &Python) {
    t.run("declare", &["interop.as-it-is"], []).await;
    t.publish("interop.as-it-is", [json!({ "number": 1 })]).await;
    t.client.enqueue(AsItIs { number: 2 }).await.unwrap();

    let (mut work, mut notes) = t.work::<AsItIs>();

    assert_eq!(notes.take(2).await, [1, 2]);
    work.dead().await;
    work.stop().await;
    // Their queue names no dead letters, so ours keep them.
    let letters = t.client.admin().dead_letters("interop.as-it-is.dead", 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].error.as_deref(), Some("1 is odd"));
}

#[task(
    queue = "interop.orders",
    declare = "passive",
    dlx = "interop.orders.dlx",
    dead_letter_key = "failed",
    dead_letter_queue = "interop.orders.failed"
)]
async fn order_as_it_is(seen: &Seen, number: u32) -> TaskResult {
    seen.note(json!(number));
    even(number)
}

async fn their_queue_with_dead_letters_is_worked_as_it_is(t: &Python) {
    t.run("declare", &DEAD, []).await;
    t.publish("interop.orders", [json!({ "number": 3 })]).await;

    let (work, mut notes) = t.work::<OrderAsItIs>();

    assert_eq!(notes.next().await, 3);
    let dead = t.consume_one("interop.orders.failed").await;
    assert_eq!((&dead["body"]["number"], &dead["headers"]["q-error"]), (&3.into(), &"3 is odd".into()));
    work.stop().await;
}
