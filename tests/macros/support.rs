//! One job on a memory broker of its own.

use leveret::__private::Runnable;
use leveret::{Client, JobEvent, Task, Worker};

/// Enqueues `job`, works until nothing is left to do, and tells what became of it.
pub(crate) async fn run<T: Task + Runnable>(job: T, prepare: impl FnOnce(Worker) -> Worker) -> Vec<JobEvent> {
    let client = Client::connect("memory:").await.unwrap();
    client.enqueue(job).await.unwrap();
    let worker = prepare(Worker::new(&client).signals(false).task::<T>());
    let mut events = worker.events();

    worker.run_until_idle().await.unwrap();

    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        if !matches!(event, JobEvent::Started { .. }) {
            seen.push(event);
        }
    }
    seen
}

/// The kind of the one dead letter, and why it is one.
pub(crate) fn dead(events: &[JobEvent]) -> (String, String) {
    match events.last() {
        Some(JobEvent::Dead { reason, .. }) => (reason.kind.to_string(), reason.message.clone()),
        other => panic!("not a dead letter but {other:?}"),
    }
}

/// Whether the job succeeded at its first attempt.
pub(crate) fn succeeded(events: &[JobEvent]) -> bool {
    matches!(events, [JobEvent::Succeeded { .. }])
}
