//! Python's own clients beside ours: the real pika and aio-pika; and two of its job queues, Celery and Dramatiq, as
//! producers.
//!
//! The programs stand in `programs/`, one file each, as their users would write them; a test runs them as processes and
//! talks to them by lines of JSON. `LEVERET_TEST_PYTHON` names an interpreter that has the clients; `scripts/python`
//! makes one, and `scripts/test` brings it.

mod program;

/// Makes each `async fn name(t: &Python)` a test per node and client: `rabbitmq3::pika::name`,
/// `rabbitmq3::aio_pika::name`, and the same for RabbitMQ 4.0 and 4.3. Each begins without what the file's `LEFTOVERS` name.
macro_rules! with_each_client {
    ($($name:ident),* $(,)?) => {
        with_each_client!(@node rabbitmq3, 3; $($name)*);
        with_each_client!(@node rabbitmq4, 4; $($name)*);
        with_each_client!(@node rabbitmq43, 43; $($name)*);
    };
    (@node $node:ident, $number:literal; $($name:ident)*) => {
        mod $node {
            with_each_client!(@client pika, $number; $($name)*);
            with_each_client!(@client aio_pika, $number; $($name)*);
        }
    };
    (@client $client:ident, $number:literal; $($name:ident)*) => {
        mod $client {
            use crate::python::run;
            use crate::support::place::Place::RabbitMq;

            $(#[test]
            fn $name() {
                run(RabbitMq($number), stringify!($client), &super::super::LEFTOVERS, super::super::$name);
            })*
        }
    };
}

/// The same for a file whose programs are all that there is: `rabbitmq3::name` and `rabbitmq4::name`.
macro_rules! with_the_programs {
    ($($name:ident),* $(,)?) => {
        with_the_programs!(@node rabbitmq3, 3; $($name)*);
        with_the_programs!(@node rabbitmq4, 4; $($name)*);
    };
    (@node $node:ident, $major:literal; $($name:ident)*) => {
        mod $node {
            use crate::python::run;
            use crate::support::place::Place::RabbitMq;

            $(#[test]
            fn $name() {
                run(RabbitMq($major), "", &super::LEFTOVERS, super::$name);
            })*
        }
    };
}

mod beside;
mod dead_letter;
mod event;
mod header;
mod job;
mod payload;
mod producer;
mod queue;
mod rpc;

use std::time::{Duration, Instant};

use leveret::{Client, Runnable, Worker};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::support::place::Place;
use crate::support::work::Work;
use crate::support::{self, Leftovers};
use program::Program;

/// How long one thing may take. It only turns a hang into a failure that says what hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// One test's node, a client of ours on it, and one of Python's.
struct Python {
    client: Client,
    url: String,
    interpreter: String,
    /// `pika` or `aio_pika`, as the programs' names begin.
    library: &'static str,
}

/// Runs one test, alone on its node.
fn run(place: Place, library: &'static str, leftovers: &Leftovers, test: impl AsyncFnOnce(&Python)) {
    let Some(interpreter) = interpreter() else { return };
    support::run(place, leftovers, async |t| {
        test(&Python { client: t.client.clone(), url: t.url.clone(), interpreter, library }).await;
    });
}

/// Without an interpreter the test is skipped with a line that says so; in CI it must be there.
fn interpreter() -> Option<String> {
    match std::env::var("LEVERET_TEST_PYTHON") {
        Ok(path) if !path.is_empty() => return Some(path),
        Err(_) if std::env::var("CI").as_deref() == Ok("true") => {
            panic!(
                "LEVERET_TEST_PYTHON is not set: in CI Python's clients are tested (empty leaves them out on purpose)"
            )
        }
        _ => {}
    }
    eprintln!("skipped: LEVERET_TEST_PYTHON names no interpreter; `scripts/python` makes one");
    None
}

impl Python {
    /// Starts `programs/<library>_<program>.py` on the node.
    fn start(&self, program: &str, arguments: &[&str]) -> Program {
        Program::start(&self.interpreter, &format!("{}_{program}.py", self.library), &self.url, arguments)
    }

    /// Runs a program to its end, and gives it these lines.
    async fn run(&self, program: &str, arguments: &[&str], lines: impl IntoIterator<Item = String>) {
        let mut program = self.start(program, arguments);
        program.feed(lines).await;
        program.end().await;
    }

    /// Publishes these bodies to a queue.
    async fn publish(&self, queue: &str, bodies: impl IntoIterator<Item = Value>) {
        self.run("publish", &[queue], bodies.into_iter().map(|body| body.to_string())).await;
    }

    /// Consumes one message.
    async fn consume_one(&self, queue: &str) -> Value {
        let mut program = self.start("consume", &[queue, "1"]);
        let message = program.next().await;
        program.end().await;
        message
    }

    /// Declares what a task or subscriber of ours brings.
    async fn declare<T: Runnable>(&self) {
        let declared = self.client.declare_queue((T::registration().queue)()).await;
        declared.unwrap_or_else(|error| panic!("{}", leveret::error_chain(&error)));
    }

    /// Starts a worker of ours, and hears what its handlers see.
    fn work<T: Runnable>(&self) -> (Work, Notes) {
        let (sender, notes) = mpsc::unbounded_channel();
        (Work::start(Worker::new(&self.client).task::<T>().state(Seen(sender))), Notes(notes))
    }

    /// Waits until exactly `count` messages are ready. Polls, because no broker signals a queue's depth.
    async fn until_ready(&self, queue: &str, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let depth = self.client.admin().depth(queue).await.unwrap();
            if depth.ready == count {
                return;
            }
            assert!(Instant::now() < deadline, "`{queue}`: {depth:?} after {PATIENCE:?}, not {count} ready");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The state by which a handler tells the test what it saw.
struct Seen(mpsc::UnboundedSender<Value>);

impl Seen {
    fn note(&self, what: Value) {
        // Nobody listens any more only where the test has failed already.
        let _ = self.0.send(what);
    }
}

/// What handlers saw.
struct Notes(mpsc::UnboundedReceiver<Value>);

impl Notes {
    async fn next(&mut self) -> Value {
        let note = tokio::time::timeout(PATIENCE, self.0.recv()).await;
        note.unwrap_or_else(|_| panic!("no handler saw anything for {PATIENCE:?}")).expect("the worker runs")
    }

    async fn take(&mut self, count: usize) -> Vec<Value> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.push(self.next().await);
        }
        all
    }
}
