//! Leveret on a database file: durable jobs per second, and what a claim costs when a million wait.
//!
//! `cargo bench --features sqlite --bench sqlite`. The file lies in `target/tmp`, or in the directory that `TMPDIR_BENCH`
//! names: what is measured is above all that disk. `-- --jobs 100000` for longer runs, `--only PART` for what has that in
//! its name, `--waiting 10000000` for more jobs that wait; `RUST_LOG=queue_core=debug` shows what each checkpoint took.
//! `scripts/bench-sqlite` measures the same of others.

#[path = "../measure/embedded.rs"]
mod embedded;
#[path = "../measure/mod.rs"]
mod measure;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use embedded::{Counter, Database, Embedded, argument};
use leveret::{Client, Task, Worker, WorkerHandle, task};
use measure::thousands;
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::Envelope;
use queue_core::settlement::Settlement;
use tokio::task::JoinHandle;

/// A job of about 256 bytes of JSON.
#[task(queue = "bench.sqlite")]
async fn job(counter: &Counter, number: u64, text: String) {
    black_box((number, text));
    counter.done();
}

fn payload(number: usize) -> Job {
    Job { number: number as u64, text: embedded::filling() }
}

#[derive(Clone)]
struct Leveret(Client);

impl Embedded for Leveret {
    type Working = (WorkerHandle, JoinHandle<leveret::Result<()>>);

    async fn open(path: &Path) -> Self {
        let client = Client::connect(&format!("sqlite:{}", path.display())).await.expect("a database");
        client.declare_queue(Job::queue()).await.expect("declared");
        Self(client)
    }

    async fn enqueue(&self, number: usize) {
        self.0.enqueue(payload(number)).await.expect("enqueued");
    }

    async fn enqueue_all(&self, jobs: usize) {
        let results = self.0.enqueue_all((0..jobs).map(payload)).await;
        assert!(results.iter().all(Result::is_ok), "not all were enqueued");
    }

    async fn work(&self, concurrency: usize, counter: Arc<Counter>) -> Self::Working {
        let concurrency = u16::try_from(concurrency).expect("not so many");
        let worker = Worker::new(&self.0).task::<Job>().shared(counter).concurrency(concurrency);
        (worker.handle(), tokio::spawn(worker.run()))
    }

    async fn stop(&self, (handle, working): Self::Working) {
        handle.shutdown();
        working.await.expect("no panic").expect("the worker ends well");
    }

    async fn close(self) {
        self.0.close().await;
    }
}

fn main() {
    // `cargo test --benches` only wants to know that it builds.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let waiting = argument("--waiting").unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");

    runtime.block_on(embedded::measure_all::<Leveret>());
    if embedded::is_for_a_table() {
        return;
    }
    println!();
    for waiting in [1_000, waiting] {
        runtime.block_on(claims(waiting));
    }
}

/// What it takes from an ack to the next delivery, with so many jobs waiting behind.
async fn claims(waiting: usize) {
    const CLAIMS: usize = 5_000;
    let database = Database::new();
    let Leveret(client) = Leveret::open(&database.0).await;
    let body = serde_json::to_vec(&payload(0)).expect("JSON");
    let queue = Job::queue().name();
    let before = resident();
    for chunk in (0..waiting).collect::<Vec<_>>().chunks(10_000) {
        let publishes = chunk.iter().map(|_| Publish::to_queue(queue.clone(), Envelope::new(body.clone())));
        let results = client.broker().publish_all(publishes.collect()).await;
        assert!(results.iter().all(Result::is_ok), "not all were published");
    }
    let after = resident();
    let mut consumer = client.broker().consume(ConsumeOptions::new(queue.clone())).await.expect("a consumer");
    let mut delivery = consumer.next().await.expect("a job").expect("a job");
    let mut times = Vec::with_capacity(CLAIMS);
    for _ in 0..CLAIMS.min(waiting - 1) {
        let since = Instant::now();
        delivery.settle(Settlement::Ack).await.expect("acked");
        delivery = consumer.next().await.expect("a job").expect("a job");
        times.push(since.elapsed());
    }
    drop(delivery);
    drop(consumer);
    client.close().await;
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "{:>9} waiting: ack and claim take {:?} (median), {:?} (p99), {:?} (worst); {} bytes of disk a job; memory {} → {} MiB",
        thousands(waiting as f64),
        round(at(0.5)),
        round(at(0.99)),
        round(at(1.0)),
        std::fs::metadata(&database.0).map_or(0, |file| file.len()) / waiting as u64,
        before,
        after,
    );
}

fn round(duration: Duration) -> Duration {
    Duration::from_micros(duration.as_micros() as u64)
}

/// This process's memory in MiB, where the system tells.
fn resident() -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
