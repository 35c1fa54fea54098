//! Jobs that come again to the worker that has had them: their ack was lost, or they still run. They do not run twice there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use leveret::{Client, Context, JobEvent, Task, TaskResult, Worker, task};
use queue_core::broker::Publish;
use queue_core::envelope::Envelope;
use tokio::sync::{Mutex, MutexGuard, Semaphore};

use crate::support::{
    Book, Node, Proxy, Role, Running, client, consume, fresh, log, next, run, unique, until,
};

on_each!(Node:
    job_whose_ack_was_lost_does_not_run_again,
    job_whose_ack_was_lost_after_its_retry_does_not_run_again,
    job_that_comes_again_while_it_runs_does_not_run_twice,
    other_job_of_the_same_id_runs,
    message_of_another_program_whose_ack_was_lost_runs_again,
    other_worker_runs_what_this_one_has_lost,
);

/// What the log says of a job that had ended.
const ENDED: &str = "its settlement had not reached the broker";

/// Lets handlers end, and keeps the book of those that began.
struct Gate {
    book: Book,
    open: Semaphore,
    /// How many settlements the worker has made.
    settled: AtomicU32,
}

impl Gate {
    fn closed() -> Arc<Self> {
        Arc::new(Self { book: Book::default(), open: Semaphore::new(0), settled: AtomicU32::new(0) })
    }

    async fn until_settled(&self, count: u32) {
        until("the worker has settled", async || self.settled.load(Ordering::SeqCst) >= count).await;
    }
}

#[task(queue = "test.faults.repeat", concurrency = 2, prefetch = 3, retries = 2, backoff = "1ms")]
async fn repeat(gate: &Gate, context: &Context, number: u64, fails_first: bool) -> TaskResult {
    gate.book.ran(number);
    let permit = gate.open.acquire().await;
    permit.expect("the gate is not closed").forget();
    if fails_first && context.attempt() == 1 { Err("the first attempt fails".into()) } else { Ok(()) }
}

/// One for each node: its tests share the queue, and so take turns.
static TURNS: [Mutex<()>; 3] = [const { Mutex::const_new(()) }; 3];

/// A worker behind a proxy, on an empty queue.
struct Scene {
    _turn: MutexGuard<'static, ()>,
    direct: Client,
    proxy: Proxy,
    client: Client,
    gate: Arc<Gate>,
    name: String,
    worker: Running,
}

impl Scene {
    async fn new(node: &Node) -> Self {
        let turn = [3, 4, 43].iter().position(|number| *number == node.number).expect("a node that is known");
        let _turn = TURNS[turn].lock().await;
        let direct = client(&node.url).await;
        fresh::<Repeat>(&direct).await;
        let proxy = Proxy::to(&node.url);
        let (client, gate, name) = (client(&proxy.url("")).await, Gate::closed(), unique("repeat"));
        let worker = run(worker(&client, &gate).name(&name));
        Self { _turn, direct, proxy, client, gate, name, worker }
    }

    async fn enqueue(&self, fails_first: bool) {
        self.direct.enqueue(Repeat { number: 0, fails_first }).await.unwrap();
    }

    /// Has the running job end, and its ack be lost: the broker delivers the message again.
    async fn lose_an_ack(&self) {
        self.proxy.freeze_only(Role::Consumer);
        self.gate.open.add_permits(1);
        self.gate.until_settled(1).await;
        self.proxy.reset();
    }

    /// Waits until the worker has known so many deliveries again.
    async fn until_known(&self, words: &str, count: usize) {
        until("the worker knows it again", async || log::lines(&[&self.name, words]).len() >= count).await;
    }

    /// Ends the worker, has the broker say that nothing is left, and says how often jobs ran.
    async fn runs(self) -> u32 {
        self.worker.stop().await;
        self.client.close().await;
        let stats = async || self.direct.operator().unwrap().inspect(Repeat::queue().name()).await.unwrap();
        until("the consumer is gone", async || stats().await.consumers == 0).await;
        // What the broker was not told of stands in front of what comes now.
        let last = self.direct.enqueue(Repeat { number: 1, fails_first: false }).await.unwrap();
        let mut consumer = consume(&self.direct, Repeat::queue().name(), 10).await;
        assert_eq!(&next(&mut consumer).await.envelope.id, last.id(), "the broker was not told");
        drop(consumer);
        self.direct.close().await;
        self.gate.book.runs()
    }
}

fn worker(client: &Client, gate: &Arc<Gate>) -> Worker {
    let told = gate.clone();
    Worker::new(client).task::<Repeat>().shared(gate.clone()).on_event(move |event| {
        if matches!(event, JobEvent::Succeeded { .. } | JobEvent::Retried { .. }) {
            told.settled.fetch_add(1, Ordering::SeqCst);
        }
    })
}

async fn job_whose_ack_was_lost_does_not_run_again(node: Node) {
    let scene = Scene::new(&node).await;
    scene.enqueue(false).await;
    scene.gate.book.until_ran(1).await;

    scene.lose_an_ack().await;
    scene.until_known(ENDED, 1).await;

    assert_eq!(scene.runs().await, 1);
}

async fn job_whose_ack_was_lost_after_its_retry_does_not_run_again(node: Node) {
    let scene = Scene::new(&node).await;
    scene.enqueue(true).await;
    scene.gate.book.until_ran(1).await;

    scene.lose_an_ack().await;
    scene.until_known(ENDED, 1).await;
    scene.gate.open.add_permits(1);
    scene.gate.until_settled(2).await;

    assert_eq!(scene.runs().await, 2, "one run for each attempt");
}

async fn job_that_comes_again_while_it_runs_does_not_run_twice(node: Node) {
    let scene = Scene::new(&node).await;
    scene.enqueue(false).await;
    scene.gate.book.until_ran(1).await;

    for times in 1..=3 {
        scene.proxy.reset();
        scene.until_known("delivered again while it runs", times).await;
    }
    scene.gate.open.add_permits(1);
    scene.gate.until_settled(1).await;

    assert_eq!(scene.runs().await, 1);
}

async fn other_job_of_the_same_id_runs(node: Node) {
    let scene = Scene::new(&node).await;
    for number in 0..2 {
        scene.direct.enqueue(Repeat { number, fails_first: false }).id("chosen").await.unwrap();
    }
    scene.gate.book.until_ran(2).await;

    // Both run, and either ends.
    scene.lose_an_ack().await;
    scene.until_known(ENDED, 1).await;
    scene.gate.open.add_permits(1);
    scene.gate.until_settled(2).await;

    assert_eq!(scene.runs().await, 2);
}

/// It may have sent two messages of one id.
async fn message_of_another_program_whose_ack_was_lost_runs_again(node: Node) {
    let scene = Scene::new(&node).await;
    scene.direct.declare_queue(Repeat::queue()).await.unwrap();
    let mut foreign = Envelope::new(r#"{"number":0,"fails_first":false}"#);
    foreign.id = "order-7".into();
    foreign.task = Some(Repeat::NAME.to_owned());
    scene.direct.broker().publish(Publish::to_queue(Repeat::queue().name().clone(), foreign)).await.unwrap();
    scene.gate.book.until_ran(1).await;

    scene.lose_an_ack().await;
    scene.gate.open.add_permits(1);
    scene.gate.until_settled(2).await;

    assert_eq!(scene.runs().await, 2);
}

async fn other_worker_runs_what_this_one_has_lost(node: Node) {
    let scene = Scene::new(&node).await;
    scene.enqueue(false).await;
    scene.gate.book.until_ran(1).await;
    let other = run(worker(&scene.direct, &scene.gate));

    scene.proxy.refuse();
    until("the other worker runs it", async || scene.gate.book.runs() == 2).await;
    scene.gate.open.add_permits(2);
    scene.gate.until_settled(1).await;
    other.stop().await;
    scene.proxy.pass();

    assert_eq!(scene.runs().await, 2);
}
