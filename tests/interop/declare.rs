//! Jobs published by a plain AMQP client as bare JSON are worked, whichever side declared the queue.
//!
//! What the other side declares stands here argument for argument, as its programmer would write it: a change of
//! what ours declares shows here as a 406.

use leveret::{Runnable, Task, TaskError, TaskResult, Worker, task};

use crate::support::foreign::{Argument, Message, Queue};
use crate::support::work::Work;
use crate::support::{Leftovers, Setting};

const LEFTOVERS: Leftovers = Leftovers {
    queues: &[
        "interop.quorum",
        "interop.quorum.dead",
        "interop.classic",
        "interop.classic.dead",
        "interop.orders",
        "interop.letters",
        "interop.theirs",
        "interop.theirs.dead",
    ],
    exchanges: &["interop.textbook"],
};

on_each_broker!(
    quorum_queue_that_we_declared,
    quorum_queue_that_they_declared,
    classic_queue_that_we_declared,
    classic_queue_that_they_declared,
    textbook_dead_letters_that_we_declared,
    textbook_dead_letters_that_they_declared,
    queue_of_theirs_is_used_as_it_is,
    our_job_is_plain_json_to_anybody,
);

/// The default.
#[task(queue = "interop.quorum")]
async fn quorum(order: u64) -> TaskResult {
    charge(order)
}

/// The queue of the example `work_queue`, and of every first tutorial: no arguments at all.
#[task(queue = "interop.classic", queue_type = "classic", prefetch = 1)]
async fn classic(order: u64) -> TaskResult {
    charge(order)
}

/// The queues of the example `dead_letters`.
#[task(
    queue = "interop.orders",
    queue_type = "classic",
    dlx = "interop.textbook",
    dead_letter_queue = "interop.letters",
    dead_letter_key = "failed",
    dead_letter_ttl = "7d",
    ttl = "1h",
    max_length = 100_000,
    overflow = "dead-letter"
)]
async fn textbook(order: u64) -> TaskResult {
    charge(order)
}

/// A queue with arguments that this task does not know.
#[task(queue = "interop.theirs", declare = "passive")]
async fn theirs(order: u64) -> TaskResult {
    charge(order)
}

fn charge(order: u64) -> TaskResult {
    if order == 13 { Err(TaskError::permanent("order 13 has no card").into()) } else { Ok(()) }
}

/// An integer as pika writes it, and as a program with 64-bit integers does. To a broker both must be the same.
type Integer = fn(i32) -> Argument;
const INTEGERS: [Integer; 2] = [Argument::Short, |int| Argument::Long(i64::from(int))];

fn quorum_queues(int: Integer) -> Vec<Queue> {
    let work = vec![
        ("x-queue-type", Argument::Text("quorum")),
        ("x-delivery-limit", int(100)),
        ("x-dead-letter-exchange", Argument::Text("interop.dlx")),
        ("x-dead-letter-routing-key", Argument::Text("interop.quorum")),
        ("x-dead-letter-strategy", Argument::Text("at-least-once")),
        ("x-overflow", Argument::Text("reject-publish")),
    ];
    let dead = vec![("x-queue-type", Argument::Text("quorum")), ("x-delivery-limit", int(1_000_000))];
    vec![
        Queue { name: "interop.quorum", arguments: work },
        Queue { name: "interop.quorum.dead", arguments: dead },
    ]
}

fn classic_queues(_: Integer) -> Vec<Queue> {
    vec![Queue { name: "interop.classic", arguments: vec![] }]
}

fn textbook_queues(int: Integer) -> Vec<Queue> {
    let work = vec![
        ("x-dead-letter-exchange", Argument::Text("interop.textbook")),
        ("x-dead-letter-routing-key", Argument::Text("failed")),
        ("x-message-ttl", int(3_600_000)),
        ("x-max-length", int(100_000)),
    ];
    let dead = vec![("x-message-ttl", int(604_800_000))];
    vec![
        Queue { name: "interop.orders", arguments: work },
        Queue { name: "interop.letters", arguments: dead },
    ]
}

/// Three bare messages are worked; one that fails for good lies where they look for it.
async fn work<T: Task + Runnable>(t: &Setting, dead_letter_queue: &str) {
    let queue = T::queue().name();
    for order in [1, 2, 13, 3] {
        t.foreign.send(queue, Message::bare(format!(r#"{{"order": {order}}}"#))).await;
    }
    let mut worker = Work::start(Worker::new(&t.client).task::<T>());

    worker.succeeded().await;
    worker.succeeded().await;
    assert_eq!(worker.dead().await.message, "order 13 has no card");
    assert_eq!(worker.succeeded().await.task, T::NAME);

    worker.stop().await;
    let letter = t.foreign.get(dead_letter_queue).await.expect("a dead letter");
    assert_eq!(letter.body, br#"{"order": 13}"#);
    assert_eq!(letter.text("q-error"), Some("order 13 has no card"));
    assert!(t.foreign.get(queue).await.is_none(), "something is left over");
}

async fn we_come_first<T: Task + Runnable>(t: &Setting, theirs: fn(Integer) -> Vec<Queue>, dead: &str) {
    t.client.declare_queue(T::queue()).await.unwrap();

    for queue in INTEGERS.into_iter().flat_map(theirs) {
        t.foreign.declare(&queue).await.expect("the same declaration");
    }

    work::<T>(t, dead).await;
}

async fn they_come_first<T: Task + Runnable>(t: &Setting, theirs: fn(Integer) -> Vec<Queue>, dead: &str) {
    for queue in theirs(INTEGERS[0]) {
        t.foreign.declare(&queue).await.unwrap();
    }

    work::<T>(t, dead).await;
}

async fn quorum_queue_that_we_declared(t: &Setting) {
    we_come_first::<Quorum>(t, quorum_queues, "interop.quorum.dead").await;
}

async fn quorum_queue_that_they_declared(t: &Setting) {
    they_come_first::<Quorum>(t, quorum_queues, "interop.quorum.dead").await;
}

async fn classic_queue_that_we_declared(t: &Setting) {
    we_come_first::<Classic>(t, classic_queues, "interop.classic.dead").await;
}

async fn classic_queue_that_they_declared(t: &Setting) {
    they_come_first::<Classic>(t, classic_queues, "interop.classic.dead").await;
}

async fn textbook_dead_letters_that_we_declared(t: &Setting) {
    t.client.declare_queue(Textbook::queue()).await.unwrap();
    // Exchange and binding are theirs as well.
    t.foreign.bind("interop.textbook", "interop.letters", "failed").await;

    we_come_first::<Textbook>(t, textbook_queues, "interop.letters").await;
}

async fn textbook_dead_letters_that_they_declared(t: &Setting) {
    for queue in textbook_queues(INTEGERS[0]) {
        t.foreign.declare(&queue).await.unwrap();
    }
    t.foreign.bind("interop.textbook", "interop.letters", "failed").await;

    they_come_first::<Textbook>(t, textbook_queues, "interop.letters").await;
}

async fn queue_of_theirs_is_used_as_it_is(t: &Setting) {
    let arguments = vec![("x-max-priority", Argument::Short(7)), ("x-message-ttl", Argument::Short(60_000))];
    t.foreign.declare(&Queue { name: "interop.theirs", arguments }).await.unwrap();

    work::<Theirs>(t, "interop.theirs.dead").await;
}

async fn our_job_is_plain_json_to_anybody(t: &Setting) {
    let id = t.client.enqueue(Classic { order: 7 }).header("tenant", "blue").await.unwrap();

    let job = t.foreign.get("interop.classic").await.expect("a job");

    assert_eq!(job.body, br#"{"order":7}"#);
    assert_eq!((job.task.as_deref(), job.id.as_deref()), (Some("classic"), Some(id.as_str())));
    assert_eq!((job.delivery_mode, job.text("tenant")), (Some(2), Some("blue")));
}
