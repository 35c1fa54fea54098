//! A worker that contradicts what is on the broker does not start, and says what, which value, and what to do.

use leveret::{Error, ErrorKind, Task as _, Worker, error_chain, task};

use crate::support::foreign::{Argument, Message, Queue};
use crate::support::{Leftovers, Setting};

const LEFTOVERS: Leftovers = Leftovers {
    queues: &[
        "interop.conflict",
        "interop.conflict.dead",
        "interop.absent",
        "interop.absent.dead",
        "interop.bystander",
        "interop.bystander.dead",
    ],
    exchanges: &[],
};

on_each_broker!(
    queue_that_exists_with_other_arguments,
    queue_that_exists_with_another_value,
    dead_letter_queue_that_exists_with_other_arguments,
    passive_queue_that_is_missing,
    worker_that_cannot_start_has_run_nothing,
);

#[task(queue = "interop.conflict", queue_type = "classic", ttl = "1h")]
async fn conflicts() {}

#[task(queue = "interop.absent", declare = "passive")]
async fn passive() {}

#[task(queue = "interop.bystander")]
async fn bystander() {}

async fn refusal(worker: Worker) -> Error {
    worker.signals(false).run().await.expect_err("the worker started")
}

/// Why a worker does not start when the other program has declared `queue` with `arguments`.
async fn conflict(t: &Setting, queue: &'static str, arguments: Vec<(&'static str, Argument)>) -> String {
    t.foreign.declare(&Queue { name: queue, arguments }).await.unwrap();

    let error = refusal(Worker::new(&t.client).task::<Conflicts>()).await;

    assert_eq!(error.kind(), ErrorKind::Topology, "{error:?}");
    error_chain(&error)
}

const REMEDY: &str = "a queue's arguments cannot be changed: set a policy on the broker, take a new queue name, drain \
                      and delete the queue, or use it as it is (`declare = \"passive\"`)";

async fn queue_that_exists_with_other_arguments(t: &Setting) {
    let words = conflict(t, "interop.conflict", vec![]).await;

    let expected =
        "queue `interop.conflict` exists with `x-message-ttl` = none, but is declared with 3600000;";
    assert!(words.starts_with(expected), "{words}");
    assert!(words.contains(REMEDY), "{words}");
}

async fn queue_that_exists_with_another_value(t: &Setting) {
    let words = conflict(t, "interop.conflict", vec![("x-message-ttl", Argument::Short(1000))]).await;

    let expected =
        "queue `interop.conflict` exists with `x-message-ttl` = 1000, but is declared with 3600000;";
    assert!(words.starts_with(expected), "{words}");
    assert!(words.contains(REMEDY), "{words}");
}

async fn dead_letter_queue_that_exists_with_other_arguments(t: &Setting) {
    let arguments = vec![("x-max-length", Argument::Long(5))];

    let words = conflict(t, "interop.conflict.dead", arguments).await;

    let expected = "queue `interop.conflict.dead` exists with `x-max-length` = 5, but is declared with none;";
    assert!(words.starts_with(expected), "{words}");
}

async fn passive_queue_that_is_missing(t: &Setting) {
    let error = refusal(Worker::new(&t.client).task::<Passive>()).await;

    assert_eq!(error.kind(), ErrorKind::Topology, "{error:?}");
    let words = error.to_string();
    assert!(
        words.starts_with("queue `interop.absent` does not exist: check the name; its worker creates it"),
        "{words}"
    );
}

/// Queues are declared in the order of their names, and the one in conflict comes second.
async fn worker_that_cannot_start_has_run_nothing(t: &Setting) {
    t.client.declare_queue(Bystander::queue()).await.unwrap();
    t.foreign.send("interop.bystander", Message::bare("{}")).await;
    t.foreign.declare(&Queue { name: "interop.conflict", arguments: vec![] }).await.unwrap();

    let error = refusal(Worker::new(&t.client).task::<Bystander>().task::<Conflicts>()).await;

    assert!(error.to_string().contains("interop.conflict"), "{error}");
    assert!(t.foreign.get("interop.bystander").await.is_some(), "its job is gone");
}
