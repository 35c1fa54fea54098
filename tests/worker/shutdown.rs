//! A worker that is asked to stop gives back what it has not started, waits for what runs, and loses nothing.

use std::sync::Arc;
use std::time::Duration;

use leveret::{Client, Context, JobEvent, Task, Worker};
use tokio::sync::{Notify, Semaphore};

use crate::support::{client, options, queue, start, task, work};

struct Gate(Semaphore);

task!(Waits {} = "waits", queue: queue("shutdown").prefetch(3), options: options(), needs: [Gate],
    async |call, _job| { call.arg::<Gate>().0.acquire().await.unwrap().forget() });
task!(Heeds {} = "heeds", queue: queue("shutdown.heeds"), options: options(), needs: [Context],
async |call, _job| {
    call.context().cancelled().await;
    Err::<(), _>("told to stop")
});
task!(Quick {} = "quick", queue: queue("shutdown.quick"), options: options(), needs: [], async |_call, _job| {});
task!(Blocks {} = "blocks", queue: queue("shutdown.blocks"), options: options(), needs: [Notify],
blocking |call, _job| {
    while !call.context().is_cancelled() {
        std::thread::yield_now();
    }
    call.arg::<Notify>().notify_one();
});

fn gate() -> Arc<Gate> {
    Arc::new(Gate(Semaphore::new(0)))
}

async fn ready(client: &Client, queue: &str) -> u64 {
    client.operator().unwrap().inspect(queue).await.unwrap().ready
}

#[tokio::test]
async fn running_job_is_waited_for_and_the_rest_is_given_back() {
    let ((client, _clock), gate) = (client(), gate());
    assert!(client.enqueue_all((0..5).map(|_| Waits {})).await.iter().all(Result::is_ok));
    let mut worker = start(Worker::new(&client).task::<Waits>().shared(Arc::clone(&gate)));
    worker.started().await;

    worker.handle.shutdown();

    // Prefetched and not started: two of three.
    for _ in 0..2 {
        assert!(matches!(worker.event().await, JobEvent::Released { .. }));
    }
    gate.0.add_permits(1);
    worker.succeeded().await;
    worker.ended().await.unwrap();
    assert_eq!(ready(&client, "shutdown").await, 4);
}

#[tokio::test]
async fn given_back_jobs_keep_their_attempt() {
    let ((client, _clock), gate) = (client(), gate());
    assert!(client.enqueue_all((0..3).map(|_| Waits {})).await.iter().all(Result::is_ok));
    let mut worker = start(Worker::new(&client).task::<Waits>().shared(Arc::clone(&gate)));
    worker.started().await;
    worker.handle.shutdown_now();
    worker.ended().await.unwrap_err();

    gate.0.add_permits(3);
    let mut worker = start(Worker::new(&client).task::<Waits>().shared(gate));

    for _ in 0..3 {
        assert_eq!(worker.succeeded().await.attempt, 1);
    }
    worker.stop().await.unwrap();
}

/// One is cut off each time, and two are given back unbegun: more often than the delivery limit allows them to be lost.
#[tokio::test]
async fn thousand_stops_with_jobs_in_hand_cost_them_nothing() {
    let ((client, _clock), gate) = (client(), gate());
    assert!(client.enqueue_all((0..3).map(|_| Waits {})).await.iter().all(Result::is_ok));

    for stop in 0..1000 {
        let mut worker = start(Worker::new(&client).task::<Waits>().shared(Arc::clone(&gate)));
        assert_eq!(worker.started().await.attempt, 1, "after {stop} stops");
        worker.handle.shutdown_now();
        worker.ended().await.unwrap_err();
    }

    assert_eq!(ready(&client, "shutdown").await, 3);
    assert_eq!(ready(&client, "shutdown.dead").await, 0);
}

#[tokio::test]
async fn job_that_does_not_end_in_time_is_given_back_and_that_is_no_error() {
    let ((client, _clock), gate) = (client(), gate());
    client.enqueue(Waits {}).await.unwrap();
    let mut worker =
        start(Worker::new(&client).task::<Waits>().shared(gate).shutdown_timeout(Duration::from_millis(10)));
    worker.started().await;

    worker.handle.shutdown();

    assert!(matches!(worker.event().await, JobEvent::Released { .. }));
    worker.ended().await.unwrap();
    assert_eq!(ready(&client, "shutdown").await, 1);
}

#[tokio::test]
async fn failure_of_a_job_that_was_told_to_stop_costs_no_attempt() {
    let (client, _clock) = client();
    client.enqueue(Heeds {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Heeds>().shutdown_timeout(Duration::from_millis(10)));
    worker.started().await;

    worker.handle.shutdown();

    assert!(matches!(worker.event().await, JobEvent::Released { .. }));
    worker.ended().await.unwrap();
    assert_eq!(ready(&client, "shutdown.heeds").await, 1);
}

#[tokio::test]
async fn blocking_job_sees_that_it_should_end() {
    let (client, _clock) = client();
    client.enqueue(Blocks {}).await.unwrap();
    let ended = Arc::new(Notify::new());
    let worker = Worker::new(&client).task::<Blocks>().shared(Arc::clone(&ended));
    let mut worker = start(worker.shutdown_timeout(Duration::from_millis(10)));
    worker.started().await;

    worker.handle.shutdown();

    worker.succeeded().await;
    crate::support::patiently(ended.notified()).await;
    worker.ended().await.unwrap();
}

#[tokio::test]
async fn stopping_at_once_cuts_jobs_off_and_says_so() {
    let ((client, _clock), gate) = (client(), gate());
    client.enqueue(Waits {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Waits>().shared(gate));
    worker.started().await;

    worker.handle.shutdown();
    worker.handle.shutdown_now();

    assert!(matches!(worker.event().await, JobEvent::Released { .. }));
    let error = worker.ended().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the worker was stopped at once; 1 running jobs were cut off and run again"
    );
    assert_eq!(ready(&client, "shutdown").await, 1);
}

#[tokio::test]
async fn stopping_at_once_with_nothing_to_do_is_no_error() {
    let (client, _clock) = client();
    let worker = start(Worker::new(&client).task::<Quick>());

    worker.handle.shutdown_now();

    worker.ended().await.unwrap();
}

/// It waits for jobs, and has a slot ready.
#[tokio::test]
async fn idle_worker_that_is_stopped_at_once_has_cut_nothing_off() {
    let (client, _clock) = client();
    client.enqueue(Quick {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Quick>());
    worker.succeeded().await;

    worker.handle.shutdown_now();

    worker.ended().await.unwrap();
}

#[tokio::test]
async fn panicking_job_does_not_hang_the_shutdown() {
    task!(Panics { fine: bool } = "panics", queue: queue("shutdown.panics"), options: options(), needs: [],
        async |_call, job| { assert!(job.fine) });
    let (client, _clock) = client();
    client.enqueue(Panics { fine: false }).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Panics>());
    worker.retried().await;

    worker.stop().await.unwrap();
}

#[tokio::test]
async fn worker_that_was_stopped_before_it_began_runs_nothing() {
    let (client, _clock) = client();
    client.enqueue(Quick {}).await.unwrap();
    let worker = Worker::new(&client).task::<Quick>().signals(false);
    worker.handle().shutdown();

    crate::support::patiently(worker.run()).await.unwrap();

    assert_eq!(ready(&client, Quick::queue().name()).await, 1);
    assert_eq!(work(Worker::new(&client).task::<Quick>()).await.succeeded, 1);
}
