//! What happens to a file while it is in use: a newer program changes it, another one locks it, it is damaged.

use std::time::{Duration, Instant};

use leveret::{Client, PublishError};
use queue_core::broker::{ConsumeOptions, Health, Publish};
use queue_core::envelope::Envelope;
use queue_core::settlement::Settlement;
use queue_core::topology::{QueueDecl, Topology};
use rusqlite::{Connection, TransactionBehavior};

use crate::support::{Database, PATIENCE, next, text};

fn job(payload: &str) -> Publish {
    Publish::to_queue("jobs", Envelope::new(payload.to_owned()))
}

async fn declare(client: &Client) {
    client.declare(&Topology::new().queue(QueueDecl::new("jobs"))).await.unwrap();
}

/// Nothing signals a client's health.
async fn until_down(client: &Client) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Health::Down(words) = client.broker().info().health {
            return words;
        }
        assert!(Instant::now() < deadline, "it is never down");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn program_that_is_too_old_for_the_tables_leaves_them_alone() {
    let database = Database::new();
    let old = database.client("").await;
    declare(&old).await;
    old.broker().publish(job("kept")).await.unwrap();
    let newer = Connection::open(&database.0).unwrap();

    // As a newer program does it: another version, and other tables.
    newer
        .execute_batch(
            "BEGIN IMMEDIATE; UPDATE leveret_meta SET schema = 99; \
             ALTER TABLE leveret_job RENAME COLUMN level TO rank; COMMIT",
        )
        .unwrap();
    // Found out by itself, too.
    let health = until_down(&old).await;
    let refused = old.broker().publish(job("refused")).await.expect_err("the tables are newer");
    let mut consumer = old.broker().consume(ConsumeOptions::new("jobs")).await;

    let words = leveret::error_chain(&refused);
    for words in [&words, &health] {
        assert!(words.contains("newer Leveret: update this program"), "{words}");
        assert!(words.contains("version 99, and this program knows "), "{words}");
    }
    assert!(consumer.as_mut().is_err(), "it consumes what it does not understand");
    old.close().await;
    let payloads: String =
        newer.query_row("SELECT group_concat(payload) FROM leveret_job", [], |row| row.get(0)).unwrap();
    assert_eq!(payloads, "kept");
}

#[tokio::test]
async fn transaction_of_another_program_is_waited_for() {
    let database = Database::new();
    let client = database.client("").await;
    declare(&client).await;
    let mut application = Connection::open(&database.0).unwrap();
    let transaction = application.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();

    let publisher = client.clone();
    let publishing = tokio::spawn(async move { publisher.broker().publish(job("waits")).await });
    // Reading does not wait for it.
    assert_eq!(client.admin().depth("jobs").await.unwrap().ready, 0);
    assert!(!publishing.is_finished());
    transaction.commit().unwrap();

    publishing.await.unwrap().unwrap();
    client.close().await;
}

/// A file that has no log yet gets one, for which SQLite itself does not wait.
#[tokio::test]
async fn transaction_in_another_journal_mode_is_waited_for() {
    let database = Database::new();
    let mut application = Connection::open(&database.0).unwrap();
    application.execute_batch("CREATE TABLE account (name)").unwrap();
    let (began, begins) = std::sync::mpsc::channel();
    let writing = std::thread::spawn(move || {
        let transaction = application.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        transaction.execute("INSERT INTO account VALUES ('Ada')", []).unwrap();
        began.send(()).unwrap();
        // Nothing signals that somebody waits.
        std::thread::sleep(Duration::from_millis(500));
        transaction.commit().unwrap();
    });
    begins.recv().unwrap();

    let client = database.client("").await;

    writing.join().unwrap();
    declare(&client).await;
    client.close().await;
}

#[tokio::test]
async fn file_that_stays_locked_is_an_error_after_the_publish_timeout_that_loses_nothing() {
    let database = Database::new();
    let timeout = Duration::from_millis(300);
    let client = Client::builder().publish_timeout(timeout).connect(&database.url("")).await.unwrap();
    declare(&client).await;
    client.broker().publish(job("held")).await.unwrap();
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    let held = next(&mut consumer).await;
    let mut application = Connection::open(&database.0).unwrap();
    let transaction = application.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();

    let (published, settled) =
        tokio::join!(client.broker().publish(job("refused")), held.settle(Settlement::Ack));

    let refused = published.unwrap_err();
    let words = leveret::error_chain(&refused);
    assert!(words.contains("locked by another program: end what holds"), "{words}");
    let PublishError::Unavailable { waited, .. } = refused else { panic!("{refused:?}") };
    // Not SQLite's own ten seconds, nor those of others who waited before.
    assert!(waited >= timeout && waited < timeout + Duration::from_secs(5), "{waited:?}");
    assert!(settled.is_err(), "acked, but not written");
    transaction.commit().unwrap();
    // What could not be settled comes again.
    let again = next(&mut consumer).await;
    assert_eq!((text(&again).as_str(), again.redelivered), ("held", true));
    again.settle(Settlement::Ack).await.unwrap();
    assert_eq!(client.broker().info().health, Health::Up);
    client.close().await;
}

#[tokio::test]
async fn file_that_is_damaged_while_it_is_open_is_told() {
    let database = Database::new();
    let client = database.client("").await;
    declare(&client).await;
    let jobs = (0..2000).map(|_| job(&"x".repeat(200))).collect();
    assert!(client.broker().publish_all(jobs).await.iter().all(Result::is_ok));
    client.close().await;
    let file = Connection::open(&database.0).unwrap();
    // What is read at the start is as it was.
    let page: i64 = file
        .query_row("SELECT rootpage FROM sqlite_master WHERE name = 'leveret_job_ready'", [], |row| {
            row.get(0)
        })
        .unwrap();
    drop(file);
    let mut bytes = std::fs::read(&database.0).unwrap();
    let end = usize::try_from(page).unwrap() * 4096;
    bytes[end - 4096..end].fill(0x5a);
    std::fs::write(&database.0, bytes).unwrap();

    let client = database.client("").await;
    let consumer = client.broker().consume(ConsumeOptions::new("jobs")).await;
    let health = until_down(&client).await;

    assert!(consumer.is_err());
    assert!(health.contains("is damaged: keep a copy"), "{health}");
    client.close().await;
}
