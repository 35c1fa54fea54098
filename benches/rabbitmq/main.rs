//! Leveret and two hand-written lapin loops on one RabbitMQ node, alternating in one process run.
//!
//! `cargo bench --bench rabbitmq` starts a node of its own (`scripts/rabbitmq`); `LEVERET_BENCH_URL` names another.
//! `-- --rounds 7 --jobs 20000` for longer runs, `-- --short` for a quick look. Client CPU is that of this process
//! over all threads. Shared machines are noisy: compare ratios and medians, not single figures.

mod by_hand;
mod job;
#[path = "../measure/mod.rs"]
mod measure;
mod ours;

use std::process::{Command, ExitCode};

use job::{ClassicJob, QuorumJob};
use leveret::{Client, Runnable, Task};
use measure::{Sample, spread, thousands};

/// How much is measured.
struct Plan {
    rounds: usize,
    jobs: usize,
}

impl Plan {
    fn from_args() -> Self {
        let args: Vec<_> = std::env::args().collect();
        let value = |name: &str| {
            let at = args.iter().position(|arg| arg == name)?;
            args.get(at + 1)?.parse().ok()
        };
        let short = args.iter().any(|arg| arg == "--short");
        Self {
            rounds: value("--rounds").unwrap_or(if short { 1 } else { 5 }),
            jobs: value("--jobs").unwrap_or(if short { 1_000 } else { 10_000 }),
        }
    }
}

fn main() -> ExitCode {
    // `cargo test --benches` only wants to know that it builds.
    if std::env::args().any(|arg| arg == "--test") {
        return ExitCode::SUCCESS;
    }
    match std::env::var("LEVERET_BENCH_URL") {
        Ok(url) => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
            runtime.block_on(bench(&url, &Plan::from_args()));
            ExitCode::SUCCESS
        }
        Err(_) => with_own_node(),
    }
}

/// Runs this program again, with a node that is there for it alone.
fn with_own_node() -> ExitCode {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq");
    let inner = "LEVERET_BENCH_URL=$LEVERET_URL exec \"$0\" \"$@\"";
    let program = std::env::current_exe().expect("this program has a path");
    let status = Command::new(script)
        .args(["run", "3", "--", "sh", "-c", inner])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{script} could not be run: {error}; or name a node with LEVERET_BENCH_URL");
            ExitCode::FAILURE
        }
    }
}

/// One line of the table: each contender's samples, in the order of the rounds.
#[derive(Default)]
struct Row {
    ours: Vec<Sample>,
    plain: Vec<Sample>,
    tuned: Vec<Sample>,
}

async fn bench(url: &str, plan: &Plan) {
    let client = Client::connect(url).await.expect("the node answers");
    let version = client.info().version.unwrap_or_default();
    println!("RabbitMQ {version}, {} rounds, {} jobs of 256 bytes each", plan.rounds, plan.jobs);
    println!(
        "jobs/s and µs of client CPU per job: medians; ratios of ours to theirs: median (lowest–highest)\n"
    );
    println!(
        "{:<22} {:>8} {:>8} {:>8}  {:>5} {:>5} {:>5}  {:<18} {:<18} {:<12}",
        "", "ours", "plain", "tuned", "cpu", "plain", "tuned", "rate/plain", "rate/tuned", "cpu/plain"
    );
    queue::<ClassicJob>("classic", url, &client, plan, |number, text| ClassicJob { number, text }).await;
    queue::<QuorumJob>("quorum", url, &client, plan, |number, text| QuorumJob { number, text }).await;
    client.close().await;
}

async fn queue<T: Task + Runnable>(
    kind: &str,
    url: &str,
    client: &Client,
    plan: &Plan,
    job: fn(u64, String) -> T,
) {
    let name = T::queue().name();
    client.declare_queue(T::queue()).await.expect("declared");
    let purge = async || {
        client.broker().purge(name).await.expect("purged");
    };

    // Each publish of this row waits for the broker's disk, so fewer make the same time.
    let few = plan.jobs / 5;
    let mut row = Row::default();
    for _ in 0..plan.rounds {
        row.ours.push(ours::one_by_one(url, few, job).await);
        row.plain.push(by_hand::one_by_one(url, name, few).await);
        purge().await;
    }
    row.print(&format!("{kind}: one by one"));

    let mut row = Row::default();
    for _ in 0..plan.rounds {
        row.ours.push(ours::all(url, plan.jobs, job).await);
        purge().await;
        row.plain.push(by_hand::plain_all(url, name, plan.jobs).await);
        purge().await;
        row.tuned.push(by_hand::tuned_all(url, name, plan.jobs).await);
        purge().await;
    }
    row.print(&format!("{kind}: enqueue_all"));

    for concurrency in [1, 10, 32] {
        let mut row = Row::default();
        for _ in 0..plan.rounds {
            fill::<T>(client, plan.jobs, job).await;
            row.ours.push(ours::work::<T>(url, plan.jobs, concurrency).await);
            fill::<T>(client, plan.jobs, job).await;
            row.plain.push(by_hand::plain_work(url, name, plan.jobs, concurrency).await);
            fill::<T>(client, plan.jobs, job).await;
            row.tuned.push(by_hand::tuned_work(url, name, plan.jobs, concurrency).await);
        }
        row.print(&format!("{kind}: work at {concurrency}"));
    }
}

/// Exactly `jobs` jobs wait in the queue.
async fn fill<T: Task>(client: &Client, jobs: usize, job: fn(u64, String) -> T) {
    client.broker().purge(T::queue().name()).await.expect("purged");
    let results = client.enqueue_all((0..jobs).map(|number| job(number as u64, job::text()))).await;
    assert!(results.iter().all(Result::is_ok), "not all were enqueued");
}

impl Row {
    fn print(&self, name: &str) {
        let rate = |samples: &[Sample]| median(samples, Sample::rate).map_or("–".to_owned(), thousands);
        let cpu = |samples: &[Sample]| {
            median(samples, Sample::cpu_per_job).map_or("–".to_owned(), |cpu| format!("{cpu:.0}"))
        };
        println!(
            "{name:<22} {:>8} {:>8} {:>8}  {:>5} {:>5} {:>5}  {:<18} {:<18} {:<12}",
            rate(&self.ours),
            rate(&self.plain),
            rate(&self.tuned),
            cpu(&self.ours),
            cpu(&self.plain),
            cpu(&self.tuned),
            ratio(&self.ours, &self.plain, Sample::rate),
            ratio(&self.ours, &self.tuned, Sample::rate),
            ratio(&self.ours, &self.plain, Sample::cpu_per_job),
        );
    }
}

fn median(samples: &[Sample], figure: fn(&Sample) -> f64) -> Option<f64> {
    (!samples.is_empty()).then(|| spread(samples.iter().map(figure)).0)
}

/// The ratio round by round, since the machine's speed drifts.
fn ratio(ours: &[Sample], theirs: &[Sample], figure: fn(&Sample) -> f64) -> String {
    if theirs.is_empty() {
        return "–".to_owned();
    }
    let (median, low, high) =
        spread(ours.iter().zip(theirs).map(|(ours, theirs)| figure(ours) / figure(theirs)));
    format!("{median:.2} ({low:.2}–{high:.2})")
}
