//! An unknown task is tried again for an hour, since a newer worker may know it; then it is a dead letter.

use std::time::Duration;

use leveret::{JobEvent, Worker};
use queue_core::envelope::{HeaderValue, header};
use queue_core::settlement::ReasonKind;

use crate::support::{client, message, options, publish, queue, start, take_dead_letter, task};

task!(Known {} = "known", queue: queue("unknown"), options: options(), needs: [], async |_call, _job| {});
task!(Newer {} = "newer", queue: queue("unknown"), options: options(), needs: [], async |_call, _job| {});
task!(Elsewhere {} = "elsewhere", queue: queue("unknown.elsewhere"), options: options(), needs: [],
    async |_call, _job| {});

#[tokio::test]
async fn unknown_task_waits_ever_longer_and_keeps_its_attempt() {
    let (client, clock) = client();
    client.enqueue(Newer {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Known>());

    let mut waits = Vec::new();
    for _ in 0..8 {
        let JobEvent::Retried { job, after, reason, .. } = worker.fate().await else { panic!("not retried") };
        assert_eq!((job.attempt, reason.kind), (1, ReasonKind::UnknownTask));
        assert_eq!(
            reason.message,
            "task `newer` is unknown to this worker of queue `unknown`, which has `known`; a newer one may know it"
        );
        waits.push(after.as_secs());
        clock.advance(after);
    }

    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn unknown_task_is_a_dead_letter_after_an_hour_never_gone() {
    let (client, clock) = client();
    client.enqueue(Newer {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Known>());
    worker.retried().await;

    clock.advance(Duration::from_secs(3600));
    let reason = worker.dead().await;

    assert_eq!(reason.kind, ReasonKind::UnknownTask);
    assert_eq!(
        reason.message,
        "no worker of queue `unknown` has known task `newer` for 60 min; here it has `known`. Deploy a worker that \
         knows it, or correct the AMQP property `type`, and replay the job"
    );
    let dead = take_dead_letter(&client, &queue("unknown")).await;
    assert_eq!(dead.headers.get(header::ERROR_KIND), Some(&HeaderValue::from("unknown-task")));
    assert_eq!(dead.task.as_deref(), Some("newer"));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn newer_worker_runs_what_an_older_one_did_not_know() {
    let (client, clock) = client();
    client.enqueue(Newer {}).await.unwrap();
    let mut older = start(Worker::new(&client).task::<Known>());
    older.retried().await;
    older.stop().await.unwrap();

    let mut newer = start(Worker::new(&client).task::<Known>().task::<Newer>());
    clock.advance(Duration::from_secs(2));

    assert_eq!(newer.succeeded().await.attempt, 1);
    newer.stop().await.unwrap();
}

#[tokio::test]
async fn nonsense_in_the_header_begins_the_hour_anew() {
    let (client, _clock) = client();
    let mut envelope = message(Some("celery.task"), "[[], {}, null]");
    envelope.headers.insert(header::UNKNOWN_SINCE, "yesterday");
    publish(&client, &queue("unknown"), envelope).await;
    let mut worker = start(Worker::new(&client).task::<Known>());

    let (after, _) = worker.retried().await;

    assert_eq!(after, Duration::from_secs(1));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn task_of_another_queue_is_run_where_it_arrives() {
    let (client, _clock) = client();
    publish(&client, &queue("unknown"), message(Some("elsewhere"), "{}")).await;
    let mut worker = start(Worker::new(&client).task::<Known>().task::<Elsewhere>());

    let job = worker.succeeded().await;

    assert_eq!((job.task.as_ref(), job.queue.as_ref()), ("elsewhere", "unknown"));
    worker.stop().await.unwrap();
}
