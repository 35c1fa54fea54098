//! `kill -9` of the node while clients enqueue and workers work: whatever was confirmed is run, and nothing that was
//! not kept was confirmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use leveret::{Client, Context, Worker, task};

use crate::support::{Book, Private, client, fresh, rounds, run, until};

on_each!(Private: confirmed_jobs_survive_a_killed_broker);

/// Killed younger than this, a quorum queue may never come back: see `scripts/rabbitmq`.
const GROWN_UP: Duration = Duration::from_secs(2);
/// How many jobs of each kind are confirmed before the kill, and after it.
const ENOUGH: usize = 200;
/// How many jobs of a batch may wait for the worker: on a busy machine it would be at a longer queue for minutes.
const AHEAD: usize = 500;

#[derive(Default)]
struct Books {
    quorum: Book,
    classic: Book,
    delayed: Book,
    retried: Book,
    /// How many delayed jobs ran before their time.
    early: AtomicU32,
    stop: AtomicBool,
}

#[task(queue = "test.faults.killed.quorum", concurrency = 5)]
async fn quorum(books: &Books, number: u64) {
    books.quorum.ran(number);
}

#[task(queue = "test.faults.killed.classic", queue_type = "classic", concurrency = 5)]
async fn classic(books: &Books, number: u64) {
    books.classic.ran(number);
}

#[task(queue = "test.faults.killed.delayed", concurrency = 5)]
async fn delayed(books: &Books, number: u64, due: SystemTime) {
    if SystemTime::now() < due {
        books.early.fetch_add(1, Ordering::Relaxed);
    }
    books.delayed.ran(number);
}

/// Its first attempt fails: what is counted is the retry.
#[task(queue = "test.faults.killed.retried", concurrency = 5, backoff = fixed("500ms"))]
async fn retried(context: &Context, books: &Books, number: u64) -> Result<(), &'static str> {
    if context.attempt() == 1 {
        return Err("the first attempt fails");
    }
    books.retried.ran(number);
    Ok(())
}

async fn confirmed_jobs_survive_a_killed_broker(node: Private) {
    for _ in 0..rounds() {
        let client = client(&node.url).await;
        fresh::<Quorum>(&client).await;
        fresh::<Classic>(&client).await;
        fresh::<Delayed>(&client).await;
        fresh::<Retried>(&client).await;
        let books = Arc::new(Books::default());
        let worker =
            Worker::new(&client).task::<Quorum>().task::<Classic>().task::<Delayed>().task::<Retried>();
        let worker = run(worker.shared(books.clone()));
        let enqueuing = [
            tokio::spawn(enqueue_one_by_one(client.clone(), books.clone())),
            tokio::spawn(enqueue_batches(client.clone(), books.clone())),
            tokio::spawn(enqueue_delayed(client.clone(), books.clone())),
            tokio::spawn(enqueue_failing(client.clone(), books.clone())),
        ];
        for book in books.all() {
            book.until_confirmed(ENOUGH).await;
            book.until_ran(ENOUGH / 2).await;
        }
        let grown_up = Instant::now() + GROWN_UP;
        until("the queues to grow up", async || Instant::now() > grown_up).await;

        node.kill().await;
        let before: Vec<_> = books.all().map(Book::confirmed_count).into();
        node.start().await;

        for (book, before) in books.all().into_iter().zip(before) {
            book.until_confirmed(before + ENOUGH).await;
        }
        books.stop.store(true, Ordering::Relaxed);
        for enqueuing in enqueuing {
            enqueuing.await.unwrap();
        }
        let on = format!("kill -9 of RabbitMQ {}", node.number);
        for (book, kind) in books.all().into_iter().zip(["quorum", "classic", "delayed", "retried"]) {
            book.balance(&format!("{on}, {kind}")).await;
        }
        assert_eq!(books.early.load(Ordering::Relaxed), 0, "delayed jobs ran before their time");
        assert!(worker.is_running());
        worker.stop().await;
        client.close().await;
    }
}

impl Books {
    fn all(&self) -> [&Book; 4] {
        [&self.quorum, &self.classic, &self.delayed, &self.retried]
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Every enqueue must succeed: its client has longer to wait than the node is away.
async fn enqueue_one_by_one(client: Client, books: Arc<Books>) {
    for number in 0.. {
        if !books.goes_on() {
            return;
        }
        client.enqueue(Quorum { number }).await.unwrap();
        books.quorum.confirmed(number);
    }
}

async fn enqueue_batches(client: Client, books: Arc<Books>) {
    for batch in 0_u64.. {
        books.classic.until_ran(books.classic.confirmed_count().saturating_sub(AHEAD)).await;
        if !books.goes_on() {
            return;
        }
        let numbers = batch * 20..batch * 20 + 20;
        let enqueued = client.enqueue_all(numbers.clone().map(|number| Classic { number })).await;
        for (number, enqueued) in numbers.zip(enqueued) {
            enqueued.unwrap();
            books.classic.confirmed(number);
        }
    }
}

async fn enqueue_delayed(client: Client, books: Arc<Books>) {
    for number in 0.. {
        if !books.goes_on() {
            return;
        }
        // From the lowest rung of the ladder up to several steps on it.
        let due = SystemTime::now() + Duration::from_millis(50 + number * 37 % 4000);
        client.enqueue(Delayed { number, due }).at(due).await.unwrap();
        books.delayed.confirmed(number);
    }
}

async fn enqueue_failing(client: Client, books: Arc<Books>) {
    for number in 0.. {
        if !books.goes_on() {
            return;
        }
        client.enqueue(Retried { number }).await.unwrap();
        books.retried.confirmed(number);
    }
}
