//! Versions of a payload: what a worker makes of older and of newer ones.

use std::sync::Mutex;
use std::time::Duration;

use leveret::testing::TestQueue;
use leveret::{BoxError, Format, Outcome, Task, task};
use serde_json::{Value, json};

/// Who was greeted.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

#[task(queue = "versions", version = 3, upcast = upcast_welcome, format = "cbor")]
async fn welcome(log: &Log, first: String, last: Option<String>, language: String) {
    log.0.lock().unwrap().push(format!("{first} {} {language}", last.unwrap_or_default()));
}

/// Version 1 had a `name` in one piece, version 2 no `language`.
fn upcast_welcome(from: u32, mut payload: Value) -> Result<Value, BoxError> {
    if from < 2 {
        let name = payload["name"].as_str().ok_or("it has no `name`")?;
        let (first, last) = name.split_once(' ').unwrap_or((name, ""));
        payload = json!({"first": first, "last": last});
    }
    payload["language"] = "en".into();
    Ok(payload)
}

/// What becomes of a payload, which says its version or does not.
async fn outcome<T: Task + leveret::Runnable>(
    queue: &TestQueue,
    version: Option<i64>,
    format: Format,
    body: Value,
) -> Outcome {
    queue.client().declare_queue(T::queue()).await.unwrap();
    let mut envelope = queue_core::envelope::Envelope::new(format.encode(&body).unwrap());
    envelope.task = Some(T::NAME.to_owned());
    envelope.content_type = Some(format.content_type().to_owned());
    if let Some(version) = version {
        envelope.headers.insert("q-version", version);
    }
    let publish = queue_core::broker::Publish::to_queue(T::queue().name().clone(), envelope);
    queue.client().broker().publish(publish).await.unwrap();

    let outcomes = queue.drain().await;

    let [drained] = &outcomes[..] else { panic!("not one outcome: {outcomes:?}") };
    drained.outcome.clone()
}

fn reason(outcome: Outcome) -> (&'static str, String) {
    let Outcome::Failure(failure) = outcome else { panic!("it succeeded") };
    (failure.reason.kind.as_str(), failure.reason.message)
}

fn queue() -> TestQueue {
    TestQueue::new().task::<Welcome>().state(Log::default())
}

#[tokio::test]
async fn older_payload_is_upcast_from_its_version_in_any_format() {
    let log = std::sync::Arc::new(Log::default());
    let queue = TestQueue::new().task::<Welcome>().shared(log.clone());
    let ada = json!({"name": "Ada Lovelace"});

    for format in [Format::Json, Format::MessagePack, Format::Cbor] {
        assert_eq!(outcome::<Welcome>(&queue, None, format, ada.clone()).await, Outcome::Success);
    }
    assert_eq!(outcome::<Welcome>(&queue, Some(1), Format::Json, ada).await, Outcome::Success);
    assert_eq!(
        outcome::<Welcome>(&queue, Some(2), Format::Json, json!({"first": "Bob"})).await,
        Outcome::Success
    );

    assert_eq!(
        *log.0.lock().unwrap(),
        ["Ada Lovelace en", "Ada Lovelace en", "Ada Lovelace en", "Ada Lovelace en", "Bob  en"]
    );
}

#[tokio::test]
async fn payload_of_the_tasks_own_version_is_taken_as_it_is() {
    let log = std::sync::Arc::new(Log::default());
    let queue = TestQueue::new().task::<Welcome>().shared(log.clone());
    let job = Welcome { first: "Ada".into(), last: None, language: "fr".into() };

    queue.client().enqueue(job.clone()).header("tenant", "blue").await.unwrap();
    let enqueued = queue.drain().await;
    let performed = queue.perform(job).await;

    assert_eq!(enqueued, [Outcome::Success]);
    assert_eq!(performed, Outcome::Success);
    assert_eq!(*log.0.lock().unwrap(), ["Ada  fr", "Ada  fr"]);
}

#[tokio::test]
async fn error_of_upcast_is_a_dead_letter_with_its_words() {
    let (kind, words) = reason(outcome::<Welcome>(&queue(), None, Format::Json, json!({"nom": "Ada"})).await);

    assert_eq!(kind, "bad-message");
    assert_eq!(words, "task `welcome` cannot take a payload of version 1: it has no `name`");
}

#[tokio::test]
async fn what_upcast_makes_must_fit_the_task() {
    #[task(queue = "versions.misfit", version = 2, upcast = forget)]
    async fn misfit(number: u32) {
        let _ = number;
    }
    fn forget(_: u32, payload: Value) -> Result<Value, String> {
        Ok(if payload.get("list").is_some() { json!([7]) } else { json!({}) })
    }
    let queue = TestQueue::new().task::<Misfit>();

    let (_, missing) = reason(outcome::<Misfit>(&queue, None, Format::Json, json!({})).await);
    let (_, list) = reason(outcome::<Misfit>(&queue, None, Format::Json, json!({"list": 1})).await);
    let (_, no_object) = reason(outcome::<Misfit>(&queue, None, Format::Json, json!([7])).await);

    assert_eq!(
        missing,
        "task `misfit` cannot take a payload of version 1: `upcast` made of it what does not fit: missing field `number`"
    );
    assert_eq!(
        list,
        "task `misfit` cannot take a payload of version 1: `upcast` made of it what is not a JSON object"
    );
    assert_eq!(no_object, "the payload of task `misfit` is not a JSON object; send `{\"parameter\": value}`");
}

#[tokio::test]
async fn newer_payload_waits_for_a_newer_worker_and_is_never_upcast() {
    let queue = queue();
    let job = json!({"first": "Ada", "language": "de", "title": "Countess"});

    let (kind, words) = reason(outcome::<Welcome>(&queue, Some(4), Format::Json, job).await);

    assert_eq!(kind, "unknown-task");
    assert_eq!(words, "version 4 of task `welcome` is not compiled into this test, which has version 3");
    assert!(queue.dead_letters::<Welcome>().is_empty());
    queue.assert_enqueued::<Welcome>(|job| job.language == "de");

    queue.advance(Duration::from_secs(3600));
    queue.drain().await;
    let dead = queue.client().admin().dead_letters("versions.dead", 10).await.unwrap();
    assert_eq!(
        dead[0].error.as_deref().unwrap(),
        "no worker of queue `versions` has known version 4 of task `welcome` for 60 min; here it has version 3. Deploy \
         a worker that knows it, or correct the header `q-version`, and replay the job"
    );
}

#[tokio::test]
async fn version_of_a_task_without_any_is_the_first() {
    #[task(queue = "versions.plain")]
    async fn plain(number: u32) {
        let _ = number;
    }
    let queue = TestQueue::new().task::<Plain>();

    assert_eq!(outcome::<Plain>(&queue, Some(1), Format::Json, json!({"number": 1})).await, Outcome::Success);
    let (kind, _) = reason(outcome::<Plain>(&queue, Some(2), Format::Json, json!({"number": 1})).await);

    assert_eq!(kind, "unknown-task");
}

#[tokio::test]
async fn older_payload_without_upcast_is_read_as_it_is() {
    #[task(queue = "versions.wider", version = 2)]
    async fn wider(number: u32, unit: Option<String>) {
        assert_eq!((number, unit), (1, None));
    }
    let queue = TestQueue::new().task::<Wider>();

    assert_eq!(outcome::<Wider>(&queue, None, Format::Json, json!({"number": 1})).await, Outcome::Success);
}

#[tokio::test]
async fn version_that_is_none_is_a_bad_message() {
    for version in [0, -1, i64::MAX] {
        let (kind, words) =
            reason(outcome::<Welcome>(&queue(), Some(version), Format::Json, json!({})).await);

        assert_eq!(kind, "bad-message");
        assert_eq!(
            words,
            format!(
                "the payload of task `welcome`: its header `q-version` is `{version}`; send a whole number from 1, \
                 or leave it out for 1"
            )
        );
    }
}

#[tokio::test]
async fn replayed_dead_letter_keeps_its_version() {
    let log = std::sync::Arc::new(Log::default());
    let queue = TestQueue::new().task::<Welcome>().shared(log.clone());
    reason(outcome::<Welcome>(&queue, Some(2), Format::Json, json!({"language": 1})).await);
    let wrong = queue.client().admin().dead_letters("versions.dead", 10).await.unwrap();
    assert_eq!(wrong.len(), 1);

    queue.client().admin().replay("versions.dead", 10, |_| true).await.unwrap();
    let outcomes = queue.drain().await;

    let (_, words) = reason(outcomes[0].outcome.clone());
    assert!(words.contains("of version 2"), "{words}");
}
