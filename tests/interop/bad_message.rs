//! A bad message is a dead letter with a reason one can act on; it never crashes a worker and never loops.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use leveret::{Context, JobEvent, Properties, Task, Worker, task};
use queue_core::settlement::{Reason, ReasonKind};

use crate::support::foreign::{Foreign, Header, Message};
use crate::support::place::Place;
use crate::support::work::Work;
use crate::support::{Leftovers, Setting};

const LEFTOVERS: Leftovers = Leftovers {
    queues: &["interop.bad", "interop.bad.dead", "interop.bad.two", "interop.bad.two.dead"],
    exchanges: &[],
};

on_each_broker!(
    garbage_bytes,
    garbage_that_begins_like_an_object,
    empty_body,
    text_that_is_no_object,
    wrong_shape,
    missing_field,
    array_that_would_fit_by_position,
    empty_array_for_a_task_without_parameters,
    huge_body_of_the_wrong_shape,
    content_type_that_we_do_not_know,
    message_without_type_in_a_queue_of_two_tasks,
    empty_type_is_no_type,
    type_that_is_not_ours_is_kept_for_an_hour,
    type_that_nobody_has_known_for_an_hour,
    longest_names_survive,
    headers_over_the_cap_do_no_harm_to_a_good_message,
    headers_over_the_cap_do_not_keep_a_bad_message_from_its_dead_letters,
    headers_over_the_cap_do_not_keep_a_failed_job_from_its_retry,
    header_values_that_are_not_utf8_survive,
    header_nested_deep_does_not_keep_a_message_from_retry_and_dead_letters,
    headers_of_ours_with_nonsense_in_them_do_no_harm,
);

#[task(queue = "interop.bad", retries = 2, backoff = fixed("20ms"))]
async fn charge(context: &Context, order: u64) -> Result<(), String> {
    if order == 451 && context.attempt() == 1 { Err("the bank said 451".into()) } else { Ok(()) }
}

/// Does nothing, and wants nothing to do it with.
#[task(queue = "interop.bad")]
async fn nothing() {}

#[task(queue = "interop.bad.two")]
async fn one() {}

#[task(queue = "interop.bad.two")]
async fn two() {}

fn worker(t: &Setting) -> Work {
    Work::start(Worker::new(&t.client).task::<Charge>())
}

/// Publishes a message that is bad and one that is good. Why the bad one is a dead letter, and what lies there.
async fn dead_letter(t: &Setting, message: Message) -> (Reason, Message) {
    t.client.declare_queue(Charge::queue()).await.unwrap();
    t.foreign.send("interop.bad", message.clone()).await;
    t.foreign.send("interop.bad", Message::bare(r#"{"order": 1}"#)).await;
    let mut worker = worker(t);

    let reason = worker.dead().await;
    worker.succeeded().await;
    worker.stop().await;

    let letter = t.foreign.get("interop.bad.dead").await.expect("it lies in the dead-letter queue");
    assert!(letter.body == message.body, "the body was changed");
    assert_eq!(letter.text("q-error-kind"), Some(reason.kind.as_str()));
    assert_eq!(letter.text("q-error"), Some(reason.message.as_str()));
    assert_eq!(letter.text("q-queue"), Some("interop.bad"));
    (reason, letter)
}

async fn assert_bad(t: &Setting, body: impl Into<Vec<u8>>, words: &str) {
    let (reason, _) = dead_letter(t, Message::bare(body)).await;

    assert_eq!(reason, Reason::new(ReasonKind::BadMessage, words));
}

const NO_OBJECT: &str = "the payload of task `charge` is not a JSON object; send `{\"parameter\": value}`";

async fn garbage_bytes(t: &Setting) {
    assert_bad(t, b"\xff\xfe\x00garbage", NO_OBJECT).await;
}

async fn garbage_that_begins_like_an_object(t: &Setting) {
    let words = "the payload does not fit task `charge`: key must be a string at line 1 column 2";
    assert_bad(t, b"{\xff\xfe", words).await;
}

async fn empty_body(t: &Setting) {
    assert_bad(t, "", NO_OBJECT).await;
}

async fn text_that_is_no_object(t: &Setting) {
    assert_bad(t, "order 12", NO_OBJECT).await;
}

async fn array_that_would_fit_by_position(t: &Setting) {
    assert_bad(t, "[12]", NO_OBJECT).await;
}

async fn missing_field(t: &Setting) {
    let words = "the payload does not fit task `charge`: missing field `order` at line 1 column 2";
    assert_bad(t, "{}", words).await;
}

async fn wrong_shape(t: &Setting) {
    let words = "the payload does not fit task `charge`: invalid type: string \"twelve\", expected u64 at line 1 \
                 column 18";
    assert_bad(t, r#"{"order": "twelve"}"#, words).await;
}

async fn empty_array_for_a_task_without_parameters(t: &Setting) {
    t.client.declare_queue(Nothing::queue()).await.unwrap();
    t.foreign.send("interop.bad", Message::bare("[]")).await;
    t.foreign.send("interop.bad", Message::bare("{}")).await;
    let mut worker = Work::start(Worker::new(&t.client).task::<Nothing>());

    assert_eq!(worker.dead().await.kind, ReasonKind::BadMessage);
    worker.succeeded().await;
    worker.stop().await;
}

/// Since 4.0 RabbitMQ takes 16 MiB by default, before it was 128 MiB.
async fn huge_body_of_the_wrong_shape(t: &Setting) {
    let body = |megabytes: usize| format!(r#"{{"order": "{}"}}"#, "x".repeat(megabytes * 1024 * 1024));
    let mut megabytes = 20;
    // Since 4.0 a message has 16 MiB at most.
    if matches!(t.place, Place::RabbitMq(4..)) {
        t.client.declare_queue(Charge::queue()).await.unwrap();
        // The refusal closes the channel, so it is another program's.
        let other = Foreign::connect(&t.url).await;
        let refusal = other.try_send("interop.bad", Message::bare(body(megabytes))).await.unwrap_err();
        assert!(refusal.contains("PRECONDITION"), "{refusal}");
        other.close().await;
        megabytes = 15;
    }

    let (reason, _) = dead_letter(t, Message::bare(body(megabytes))).await;

    // Short enough for a log, and yet with the end that says where.
    let words = &reason.message;
    assert!(words.len() < 1000, "{} bytes", words.len());
    assert!(
        words.starts_with("the payload does not fit task `charge`: invalid type: string \"xxx"),
        "{words}"
    );
    assert!(words.contains("xxx\", expected u64 at line 1 column "), "{words}");
}

/// Even where the body would do.
async fn content_type_that_we_do_not_know(t: &Setting) {
    t.client.declare_queue(Charge::queue()).await.unwrap();
    let properties = Properties::new().content_type("application/x-yaml");
    let body = r#"{"order": 1}"#;
    t.client.publish_raw("", "interop.bad", body, properties).must_route().await.unwrap();
    let mut worker = worker(t);

    let reason = worker.dead().await;
    worker.stop().await;

    let words = "the payload of task `charge` cannot be read: its content type `application/x-yaml` is not understood; \
                 send `application/json`, `application/msgpack` or `application/cbor`, or leave it out for JSON";
    assert_eq!(reason, Reason::new(ReasonKind::BadMessage, words));
    let letter = t.foreign.get("interop.bad.dead").await.expect("it lies in the dead-letter queue");
    assert_eq!((&*letter.body, letter.text("q-error")), (body.as_bytes(), Some(words)));
}

async fn message_without_type_in_a_queue_of_two_tasks(t: &Setting) {
    t.client.declare_queue(One::queue()).await.unwrap();
    t.foreign.send("interop.bad.two", Message::bare("{}")).await;
    t.foreign.send("interop.bad.two", Message::bare("{}").task("two")).await;
    let mut worker = Work::start(Worker::new(&t.client).task::<One>().task::<Two>());

    let reason = worker.dead().await;

    let words = "the message names no task, and queue `interop.bad.two` has several: set the AMQP property `type` to \
                 one of `one`, `two`, or mark one of them `default`";
    assert_eq!(reason, Reason::new(ReasonKind::BadMessage, words));
    assert_eq!(worker.succeeded().await.task, "two");
    worker.stop().await;
}

/// Some clients write the property and leave it empty.
async fn empty_type_is_no_type(t: &Setting) {
    t.client.declare_queue(Charge::queue()).await.unwrap();
    t.foreign.send("interop.bad", Message::bare(r#"{"order": 1}"#).task("")).await;
    let mut worker = worker(t);

    assert_eq!(worker.succeeded().await.task, "charge");
    worker.stop().await;
}

async fn type_that_is_not_ours_is_kept_for_an_hour(t: &Setting) {
    t.client.declare_queue(Charge::queue()).await.unwrap();
    t.foreign.send("interop.bad", Message::bare("[[], {}, null]").task("celery.task")).await;
    t.foreign.send("interop.bad", Message::bare(r#"{"order": 1}"#)).await;
    let mut worker = worker(t);

    let (after, reason) = worker.retried().await;

    assert_eq!(after, Duration::from_secs(1));
    let words = "task `celery.task` is unknown to this worker of queue `interop.bad`, which has `charge`; a newer one \
                 may know it";
    assert_eq!(reason, Reason::new(ReasonKind::UnknownTask, words));
    worker.succeeded().await;
    worker.stop().await;
}

async fn type_that_nobody_has_known_for_an_hour(t: &Setting) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - Duration::from_secs(2 * 3600);
    let since = Header::Int(i64::try_from(since.as_millis()).unwrap());
    let message = Message::bare("[[], {}, null]").task("celery.task").header("q-unknown-since", since);

    let (reason, letter) = dead_letter(t, message).await;

    let words = "no worker of queue `interop.bad` has known task `celery.task` for 120 min; here it has `charge`. \
                 Deploy a worker that knows it, or correct the AMQP property `type`, and replay the job";
    assert_eq!(reason, Reason::new(ReasonKind::UnknownTask, words));
    assert_eq!(letter.task.as_deref(), Some("celery.task"));
}

/// AMQP itself carries at most 255 bytes.
async fn longest_names_survive(t: &Setting) {
    let longest = "n".repeat(255);
    let mut message = Message::bare("garbage").task("charge").header(&longest, "value");
    message.id = Some("i".repeat(255));

    let (_, letter) = dead_letter(t, message.clone()).await;

    assert_eq!(letter.id, message.id);
    assert_eq!(letter.text(&longest), Some("value"));
}

/// Publishes with headers that fit RabbitMQ's frames, but not our cap of 32 KiB. Brokers of our own refuse them, and
/// then there is nothing to work.
async fn send_over_the_cap(t: &Setting, body: &str) -> bool {
    t.client.declare_queue(Charge::queue()).await.unwrap();
    let sent = t.foreign.try_send("interop.bad", over_the_cap(body)).await;
    if !matches!(t.place, Place::RabbitMq(_)) {
        assert!(sent.unwrap_err().contains("over the limit of 32768"));
        return false;
    }
    sent.unwrap();
    true
}

fn over_the_cap(body: &str) -> Message {
    Message::bare(body).header("blob", "x".repeat(100 * 1024).as_str()).header("tenant", "blue")
}

async fn headers_over_the_cap_do_no_harm_to_a_good_message(t: &Setting) {
    if !send_over_the_cap(t, r#"{"order": 1}"#).await {
        return;
    }
    let mut worker = worker(t);

    worker.succeeded().await;
    worker.stop().await;
}

async fn headers_over_the_cap_do_not_keep_a_bad_message_from_its_dead_letters(t: &Setting) {
    if !send_over_the_cap(t, "garbage").await {
        return;
    }
    let mut worker = worker(t);

    assert_eq!(worker.dead().await.kind, ReasonKind::BadMessage);

    worker.stop().await;
    let letter = t.foreign.get("interop.bad.dead").await.expect("it lies in the dead-letter queue");
    assert_eq!(letter.text("q-error"), Some(NO_OBJECT));
    // The bulk goes, so that the reason has room.
    assert_eq!((letter.text("blob"), letter.text("tenant")), (None, Some("blue")));
}

async fn headers_over_the_cap_do_not_keep_a_failed_job_from_its_retry(t: &Setting) {
    if !send_over_the_cap(t, r#"{"order": 451}"#).await {
        return;
    }
    let mut worker = worker(t);

    let (_, reason) = worker.retried().await;

    assert_eq!(reason, Reason::new(ReasonKind::Failed, "the bank said 451"));
    assert_eq!(worker.succeeded().await.attempt, 2);
    worker.stop().await;
}

async fn header_values_that_are_not_utf8_survive(t: &Setting) {
    let latin1 = Header::Bytes(b"caf\xe9".to_vec());
    let message = Message::bare("garbage").header("latin1", latin1.clone()).header("void", Header::Other);

    let (_, letter) = dead_letter(t, message).await;

    assert_eq!(letter.headers.get("latin1"), Some(&latin1));
    assert_eq!(letter.headers.get("void"), Some(&Header::Other));
}

/// RabbitMQ takes it. Brokers of our own refuse it, and then there is nothing to work.
async fn header_nested_deep_does_not_keep_a_message_from_retry_and_dead_letters(t: &Setting) {
    t.client.declare_queue(Charge::queue()).await.unwrap();
    for body in [r#"{"order": 451}"#, "garbage"] {
        let message = Message::bare(body).header("deep", Header::Lists(60)).header("tenant", "blue");
        let sent = t.foreign.try_send("interop.bad", message).await;
        assert_eq!(sent.is_ok(), matches!(t.place, Place::RabbitMq(_)), "{sent:?}");
        if sent.is_err() {
            return;
        }
    }
    let mut worker = worker(t);

    let mut fates = [worker.fate().await, worker.fate().await, worker.fate().await];
    worker.stop().await;

    // The retry may come before or after the other message.
    fates.sort_by_key(|fate| match fate {
        JobEvent::Retried { .. } => 0,
        JobEvent::Succeeded { .. } => 1,
        _ => 2,
    });
    assert!(
        matches!(fates, [JobEvent::Retried { .. }, JobEvent::Succeeded { .. }, JobEvent::Dead { .. }]),
        "{fates:?}"
    );
    let letter = t.foreign.get("interop.bad.dead").await.expect("it lies in the dead-letter queue");
    assert_eq!(letter.text("tenant"), Some("blue"));
}

async fn headers_of_ours_with_nonsense_in_them_do_no_harm(t: &Setting) {
    let nonsense = |message: Message| {
        let message = message.header("q-attempt", "many").header("q-unknown-since", "yesterday");
        let message = message.header("q-error", Header::Int(7)).header("q-priority", "urgent");
        message.header("q-target", Header::Int(-1)).header("q-eta", "soon").header("q-publish", "mine")
    };
    t.client.declare_queue(Charge::queue()).await.unwrap();
    t.foreign.send("interop.bad", nonsense(Message::bare(r#"{"order": 451}"#))).await;
    let mut worker = worker(t);

    worker.retried().await;
    let job = worker.succeeded().await;
    worker.stop().await;
    let (reason, _) = dead_letter(t, nonsense(Message::bare("garbage"))).await;

    assert_eq!(job.attempt, 2);
    assert_eq!(reason.kind, ReasonKind::BadMessage);
}
