//! Faults that only the inside can bring about: a quota on the writer's connection, a sync that fails, a clock that is
//! set back. What a program sees from outside stands in `tests/sqlite`.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rusqlite::Connection;

use super::batch::CHUNK;
use super::outbox_table::{AGAIN, STEP};
use super::*;
use crate::broker::{DIRECT_REPLY_TO, Delivery};
use crate::clock::Clock;
use crate::envelope::Envelope;
use crate::error::SettleError;
use crate::settlement::{Reason, ReasonKind, Settlement};
use crate::topology::QueueDecl;

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(30);

/// A file that no other test uses, gone with the value.
struct Database(PathBuf);

impl Database {
    fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let database =
            Self(std::env::temp_dir().join(format!("leveret-sqlite-{}-{count}.db", std::process::id())));
        database.remove();
        database
    }

    /// A client's state, before it begins to write.
    fn state(&self, clock: &Clock) -> State {
        let options = Options::parse(&format!("sqlite:{}", self.0.display())).unwrap();
        let settings = Settings { clock: clock.clone(), ..Settings::default() };
        SqliteBroker::join(options, &settings).unwrap()
    }

    fn broker(&self, clock: &Clock) -> SqliteBroker {
        SqliteBroker::start(self.state(clock), || Ok(())).unwrap()
    }

    /// What is in the database itself, as after a power failure that took the log.
    fn payloads_without_log(&self) -> Vec<String> {
        let url = format!("file:{}?immutable=1", self.0.display());
        let database = Connection::open(url).unwrap();
        let mut select = database.prepare("SELECT payload FROM leveret_job ORDER BY job").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn remove(&self) {
        let folder = std::fs::read_dir(self.0.parent().unwrap()).unwrap();
        for file in folder.filter_map(|file| Some(file.ok()?.path())) {
            // With the log, and the locks of clients that were not closed.
            if file.display().to_string().starts_with(&self.0.display().to_string()) {
                let _ = std::fs::remove_file(file);
            }
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.remove();
    }
}

fn job(payload: impl Into<String>) -> Publish {
    Publish::to_queue("jobs", Envelope::new(payload.into()))
}

async fn declare(broker: &SqliteBroker) {
    broker.declare(&Topology::new().queue(QueueDecl::new("jobs"))).await.unwrap();
}

async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(PATIENCE, consumer.next()).await.expect("in time").expect("a job").unwrap()
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.envelope.payload).into_owned()
}

#[tokio::test]
async fn quota_refuses_and_loses_nothing() {
    let database = Database::new();
    let mut state = database.state(&Clock::system());
    state.connection.execute_batch("PRAGMA max_page_count = 200").unwrap();
    state.setup.publish_timeout = Duration::from_millis(50);
    let broker = SqliteBroker::start(state, || Ok(())).unwrap();
    declare(&broker).await;

    let mut kept = Vec::new();
    let refused = loop {
        let payload = format!("{}{}", kept.len(), "x".repeat(20_000));
        match broker.publish(job(payload.clone())).await {
            Ok(()) => kept.push(payload),
            Err(error) => break error,
        }
        assert!(kept.len() < 1000, "there is no quota");
    };

    let words = refused.to_string();
    assert!(words.contains("is full"), "{words}");
    let PublishError::Blocked { waited, .. } = refused else { panic!("{refused:?}") };
    assert!(waited >= Duration::from_millis(50) && waited < PATIENCE, "{waited:?}");
    assert!(matches!(broker.info().health, Health::Blocked(_)));
    assert!(kept.len() > 10, "only {} were kept", kept.len());
    // What is there is worked, which makes room.
    let mut consumer = broker.consume(ConsumeOptions::new("jobs")).await.unwrap();
    for payload in &kept {
        let delivery = next(&mut consumer).await;
        assert!(text(&delivery) == *payload, "another one, or out of order");
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    broker.publish(job("x".repeat(20_000))).await.unwrap();
    assert_eq!(broker.info().health, Health::Up);
    broker.close().await;
}

#[tokio::test]
async fn enqueue_waits_for_room() {
    let database = Database::new();
    let state = database.state(&Clock::system());
    state.connection.execute_batch("PRAGMA max_page_count = 200").unwrap();
    let broker = SqliteBroker::start(state, || Ok(())).unwrap();
    declare(&broker).await;

    // Five times what there is room for, at once.
    let publishes = (0..200).map(|_| broker.publish(job("x".repeat(20_000))));
    let working = async {
        let mut consumer = broker.consume(ConsumeOptions::new("jobs")).await.unwrap();
        for _ in 0..200 {
            next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
        }
    };
    let (published, ()) = tokio::join!(futures_util::future::join_all(publishes), working);

    let refused: Vec<_> = published.into_iter().filter_map(Result::err).collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(broker.info().health, Health::Up);
    broker.close().await;
}

/// A client that keeps what it finishes, for which there is no room: three jobs of 20 KB are all that the file may hold.
/// Comes with the first of them.
async fn without_room(database: &Database, publish_timeout: Duration) -> (SqliteBroker, Consumer, Delivery) {
    let mut state = database.state(&Clock::system());
    (state.setup.keep, state.setup.lease) = (HOUR, HOUR);
    state.setup.publish_timeout = publish_timeout;
    declare_now(&mut state, QueueDecl::new("jobs"));
    for _ in 0..3 {
        let (reply, _) = Reply::channel();
        let publish = Published::from(job("x".repeat(20_000)));
        state.transact(&[Command::Publish { publish, reply }]).unwrap();
    }
    // No less than it has.
    state.connection.execute_batch("PRAGMA max_page_count = 1").unwrap();
    let broker = SqliteBroker::start(state, || Ok(())).unwrap();
    let mut consumer = broker.consume(ConsumeOptions::new("jobs")).await.unwrap();
    let first = next(&mut consumer).await;
    (broker, consumer, first)
}

/// Nothing signals it.
async fn until_blocked(broker: &SqliteBroker) {
    let waiting = async {
        while !matches!(broker.info().health, Health::Blocked(_)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("there is room");
}

/// A job that has run is not to run again because the disk is full for a moment.
#[tokio::test]
async fn settlement_waits_for_room() {
    let database = Database::new();
    let (broker, _consumer, first) = without_room(&database, PATIENCE).await;

    let making_room = async {
        until_blocked(&broker).await;
        broker.operator().unwrap().purge("jobs").await.unwrap()
    };
    let (settled, purged) = tokio::join!(first.settle(Settlement::Ack), making_room);

    settled.unwrap();
    assert_eq!(purged, 2);
    let stats = broker.operator().unwrap().inspect("jobs").await.unwrap();
    assert_eq!((stats.ready, stats.unsettled), (0, Some(0)));
    assert_eq!(broker.info().health, Health::Up);
    broker.close().await;
}

#[tokio::test]
async fn settlement_is_tried_once_more_before_the_end() {
    let database = Database::new();
    let (broker, _consumer, first) = without_room(&database, PATIENCE).await;
    let application = Connection::open(&database.0).unwrap();

    let ending = async {
        until_blocked(&broker).await;
        application.execute("DELETE FROM leveret_job WHERE client IS NULL", []).unwrap();
        broker.close().await;
    };
    let (settled, ()) = tokio::join!(first.settle(Settlement::Ack), ending);

    settled.unwrap();
    assert_eq!((count(&application, "leveret_finished"), count(&application, "leveret_job")), (1, 0));
}

#[tokio::test]
async fn job_that_could_not_be_settled_comes_again_as_soon_as_there_is_room() {
    let database = Database::new();
    let (broker, mut consumer, first) = without_room(&database, Duration::from_millis(50)).await;
    let id = first.envelope.id.clone();

    let unsettled = first.settle(Settlement::Ack).await;
    // Its lease of an hour is not waited for, nor the next beat of it.
    broker.operator().unwrap().purge("jobs").await.unwrap();
    let again = next(&mut consumer).await;

    assert!(matches!(unsettled, Err(SettleError::Lost)), "{unsettled:?}");
    assert_eq!((&again.envelope.id, again.redelivered), (&id, true));
    broker.close().await;
}

/// The system forgets what it could not write, so that a sync which succeeds says nothing of what came before.
#[tokio::test]
async fn nothing_is_confirmed_behind_a_failed_sync_before_it_is_in_the_database() {
    let database = Database::new();
    let mut left = 2;
    let sync = move || {
        left -= 1;
        if left == 0 { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    };
    let broker = SqliteBroker::start(database.state(&Clock::system()), sync).unwrap();
    declare(&broker).await;

    let unconfirmed = broker.publish(job("in doubt")).await;
    broker.publish(job("behind it")).await.unwrap();

    assert!(matches!(unconfirmed, Err(PublishError::Unconfirmed { .. })), "{unconfirmed:?}");
    assert_eq!(database.payloads_without_log(), ["in doubt"]);
    broker.close().await;
    assert_eq!(database.payloads_without_log(), ["in doubt", "behind it"]);
}

#[tokio::test]
async fn nothing_is_confirmed_while_the_log_cannot_be_moved_into_the_database() {
    let database = Database::new();
    let mut left = 2;
    let sync = move || {
        left -= 1;
        if left == 0 { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    };
    let mut state = database.state(&Clock::system());
    state.setup.publish_timeout = Duration::from_millis(50);
    let broker = SqliteBroker::start(state, sync).unwrap();
    declare(&broker).await;
    // Somebody who reads an old state of the file, which cannot be overwritten meanwhile.
    let mut reader = Connection::open(&database.0).unwrap();
    let reading = reader.transaction().unwrap();
    let _: i64 = reading.query_row("SELECT count(*) FROM leveret_job", [], |row| row.get(0)).unwrap();

    broker.publish(job("in doubt")).await.unwrap_err();
    let refused = broker.publish(job("refused")).await.unwrap_err();
    assert!(matches!(broker.info().health, Health::Down(_)));
    drop(reading);
    broker.publish(job("behind it")).await.unwrap();

    let words = crate::error::chain(&refused);
    assert!(words.contains("nothing was sent") && words.contains("locked by another program"), "{words}");
    assert_eq!(broker.info().health, Health::Up);
    drop(reader);
    broker.close().await;
    assert_eq!(database.payloads_without_log(), ["in doubt", "behind it"]);
}

#[tokio::test]
async fn clock_that_is_set_back_loses_nothing_and_makes_nothing_early() {
    let database = Database::new();
    let clock = Clock::manual(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let broker = database.broker(&clock);
    declare(&broker).await;
    let mut consumer = broker.consume(ConsumeOptions::new("jobs").prefetch(10)).await.unwrap();
    let mut delayed = job("delayed");
    let due = clock.now() + Duration::from_secs(60);
    delayed.not_before = Some(due);
    broker.publish(delayed).await.unwrap();
    broker.publish(job("held")).await.unwrap();
    let held = next(&mut consumer).await;

    clock.set_back(HOUR);
    broker.publish(job("after")).await.unwrap();
    let after = next(&mut consumer).await;

    assert_eq!(text(&after), "after");
    assert_ne!(after.envelope.id, held.envelope.id);
    after.settle(Settlement::Ack).await.unwrap();
    // A lease goes by a clock that nobody sets: the delivery is still ours.
    let reason = Reason::new(ReasonKind::Failed, "as planned");
    let retry = Settlement::Retry { after: Duration::from_secs(1), attempt: 2, reason };
    held.settle(retry).await.unwrap();
    // Due by the clock as it is now, although another waits from before.
    clock.advance(Duration::from_secs(1));
    let again = next(&mut consumer).await;
    assert_eq!((text(&again).as_str(), again.envelope.attempt), ("held", 2));
    again.settle(Settlement::Ack).await.unwrap();
    clock.advance(HOUR + Duration::from_secs(59));
    assert_eq!(clock.now(), due);
    assert_eq!(text(&next(&mut consumer).await), "delayed");
    broker.close().await;
}

/// As after a start with a clock that has lost its time.
#[tokio::test]
async fn program_whose_clock_is_behind_that_of_the_last_one_goes_on() {
    let database = Database::new();
    let clock = Clock::manual(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let before = database.broker(&clock);
    declare(&before).await;
    let mut expiring = job("from the future");
    expiring.envelope.expiration = Some(HOUR);
    before.publish(expiring).await.unwrap();
    before.close().await;

    clock.set_back(24 * HOUR);
    let after = database.broker(&clock);
    after.publish(job("from the present")).await.unwrap();
    let mut consumer = after.consume(ConsumeOptions::new("jobs").prefetch(2)).await.unwrap();

    // In the order in which they came, whatever the clock said.
    assert_eq!(text(&next(&mut consumer).await), "from the future");
    assert_eq!(text(&next(&mut consumer).await), "from the present");
    after.close().await;
}

fn batch(chunks: usize) -> Vec<Publish> {
    (0..chunks * CHUNK).map(|number| job(number.to_string())).collect()
}

#[tokio::test]
async fn publish_does_not_wait_for_the_whole_of_a_batch() {
    let database = Database::new();
    let broker = database.broker(&Clock::system());
    declare(&broker).await;

    let single = async {
        broker.publish(job("single")).await.unwrap();
        broker.operator().unwrap().inspect("jobs").await.unwrap().ready
    };
    let (published, before) = tokio::join!(broker.publish_all(batch(20)), single);

    assert!(published.iter().all(Result::is_ok));
    assert!(before < 15 * CHUNK as u64, "{before} were published before it");
    broker.close().await;
}

/// Another program writes over and over, never for as long as a publish waits.
#[tokio::test]
async fn batch_may_take_longer_than_the_publish_timeout_while_it_gets_on() {
    let database = Database::new();
    let mut state = database.state(&Clock::system());
    state.setup.publish_timeout = Duration::from_secs(1);
    declare_now(&mut state, QueueDecl::new("jobs"));
    let broker = SqliteBroker::start(state, || Ok(())).unwrap();
    let other = Connection::open(&database.0).unwrap();
    other.busy_timeout(PATIENCE).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let others = tokio::task::spawn_blocking(move || {
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(600));
            other.execute_batch("COMMIT").unwrap();
            let (before, since) = (count(&other, "leveret_job"), Instant::now());
            while count(&other, "leveret_job") == before && since.elapsed() < PATIENCE / 10 {
                std::thread::sleep(Duration::from_millis(1));
            }
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
        }
        other.execute_batch("COMMIT").unwrap();
    });
    let published = broker.publish_all(batch(20)).await;
    others.await.unwrap();

    let refused: Vec<_> = published.into_iter().filter_map(Result::err).collect();
    assert!(refused.is_empty(), "{} are refused, the first with {:?}", refused.len(), refused[0]);
    broker.close().await;
}

#[tokio::test]
async fn batch_that_gets_nowhere_waits_for_one_timeout() {
    let database = Database::new();
    let mut state = database.state(&Clock::system());
    state.setup.publish_timeout = Duration::from_millis(500);
    declare_now(&mut state, QueueDecl::new("jobs"));
    let broker = SqliteBroker::start(state, || Ok(())).unwrap();
    let other = Connection::open(&database.0).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let since = Instant::now();
    let published = broker.publish_all(batch(40)).await;

    assert!(published.iter().all(|result| matches!(result, Err(PublishError::Unavailable { .. }))));
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    drop(other);
    broker.close().await;
}

/// A look takes as long as the disk does.
#[test]
fn look_keeps_no_task_from_running() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let database = Database::new();
        let broker = database.broker(&Clock::system());
        declare(&broker).await;
        broker.publish(job("here")).await.unwrap();
        let (go_on, told) = channel::<()>();
        let busy = tokio::task::spawn_blocking(move || told.recv());

        let mut look = std::pin::pin!(broker.walk("jobs"));
        let first = futures_util::poll!(look.as_mut()).is_ready();
        drop(go_on);
        let _ = busy.await.unwrap();
        let mut walk = look.await.unwrap();

        assert!(!first, "it has read on the thread of its task");
        assert_eq!(walk.next(10).await.unwrap().len(), 1);
        broker.close().await;
    });
}

/// A gigabyte of letters is not held in memory at once.
#[tokio::test]
async fn page_of_large_messages_ends_early() {
    let database = Database::new();
    let broker = database.broker(&Clock::system());
    declare(&broker).await;
    for size in [3 << 20, 3 << 20, 6 << 20, 1, 1] {
        broker.publish(job("x".repeat(size))).await.unwrap();
    }
    let mut walk = broker.walk("jobs").await.unwrap();

    let mut pages = Vec::new();
    while let Some(found) = Some(walk.next(100).await.unwrap()).filter(|found| !found.is_empty()) {
        pages.push(found.len());
    }

    assert_eq!(pages, [2, 1, 2]);
    walk.end().await;
    broker.close().await;
}

fn declare_now(state: &mut State, queue: QueueDecl) {
    let (reply, _) = Reply::channel();
    state.transact(&[Command::Declare { topology: Topology::new().queue(queue), reply }]).unwrap();
}

fn consume_now(state: &mut State, queue: &'static str) -> Consumer {
    let (handle, consumer) = Consumer::channel();
    let (reply, _) = Reply::channel();
    state.transact(&[Command::Consume { options: ConsumeOptions::new(queue), handle, reply }]).unwrap();
    consumer
}

fn delete_now(state: &mut State, queue: &str) {
    let (reply, _) = Reply::channel();
    state.transact(&[Command::Delete { queue: queue.to_owned(), reply }]).unwrap();
}

/// Declares a queue in a transaction that fails behind it, for want of room.
fn declare_in_vain(state: &mut State, queue: QueueDecl) {
    let (reply, _) = Reply::channel();
    let declare = Command::Declare { topology: Topology::new().queue(queue), reply };
    let (reply, _) = Reply::channel();
    let publish = Published::from(job("x".repeat(200_000)));
    // No less than it has.
    state.connection.execute_batch("PRAGMA max_page_count = 1").unwrap();
    state.transact(&[declare, Command::Publish { publish, reply }]).expect_err("there is no room");
    state.connection.execute_batch("PRAGMA max_page_count = 1000000").unwrap();
}

/// Jobs that are taken for lost are given back unrun, over and over, until they are dead letters.
#[test]
fn queue_that_is_declared_again_after_a_failure_keeps_its_claims() {
    let database = Database::new();
    let mut state = database.state(&Clock::system());
    declare_now(&mut state, QueueDecl::new("jobs"));
    let _consumer = consume_now(&mut state, "jobs");
    delete_now(&mut state, "jobs");

    declare_in_vain(&mut state, QueueDecl::new("jobs"));
    declare_now(&mut state, QueueDecl::new("jobs"));

    assert!(state.tenure.holds(state.me, state.names["jobs"]));
}

/// It gets the number that was not used.
#[test]
fn queue_that_another_program_declares_after_a_failure_keeps_its_claims() {
    let database = Database::new();
    let (mut state, mut other) = (database.state(&Clock::system()), database.state(&Clock::system()));
    declare_now(&mut state, QueueDecl::new("jobs"));
    let _consumer = consume_now(&mut state, "jobs");
    delete_now(&mut state, "jobs");

    declare_in_vain(&mut state, QueueDecl::new("jobs"));
    state.transact(&[]).unwrap();
    declare_now(&mut other, QueueDecl::new("jobs"));
    state.transact(&[]).unwrap();

    assert!(state.tenure.holds(state.me, state.names["jobs"]));
}

#[test]
fn queue_that_others_delete_after_a_failure_loses_its_claims() {
    let database = Database::new();
    let (mut state, mut other) = (database.state(&Clock::system()), database.state(&Clock::system()));
    declare_now(&mut state, QueueDecl::new("jobs"));
    let _consumer = consume_now(&mut state, "jobs");
    let deleted = state.names["jobs"];

    declare_in_vain(&mut state, QueueDecl::new("others"));
    delete_now(&mut other, "jobs");
    state.transact(&[]).unwrap();

    assert!(!state.tenure.holds(state.me, deleted));
}

/// It was struck off, and the transaction in which it began anew failed.
#[test]
fn number_that_a_failure_took_back_is_given_to_one_client() {
    let database = Database::new();
    let (mut state, mut other) = (database.state(&Clock::system()), database.state(&Clock::system()));
    declare_now(&mut state, QueueDecl::new("jobs"));
    other.retire(state.me).unwrap();

    declare_in_vain(&mut state, QueueDecl::new("others"));
    let newcomer = database.state(&Clock::system());
    state.transact(&[]).unwrap();

    assert_ne!(state.me, newcomer.me);
    assert!(state.is_registered().unwrap() && newcomer.is_registered().unwrap());
}

/// Inserted by an application, in one transaction.
fn insert(application: &Connection, queue: &str, count: usize) {
    let insert = format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT {count}) \
         INSERT INTO leveret_outbox (queue, id, payload) SELECT '{queue}', 'job ' || n, n FROM n"
    );
    application.execute(&insert, []).unwrap();
}

fn count(application: &Connection, from: &str) -> usize {
    let sql = format!("SELECT count(*) FROM {from}");
    let count: i64 = application.query_row(&sql, [], |row| row.get(0)).unwrap();
    usize::try_from(count).unwrap()
}

#[test]
fn transaction_takes_in_one_step_of_a_bulk_insert() {
    let database = Database::new();
    let mut state = database.state(&Clock::system());
    declare_now(&mut state, QueueDecl::new("jobs"));
    let application = Connection::open(&database.0).unwrap();
    insert(&application, "jobs", 2 * STEP + 1);

    let mut left = Vec::new();
    while count(&application, "leveret_outbox") > 0 {
        assert!(
            state.has_work().unwrap() || state.deadlines.is_outbox_due(state.now),
            "it stops at {left:?}"
        );
        state.transact(&[]).unwrap();
        left.push(count(&application, "leveret_outbox"));
    }

    assert_eq!(left, [STEP + 1, 1, 0]);
    let order: bool = application
        .query_row(
            "SELECT group_concat(payload) = group_concat(id) FROM (SELECT payload, substr(id, 5) AS id \
                    FROM leveret_job ORDER BY job)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert!(order && count(&application, "leveret_job") == 2 * STEP + 1);
}

#[test]
fn jobs_for_an_undeclared_queue_cost_one_look_and_hold_up_nothing() {
    let database = Database::new();
    let mut state = database.state(&Clock::system());
    declare_now(&mut state, QueueDecl::new("jobs"));
    let application = Connection::open(&database.0).unwrap();
    insert(&application, "absent", 3 * STEP);
    insert(&application, "jobs", 1);

    state.transact(&[]).unwrap();
    state.transact(&[]).unwrap();
    let taken_beside = count(&application, "leveret_job");
    // Somebody commits something else.
    application.execute_batch("CREATE TABLE account (name TEXT)").unwrap();
    let has_work = state.has_work().unwrap();
    let is_due = state.deadlines.next().is_some();
    declare_now(&mut state, QueueDecl::new("absent"));
    while state.deadlines.is_outbox_due(state.now) {
        state.transact(&[]).unwrap();
    }

    assert_eq!(taken_beside, 1);
    assert!(!has_work && !is_due, "rows that no queue can take are looked through again and again");
    assert_eq!(count(&application, "leveret_job"), 3 * STEP + 1);
}

#[test]
fn full_queue_is_tried_again_after_a_pause() {
    let database = Database::new();
    let clock = Clock::manual(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let mut state = database.state(&clock);
    let mut queue = QueueDecl::new("jobs");
    queue.arguments.insert("x-max-length", 1_i64);
    queue.arguments.insert("x-overflow", "reject-publish");
    declare_now(&mut state, queue);
    let application = Connection::open(&database.0).unwrap();
    insert(&application, "jobs", 3);
    let (reply, _) = Reply::channel();
    let purge = Command::Purge { queue: "jobs".to_owned(), reply };

    let mut left = Vec::new();
    for commands in [&[][..], &[purge], &[]] {
        state.transact(commands).unwrap();
        left.push(count(&application, "leveret_outbox"));
    }
    clock.advance(AGAIN);
    state.transact(&[]).unwrap();
    left.push(count(&application, "leveret_outbox"));

    assert_eq!(left, [2, 2, 2, 1]);
}

/// An idle writer would write to it, and move its log, ten times a second.
#[test]
fn file_that_cannot_shrink_is_left_alone() {
    let database = Database::new();
    let application = Connection::open(&database.0).unwrap();
    application.execute_batch("CREATE TABLE account (name)").unwrap();
    let mut state = database.state(&Clock::system());
    declare_now(&mut state, QueueDecl::new("jobs"));
    let (reply, _) = Reply::channel();
    let publish = Published::from(job("x".repeat(200_000)));
    state.transact(&[Command::Publish { publish, reply }]).unwrap();
    let (reply, _) = Reply::channel();
    state.transact(&[Command::Purge { queue: "jobs".to_owned(), reply }]).unwrap();

    let free = schema::pragma(&application, "freelist_count").unwrap();
    // It does not even ask to write.
    application.execute_batch("BEGIN IMMEDIATE").unwrap();
    state.connection.busy_timeout(Duration::ZERO).unwrap();
    let has_shrunk = state.shrink(0).unwrap();

    assert!(free > 40, "{free}");
    assert!(!has_shrunk);
}

/// Nobody else reads them, and each call that died with its program would leave one for ever.
#[test]
fn replies_go_with_the_caller_that_died() {
    let database = Database::new();
    let mut caller = database.state(&Clock::system());
    let mut worker = database.state(&Clock::system());
    let (handle, _consumer) = Consumer::channel();
    let (reply, _) = Reply::channel();
    caller
        .transact(&[Command::Consume { options: ConsumeOptions::new(DIRECT_REPLY_TO), handle, reply }])
        .unwrap();
    let address = caller.replies.as_ref().unwrap().address.clone();
    let (reply, _) = Reply::channel();
    let publish = Published::from(Publish::to_exchange("", address, Envelope::new("3")));
    worker.transact(&[Command::Publish { publish, reply }]).unwrap();
    let looker = Connection::open(&database.0).unwrap();
    let before = count(&looker, "leveret_reply");

    worker.retire(caller.me).unwrap();

    assert_eq!((before, count(&looker, "leveret_reply")), (1, 0));
}
