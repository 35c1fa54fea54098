//! Jobs that abort the process that runs them, while its supervisor starts it again and again. They die after a few
//! crashes, with the reason; the jobs that ran beside them are done, each of them.
//!
//! Each test prints its line of the table.

use leveret::{Client, Task, Worker, task};

use crate::support::crash::{Desk, Row};
use crate::support::{Database, command};

const ONE_AMONG_FORTY: Row = Row { before: 4, poisons: 1, good: 40, concurrency: 10, bound: 10, dies: true };
const TWO_AMONG_FORTY: Row = Row { poisons: 2, bound: 20, ..ONE_AMONG_FORTY };
const ONE_BY_ONE: Row = Row { before: 0, good: 5, concurrency: 1, ..ONE_AMONG_FORTY };

#[task(queue = "crash", concurrency = 10)]
async fn beside(desk: &Desk, number: u64) {
    desk.run(number).await;
}

#[task(queue = "crash")]
async fn alone(desk: &Desk, number: u64) {
    desk.run(number).await;
}

/// A program that works ten jobs at once.
pub(crate) async fn work_ten(client: Client) {
    Worker::new(&client).task::<Beside>().state(Desk::open(10)).run().await.unwrap();
}

/// A program that works one job at a time.
pub(crate) async fn work_one(client: Client) {
    Worker::new(&client).task::<Alone>().state(Desk::open(1)).run().await.unwrap();
}

#[tokio::test]
async fn one_poison_among_forty_spares_them() {
    run("one", "work ten", &ONE_AMONG_FORTY, |number| Beside { number }).await;
}

#[tokio::test]
async fn two_poisons_among_forty_spare_them() {
    run("two", "work ten", &TWO_AMONG_FORTY, |number| Beside { number }).await;
}

#[tokio::test]
async fn poison_at_concurrency_one_spares_those_behind_it() {
    run("alone", "work one", &ONE_BY_ONE, |number| Alone { number }).await;
}

/// With the default lease: a process that has gone is known at once.
async fn run<T: Task>(what: &str, role: &'static str, row: &Row, job: fn(u64) -> T) {
    let database = Database::new();
    let (client, url) = (database.client("").await, database.url(""));
    for number in row.numbers() {
        client.enqueue(job(number)).await.unwrap();
    }

    let worker = move || command(role, &url);
    let faults = row.run(&format!("SQLite, {what}"), T::queue().name(), &client, worker, async {}).await;

    assert!(faults.is_empty(), "{faults:#?}");
    client.close().await;
}
