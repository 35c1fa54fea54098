//! A program's lock tells whether its process has ended, without waiting for its lease. What shows no lock goes by the lease.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use leveret::Client;
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::Envelope;
use queue_core::settlement::Settlement;
use queue_core::topology::{QueueDecl, Topology};

use crate::support::{Database, PATIENCE, Program, log, next, say, wait_for_word};

/// A lease that would not be over before the test is.
const LONG: &str = "?lease=10m";

/// A program that takes a job, and says the name of its process each time it is told to.
pub(crate) async fn named(client: Client) {
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    let _unsettled = next(&mut consumer).await;
    loop {
        say(&name(&client).await);
        wait_for_word();
    }
}

async fn name(client: &Client) -> String {
    client.broker().liveness().unwrap().name().await.unwrap()
}

async fn is_alive(client: &Client, name: &str) -> bool {
    client.broker().liveness().unwrap().is_alive(name).await.unwrap()
}

async fn one_job(client: &Client) {
    client.declare(&Topology::new().queue(QueueDecl::new("jobs"))).await.unwrap();
    client.broker().publish(Publish::to_queue("jobs", Envelope::new("job"))).await.unwrap();
}

/// A client, and a program that has taken the only job, with its name.
async fn with_holder(database: &Database, options: &str) -> (Client, Program, String) {
    let client = database.client(options).await;
    one_job(&client).await;
    let holder = Program::start("named", &database.url(options));
    let name = holder.line();
    (client, holder, name)
}

fn lock_file(database: &Database, name: &str) -> PathBuf {
    format!("{}-client-{name}", database.0.display()).into()
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn killed_program_has_ended_and_its_job_comes_back_long_before_its_lease() {
    log::listen();
    let database = Database::new();
    let (client, mut killed, name) = with_holder(&database, LONG).await;
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    assert!(is_alive(&client, &name).await);

    killed.kill();

    assert!(!is_alive(&client, &name).await);
    let again = next(&mut consumer).await;
    assert!(again.redelivered);
    assert!(!is_alive(&client, &name).await);
    let program = format!(":{}\"", killed.process.id());
    assert_eq!(log::lines(&["ended without closing it", "jobs=1", &program]).len(), 1);
    assert!(!lock_file(&database, &name).exists(), "who strikes it off deletes its file");
    again.settle(Settlement::Ack).await.unwrap();
    client.close().await;
    assert_eq!(database.lock_files(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn program_that_opens_the_file_finds_the_jobs_of_a_killed_one_at_once() {
    let database = Database::new();
    let (client, mut killed, _) = with_holder(&database, LONG).await;
    client.close().await;
    killed.kill();

    let client = database.client(LONG).await;

    let depth = client.admin().depth("jobs").await.unwrap();
    assert_eq!((depth.ready, depth.unsettled), (1, Some(0)));
    client.close().await;
}

/// It was struck off by its lease. A job that it runs has not ended it.
#[tokio::test]
async fn stopped_program_lives_under_all_its_names() {
    let database = Database::new();
    let (client, mut stopped, name) = with_holder(&database, "?lease=2s").await;
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();

    stopped.signal("STOP");
    let again = next(&mut consumer).await;
    assert!(again.redelivered, "it was struck off");
    assert!(is_alive(&client, &name).await, "it may go on");
    again.settle(Settlement::Ack).await.unwrap();

    stopped.signal("CONT");
    let mut later = name.clone();
    let deadline = Instant::now() + PATIENCE;
    while later == name {
        assert!(Instant::now() < deadline, "it does not begin anew");
        stopped.go_on();
        later = stopped.line();
    }
    assert!(is_alive(&client, &name).await && is_alive(&client, &later).await);

    stopped.kill();
    assert!(!is_alive(&client, &name).await && !is_alive(&client, &later).await);
    let files = [name, later].map(|name| lock_file(&database, &name));
    until("its lock files are gone", async || !files.iter().any(|file| file.exists())).await;
    client.close().await;
}

#[tokio::test]
async fn clients_of_one_process_live_and_leave_by_themselves() {
    let database = Database::new();
    let (first, second) = (database.client(LONG).await, database.client(LONG).await);
    let (first_name, second_name) = (name(&first).await, name(&second).await);
    assert_ne!(first_name, second_name);
    assert!(is_alive(&first, &first_name).await && is_alive(&first, &second_name).await);
    assert_eq!(database.lock_files().len(), 2);

    second.close().await;
    assert!(!is_alive(&first, &second_name).await);
    assert_eq!(database.lock_files(), [lock_file(&database, &first_name)]);

    let dropped = database.client(LONG).await;
    let dropped_name = name(&dropped).await;
    drop(dropped);
    assert!(!is_alive(&first, &dropped_name).await);
    assert!(!is_alive(&first, "999999").await && !is_alive(&first, "nobody").await);

    first.close().await;
    assert_eq!(database.lock_files(), [] as [PathBuf; 0]);
    assert!(first.broker().liveness().unwrap().name().await.is_err());
}

/// Then the lease decides, as it does for those that have no lock.
#[tokio::test]
async fn lock_file_that_was_deleted_or_replaced_proves_nothing() {
    for is_replaced in [false, true] {
        let database = Database::new();
        let (client, mut holder, name) = with_holder(&database, "?lease=3s").await;
        let file = lock_file(&database, &name);
        std::fs::remove_file(&file).unwrap();
        if is_replaced {
            // The inode of the first one is not free: its holder has it open.
            std::fs::write(&file, "").unwrap();
        }

        assert!(is_alive(&client, &name).await, "replaced: {is_replaced}");
        // One that opens the file looks at once.
        let newcomer = database.client("?lease=3s").await;
        assert_eq!(client.admin().depth("jobs").await.unwrap().unsettled, Some(1));
        newcomer.close().await;

        holder.kill();
        assert!(is_alive(&client, &name).await, "nobody can tell yet");
        let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
        next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
        assert!(!is_alive(&client, &name).await, "its lease is over");
        client.close().await;
        let _ = std::fs::remove_file(&file);
    }
}

#[tokio::test]
async fn client_that_gets_no_lock_lives_by_its_lease() {
    let database = Database::new();
    // Nobody can create these files.
    let taken: Vec<_> = (1..=20).map(|n| lock_file(&database, &n.to_string())).collect();
    for path in &taken {
        std::fs::create_dir(path).unwrap();
    }

    let (first, second) = (database.client(LONG).await, database.client(LONG).await);
    one_job(&first).await;
    let mut consumer = first.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    let job = next(&mut consumer).await;

    assert!(is_alive(&second, &name(&first).await).await);
    job.settle(Settlement::Ack).await.unwrap();
    first.close().await;
    second.close().await;
    for path in &taken {
        std::fs::remove_dir(path).unwrap();
    }
}

/// Its other programs look for locks beside the file's new place.
#[tokio::test]
async fn lock_file_of_a_database_that_was_moved_goes_with_its_client() {
    let database = Database::new();
    let client = database.client(LONG).await;
    assert_eq!(database.lock_files().len(), 1);
    let elsewhere = Database::new();
    for suffix in ["", "-wal", "-shm"] {
        let [from, to] = [&database, &elsewhere].map(|file| format!("{}{suffix}", file.0.display()));
        std::fs::rename(from, to).unwrap();
    }

    client.close().await;

    assert_eq!(database.lock_files(), [] as [PathBuf; 0]);
}
