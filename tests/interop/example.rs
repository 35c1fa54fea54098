//! The examples on every broker: what they print, and how they stop.

use crate::support::foreign::Message;
use crate::support::place::Place;
use crate::support::program::Program;
use crate::support::{Leftovers, Setting};

pub(crate) const LEFTOVERS: Leftovers = Leftovers {
    queues: &[
        "emails",
        "emails.dead",
        "task_queue",
        "task_queue.dead",
        "orders.processing",
        "dead.letters",
        "calculator",
        "calculator.dead",
        "example.mails",
        "example.mails.dead",
        "example.sums",
        "example.sums.dead",
    ],
    exchanges: &["emails.dlx", "dlx"],
};

on_each_broker!(
    hello_tells_what_became_of_each_job,
    work_queue_works_what_it_publishes,
    dead_letters_lists_what_failed,
    rpc_answers_and_says_what_is_wrong,
    worker_works_and_stops_on_sigterm,
);

async fn hello_tells_what_became_of_each_job(t: &Setting) {
    let ended = Program::run("hello", &t.url).await;

    ended.assert_clean();
    // In columns.
    let lines: Vec<_> =
        ended.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let count = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    let counts = [
        count("enqueued "),
        count(" reads: hello"),
        count("ada@example.com succeeded at attempt 1"),
        count(": failed: the mail server is busy"),
        count("grace@example.com succeeded at attempt 3"),
        count(
            "nobody@example.com is a dead letter: permanent: there is no such mailbox; it is kept in `emails.dead`",
        ),
    ];
    assert_eq!(counts, [3, 2, 1, 2, 1, 1], "{}", ended.stdout);
    assert_eq!(ended.stdout.lines().last(), Some("2 succeeded, 2 retried, 1 dead, 0 released"));
}

async fn work_queue_works_what_it_publishes(t: &Setting) {
    let published = Program::run("work_queue publish 5", &t.url).await;

    published.assert_clean();
    let mut lines: Vec<_> = published.stdout.lines().map(str::to_owned).collect();
    assert_eq!(lines.remove(0), "published 5 tasks");
    // The memory broker ends with the process, so there they are worked already.
    if t.place != Place::Memory {
        let mut worker = Program::start("work_queue work --concurrency 2", &t.url);
        assert_eq!(worker.wait_for("waiting").await, ["waiting for tasks; Ctrl-C ends"]);
        for _ in 0..5 {
            lines.extend(worker.wait_for(" complete").await);
        }
        worker.terminate().await.assert_clean();
        assert!(t.foreign.get("task_queue").await.is_none(), "a job was not settled");
    }
    lines.retain(|line| line.ends_with(" complete"));
    lines.sort();
    assert_eq!(lines, [1, 2, 3, 4, 5].map(|n| format!("Task {n} complete")));
}

async fn dead_letters_lists_what_failed(t: &Setting) {
    let published = Program::run("dead_letters publish 7", &t.url).await;

    published.assert_clean();
    let mut lists = published;
    if t.place != Place::Memory {
        assert_eq!(lists.stdout, "published 7 orders\n");
        let mut worker = Program::start("dead_letters work", &t.url);
        // The last one: whatever came before it is settled.
        worker.wait_for("order 7: charged 700 cents").await;
        worker.terminate().await.assert_clean();
        lists = Program::run("dead_letters list", &t.url).await;
        lists.assert_clean();
    }

    let list: Vec<_> = lists.stdout.lines().skip_while(|line| !line.starts_with("dead letters: ")).collect();
    let [head, three, six] = list[..] else { panic!("{}", lists.stdout) };
    assert_eq!(head, "dead letters: 2");
    let words = r#"  orders.processing  permanent: order 3 has no card  {"order":3,"cents":300}"#;
    assert!(three.ends_with(words), "{three}");
    let words = r#"  orders.processing  permanent: order 6 has no card  {"order":6,"cents":600}"#;
    assert!(six.ends_with(words), "{six}");
}

async fn rpc_answers_and_says_what_is_wrong(t: &Setting) {
    let both = Program::run("rpc", &t.url).await;

    both.assert_clean();
    assert_eq!(both.stdout, "10 / 4 = 2, rest 2\n7 / 2 = 3, rest 1\n1 / 0: division by zero\n");
    // Nobody can call into the memory of another process.
    if t.place != Place::Memory {
        let mut server = Program::start("rpc serve", &t.url);
        server.wait_for("dividing").await;
        let (answer, error) =
            tokio::join!(Program::run("rpc call 9 2", &t.url), Program::run("rpc call 9 0", &t.url));
        answer.assert_clean();
        assert_eq!(answer.stdout, "9 / 2 = 4, rest 1\n");
        error.assert_clean();
        assert_eq!(error.stdout, "9 / 0: division by zero\n");
        server.terminate().await.assert_clean();
    }
    let alone = Program::run("rpc call 9 2", &t.url).await;
    assert_eq!(alone.code, Some(1), "{}", alone.stdout);
    assert!(alone.stderr.contains("no worker consumes queue `calculator`"), "{}", alone.stderr);
}

async fn worker_works_and_stops_on_sigterm(t: &Setting) {
    let environment =
        [("LEVERET_URL", &*t.url), ("MAIL_FROM", "shop@example.com"), ("LEVERET_QUEUES", "example.mails")];
    let mut worker = Program::start_with("worker", &environment);
    worker.wait_for_log("worker started").await;
    if t.place != Place::Memory {
        t.foreign.send("example.mails", Message::bare(r#"{"to": "ada@example.com", "name": "Ada"}"#)).await;
        worker.wait_for_log(r#"mail sent from="shop@example.com" to="ada@example.com""#).await;
    }

    let ended = worker.terminate().await;

    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("worker stopped"), "{}", ended.stderr);
    assert!(!ended.stderr.contains('\u{1b}'), "colours where there is no terminal: {}", ended.stderr);
}

/// The first one a reader sees, on `memory:` whatever the environment says.
#[tokio::test]
async fn email_works_until_it_is_stopped() {
    let mut email = Program::start("email", "memory:");

    // Beside its log.
    let lines = email.wait_for(" reads: ").await;
    assert_eq!(lines.last().map(String::as_str), Some("ada@example.com reads: hello"));

    email.terminate().await.assert_clean();
}

/// It kills a worker of its own, on a file of its own.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn sqlite_loses_nothing_when_its_worker_is_killed() {
    let ended = Program::run("sqlite", "sqlite:unused.db").await;

    ended.assert_clean();
    let last = ended.stdout.lines().last();
    assert_eq!(last, Some("a second worker did the others: 100 of 100 are done, 0 are lost"));
}

/// Nobody can publish to the memory of another process, and whoever tries it first should be told.
#[tokio::test]
async fn work_on_memory_says_that_nothing_will_come() {
    for words in ["work_queue work", "dead_letters work", "rpc serve"] {
        let mut worker = Program::start(words, "memory:");

        let lines = worker.wait_for("Ctrl-C ends").await;

        let verb = if words == "rpc serve" { "call" } else { "publish to" };
        assert_eq!(
            lines[0],
            format!("`memory:` ends with its process, so nobody can {verb} this one; set LEVERET_URL")
        );
        worker.terminate().await.assert_clean();
    }
}
