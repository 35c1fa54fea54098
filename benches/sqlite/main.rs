//! Leveret on a database file: durable jobs per second, and what a claim costs when a million wait.
//!
//! `cargo bench --features sqlite --bench sqlite`. The file lies in `target/tmp`, or in the directory that `TMPDIR_BENCH`
//! names: what is measured is above all that disk. `-- --jobs 100000` for longer runs, `-- --waiting 1000000` for more
//! jobs that wait.

#[path = "../measure/mod.rs"]
mod measure;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leveret::{Client, Task, Worker, task};
use measure::{Sample, Stopwatch, spread, thousands};
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::Envelope;
use queue_core::settlement::Settlement;
use tokio::sync::Notify;

const ROUNDS: usize = 5;

#[derive(Debug, Default)]
struct Counter {
    done: AtomicUsize,
    wanted: usize,
    reached: Notify,
}

/// A job of about 256 bytes of JSON.
#[task(queue = "bench.sqlite")]
async fn job(counter: &Counter, number: u64, text: String) {
    black_box((number, text));
    if counter.done.fetch_add(1, Ordering::Relaxed) + 1 == counter.wanted {
        counter.reached.notify_one();
    }
}

fn payload(number: usize) -> Job {
    Job { number: number as u64, text: "x".repeat(223) }
}

fn main() {
    // `cargo test --benches` only wants to know that it builds.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let jobs = argument("--jobs").unwrap_or(20_000);
    let waiting = argument("--waiting").unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");

    println!("{} fdatasyncs of 4 KiB a second on this disk", thousands(syncs_per_second()));
    println!(
        "{ROUNDS} rounds of up to {} jobs of 256 bytes: medians (lowest–highest)\n",
        thousands(jobs as f64)
    );
    runtime.block_on(async {
        measure("enqueue by 1 task", || enqueue(1, jobs / 20)).await;
        measure("enqueue by 32 tasks", || enqueue(32, jobs)).await;
        measure("enqueue_all of 10,000", || enqueue_all(10_000)).await;
        measure("work at 1", || work(1, jobs)).await;
        measure("work at 32", || work(32, jobs)).await;
        measure("enqueue_all and work at 32", || end_to_end(32, jobs, 0)).await;
        measure("enqueue by 32 tasks and work at 32", || end_to_end(32, jobs, 32)).await;
    });
    println!();
    for waiting in [1_000, waiting] {
        runtime.block_on(claims(waiting));
    }
}

fn argument(name: &str) -> Option<usize> {
    let args: Vec<_> = std::env::args().collect();
    let at = args.iter().position(|arg| arg == name)?;
    args.get(at + 1)?.parse().ok()
}

fn directory() -> PathBuf {
    std::env::var_os("TMPDIR_BENCH").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from)
}

/// A file that nobody has used, gone with the value.
struct Database(PathBuf);

impl Database {
    fn new() -> Self {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let database = Self(directory().join(format!("bench-{}-{number}.db", std::process::id())));
        database.remove();
        database
    }

    async fn client(&self) -> Client {
        Client::connect(&format!("sqlite:{}", self.0.display())).await.expect("a database")
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.0).map_or(0, |file| file.len())
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.0.display()));
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.remove();
    }
}

async fn measure<F: Future<Output = Sample>>(name: &str, round: impl Fn() -> F) {
    let mut samples = Vec::new();
    for _ in 0..ROUNDS {
        samples.push(round().await);
    }
    let (rate, low, high) = spread(samples.iter().map(Sample::rate));
    let (cpu, ..) = spread(samples.iter().map(Sample::cpu_per_job));
    println!(
        "{name:<36} {:>9} jobs/s ({}–{}), {cpu:.1} µs of CPU per job",
        thousands(rate),
        thousands(low),
        thousands(high)
    );
}

async fn enqueue(tasks: usize, jobs: usize) -> Sample {
    let database = Database::new();
    let client = database.client().await;
    client.declare_queue(Job::queue()).await.expect("declared");
    let watch = Stopwatch::start();
    enqueue_side_by_side(&client, tasks, jobs).await;
    let sample = watch.stop(jobs);
    client.close().await;
    sample
}

async fn enqueue_side_by_side(client: &Client, tasks: usize, jobs: usize) {
    let producers: Vec<_> = (0..tasks)
        .map(|producer| {
            let client = client.clone();
            tokio::spawn(async move {
                for number in (producer..jobs).step_by(tasks) {
                    client.enqueue(payload(number)).await.expect("enqueued");
                }
            })
        })
        .collect();
    for producer in producers {
        producer.await.expect("no panic");
    }
}

async fn enqueue_all_of(client: &Client, jobs: usize) {
    let results = client.enqueue_all((0..jobs).map(payload)).await;
    assert!(results.iter().all(Result::is_ok), "not all were enqueued");
}

async fn enqueue_all(jobs: usize) -> Sample {
    let database = Database::new();
    let client = database.client().await;
    client.declare_queue(Job::queue()).await.expect("declared");
    let watch = Stopwatch::start();
    enqueue_all_of(&client, jobs).await;
    let sample = watch.stop(jobs);
    client.close().await;
    sample
}

/// From the worker's start to the last ack.
async fn work(concurrency: u16, jobs: usize) -> Sample {
    let database = Database::new();
    let client = database.client().await;
    enqueue_all_of(&client, jobs).await;
    run(&client, concurrency, jobs, async {}).await
}

/// From the first enqueue to the last ack.
async fn end_to_end(concurrency: u16, jobs: usize, producers: usize) -> Sample {
    let database = Database::new();
    let client = database.client().await;
    client.declare_queue(Job::queue()).await.expect("declared");
    let enqueuing = client.clone();
    run(&client, concurrency, jobs, async move {
        if producers > 0 {
            enqueue_side_by_side(&enqueuing, producers, jobs).await;
        } else {
            enqueue_all_of(&enqueuing, jobs).await;
        }
    })
    .await
}

async fn run(client: &Client, concurrency: u16, jobs: usize, meanwhile: impl Future<Output = ()>) -> Sample {
    let counter = Arc::new(Counter { wanted: jobs, ..Counter::default() });
    let worker = Worker::new(client).task::<Job>().shared(counter.clone()).concurrency(concurrency);
    let handle = worker.handle();
    let watch = Stopwatch::start();
    let working = tokio::spawn(worker.run());
    meanwhile.await;
    counter.reached.notified().await;
    let sample = watch.stop(jobs);
    handle.shutdown();
    working.await.expect("no panic").expect("the worker ends well");
    client.close().await;
    sample
}

/// What it takes from an ack to the next delivery, with so many jobs waiting behind.
async fn claims(waiting: usize) {
    const CLAIMS: usize = 5_000;
    let database = Database::new();
    let client = database.client().await;
    client.declare_queue(Job::queue()).await.expect("declared");
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
        database.bytes() / waiting as u64,
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

fn syncs_per_second() -> f64 {
    use std::io::{Seek as _, Write as _};
    let path = directory().join(format!("bench-{}-sync", std::process::id()));
    let mut file = std::fs::File::create(&path).expect("a file");
    file.write_all(&[0; 4096 * 64]).and_then(|()| file.sync_all()).expect("written");
    let (since, mut count) = (Instant::now(), 0_u32);
    while since.elapsed() < Duration::from_secs(1) {
        file.seek(std::io::SeekFrom::Start(u64::from(count % 64) * 4096)).expect("a place");
        file.write_all(&[1; 4096]).and_then(|()| file.sync_data()).expect("synced");
        count += 1;
    }
    let _ = std::fs::remove_file(path);
    f64::from(count) / since.elapsed().as_secs_f64()
}
