//! The examples on queues that others have declared, argument for argument as a Pika program does it.

use crate::example;
use crate::support::foreign::{Argument, Message, Queue};
use crate::support::program::Program;
use crate::support::{Leftovers, Setting};

const LEFTOVERS: Leftovers = example::LEFTOVERS;

on_each_shared_broker!(
    work_queue_works_what_others_publish_to_their_queue,
    dead_letters_shares_the_textbook_queues,
    worker_whose_queue_contradicts_the_broker_exits_78,
);

async fn work_queue_works_what_others_publish_to_their_queue(t: &Setting) {
    t.foreign.declare(&Queue { name: "task_queue", arguments: vec![] }).await.unwrap();
    let task = r#"{"task_id": 3, "payload": "by hand", "priority": 1}"#;
    t.foreign.send("task_queue", Message::bare(task)).await;

    let mut worker = Program::start("work_queue work", &t.url);
    let lines = worker.wait_for("Task 3 complete").await;

    assert_eq!(lines[1..], ["Task 3 begins: by hand, priority 1", "Task 3 complete"]);
    worker.terminate().await.assert_clean();
}

async fn dead_letters_shares_the_textbook_queues(t: &Setting) {
    let work = vec![
        ("x-dead-letter-exchange", Argument::Text("dlx")),
        ("x-dead-letter-routing-key", Argument::Text("failed")),
        ("x-message-ttl", Argument::Short(3_600_000)),
        ("x-max-length", Argument::Short(100_000)),
    ];
    let dead = vec![("x-message-ttl", Argument::Short(604_800_000))];
    t.foreign.declare(&Queue { name: "orders.processing", arguments: work }).await.unwrap();
    t.foreign.declare(&Queue { name: "dead.letters", arguments: dead }).await.unwrap();
    t.foreign.bind("dlx", "dead.letters", "failed").await;
    for order in ["garbage", r#"{"order": 9, "cents": 900}"#, r#"{"order": 1, "cents": 100}"#] {
        t.foreign.send("orders.processing", Message::bare(order)).await;
    }

    let mut worker = Program::start("dead_letters work", &t.url);
    worker.wait_for("order 1: charged 100 cents").await;
    worker.terminate().await.assert_clean();

    let letters =
        [t.foreign.get("dead.letters").await.unwrap(), t.foreign.get("dead.letters").await.unwrap()];
    assert_eq!(letters[0].text("q-error-kind"), Some("bad-message"));
    assert_eq!(letters[1].text("q-error"), Some("order 9 has no card"));
}

async fn worker_whose_queue_contradicts_the_broker_exits_78(t: &Setting) {
    t.foreign.declare(&Queue { name: "example.mails", arguments: vec![] }).await.unwrap();

    let ended = Program::run("worker", &t.url).await;

    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("queue `example.mails` exists with"), "{}", ended.stderr);
}
