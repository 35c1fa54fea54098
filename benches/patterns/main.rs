//! Messaging patterns beside hand-written lapin loops on one RabbitMQ node, alternating in one process run: calls, and
//! events to a topic exchange. And routing on the memory broker, by bindings and by words.
//!
//! `cargo bench --features rabbitmq --bench patterns` starts a node of its own (`scripts/rabbitmq`); `LEVERET_BENCH_URL` names another.
//! After `--`: `--short` for a quick look, `--rounds 15 --calls 20000` for longer runs, `--only quorum` for the rows
//! whose names contain that (`routing` needs no node, `topic` are the events), `--by plain` for one contender alone, as
//! for a profiler.
//!
//! A round of both makes one ratio, and the order changes from round to round; connecting, declaring and the first
//! calls are not counted. Shared machines are noisy: compare ratios and medians, not single figures.

#[path = "../measure/mod.rs"]
mod measure;
#[path = "../measure/node.rs"]
mod node;
mod routing;
mod rpc;
mod rpc_by_hand;
mod topic;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// How much is measured.
struct Plan {
    rounds: usize,
    calls: usize,
    /// Which rows: those whose name contains it.
    only: String,
    /// Which contender alone, as for a profiler.
    by: Option<By>,
}

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Ours,
    /// What the tutorials write: nothing is confirmed.
    Plain,
    /// By hand, with requests that are mandatory and confirmed.
    Confirmed,
}

impl By {
    const ALL: [Self; 3] = [Self::Ours, Self::Plain, Self::Confirmed];
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
        rpc_by_hand::IS_LABELLED.store(has("--labelled"), Ordering::Relaxed);
        let short = has("--short");
        Self {
            rounds: number("--rounds").unwrap_or(if short { 1 } else { 9 }),
            calls: number("--calls").unwrap_or(if short { 500 } else { 5_000 }),
            only: value("--only").unwrap_or_default().to_owned(),
            by: By::ALL.into_iter().find(|by| value("--by") == Some(&format!("{by:?}").to_lowercase())),
        }
    }

    /// Whether a row of this name is measured.
    fn wants(&self, row: &str) -> bool {
        row.contains(&self.only)
    }
}

fn main() -> ExitCode {
    // `cargo test --benches` only wants to know that it builds.
    if std::env::args().any(|arg| arg == "--test") {
        return ExitCode::SUCCESS;
    }
    let url = std::env::var("LEVERET_BENCH_URL");
    // Routing needs no node.
    if url.is_err() && Plan::from_args().only != "routing" {
        return node::with_own_node();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::spawn(bench(url.unwrap_or_default())).await.expect("no panic") });
    ExitCode::SUCCESS
}

async fn bench(url: String) {
    let plan = Plan::from_args();
    if plan.wants("routing") {
        routing::bench().await;
    }
    if plan.wants("topic") {
        topic::bench(&url, &plan).await;
    }
    // The rows' names begin with the kind of the queue: `classic: rpc at 16`.
    if plan.only != "routing" && plan.only != "topic" {
        println!("{} rounds of {} calls each", plan.rounds, plan.calls);
        rpc::bench(&url, &plan).await;
    }
}
