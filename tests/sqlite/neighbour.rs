//! Programs on one file hear of each other at once, cost next to nothing while there is nothing to do, and leave each
//! other, and all queues, their turn.

use std::time::{Duration, Instant};

use leveret::Client;
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::Envelope;
use queue_core::settlement::Settlement;
use queue_core::topology::{QueueDecl, Topology};

use crate::support::{Database, PATIENCE, Program, next, say, text};

fn job(queue: &'static str, payload: &str) -> Publish {
    Publish::to_queue(queue, Envelope::new(payload.to_owned()))
}

async fn declare(client: &Client) {
    let queues = Topology::new().queue(QueueDecl::new("jobs")).queue(QueueDecl::new("others"));
    client.declare(&queues).await.unwrap();
}

/// A program that answers each of `jobs` by one of `others`.
pub(crate) async fn echo(client: Client) {
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    say("listens");
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery.unwrap();
        client.broker().publish(job("others", &text(&delivery))).await.unwrap();
        delivery.settle(Settlement::Ack).await.unwrap();
    }
}

/// A program that enqueues as fast as it can.
pub(crate) async fn flood(client: Client) {
    say("floods");
    loop {
        let jobs = (0..1000).map(|_| job("others", "flood")).collect();
        assert!(client.broker().publish_all(jobs).await.iter().all(Result::is_ok));
    }
}

/// There and back: a job wakes the other program, and its answer wakes this one.
#[tokio::test]
async fn job_wakes_a_program_that_has_nothing_to_do() {
    let database = Database::new();
    let client = database.client("").await;
    declare(&client).await;
    let program = Program::start("echo", &database.url(""));
    assert_eq!(program.line(), "listens");
    let mut consumer = client.broker().consume(ConsumeOptions::new("others")).await.unwrap();

    let mut waits = Vec::new();
    for n in 0..20 {
        let since = Instant::now();
        client.broker().publish(job("jobs", &n.to_string())).await.unwrap();
        let answer = next(&mut consumer).await;
        waits.push(since.elapsed() / 2);
        assert_eq!(text(&answer), n.to_string());
        answer.settle(Settlement::Ack).await.unwrap();
    }

    waits.sort();
    let (median, worst) = (waits[10], waits[19]);
    println!("woken across processes within {median:?} (median), {worst:?} (worst of 20)");
    // The median, because a loaded machine may let anybody wait for once.
    assert!(median < Duration::from_millis(50), "{waits:?}");
    client.close().await;
}

/// Reads /proc, which not every system has.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn program_that_has_nothing_to_do_costs_next_to_nothing() {
    let database = Database::new();
    let client = database.client("").await;
    declare(&client).await;
    let program = Program::start("echo", &database.url(""));
    assert_eq!(program.line(), "listens");
    let cpu = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.process.id())).unwrap();
        let fields: Vec<u64> =
            stat.rsplit(") ").next().unwrap().split(' ').filter_map(|field| field.parse().ok()).collect();
        // utime and stime, in ticks of 10 ms; the field behind the name is no number.
        Duration::from_millis(10 * (fields[10] + fields[11]))
    };

    let (since, before) = (Instant::now(), cpu());
    // Nothing is to happen, so there is nothing to wait for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (spent, time) = (cpu() - before, since.elapsed());

    println!("an idle program takes {spent:?} of CPU in {time:?}");
    assert!(spent < time / 20, "{spent:?} of CPU in {time:?}");
    client.close().await;
}

#[tokio::test]
async fn program_is_not_starved_by_one_that_writes_all_the_time() {
    let database = Database::new();
    let client = database.client("").await;
    declare(&client).await;
    let program = Program::start("flood", &database.url(""));
    assert_eq!(program.line(), "floods");

    let mut waits = Vec::new();
    for _ in 0..20 {
        let since = Instant::now();
        client.broker().publish(job("jobs", "small")).await.unwrap();
        waits.push(since.elapsed());
    }

    waits.sort();
    println!("beside a flood a publish takes {:?} (median), {:?} (worst of 20)", waits[10], waits[19]);
    assert!(waits[19] < PATIENCE / 10, "{waits:?}");
    drop(program);
    client.close().await;
}

/// One client consumes both. Whatever lies in one queue, the other has its turn.
#[tokio::test]
async fn queue_is_not_starved_by_one_that_is_never_empty() {
    let database = Database::new();
    let client = database.client("").await;
    declare(&client).await;
    let flood = (0..5000).map(|_| job("others", "flood")).collect();
    assert!(client.broker().publish_all(flood).await.iter().all(Result::is_ok));
    let mut others = client.broker().consume(ConsumeOptions::new("others").prefetch(8)).await.unwrap();
    let mut jobs = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    let working = tokio::spawn(async move {
        let mut worked = 0;
        while worked < 5000 {
            next(&mut others).await.settle(Settlement::Ack).await.unwrap();
            worked += 1;
        }
    });

    let depth = async || client.admin().depth("others").await.unwrap().ready;
    for n in 0..20 {
        client.broker().publish(job("jobs", &n.to_string())).await.unwrap();
        let delivery = next(&mut jobs).await;
        assert_eq!(text(&delivery), n.to_string());
        delivery.settle(Settlement::Ack).await.unwrap();
    }

    assert!(depth().await > 0, "the other queue was worked off first");
    working.await.unwrap();
    client.close().await;
}
