//! Jobs whose workers ended with them in hand. On `memory:` a client that is closed stands for a process that ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use leveret::{Client, JobEvent, Task, Worker};
use queue_core::broker::memory::MemoryBroker;
use queue_core::broker::{ConsumeOptions, Settings};
use queue_core::envelope::header;
use queue_core::settlement::ReasonKind;
use tokio::sync::Semaphore;

use crate::support::{Running, options, patiently, queue, start, take_dead_letter, task};

/// Counts the handlers that run, and lets them end.
struct Gate {
    running: AtomicUsize,
    most: AtomicUsize,
    open: Semaphore,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self { running: AtomicUsize::new(0), most: AtomicUsize::new(0), open: Semaphore::new(0) })
    }

    async fn pass(&self) {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        self.open.acquire().await.unwrap().forget();
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

task!(Crash { number: u32 } = "crash", queue: queue("suspect.one").concurrency(3), options: options(), needs: [Gate],
    async |call, _job| { call.arg::<Gate>().pass().await });
task!(Spare { number: u32 } = "spare", queue: queue("suspect.many").concurrency(3).crash_limit(2), options: options(),
    needs: [Gate], async |call, _job| { call.arg::<Gate>().pass().await });
task!(Other {} = "other", queue: queue("suspect.other"), options: options(), needs: [], async |_call, _job| {});
task!(Stop { number: u32 } = "stop", queue: queue("suspect.stop"), options: options(), needs: [Gate],
    async |call, _job| { call.arg::<Gate>().pass().await });

/// Opens clients of one broker.
fn opener() -> impl Fn() -> Client {
    let name = format!("suspect-{}", fastrand::u64(..));
    // Keeps the broker while no worker has it.
    let kept = MemoryBroker::shared(&name, &Settings::default()).unwrap();
    move || {
        let _ = &kept;
        Client::builder().with_broker(MemoryBroker::shared(&name, &Settings::default()).unwrap())
    }
}

/// Waits until so many handlers run, and ends the process that they run in.
async fn crash(client: Client, mut worker: Running, running: usize) {
    for _ in 0..running {
        worker.started().await;
    }
    client.close().await;
    worker.handle.shutdown_now();
    drop(worker.ended().await);
}

impl Running {
    /// The next start. What was given back meanwhile comes again.
    async fn started_later(&mut self) {
        while !matches!(self.event().await, JobEvent::Started { .. }) {}
    }

    /// The task of the next success.
    async fn succeeded_later(&mut self) -> String {
        loop {
            match self.event().await {
                JobEvent::Succeeded { job, .. } => return job.task().to_owned(),
                JobEvent::Started { .. } | JobEvent::Released { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn dead(client: &Client) -> Option<(String, String)> {
    let stats = client.operator().unwrap().inspect("suspect.one.dead").await.ok()?;
    if stats.ready == 0 {
        return None;
    }
    let letter = take_dead_letter(client, Crash::queue()).await;
    let text =
        |name| letter.headers.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    assert_eq!(letter.headers.get(header::BEGUN), None);
    Some((text(header::ERROR_KIND), text(header::ERROR)))
}

#[tokio::test]
async fn job_that_ends_its_process_is_a_dead_letter_that_says_where_and_when() {
    let (open, observer_gate) = (opener(), Gate::new());
    let observer = open();
    observer.enqueue(Crash { number: 0 }).await.unwrap();

    for crashes in 0..6 {
        assert_eq!(dead(&observer).await, None, "after {crashes}");
        let client = open();
        let worker =
            Worker::new(&client).task::<Crash>().shared(Gate::new()).name(format!("worker {crashes}"));
        crash(client, start(worker), 1).await;
    }
    let mut last = start(Worker::new(&observer).task::<Crash>().shared(observer_gate));
    let JobEvent::Dead { reason, .. } = last.event().await else { panic!("it ran again") };

    assert_eq!(reason.kind, ReasonKind::CrashLoop);
    for words in ["3 times (on worker 3 at 20", ", on worker 5 at 20", "replay the job"] {
        assert!(reason.message.contains(words), "{words}: {}", reason.message);
    }
    assert_eq!(dead(&observer).await, Some(("crash-loop".to_owned(), reason.message)));
    last.stop().await.unwrap();
}

#[tokio::test]
async fn suspects_run_one_at_a_time_while_the_other_queues_stand_still() {
    let (open, gate) = (opener(), Gate::new());
    let observer = open();
    for number in 0..3 {
        observer.enqueue(Spare { number }).await.unwrap();
    }
    for _ in 0..2 {
        let client = open();
        crash(client.clone(), start(Worker::new(&client).task::<Spare>().shared(Gate::new())), 3).await;
    }
    let worker = Worker::new(&observer).task::<Spare>().task::<Other>().shared(Arc::clone(&gate));
    let mut worker = start(worker);

    worker.started_later().await;
    observer.enqueue(Other {}).await.unwrap();
    gate.open.add_permits(1);
    assert_eq!(worker.succeeded_later().await, "spare", "the other one waits");
    // Two suspects, and the other one.
    gate.open.add_permits(2);
    for _ in 0..3 {
        worker.succeeded_later().await;
    }
    assert_eq!(gate.most.load(Ordering::SeqCst), 1);

    // They are as others again.
    for number in 0..3 {
        observer.enqueue(Spare { number }).await.unwrap();
    }
    for _ in 0..3 {
        worker.started_later().await;
    }
    gate.open.add_permits(3);
    for _ in 0..3 {
        worker.succeeded_later().await;
    }
    worker.stop().await.unwrap();
}

/// It is given back by each of them, and lost by none.
#[tokio::test]
async fn suspect_that_is_given_back_by_one_worker_after_another_is_no_dead_letter() {
    let (open, gate) = (opener(), Gate::new());
    let observer = open();
    observer.enqueue(Stop { number: 0 }).await.unwrap();
    for _ in 0..5 {
        let client = open();
        crash(client.clone(), start(Worker::new(&client).task::<Stop>().shared(Gate::new())), 1).await;
    }

    for _ in 0..10 {
        let client = open();
        let mut worker = start(Worker::new(&client).task::<Stop>().shared(Gate::new()));
        worker.started().await;
        worker.handle.shutdown_now();
        drop(worker.ended().await);
        client.close().await;
    }
    gate.open.add_permits(2);
    let mut worker = start(Worker::new(&observer).task::<Stop>().shared(gate));
    worker.succeeded().await;
    // The queue, of one slot, goes on after the suspect.
    observer.enqueue(Stop { number: 1 }).await.unwrap();
    worker.succeeded().await;
    worker.stop().await.unwrap();

    let mut rest = observer.broker().consume(ConsumeOptions::new("suspect.stop")).await.unwrap();
    assert!(rest.try_next().is_none());
    patiently(observer.close()).await;
}
