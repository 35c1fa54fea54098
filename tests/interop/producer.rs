//! Producers that know nothing of Leveret: they send to a queue by its name, and set a reply address that nobody reads.

use std::time::Duration;

use leveret::{
    CallError, Context, HeaderValue, Properties, RawMessage, TaskResult, Worker, error_chain, subscriber,
    task,
};
use queue_core::settlement::ReasonKind;
use tokio::sync::mpsc;

use crate::support::foreign::Queue;
use crate::support::work::Work;
use crate::support::{Leftovers, Setting};

const LEFTOVERS: Leftovers = Leftovers {
    queues: &["interop.plain", "interop.plain.dead", "interop.oneway", "interop.oneway.dead"],
    exchanges: &[],
};

on_each_broker!(
    message_sent_to_a_queue_by_its_name_reaches_its_subscriber,
    message_sent_by_name_is_retried_then_a_dead_letter_and_replayed,
    plain_queue_of_another_program_is_declared_alike_or_used_as_it_is,
    reply_address_is_no_call_where_the_task_never_replies,
    call_of_a_task_that_never_replies_is_refused_at_once,
);

/// Takes the attempt and the message that a handler saw.
type Seen = mpsc::UnboundedSender<(u32, RawMessage)>;

#[subscriber(queue = "interop.plain", exchange = "", queue_type = "classic", retries = 1, backoff = fixed("50ms"))]
async fn on_import(seen: &Seen, context: &Context, message: RawMessage) -> TaskResult {
    let is_bad = message.body == "bad";
    seen.send((context.attempt(), message))?;
    if is_bad { Err("cannot be imported".into()) } else { Ok(()) }
}

async fn plain(t: &Setting) -> (Work, mpsc::UnboundedReceiver<(u32, RawMessage)>) {
    let (sender, seen) = mpsc::unbounded_channel();
    let worker = Worker::new(&t.client).task::<OnImport>().state::<Seen>(sender);
    worker.declare().await.unwrap();
    (Work::start(worker), seen)
}

async fn send(t: &Setting, queue: &'static str, body: &'static str, properties: Properties) {
    t.client.publish_raw("", queue, body, properties).must_route().await.unwrap();
}

async fn message_sent_to_a_queue_by_its_name_reaches_its_subscriber(t: &Setting) {
    let (mut work, mut seen) = plain(t).await;

    let properties = Properties::new()
        .kind("whatever")
        .content_type("text/csv")
        .correlation_id("c-1")
        .reply_to("nobody")
        .header("task", "shop.import");
    send(t, "interop.plain", "a,b", properties).await;

    let job = work.succeeded().await;
    let (_, message) = seen.recv().await.unwrap();
    work.stop().await;
    assert_eq!((job.task(), job.queue()), ("on_import", "interop.plain"));
    assert_eq!((&*message.exchange, &*message.routing_key), ("", "interop.plain"));
    assert_eq!((&*message.body, message.kind.as_deref()), (&b"a,b"[..], Some("whatever")));
    assert_eq!(message.content_type.as_deref(), Some("text/csv"));
    assert_eq!(message.correlation_id.as_deref(), Some("c-1"));
    assert_eq!(message.reply_to.as_deref(), Some("nobody"));
    assert_eq!(message.headers.get("task"), Some(&HeaderValue::from("shop.import")));
}

async fn message_sent_by_name_is_retried_then_a_dead_letter_and_replayed(t: &Setting) {
    let (mut work, mut seen) = plain(t).await;

    send(t, "interop.plain", "bad", Properties::new().reply_to("nobody").correlation_id("c-2")).await;
    let (after, _) = work.retried().await;
    let reason = work.dead().await;
    let replayed = t.client.admin().replay("interop.plain.dead", 10, |_| true).await.unwrap();
    work.retried().await;

    assert!(after >= Duration::from_millis(50), "{after:?}");
    assert_eq!((reason.kind, &*reason.message), (ReasonKind::Failed, "cannot be imported"));
    assert_eq!(replayed, 1);
    for attempt in [1, 2, 1] {
        let (seen, message) = seen.recv().await.unwrap();
        assert_eq!((seen, &*message.exchange, &*message.routing_key), (attempt, "", "interop.plain"));
    }
    work.dead().await;
    work.stop().await;
}

/// Classic, and without a single argument: as a program declares it that writes none.
async fn plain_queue_of_another_program_is_declared_alike_or_used_as_it_is(t: &Setting) {
    t.foreign.declare(&Queue { name: "interop.plain", arguments: vec![] }).await.unwrap();

    let (work, _seen) = plain(t).await;
    work.stop().await;

    t.foreign.declare(&Queue { name: "interop.plain", arguments: vec![] }).await.unwrap();
}

#[task(queue = "interop.oneway", reply = false, retries = 1, backoff = fixed("50ms"))]
async fn import(number: u32) -> Result<u32, String> {
    if number == 13 { Err("lost".to_owned()) } else { Ok(number) }
}

async fn reply_address_is_no_call_where_the_task_never_replies(t: &Setting) {
    t.client.declare_queue(<Import as leveret::Task>::queue()).await.unwrap();
    // What would be a reply has a queue to lie in.
    t.foreign.declare(&Queue { name: "interop.plain", arguments: vec![] }).await.unwrap();
    let properties = || Properties::new().reply_to("interop.plain").correlation_id("c-3");
    let mut work = Work::start(Worker::new(&t.client).task::<Import>());

    send(t, "interop.oneway", r#"{"number": 13}"#, properties()).await;
    work.retried().await;
    let reason = work.dead().await;
    send(t, "interop.oneway", r#"{"number": 7}"#, properties()).await;
    work.succeeded().await;
    work.stop().await;

    assert_eq!(reason.message, "lost");
    assert!(t.foreign.get("interop.oneway.dead").await.is_some(), "it is no dead letter");
    assert!(t.foreign.get("interop.plain").await.is_none(), "somebody was answered");
}

async fn call_of_a_task_that_never_replies_is_refused_at_once(t: &Setting) {
    let refused = t.client.call(Import { number: 7 }).await.unwrap_err();

    assert!(matches!(refused, CallError::Enqueue(_)), "{refused:?}");
    let words = error_chain(&refused);
    assert!(words.contains("task `import` says `reply = false`, so a call would wait in vain"), "{words}");
}
