//! What is measured of a queue in an SQLite file, whoever's it is. Each round has a file of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::measure::{Sample, Stopwatch, spread, thousands};

const ROUNDS: usize = 5;

/// A queue in a file, open.
pub(crate) trait Embedded: Clone + Send + Sync + 'static {
    /// A worker that runs.
    type Working;

    /// Opens a file that is not there yet. What is enqueued is to survive a power failure.
    async fn open(path: &Path) -> Self;
    /// Enqueues one job of about 256 bytes of JSON, and waits until it is durable.
    fn enqueue(&self, number: usize) -> impl Future<Output = ()> + Send;
    /// Enqueues so many, all at once.
    async fn enqueue_all(&self, jobs: usize);
    /// Begins to work so many jobs at once, each of which is one more `done`.
    async fn work(&self, concurrency: usize, counter: Arc<Counter>) -> Self::Working;
    async fn stop(&self, working: Self::Working);
    async fn close(self);
}

/// Counts the jobs that have run.
#[derive(Debug)]
pub(crate) struct Counter {
    done: AtomicUsize,
    wanted: usize,
    reached: Notify,
}

impl Counter {
    fn new(wanted: usize) -> Arc<Self> {
        Arc::new(Self { done: AtomicUsize::new(0), wanted, reached: Notify::new() })
    }

    pub(crate) fn done(&self) {
        if self.done.fetch_add(1, Ordering::Relaxed) + 1 == self.wanted {
            self.reached.notify_one();
        }
    }
}

/// What a job of 256 bytes has beside its number.
pub(crate) fn filling() -> String {
    "x".repeat(223)
}

/// Measures everything, or `--only` what has this in its name: the medians of so many rounds (`--rounds`) of up to so
/// many jobs (`--jobs`).
pub(crate) async fn measure_all<E: Embedded>() {
    let jobs = argument("--jobs").unwrap_or(20_000);
    print("syncs of a page of 4 KiB", [syncs_per_second(); 3], None);
    measure("enqueue by 1 task", || enqueue::<E>(1, jobs / 20)).await;
    measure("enqueue by 32 tasks", || enqueue::<E>(32, jobs)).await;
    measure("enqueue_all of 10,000", || enqueue_all::<E>(10_000)).await;
    measure("work at 1", || work::<E>(1, jobs)).await;
    measure("work at 32", || work::<E>(32, jobs)).await;
    measure("enqueue_all and work at 32", || end_to_end::<E>(32, jobs, 0)).await;
    measure("enqueue by 32 tasks and work at 32", || end_to_end::<E>(32, jobs, 32)).await;
}

async fn measure<F: Future<Output = Sample>>(name: &str, round: impl Fn() -> F) {
    if value("--only").is_some_and(|part| !name.contains(&part)) {
        return;
    }
    let mut samples = Vec::new();
    for _ in 0..argument("--rounds").unwrap_or(ROUNDS) {
        samples.push(round().await);
    }
    let (cpu, ..) = spread(samples.iter().map(Sample::cpu_per_job));
    print(name, spread(samples.iter().map(Sample::rate)).into(), Some(cpu));
}

fn print(name: &str, rates: [f64; 3], cpu: Option<f64>) {
    if is_for_a_table() {
        return println!("{name}\t{:.0}", rates[0]);
    }
    let [rate, low, high] = rates.map(thousands);
    match cpu {
        Some(cpu) => {
            println!("{name:<36} {rate:>9} jobs/s ({low}–{high}), {cpu:.1} µs of CPU per job");
        }
        None => println!("{name:<36} {rate:>9} a second"),
    }
}

/// Whether `scripts/bench-sqlite` asks, which makes one table of several contenders.
pub(crate) fn is_for_a_table() -> bool {
    std::env::args().any(|arg| arg == "--rows")
}

async fn enqueue<E: Embedded>(tasks: usize, jobs: usize) -> Sample {
    let database = Database::new();
    let queue = E::open(&database.0).await;
    let watch = Stopwatch::start();
    enqueue_side_by_side(&queue, tasks, jobs).await;
    let sample = watch.stop(jobs);
    queue.close().await;
    sample
}

async fn enqueue_side_by_side<E: Embedded>(queue: &E, tasks: usize, jobs: usize) {
    let producers: Vec<_> = (0..tasks)
        .map(|producer| {
            let queue = queue.clone();
            tokio::spawn(async move {
                for number in (producer..jobs).step_by(tasks) {
                    queue.enqueue(number).await;
                }
            })
        })
        .collect();
    for producer in producers {
        producer.await.expect("no panic");
    }
}

async fn enqueue_all<E: Embedded>(jobs: usize) -> Sample {
    let database = Database::new();
    let queue = E::open(&database.0).await;
    let watch = Stopwatch::start();
    queue.enqueue_all(jobs).await;
    let sample = watch.stop(jobs);
    queue.close().await;
    sample
}

/// From the worker's start until the last job has run.
async fn work<E: Embedded>(concurrency: usize, jobs: usize) -> Sample {
    let database = Database::new();
    let queue = E::open(&database.0).await;
    queue.enqueue_all(jobs).await;
    run(queue, concurrency, jobs, async |_| {}).await
}

/// From the first enqueue until the last job has run.
async fn end_to_end<E: Embedded>(concurrency: usize, jobs: usize, producers: usize) -> Sample {
    let database = Database::new();
    let queue = E::open(&database.0).await;
    run(queue, concurrency, jobs, async |queue| {
        if producers > 0 {
            enqueue_side_by_side(queue, producers, jobs).await;
        } else {
            queue.enqueue_all(jobs).await;
        }
    })
    .await
}

async fn run<E: Embedded>(queue: E, concurrency: usize, jobs: usize, meanwhile: impl AsyncFn(&E)) -> Sample {
    let counter = Counter::new(jobs);
    let watch = Stopwatch::start();
    let working = queue.work(concurrency, counter.clone()).await;
    meanwhile(&queue).await;
    counter.reached.notified().await;
    let sample = watch.stop(jobs);
    queue.stop(working).await;
    queue.close().await;
    sample
}

/// The number behind an argument.
pub(crate) fn argument(name: &str) -> Option<usize> {
    value(name)?.parse().ok()
}

fn value(name: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != name).nth(1)
}

fn directory() -> PathBuf {
    let by_cargo = option_env!("CARGO_TARGET_TMPDIR").map(PathBuf::from);
    std::env::var_os("TMPDIR_BENCH").map(PathBuf::from).or(by_cargo).unwrap_or_else(std::env::temp_dir)
}

/// A file that nobody has used, gone with the value.
pub(crate) struct Database(pub(crate) PathBuf);

impl Database {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicUsize = AtomicUsize::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let database = Self(directory().join(format!("bench-{}-{number}.db", std::process::id())));
        database.remove();
        database
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.0.display()));
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.remove();
    }
}

/// How often this disk syncs a page that is written over, in a second: what every durable queue lives on.
fn syncs_per_second() -> f64 {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let path = directory().join(format!("bench-{}-sync", std::process::id()));
    let mut file = std::fs::File::create(&path).expect("a file");
    file.write_all(&[0; 4096 * 64]).and_then(|()| file.sync_all()).expect("written");
    let (since, mut count) = (Instant::now(), 0_u32);
    while since.elapsed() < Duration::from_secs(1) {
        file.seek(SeekFrom::Start(u64::from(count % 64) * 4096)).expect("a place");
        file.write_all(&[1; 4096]).and_then(|()| file.sync_data()).expect("synced");
        count += 1;
    }
    let _ = std::fs::remove_file(path);
    f64::from(count) / since.elapsed().as_secs_f64()
}
