//! What the fault tests stand on: nodes ([`node`]), a network that fails ([`proxy`]), processes that are killed
//! ([`process`]) or end themselves ([`crash`]), the count of what was lost ([`book`]), the log ([`log`]), and waiting with
//! a deadline ([`wait`]).

#[macro_use]
pub(crate) mod node;
pub(crate) mod book;
pub(crate) mod crash;
pub(crate) mod log;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use leveret::{Client, Runnable, Task, Worker, WorkerHandle};
use queue_core::broker::{ConsumeOptions, Consumer, Delivery, Publish};
use queue_core::envelope::Envelope;
use queue_core::topology::{Name, QueueDecl, Topology};
use tokio::task::JoinHandle;

pub(crate) use book::Book;
pub(crate) use node::{Node, Private};
pub(crate) use process::Process;
pub(crate) use proxy::{Proxy, Role};
pub(crate) use wait::{PATIENCE, soon, until};

/// Leveret's own names in all these tests: each ladder is 23 queues, which take seconds to declare and stay.
pub(crate) const NAMESPACE: &str = "test.faults";

/// How often a test does what can go wrong by chance: once, or `LEVERET_FAULT_ROUNDS` times.
pub(crate) fn rounds() -> u32 {
    let rounds = std::env::var("LEVERET_FAULT_ROUNDS").ok();
    rounds.map_or(1, |rounds| rounds.parse().expect("LEVERET_FAULT_ROUNDS is a number"))
}

/// A client that waits as long as the tests do.
pub(crate) async fn client(url: &str) -> Client {
    connect(url, builder()).await
}

pub(crate) fn builder() -> leveret::ClientBuilder {
    Client::builder().namespace(NAMESPACE).unwrap().publish_timeout(PATIENCE)
}

pub(crate) async fn connect(url: &str, builder: leveret::ClientBuilder) -> Client {
    let client = soon("the connection", builder.connect(url)).await;
    client.unwrap_or_else(|error| panic!("connect: {}", leveret::error_chain(&error)))
}

/// Deletes what an earlier run of this test has left in the task's queues.
pub(crate) async fn fresh<T: Task>(client: &Client) {
    client.operator().unwrap().delete(T::queue().name()).await.unwrap();
    if let Some(dead) = T::queue().dead_queue() {
        client.operator().unwrap().delete(&dead).await.unwrap();
    }
}

/// A worker at work.
pub(crate) struct Running {
    pub(crate) handle: WorkerHandle,
    ended: JoinHandle<leveret::Result<()>>,
}

/// Runs a worker of one task, with state that the test shares.
pub(crate) fn work<T: Runnable>(client: &Client, state: &Arc<impl Send + Sync + 'static>) -> Running {
    run(Worker::new(client).task::<T>().shared(state.clone()))
}

pub(crate) fn run(worker: Worker) -> Running {
    let worker = worker.signals(false);
    Running { handle: worker.handle(), ended: tokio::spawn(worker.run()) }
}

impl Running {
    /// Stops it in the orderly way; it must have been well until then.
    pub(crate) async fn stop(self) {
        self.handle.shutdown();
        self.ended().await.unwrap_or_else(|error| panic!("{}", leveret::error_chain(&error)));
    }

    pub(crate) async fn ended(self) -> leveret::Result<()> {
        soon("the worker's end", self.ended).await.expect("no panic")
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.ended.is_finished()
    }
}

/// A name that no other test and no other run uses.
pub(crate) fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
    format!("test.faults.{what}.{now:x}.{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A classic queue of the test's own, which goes by itself some time after the test.
pub(crate) async fn queue(client: &Client, what: &str) -> Name {
    let name: Name = unique(what).into();
    let decl = QueueDecl::new(name.clone()).argument("x-expires", 600_000_i64);
    client.declare(&Topology::new().queue(decl)).await.unwrap();
    name
}

/// A mandatory message to a queue.
pub(crate) fn message(queue: &Name, text: impl Into<String>) -> Publish {
    Publish::to_queue(queue.clone(), Envelope::new(text.into()))
}

/// Publishes `count` messages, numbered.
pub(crate) async fn send(client: &Client, queue: &Name, count: u64) {
    let messages = (0..count).map(|number| message(queue, number.to_string())).collect();
    for sent in client.broker().publish_all(messages).await {
        sent.unwrap();
    }
}

pub(crate) async fn consume(client: &Client, queue: &Name, prefetch: u16) -> Consumer {
    client.broker().consume(ConsumeOptions::new(queue.clone()).prefetch(prefetch)).await.unwrap()
}

/// The next delivery.
#[track_caller]
pub(crate) fn next(consumer: &mut Consumer) -> impl Future<Output = Delivery> {
    let coming = soon("a delivery", consumer.next());
    async move { coming.await.expect("the consumer goes on").expect("no error") }
}

pub(crate) fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.envelope.payload).into_owned()
}

pub(crate) async fn ready(client: &Client, queue: &str) -> u64 {
    client.operator().unwrap().inspect(queue).await.unwrap().ready
}

#[track_caller]
pub(crate) fn until_ready(client: &Client, queue: &str, count: u64) -> impl Future<Output = ()> {
    until("so many ready", async move || ready(client, queue).await == count)
}

/// Nothing signals that a delivery does *not* come. But the queue has handled one more message, and says that all
/// that were ready are so still, with it.
pub(crate) async fn assert_no_more_is_sent(client: &Client, queue: &Name, ready_before: u64) {
    until_ready(client, queue, ready_before).await;
    client.broker().publish(message(queue, "one more")).await.unwrap();
    assert_eq!(ready(client, queue).await, ready_before + 1, "more was sent than the prefetch allows");
}
