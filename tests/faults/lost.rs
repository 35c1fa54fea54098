//! Deliveries that a worker holds and has not begun, and whose channel goes meanwhile: they come again, so here they are
//! not begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret::{Client, JobEvent, Task, Worker, task};
use tokio::sync::Semaphore;

use crate::support::{Book, Private, client, fresh, log, run, unique, until};

mod operator {
    on_each!(Private: deliveries_lost_with_their_connection_are_not_begun);

    use super::deliveries_lost_with_their_connection_are_not_begun;
}

/// How many jobs there are, and how many of them a worker holds.
const JOBS: u64 = 20;
const HELD: u64 = 10;

/// Lets handlers end, and keeps the book of those that began.
struct Gate {
    book: Book,
    open: Semaphore,
}

impl Gate {
    fn closed() -> Arc<Self> {
        Arc::new(Self { book: Book::default(), open: Semaphore::new(0) })
    }
}

#[task(queue = "test.faults.lost.connection", prefetch = 10)]
async fn waits(gate: &Gate, number: u64) {
    gate.book.ran(number);
    let _ = gate.open.acquire().await;
}

async fn enqueue<T: Task>(client: &Client, gate: &Gate, jobs: impl Iterator<Item = T>) {
    for (number, enqueued) in client.enqueue_all(jobs).await.into_iter().enumerate() {
        enqueued.unwrap();
        gate.book.confirmed(number as u64);
    }
}

async fn deliveries_lost_with_their_connection_are_not_begun(node: Private) {
    let direct = client(&node.url).await;
    fresh::<Waits>(&direct).await;
    let (client, gate) = (client(&node.url).await, Gate::closed());
    enqueue(&direct, &gate, (0..JOBS).map(|number| Waits { number })).await;
    let lost = Arc::new(AtomicU64::new(0));
    let counted = lost.clone();
    let name_of_worker = unique("lost");
    let worker = Worker::new(&client).name(&name_of_worker).task::<Waits>().shared(gate.clone());
    let worker = worker.on_event(move |event| {
        if let JobEvent::Lost { count, .. } = event {
            counted.fetch_add(*count, Ordering::Relaxed);
        }
    });
    let worker = run(worker);
    gate.book.until_ran(1).await;
    let name = Waits::queue().name();
    let stats = async || direct.broker().inspect(name).await;
    until("the others are held", async || stats().await.is_ok_and(|stats| stats.ready == JOBS - HELD)).await;

    node.ctl(&["close_all_connections", "maintenance"]).await;
    until("it consumes again", async || {
        stats().await.is_ok_and(|stats| stats.consumers == 1 && stats.ready == JOBS - HELD)
    })
    .await;
    gate.open.close();

    gate.book.balance("lost with their connection").await;
    // The one that ran then has lost its ack, and cannot know it.
    assert_eq!(gate.book.runs(), JOBS as u32 + 1, "what had not begun was begun in vain");
    assert_eq!(lost.load(Ordering::Relaxed), HELD - 1);
    let said = log::lines(&["WARN", name, &name_of_worker, "lost before they began"]);
    assert_eq!(said.len(), 1, "{said:?}");
    worker.stop().await;
    client.close().await;
    direct.close().await;
}
