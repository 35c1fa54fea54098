//! Jobs that abort the process that runs them, while its supervisor starts it again and again. They die after a few
//! crashes, with the reason; the jobs that ran beside them are done, each of them.
//!
//! The rows run side by side, each on a queue of its own, and print their lines of the table: how many crashes there were
//! until the good jobs were done, how many in all, and how many innocents died.

use std::time::Duration;

use futures_util::future::{FutureExt as _, join_all};
use leveret::{CallError, Client, Event, Runnable, Task, Worker};
use serde::{Deserialize, Serialize};

use crate::support::crash::{Desk, POISON, Row};
use crate::support::{Node, Process, client, process};

on_each!(Node: crash_loops_spare_their_neighbours);

/// How long callers wait: longer than any row takes.
const CALLER: Duration = Duration::from_secs(400);

const ONE_AMONG_FORTY: Row = Row { before: 4, poisons: 1, good: 40, concurrency: 10, bound: 10, dies: true };
const TWO_AMONG_FORTY: Row = Row { poisons: 2, bound: 20, ..ONE_AMONG_FORTY };
const ONE_BY_ONE: Row = Row { before: 0, good: 5, concurrency: 1, ..ONE_AMONG_FORTY };
const ONE_OF_TEN_EVENTS: Row = Row { good: 9, ..ONE_AMONG_FORTY };
const ONE_OF_TEN_CALLS: Row = Row { dies: false, ..ONE_OF_TEN_EVENTS };

/// A queue, and the test that is the process of its worker.
struct Place {
    queue: &'static str,
    process: &'static str,
}

/// A task in a queue of this type, and the process that works it.
macro_rules! jobs {
    ($module:ident, $queue:literal, $queue_type:literal, $concurrency:literal) => {
        mod $module {
            use std::convert::Infallible;

            use super::Place;
            use crate::support::crash::Desk;

            pub(super) const PLACE: Place =
                Place { queue: $queue, process: concat!("crash_loop::", stringify!($module), "::process") };

            #[leveret::task(queue = $queue, queue_type = $queue_type, concurrency = $concurrency)]
            pub(super) async fn job(desk: &Desk, number: u64) -> Result<u64, Infallible> {
                desk.run(number).await;
                Ok(number)
            }

            #[test]
            #[ignore = "the process that a test here starts"]
            fn process() {
                super::child::<Job>($concurrency);
            }
        }
    };
}

jobs!(one_quorum, "test.faults.crash.one.quorum", "quorum", 10);
jobs!(one_classic, "test.faults.crash.one.classic", "classic", 10);
jobs!(two_quorum, "test.faults.crash.two.quorum", "quorum", 10);
jobs!(two_classic, "test.faults.crash.two.classic", "classic", 10);
jobs!(alone_quorum, "test.faults.crash.alone.quorum", "quorum", 1);
jobs!(alone_classic, "test.faults.crash.alone.classic", "classic", 1);
jobs!(call_quorum, "test.faults.crash.call.quorum", "quorum", 10);
jobs!(call_classic, "test.faults.crash.call.classic", "classic", 10);

/// Both subscribers hear of it.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(exchange = "test.faults.crash", kind = "fanout")]
struct Shock {
    number: u64,
}

macro_rules! subscriber {
    ($module:ident, $queue:literal, $queue_type:literal) => {
        mod $module {
            use super::{Place, Shock};
            use crate::support::crash::Desk;

            pub(super) const PLACE: Place =
                Place { queue: $queue, process: concat!("crash_loop::", stringify!($module), "::process") };

            #[leveret::subscriber(queue = $queue, queue_type = $queue_type, concurrency = 10)]
            pub(super) async fn shocked(desk: &Desk, shock: Shock) {
                desk.run(shock.number).await;
            }

            #[test]
            #[ignore = "the process that a test here starts"]
            fn process() {
                super::child::<Shocked>(10);
            }
        }
    };
}

subscriber!(event_quorum, "test.faults.crash.event.quorum", "quorum");
subscriber!(event_classic, "test.faults.crash.event.classic", "classic");

fn child<T: Runnable>(concurrency: u16) {
    let Some(url) = process::url() else { return };
    process::work(&url, |client| Worker::new(client).task::<T>().state(Desk::open(concurrency)))
}

async fn crash_loops_spare_their_neighbours(node: Node) {
    let client = client(&node.url).await;
    let scene = &Scene { client: client.clone(), node };

    let (jobs, events, calls) = tokio::join!(
        join_all([
            scene.jobs(&one_quorum::PLACE, &ONE_AMONG_FORTY, |number| one_quorum::Job { number }).boxed(),
            scene.jobs(&one_classic::PLACE, &ONE_AMONG_FORTY, |number| one_classic::Job { number }).boxed(),
            scene.jobs(&two_quorum::PLACE, &TWO_AMONG_FORTY, |number| two_quorum::Job { number }).boxed(),
            scene.jobs(&two_classic::PLACE, &TWO_AMONG_FORTY, |number| two_classic::Job { number }).boxed(),
            scene.jobs(&alone_quorum::PLACE, &ONE_BY_ONE, |number| alone_quorum::Job { number }).boxed(),
            scene.jobs(&alone_classic::PLACE, &ONE_BY_ONE, |number| alone_classic::Job { number }).boxed(),
        ]),
        scene.events(),
        join_all([
            scene.calls(&call_quorum::PLACE, |number| call_quorum::Job { number }).boxed(),
            scene.calls(&call_classic::PLACE, |number| call_classic::Job { number }).boxed(),
        ]),
    );

    let faults: Vec<_> = jobs.into_iter().chain(calls).flatten().chain(events).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    client.close().await;
}

struct Scene {
    client: Client,
    node: Node,
}

impl Scene {
    async fn jobs<T: Task>(&self, place: &Place, row: &Row, job: fn(u64) -> T) -> Vec<String> {
        self.fresh(place.queue).await;
        for number in row.numbers() {
            self.client.enqueue(job(number)).await.unwrap();
        }
        self.run(place, row, async {}).await
    }

    async fn calls<T: Task<Output = u64>>(&self, place: &Place, job: fn(u64) -> T) -> Vec<String> {
        self.fresh(place.queue).await;
        let row = &ONE_OF_TEN_CALLS;
        let call = async |number| (number, self.client.call(job(number)).timeout(CALLER).await);
        let mut answers = Vec::new();
        let told = async { answers = join_all(row.numbers().map(call)).await };
        let mut faults = self.run(place, row, told).await;
        faults.extend(misled(place, row, answers));
        faults
    }

    async fn events(&self) -> Vec<String> {
        let places = [event_quorum::PLACE, event_classic::PLACE];
        for place in &places {
            self.fresh(place.queue).await;
        }
        self.declare::<event_quorum::Shocked>().await;
        self.declare::<event_classic::Shocked>().await;
        for number in ONE_OF_TEN_EVENTS.numbers() {
            self.client.publish(Shock { number }).await.unwrap();
        }
        join_all(places.iter().map(|place| self.run(place, &ONE_OF_TEN_EVENTS, async {}))).await.concat()
    }

    async fn declare<T: Runnable>(&self) {
        Worker::new(&self.client).task::<T>().state(Desk::open(0)).declare().await.unwrap();
    }

    /// Deletes what an earlier run has left.
    async fn fresh(&self, queue: &str) {
        for suffix in ["", ".suspect", ".dead"] {
            self.client.operator().unwrap().delete(&format!("{queue}{suffix}")).await.unwrap();
        }
    }

    async fn run(&self, place: &Place, row: &Row, told: impl Future<Output = ()>) -> Vec<String> {
        let what = format!("RabbitMQ {}, {}", self.node.number, place.queue);
        let (url, process) = (self.node.url.clone(), place.process);
        row.run(&what, place.queue, &self.client, move || Process::command(process, &url), told).await
    }
}

/// What callers were told that is not so: a good call has its answer, a poison one an error.
fn misled(place: &Place, row: &Row, answers: Vec<(u64, Result<u64, CallError>)>) -> Vec<String> {
    let wrong = answers.iter().filter(|(number, answer)| match answer {
        Ok(answer) => *number >= POISON || answer != number,
        Err(_) => *number < POISON,
    });
    let mut faults: Vec<_> = wrong
        .map(|(number, answer)| format!("{}: caller of {number} was told {answer:?}", place.queue))
        .collect();
    if answers.len() as u64 != row.good + row.poisons {
        faults.push(format!("{}: not all callers were told", place.queue));
    }
    faults
}
