//! The client: what `enqueue` and its like promise on every broker.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use leveret::{EnqueueError, ErrorKind, Job, Properties, PublishError, Task};
use queue_core::broker::{ConsumeOptions, Consumer, Publish};
use queue_core::envelope::{Envelope, HeaderValue, header};
use queue_core::format::Format;
use queue_core::settlement::{Reason, ReasonKind, Settlement, dead_copy};
use queue_core::task::TaskOptions;
use queue_core::topology::{QueueDecl, QueueSpec, QueueType, Topology};
use serde::{Deserialize, Serialize};

use crate::support::fixture::unique;
use crate::support::{Fixture, next, take, text, until_ready};

/// A task with a queue of its own. By hand: the contract is about brokers, not about `#[task]`.
macro_rules! task {
    ($name:ident, $spec:expr) => {
        task!($name, $spec, TaskOptions::default());
    };
    ($name:ident, $spec:expr, $options:expr) => {
        #[derive(Debug, Clone, Serialize, Deserialize)]
        struct $name {
            n: u32,
        }

        impl Task for $name {
            const NAME: &'static str = stringify!($name);
            type Output = ();

            fn queue() -> &'static QueueSpec {
                static SPEC: OnceLock<QueueSpec> = OnceLock::new();
                SPEC.get_or_init(|| {
                    $spec(QueueSpec::new(unique(concat!("contract.client.", stringify!($name)))))
                })
            }

            fn options() -> &'static TaskOptions {
                static OPTIONS: OnceLock<TaskOptions> = OnceLock::new();
                OPTIONS.get_or_init(|| $options)
            }
        }
    };
}

/// Consumes a task's queue, which `enqueue` has declared.
async fn consume<T: Task>(t: &Fixture) -> Consumer {
    t.consume_with(ConsumeOptions::new(T::queue().name().clone()).prefetch(10)).await
}

/// Has the queue deleted at the end. The client declares it itself.
fn delete_later<T: Task>(t: &Fixture) {
    t.delete_later(&T::queue().topology(t.client.namespace()).expect("a possible queue"));
}

pub(crate) async fn enqueue_declares_the_queue_and_sends_plain_json(t: &Fixture) {
    task!(First, |spec| spec);
    delete_later::<First>(t);
    let before = SystemTime::now() - Duration::from_secs(1);

    let id = t.client.enqueue(First { n: 7 }).header("tenant", "blue").priority(2).await.unwrap();
    let delivery = next(&mut consume::<First>(t).await).await;

    let job = &delivery.envelope;
    assert_eq!(text(&delivery), r#"{"n":7}"#);
    assert_eq!((&job.id, job.task.as_deref()), (id.id(), Some("First")));
    assert_eq!(job.content_type.as_deref(), Some("application/json"));
    assert_eq!((job.attempt, job.priority), (1, Some(2)));
    assert_eq!(job.headers.get("tenant"), Some(&HeaderValue::from("blue")));
    assert!(job.enqueued_at.is_some_and(|at| (before..=SystemTime::now()).contains(&at)), "{job:?}");
    // Its dead-letter queue is there before the first failure.
    t.broker.operator().unwrap().inspect(&First::queue().dead_queue().unwrap()).await.unwrap();
}

pub(crate) async fn job_carries_its_format_and_version_through_a_delay(t: &Fixture) {
    task!(Packed, |spec| spec, {
        let mut options = TaskOptions::default();
        options.format = Format::Cbor;
        options.version = 2;
        options
    });
    delete_later::<Packed>(t);

    t.client.enqueue(Packed { n: 7 }).header("tenant", "blue").await.unwrap();
    t.client.enqueue(Packed { n: 7 }).delay(Duration::from_millis(150)).await.unwrap();
    assert!(t.client.enqueue_all([Packed { n: 7 }]).await.iter().all(Result::is_ok));
    let mut consumer = consume::<Packed>(t).await;

    for _ in 0..3 {
        let delivery = next(&mut consumer).await;
        let job = &delivery.envelope;
        assert_eq!(job.content_type.as_deref(), Some("application/cbor"));
        assert_eq!(&*job.payload, b"\xa1\x61n\x07");
        assert_eq!(job.headers.get(header::VERSION), Some(&HeaderValue::from(2_i64)));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
}

pub(crate) async fn delayed_enqueue_declares_the_queue_too(t: &Fixture) {
    task!(Later, |spec| spec);
    delete_later::<Later>(t);
    let due = SystemTime::now() + Duration::from_millis(300);

    let at = t.client.enqueue(Later { n: 1 }).at(due).await.unwrap();
    let mut consumer = consume::<Later>(t).await;
    let first = next(&mut consumer).await;

    assert!(SystemTime::now() >= due);
    assert_eq!(first.envelope.id, at);
    let delayed = SystemTime::now();
    let after = t.client.enqueue(Later { n: 2 }).delay(Duration::from_millis(200)).await.unwrap();
    // At least once: all tests share one ladder, and any of their routers may have moved the first.
    let mut second = next(&mut consumer).await;
    while second.envelope.id == at {
        second.settle(Settlement::Ack).await.unwrap();
        second = next(&mut consumer).await;
    }
    assert!(SystemTime::now() >= delayed + Duration::from_millis(200));
    assert_eq!(second.envelope.id, after);
}

pub(crate) async fn job_brings_its_options_to_the_client_that_enqueues_it(t: &Fixture) {
    task!(Optioned, |spec| spec);
    delete_later::<Optioned>(t);
    let due = SystemTime::now() + Duration::from_millis(300);
    let job = Job::new(Optioned { n: 1 }).at(due).priority(2).id("optioned").header("tenant", "blue");

    let enqueued = t.client.enqueue(job).header("region", "north").priority(3).await.unwrap();
    let delivery = next(&mut consume::<Optioned>(t).await).await;

    let job = &delivery.envelope;
    assert!(SystemTime::now() >= due);
    assert_eq!((enqueued.as_str(), job.id.as_str(), job.priority), ("optioned", "optioned", Some(3)));
    assert_eq!(job.headers.get("tenant"), Some(&"blue".into()));
    assert_eq!(job.headers.get("region"), Some(&"north".into()));
}

pub(crate) async fn enqueue_all_takes_jobs_with_options(t: &Fixture) {
    task!(Each, |spec| spec);
    delete_later::<Each>(t);
    let due = SystemTime::now() + Duration::from_millis(400);
    let jobs = [
        Job::new(Each { n: 0 }).at(due).id("last"),
        Job::new(Each { n: 1 }).id("first").header("tenant", "blue").priority(1),
        Job::new(Each { n: 2 }),
    ];

    let enqueued = t.client.enqueue_all(jobs).await.all_ok().unwrap();

    let mut consumer = consume::<Each>(t).await;
    let mut left = vec![0, 1, 2];
    while !left.is_empty() {
        let delivery = next(&mut consumer).await;
        let job = &delivery.envelope;
        let n = enqueued.iter().position(|enqueued| job.id == *enqueued).expect("one of the three");
        assert_eq!(text(&delivery), format!(r#"{{"n":{n}}}"#));
        assert_eq!(job.headers.get("tenant"), (n == 1).then_some(&"blue".into()));
        assert_eq!(job.priority, (n == 1).then_some(1));
        let is_numbered = job.headers.get(header::SERIAL).is_some();
        assert_eq!(is_numbered, n != 2, "only a chosen id may be that of two jobs: {job:?}");
        assert!(n != 0 || SystemTime::now() >= due);
        left.retain(|&waits| waits != n);
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    assert_eq!((enqueued[1].as_str(), enqueued[0].as_str()), ("first", "last"));
}

pub(crate) async fn enqueue_all_keeps_the_options_of_what_it_publishes_again(t: &Fixture) {
    task!(Again, |spec| spec);
    delete_later::<Again>(t);
    let operator = t.other_client().await;
    t.client.enqueue(Again { n: 0 }).await.unwrap();
    operator.operator().unwrap().delete(Again::queue().name()).await.unwrap();

    let jobs = [Job::new(Again { n: 1 }).id("one").header("tenant", "blue").priority(1)];
    t.client.enqueue_all(jobs).await.all_ok().unwrap();

    let delivery = next(&mut consume::<Again>(t).await).await;
    let job = &delivery.envelope;
    assert_eq!((text(&delivery).as_str(), job.id.as_str(), job.priority), (r#"{"n":1}"#, "one", Some(1)));
    assert_eq!(job.headers.get("tenant"), Some(&"blue".into()));
}

pub(crate) async fn enqueue_works_again_after_the_queue_was_deleted(t: &Fixture) {
    task!(Deleted, |spec| spec);
    delete_later::<Deleted>(t);
    let operator = t.other_client().await;
    t.client.enqueue(Deleted { n: 1 }).await.unwrap();

    operator.operator().unwrap().delete(Deleted::queue().name()).await.unwrap();
    t.client.enqueue(Deleted { n: 2 }).await.unwrap();

    assert_eq!(take(&mut consume::<Deleted>(t).await, 1).await, [r#"{"n":2}"#]);
}

pub(crate) async fn enqueue_all_works_again_after_the_queue_was_deleted(t: &Fixture) {
    task!(DeletedAll, |spec| spec);
    delete_later::<DeletedAll>(t);
    let operator = t.other_client().await;
    t.client.enqueue(DeletedAll { n: 0 }).await.unwrap();

    operator.operator().unwrap().delete(DeletedAll::queue().name()).await.unwrap();
    let enqueued = t.client.enqueue_all((1..4).map(|n| DeletedAll { n })).await.all_ok().unwrap();

    let mut consumer = consume::<DeletedAll>(t).await;
    for (n, enqueued) in (1..4).zip(enqueued) {
        let delivery = next(&mut consumer).await;
        assert_eq!((text(&delivery), &delivery.envelope.id), (format!(r#"{{"n":{n}}}"#), enqueued.id()));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
}

pub(crate) async fn enqueue_all_reports_each_job(t: &Fixture) {
    #[derive(Debug, Deserialize)]
    struct Picky(u32);
    impl Serialize for Picky {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if self.0 % 10 == 3 {
                return Err(serde::ser::Error::custom("three is not to be had"));
            }
            self.0.serialize(serializer)
        }
    }
    impl Task for Picky {
        const NAME: &'static str = "picky";
        type Output = ();
        fn queue() -> &'static QueueSpec {
            static SPEC: OnceLock<QueueSpec> = OnceLock::new();
            SPEC.get_or_init(|| QueueSpec::new(unique("contract.client.picky")))
        }
        fn options() -> &'static TaskOptions {
            static OPTIONS: OnceLock<TaskOptions> = OnceLock::new();
            OPTIONS.get_or_init(TaskOptions::default)
        }
    }
    delete_later::<Picky>(t);

    let results = t.client.enqueue_all((0..50).map(Picky)).await;

    assert_eq!(results.len(), 50);
    let mut consumer = consume::<Picky>(t).await;
    for (n, result) in results.into_iter().enumerate() {
        if n % 10 == 3 {
            assert!(matches!(result, Err(EnqueueError::Encode { task: "picky", .. })), "{result:?}");
            continue;
        }
        let delivery = next(&mut consumer).await;
        assert_eq!((text(&delivery), &delivery.envelope.id), (n.to_string(), result.unwrap().id()));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
}

pub(crate) async fn full_queue_is_named(t: &Fixture) {
    task!(Full, |spec: QueueSpec| spec.max_length(2));
    delete_later::<Full>(t);

    let refused = loop_until_refused(t).await;
    let batch = t.client.enqueue_all((0..3).map(|n| Full { n })).await;

    for error in refused.into_iter().chain(batch.into_iter().filter_map(Result::err)) {
        assert!(
            matches!(&error, EnqueueError::QueueFull { queue } if queue == Full::queue().name()),
            "{error:?}"
        );
        assert!(error.to_string().ends_with("is full: try later, or raise its `max_length`"), "{error}");
    }

    async fn loop_until_refused(t: &Fixture) -> Option<EnqueueError> {
        for n in 0..200 {
            if let Err(error) = t.client.enqueue(Full { n }).await {
                return Some(error);
            }
        }
        panic!("200 jobs were taken at a limit of 2");
    }
}

pub(crate) async fn dead_letters_of_a_task_are_those_of_its_queue(t: &Fixture) {
    task!(Doomed, |spec| spec);
    task!(Dropped, |spec: QueueSpec| spec.no_dlx());
    delete_later::<Doomed>(t);
    let none_yet = t.client.admin().dead_letters_of::<Doomed>(10).await;
    t.client.enqueue(Doomed { n: 7 }).await.unwrap();
    let route = Doomed::queue().dead_letter_route(t.client.namespace());
    let options = ConsumeOptions::new(Doomed::queue().name().clone()).dead_letter(route);
    let reason = Reason::new(ReasonKind::Failed, "no luck");
    let delivery = next(&mut t.consume_with(options).await).await;
    delivery.settle(Settlement::DeadLetter { reason }).await.unwrap();

    let letters = t.client.admin().dead_letters_of::<Doomed>(10).await.unwrap();

    assert!(none_yet.is_ok_and(|letters| letters.is_empty()));
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].error.as_deref(), Some("no luck"));
    assert!(t.client.admin().dead_letters_of::<Dropped>(10).await.unwrap().is_empty());
}

/// Letters of other tasks, which share the queue, stay; those of a former name are its own.
pub(crate) async fn replay_of_a_task_leaves_the_letters_of_others(t: &Fixture) {
    fn renamed() -> TaskOptions {
        let mut options = TaskOptions::default();
        options.aliases = &["former"];
        options
    }
    task!(Reborn, |spec| spec, renamed());
    task!(Lost, |spec: QueueSpec| spec.no_dlx());
    delete_later::<Reborn>(t);
    t.client.declare_queue(Reborn::queue()).await.unwrap();
    let dead = Reborn::queue().dead_queue().unwrap();
    let reason = Reason::new(ReasonKind::Failed, "no luck");
    for task in [Some("Reborn"), Some("other"), Some("former"), None] {
        let mut job = Envelope::new(task.unwrap_or("nameless"));
        job.task = task.map(str::to_owned);
        let letter = dead_copy(job, Reborn::queue().name(), &reason, SystemTime::now());
        t.broker.publish(Publish::to_queue(dead.clone(), letter)).await.unwrap();
    }

    let replayed = t.client.admin().replay_of::<Reborn>(10, |_| true).await.unwrap();

    assert_eq!(replayed, 2);
    assert_eq!(take(&mut consume::<Reborn>(t).await, 2).await, ["Reborn", "former"]);
    until_ready(&*t.broker, &dead, 2).await;
    assert_eq!(t.client.admin().replay_of::<Lost>(10, |_| true).await.unwrap(), 0);
}

pub(crate) async fn replay_of_what_is_no_dead_letter_names_its_queue(t: &Fixture) {
    task!(Live, |spec| spec);
    delete_later::<Live>(t);
    t.client.enqueue(Live { n: 1 }).await.unwrap();
    let queue = Live::queue().name();

    let refused = t.client.admin().replay(queue, 10, |_| true).await.unwrap_err();

    assert!(refused.to_string().contains(&format!("is `{queue}` a dead-letter queue?")), "{refused}");
    until_ready(&*t.broker, queue, 1).await;
    let missing = t.client.admin().dead_letters("contract.absent", 10).await.unwrap_err();
    assert!(
        missing.to_string().contains("queue `contract.absent` does not exist: check the name"),
        "{missing}"
    );
}

pub(crate) async fn longest_publish_timeout_is_taken(t: &Fixture) {
    task!(Patient, |spec| spec);
    delete_later::<Patient>(t);
    let client = t.other_client_with(|builder| builder.publish_timeout(Duration::MAX)).await;

    client.enqueue(Patient { n: 1 }).await.unwrap();
    let batch = client.enqueue_all([Patient { n: 2 }]).await;
    client.enqueue(Patient { n: 3 }).delay(Duration::from_millis(1)).await.unwrap();

    assert!(matches!(batch[..], [Ok(_)]), "{batch:?}");
    until_ready(&*t.broker, Patient::queue().name(), 3).await;
}

pub(crate) async fn two_enqueued_jobs_of_one_id_are_two_jobs(t: &Fixture) {
    task!(Twins, |spec| spec);
    delete_later::<Twins>(t);

    t.client.enqueue(Twins { n: 1 }).id("twin").await.unwrap();
    t.client.enqueue(Twins { n: 2 }).id("twin").await.unwrap();
    let mut consumer = consume::<Twins>(t).await;

    for n in 1..=2 {
        let delivery = next(&mut consumer).await;
        assert_eq!((text(&delivery), delivery.envelope.id.as_str()), (format!(r#"{{"n":{n}}}"#), "twin"));
    }
}

pub(crate) async fn depth_counts_the_jobs_of_a_task(t: &Fixture) {
    task!(Deep, |spec| spec);
    delete_later::<Deep>(t);

    let empty = t.client.depth::<Deep>().await.unwrap();
    t.client.enqueue_all((0..25).map(|n| Deep { n })).await.all_ok().unwrap();
    let full = t.client.depth::<Deep>().await.unwrap();

    assert_eq!((empty.ready, full.ready), (0, 25));
}

pub(crate) async fn twenty_megabytes_are_refused_before_they_are_sent(t: &Fixture) {
    #[derive(Debug, Serialize, Deserialize)]
    struct Video(String);
    impl Task for Video {
        const NAME: &'static str = "video";
        type Output = ();
        fn queue() -> &'static QueueSpec {
            static SPEC: OnceLock<QueueSpec> = OnceLock::new();
            SPEC.get_or_init(|| {
                QueueSpec::new(unique("contract.client.video")).queue_type(QueueType::Classic)
            })
        }
        fn options() -> &'static TaskOptions {
            static OPTIONS: OnceLock<TaskOptions> = OnceLock::new();
            OPTIONS.get_or_init(TaskOptions::default)
        }
    }
    delete_later::<Video>(t);

    let huge = t.client.enqueue(Video("x".repeat(20_000_000))).await.unwrap_err();
    let batch = t.client.enqueue_all([Video("small".into()), Video("x".repeat(20_000_000))]).await;
    let mut batch: Vec<_> = batch.into_iter().collect();

    let limit = 16 * 1024 * 1024;
    for error in [huge, batch.remove(1).unwrap_err()] {
        assert!(
            matches!(error, EnqueueError::Publish(PublishError::TooLarge { size: 20_000_002, limit: l }) if l == limit),
            "{error:?}"
        );
    }
    batch.remove(0).unwrap();
    assert_eq!(take(&mut consume::<Video>(t).await, 1).await, [r#""small""#]);
}

pub(crate) async fn names_that_amqp_cannot_carry_are_refused(t: &Fixture) {
    task!(Named, |spec| spec);
    delete_later::<Named>(t);
    let long = || "x".repeat(256);

    let results = [
        ("id", t.client.enqueue(Named { n: 1 }).id(long()).await),
        ("header name", t.client.enqueue(Named { n: 1 }).header(long(), "value").await),
        ("header of ours", t.client.enqueue(Named { n: 1 }).header("q-attempt", 9_i64).await),
        ("headers", t.client.enqueue(Named { n: 1 }).header("blob", "x".repeat(40_000)).await),
    ];

    for (what, result) in results {
        let error = result.expect_err(what);
        assert!(matches!(error, EnqueueError::Publish(PublishError::Invalid(_))), "{what}: {error:?}");
    }
    t.client.enqueue(Named { n: 2 }).await.unwrap();
    assert_eq!(take(&mut consume::<Named>(t).await, 1).await, [r#"{"n":2}"#]);
}

pub(crate) async fn queue_with_other_arguments_is_an_error_at_enqueue(t: &Fixture) {
    task!(Conflict, |spec: QueueSpec| spec.max_length(10));
    delete_later::<Conflict>(t);
    let name = Conflict::queue().name().clone();
    t.declare(&Topology::new().queue(QueueDecl::new(name.clone()))).await;

    let one = t.client.enqueue(Conflict { n: 1 }).await.unwrap_err();
    let all = t.client.enqueue_all([Conflict { n: 1 }, Conflict { n: 2 }]).await;

    assert_eq!(all.len(), 2);
    for error in all.into_iter().map(Result::unwrap_err).chain([one]) {
        match error {
            EnqueueError::Declare { queue, source } => {
                assert_eq!((queue.as_str(), source.kind()), (name.as_ref(), ErrorKind::Topology));
                assert!(source.to_string().contains(name.as_ref()), "{source}");
            }
            other => panic!("{other:?}"),
        }
    }
    until_ready(&*t.broker, &name, 0).await;
}

pub(crate) async fn closed_client_refuses_to_enqueue(t: &Fixture) {
    task!(Closed, |spec| spec);
    delete_later::<Closed>(t);
    t.client.enqueue(Closed { n: 1 }).await.unwrap();

    t.client.clone().close().await;

    let one = t.client.enqueue(Closed { n: 2 }).await;
    assert!(matches!(one, Err(EnqueueError::Publish(PublishError::Closed))), "{one:?}");
    let all = t.client.enqueue_all([Closed { n: 3 }]).await;
    assert!(matches!(all[..], [Err(EnqueueError::Publish(PublishError::Closed))]), "{all:?}");
    assert_eq!(t.client.depth::<Closed>().await.unwrap_err().kind(), ErrorKind::Closed);
}

/// Many tasks of a web server enqueue by one client.
pub(crate) async fn clones_enqueue_side_by_side(t: &Fixture) {
    task!(Crowd, |spec| spec);
    delete_later::<Crowd>(t);

    let enqueuing: Vec<_> = (0..100)
        .map(|n| {
            let client = t.client.clone();
            tokio::spawn(async move { client.enqueue(Crowd { n }).await })
        })
        .collect();
    let mut ids = std::collections::HashSet::new();
    for enqueued in enqueuing {
        ids.insert(enqueued.await.unwrap().unwrap());
    }

    assert_eq!(ids.len(), 100);
    assert_eq!(t.client.depth::<Crowd>().await.unwrap().ready, 100);
}

pub(crate) async fn raw_message_by_the_default_exchange_must_reach_its_queue(t: &Fixture) {
    let missing = t.name("missing");
    let raw =
        |exchange: &'static str| t.client.publish_raw(exchange, missing.clone(), "x", Properties::new());

    let refused = raw("").await;

    let Err(PublishError::Unroutable { exchange, routing_key }) = refused else { panic!("{refused:?}") };
    assert_eq!((exchange, routing_key), (String::new(), missing.to_string()));
    raw("").allow_unroutable().await.unwrap();
    raw("amq.direct").await.unwrap();
    let refused = raw("amq.direct").must_route().await;
    assert!(matches!(refused, Err(PublishError::Unroutable { .. })), "{refused:?}");
}
