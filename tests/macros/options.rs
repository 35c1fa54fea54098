//! Every option arrives where it belongs.

use std::time::Duration;

use leveret::__private::{
    Backoff, Declare, Overflow, QueueSpec, QueueType, Runnable, TaskOptions, subscription,
};
use leveret::{Event, Format, Task, subscriber, task};
use serde::{Deserialize, Serialize};

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
        prefetch = 8,
        crash_limit = 100
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
        .prefetch(8)
        .crash_limit(100);
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

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "seen", kind = "topic", key = "seen.{what}")]
struct Seen {
    what: String,
}

#[test]
fn subscriber_takes_ten_events_at_once_or_as_many_as_it_runs() {
    #[subscriber(queue = "plain")]
    async fn plain(_event: Seen) {}
    #[subscriber(queue = "few", concurrency = 4)]
    async fn few(_event: Seen) {}
    #[subscriber(queue = "many", concurrency = 20)]
    async fn many(_event: Seen) {}
    #[subscriber(queue = "one", prefetch = 1)]
    async fn one(_event: Seen) {}

    let bound = |name: &'static str| QueueSpec::new(name).subscribe(subscription::<Seen>(None, None));
    assert_eq!(*(Plain::registration().queue)(), bound("plain").prefetch(10));
    assert_eq!(*(Few::registration().queue)(), bound("few").concurrency(4).prefetch(10));
    assert_eq!(*(Many::registration().queue)(), bound("many").concurrency(20).prefetch(20));
    assert_eq!(*(One::registration().queue)(), bound("one").prefetch(1));
    assert_eq!(*(Plain::registration().options)(), TaskOptions::default());
}

#[test]
fn subscriber_has_the_options_of_a_task_and_its_bindings() {
    #[subscriber(
        queue = "full",
        name = "other.name",
        binding = "seen.a",
        binding = "#.b",
        bindings = "exact",
        dlx = "dlx",
        dead_letter_queue = "dead.letters",
        dead_letter_key = "failed",
        dead_letter_ttl = "7d",
        queue_type = "classic",
        ttl = "1h",
        max_length = 10,
        overflow = "reject",
        max_priority = 3,
        declare = "active",
        prefetch = 3,
        crash_limit = 1,
        retries = 2,
        backoff = fixed("2s"),
        timeout = "5s"
    )]
    async fn full(_event: Seen) {}

    let expected = QueueSpec::new("full")
        .subscribe(subscription::<Seen>(None, None).key("seen.a").key("#.b").exact())
        .dlx("dlx")
        .dead_letter_queue("dead.letters")
        .dead_letter_key("failed")
        .dead_letter_ttl(7 * DAY)
        .queue_type(QueueType::Classic)
        .ttl(3600 * S)
        .max_length(10)
        .overflow(Overflow::Reject)
        .max_priority(3)
        .prefetch(3)
        .crash_limit(1);
    let registration = Full::registration();
    assert_eq!(registration.name, "other.name");
    assert_eq!(*(registration.queue)(), expected);
    let options = defaults_but(|options| {
        options.retry.retries = 2;
        options.retry.backoff = Backoff::Fixed(2 * S);
        options.timeout = Some(5 * S);
    });
    assert_eq!(*(registration.options)(), options);
}
