//! Workers of several programs on one file: each sees the others, and one that is killed is seen to be gone.

use std::time::{Duration, Instant};

use leveret::admin::Member;
use leveret::broker::Clock;
use leveret::store::{GONE_AFTER, HEARTBEAT, Heartbeat};
use leveret::{Client, Worker, task};
use rusqlite::Connection;

use crate::support::{Database, PATIENCE, Program};

/// A job that never ends.
#[task(queue = "contemplation")]
async fn contemplate() {
    std::future::pending().await
}

/// A program with a worker.
pub(crate) async fn serve(client: Client) {
    Worker::new(&client).task::<Contemplate>().signals(false).run().await.unwrap();
}

/// The workers as `client` sees them, as soon as it is so. Nothing signals what others write.
async fn workers(client: &Client, what: &str, is_so: impl Fn(&[Member]) -> bool) -> Vec<Member> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let workers = client.admin().workers().await.unwrap();
        if is_so(&workers) {
            return workers;
        }
        assert!(Instant::now() < deadline, "{what}: {workers:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn programs_of_one_file_see_the_workers_of_each_other() {
    let database = Database::new();
    let client = database.client("").await;
    let programs = [(); 2].map(|()| Program::start("serve", &database.url("")));
    let id = client.enqueue(Contemplate {}).await.unwrap();

    let is_running = |worker: &Member| !worker.running.is_empty();
    let seen = workers(&client, "two workers, and what one of them runs", |workers| {
        workers.len() == 2 && workers.iter().any(is_running)
    })
    .await;

    let mut processes: Vec<_> = seen.iter().map(|worker| worker.process).collect();
    let mut expected = programs.each_ref().map(|program| program.process.id());
    processes.sort_unstable();
    expected.sort_unstable();
    assert_eq!(processes, expected);
    let busy = seen.iter().find(|worker| is_running(worker)).unwrap();
    assert_eq!((busy.busy, &busy.running[0].id), (1, id.id()));
    assert!(seen.iter().all(|worker| !worker.is_gone && worker.queues == ["contemplation"]));
    client.close().await;
}

/// The observer's clock is so far ahead that it sees a worker go a moment after its next heartbeat does not come.
#[tokio::test]
async fn killed_worker_is_gone_when_its_heartbeats_stay_away() {
    let database = Database::new();
    let ahead = Clock::ahead(GONE_AFTER - 2 * HEARTBEAT);
    let observer = Client::builder().clock(ahead).connect(&database.url("")).await.unwrap();
    let (mut killed, other) =
        (Program::start("serve", &database.url("")), Program::start("serve", &database.url("")));
    let of = |process: u32| move |worker: &&Member| worker.process == process;
    let (dead, alive) = (of(killed.process.id()), of(other.process.id()));
    workers(&observer, "both are at work", |workers| {
        workers.len() == 2 && workers.iter().all(|worker| !worker.is_gone)
    })
    .await;

    killed.kill();
    let seen = workers(&observer, "one is gone, and one is not", |workers| {
        workers.iter().find(dead).is_some_and(|worker| worker.is_gone)
            && workers.iter().find(alive).is_some_and(|worker| !worker.is_gone)
    })
    .await;

    let dead = seen.iter().find(dead).unwrap();
    let silence = observer.clock().now().duration_since(dead.last_seen).unwrap();
    assert!(silence >= GONE_AFTER, "{silence:?}");
    observer.close().await;
}

/// A newer program may have changed its tables.
#[tokio::test]
async fn registry_of_newer_tables_is_left_alone() {
    let database = Database::new();
    let client = database.client("").await;
    let store = client.store().unwrap();
    let member = Member::worker("old", Vec::new(), Vec::new(), client.clock().now());
    store.registry().register(&member).await.unwrap();
    let newer = Connection::open(&database.0).unwrap();
    newer.execute_batch("UPDATE leveret_meta SET schema = 99; DELETE FROM leveret_member").unwrap();

    let heartbeat = Heartbeat::new(member.id.as_str(), client.clock().now());
    let heartbeat = store.registry().heartbeat(&heartbeat).await;
    let registered = store.registry().register(&member).await;
    let listed = client.admin().workers().await;

    for error in [heartbeat.unwrap_err(), registered.unwrap_err(), listed.unwrap_err()] {
        let words = leveret::error_chain(&error);
        assert_eq!(error.kind(), leveret::ErrorKind::Config, "{words}");
        assert!(words.contains("newer Leveret: update this program"), "{words}");
    }
    let rows: i64 = newer.query_row("SELECT count(*) FROM leveret_member", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 0);
    client.close().await;
}
