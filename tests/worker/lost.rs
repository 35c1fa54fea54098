//! What a worker holds and has not begun when its broker takes it back: it is not begun, and it is counted.

use std::sync::Arc;

use leveret::{Client, ErrorKind, JobEvent, Task, Worker};
use queue_core::broker::memory::MemoryBroker;
use queue_core::broker::{ConsumeOptions, Settings};
use tokio::sync::Semaphore;

use crate::support::{client, options, patiently, queue, start, task, work};

struct Gate(Semaphore);

task!(Holds {} = "holds", queue: queue("lost").prefetch(10), options: options(), needs: [Gate],
    async |call, _job| { call.arg::<Gate>().0.acquire().await.unwrap().forget() });
task!(HoldsMany {} = "holds_many", queue: queue("lost.many").prefetch(10).concurrency(2), options: options(), needs: [Gate],
    async |call, _job| { call.arg::<Gate>().0.acquire().await.unwrap().forget() });
task!(Works {} = "works", queue: queue("lost").prefetch(10), options: options(), needs: [], async |_call, _job| {});

fn gate() -> Arc<Gate> {
    Arc::new(Gate(Semaphore::new(0)))
}

/// A client of its own on the same broker.
fn neighbours() -> (Client, Client) {
    let settings = Settings::default();
    let name = format!("lost-{}", fastrand::u64(..));
    let open = || Client::builder().with_broker(MemoryBroker::shared(&name, &settings).unwrap());
    (open(), open())
}

#[tokio::test]
async fn deliveries_of_a_client_that_was_closed_are_not_begun() {
    let ((client, other), gate) = (neighbours(), gate());
    assert!(client.enqueue_all((0..20).map(|_| Holds {})).await.iter().all(Result::is_ok));
    let mut worker = start(Worker::new(&client).task::<Holds>().shared(Arc::clone(&gate)));
    worker.started().await;

    client.close().await;
    gate.0.add_permits(100);

    assert!(matches!(worker.event().await, JobEvent::SettleFailed { .. }), "of the one that ran");
    let JobEvent::Lost { queue, count } = worker.event().await else { panic!("something was begun") };
    assert_eq!((&*queue, count), ("lost", 9));
    let ended = worker.ended().await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::Closed);
    assert_eq!(other.operator().unwrap().inspect("lost").await.unwrap().ready, 20);
}

#[tokio::test]
async fn deliveries_of_a_deleted_queue_are_not_begun() {
    let ((client, _clock), gate) = (client(), gate());
    assert!(client.enqueue_all((0..20).map(|_| HoldsMany {})).await.iter().all(Result::is_ok));
    let mut worker = start(Worker::new(&client).task::<HoldsMany>().shared(Arc::clone(&gate)));
    worker.started().await;
    worker.started().await;

    client.operator().unwrap().delete("lost.many").await.unwrap();
    gate.0.add_permits(100);

    let mut lost = 0;
    while lost < 8 {
        match worker.event().await {
            JobEvent::Lost { count, .. } => lost += count,
            JobEvent::Succeeded { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lost, 8);
    // It goes on when the queue is there again.
    client.declare_queue(HoldsMany::queue()).await.unwrap();
    client.enqueue(HoldsMany {}).await.unwrap();
    worker.started().await;
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn summary_counts_no_loss_where_there_was_none() {
    let (client, _clock) = client();
    assert!(client.enqueue_all((0..20).map(|_| Works {})).await.iter().all(Result::is_ok));

    let summary = work(Worker::new(&client).task::<Works>()).await;

    assert_eq!((summary.succeeded, summary.lost), (20, 0));
    assert!(!summary.to_string().contains("lost"), "{summary}");
    let mut left = client.broker().consume(ConsumeOptions::new("lost")).await.unwrap();
    left.stop();
    assert!(patiently(left.next()).await.is_none());
}
