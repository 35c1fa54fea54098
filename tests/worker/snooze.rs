//! A handler, or a layer, may say "not now": the job comes again without having cost an attempt.

use std::future::IntoFuture as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use leveret::testing::TestQueue;
use leveret::{
    BoxError, CallError, Context, Failure, JobEvent, Outcome, ReasonKind, TaskError, TaskResult, Worker,
};
use queue_core::clock::Clock;

use crate::layer::answering;
use crate::support::{Running, client, patiently, queue, retries, start, take_dead_letter, task, work};

/// How often handlers ran.
#[derive(Default)]
struct Runs(AtomicU32);

task!(Reorder { closed_for: u64 } = "reorder", queue: queue("snooze"), options: retries(0), needs: [Runs],
async |call, job| {
    if call.arg::<Runs>().0.fetch_add(1, Ordering::SeqCst) < 2 {
        return TaskError::snooze(Duration::from_secs(job.closed_for)).into_result();
    }
    Ok(())
});
task!(BlockingReorder {} = "blocking_reorder", queue: queue("snooze"), options: retries(0), needs: [],
    blocking |_call, _job| { TaskError::snooze(Duration::from_secs(60)).into_result() });
task!(Moody {} = "moody", queue: queue("snooze.moody"), options: retries(1), needs: [Runs],
async |call, _job| {
    match call.arg::<Runs>().0.fetch_add(1, Ordering::SeqCst) {
        0 | 2 => Err::<(), BoxError>("mail server said 451".into()),
        _ => TaskError::snooze(Duration::from_secs(60)).into_result(),
    }
});
task!(Ask { closed_for: u64 } -> u32 = "ask", queue: queue("snooze.ask"), options: retries(0), needs: [Context, Runs],
async |call, job| {
    if call.arg::<Runs>().0.fetch_add(1, Ordering::SeqCst) == 0 {
        return Err::<u32, BoxError>(TaskError::snooze(Duration::from_secs(job.closed_for)).into());
    }
    Ok(7)
});
task!(Plain {} = "plain_snoozed", queue: queue("snooze"), options: retries(0), needs: [], async |_call, _job| {});

/// Says it in one expression of a known type.
trait IntoResult {
    fn into_result(self) -> TaskResult;
}

impl IntoResult for TaskError {
    fn into_result(self) -> TaskResult {
        Err(self.into())
    }
}

/// Waits for a snooze, and says how long it is by `clock`.
async fn snoozed(worker: &mut Running, clock: &Clock) -> (u32, Duration) {
    match worker.fate().await {
        JobEvent::Snoozed { job, until, .. } => (job.attempt, until.duration_since(clock.now()).unwrap()),
        other => panic!("expected a snooze: {other:?}"),
    }
}

/// It has no retries: a failure would be a dead letter.
#[tokio::test]
async fn snoozed_job_comes_again_on_the_same_attempt() {
    let (client, clock) = client();
    let id = client.enqueue(Reorder { closed_for: 60 }).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Reorder>().state(Runs::default()));

    for _ in 0..2 {
        assert_eq!(snoozed(&mut worker, &clock).await, (1, Duration::from_secs(60)));
        clock.advance(Duration::from_secs(60));
    }
    let job = worker.succeeded().await;

    assert_eq!((job.id, job.attempt), (id.into(), 1));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn snooze_of_no_time_is_a_second() {
    let (client, clock) = client();
    client.enqueue(Reorder { closed_for: 0 }).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Reorder>().state(Runs::default()));

    assert_eq!(snoozed(&mut worker, &clock).await, (1, Duration::from_secs(1)));

    worker.stop().await.unwrap();
}

#[tokio::test]
async fn function_without_async_and_layer_snooze_too() {
    let (client, clock) = client();
    client.enqueue(BlockingReorder {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<BlockingReorder>());
    assert_eq!(snoozed(&mut worker, &clock).await, (1, Duration::from_secs(60)));
    worker.stop().await.unwrap();

    let minute = Duration::from_secs(60);
    let outcome: fn() -> Result<Outcome, BoxError> =
        || Ok(Outcome::Snooze { after: Duration::from_secs(60) });
    let error: fn() -> Result<Outcome, BoxError> = || Err(TaskError::snooze(Duration::from_secs(60)).into());
    let failure: fn() -> Result<Outcome, BoxError> =
        || Ok(Outcome::Failure(Failure::from_error(TaskError::snooze(Duration::from_secs(60)).into())));
    for answer in [outcome, error, failure] {
        client.enqueue(Plain {}).await.unwrap();
        let mut worker = start(Worker::new(&client).task::<Plain>().layer(answering(answer)));
        assert_eq!(snoozed(&mut worker, &clock).await, (1, minute));
        worker.stop().await.unwrap();
    }
}

/// What failed before stays known, and counts on.
#[tokio::test]
async fn snooze_between_two_failures_changes_nothing_about_them() {
    let (client, clock) = client();
    client.enqueue(Moody {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Moody>().state(Runs::default()));

    worker.retried().await;
    clock.advance(Duration::from_secs(2));
    assert_eq!(snoozed(&mut worker, &clock).await.0, 2);
    clock.advance(Duration::from_secs(60));
    assert_eq!(worker.dead().await.message, "mail server said 451");

    let dead = take_dead_letter(&client, &queue("snooze.moody")).await;
    assert_eq!((dead.attempt, dead.copy_number()), (2, 2));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn summary_counts_a_snooze_and_idle_waits_for_the_job() {
    let client = leveret::Client::connect("memory:").await.unwrap();
    client.enqueue(Reorder { closed_for: 0 }).await.unwrap();

    let summary = work(Worker::new(&client).task::<Reorder>().state(Runs::default())).await;

    assert_eq!((summary.snoozed, summary.succeeded, summary.retried, summary.dead), (2, 1, 0, 0));
    assert_eq!(summary.to_string(), "1 succeeded, 0 retried, 0 dead, 0 released, 2 snoozed");
}

#[tokio::test]
async fn call_is_snoozed_while_its_caller_waits() {
    let (client, clock) = client();
    let mut worker = start(Worker::new(&client).task::<Ask>().state(Runs::default()));
    let calling =
        tokio::spawn(client.call(Ask { closed_for: 5 }).timeout(Duration::from_secs(60)).into_future());

    assert_eq!(snoozed(&mut worker, &clock).await, (1, Duration::from_secs(5)));
    clock.advance(Duration::from_secs(5));

    assert_eq!(patiently(calling).await.unwrap().unwrap(), 7);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn caller_that_would_be_gone_by_then_is_told_at_once() {
    let (client, _clock) = client();
    let mut worker = start(Worker::new(&client).task::<Ask>().state(Runs::default()));

    let told =
        patiently(client.call(Ask { closed_for: 60 }).timeout(Duration::from_secs(60)).into_future()).await;

    let Err(CallError::Handler { kind, message, .. }) = told else { panic!("{told:?}") };
    assert_eq!(kind, ReasonKind::Failed);
    assert_eq!(message, "not now, but in 60s, when its caller no longer waits");
    assert!(matches!(worker.fate().await, JobEvent::CallFailed { .. }));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn test_queue_runs_a_snoozed_job_when_the_clock_reaches_it() {
    let test = TestQueue::new().task::<Reorder>().state(Runs::default());
    test.client().enqueue(Reorder { closed_for: 60 }).await.unwrap();
    let snooze = || Outcome::Snooze { after: Duration::from_secs(60) };

    assert_eq!(test.drain().await, [snooze()]);
    test.advance(Duration::from_secs(59));
    assert!(test.drain().await.is_empty());
    test.advance(Duration::from_secs(1));
    assert_eq!(test.drain().await, [snooze()]);
    test.assert_enqueued::<Reorder>(|_| true);
    test.advance(Duration::from_secs(60));
    assert_eq!(test.drain().await, [Outcome::Success]);

    assert_eq!(test.perform(BlockingReorder {}).await, snooze());
}
