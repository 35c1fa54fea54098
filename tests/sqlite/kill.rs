//! `kill -9` at random moments: no job whose enqueue returned `Ok` is lost, none is settled twice.
//!
//! `LEVERET_KILL_ROUNDS=200 cargo test --features sqlite --test sqlite kill -- --nocapture` for the long form.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use leveret::Client;
use queue_core::broker::{ConsumeOptions, Delivery, Publish};
use queue_core::envelope::Envelope;
use queue_core::settlement::{Reason, ReasonKind, Settlement};
use queue_core::topology::{QueueSpec, Route};

use crate::support::{Database, PATIENCE, Program, say, text};

const OPTIONS: &str = "?lease=1s";

fn spec() -> QueueSpec {
    QueueSpec::new("jobs")
}

fn route(client: &Client) -> Option<Route> {
    spec().dead_letter_route(client.namespace())
}

/// A program that enqueues as fast as it can, side by side, and says what was confirmed.
pub(crate) async fn publish(client: Client) {
    client.declare_queue(&spec()).await.unwrap();
    let publishers: Vec<_> = (0..8)
        .map(|publisher| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0_u64.. {
                    let id = format!("{}-{publisher}-{n}", std::process::id());
                    let mut publish = Publish::to_queue("jobs", Envelope::new(id.clone()));
                    if n % 20 == 19 {
                        let due = std::time::SystemTime::now() + Duration::from_millis(30);
                        publish.not_before = Some(due);
                    }
                    client.broker().publish(publish).await.unwrap();
                    say(&format!("kept {id}"));
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
}

/// A program that works: most jobs are acked, one in ten is retried first, one in ten is snoozed first, one in
/// twenty is a dead letter.
pub(crate) async fn work(client: Client) {
    client.declare_queue(&spec()).await.unwrap();
    let options = ConsumeOptions::new("jobs").prefetch(32).dead_letter(route(&client));
    let mut consumer = client.broker().consume(options).await.unwrap();
    while let Some(delivery) = consumer.next().await {
        tokio::spawn(settle(delivery.unwrap()));
    }
}

async fn settle(delivery: Delivery) {
    let (id, attempt, copy) = (text(&delivery), delivery.envelope.attempt, delivery.envelope.copy_number());
    say(&format!("ran {id}"));
    let n: u64 = id.rsplit('-').next().and_then(|n| n.parse().ok()).expect("a number");
    let reason = Reason::new(ReasonKind::Failed, "as planned");
    let until = std::time::SystemTime::now() + Duration::from_millis(10);
    let settlement = match (n % 20, copy) {
        (3 | 13, 0) => Settlement::Retry { after: Duration::from_millis(10), attempt: 2, reason },
        (5 | 15, 0) => Settlement::Snooze { until },
        (7, _) => Settlement::DeadLetter { reason },
        _ => Settlement::Ack,
    };
    if delivery.settle(settlement).await.is_ok() {
        say(&format!("settled {id} {attempt} {copy}"));
    }
}

/// What all programs have said.
#[derive(Debug, Default)]
struct Ledger {
    kept: HashSet<String>,
    ran: HashSet<String>,
    settled: HashMap<String, u32>,
}

impl Ledger {
    fn enter(&mut self, lines: Vec<String>) {
        for line in lines {
            match line.split_once(' ') {
                Some(("kept", id)) => drop(self.kept.insert(id.to_owned())),
                Some(("ran", id)) => drop(self.ran.insert(id.to_owned())),
                Some(("settled", id)) => *self.settled.entry(id.to_owned()).or_default() += 1,
                _ => panic!("a program said `{line}`"),
            }
        }
    }

    fn lost(&self) -> Vec<&String> {
        self.kept.difference(&self.ran).collect()
    }
}

#[tokio::test]
async fn nothing_confirmed_is_lost_and_nothing_settled_twice_under_kill() {
    let rounds =
        std::env::var("LEVERET_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(6);
    let database = Database::new();
    let mut ledger = Ledger::default();
    let mut random = fastrand::Rng::with_seed(11);
    let began = Instant::now();

    for _ in 0..rounds {
        let url = database.url(OPTIONS);
        let mut programs = ["publish", "publish", "work", "work"].map(|role| Program::start(role, &url));
        random.shuffle(&mut programs);
        for program in &mut programs {
            // Not waiting for anything: the moment of the kill is what is random.
            std::thread::sleep(Duration::from_micros(random.u64(0..150_000)));
            program.kill();
        }
        for program in &programs {
            ledger.enter(program.rest());
        }
    }

    // Whatever is left is worked by one that nobody kills.
    let client = database.client(OPTIONS).await;
    client.declare_queue(&spec()).await.unwrap();
    let worker = Program::start("work", &database.url(OPTIONS));
    let deadline = Instant::now() + PATIENCE + Duration::from_secs(1) * rounds;
    let is_drained = || async {
        let depth = client.admin().depth("jobs").await.unwrap();
        depth.ready == 0 && depth.unsettled == Some(0) && depth.delayed == Some(0)
    };
    while !is_drained().await {
        assert!(Instant::now() < deadline, "{:?}", client.admin().depth("jobs").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut worker = worker;
    worker.kill();
    ledger.enter(worker.rest());

    let twice: Vec<_> = ledger.settled.iter().filter(|(_, times)| **times > 1).collect();
    println!(
        "{rounds} rounds of kill -9 in {:?}: {} jobs kept, {} run, {} lost, {} settled twice",
        began.elapsed(),
        ledger.kept.len(),
        ledger.ran.len(),
        ledger.lost().len(),
        twice.len()
    );
    assert!(ledger.lost().is_empty(), "lost: {:?}", ledger.lost());
    assert!(twice.is_empty(), "settled twice: {twice:?}");
    assert!(!ledger.kept.is_empty(), "nobody enqueued anything");
    client.close().await;
}
