//! Every option arrives where it belongs.

use std::time::Duration;

use leveret::__private::{Backoff, Declare, Overflow, QueueSpec, QueueType, TaskOptions};
use leveret::{Format, Task, task};

const S: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// What the options of a task are, but for what `change` changes.
fn defaults_but(change: impl FnOnce(&mut TaskOptions)) -> TaskOptions {
    let mut options = TaskOptions::default();
    change(&mut options);
    options
}

#[test]
fn defaults_are_the_queues_and_the_tasks_own() {
    #[task(queue = "plain")]
    async fn plain() {}

    assert_eq!(Plain::NAME, "plain");
    assert_eq!(*Plain::queue(), QueueSpec::new("plain"));
    assert_eq!(*Plain::options(), TaskOptions::default());
}

#[test]
fn queue_options_describe_the_queue() {
    #[task(
        queue = "orders.processing",
        dlx = "dlx",
        dead_letter_queue = "dead.letters",
        dead_letter_key = "failed",
        dead_letter_ttl = "7d",
        queue_type = "classic",
        ttl = "1h",
        max_length = 100_000,
        overflow = "dead-letter",
        max_priority = 10,
        concurrency = 4,
        prefetch = 8
    )]
    async fn process() {}

    let expected = QueueSpec::new("orders.processing")
        .dlx("dlx")
        .dead_letter_queue("dead.letters")
        .dead_letter_key("failed")
        .dead_letter_ttl(7 * DAY)
        .queue_type(QueueType::Classic)
        .ttl(3600 * S)
        .max_length(100_000)
        .overflow(Overflow::DeadLetter)
        .max_priority(10)
        .concurrency(4)
        .prefetch(8);
    assert_eq!(*Process::queue(), expected);
}

#[test]
fn words_of_queue_options_are_told_apart() {
    #[task(queue = "theirs", declare = "passive", queue_type = "quorum")]
    async fn theirs() {}
    #[task(queue = "ours", declare = "active", dlx = none, max_length = 1, overflow = "reject")]
    async fn ours() {}

    assert_eq!(*Theirs::queue(), QueueSpec::new("theirs").declare(Declare::Passive));
    assert_eq!(*Ours::queue(), QueueSpec::new("ours").no_dlx().max_length(1).overflow(Overflow::Reject));
}

#[test]
fn task_options_say_how_jobs_run() {
    #[task(queue = "q", name = "other.name", payload = Renamed, retries = 0, timeout = "1m30s", priority = 7, default)]
    async fn named() {}
    #[task(queue = "q", timeout = none)]
    async fn unlimited() {}
    #[task(queue = "q", format = "msgpack")]
    async fn packed() {}
    #[task(queue = "q", format = "json")]
    async fn plain() {}

    assert_eq!(Renamed::NAME, "other.name");
    let expected = defaults_but(|options| {
        options.retry.retries = 0;
        options.timeout = Some(90 * S);
        options.priority = Some(7);
        options.is_default = true;
    });
    assert_eq!(*Renamed::options(), expected);
    assert_eq!(*Packed::options(), defaults_but(|options| options.format = Format::MessagePack));
    assert_eq!(*Plain::options(), TaskOptions::default());
    assert_eq!(*Unlimited::options(), defaults_but(|options| options.timeout = None));
}

#[test]
fn backoff_is_exponential_or_fixed() {
    #[task(queue = "q", backoff = "20ms")]
    async fn short() {}
    #[task(queue = "q", backoff = exponential("1s", max = "1h"))]
    async fn capped() {}
    #[task(queue = "q", backoff = exponential("2s"))]
    async fn uncapped() {}
    #[task(queue = "q", backoff = fixed("0s"))]
    async fn at_once() {}

    let backoff = |options: &TaskOptions| options.retry.backoff;
    assert_eq!(backoff(Short::options()), Backoff::Exponential { base: S / 50, cap: 600 * S });
    assert_eq!(backoff(Capped::options()), Backoff::Exponential { base: S, cap: 3600 * S });
    assert_eq!(backoff(Uncapped::options()), Backoff::exponential(2 * S));
    assert_eq!(backoff(AtOnce::options()), Backoff::Fixed(Duration::ZERO));
}
