//! effectum, measured as `benches/sqlite` measures Leveret; see `scripts/bench-sqlite`.
//!
//! As it comes: it opens the file with `synchronous = NORMAL`, and what it means to set to WAL stays a rollback journal,
//! where that syncs each commit. Jobs that are done it keeps in the file.

#[path = "../../../measure/embedded.rs"]
mod embedded;
#[path = "../../../measure/mod.rs"]
mod measure;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use effectum::{Job, JobRunner, Queue, RunningJob, Worker};
use embedded::{Counter, Embedded};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Payload {
    number: u64,
    text: String,
}

fn job(number: usize) -> Job {
    let payload = Payload { number: number as u64, text: embedded::filling() };
    Job::builder("job").json_payload(&payload).expect("JSON").build()
}

async fn run(job: RunningJob, counter: Arc<Counter>) -> Result<(), effectum::Error> {
    let payload: Payload = job.json_payload()?;
    black_box((payload.number, payload.text));
    counter.done();
    Ok(())
}

#[derive(Clone)]
struct Effectum(Arc<Queue>);

impl Embedded for Effectum {
    type Working = Worker;

    async fn open(path: &Path) -> Self {
        Self(Arc::new(Queue::new(path).await.expect("a database")))
    }

    async fn enqueue(&self, number: usize) {
        self.0.add_job(job(number)).await.expect("enqueued");
    }

    async fn enqueue_all(&self, jobs: usize) {
        self.0.add_jobs((0..jobs).map(job).collect()).await.expect("enqueued");
    }

    async fn work(&self, concurrency: usize, counter: Arc<Counter>) -> Worker {
        let concurrency = u16::try_from(concurrency).expect("not so many");
        let worker = Worker::builder(&self.0, counter).jobs([JobRunner::builder("job", run).build()]);
        worker.max_concurrency(concurrency).build().await.expect("a worker")
    }

    async fn stop(&self, worker: Worker) {
        worker.unregister(Some(Duration::from_secs(10))).await.expect("the worker ends well");
    }

    async fn close(self) {
        self.0.close(Duration::from_secs(10)).await.expect("closed");
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(embedded::measure_all::<Effectum>());
}
