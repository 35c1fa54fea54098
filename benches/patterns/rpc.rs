//! Calls: round trips per second, and how long they take.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use leveret::{Client, Runnable, Task, Worker, task};

use crate::measure::{Sample, Stopwatch, spread, thousands};
use crate::rpc_by_hand::by_hand;
use crate::{By, Plan};

/// Calls that are made before the measured ones.
const WARM_UP: usize = 100;

/// One round of one contender.
pub(crate) struct Round {
    sample: Sample,
    /// Of each call, sorted.
    latencies: Vec<Duration>,
}

impl Round {
    fn rate(&self) -> f64 {
        self.sample.rate()
    }

    fn cpu(&self) -> f64 {
        self.sample.cpu_per_job()
    }

    /// The latency under which this share of the calls stay, in microseconds.
    fn quantile(&self, share: f64) -> f64 {
        let at = ((self.latencies.len() - 1) as f64 * share).round() as usize;
        self.latencies[at].as_secs_f64() * 1e6
    }

    fn p50(&self) -> f64 {
        self.quantile(0.5)
    }

    fn p99(&self) -> f64 {
        self.quantile(0.99)
    }
}

/// Makes `calls` calls by `callers` tasks, each one after another.
pub(crate) async fn measure<C: AsyncCall>(caller: &C, callers: usize, calls: usize) -> Round {
    run(caller, callers, WARM_UP.max(callers)).await;
    let watch = Stopwatch::start();
    let mut latencies = run(caller, callers, calls).await;
    let sample = watch.stop(latencies.len());
    latencies.sort_unstable();
    Round { sample, latencies }
}

/// Something that adds two numbers elsewhere.
pub(crate) trait AsyncCall: Clone + Send + 'static {
    /// Calls.
    fn add(&self, a: u64, b: u64) -> impl Future<Output = u64> + Send;
}

async fn run<C: AsyncCall>(caller: &C, callers: usize, calls: usize) -> Vec<Duration> {
    let share = calls / callers;
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::with_capacity(share);
                for n in 0..share as u64 {
                    let since = Instant::now();
                    assert_eq!(caller.add(n, 1).await, n + 1);
                    latencies.push(since.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut all = Vec::with_capacity(calls);
    for task in tasks {
        all.extend(task.await.expect("no panic"));
    }
    all
}

/// Ours, on a classic queue.
#[task(queue = "bench.rpc.classic", queue_type = "classic")]
pub(crate) async fn add_classic(a: u64, b: u64) -> Result<u64, Infallible> {
    Ok(a + b)
}

/// Ours, on a quorum queue.
#[task(queue = "bench.rpc.quorum")]
pub(crate) async fn add_quorum(a: u64, b: u64) -> Result<u64, Infallible> {
    Ok(a + b)
}

/// A client, and how it makes a task of two numbers.
struct Ours<T>(Client, fn(u64, u64) -> T);

impl<T> Clone for Ours<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), self.1)
    }
}

impl<T: Task<Output = u64>> AsyncCall for Ours<T> {
    async fn add(&self, a: u64, b: u64) -> u64 {
        self.0.call((self.1)(a, b)).await.expect("a reply")
    }
}

async fn ours<T: Task<Output = u64> + Runnable>(
    url: &str,
    callers: usize,
    calls: usize,
    job: fn(u64, u64) -> T,
) -> Round {
    let (serving, calling) = (connect(url).await, connect(url).await);
    let slots = u16::try_from(callers).expect("few callers");
    let worker = Worker::new(&serving).task::<T>().concurrency(slots).signals(false);
    let handle = worker.handle();
    let working = tokio::spawn(worker.run());
    let round = measure(&Ours(calling.clone(), job), callers, calls).await;
    calling.close().await;
    handle.shutdown();
    working.await.expect("no panic").expect("the worker ends well");
    serving.close().await;
    round
}

async fn connect(url: &str) -> Client {
    Client::connect(url).await.expect("the bench's node answers")
}

/// All rows.
pub(crate) async fn bench(url: &str, plan: &Plan) {
    println!(
        "calls/s, p50 and p99 in µs, µs of CPU of client and worker per call: medians; then ours against each:"
    );
    println!("median (lowest–highest) of the rounds\n");
    println!(
        "{:<18} {:<10} {:>8} {:>7} {:>7} {:>5}   {:<18} {:<18} {:<18} {:<18}",
        "", "", "calls/s", "p50", "p99", "cpu", "calls/s", "p50", "p99", "cpu"
    );
    queue(url, plan, "classic", |a, b| AddClassic { a, b }).await;
    queue(url, plan, "quorum", |a, b| AddQuorum { a, b }).await;
}

async fn queue<T: Task<Output = u64> + Runnable>(url: &str, plan: &Plan, kind: &str, job: fn(u64, u64) -> T) {
    let client = connect(url).await;
    client.declare_queue(T::queue()).await.expect("declared");
    for callers in [1, 16, 64] {
        let name = format!("{kind}: rpc at {callers}");
        if !format!("{name} ").contains(&plan.only) {
            continue;
        }
        // One caller alone waits for each round trip, so fewer make the same time.
        let calls = if callers == 1 { plan.calls / 2 } else { plan.calls };
        let mut rounds = By::ALL.map(|_| Vec::new());
        let contenders: Vec<_> =
            By::ALL.into_iter().filter(|by| plan.by.is_none_or(|only| only == *by)).collect();
        for round in 0..plan.rounds {
            for turn in 0..contenders.len() {
                let by = contenders[(turn + round) % contenders.len()];
                client.operator().unwrap().purge(T::queue().name()).await.expect("purged");
                rounds[by as usize].push(match by {
                    By::Ours => ours(url, callers, calls, job).await,
                    By::Plain => by_hand(url, T::queue().name(), callers, calls, false).await,
                    By::Confirmed => by_hand(url, T::queue().name(), callers, calls, true).await,
                });
            }
        }
        print(&name, &rounds);
    }
    client.close().await;
}

fn print(name: &str, rounds: &[Vec<Round>; 3]) {
    let median = |by: By, figure: fn(&Round) -> f64| {
        let rounds = &rounds[by as usize];
        if rounds.is_empty() { "–".to_owned() } else { thousands(spread(rounds.iter().map(figure)).0) }
    };
    let ratio = |by: By, figure: fn(&Round) -> f64| {
        let pairs = rounds[By::Ours as usize].iter().zip(&rounds[by as usize]);
        let ratios: Vec<_> = pairs.map(|(ours, theirs)| figure(ours) / figure(theirs)).collect();
        if by == By::Ours || ratios.is_empty() {
            return String::new();
        }
        let (median, low, high) = spread(ratios);
        format!("{median:.2} ({low:.2}–{high:.2})")
    };
    for by in By::ALL {
        println!(
            "{:<18} {:<10} {:>8} {:>7} {:>7} {:>5}   {:<18} {:<18} {:<18} {:<18}",
            if by == By::Ours { name } else { "" },
            format!("{by:?}").to_lowercase(),
            median(by, Round::rate),
            median(by, Round::p50),
            median(by, Round::p99),
            median(by, Round::cpu),
            ratio(by, Round::rate),
            ratio(by, Round::p50),
            ratio(by, Round::p99),
            ratio(by, Round::cpu),
        );
    }
}
