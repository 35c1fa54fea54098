//! Enqueueing in a transaction of one's own, and relaying to another broker.

use std::time::{Duration, Instant, SystemTime};

use leveret::{Client, EnqueueError, Error, Event, Job, Outbox, PublishError, SqlInsert, Task, task};
use queue_core::broker::{ConsumeOptions, Consumer};
use queue_core::settlement::Settlement;
use queue_core::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};
use rusqlite::{Connection, TransactionBehavior, params_from_iter};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
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

/// A program that only writes rows connects to no broker.
#[tokio::test]
async fn job_is_inserted_without_a_client() {
    let database = Database::new();
    Outbox::open(&database.url("")).unwrap();
    let application = application(&database);
    let client = database.client("").await;
    client.declare_queue(Welcome::queue()).await.unwrap();
    let mut consumer = consume(&client).await;
    let before = SystemTime::now();
    let delay = Duration::from_secs(2);

    let later = Job::new(job("Ada")).delay(delay).id("later").header("tenant", "blue").priority(3);
    for job in [later, Job::new(job("Bob"))] {
        let job = job.into_sql().unwrap();
        application.execute(job.sql(), params_from_iter(job.params())).unwrap();
    }

    let first = next(&mut consumer).await;
    assert_eq!(text(&first), r#"{"name":"Bob"}"#);
    assert!(first.envelope.enqueued_at.is_some_and(|at| at + Duration::from_secs(1) > before));
    let second = next(&mut consumer).await;
    assert!(SystemTime::now() >= before + delay);
    let envelope = &second.envelope;
    assert_eq!((text(&second).as_str(), envelope.id.as_str()), (r#"{"name":"Ada"}"#, "later"));
    assert_eq!((envelope.task.as_deref(), envelope.priority), (Some("welcome"), Some(3)));
    assert_eq!(envelope.headers.get("tenant"), Some(&"blue".into()));
    client.close().await;
}

#[test]
fn job_that_no_broker_takes_is_refused_before_it_is_inserted() {
    let huge = Job::new(job(&"x".repeat(17 * 1024 * 1024))).into_sql().unwrap_err();
    let own = Job::new(job("Ada")).header("q-attempt", 7).into_sql().unwrap_err();

    assert!(matches!(huge, EnqueueError::Publish(PublishError::TooLarge { .. })), "{huge:?}");
    assert!(own.to_string().contains("`q-attempt`"), "{own}");
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

/// An account was opened.
#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "account.events", kind = "topic", key = "account.opened.{plan}")]
struct AccountOpened {
    name: String,
    plan: String,
}

fn opened(name: &str, plan: &str) -> AccountOpened {
    AccountOpened { name: name.to_owned(), plan: plan.to_owned() }
}

/// Has a queue take the events of those who pay.
async fn audit(client: &Client) -> Consumer {
    let topology = Topology::new()
        .exchange(ExchangeDecl::new("account.events", ExchangeKind::Topic))
        .queue(QueueDecl::new("audit"))
        .binding(BindingDecl::new("account.events", "audit", "account.opened.paid"));
    client.declare(&topology).await.unwrap();
    client.broker().consume(ConsumeOptions::new("audit").prefetch(10)).await.unwrap()
}

fn insert(connection: &Connection, message: &SqlInsert) {
    connection.execute(message.sql(), params_from_iter(message.params())).unwrap();
}

#[tokio::test]
async fn event_is_published_if_and_only_if_the_transaction_commits() {
    let database = Database::new();
    let client = database.client("").await;
    let mut application = application(&database);
    let mut audit = audit(&client).await;

    let undone = application.transaction().unwrap();
    insert(&undone, &SqlInsert::event(&opened("Bob", "paid")).unwrap());
    undone.rollback().unwrap();
    let done = application.transaction().unwrap();
    insert(&done, &SqlInsert::event(&opened("Eve", "free")).unwrap());
    let ada = client.publish(opened("Ada", "paid")).id("ada").header("tenant", "blue");
    insert(&done, &ada.into_sql().unwrap());
    let grace = SqlInsert::event(&opened("Grace", "paid")).unwrap();
    insert(&done, &grace);
    done.commit().unwrap();

    let first = next(&mut audit).await;
    assert_eq!(text(&first), r#"{"name":"Ada","plan":"paid"}"#);
    let envelope = &first.envelope;
    assert_eq!((envelope.id.as_str(), envelope.task.as_deref()), ("ada", Some("AccountOpened")));
    assert_eq!(envelope.content_type.as_deref(), Some("application/json"));
    assert_eq!(envelope.headers.get("tenant"), Some(&"blue".into()));
    assert!(envelope.enqueued_at.is_some());
    let second = next(&mut audit).await;
    assert_eq!(text(&second), r#"{"name":"Grace","plan":"paid"}"#);
    assert_eq!(second.envelope.id, *grace.id());
    client.close().await;
    // What nobody listens to is no message that waits.
    assert_eq!(left(&application), 0);
}

#[tokio::test]
async fn inserted_events_wait_for_their_exchange_and_hold_up_no_job() {
    let database = Database::new();
    let client = database.client("").await;
    client.declare_queue(Welcome::queue()).await.unwrap();
    let application = application(&database);
    let mut consumer = consume(&client).await;

    for n in 0..20 {
        insert(&application, &SqlInsert::event(&opened(&n.to_string(), "paid")).unwrap());
    }
    sign_up(&application, &client, "Ada");
    assert_eq!(text(&next(&mut consumer).await), r#"{"name":"Ada"}"#);
    assert_eq!(left(&application), 20);

    // The queue is bound in the same step in which the exchange comes to be.
    let mut audit = audit(&client).await;
    for n in 0..20 {
        let delivery = next(&mut audit).await;
        assert_eq!(text(&delivery), format!(r#"{{"name":"{n}","plan":"paid"}}"#));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    client.close().await;
    assert_eq!(left(&application), 0);
}

#[tokio::test]
async fn outbox_relays_events_in_order_and_jobs_beside_them() {
    let database = Database::new();
    let relaying = Relaying::start(&database).await;
    let application = application(&database);
    let mut consumer = consume(&relaying.broker).await;

    for n in 0..30 {
        insert(&application, &SqlInsert::event(&opened(&n.to_string(), "paid")).unwrap());
    }
    insert(&application, &Job::new(job("Ada")).into_sql().unwrap());
    // The exchange is missing, which holds up events alone.
    assert_eq!(text(&next(&mut consumer).await), r#"{"name":"Ada"}"#);
    let mut audit = audit(&relaying.broker).await;

    for n in 0..30 {
        let delivery = next(&mut audit).await;
        assert_eq!(text(&delivery), format!(r#"{{"name":"{n}","plan":"paid"}}"#));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    relaying.stop().await;
    assert_eq!(left(&application), 0);
}

/// A relay to a broker in memory, until it is stopped.
struct Relaying {
    broker: Client,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Relaying {
    async fn start(database: &Database) -> Self {
        let broker = Client::connect("memory:").await.unwrap();
        broker.declare_queue(Welcome::queue()).await.unwrap();
        let outbox = Outbox::open(&database.url("")).unwrap();
        let stop = CancellationToken::new();
        let (client, stopping) = (broker.clone(), stop.clone());
        let task = tokio::spawn(async move { outbox.relay(&client, stopping).await });
        Self { broker, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn left(application: &Connection) -> i64 {
    application.query_row("SELECT count(*) FROM leveret_outbox", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn jobs_that_no_queue_takes_hold_up_no_other_queue() {
    let database = Database::new();
    Outbox::open(&database.url("")).unwrap();
    let application = application(&database);
    application
        .execute_batch(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 600) \
             INSERT INTO leveret_outbox (queue, id, payload) SELECT 'missing', n, '{}' FROM n",
        )
        .unwrap();
    let relaying = Relaying::start(&database).await;
    let mut consumer = consume(&relaying.broker).await;

    sign_up(&application, &relaying.broker, "Ada");
    let delivery = next(&mut consumer).await;

    assert_eq!(text(&delivery), r#"{"name":"Ada"}"#);
    relaying.stop().await;
    assert_eq!(left(&application), 600);
}

/// Once it were sent, nobody would look for its queue before its time, and a queue that is missing then loses it.
#[tokio::test]
async fn delayed_job_is_not_relayed_before_its_queue_is_declared() {
    let database = Database::new();
    Outbox::open(&database.url("")).unwrap();
    let application = application(&database);
    let insert =
        "INSERT INTO leveret_outbox (queue, due, id, payload) VALUES (?1, ?2, 'id', '\"' || ?1 || '\"')";
    let due = SystemTime::now() + Duration::from_millis(300);
    let micros = due.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros().to_string();
    for queue in ["later", "welcomes"] {
        application.execute(insert, [queue, &micros]).unwrap();
    }
    let relaying = Relaying::start(&database).await;
    let mut welcomes = consume(&relaying.broker).await;

    // The time of both has come.
    assert_eq!(text(&next(&mut welcomes).await), r#""welcomes""#);
    let waiting: i64 = application
        .query_row("SELECT count(*) FROM leveret_outbox WHERE queue = 'later'", [], |row| row.get(0))
        .unwrap();
    relaying.broker.declare(&Topology::new().queue(QueueDecl::new("later"))).await.unwrap();
    let mut later = relaying.broker.broker().consume(ConsumeOptions::new("later")).await.unwrap();

    assert_eq!(waiting, 1, "it was sent to a queue that is missing");
    assert_eq!(text(&next(&mut later).await), r#""later""#);
    assert!(SystemTime::now() >= due);
    relaying.stop().await;
    assert_eq!(left(&application), 0);
}

/// By whatever path it reaches the file.
#[cfg(unix)]
#[tokio::test]
async fn second_relay_waits_until_the_first_is_stopped() {
    let (database, link) = (Database::new(), Database::new());
    Outbox::open(&database.url("")).unwrap();
    let application = application(&database);
    std::os::unix::fs::symlink(&database.0, &link.0).unwrap();
    let first = Relaying::start(&database).await;
    let mut welcomes = consume(&first.broker).await;
    sign_up(&application, &first.broker, "Ada");
    next(&mut welcomes).await;
    let second = Relaying::start(&link).await;
    // A queue that only its broker has.
    second.broker.declare(&Topology::new().queue(QueueDecl::new("second"))).await.unwrap();
    let mut consumer = second.broker.broker().consume(ConsumeOptions::new("second")).await.unwrap();

    let insert = "INSERT INTO leveret_outbox (queue, id, payload) VALUES ('second', 'id', '{}')";
    application.execute(insert, []).unwrap();
    let nothing = tokio::time::timeout(Duration::from_millis(500), consumer.next()).await;
    first.stop().await;

    assert!(nothing.is_err(), "two relay at a time: {nothing:?}");
    next(&mut consumer).await;
    second.stop().await;
}

/// The runtime of this test has one thread, which must not wait for the file.
#[tokio::test]
async fn locked_file_does_not_stop_the_runtime_or_the_relay() {
    let database = Database::new();
    Outbox::open(&database.url("")).unwrap();
    let mut application = application(&database);
    let relaying = Relaying::start(&database).await;
    let mut consumer = consume(&relaying.broker).await;
    sign_up(&application, &relaying.broker, "Ada");

    let transaction = application.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let delivery = next(&mut consumer).await;
    let since = Instant::now();
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let waited = since.elapsed();
    transaction.commit().unwrap();
    delivery.settle(Settlement::Ack).await.unwrap();
    sign_up(&application, &relaying.broker, "Bob");

    assert_eq!(text(&next(&mut consumer).await), r#"{"name":"Bob"}"#);
    assert!(waited < Duration::from_secs(5), "the runtime stood still for {waited:?}");
    relaying.stop().await;
    assert_eq!(left(&application), 0);
}

/// A job id of 256 bytes, which AMQP cannot carry, in front of a job that is in order.
fn insert_what_can_never_be_enqueued(application: &Connection) {
    let insert = "INSERT INTO leveret_outbox (queue, id, payload) VALUES ('welcomes', ?1, '\"put right\"')";
    application.execute(insert, ["x".repeat(256)]).unwrap();
}

/// It is where an operator finds it, with the reason, and goes on from there.
async fn put_right(application: &Connection, consumer: &mut Consumer) {
    let reason: String = application
        .query_row("SELECT refused FROM leveret_outbox", [], |row| row.get(0))
        .expect("one row that says why");
    assert!(reason.contains("job id") && reason.contains("256 bytes"), "{reason}");

    application.execute("UPDATE leveret_outbox SET id = 'short', refused = NULL", []).unwrap();
    let delivery = next(consumer).await;

    assert_eq!((text(&delivery).as_str(), delivery.envelope.id.as_str()), ("\"put right\"", "short"));
}

#[tokio::test]
async fn job_that_can_never_be_enqueued_is_set_aside() {
    let database = Database::new();
    let client = database.client("").await;
    client.declare_queue(Welcome::queue()).await.unwrap();
    let application = application(&database);
    let mut consumer = consume(&client).await;

    insert_what_can_never_be_enqueued(&application);
    sign_up(&application, &client, "Ada");
    let delivery = next(&mut consumer).await;

    assert_eq!(text(&delivery), r#"{"name":"Ada"}"#);
    put_right(&application, &mut consumer).await;
    client.close().await;
}

#[tokio::test]
async fn job_that_can_never_be_relayed_is_set_aside() {
    let database = Database::new();
    Outbox::open(&database.url("")).unwrap();
    let application = application(&database);
    insert_what_can_never_be_enqueued(&application);
    let relaying = Relaying::start(&database).await;
    let mut consumer = consume(&relaying.broker).await;

    sign_up(&application, &relaying.broker, "Ada");
    let delivery = next(&mut consumer).await;

    assert_eq!(text(&delivery), r#"{"name":"Ada"}"#);
    // What was sent is taken out with what is set aside: one row is left.
    relaying.stop().await;
    let relaying = Relaying::start(&database).await;
    let mut consumer = consume(&relaying.broker).await;
    put_right(&application, &mut consumer).await;
    relaying.stop().await;
}
