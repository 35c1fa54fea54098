//! A worker as a part of a larger program.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use leveret::{Context, Worker};

use crate::support::{client, options, patiently, queue, start, task, work};

task!(Parent {} = "parent", queue: queue("program.parent"), options: options(), needs: [Context],
    async |call, _job| { call.context().client().enqueue(Child {}).await.map(drop) });
task!(Child {} = "child", queue: queue("program.child"), options: options(), needs: [], async |_call, _job| {});
task!(Names {} = "names", queue: queue("program.names"), options: options(), needs: [Context, Mutex<Vec<String>>],
async |call, _job| {
    let context: &Context = call.arg();
    let deadline = context.deadline().is_some();
    let words = format!(
        "{} {} {} {:?} {} {deadline}",
        context.task(), context.queue(), context.attempt(), context.headers().get("tenant"), context.is_cancelled()
    );
    call.arg::<Mutex<Vec<String>>>().lock().unwrap().push(words);
});

fn is_send<T: Send + 'static>(value: T) -> T {
    value
}

#[tokio::test]
async fn worker_runs_as_one_task_among_others() {
    let (client, _clock) = client();
    let worker = Worker::new(&client).task::<Child>().signals(false);
    let handle = worker.handle();
    let run = is_send(worker.run());

    let (run, ()) = patiently(async { tokio::join!(run, async { handle.shutdown() }) }).await;

    run.unwrap();
}

#[tokio::test]
async fn dropping_the_future_stops_the_worker() {
    let (client, _clock) = client();
    let worker = Worker::new(&client).task::<Child>().signals(false);
    let mut events = worker.events();

    let elapsed = tokio::time::timeout(Duration::from_millis(20), worker.run()).await;

    assert!(elapsed.is_err());
    assert_eq!(patiently(events.next()).await, None);
    // The next worker, and not the dropped one, has the job.
    client.enqueue(Child {}).await.unwrap();
    assert_eq!(work(Worker::new(&client).task::<Child>()).await.succeeded, 1);
}

#[tokio::test]
async fn several_workers_share_a_process_a_client_and_a_queue() {
    let (client, _clock) = client();
    assert!(client.enqueue_all((0..100).map(|_| Child {})).await.iter().all(Result::is_ok));
    let worker = || work(Worker::new(&client).task::<Child>().concurrency(3));

    let (one, two) = tokio::join!(worker(), worker());

    assert_eq!(one.succeeded + two.succeeded, 100);
}

#[tokio::test]
async fn idle_means_that_jobs_made_by_jobs_are_done_too() {
    let (client, _clock) = client();
    assert!(client.enqueue_all((0..20).map(|_| Parent {})).await.iter().all(Result::is_ok));

    let summary = work(Worker::new(&client).task::<Parent>().task::<Child>()).await;

    assert_eq!(summary.succeeded, 40);
}

#[tokio::test]
async fn idle_waits_for_a_delayed_job() {
    let (client, clock) = client();
    client.enqueue(Child {}).delay(Duration::from_secs(60)).await.unwrap();
    let worker = tokio::spawn(work(Worker::new(&client).task::<Child>()));
    let mut sentinel = start(Worker::new(&client).task::<Names>().state(Mutex::new(Vec::<String>::new())));
    client.enqueue(Names {}).await.unwrap();
    sentinel.succeeded().await;

    assert!(!worker.is_finished());
    clock.advance(Duration::from_secs(60));

    assert_eq!(patiently(worker).await.unwrap().succeeded, 1);
    sentinel.stop().await.unwrap();
}

#[tokio::test]
async fn context_tells_about_the_job() {
    let (client, _clock) = client();
    client.enqueue(Names {}).header("tenant", "blue").await.unwrap();
    let names = Arc::new(Mutex::new(Vec::<String>::new()));

    work(Worker::new(&client).task::<Names>().shared(Arc::clone(&names))).await;

    assert_eq!(*names.lock().unwrap(), [r#"names program.names 1 Some(String("blue")) false true"#]);
}

/// By whatever the client remembers it is there.
#[tokio::test]
async fn queue_that_was_deleted_since_is_declared_again() {
    let (client, _clock) = client();
    client.enqueue(Child {}).await.unwrap();
    client.operator().unwrap().delete("program.child").await.unwrap();

    Worker::new(&client).task::<Child>().declare().await.unwrap();
    client.operator().unwrap().inspect("program.child").await.unwrap();

    client.operator().unwrap().delete("program.child").await.unwrap();
    assert_eq!(work(Worker::new(&client).task::<Child>()).await.succeeded, 0);
}
