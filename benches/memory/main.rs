//! Leveret on the memory broker: jobs per second from enqueue to ack, and what share of the CPU is JSON.
//!
//! `cargo bench --bench memory`; `-- --jobs 1000000` for longer runs.

#[path = "../measure/mod.rs"]
mod measure;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use leveret::{Client, Worker, task};
use measure::{Sample, Stopwatch, spread, thousands};
use tokio::sync::Notify;

const ROUNDS: usize = 7;

#[derive(Debug, Default)]
struct Counter {
    done: AtomicUsize,
    wanted: usize,
    reached: Notify,
}

/// A job of about 256 bytes of JSON.
#[task(queue = "bench.memory")]
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
    let args: Vec<_> = std::env::args().collect();
    let at = args.iter().position(|arg| arg == "--jobs");
    let jobs = at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(200_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");

    println!("{ROUNDS} rounds of {} jobs of 256 bytes: medians (lowest–highest)\n", thousands(jobs as f64));
    for (name, concurrency, one_by_one) in [
        ("enqueue_all, work at 1", 1, false),
        ("enqueue_all, work at 32", 32, false),
        ("enqueue by 32 tasks, work at 32", 32, true),
    ] {
        let samples: Vec<_> =
            (0..ROUNDS).map(|_| runtime.block_on(round(jobs, concurrency, one_by_one))).collect();
        report(name, &samples);
    }
    let json: Vec<_> = (0..ROUNDS).map(|_| json(jobs)).collect();
    report("JSON alone, one thread", &json);
}

/// From the first enqueue to the last ack.
async fn round(jobs: usize, concurrency: u16, one_by_one: bool) -> Sample {
    let client = Client::connect("memory:").await.expect("memory");
    let counter = Arc::new(Counter { wanted: jobs, ..Counter::default() });
    let worker = Worker::new(&client).task::<Job>().shared(counter.clone()).concurrency(concurrency);
    let handle = worker.handle();
    let watch = Stopwatch::start();
    let working = tokio::spawn(worker.run());
    if one_by_one {
        let producers: Vec<_> = (0..32)
            .map(|producer| {
                let client = client.clone();
                tokio::spawn(async move {
                    for number in (producer..jobs).step_by(32) {
                        client.enqueue(payload(number)).await.expect("enqueued");
                    }
                })
            })
            .collect();
        for producer in producers {
            producer.await.expect("no panic");
        }
    } else {
        for batch in (0..jobs).collect::<Vec<_>>().chunks(1_000) {
            let results = client.enqueue_all(batch.iter().map(|&number| payload(number))).await;
            assert!(results.iter().all(Result::is_ok), "not all were enqueued");
        }
    }
    counter.reached.notified().await;
    let sample = watch.stop(jobs);
    handle.shutdown();
    working.await.expect("no panic").expect("the worker ends well");
    sample
}

/// Encoding and decoding the same payloads, and nothing else.
fn json(jobs: usize) -> Sample {
    let watch = Stopwatch::start();
    for number in 0..jobs {
        let bytes = serde_json::to_vec(&payload(number)).expect("JSON");
        black_box(serde_json::from_slice::<Job>(&bytes).expect("JSON"));
    }
    watch.stop(jobs)
}

fn report(name: &str, samples: &[Sample]) {
    let (rate, low, high) = spread(samples.iter().map(Sample::rate));
    let (cpu, ..) = spread(samples.iter().map(Sample::cpu_per_job));
    println!(
        "{name:<34} {:>9} jobs/s ({}–{}), {cpu:.2} µs of CPU per job",
        thousands(rate),
        thousands(low),
        thousands(high)
    );
}
