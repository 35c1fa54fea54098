//! Jobs from them to us and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use leveret::{Context, task};
use serde_json::json;

use super::{Python, Seen};
use crate::support::Leftovers;

const LEFTOVERS: Leftovers = Leftovers {
    queues: &[
        "interop.greetings",
        "interop.greetings.dead",
        "interop.failing",
        "interop.failing.dead",
        "interop.ours",
        "interop.delayed",
        "interop.delayed.dead",
    ],
    exchanges: &["interop.failing.dlx"],
};

with_each_client!(
    their_jobs_are_worked,
    their_job_is_retried_and_then_a_dead_letter_that_they_can_read,
    our_jobs_are_consumed,
    our_delayed_job_is_consumed_when_it_is_due,
);

#[task(queue = "interop.greetings")]
async fn greet(seen: &Seen, context: &Context, name: String, times: u32) {
    seen.note(json!({ "name": name, "times": times, "task": context.task(), "attempt": context.attempt() }));
}

async fn their_jobs_are_worked(t: &Python) {
    t.declare::<Greet>().await;
    let jobs = ["Ada", "Grüße an Jürgen", "日本語 🐇 \u{0} \"quoted\" \\"];

    t.publish("interop.greetings", jobs.map(|name| json!({ "name": name, "times": 3 }))).await;
    let (work, mut notes) = t.work::<Greet>();

    for name in jobs {
        let seen = json!({ "name": name, "times": 3, "task": "greet", "attempt": 1 });
        assert_eq!(notes.next().await, seen);
    }
    work.stop().await;
    assert_eq!(t.client.depth::<Greet>().await.unwrap().ready, 0);
}

#[task(queue = "interop.failing", dlx = "interop.failing.dlx", retries = 1, backoff = "50ms")]
async fn fail(seen: &Seen, context: &Context, number: u32) -> Result<(), String> {
    seen.note(json!({ "number": number, "attempt": context.attempt() }));
    Err("kaputt: Überlauf".to_owned())
}

async fn their_job_is_retried_and_then_a_dead_letter_that_they_can_read(t: &Python) {
    t.declare::<Fail>().await;
    let (mut work, mut notes) = t.work::<Fail>();

    t.publish("interop.failing", [json!({ "number": 7 })]).await;

    assert_eq!(notes.next().await, json!({ "number": 7, "attempt": 1 }));
    assert_eq!(notes.next().await, json!({ "number": 7, "attempt": 2 }));
    work.retried().await;
    work.dead().await;
    let dead = t.consume_one("interop.failing.dead").await;
    assert_eq!(dead["body"], json!({ "number": 7 }));
    assert_eq!(dead["headers"]["q-error"], "kaputt: Überlauf");
    assert_eq!(dead["headers"]["q-queue"], "interop.failing");
    assert!(dead["headers"]["q-failed-at"].is_i64(), "{dead}");
    work.stop().await;
}

#[task(queue = "interop.ours", max_priority = 5, queue_type = "classic")]
async fn our_job(text: String, number: u64) {
    unreachable!("worked by Python: {text} {number}");
}

async fn our_jobs_are_consumed(t: &Python) {
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();

    let job = OurJob { text: "Grüße \"zitiert\" 🐇".into(), number: 1 };
    let id = t.client.enqueue(job).priority(3).header("tenant", "blue").await.unwrap();
    let bare = t.client.enqueue(OurJob { text: String::new(), number: 2 }).id("job ä").await.unwrap();

    let mut program = t.start("consume", &["interop.ours", "2"]);
    let first = program.next().await;
    assert_eq!(first["body"], json!({ "text": "Grüße \"zitiert\" 🐇", "number": 1 }));
    assert_eq!(first["id"], id.as_str());
    assert_eq!(first["type"], "our_job");
    assert_eq!(first["content_type"], "application/json");
    assert_eq!(first["delivery_mode"], 2);
    assert_eq!(first["priority"], 3);
    assert_eq!(first["key"], "interop.ours");
    assert_eq!(first["headers"]["tenant"], "blue");
    let at = first["timestamp"].as_u64().unwrap();
    assert!((before..before + 60).contains(&at), "{at} is not soon after {before}");
    let second = program.next().await;
    assert_eq!((&second["id"], &second["body"]["text"]), (&bare.as_str().into(), &"".into()));
    program.end().await;
    assert_eq!(t.client.depth::<OurJob>().await.unwrap().ready, 0);
}

#[task(queue = "interop.delayed")]
async fn delayed(number: u32) {
    unreachable!("worked by Python: {number}");
}

/// Any worker of ours routes what is due, whoever consumes it.
async fn our_delayed_job_is_consumed_when_it_is_due(t: &Python) {
    t.declare::<Greet>().await;
    let (work, _notes) = t.work::<Greet>();

    let start = SystemTime::now();
    let id = t.client.enqueue(Delayed { number: 9 }).delay(Duration::from_millis(400)).await.unwrap();
    let message = t.consume_one("interop.delayed").await;

    assert!(start.elapsed().unwrap() >= Duration::from_millis(400));
    assert_eq!(message["body"], json!({ "number": 9 }));
    assert_eq!(message["id"], id.as_str());
    assert_eq!(message["headers"].get("x-death"), None, "{message}");
    work.stop().await;
}
