//! Tasks that were renamed: jobs of their former names are still run.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use leveret::testing::TestQueue;
use leveret::{BoxError, Context, Outcome, Properties, Runnable, Task, task};
use serde_json::{Value, json};

/// Notes of the handlers.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }
}

/// Was `post_letter` and before that `letter`, of which the payload had a `name`.
#[task(
    queue = "aliases",
    name = "letter.send",
    aliases = ["post_letter", "letter"],
    version = 2,
    upcast = name_to_to,
    retries = 1,
    backoff = fixed("1s")
)]
async fn send_letter(log: &Log, context: &Context, to: String) -> Result<usize, String> {
    log.note(format!("{} {} to {to}", context.task(), context.attempt()));
    if to.is_empty() { Err("no address".to_owned()) } else { Ok(to.len()) }
}

fn name_to_to(_: u32, mut payload: Value) -> Result<Value, BoxError> {
    payload["to"] = payload["name"].take();
    Ok(payload)
}

/// The task as an older program enqueues it.
mod before {
    use super::*;

    #[task(queue = "aliases")]
    pub(super) async fn post_letter(name: String) -> Result<usize, String> {
        unreachable!("it is not in this program any more: {name}")
    }
}

fn test_queue() -> (TestQueue, Arc<Log>) {
    let log = Arc::new(Log::default());
    (TestQueue::new().task::<SendLetter>().shared(log.clone()), log)
}

#[tokio::test]
async fn job_of_a_former_name_is_run_by_the_renamed_task() {
    let (queue, log) = test_queue();
    let client = queue.client();

    client.enqueue(before::PostLetter { name: "Ada".into() }).await.unwrap();
    client.enqueue(SendLetter { to: "Bob".into() }).await.unwrap();
    let body = r#"{"name": "Cleo"}"#;
    client.publish_raw("", "aliases", body, Properties::new().kind("letter")).must_route().await.unwrap();
    let drained = queue.drain().await;

    assert_eq!(drained, [Outcome::Success, Outcome::Success, Outcome::Success]);
    // Under one name, by which people look for it.
    assert!(drained.iter().all(|drained| drained.job.task() == "letter.send"), "{drained:?}");
    assert_eq!(*log.0.lock().unwrap(), ["Ada", "Bob", "Cleo"].map(|to| format!("letter.send 1 to {to}")));
}

/// A worker of the former version may get the retry, and knows only the former name.
#[tokio::test]
async fn job_of_a_former_name_keeps_it_through_retry_dead_letter_and_replay() {
    let (queue, log) = test_queue();
    queue.client().enqueue(before::PostLetter { name: String::new() }).await.unwrap();

    queue.drain().await;
    assert_eq!(queue.all_enqueued::<before::PostLetter>().len(), 1);
    queue.advance(Duration::from_secs(1));
    queue.drain().await;
    let admin = queue.client().admin();
    let dead = admin.dead_letters_of::<SendLetter>(10).await.unwrap();
    admin.replay("aliases.dead", 10, |_| true).await.unwrap();
    queue.drain().await;

    assert_eq!(dead[0].task.as_deref(), Some("post_letter"));
    assert_eq!(*log.0.lock().unwrap(), [1, 2, 1].map(|attempt| format!("letter.send {attempt} to ")));
}

#[tokio::test]
async fn caller_by_a_former_name_is_answered() {
    let (queue, _) = test_queue();

    let length = queue.serve(queue.client().call(before::PostLetter { name: "Ada".into() })).await;

    assert_eq!(length.unwrap(), 3);
}

#[tokio::test]
async fn job_of_a_former_name_is_found_among_those_of_the_renamed_task() {
    #[task(queue = "aliases.same", aliases = ["same"])]
    async fn renamed(number: u32) {
        let _ = number;
    }
    let queue = TestQueue::new().task::<Renamed>();

    let body = json!({"number": 7}).to_string();
    queue.client().declare_queue(Renamed::queue()).await.unwrap();
    queue.client().publish_raw("", "aliases.same", body, Properties::new().kind("same")).await.unwrap();

    queue.assert_enqueued::<Renamed>(|job| job.number == 7);
    let drained = queue.drain().await;
    assert_eq!(drained[0].payload::<Renamed>().unwrap().number, 7);
}

/// The other way round: a worker that does not know the new name yet.
#[tokio::test]
async fn job_of_the_new_name_waits_for_a_worker_that_knows_it() {
    let queue = TestQueue::new().task::<before::PostLetter>();
    queue.client().enqueue(SendLetter { to: "Ada".into() }).await.unwrap();

    let drained = queue.drain().await;

    assert!(!drained[0].is_success());
    queue.assert_enqueued::<SendLetter>(|job| job.to == "Ada");
}

#[test]
fn names_stand_in_the_options() {
    assert_eq!(SendLetter::options().aliases, ["post_letter", "letter"]);
    assert!(before::PostLetter::options().aliases.is_empty());
    assert_eq!(SendLetter::registration().name, "letter.send");
}
