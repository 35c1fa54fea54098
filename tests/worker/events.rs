//! Events tell each job's way, and never hold a worker up.

use futures_util::StreamExt;
use leveret::{JobEvent, JobEvents, Worker};

use crate::support::{client, options, queue, retries, start, task, work};

task!(Fine {} = "fine", queue: queue("events"), options: options(), needs: [], async |_call, _job| {});
task!(Poor {} = "poor", queue: queue("events"), options: retries(0), needs: [],
    async |_call, _job| { Err::<(), _>("no") });

#[tokio::test]
async fn job_is_told_from_start_to_end() {
    let (client, _clock) = client();
    let id = client.enqueue(Fine {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Fine>());

    let (first, second) = (worker.event().await, worker.event().await);

    assert!(
        matches!(&first, JobEvent::Started { job } if job.id == id && job.task == "fine" && job.queue == "events")
    );
    assert!(matches!(&second, JobEvent::Succeeded { job, .. } if job.id == id && job.attempt == 1));
    assert_eq!(first.job(), second.job());
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn stream_ends_with_the_worker() {
    let (client, _clock) = client();
    client.enqueue(Fine {}).await.unwrap();
    client.enqueue(Poor {}).await.unwrap();
    let worker = Worker::new(&client).task::<Fine>().task::<Poor>();
    let events = worker.events();

    let summary = work(worker).await;

    let told: Vec<_> = events.collect().await;
    assert_eq!(told.len(), 4);
    assert_eq!((summary.succeeded, summary.dead), (1, 1));
    assert_eq!(summary.to_string(), "1 succeeded, 0 retried, 1 dead, 0 released");
}

#[tokio::test]
async fn slow_reader_misses_events_and_is_told_how_many() {
    let (client, _clock) = client();
    let jobs = JobEvents::CAPACITY;
    assert!(client.enqueue_all((0..jobs).map(|_| Fine {})).await.iter().all(Result::is_ok));
    let worker = Worker::new(&client).task::<Fine>();
    let events = worker.events();

    // Two events a job, and half of them have room.
    work(worker).await;

    let told: Vec<_> = events.collect().await;
    let kept = told.iter().filter(|event| event.job().is_some()).count();
    let missed: u64 =
        told.iter().map(|event| if let JobEvent::Missed { count } = event { *count } else { 0 }).sum();
    assert_eq!(kept, JobEvents::CAPACITY);
    assert_eq!(missed as usize, 2 * jobs - JobEvents::CAPACITY);
}
