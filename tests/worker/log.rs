//! What a worker says in the log about its start and its jobs.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use leveret::{JobEvent, TaskError, TaskResult, Worker};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

use crate::support::{client, message, options, patiently, publish, queue, retries, start, task, work};

task!(Fine {} = "fine", queue: queue("log"), options: options(), needs: [], async |_call, _job| {});
task!(Poor {} = "poor", queue: queue("log.poor"), options: retries(1), needs: [],
    async |_call, _job| { Err::<(), _>("no") });

task!(Patient {} = "patient", queue: queue("log.patient"), options: retries(1), needs: [],
    async |_call, _job| { TaskResult::Err(TaskError::snooze(std::time::Duration::from_secs(60)).into()) });

/// This thread's log, on which a test's runtime runs everything, while the guard lives.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String)>>>);

impl Log {
    fn open() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let guard = tracing::subscriber::set_default(Registry::default().with(log.clone()));
        (log, guard)
    }

    /// The only line that says so.
    fn only(&self, words: &str) -> (Level, String) {
        let lines = self.0.lock().unwrap();
        let mut found = lines.iter().filter(|(_, line)| line.contains(words));
        let line = found.next().unwrap_or_else(|| panic!("no `{words}` in {lines:?}")).clone();
        assert!(found.next().is_none(), "several `{words}`: {lines:?}");
        line
    }
}

impl Layer<Registry> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, Registry>) {
        if event.metadata().target() == "leveret" {
            let mut line = Line::default();
            event.record(&mut line);
            self.0.lock().unwrap().push((*event.metadata().level(), line.0));
        }
    }
}

/// `field=value` of each, with spaces in between.
#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

#[tokio::test]
async fn start_names_queues_and_tasks() {
    let (log, _guard) = Log::open();
    let (client, _clock) = client();

    work(Worker::new(&client).task::<Poor>().task::<Fine>()).await;

    let (level, line) = log.only("worker started");
    assert_eq!(level, Level::INFO);
    assert!(line.contains("queues=log, log.poor ") && line.contains("tasks=fine, poor "), "{line}");
}

#[tokio::test]
async fn job_that_succeeds_is_told_of_twice() {
    let (log, _guard) = Log::open();
    let (client, _clock) = client();
    let job = client.enqueue(Fine {}).await.unwrap();

    work(Worker::new(&client).task::<Fine>()).await;

    let about = format!("id={job} attempt=1 ");
    for (words, took) in [("message=job started", false), ("message=job succeeded", true)] {
        let (level, line) = log.only(words);
        assert_eq!(level, Level::DEBUG);
        assert!(line.contains(&about) && line.contains("fine"), "{line}");
        assert_eq!(line.contains("took="), took, "{line}");
    }
}

#[tokio::test]
async fn failed_job_is_told_of_as_failed() {
    let (log, _guard) = Log::open();
    let (client, clock) = client();
    client.enqueue(Poor {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Poor>());

    let (after, _) = worker.retried().await;
    clock.advance(after);
    worker.dead().await;

    let (level, line) = log.only("job failed, and runs again");
    assert_eq!(level, Level::WARN);
    assert!(line.contains("took=") && line.contains("failed: no"), "{line}");
    let (_, line) = log.only("job is a dead letter");
    assert!(line.contains("kept_in=log.poor.dead "), "{line}");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn snoozed_job_is_not_said_to_have_failed() {
    let (log, _guard) = Log::open();
    let (client, _clock) = client();
    client.enqueue(Patient {}).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Patient>());

    assert!(matches!(worker.fate().await, JobEvent::Snoozed { .. }));

    let (level, line) = log.only("job is snoozed");
    assert_eq!(level, Level::DEBUG);
    assert!(line.contains("patient") && line.contains("attempt=1 ") && line.contains("after=60s"), "{line}");
    let lines = log.0.lock().unwrap().clone();
    assert!(!lines.iter().any(|(level, _)| *level <= Level::WARN), "{lines:?}");
    worker.stop().await.unwrap();
}

/// Nothing ran, and nothing failed.
#[tokio::test]
async fn job_of_an_unknown_task_is_not_said_to_have_failed() {
    let (log, _guard) = Log::open();
    let (client, _clock) = client();
    publish(&client, &queue("log"), message(Some("newer"), "{}")).await;
    let mut worker = start(Worker::new(&client).task::<Fine>());

    patiently(worker.retried()).await;

    let (level, line) = log.only("newer");
    assert_eq!(level, Level::WARN);
    assert!(line.contains("did not run here") && !line.contains("failed"), "{line}");
    worker.stop().await.unwrap();
}
