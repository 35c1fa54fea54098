//! What the examples say to bad arguments and bad configuration: one line, and an exit code.

use crate::support::program::{Ended, Program};
use crate::support::{Leftovers, Setting};

const LEFTOVERS: Leftovers = Leftovers { queues: &[], exchanges: &[] };

on_each_node!(refused_login_is_one_line);

/// What it says, without the time that stands before a line of a log.
#[track_caller]
fn assert_says(ended: &Ended, code: i32, words: &str) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert_eq!(ended.stdout, "");
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert!(matches!(lines[..], [line] if line.ends_with(words)), "not only `{words}`: {}", ended.stderr);
}

#[tokio::test]
async fn bad_arguments_are_answered_by_the_usage_and_exit_code_2() {
    let usage = "usage: work_queue publish N | work_queue work [--concurrency N]";
    for words in [
        "work_queue",
        "work_queue rest",
        "work_queue publish",
        "work_queue publish many",
        "work_queue publish -1",
        "work_queue work --concurrency 0",
        "work_queue work --concurrency",
        "work_queue work --concurency 2",
    ] {
        assert_says(&Program::run(words, "memory:").await, 2, usage);
    }
    let usage = "usage: dead_letters publish N | dead_letters work | dead_letters list";
    for words in ["dead_letters", "dead_letters publish", "dead_letters publish x", "dead_letters list 3"] {
        assert_says(&Program::run(words, "memory:").await, 2, usage);
    }
}

#[tokio::test]
async fn bad_url_is_one_line_and_exit_code_1() {
    let words = "LEVERET_URL: the broker's URL begins with none of `memory:`, `sqlite:`, `amqp://` and `amqps://`: write \
                 `amqp://guest:guest@localhost:5672/`, `sqlite:jobs.db` or `memory:`";

    assert_says(&Program::run("hello", "localhost").await, 1, &format!("Error: {words}"));
    assert_says(&Program::run("work_queue publish 1", "localhost").await, 1, &format!("work_queue: {words}"));
    assert_says(&Program::run("dead_letters list", "localhost").await, 1, &format!("dead_letters: {words}"));
}

/// A program that does not know its broker must not enqueue into a memory that ends with it.
#[tokio::test]
async fn unset_empty_or_blank_url_is_one_line_and_an_exit_code() {
    let unset = "neither LEVERET_URL nor RABBITMQ_URL is set: set LEVERET_URL to the broker's URL, \
                 `amqp://guest:guest@localhost:5672/` or `sqlite:jobs.db`, or to `memory:`, which keeps nothing";
    let empty = "LEVERET_URL is empty: set it to the broker's URL, or unset it and set RABBITMQ_URL";
    let rabbitmq_empty = "RABBITMQ_URL is empty: set it, or LEVERET_URL, to the broker's URL";

    for (environment, words) in [
        (&[][..], unset),
        (&[("LEVERET_URL", "")], empty),
        (&[("LEVERET_URL", " \t")], empty),
        (&[("LEVERET_URL", ""), ("RABBITMQ_URL", "memory:")], empty),
        (&[("RABBITMQ_URL", " ")], rabbitmq_empty),
    ] {
        let hello = Program::start_with("hello", environment).end().await;
        let worker = Program::start_with("worker", environment).end().await;

        assert_says(&hello, 1, &format!("Error: {words}"));
        assert_says(&worker, 78, words);
    }
    let misspelt = Program::start_with("hello", &[("LEVERET_URI", "memory:")]).end().await;
    let words =
        "Error: neither LEVERET_URL nor RABBITMQ_URL is set, but LEVERET_URI is: did you mean LEVERET_URL?";
    assert_says(&misspelt, 1, words);
}

#[tokio::test]
async fn either_variable_names_the_broker_and_ours_comes_first() {
    for environment in
        [&[("RABBITMQ_URL", "memory:")][..], &[("LEVERET_URL", "memory:"), ("RABBITMQ_URL", "none")]]
    {
        let hello = Program::start_with("hello", environment).end().await;

        assert_eq!(hello.code, Some(0), "{hello:?}");
    }
}

async fn refused_login_is_one_line(t: &Setting) {
    let url = t.url.replace(":guest@", ":wrong@");

    let hello = Program::run("hello", &url).await;
    let worker = Program::run("worker", &url).await;

    assert_eq!((hello.code, worker.code), (Some(1), Some(78)));
    for log in [hello.stderr, worker.stderr] {
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(
            log.contains("refused user `guest` (vhost `/`): check user name and password in the URL"),
            "{log}"
        );
        assert!(!log.contains("wrong"), "the password: {log}");
    }
}

#[tokio::test]
async fn worker_exits_78_on_what_only_a_person_can_mend() {
    let url = |url| [("LEVERET_URL", url)];
    let with = |name, value| [("LEVERET_URL", "memory:"), (name, value)];
    let run = async |environment: &[(&str, &str)]| {
        let ended = Program::start_with("worker", environment).end().await;
        (ended.code, ended.stderr)
    };

    let rabbitmq = match cfg!(feature = "rabbitmq") {
        true => "the URL's option `hartbeat` is unknown",
        false => "built without the `amqp:` broker: enable the feature `rabbitmq` of `leveret`",
    };

    for (environment, words) in [
        (&url("amqp://localhost/?hartbeat=5")[..], rabbitmq),
        (&with("LEVERET_CONCURRENCY", "many"), "LEVERET_CONCURRENCY is `many`: set a number from 1 to 65535"),
        (
            &with("LEVERET_CONCURRENCY", "0"),
            "the concurrency of queue `example.mails` is 0; it must be at least 1",
        ),
        (
            &with("LEVERET_QUEUES", "example.mail"),
            "`.queues(..)` names queue `example.mail`, which no task has; there are `example.mails`, `example.sums`",
        ),
    ] {
        let (code, log) = run(environment).await;

        assert_eq!(code, Some(78), "{log}");
        let errors: Vec<_> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
        assert!(matches!(errors[..], [line] if line.contains(words)), "not `{words}` once: {log}");
    }
}
