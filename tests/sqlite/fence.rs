//! Several programs on one file: a job is settled once, whoever stalls or dies.

use std::time::{Duration, Instant};

use leveret::Client;
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::Envelope;
use queue_core::error::SettleError;
use queue_core::settlement::Settlement;
use queue_core::topology::{QueueDecl, Topology};

use crate::support::{Database, Program, log, next, say, text, wait_for_word};

const LEASE: Duration = Duration::from_secs(2);

/// A program that takes a job, and settles it when it is told to.
pub(crate) async fn hold(client: Client) {
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    let delivery = next(&mut consumer).await;
    say(&format!("holds {}", text(&delivery)));
    wait_for_word();
    match delivery.settle(Settlement::Ack).await {
        Ok(()) => say("settled"),
        Err(SettleError::Lost) => say("lost"),
        Err(error) => say(&format!("failed: {error}")),
    }
}

/// A program that is handed several jobs, and, when it is told to go on, says of each whether it may begin.
pub(crate) async fn begin(client: Client) {
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs").prefetch(3)).await.unwrap();
    let first = next(&mut consumer).await;
    say(&format!("holds {}", text(&first)));
    wait_for_word();
    for delivery in [first, next(&mut consumer).await, next(&mut consumer).await] {
        say(if delivery.is_lost() { "lost" } else { "ours" });
    }
}

/// A program that takes a job and ends without settling it.
pub(crate) async fn leave(client: Client) {
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    let delivery = next(&mut consumer).await;
    say(&format!("holds {}", text(&delivery)));
}

async fn one_job(client: &Client) {
    client.declare(&Topology::new().queue(QueueDecl::new("jobs"))).await.unwrap();
    client.broker().publish(Publish::to_queue("jobs", Envelope::new("job"))).await.unwrap();
}

#[tokio::test]
async fn job_of_a_killed_program_is_taken_up_within_its_lease() {
    log::listen();
    let database = Database::new();
    let client = database.client("?lease=2s").await;
    one_job(&client).await;
    let mut killed = Program::start("hold", &database.url("?lease=2s"));
    assert_eq!(killed.line(), "holds job");
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();

    killed.kill();
    let since = Instant::now();
    let again = next(&mut consumer).await;

    let waited = since.elapsed();
    assert!(again.redelivered);
    // The log names the program as the system does.
    let program = format!(":{}\"", killed.process.id());
    let told = log::lines(&["ended without closing it", "jobs=1", &program]);
    assert_eq!(told.len(), 1, "{:?}", log::lines(&["had the file open"]));
    // Twice, because the machine may be loaded.
    assert!(waited < LEASE * 2, "taken up after {waited:?}");
    again.settle(Settlement::Ack).await.unwrap();
    client.close().await;
}

#[tokio::test]
async fn job_of_a_program_that_ended_is_taken_up_at_once() {
    let database = Database::new();
    // A lease that would not be over before the test is.
    let client = database.client("?lease=10m").await;
    one_job(&client).await;
    let mut ended = Program::start("leave", &database.url("?lease=10m"));
    assert_eq!(ended.line(), "holds job");
    ended.process.wait().unwrap();

    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();

    assert!(next(&mut consumer).await.redelivered);
    client.close().await;
}

#[tokio::test]
async fn late_settlement_of_a_program_that_stalled_is_refused() {
    let database = Database::new();
    let client = database.client("?lease=2s").await;
    one_job(&client).await;
    let mut stalled = Program::start("hold", &database.url("?lease=2s"));
    assert_eq!(stalled.line(), "holds job");
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();

    stalled.signal("STOP");
    let again = next(&mut consumer).await;
    stalled.signal("CONT");
    stalled.go_on();

    assert_eq!(stalled.line(), "lost");
    again.settle(Settlement::Ack).await.unwrap();
    assert_eq!(client.admin().depth("jobs").await.unwrap().unsettled, Some(0));
    client.close().await;
}

/// It goes on before its own writer has found out that others took it for dead.
#[tokio::test]
async fn what_a_stalled_program_had_not_begun_is_lost() {
    let database = Database::new();
    let client = database.client("?lease=2s").await;
    one_job(&client).await;
    for _ in 0..2 {
        client.broker().publish(Publish::to_queue("jobs", Envelope::new("job"))).await.unwrap();
    }
    let mut stalled = Program::start("begin", &database.url("?lease=2s"));
    assert_eq!(stalled.line(), "holds job");
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs").prefetch(3)).await.unwrap();

    stalled.signal("STOP");
    let mut taken_over = Vec::new();
    for _ in 0..3 {
        taken_over.push(next(&mut consumer).await);
    }
    stalled.go_on();
    stalled.signal("CONT");

    for _ in 0..3 {
        assert_eq!(stalled.line(), "lost");
    }
    for delivery in taken_over {
        assert!(!delivery.is_lost());
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    client.close().await;
}

/// A job that runs for longer than the lease is not taken away, because its program lives.
#[tokio::test]
async fn lease_is_renewed_while_a_job_runs() {
    let database = Database::new();
    let client = database.client("?lease=1s").await;
    one_job(&client).await;
    let mut holder = Program::start("hold", &database.url("?lease=1s"));
    assert_eq!(holder.line(), "holds job");
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();

    // Three leases long nothing comes.
    let nothing = tokio::time::timeout(Duration::from_secs(3), consumer.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    holder.go_on();

    assert_eq!(holder.line(), "settled");
    client.close().await;
}
