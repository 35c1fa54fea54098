//! Exactly as many jobs at once as asked for, and nothing hoarded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use leveret::{Client, Task, Worker};
use queue_core::topology::QueueSpec;
use tokio::sync::{Semaphore, watch};

use crate::support::{client, options, patiently, queue, start, task, work};

/// Holds jobs until the test lets them go, and counts how many are in at once.
struct Gate {
    open: Semaphore,
    inside: watch::Sender<usize>,
    most: AtomicUsize,
}

impl Gate {
    fn closed() -> Arc<Self> {
        Arc::new(Self { open: Semaphore::new(0), inside: watch::Sender::new(0), most: AtomicUsize::new(0) })
    }

    async fn pass(&self) {
        self.inside.send_modify(|inside| {
            *inside += 1;
            self.most.fetch_max(*inside, Ordering::SeqCst);
        });
        self.open.acquire().await.unwrap().forget();
        self.inside.send_modify(|inside| *inside -= 1);
    }
}

task!(One {} = "one", queue: queue("concurrency.one"), options: options(), needs: [Gate],
    async |call, _job| { call.arg::<Gate>().pass().await });
task!(Three {} = "three", queue: queue("concurrency.three").concurrency(3), options: options(), needs: [Gate],
    async |call, _job| { call.arg::<Gate>().pass().await });
task!(Fast {} = "fast", queue: queue("concurrency.fast").prefetch(5), options: options(), needs: [Gate],
    async |call, _job| { call.arg::<Gate>().pass().await });
task!(Numbered { number: u32 } = "numbered", queue: queue("concurrency.order"), options: options(),
    needs: [std::sync::Mutex<Vec<u32>>],
    async |call, job| { call.arg::<std::sync::Mutex<Vec<u32>>>().lock().unwrap().push(job.number) });

/// How many are ready and how many unsettled.
async fn depth(client: &Client, queue: &QueueSpec) -> (u64, Option<u64>) {
    let stats = client.operator().unwrap().inspect(queue.name()).await.unwrap();
    (stats.ready, stats.unsettled)
}

/// Lets `running` jobs of ten begin, checks that no more are held than `held`, and finishes.
async fn check(worker: Worker, client: &Client, spec: &QueueSpec, gate: &Gate, running: usize, held: u64) {
    let mut worker = start(worker);
    patiently(gate.inside.subscribe().wait_for(|inside| *inside == running)).await.unwrap();
    assert_eq!(depth(client, spec).await, (10 - held, Some(held)));

    gate.open.add_permits(10);
    let mut done = 0;
    while done < 10 {
        done += usize::from(matches!(worker.event().await, leveret::JobEvent::Succeeded { .. }));
    }

    assert_eq!(gate.most.load(Ordering::SeqCst), running);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn one_at_a_time_and_one_unsettled_by_default() {
    let ((client, _clock), gate) = (client(), Gate::closed());
    assert!(client.enqueue_all((0..10).map(|_| One {})).await.iter().all(Result::is_ok));

    let worker = Worker::new(&client).task::<One>().shared(Arc::clone(&gate));

    check(worker, &client, One::queue(), &gate, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_three_at_once_and_three_unsettled() {
    let ((client, _clock), gate) = (client(), Gate::closed());
    assert!(client.enqueue_all((0..10).map(|_| Three {})).await.iter().all(Result::is_ok));

    let worker = Worker::new(&client).task::<Three>().shared(Arc::clone(&gate));

    check(worker, &client, Three::queue(), &gate, 3, 3).await;
}

#[tokio::test]
async fn worker_overrides_the_concurrency_of_its_tasks() {
    let ((client, _clock), gate) = (client(), Gate::closed());
    assert!(client.enqueue_all((0..10).map(|_| Three {})).await.iter().all(Result::is_ok));

    let worker =
        Worker::new(&client).task::<Three>().concurrency(2).queue_concurrency("concurrency.three", 4);

    check(worker.shared(Arc::clone(&gate)), &client, Three::queue(), &gate, 4, 4).await;
}

#[tokio::test]
async fn prefetch_above_concurrency_holds_more_and_runs_no_more() {
    let ((client, _clock), gate) = (client(), Gate::closed());
    assert!(client.enqueue_all((0..10).map(|_| Fast {})).await.iter().all(Result::is_ok));

    let worker = Worker::new(&client).task::<Fast>().shared(Arc::clone(&gate));

    check(worker, &client, Fast::queue(), &gate, 1, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_keeps_the_order() {
    let (client, _clock) = client();
    assert!(client.enqueue_all((0..200).map(|number| Numbered { number })).await.iter().all(Result::is_ok));
    let seen = Arc::new(std::sync::Mutex::new(Vec::<u32>::new()));

    work(Worker::new(&client).task::<Numbered>().shared(Arc::clone(&seen))).await;

    assert!(seen.lock().unwrap().iter().copied().eq(0..200));
}
