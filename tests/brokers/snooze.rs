//! `Snooze`: a job that nobody has tried comes again later, at no cost. And `q-copy`, which tells a job's copies apart.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use queue_core::broker::Publish;
use queue_core::envelope::{Envelope, HeaderValue, Headers, header};
use queue_core::settlement::{Reason, ReasonKind, Settlement};
use queue_core::topology::{QueueDecl, QueueSpec, Topology};

use crate::settle::{dead_letter, retry_at_once};
use crate::support::fixture::message;
use crate::support::{Fixture, next, ready, take, text, until, until_ready};

/// How late a snoozed job may be on a loaded machine.
const LATENESS: Duration = Duration::from_secs(5);

fn until_in(after: Duration) -> (SystemTime, Settlement) {
    let until = SystemTime::now() + after;
    (until, Settlement::Snooze { until })
}

fn snooze_for(after: Duration) -> Settlement {
    until_in(after).1
}

fn copy(envelope: &Envelope) -> Option<i64> {
    envelope.headers.get(header::COPY).and_then(HeaderValue::as_int)
}

pub(crate) async fn snoozed_job_comes_back_not_earlier_and_unchanged(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let mut consumer = t.work(&queue, 1).await;
    let mut job = Envelope::new(r#"{"to":"ada"}"#);
    job.task = Some("send_email".to_owned());
    job.content_type = Some("application/json".to_owned());
    job.content_encoding = Some("utf-8".to_owned());
    job.app_id = Some("billing".to_owned());
    job.cluster_id = Some("west".to_owned());
    job.correlation_id = Some("request 7".to_owned());
    job.reply_to = Some("replies".to_owned());
    job.enqueued_at = Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    job.headers = Headers::from([
        ("tenant", HeaderValue::from("blue")),
        ("weight", 7_i64.into()),
        (header::USER_ID, "ada".into()),
        (header::EXCHANGE, "shop".into()),
        (header::ROUTING_KEY, "order.placed".into()),
        (header::DEADLINE, 4_000_000_000_000_i64.into()),
    ]);
    t.broker.publish(Publish::to_queue(queue.name().clone(), job.clone())).await.unwrap();

    let delivery = next(&mut consumer).await;
    let (until, snooze) = until_in(Duration::from_millis(400));
    delivery.settle(snooze).await.unwrap();
    let again = next(&mut consumer).await;
    let arrived = SystemTime::now();

    assert!(arrived >= until, "came back {:?} early", until.duration_since(arrived));
    assert!(arrived < until + LATENESS, "came back {:?} late", arrived.duration_since(until));
    let got = &again.envelope;
    // Neither an attempt nor a failure; and no trace of a broker, nor of the wait.
    let mut headers = job.headers.clone();
    headers.insert(header::COPY, 1_i64);
    assert_eq!((got.attempt, &got.headers), (1, &headers));
    assert_eq!((&got.id, &got.payload, &got.task), (&job.id, &job.payload, &job.task));
    assert_eq!((&got.content_type, &got.content_encoding), (&job.content_type, &job.content_encoding));
    assert_eq!((&got.app_id, &got.cluster_id), (&job.app_id, &job.cluster_id));
    assert_eq!((&got.reply_to, &got.correlation_id), (&job.reply_to, &job.correlation_id));
    assert_eq!(got.enqueued_at, job.enqueued_at);
    assert_eq!(again.queue, *queue.name());
    assert!(!again.redelivered);
    again.settle(Settlement::Ack).await.unwrap();
    // A consumer with room would swallow what has come back by mistake; behind it comes what is sent now.
    t.send(queue.name(), ["marker"]).await;
    assert_eq!(take(&mut consumer, 1).await, ["marker"]);
}

pub(crate) async fn snooze_keeps_what_an_earlier_failure_left(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    t.send(queue.name(), ["job"]).await;
    let mut consumer = t.work(&queue, 1).await;
    let reason = Reason::new(ReasonKind::Timeout, "not this time");
    let retry = Settlement::Retry { after: Duration::ZERO, attempt: 2, reason };

    next(&mut consumer).await.settle(retry).await.unwrap();
    let failed = next(&mut consumer).await;
    let mut before = failed.envelope.clone();
    failed.settle(snooze_for(Duration::from_millis(150))).await.unwrap();
    let again = next(&mut consumer).await;

    before.headers.insert(header::COPY, 2_i64);
    assert_eq!((again.envelope.attempt, &again.envelope.headers), (2, &before.headers));
    assert_eq!(again.envelope.headers.get(header::ERROR), Some(&"not this time".into()));
    assert_eq!(again.envelope.headers.get(header::ERROR_KIND), Some(&"timeout".into()));
}

pub(crate) async fn snooze_until_what_is_over_comes_back_at_once(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    t.send(queue.name(), ["job"]).await;
    let mut consumer = t.work(&queue, 1).await;

    for number in 1..=3 {
        next(&mut consumer).await.settle(Settlement::Snooze { until: UNIX_EPOCH }).await.unwrap();
        let again = next(&mut consumer).await;
        assert_eq!((again.envelope.attempt, copy(&again.envelope)), (1, Some(number * 2 - 1)));
        let before_1970 = UNIX_EPOCH - Duration::from_secs(1);
        again.settle(Settlement::Snooze { until: before_1970 }).await.unwrap();
    }

    assert_eq!(copy(&next(&mut consumer).await.envelope), Some(6));
}

/// A moment that a broker cannot write down must not make the job come back at once.
pub(crate) async fn snooze_beyond_all_time_is_settled(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, ["never again", "next"]).await;
    let mut consumer = t.consume(&queue).await;
    let until = UNIX_EPOCH.checked_add(Duration::from_secs(i64::MAX as u64)).expect("a moment");

    next(&mut consumer).await.settle(Settlement::Snooze { until }).await.unwrap();

    assert_eq!(take(&mut consumer, 1).await, ["next"]);
    t.send(&queue, ["marker"]).await;
    assert_eq!(take(&mut consumer, 1).await, ["marker"]);
}

pub(crate) async fn snoozed_job_keeps_its_priority(t: &Fixture) {
    let queue = t.name("jobs");
    t.declare(&Topology::new().queue(QueueDecl::new(queue.clone()).argument("x-max-priority", 5_i64))).await;
    let mut urgent = message(&queue, "urgent");
    urgent.envelope.priority = Some(4);
    t.broker.publish(urgent).await.unwrap();
    let mut consumer = t.consume(&queue).await;

    next(&mut consumer).await.settle(snooze_for(Duration::from_millis(150))).await.unwrap();
    let again = next(&mut consumer).await;

    assert_eq!((text(&again), again.envelope.priority), ("urgent".to_owned(), Some(4)));
}

pub(crate) async fn every_kind_of_queue_gets_its_snoozed_job_back(t: &Fixture) {
    let exclusive = t.name("exclusive");
    t.declare(&Topology::new().queue(QueueDecl::new(exclusive.clone()).exclusive())).await;
    for queue in [t.quorum_queue("quorum").await, t.plain_queue("classic").await, exclusive] {
        t.send(&queue, ["job"]).await;
        let mut consumer = t.consume(&queue).await;
        let delivery = next(&mut consumer).await;
        let id = delivery.envelope.id.clone();

        let (until, snooze) = until_in(Duration::from_millis(200));
        delivery.settle(snooze).await.unwrap();
        let again = next(&mut consumer).await;

        assert!(SystemTime::now() >= until, "early in `{queue}`");
        assert_eq!((&again.envelope.id, copy(&again.envelope)), (&id, Some(1)), "in `{queue}`");
    }
}

/// What waits for its time is not in the queue, and its message there is gone.
pub(crate) async fn snoozed_job_is_counted_as_delayed(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    t.send(queue.name(), ["job"]).await;
    let mut consumer = t.work(&queue, 1).await;
    let operator = t.client.operator().unwrap();

    next(&mut consumer).await.settle(snooze_for(Duration::from_secs(3600))).await.unwrap();

    let counted = async || {
        let stats = operator.inspect(queue.name()).await.unwrap();
        (stats.ready, stats.unsettled.unwrap_or(0), stats.delayed)
    };
    let delayed = operator.abilities().counts_delayed.then_some(1);
    until("the original is gone", async || counted().await == (0, 0, delayed)).await;
}

/// Snoozed for random times: none early, none lost.
pub(crate) async fn many_snoozed_jobs_none_early_none_lost(t: &Fixture) {
    const JOBS: usize = 60;
    let queue = t.work_queue("jobs").await;
    t.send(queue.name(), (0..JOBS).map(|n| n.to_string())).await;
    let mut consumer = t.work(&queue, 50).await;
    let mut random = fastrand::Rng::with_seed(7);

    let (mut done, mut waiting) = (HashSet::new(), HashMap::new());
    while done.len() < JOBS {
        let delivery = next(&mut consumer).await;
        let (arrived, job) = (SystemTime::now(), text(&delivery));
        match copy(&delivery.envelope) {
            None => {
                let (until, snooze) = until_in(Duration::from_micros(random.u64(0..2_000_000)));
                waiting.insert(job, until);
                delivery.settle(snooze).await.unwrap();
            }
            Some(1) => {
                let until = waiting[&job];
                assert!(arrived >= until, "{:?} early", until.duration_since(arrived));
                assert!(arrived < until + LATENESS, "{:?} late", arrived.duration_since(until));
                // One may come twice: whoever moved it may have been closed before it could say so.
                done.insert(job);
                delivery.settle(Settlement::Ack).await.unwrap();
            }
            other => panic!("job {job} is copy {other:?}"),
        }
    }
}

pub(crate) async fn snoozed_job_survives_its_client(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    t.send(queue.name(), ["job"]).await;
    let client = t.other_client().await;
    let options = queue_core::broker::ConsumeOptions::new(queue.name().clone());
    let mut theirs = client.broker().consume(options).await.unwrap();

    next(&mut theirs).await.settle(snooze_for(Duration::from_millis(500))).await.unwrap();
    client.close().await;
    let again = next(&mut t.work(&queue, 1).await).await;

    assert_eq!((text(&again), copy(&again.envelope)), ("job".to_owned(), Some(1)));
    assert!(!again.redelivered);
}

pub(crate) async fn snoozed_job_of_a_full_queue_waits_for_room(t: &Fixture) {
    let spec = QueueSpec::new(t.name("jobs")).max_length(3);
    t.declare_spec(&spec).await;
    let clock = t.plain_queue("clock").await;
    let mut ticks = t.consume(&clock).await;
    t.send(spec.name(), ["patient"]).await;
    let held = next(&mut t.work(&spec, 1).await).await;

    // Time enough to fill the queue.
    let (until, snooze) = until_in(Duration::from_secs(6));
    held.settle(snooze).await.unwrap();
    let filled = crate::limit::fill(t, spec.name()).await;
    let mut tick = message(&clock, "tick");
    tick.not_before = Some(until + Duration::from_millis(400));
    t.broker.publish(tick).await.unwrap();
    // When the tick is here, the patient one has been due, and has found the queue full.
    assert_eq!(text(&next(&mut ticks).await), "tick");
    assert_eq!(ready(&*t.broker, spec.name()).await, filled);
    let mut consumer = t.work(&spec, 1).await;

    let texts = take(&mut consumer, filled as usize + 1).await;
    assert!(texts.contains(&"patient".to_owned()), "{texts:?}");
}

pub(crate) async fn snoozed_job_whose_queue_is_gone_waits_for_it(t: &Fixture) {
    let (queue, clock) = (t.name("jobs"), t.plain_queue("clock").await);
    let mut ticks = t.consume(&clock).await;
    // Another client's, so that nobody here declares it again by himself.
    let other = t.other_client().await;
    let topology = Topology::new().queue(QueueDecl::new(queue.clone()));
    t.delete_later(&topology);
    other.broker().declare(&topology).await.unwrap();
    t.send(&queue, ["job"]).await;
    let options = queue_core::broker::ConsumeOptions::new(queue.clone());
    let mut theirs = other.broker().consume(options).await.unwrap();

    let (until, snooze) = until_in(Duration::from_secs(5));
    next(&mut theirs).await.settle(snooze).await.unwrap();
    drop(theirs);
    other.close().await;
    t.broker.operator().unwrap().delete(&queue).await.unwrap();
    let mut tick = message(&clock, "tick");
    tick.not_before = Some(until + Duration::from_millis(400));
    t.broker.publish(tick).await.unwrap();
    assert_eq!(text(&next(&mut ticks).await), "tick");
    t.declare(&topology).await;

    let again = next(&mut t.consume(&queue).await).await;
    assert_eq!((text(&again), copy(&again.envelope)), ("job".to_owned(), Some(1)));
    assert_eq!(again.envelope.headers.len(), 1, "{:?}", again.envelope.headers);
}

/// A copy that cannot be published would leave the original to come again at once, over and over.
pub(crate) async fn snoozed_job_sheds_headers_that_do_not_fit(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let mut bulky = message(queue.name(), "job");
    let mut headers = Headers::from([("blob", ""), ("tenant", "blue"), (header::EXCHANGE, "shop")]);
    headers.insert("blob", "x".repeat(Headers::MAX_SIZE - headers.wire_size()));
    assert_eq!(headers.wire_size(), Headers::MAX_SIZE);
    bulky.envelope.headers = headers;
    t.broker.publish(bulky).await.unwrap();
    let mut consumer = t.work(&queue, 1).await;

    next(&mut consumer).await.settle(snooze_for(Duration::from_millis(150))).await.unwrap();
    let again = next(&mut consumer).await;

    let headers = Headers::from([
        ("tenant", HeaderValue::from("blue")),
        (header::EXCHANGE, "shop".into()),
        (header::COPY, 1_i64.into()),
    ]);
    assert_eq!((again.envelope.attempt, &again.envelope.headers), (1, &headers));
}

/// With queue, id and attempt, the number names one delivery's errand.
pub(crate) async fn every_copy_that_runs_has_a_number_of_its_own(t: &Fixture) {
    let queue = t.work_queue("jobs").await;
    let dead = queue.dead_queue().unwrap();
    t.send(queue.name(), ["job"]).await;
    let mut consumer = t.work(&queue, 1).await;
    let admin = t.client.admin();

    for before in [None, Some(3)] {
        let counted = |more| Some(before.unwrap_or(0) + more);
        let first = next(&mut consumer).await;
        assert_eq!(copy(&first.envelope), before);
        first.settle(retry_at_once()).await.unwrap();
        let retried = next(&mut consumer).await;
        assert_eq!(copy(&retried.envelope), counted(1));
        retried.settle(snooze_for(Duration::ZERO)).await.unwrap();
        let snoozed = next(&mut consumer).await;
        assert_eq!(copy(&snoozed.envelope), counted(2));
        // Given back it is the same message, and not a copy.
        snoozed.settle(Settlement::Release).await.unwrap();
        let released = next(&mut consumer).await;
        assert_eq!(copy(&released.envelope), counted(2));
        released.settle(dead_letter("no")).await.unwrap();
        // A dead letter does not run. Looks change nothing.
        for _ in 0..3 {
            until_ready(&*t.broker, &dead, 1).await;
            let letters = admin.dead_letters(&dead, 10).await.unwrap();
            assert_eq!(letters[0].headers.get(header::COPY).and_then(HeaderValue::as_int), counted(2));
        }
        assert_eq!(admin.replay(&dead, 10, |_| true).await.unwrap(), 1);
    }
}

/// Whoever publishes to a queue may write what he likes.
pub(crate) async fn absurd_copy_number_does_no_harm(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let mut consumer = t.consume(&queue).await;
    let largest = i64::from(u32::MAX);
    let absurd = [
        (HeaderValue::Int(-3), 1),
        (HeaderValue::Int(i64::MAX), largest),
        ("many".into(), 1),
        (HeaderValue::Float(1e300), 1),
        (HeaderValue::Null, 1),
    ];

    for (forged, counted) in absurd {
        let mut publish = message(&queue, "job");
        publish.envelope.headers.insert(header::COPY, forged.clone());
        t.broker.publish(publish).await.unwrap();
        next(&mut consumer).await.settle(snooze_for(Duration::ZERO)).await.unwrap();
        let again = next(&mut consumer).await;
        assert_eq!(copy(&again.envelope), Some(counted), "after {forged:?}");
        again.settle(Settlement::Ack).await.unwrap();
    }
}
