//! A bad message is a dead letter with a reason one can act on; it never crashes a worker and never loops.

use leveret::{Client, Worker};
use queue_core::envelope::{HeaderValue, header};
use queue_core::settlement::ReasonKind;

use crate::support::{client, message, options, publish, queue, start, take_dead_letter, task};

task!(Charge { order: u64 } = "charge", queue: queue("bad"), options: options(), needs: [], async |_call, _job| {});

task!(Nothing {} = "nothing", queue: queue("bad.empty"), options: options(), needs: [], async |_call, _job| {});

task!(One {} = "one", queue: queue("bad.two"), options: options(), needs: [], async |_call, _job| {});
task!(Two {} = "two", queue: queue("bad.two"), options: options(), needs: [], async |_call, _job| {});

/// What the dead letter says of a message with this body, after a good message has been worked too.
async fn reason_for(client: &Client, body: impl Into<bytes::Bytes>) -> String {
    publish(client, &queue("bad"), message(Some("charge"), body)).await;
    client.enqueue(Charge { order: 1 }).await.unwrap();
    let mut worker = start(Worker::new(client).task::<Charge>());

    let reason = worker.dead().await;
    assert_eq!(reason.kind, ReasonKind::BadMessage);
    let dead = take_dead_letter(client, &queue("bad")).await;
    assert_eq!(dead.headers.get(header::ERROR_KIND), Some(&HeaderValue::from("bad-message")));
    worker.succeeded().await;
    worker.stop().await.unwrap();
    reason.message
}

#[tokio::test]
async fn garbage_bytes() {
    let words = reason_for(&client().0, &b"\xff\xfe\x00garbage"[..]).await;

    assert_eq!(words, "the payload of task `charge` is not a JSON object; send `{\"parameter\": value}`");
}

#[tokio::test]
async fn garbage_that_begins_like_an_object() {
    let words = reason_for(&client().0, &b"{\xff\xfe"[..]).await;

    assert_eq!(words, "the payload does not fit task `charge`: key must be a string at line 1 column 2");
}

#[tokio::test]
async fn empty_body() {
    let words = reason_for(&client().0, "").await;

    assert_eq!(words, "the payload of task `charge` is not a JSON object; send `{\"parameter\": value}`");
}

#[tokio::test]
async fn wrong_shape() {
    let words = reason_for(&client().0, r#"{"order": "twelve"}"#).await;

    assert!(words.starts_with("the payload does not fit task `charge`: invalid type: string"), "{words}");
}

#[tokio::test]
async fn missing_field() {
    let words = reason_for(&client().0, "{}").await;

    assert_eq!(words, "the payload does not fit task `charge`: missing field `order` at line 1 column 2");
}

#[tokio::test]
async fn array_that_would_fit_by_position() {
    let words = reason_for(&client().0, "[12]").await;

    assert_eq!(words, "the payload of task `charge` is not a JSON object; send `{\"parameter\": value}`");
}

#[tokio::test]
async fn twenty_megabytes_of_the_wrong_shape() {
    let body = format!(r#"{{"order": "{}"}}"#, "x".repeat(20 * 1024 * 1024));

    let words = reason_for(&client().0, body).await;

    assert!(words.starts_with("the payload does not fit task `charge`"), "{}", &words[..60]);
}

#[tokio::test]
async fn empty_array_for_a_task_without_parameters() {
    let (client, _clock) = client();
    publish(&client, &queue("bad.empty"), message(Some("nothing"), "[]")).await;
    let mut worker = start(Worker::new(&client).task::<Nothing>());

    assert_eq!(worker.dead().await.kind, ReasonKind::BadMessage);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn message_without_type_goes_to_the_only_task() {
    let (client, _clock) = client();
    publish(&client, &queue("bad"), message(None, r#"{"order": 12}"#)).await;
    let mut worker = start(Worker::new(&client).task::<Charge>());

    assert_eq!(worker.succeeded().await.task, "charge");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn message_without_type_in_a_queue_of_two_tasks() {
    let (client, _clock) = client();
    publish(&client, &queue("bad.two"), message(None, "{}")).await;
    let mut worker = start(Worker::new(&client).task::<One>().task::<Two>());

    let reason = worker.dead().await;

    assert_eq!(reason.kind, ReasonKind::BadMessage);
    assert_eq!(
        reason.message,
        "the message names no task, and queue `bad.two` has several: set the AMQP property `type` to one of `one`, \
         `two`, or mark one of them `default`"
    );
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn header_values_that_are_not_text_reach_the_dead_letter() {
    let (client, _clock) = client();
    let mut envelope = message(Some("charge"), "garbage");
    envelope.headers.insert(header::WORKER, HeaderValue::Null);
    let latin1 = HeaderValue::Bytes(bytes::Bytes::from_static(b"caf\xe9"));
    // HeaderValue has no public conversion from bytes that are not text, since only brokers read such.
    envelope.headers.insert("latin1", latin1.clone());
    publish(&client, &queue("bad"), envelope).await;
    let mut worker = start(Worker::new(&client).task::<Charge>());

    worker.dead().await;

    let dead = take_dead_letter(&client, &queue("bad")).await;
    assert_eq!(dead.headers.get("latin1"), Some(&latin1));
    worker.stop().await.unwrap();
}
