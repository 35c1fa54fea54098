//! Files that cannot be used, each with its words; and what becomes of a file's size.

use std::path::Path;

use leveret::{Client, ErrorKind};
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::Envelope;
use queue_core::settlement::Settlement;
use queue_core::topology::{QueueDecl, Topology};
use rusqlite::Connection;

use crate::support::{Database, PATIENCE, log, next};

async fn refusal(path: &Path) -> (ErrorKind, String) {
    let error =
        Client::connect(&format!("sqlite:{}", path.display())).await.expect_err("it cannot be opened");
    (error.kind(), leveret::error_chain(&error))
}

#[tokio::test]
async fn directory_is_told_from_a_file() {
    let (kind, words) = refusal(Path::new(env!("CARGO_TARGET_TMPDIR"))).await;

    assert_eq!(kind, ErrorKind::Config);
    assert!(words.contains("is a directory") && words.contains("jobs.db"), "{words}");
}

#[tokio::test]
async fn missing_directory_is_named() {
    let (kind, words) = refusal(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("nowhere/jobs.db")).await;

    assert_eq!(kind, ErrorKind::Config);
    assert!(words.contains("nowhere`; create it"), "{words}");
}

#[tokio::test]
async fn file_that_is_no_database_is_left_alone() {
    let database = Database::new();
    let letter = "Dear Ada,\n".repeat(500);
    std::fs::write(&database.0, &letter).unwrap();

    let (kind, words) = refusal(&database.0).await;

    assert_eq!(kind, ErrorKind::Config);
    assert!(words.contains("is no SQLite database"), "{words}");
    assert_eq!(std::fs::read_to_string(&database.0).unwrap(), letter);
}

#[tokio::test]
async fn database_of_another_program_is_left_alone() {
    let database = Database::new();
    let theirs = Connection::open(&database.0).unwrap();
    theirs.execute_batch("PRAGMA application_id = 252006673; CREATE TABLE blob (b)").unwrap();
    drop(theirs);
    let before = std::fs::read(&database.0).unwrap();

    let (kind, words) = refusal(&database.0).await;

    assert_eq!(kind, ErrorKind::Config);
    assert!(words.contains("belongs to another program"), "{words}");
    assert_eq!(std::fs::read(&database.0).unwrap(), before);
}

/// An application's own tables and ours live in one file, so that one transaction can write to both.
#[tokio::test]
async fn database_of_an_application_is_shared() {
    let database = Database::new();
    let theirs = Connection::open(&database.0).unwrap();
    theirs.execute_batch("PRAGMA user_version = 7; CREATE TABLE account (name)").unwrap();

    let client = database.client("").await;
    client.close().await;
    let client = database.client("").await;
    client.close().await;

    let version: i64 = theirs.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 7, "the application's own number is not ours to change");
}

/// Whichever of the two opens the file first: an application that counts its migrations begins with its first.
#[tokio::test]
async fn application_marks_and_numbers_a_file_of_ours_as_its_own() {
    let database = Database::new();
    database.client("").await.close().await;
    let theirs = Connection::open(&database.0).unwrap();

    let version: i64 = theirs.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    let marks = "PRAGMA user_version = 5; PRAGMA application_id = 252006673; CREATE TABLE account (name)";
    theirs.execute_batch(marks).unwrap();
    let client = Client::connect(&database.url("")).await;

    assert_eq!(version, 0, "its first migrations would be left out");
    client.unwrap_or_else(|error| panic!("{}", leveret::error_chain(&error))).close().await;
    let version: i64 = theirs.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 5);
}

#[tokio::test]
async fn newer_tables_are_refused_by_their_version() {
    let database = Database::new();
    database.client("").await.close().await;
    let newer = Connection::open(&database.0).unwrap();
    newer.execute_batch("UPDATE leveret_meta SET schema = 99").unwrap();
    drop(newer);

    let (kind, words) = refusal(&database.0).await;

    assert_eq!(kind, ErrorKind::Config);
    assert!(words.contains("version 99") && words.contains("update this program"), "{words}");
}

/// Takes out of a file what the versions of the tables after `version` added.
fn downgrade(file: &Connection, version: u32) {
    let added = [
        (7, "DROP TABLE leveret_lock;"),
        (6, "ALTER TABLE leveret_job DROP COLUMN unmarked;"),
        (5, "ALTER TABLE leveret_job DROP COLUMN given_back;"),
        (
            4,
            "DROP TABLE leveret_member;
             ALTER TABLE leveret_meta DROP COLUMN store;
             DROP INDEX leveret_delayed_for;
             CREATE INDEX leveret_delayed_for ON leveret_delayed (queue) WHERE exchange IS NULL;",
        ),
        (
            3,
            "DROP INDEX leveret_outbox_jobs;
             DROP INDEX leveret_outbox_events;
             ALTER TABLE leveret_outbox DROP COLUMN exchange;
             ALTER TABLE leveret_outbox DROP COLUMN routing_key;
             CREATE INDEX leveret_outbox_waiting ON leveret_outbox (queue) WHERE refused IS NULL;",
        ),
        (
            2,
            "ALTER TABLE leveret_job DROP COLUMN content_encoding;
             ALTER TABLE leveret_job DROP COLUMN app_id;
             ALTER TABLE leveret_job DROP COLUMN cluster_id;
             ALTER TABLE leveret_delayed DROP COLUMN content_encoding;
             ALTER TABLE leveret_delayed DROP COLUMN app_id;
             ALTER TABLE leveret_delayed DROP COLUMN cluster_id;
             ALTER TABLE leveret_reply DROP COLUMN content_encoding;
             ALTER TABLE leveret_reply DROP COLUMN app_id;
             ALTER TABLE leveret_reply DROP COLUMN cluster_id;",
        ),
    ];
    for (_, added) in added.iter().filter(|(by, _)| *by > version) {
        file.execute_batch(added).unwrap();
    }
    file.execute_batch(&format!("UPDATE leveret_meta SET schema = {version}")).unwrap();
}

/// The columns and indexes of all our tables.
fn shape(file: &Connection) -> Vec<String> {
    let lines = |sql: &str| -> Vec<String> {
        file.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let mut shape = lines(
        "SELECT format('%s.%s %s %d %d', t.name, c.name, c.type, c.\"notnull\", c.pk) \
         FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table' AND t.name LIKE 'leveret%' ORDER BY 1",
    );
    shape.extend(lines("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql NOT NULL ORDER BY 1"));
    shape
}

/// A program of an earlier version made the file, and left jobs in it.
#[tokio::test]
async fn older_tables_are_brought_up_to_date_with_what_is_in_them() {
    let today = Database::new();
    let new = today.client("").await;
    let expected = shape(&Connection::open(&today.0).unwrap());
    for version in 1..=6 {
        let database = Database::new();
        let client = database.client("").await;
        client.declare(&Topology::new().queue(QueueDecl::new("jobs"))).await.unwrap();
        client.broker().publish(Publish::to_queue("jobs", Envelope::new("old"))).await.unwrap();
        client.close().await;
        let file = Connection::open(&database.0).unwrap();
        downgrade(&file, version);
        assert_ne!(shape(&file), expected);
        let insert =
            "INSERT INTO leveret_outbox (queue, id, payload) VALUES ('jobs', 'inserted', 'inserted')";
        file.execute_batch(insert).unwrap();

        let client = database.client("").await;

        assert_eq!(shape(&file), expected, "from version {version}");
        let mut consumer = client.broker().consume(ConsumeOptions::new("jobs").prefetch(3)).await.unwrap();
        let (old, inserted) = (next(&mut consumer).await, next(&mut consumer).await);
        assert_eq!(&*inserted.envelope.payload, b"inserted");
        let mut with_app = Envelope::new("new");
        with_app.app_id = Some("billing".to_owned());
        client.broker().publish(Publish::to_queue("jobs", with_app)).await.unwrap();
        let latest = next(&mut consumer).await;
        assert_eq!((&*old.envelope.payload, old.envelope.app_id.as_deref()), (&b"old"[..], None));
        assert_eq!(
            (&*latest.envelope.payload, latest.envelope.app_id.as_deref()),
            (&b"new"[..], Some("billing"))
        );
        // It has a store, of its own.
        assert!(client.admin().workers().await.unwrap().is_empty());
        let (store, other) = (client.store().unwrap(), new.store().unwrap());
        assert!(store.id().len() == 32 && store.id() != other.id(), "{}", store.id());
        client.close().await;
    }
    new.close().await;
}

#[tokio::test]
async fn damaged_file_is_told_with_how_to_save_it() {
    let database = Database::new();
    let client = database.client("").await;
    client.declare(&Topology::new().queue(QueueDecl::new("jobs"))).await.unwrap();
    client.close().await;
    let mut bytes = std::fs::read(&database.0).unwrap();
    // All but the first page, which says that it is a database.
    bytes[4096..].fill(0x5a);
    std::fs::write(&database.0, bytes).unwrap();

    let (kind, words) = refusal(&database.0).await;

    assert_eq!(kind, ErrorKind::Config);
    assert!(words.contains("is damaged") && words.contains(".recover"), "{words}");
}

#[tokio::test]
async fn file_shrinks_when_its_jobs_are_done() {
    let database = Database::new();
    let client = database.client("").await;
    client.declare(&Topology::new().queue(QueueDecl::new("jobs"))).await.unwrap();
    let jobs = (0..3000).map(|_| Publish::to_queue("jobs", Envelope::new("x".repeat(10_000)))).collect();
    assert!(client.broker().publish_all(jobs).await.iter().all(Result::is_ok));
    let size = || std::fs::metadata(&database.0).unwrap().len();
    let (pages, full) = (8_000_000, 30_000_000);
    let other = Connection::open(&database.0).unwrap();
    // Nothing signals what is looked for here, neither now nor below.
    let until = async |what: &str, is_so: &dyn Fn() -> bool| {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !is_so() {
            assert!(std::time::Instant::now() < deadline, "{what}: {} bytes", size());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let copied = || {
        // The file has little of it until it is copied there from the log, for which another may have the lock.
        other.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        size() > full
    };
    until("a full file", &copied).await;

    client.operator().unwrap().purge("jobs").await.unwrap();

    until("a small file", &|| size() < pages).await;
    client.close().await;
}

/// A backup, a report or a forgotten cursor: while it reads, the log cannot begin anew.
#[tokio::test]
async fn log_that_a_reader_makes_long_is_told_and_shrinks_when_he_ends() {
    log::listen();
    let database = Database::new();
    let client = database.client("").await;
    client.declare(&Topology::new().queue(QueueDecl::new("jobs"))).await.unwrap();
    let reader = Connection::open(&database.0).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM leveret_job").unwrap();
    let path = format!("{}-wal", database.0.display());
    let size = || std::fs::metadata(&path).unwrap().len();
    let told =
        || log::lines(&["the log of the database grows", "keeps a read transaction open", &path]).len();

    while size() < 140 << 20 {
        let jobs = (0..500).map(|_| Publish::to_queue("jobs", Envelope::new("x".repeat(20_000)))).collect();
        assert!(client.broker().publish_all(jobs).await.iter().all(Result::is_ok));
        client.operator().unwrap().purge("jobs").await.unwrap();
    }

    // At 64 MiB and when that had doubled, not at each checkpoint.
    assert!((1..=2).contains(&told()), "told {} times", told());
    reader.execute_batch("COMMIT").unwrap();
    // Nothing signals that it is made smaller; one that never is runs into the deadline.
    let deadline = std::time::Instant::now() + PATIENCE;
    while size() > 16 << 20 {
        assert!(std::time::Instant::now() < deadline, "the log has {} bytes", size());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    client.close().await;
}

/// Publishes a job, and acks it.
async fn finish(client: &Client, payload: &str) {
    client.declare(&Topology::new().queue(QueueDecl::new("jobs"))).await.unwrap();
    client.broker().publish(Publish::to_queue("jobs", Envelope::new(payload.to_owned()))).await.unwrap();
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
}

fn finished(connection: &Connection) -> Vec<String> {
    let mut select = connection.prepare("SELECT payload FROM leveret_finished ORDER BY finished").unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Nothing signals that a finished job is pruned.
async fn until_pruned(connection: &Connection, left: &[&str]) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while finished(connection) != left {
        assert!(std::time::Instant::now() < deadline, "{:?} stay", finished(connection));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn finished_jobs_are_kept_as_long_as_asked() {
    let database = Database::new();
    let client = database.client("?keep=2s").await;
    let looker = Connection::open(&database.0).unwrap();

    finish(&client, "kept").await;

    assert_eq!(finished(&looker), ["kept"]);
    until_pruned(&looker, &[]).await;
    client.close().await;
}

#[tokio::test]
async fn finished_jobs_are_kept_as_whoever_finished_them_asked() {
    let database = Database::new();
    let long = database.client("?keep=1h").await;
    finish(&long, "long").await;
    let short = database.client("?keep=1ms").await;
    finish(&short, "short").await;
    let other = database.client("").await;

    // Whoever does it, one that goes by a `keep` of its own prunes both.
    let looker = Connection::open(&database.0).unwrap();
    until_pruned(&looker, &["long"]).await;
    finish(&other, "gone").await;

    assert_eq!(finished(&looker), ["long"]);
    for client in [long, short, other] {
        client.close().await;
    }
}
