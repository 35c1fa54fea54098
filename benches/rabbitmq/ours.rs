//! Leveret's side: the same jobs by `Client` and `Worker`.

use leveret::{Client, Task, Worker};

use crate::job::{Counter, text};
use crate::measure::{Sample, Stopwatch};

async fn connect<T: Task>(url: &str) -> Client {
    let client = Client::connect(url).await.expect("the bench's node answers");
    client.declare_queue(T::queue()).await.expect("declared");
    client
}

/// `enqueue(..).await`, one after another.
pub(crate) async fn one_by_one<T: Task>(url: &str, jobs: usize, job: fn(u64, String) -> T) -> Sample {
    let client = connect::<T>(url).await;
    let watch = Stopwatch::start();
    for number in 0..jobs {
        client.enqueue(job(number as u64, text())).await.expect("enqueued");
    }
    let sample = watch.stop(jobs);
    client.close().await;
    sample
}

/// `enqueue_all(..)`.
pub(crate) async fn all<T: Task>(url: &str, jobs: usize, job: fn(u64, String) -> T) -> Sample {
    let client = connect::<T>(url).await;
    let watch = Stopwatch::start();
    let results = client.enqueue_all((0..jobs).map(|number| job(number as u64, text()))).await;
    assert!(results.iter().all(Result::is_ok), "not all were enqueued");
    let sample = watch.stop(jobs);
    client.close().await;
    sample
}

/// A worker at `concurrency`, until all jobs are done.
pub(crate) async fn work<T: Task + leveret::Runnable>(url: &str, jobs: usize, concurrency: u16) -> Sample {
    let client = connect::<T>(url).await;
    let counter = Counter::new(jobs);
    let worker = Worker::new(&client).task::<T>().shared(counter.clone()).concurrency(concurrency);
    let handle = worker.handle();
    let working = tokio::spawn(worker.run());
    let sample = counter.all_done().await;
    handle.shutdown();
    working.await.expect("no panic").expect("the worker ends well");
    client.close().await;
    sample
}
