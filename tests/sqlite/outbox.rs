//! Enqueueing in a transaction of one's own, and relaying to another broker.

use std::time::{Duration, SystemTime};

use leveret::{Client, Outbox, Task, task};
use queue_core::broker::{ConsumeOptions, Consumer};
use queue_core::settlement::Settlement;
use rusqlite::{Connection, params_from_iter};
use tokio_util::sync::CancellationToken;

use crate::support::{Database, PATIENCE, next, text};

/// Greets a new account.
#[task(queue = "welcomes")]
async fn welcome(name: String) {
    drop(name);
}

fn job(name: &str) -> Welcome {
    Welcome { name: name.to_owned() }
}

async fn consume(client: &Client) -> Consumer {
    client.broker().consume(ConsumeOptions::new("welcomes").prefetch(10)).await.unwrap()
}

/// The application's own connection to the file, with a table of its own.
fn application(database: &Database) -> Connection {
    let application = Connection::open(&database.0).unwrap();
    application.busy_timeout(PATIENCE).unwrap();
    application.execute_batch("CREATE TABLE IF NOT EXISTS account (name TEXT)").unwrap();
    application
}

fn sign_up(connection: &Connection, client: &Client, name: &str) {
    let job = client.enqueue(job(name)).header("tenant", "blue").priority(3).into_sql().unwrap();
    connection.execute("INSERT INTO account VALUES (?1)", [name]).unwrap();
    connection.execute(job.sql(), params_from_iter(job.params())).unwrap();
}

#[tokio::test]
async fn job_is_enqueued_if_and_only_if_the_transaction_commits() {
    let database = Database::new();
    let client = database.client("").await;
    client.declare_queue(Welcome::queue()).await.unwrap();
    let mut application = application(&database);
    let mut consumer = consume(&client).await;

    let undone = application.transaction().unwrap();
    sign_up(&undone, &client, "Bob");
    undone.rollback().unwrap();
    let done = application.transaction().unwrap();
    sign_up(&done, &client, "Ada");
    done.commit().unwrap();
    let delivery = next(&mut consumer).await;

    assert_eq!(text(&delivery), r#"{"name":"Ada"}"#);
    let envelope = &delivery.envelope;
    assert_eq!(envelope.task.as_deref(), Some("welcome"));
    assert_eq!((envelope.attempt, envelope.priority), (1, Some(3)));
    assert_eq!(envelope.content_type.as_deref(), Some("application/json"));
    assert_eq!(envelope.headers.get("tenant"), Some(&"blue".into()));
    delivery.settle(Settlement::Ack).await.unwrap();
    assert_eq!(client.admin().depth("welcomes").await.unwrap().ready, 0);
    client.close().await;
}

#[tokio::test]
async fn inserted_job_keeps_its_delay() {
    let database = Database::new();
    let client = database.client("").await;
    client.declare_queue(Welcome::queue()).await.unwrap();
    let application = application(&database);
    let mut consumer = consume(&client).await;
    let due = SystemTime::now() + Duration::from_millis(300);

    let job = client.enqueue(job("Ada")).at(due).into_sql().unwrap();
    application.execute(job.sql(), params_from_iter(job.params())).unwrap();
    let delivery = next(&mut consumer).await;

    assert!(SystemTime::now() >= due);
    assert_eq!(delivery.envelope.id, *job.id());
    client.close().await;
}

#[tokio::test]
async fn inserted_jobs_wait_for_their_queue_in_their_order() {
    let database = Database::new();
    let client = database.client("").await;
    let application = application(&database);
    for n in 0..20 {
        sign_up(&application, &client, &n.to_string());
    }

    client.declare_queue(Welcome::queue()).await.unwrap();
    let mut consumer = consume(&client).await;

    for n in 0..20 {
        let delivery = next(&mut consumer).await;
        assert_eq!(text(&delivery), format!(r#"{{"name":"{n}"}}"#));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    client.close().await;
}

#[tokio::test]
async fn outbox_relays_to_another_broker_in_order_and_takes_out_what_is_confirmed() {
    let database = Database::new();
    let broker = Client::connect("memory:").await.unwrap();
    let outbox = Outbox::open(&database.url("")).unwrap();
    let application = application(&database);
    let stop = CancellationToken::new();
    for n in 0..30 {
        sign_up(&application, &broker, &n.to_string());
    }
    // The first attempt finds no queue, and loses nothing by it.
    let relay = {
        let (broker, stop) = (broker.clone(), stop.clone());
        tokio::spawn(async move { outbox.relay(&broker, stop).await })
    };

    broker.declare_queue(Welcome::queue()).await.unwrap();
    let mut consumer = consume(&broker).await;
    for n in 0..30 {
        let delivery = next(&mut consumer).await;
        assert_eq!(text(&delivery), format!(r#"{{"name":"{n}"}}"#));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    sign_up(&application, &broker, "late");
    assert_eq!(text(&next(&mut consumer).await), r#"{"name":"late"}"#);
    stop.cancel();
    relay.await.unwrap().unwrap();

    let left: i64 =
        application.query_row("SELECT count(*) FROM leveret_outbox", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}
