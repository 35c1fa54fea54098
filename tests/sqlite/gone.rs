//! A file that is deleted, moved or replaced under a running program: nothing is confirmed into it, and all is well when
//! it comes back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use leveret::{Client, ErrorKind, Outbox, PublishError};
use queue_core::broker::{ConsumeOptions, Health, Publish};
use queue_core::envelope::Envelope;
use queue_core::settlement::Settlement;
use queue_core::topology::{QueueDecl, Topology};
use rusqlite::Connection;
use tokio_util::sync::CancellationToken;

use crate::support::{Database, PATIENCE, next, text};

fn job(payload: &str) -> Publish {
    Publish::to_queue("jobs", Envelope::new(payload.to_owned()))
}

async fn declare(client: &Client) {
    client.declare(&Topology::new().queue(QueueDecl::new("jobs"))).await.unwrap();
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", database.display()))
}

/// Nothing signals a client's health.
async fn until(client: &Client, is_reached: impl Fn(&Health) -> bool) -> Health {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let health = client.broker().info().health;
        if is_reached(&health) {
            return health;
        }
        assert!(Instant::now() < deadline, "{health:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_down(client: &Client) -> String {
    match until(client, |health| matches!(health, Health::Down(_))).await {
        Health::Down(words) => words,
        health => panic!("{health:?}"),
    }
}

#[tokio::test]
async fn nothing_is_confirmed_into_a_file_that_was_deleted() {
    let database = Database::new();
    let client = database.client("").await;
    declare(&client).await;
    client.broker().publish(job("before")).await.unwrap();

    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(beside(&database.0, suffix)).unwrap();
    }
    let refused = client.broker().publish(job("after")).await.expect_err("the file has gone");

    let words = leveret::error_chain(&refused);
    assert!(matches!(refused, PublishError::Unavailable { .. }), "{refused:?}");
    assert!(words.contains("was deleted or moved") && words.contains("restart all programs"), "{words}");
    let health = until_down(&client).await;
    assert!(health.contains("was deleted or moved"), "{health}");
    // Numbers of a file that nobody else sees are no answer either.
    let depth = client.admin().depth("jobs").await.expect_err("the file has gone");
    assert_eq!(depth.kind(), ErrorKind::Connection);
    client.close().await;
}

/// Letters that no other program sees.
#[tokio::test]
async fn letters_of_a_file_that_has_gone_are_not_shown() {
    let (database, backup) = (Database::new(), Database::new());
    let client = database.client("").await;
    declare(&client).await;
    client.broker().publish(job("before")).await.unwrap();
    backup.client("").await.close().await;
    let operator = client.broker().operator().unwrap();
    let mut walk = operator.walk("jobs").await.unwrap();

    std::fs::remove_file(&database.0).unwrap();
    let deleted = client.admin().dead_letters("jobs", 10).await.expect_err("the file has gone");
    let walked = walk.next(10).await.expect_err("the file has gone");
    std::fs::rename(&backup.0, &database.0).unwrap();
    let replaced = client.admin().dead_letters("jobs", 10).await.expect_err("the file was replaced");

    assert_eq!((deleted.kind(), walked.kind()), (ErrorKind::Connection, ErrorKind::Connection));
    assert!(deleted.to_string().contains("was deleted or moved"), "{deleted}");
    assert!(replaced.to_string().contains("replaced by another file"), "{replaced}");
    walk.end().await;
    client.close().await;
}

/// Nobody publishes, and the health says so all the same.
#[tokio::test]
async fn idle_client_notices_that_its_file_has_gone() {
    let database = Database::new();
    let client = database.client("").await;

    std::fs::remove_file(&database.0).unwrap();

    let health = until_down(&client).await;
    assert!(health.contains("was deleted or moved"), "{health}");
    client.close().await;
}

#[tokio::test]
async fn batch_and_declaration_are_refused_with_the_reason() {
    let database = Database::new();
    let client = database.client("").await;
    declare(&client).await;

    std::fs::remove_file(&database.0).unwrap();
    let batch = client.broker().publish_all(vec![job("one"), job("two")]).await;
    let declared = client.declare(&Topology::new().queue(QueueDecl::new("others"))).await;
    let consumed = client.broker().consume(ConsumeOptions::new("jobs")).await;

    for refused in batch {
        let words = leveret::error_chain(&refused.expect_err("the file has gone"));
        assert!(words.contains("was deleted or moved"), "{words}");
    }
    let (declared, consumed) = (declared.unwrap_err(), consumed.unwrap_err());
    // A worker waits for it, as for a broker that is away.
    assert_eq!((declared.kind(), consumed.kind()), (ErrorKind::Connection, ErrorKind::Connection));
    client.close().await;
}

#[tokio::test]
async fn file_that_is_moved_back_is_used_again() {
    let database = Database::new();
    let client = database.client("").await;
    declare(&client).await;
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    client.broker().publish(job("held")).await.unwrap();
    let held = next(&mut consumer).await;
    let elsewhere = beside(&database.0, ".old");

    std::fs::rename(&database.0, &elsewhere).unwrap();
    client.broker().publish(job("refused")).await.expect_err("the file has gone");
    held.settle(Settlement::Ack).await.expect_err("the file has gone");
    std::fs::rename(&elsewhere, &database.0).unwrap();
    client.broker().publish(job("again")).await.unwrap();

    until(&client, |health| *health == Health::Up).await;
    // What could not be settled comes again.
    let mut payloads = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut consumer).await;
        payloads.push(text(&delivery));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    payloads.sort();
    assert_eq!(payloads, ["again", "held"]);
    client.close().await;
}

#[tokio::test]
async fn file_that_was_replaced_is_told_and_left_alone() {
    let (database, backup) = (Database::new(), Database::new());
    let client = database.client("").await;
    declare(&client).await;
    let other = backup.client("").await;
    declare(&other).await;
    other.broker().publish(job("theirs")).await.unwrap();
    other.close().await;

    std::fs::rename(&backup.0, &database.0).unwrap();
    let refused = client.broker().publish(job("after")).await.expect_err("the file was replaced");

    let words = leveret::error_chain(&refused);
    assert!(words.contains("replaced by another file") && words.contains("end all programs"), "{words}");
    client.close().await;
    // Its end is no harm to the new file; its log would be.
    for suffix in ["-wal", "-shm"] {
        assert!(words.contains(&format!("{suffix}`")), "{words}");
        let _ = std::fs::remove_file(beside(&database.0, suffix));
    }
    let new = Connection::open(&database.0).unwrap();
    let payloads: String =
        new.query_row("SELECT group_concat(payload) FROM leveret_job", [], |row| row.get(0)).unwrap();
    assert_eq!(payloads, "theirs");
}

/// A new program would begin a new log, and read nothing of what is in the old one.
#[tokio::test]
async fn log_that_was_deleted_is_told_and_what_was_in_it_is_saved_at_the_end() {
    for suffix in ["-wal", "-shm"] {
        let database = Database::new();
        let client = database.client("").await;
        declare(&client).await;
        client.broker().publish(job("before")).await.unwrap();

        std::fs::remove_file(beside(&database.0, suffix)).unwrap();
        let refused = client.broker().publish(job("after")).await.expect_err("its log has gone");
        client.close().await;

        let words = leveret::error_chain(&refused);
        assert!(words.contains(suffix) && words.contains("end all programs"), "{words}");
        let client = database.client("").await;
        let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
        assert_eq!(text(&next(&mut consumer).await), "before");
        client.close().await;
    }
}

#[tokio::test]
async fn file_that_was_emptied_is_told() {
    let database = Database::new();
    let client = database.client("").await;
    declare(&client).await;

    std::fs::File::options().write(true).open(&database.0).unwrap().set_len(0).unwrap();
    let refused = client.broker().publish(job("after")).await.expect_err("it is empty");

    let words = leveret::error_chain(&refused);
    assert!(words.contains("was emptied") && words.contains("restore a backup"), "{words}");
    client.close().await;
}

/// Two clients of one program share nothing but the file.
#[tokio::test]
async fn all_clients_of_a_program_notice() {
    let database = Database::new();
    let (one, other) = (database.client("").await, database.client("").await);
    declare(&one).await;

    std::fs::remove_file(&database.0).unwrap();

    for client in [one, other] {
        client.broker().publish(job("after")).await.expect_err("the file has gone");
        client.close().await;
    }
}

/// The relay would wait for rows of a file that no application writes to any more.
/// A relay has begun when it has sent something.
async fn until_it_has_begun(database: &Database, client: &Client) {
    let application = Connection::open(&database.0).unwrap();
    application
        .execute("INSERT INTO leveret_outbox (queue, id, payload) VALUES ('jobs', 'first', '{}')", [])
        .unwrap();
    drop(application);
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
}

#[tokio::test]
async fn relay_ends_when_its_file_was_replaced() {
    let (database, new) = (Database::new(), Database::new());
    let outbox = Outbox::open(&database.url("")).unwrap();
    Outbox::open(&new.url("")).unwrap();
    let client = Client::connect("memory:").await.unwrap();
    declare(&client).await;
    let relaying = {
        let client = client.clone();
        tokio::spawn(async move { outbox.relay(&client, CancellationToken::new()).await })
    };
    until_it_has_begun(&database, &client).await;

    std::fs::rename(&new.0, &database.0).unwrap();

    let ended = tokio::time::timeout(PATIENCE, relaying).await.expect("it goes on").unwrap();
    let words = leveret::error_chain(&ended.expect_err("it was replaced"));
    assert!(words.contains("replaced by another file"), "{words}");
    client.close().await;
}

/// It would set aside what it cannot read, such as the events that an older program did not know.
#[tokio::test]
async fn relay_ends_when_a_newer_program_changes_the_tables() {
    let database = Database::new();
    let outbox = Outbox::open(&database.url("")).unwrap();
    let client = Client::connect("memory:").await.unwrap();
    declare(&client).await;
    let relaying = {
        let client = client.clone();
        tokio::spawn(async move { outbox.relay(&client, CancellationToken::new()).await })
    };
    until_it_has_begun(&database, &client).await;
    let newer = Connection::open(&database.0).unwrap();
    newer
        .execute_batch(
            "BEGIN IMMEDIATE; UPDATE leveret_meta SET schema = 99; \
             INSERT INTO leveret_outbox (queue, id, payload) VALUES ('', 'of a new kind', '{}'); COMMIT",
        )
        .unwrap();

    let ended = tokio::time::timeout(PATIENCE, relaying).await.expect("it goes on").unwrap();

    let words = leveret::error_chain(&ended.expect_err("the tables are newer"));
    assert!(words.contains("newer Leveret: update this program"), "{words}");
    let waiting = "SELECT count(*) FROM leveret_outbox WHERE refused IS NULL";
    assert_eq!(newer.query_row(waiting, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    client.close().await;
}

#[tokio::test]
async fn relay_waits_for_a_file_that_was_moved_away() {
    let database = Database::new();
    let outbox = Outbox::open(&database.url("")).unwrap();
    let client = Client::connect("memory:").await.unwrap();
    declare(&client).await;
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    let stop = CancellationToken::new();
    let relaying = {
        let (client, stop) = (client.clone(), stop.clone());
        tokio::spawn(async move { outbox.relay(&client, stop).await })
    };
    let insert = |application: &Connection, id: &str| {
        let row = "INSERT INTO leveret_outbox (queue, id, payload) VALUES ('jobs', ?1, '{}')";
        application.execute(row, [id]).unwrap();
    };
    let application = Connection::open(&database.0).unwrap();
    insert(&application, "first");
    let first = next(&mut consumer).await;
    assert_eq!(first.envelope.id.as_str(), "first");
    first.settle(Settlement::Ack).await.unwrap();
    let elsewhere = beside(&database.0, ".old");

    std::fs::rename(&database.0, &elsewhere).unwrap();
    // An application that has it open goes on writing to it.
    insert(&application, "second");
    std::fs::rename(&elsewhere, &database.0).unwrap();

    assert_eq!(next(&mut consumer).await.envelope.id.as_str(), "second");
    stop.cancel();
    relaying.await.unwrap().unwrap();
    client.close().await;
}
