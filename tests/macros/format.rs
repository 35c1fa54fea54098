//! Formats: what a task writes, and what a worker reads.

use leveret::testing::TestQueue;
use leveret::{CallError, Event, Format, Outcome, Properties, Task, error_chain, task};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::support::{run, succeeded};

/// What a foreign program sent came to, when a task of the queue `formats` gets it.
async fn outcome<T: Task + leveret::Runnable>(content_type: Option<&str>, body: Vec<u8>) -> Outcome {
    let queue = TestQueue::new().task::<T>();
    queue.client().declare_queue(T::queue()).await.unwrap();
    let mut properties = Properties::new().kind(T::NAME);
    if let Some(content_type) = content_type {
        properties = properties.content_type(content_type);
    }
    let name = T::queue().name().clone();
    queue.client().publish_raw("", name, body, properties).must_route().await.unwrap();

    let outcomes = queue.drain().await;

    let [drained] = &outcomes[..] else { panic!("not one outcome: {outcomes:?}") };
    drained.outcome.clone()
}

/// Why the message was bad.
fn words(outcome: Outcome) -> String {
    let Outcome::Failure(failure) = outcome else { panic!("it succeeded") };
    assert_eq!(failure.reason.kind.as_str(), "bad-message");
    failure.reason.message
}

#[task(queue = "formats")]
async fn plain(number: u32, note: Option<String>) {
    assert_eq!((number, note.as_deref()), (7, None));
}

#[task(queue = "formats", format = "msgpack")]
async fn packed(number: u32, note: Option<String>) {
    assert_eq!((number, note.as_deref()), (7, None));
}

#[task(queue = "formats", format = "cbor")]
fn concise(number: u32, note: Option<String>) {
    assert_eq!((number, note.as_deref()), (7, None));
}

#[tokio::test]
async fn job_in_any_format_is_run() {
    assert!(succeeded(&run(Plain { number: 7, note: None }, |worker| worker).await));
    assert!(succeeded(&run(Packed { number: 7, note: None }, |worker| worker).await));
    assert!(succeeded(&run(Concise { number: 7, note: None }, |worker| worker).await));
}

#[tokio::test]
async fn every_worker_reads_every_format_whatever_its_task_writes() {
    // Without the field that may be missing, and with one that nobody knows.
    let body = json!({"number": 7, "colour": "red"});

    for format in [Format::Json, Format::MessagePack, Format::Cbor] {
        let body = || format.encode(&body).unwrap();
        let content_type = Some(format.content_type());
        assert_eq!(outcome::<Plain>(content_type, body()).await, Outcome::Success);
        assert_eq!(outcome::<Packed>(content_type, body()).await, Outcome::Success);
        assert_eq!(outcome::<Concise>(content_type, body()).await, Outcome::Success);
    }
    assert_eq!(outcome::<Packed>(None, br#"{"number": 7}"#.into()).await, Outcome::Success);
}

#[tokio::test]
async fn unknown_content_type_is_a_bad_message_that_names_it() {
    let words = words(outcome::<Packed>(Some("application/x-yaml"), b"number: 7".into()).await);

    assert_eq!(
        words,
        "the payload of task `packed` cannot be read: its content type `application/x-yaml` is not understood; send \
         `application/json`, `application/msgpack` or `application/cbor`, or leave it out for JSON"
    );
}

#[tokio::test]
async fn body_that_is_not_what_its_content_type_says_is_a_bad_message() {
    let msgpack = Format::MessagePack.encode(&json!([7])).unwrap();

    assert_eq!(
        words(outcome::<Plain>(Some("application/msgpack"), msgpack).await),
        "the payload of task `plain` is not a MessagePack map; send a map from parameter to value"
    );
    assert_eq!(
        words(outcome::<Plain>(Some("application/cbor"), b"\xa1\x66number\x07\x0a".into()).await),
        "the payload does not fit task `plain`: something follows it, of 1 bytes"
    );
    let json =
        words(outcome::<Packed>(None, Format::MessagePack.encode(&json!({"number": 7})).unwrap()).await);
    assert_eq!(json, "the payload of task `packed` is not a JSON object; send `{\"parameter\": value}`");
}

#[tokio::test]
async fn payload_of_the_wrong_shape_says_which_field() {
    for format in [Format::MessagePack, Format::Cbor] {
        let missing = format.encode(&json!({"note": "x"})).unwrap();
        let wrong = format.encode(&json!({"number": "seven"})).unwrap();

        let missing = words(outcome::<Plain>(Some(format.content_type()), missing).await);
        let wrong = words(outcome::<Plain>(Some(format.content_type()), wrong).await);

        assert_eq!(missing, "the payload does not fit task `plain`: missing field `number`");
        assert_eq!(
            wrong,
            "the payload does not fit task `plain`: invalid type: string \"seven\", expected u32"
        );
    }
}

#[tokio::test]
async fn enqueued_job_in_a_binary_format_is_found_and_shown_as_json() {
    let queue = TestQueue::new().task::<Packed>();
    queue.client().enqueue(Packed { number: 7, note: Some("é".into()) }).await.unwrap();

    queue.assert_enqueued::<Packed>(|job| job.number == 7);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        queue.assert_enqueued::<Packed>(|job| job.number == 8);
    }));

    let words = *refused.unwrap_err().downcast::<String>().unwrap();
    assert!(words.contains(r#"packed {"note":"é","number":7} in queue `formats`"#), "{words}");
    assert_eq!(queue.perform(Packed { number: 7, note: None }).await, Outcome::Success);
}

/// Replies what no payload can hold, unless it is given something else.
#[task(queue = "numbers", format = "msgpack")]
async fn measure(maybe: Option<f64>) -> Result<Vec<f64>, String> {
    Ok(vec![1.0, maybe.unwrap_or(f64::INFINITY)])
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "numbers", kind = "fanout")]
struct Measured {
    all: Vec<Option<f32>>,
}

/// NaN is `null` in JSON: an `Option` of it would be `None` for the handler.
#[tokio::test]
async fn number_that_is_none_is_refused_wherever_it_is_sent() {
    let queue = TestQueue::new().task::<Measure>();
    let client = queue.client();
    let job = |number| Measure { maybe: Some(number) };

    let one = client.enqueue(job(f64::NAN)).await.unwrap_err();
    let all = client.enqueue_all([job(1.0), job(f64::NAN), job(2.0)]).await;
    let event = client.publish(Measured { all: vec![None, Some(f32::NAN)] }).await.unwrap_err();
    let call = client.call(job(f64::NEG_INFINITY)).await.unwrap_err();

    assert!(error_chain(&one).contains("field `maybe` is NaN"), "{}", error_chain(&one));
    assert!(matches!(&all[..], [Ok(_), Err(_), Ok(_)]), "{all:?}");
    assert!(error_chain(&event).contains("field `all[1]` is NaN"), "{}", error_chain(&event));
    assert!(error_chain(&call).contains("field `maybe` is -inf"), "{}", error_chain(&call));
    #[cfg(feature = "sqlite")]
    assert!(client.enqueue(job(f64::NAN)).into_sql().is_err());
    assert_eq!(queue.drain().await.len(), 2);

    let reply = queue.serve(client.call(Measure { maybe: None })).await.unwrap_err();

    assert!(
        matches!(&reply, CallError::Handler { message, .. } if message.contains("field `[1]` is inf")),
        "{reply:?}"
    );
}
