//! Leveret and two hand-written lapin loops on one RabbitMQ node, alternating in one process run.
//!
//! `cargo bench --features rabbitmq --bench rabbitmq` starts a node of its own (`scripts/rabbitmq`); `LEVERET_BENCH_URL` names another.
//! After `--`: `--short` for a quick look, `--rounds 15 --jobs 20000` for longer runs, `--only "classic: work"` for the
//! rows whose names contain that, `--by plain` for one contender alone, as for a profiler; `--labelled` has the loops by
//! hand label their messages with id, type and time, to see what that costs the server.
//!
//! What keeps it fair: each contender works jobs that it published itself, on a queue that was emptied before; a round
//! of all three makes one ratio, and the order changes from round to round; a first round is not counted. Client CPU is
//! that of this process over all its threads. Shared machines are noisy: compare ratios and medians, not single
//! figures.

mod by_hand;
mod job;
#[path = "../measure/mod.rs"]
mod measure;
#[path = "../measure/node.rs"]
mod node;
mod ours;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use job::{ClassicJob, QuorumJob};
use leveret::{Client, Runnable, Task};
use measure::{Sample, spread, thousands};

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Ours,
    Plain,
    Tuned,
}

impl By {
    const ALL: [Self; 3] = [Self::Ours, Self::Plain, Self::Tuned];
}

/// How much is measured.
struct Plan {
    rounds: usize,
    jobs: usize,
    /// Which rows: those whose name contains it.
    only: String,
    /// Which contender; `None` is all.
    by: Option<By>,
}

impl Plan {
    fn from_args() -> Self {
        let args: Vec<_> = std::env::args().collect();
        let value = |name: &str| {
            let at = args.iter().position(|arg| arg == name)?;
            args.get(at + 1).map(String::as_str)
        };
        let number = |name: &str| value(name)?.parse().ok();
        let has = |name: &str| args.iter().any(|arg| arg == name);
        let short = has("--short");
        by_hand::IS_LABELLED.store(has("--labelled"), Ordering::Relaxed);
        Self {
            rounds: number("--rounds").unwrap_or(if short { 1 } else { 9 }),
            jobs: number("--jobs").unwrap_or(if short { 1_000 } else { 10_000 }),
            only: value("--only").unwrap_or_default().to_owned(),
            by: By::ALL.into_iter().find(|by| value("--by") == Some(&format!("{by:?}").to_lowercase())),
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
        Err(_) => node::with_own_node(),
    }
}

async fn bench(url: &str, plan: &Plan) {
    let client = Client::connect(url).await.expect("the node answers");
    let Plan { rounds, jobs, .. } = plan;
    println!("RabbitMQ {}, {rounds} rounds, {jobs} jobs of 256 bytes each", version(url));
    println!(
        "jobs/s and µs of client CPU per job: medians; ratios of ours to theirs: median (lowest–highest)\n"
    );
    println!(
        "{:<22} {:>8} {:>8} {:>8}  {:>5} {:>5} {:>5}  {:<18} {:<18} {:<18} {:<18}",
        "",
        "ours",
        "plain",
        "tuned",
        "cpu",
        "plain",
        "tuned",
        "rate/plain",
        "rate/tuned",
        "cpu/plain",
        "cpu/tuned"
    );
    queue::<ClassicJob>("classic", url, &client, plan, |number, text| ClassicJob { number, text }).await;
    queue::<QuorumJob>("quorum", url, &client, plan, |number, text| QuorumJob { number, text }).await;
    client.close().await;
}

/// The version of the node that `scripts/rabbitmq` started, if this is one of those; lapin does not tell it.
fn version(url: &str) -> String {
    let is_this =
        |number: &str| std::env::var(format!("LEVERET_TEST_RABBITMQ{number}")).is_ok_and(|node| node == url);
    let number = ["3", "4", "43"].into_iter().find(|number| is_this(number)).unwrap_or_default();
    let folder = std::env::var(format!("LEVERET_TEST_RABBITMQ{number}_NODE")).unwrap_or_default();
    let state = std::fs::read_to_string(format!("{folder}/state")).unwrap_or_default();
    state.lines().find_map(|line| line.strip_prefix("version=")).unwrap_or("of unknown version").to_owned()
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
        client.operator().unwrap().purge(name).await.expect("purged");
    };

    // Each publish of this row waits for the broker's disk, so fewer make the same time. Who awaits each confirm before
    // the next publish has nothing to tune.
    let few = plan.jobs / 5;
    row(plan, &format!("{kind}: one by one"), &[By::Ours, By::Plain], async |by| {
        purge().await;
        match by {
            By::Ours => ours::one_by_one(url, few, job).await,
            By::Plain | By::Tuned => by_hand::one_by_one(url, name, few).await,
        }
    })
    .await;

    row(plan, &format!("{kind}: enqueue_all"), &By::ALL, async |by| {
        purge().await;
        match by {
            By::Ours => ours::all(url, plan.jobs, job).await,
            By::Plain => by_hand::plain_all(url, name, plan.jobs).await,
            By::Tuned => by_hand::tuned_all(url, name, plan.jobs).await,
        }
    })
    .await;

    for concurrency in [1, 10, 32] {
        row(plan, &format!("{kind}: work at {concurrency}"), &By::ALL, async |by| {
            purge().await;
            match by {
                By::Ours => {
                    ours::all(url, plan.jobs, job).await;
                    ours::work::<T>(url, plan.jobs, concurrency).await
                }
                By::Plain => {
                    by_hand::tuned_all(url, name, plan.jobs).await;
                    by_hand::plain_work(url, name, plan.jobs, concurrency).await
                }
                By::Tuned => {
                    by_hand::tuned_all(url, name, plan.jobs).await;
                    by_hand::tuned_work(url, name, plan.jobs, concurrency).await
                }
            }
        })
        .await;
    }
    purge().await;
}

/// Measures and prints one line of the table.
async fn row(plan: &Plan, name: &str, contenders: &[By], measure: impl AsyncFn(By) -> Sample) {
    let mut contenders: Vec<_> = contenders.to_vec();
    contenders.retain(|by| plan.by.is_none_or(|only| *by == only));
    if !format!("{name} ").contains(&plan.only) || contenders.is_empty() {
        return;
    }
    // In the order of the rounds.
    let mut samples = By::ALL.map(|_| Vec::new());
    for round in 0..=plan.rounds {
        for &by in &contenders {
            let sample = measure(by).await;
            if round > 0 {
                samples[by as usize].push(sample);
            }
        }
        contenders.rotate_left(1);
    }
    print(name, &samples);
}

fn print(name: &str, [ours, plain, tuned]: &[Vec<Sample>; 3]) {
    let rate = |samples: &[Sample]| median(samples, Sample::rate).map_or("–".to_owned(), thousands);
    let cpu = |samples: &[Sample]| {
        median(samples, Sample::cpu_per_job).map_or("–".to_owned(), |cpu| format!("{cpu:.1}"))
    };
    println!(
        "{name:<22} {:>8} {:>8} {:>8}  {:>5} {:>5} {:>5}  {:<18} {:<18} {:<18} {:<18}",
        rate(ours),
        rate(plain),
        rate(tuned),
        cpu(ours),
        cpu(plain),
        cpu(tuned),
        ratio(ours, plain, Sample::rate),
        ratio(ours, tuned, Sample::rate),
        ratio(ours, plain, Sample::cpu_per_job),
        ratio(ours, tuned, Sample::cpu_per_job),
    );
}

fn median(samples: &[Sample], figure: fn(&Sample) -> f64) -> Option<f64> {
    (!samples.is_empty()).then(|| spread(samples.iter().map(figure)).0)
}

/// The ratio round by round, since the machine's speed drifts.
fn ratio(ours: &[Sample], theirs: &[Sample], figure: fn(&Sample) -> f64) -> String {
    if ours.is_empty() || theirs.is_empty() {
        return "–".to_owned();
    }
    let (median, low, high) =
        spread(ours.iter().zip(theirs).map(|(ours, theirs)| figure(ours) / figure(theirs)));
    format!("{median:.2} ({low:.2}–{high:.2})")
}
