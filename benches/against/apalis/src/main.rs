//! apalis-sqlite, measured as `benches/sqlite` measures Leveret; see `scripts/bench-sqlite`.
//!
//! Its `setup` turns `synchronous` off for the connection that runs it, so that runs on one of its own; the others have
//! SQLite's default, FULL, in WAL mode. They wait a minute for each other, since with the 5 s that sqlx gives them pushes
//! fail on a slow disk (`database is locked`). The worker's batch is the concurrency, it looks for jobs each 5 ms when
//! there were none, and does not lock them a second time when they start (`lock_tasks(false)`, as its example for real
//! time has it).

#[path = "../../../measure/embedded.rs"]
mod embedded;
#[path = "../../../measure/mod.rs"]
mod measure;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteStorage};
use embedded::{Counter, Embedded};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Payload {
    number: u64,
    text: String,
}

fn payload(number: usize) -> Payload {
    Payload { number: number as u64, text: embedded::filling() }
}

async fn job(payload: Payload, counter: Data<Arc<Counter>>) {
    black_box((payload.number, payload.text));
    counter.done();
}

#[derive(Clone)]
struct Apalis(SqlitePool);

impl Apalis {
    fn storage(&self, config: Config) -> SqliteStorage<Payload> {
        SqliteStorage::new(&self.0).with_config(config.queue("bench"))
    }
}

impl Embedded for Apalis {
    type Working = (oneshot::Sender<()>, JoinHandle<()>);

    async fn open(path: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let making = SqlitePool::connect_with(options.clone()).await.expect("a database");
        SqliteStorage::setup(&making).await.expect("tables");
        making.close().await;
        let pool = SqlitePoolOptions::new().acquire_timeout(PATIENCE);
        Self(pool.connect_with(options.busy_timeout(PATIENCE)).await.expect("a database"))
    }

    async fn enqueue(&self, number: usize) {
        self.storage(Config::default()).push(payload(number)).await.expect("enqueued");
    }

    async fn enqueue_all(&self, jobs: usize) {
        let jobs = (0..jobs).map(payload).collect();
        self.storage(Config::default()).push_bulk(jobs).await.expect("enqueued");
    }

    async fn work(&self, concurrency: usize, counter: Arc<Counter>) -> Self::Working {
        let config = Config::default().batch_size(concurrency).lock_tasks(false);
        let storage = self.storage(config).poll_with_interval(Duration::from_millis(5));
        let worker = WorkerBuilder::new("bench").backend(storage).concurrency(concurrency).data(counter);
        let worker = worker.build(job);
        let (stop, stopped) = oneshot::channel::<()>();
        let working = tokio::spawn(async move {
            tokio::select! {
                ended = worker.run() => ended.expect("the worker ends well"),
                _ = stopped => {}
            }
        });
        (stop, working)
    }

    async fn stop(&self, (stop, working): Self::Working) {
        let _ = stop.send(());
        working.await.expect("no panic");
    }

    async fn close(self) {
        self.0.close().await;
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(embedded::measure_all::<Apalis>());
}
