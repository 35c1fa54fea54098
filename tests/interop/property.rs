//! AMQP's properties of a message that is not ours: they go along wherever the message goes, and an encoding that we
//! do not read is named.

use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use leveret::{Context, Event, RawMessage, Task, TaskError, TaskResult, Worker, subscriber, task};
use queue_core::settlement::{Reason, ReasonKind};
use serde::{Deserialize, Serialize};

use crate::support::foreign::Message;
use crate::support::place::Place;
use crate::support::work::Work;
use crate::support::{Leftovers, Setting};

const LEFTOVERS: Leftovers = Leftovers {
    queues: &[
        "interop.property",
        "interop.property.dead",
        "interop.property.seen",
        "interop.property.seen.dead",
        "interop.property.raw",
        "interop.property.raw.dead",
        "interop.property.replies",
    ],
    exchanges: &["interop.property.seen"],
};

on_each_broker!(
    properties_go_along_through_retry_dead_letter_and_replay,
    properties_can_be_read,
    encoding_that_nobody_reads_is_named_in_the_dead_letter_of_a_job,
    encoding_that_nobody_reads_is_named_in_the_dead_letter_of_an_event,
    encoding_that_nobody_reads_is_named_to_a_caller,
    encoding_that_changes_nothing_is_read,
    message_without_an_id_says_so_and_keeps_the_one_it_is_given,
);

/// Fails at first, and then for good.
#[task(queue = "interop.property", retries = 1, backoff = fixed("20ms"))]
async fn fail(context: &Context, order: u64) -> TaskResult {
    let words = format!("order {order} of {:?}", context.app_id());
    Err(if context.attempt() == 1 { words.into() } else { TaskError::permanent(words).into() })
}

#[task(queue = "interop.property")]
async fn double(order: u64) -> Result<u64, String> {
    Ok(2 * order)
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "interop.property.seen", kind = "fanout")]
struct Seen {
    order: u64,
}

#[subscriber(queue = "interop.property.seen")]
async fn see(_event: Seen) {}

/// What the subscriber below was given.
#[derive(Default)]
struct Got(Mutex<Vec<RawMessage>>);

#[subscriber(queue = "interop.property.raw", exchange = "amq.topic", kind = "topic", binding = "property")]
async fn keep(got: &Got, message: RawMessage) {
    got.0.lock().unwrap().push(message);
}

/// A message with every property that a program may set.
fn full(body: &str) -> Message {
    Message {
        id: Some("theirs".to_owned()),
        task: Some("fail".to_owned()),
        user_id: Some("guest".to_owned()),
        content_type: Some("application/json".to_owned()),
        content_encoding: Some("utf-8".to_owned()),
        app_id: Some("billing".to_owned()),
        cluster_id: Some("west".to_owned()),
        correlation_id: Some("order 7".to_owned()),
        priority: Some(3),
        timestamp: Some(1_700_000_000),
        expiration: Some(3_600_000),
        ..Message::bare(body)
    }
}

fn is_node(t: &Setting) -> bool {
    matches!(t.place, Place::RabbitMq(_))
}

async fn take_dead_letter(t: &Setting) -> Message {
    t.foreign.get("interop.property.dead").await.expect("it lies in the dead-letter queue")
}

async fn properties_go_along_through_retry_dead_letter_and_replay(t: &Setting) {
    t.client.declare_queue(Fail::queue()).await.unwrap();
    let sent = full(r#"{"order": 7}"#);
    t.foreign.send("interop.property", sent.clone()).await;
    let mut worker = Work::start(Worker::new(&t.client).task::<Fail>().task::<Double>());

    worker.retried().await;
    worker.dead().await;
    assert_eq!(t.client.admin().replay("interop.property.dead", 1, |_| true).await.unwrap(), 1);
    worker.retried().await;
    let reason = worker.dead().await;
    worker.stop().await;

    assert_eq!(reason.message, r#"order 7 of Some("billing")"#);
    let letter = take_dead_letter(t).await;
    let expected = Message {
        id: letter.id.clone(),
        delivery_mode: Some(2),
        headers: letter.headers.clone(),
        // The server lets a user speak for himself alone, so the name of another goes along as a header; and a copy must
        // not expire on its way.
        user_id: None,
        expiration: None,
        ..sent
    };
    assert_eq!(letter, expected);
    assert_eq!(letter.text("q-user-id"), is_node(t).then_some("guest"));
}

async fn properties_can_be_read(t: &Setting) {
    let got = Arc::new(Got::default());
    let worker = Worker::new(&t.client).task::<Keep>().shared(got.clone());
    worker.declare().await.unwrap();
    let sent = full("a,b");
    t.foreign.send("interop.property.raw", sent.clone()).await;
    let mut worker = Work::start(worker);

    worker.succeeded().await;
    worker.stop().await;

    let message = got.0.lock().unwrap().pop().expect("it was given one");
    assert_eq!((message.id.as_str(), message.kind, &*message.body), ("theirs", sent.task, &*sent.body));
    assert_eq!(message.content_type, sent.content_type);
    assert_eq!(message.content_encoding, sent.content_encoding);
    assert_eq!((message.app_id, message.cluster_id), (sent.app_id, sent.cluster_id));
    assert_eq!((message.correlation_id, message.priority), (sent.correlation_id, sent.priority));
    assert_eq!(message.timestamp, Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
    assert_eq!(message.expiration, Some(Duration::from_secs(3600)));
    assert_eq!(message.user_id, sent.user_id.filter(|_| is_node(t)));
    assert!(message.headers.is_empty(), "{:?}", message.headers);
}

/// What a gzip file of `{}` begins with.
const GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00";

fn compressed() -> Message {
    Message { content_encoding: Some("gzip".to_owned()), ..Message::bare(GZIP) }
}

async fn encoding_that_nobody_reads_is_named_in_the_dead_letter_of_a_job(t: &Setting) {
    t.client.declare_queue(Fail::queue()).await.unwrap();
    t.foreign.send("interop.property", compressed().task("double")).await;
    let mut worker = Work::start(Worker::new(&t.client).task::<Fail>().task::<Double>());

    let reason = worker.dead().await;
    worker.stop().await;

    let words = "the payload of task `double` cannot be read: its content encoding `gzip` is not understood; send the \
                 body as it is, without the AMQP property `content_encoding`, or take it with a subscriber to `RawMessage`";
    assert_eq!(reason, Reason::new(ReasonKind::BadMessage, words));
    let letter = take_dead_letter(t).await;
    assert_eq!((letter.content_encoding.as_deref(), &*letter.body), (Some("gzip"), GZIP));
}

async fn encoding_that_nobody_reads_is_named_in_the_dead_letter_of_an_event(t: &Setting) {
    let worker = Worker::new(&t.client).task::<See>();
    worker.declare().await.unwrap();
    t.foreign.send("interop.property.seen", compressed()).await;
    let mut worker = Work::start(worker);

    let reason = worker.dead().await;
    worker.stop().await;

    assert_eq!(reason.kind, ReasonKind::BadMessage);
    let words = &reason.message;
    assert!(
        words.contains("`see`") && words.contains("event `Seen`: its content encoding `gzip`"),
        "{words}"
    );
}

async fn encoding_that_nobody_reads_is_named_to_a_caller(t: &Setting) {
    t.client.declare_queue(Double::queue()).await.unwrap();
    let replies = crate::support::foreign::Queue { name: "interop.property.replies", arguments: vec![] };
    t.foreign.declare(&replies).await.unwrap();
    let mut request = compressed().task("double");
    request.reply_to = Some("interop.property.replies".to_owned());
    t.foreign.send("interop.property", request).await;
    let mut worker = Work::start(Worker::new(&t.client).task::<Fail>().task::<Double>());

    worker.fate().await;
    worker.stop().await;

    let reply = t.foreign.get("interop.property.replies").await.expect("a call is answered");
    let words = reply.text("q-error").expect("it failed");
    assert!(words.contains("content encoding `gzip`"), "{words}");
    assert_eq!(reply.content_encoding, None, "the reply is as it is");
}

/// Celery and Kombu say `utf-8` of JSON.
async fn encoding_that_changes_nothing_is_read(t: &Setting) {
    t.client.declare_queue(Double::queue()).await.unwrap();
    let mut worker = Work::start(Worker::new(&t.client).task::<Fail>().task::<Double>());

    for encoding in ["utf-8", "UTF8", "identity", "us-ascii", "binary", ""] {
        let mut message = Message::bare(r#"{"order": 7}"#).task("double");
        message.content_encoding = Some(encoding.to_owned());
        t.foreign.send("interop.property", message).await;
        worker.succeeded().await;
    }

    worker.stop().await;
}

/// Notes its job's id, and whether it lasts.
#[task(queue = "interop.property", retries = 1, backoff = fixed("20ms"))]
async fn note(ids: &Ids, context: &Context) -> TaskResult {
    ids.0.lock().unwrap().push((context.id().to_string(), context.has_stable_id()));
    Err("no".into())
}

#[derive(Default)]
struct Ids(Mutex<Vec<(String, bool)>>);

/// Brokers of our own know no message without an id.
async fn message_without_an_id_says_so_and_keeps_the_one_it_is_given(t: &Setting) {
    t.client.declare_queue(Note::queue()).await.unwrap();
    let ids = Arc::new(Ids::default());
    let worker = Worker::new(&t.client).task::<Fail>().task::<Double>().task::<Note>().shared(ids.clone());
    let mut worker = Work::start(worker);

    let mut seen = Vec::new();
    for id in [None, Some("theirs".to_owned())] {
        t.foreign.send("interop.property", Message { id, ..Message::bare("{}").task("note") }).await;
        worker.retried().await;
        worker.dead().await;
        let letter = take_dead_letter(t).await;
        seen.push((letter.id.expect("an id"), std::mem::take(&mut *ids.0.lock().unwrap())));
    }
    worker.stop().await;

    let [(given, first), (theirs, second)] = &*seen else { panic!("{seen:?}") };
    assert_eq!(*first, vec![(given.clone(), !is_node(t)); 2]);
    assert_eq!((&**theirs, second), ("theirs", &vec![("theirs".to_owned(), true); 2]));
}
