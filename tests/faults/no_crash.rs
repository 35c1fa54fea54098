//! What looks like the crash of a worker, and is none: lost connections, killed nodes, orderly stops, operators that look
//! into queues, counts that came with a message. The jobs here run to their end in their first attempt, and none is a
//! dead letter.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lapin::options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use leveret::{Client, Context, Runnable, Task, TaskResult, Worker};
use tokio::process::{Child, Command};

use crate::support::crash::{Desk, Ledger};
use crate::support::{Node, Private, Process, Proxy, Role, Running, client, process, run, soon, until};

on_each!(Node:
    orderly_stops_cost_a_job_nothing,
    deploys_with_jobs_in_hand_cost_them_nothing,
    looks_of_an_operator_cost_a_job_nothing,
    count_that_came_with_a_message_costs_it_nothing,
);

mod private {
    on_each!(Private:
        connections_that_the_operator_closes_cost_a_job_nothing,
        connections_of_three_workers_cost_a_job_nothing,
        killed_nodes_cost_a_job_nothing,
    );

    use super::{
        connections_of_three_workers_cost_a_job_nothing,
        connections_that_the_operator_closes_cost_a_job_nothing, killed_nodes_cost_a_job_nothing,
    };
}

/// More often than a job may crash its worker.
const STOPS: usize = 25;
const DEPLOYS: usize = 10;
const CLOSINGS: usize = 10;
const KILLS: usize = 6;

/// Tells a worker's process where the file is that lets its jobs end.
const GATE: &str = "LEVERET_TEST_GATE";

/// The state of a worker whose jobs run until the test lets them end.
struct Holding {
    desk: Desk,
    gate: PathBuf,
    /// Jobs end when their worker is told to stop; others have to be cut off.
    heeds: bool,
}

impl Holding {
    async fn hold(&self, context: &Context, number: u64) -> TaskResult {
        assert_eq!(context.attempt(), 1, "nothing here costs an attempt");
        self.desk.write("begin", number);
        let opened = async {
            // Nothing signals that another process has made a file.
            while !self.gate.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = opened => {}
            () = context.cancelled(), if self.heeds => return Err("told to stop".into()),
        }
        self.desk.write("end", number);
        Ok(())
    }
}

/// A task in a queue of this type, and the process that works it.
macro_rules! jobs {
    ($module:ident, $queue:literal, $queue_type:literal) => {
        mod $module {
            use leveret::{Context, TaskResult};

            use super::{Holding, Place};

            pub(super) const PLACE: Place<Job> = Place {
                queue: $queue,
                process: concat!("no_crash::", stringify!($module), "::process"),
                job: |number| Job { number },
            };

            // The first failure is the end of a job.
            #[leveret::task(queue = $queue, queue_type = $queue_type, concurrency = 4, retries = 0)]
            pub(super) async fn job(holding: &Holding, context: &Context, number: u64) -> TaskResult {
                holding.hold(context, number).await
            }

            #[test]
            #[ignore = "the process that a test here starts"]
            fn process() {
                super::child::<Job>();
            }
        }
    };
}

jobs!(stops_quorum, "test.faults.no_crash.stops.quorum", "quorum");
jobs!(stops_classic, "test.faults.no_crash.stops.classic", "classic");
jobs!(deploys_quorum, "test.faults.no_crash.deploys.quorum", "quorum");
jobs!(deploys_classic, "test.faults.no_crash.deploys.classic", "classic");
jobs!(looks_quorum, "test.faults.no_crash.looks.quorum", "quorum");
jobs!(looks_classic, "test.faults.no_crash.looks.classic", "classic");
jobs!(counted_quorum, "test.faults.no_crash.counted.quorum", "quorum");
jobs!(counted_classic, "test.faults.no_crash.counted.classic", "classic");
jobs!(one_quorum, "test.faults.no_crash.one.quorum", "quorum");
jobs!(one_classic, "test.faults.no_crash.one.classic", "classic");

fn child<T: Runnable>() {
    let Some(url) = process::url() else { return };
    let gate = std::env::var_os(GATE).expect("the test says where the gate is").into();
    let holding = Holding { desk: Desk::open(0), gate, heeds: false };
    process::work(&url, |client| {
        Worker::new(client).task::<T>().state(holding).shutdown_timeout(Duration::from_millis(10))
    })
}

/// A queue, the jobs that go there, and the test that is the process of its worker.
struct Place<T> {
    queue: &'static str,
    process: &'static str,
    job: fn(u64) -> T,
}

/// A queue with jobs that the test lets end.
struct Scene<T> {
    place: Place<T>,
    what: String,
    client: Client,
    ledger: Ledger,
    jobs: u64,
}

impl<T: Task + Runnable> Scene<T> {
    async fn new(node: &Node, place: Place<T>) -> Self {
        let what = format!("RabbitMQ {}, {}", node.number, place.queue);
        let scene =
            Self { client: client(&node.url).await, ledger: Ledger::new(&what), place, what, jobs: 0 };
        for suffix in ["", ".suspect", ".dead"] {
            let queue = format!("{}{suffix}", scene.place.queue);
            scene.client.operator().unwrap().delete(&queue).await.unwrap();
        }
        let _ = std::fs::remove_file(scene.gate());
        scene.client.declare_queue(T::queue()).await.unwrap();
        scene
    }

    async fn enqueue(&mut self, count: u64) {
        for number in 0..count {
            self.client.enqueue((self.place.job)(number)).await.unwrap();
        }
        self.jobs = count;
    }

    fn gate(&self) -> PathBuf {
        self.ledger.0.with_extension("gate")
    }

    /// A worker of this process, whose jobs end when it is told to stop.
    fn work(&self) -> Running {
        let holding = Holding { desk: Desk::at(&self.ledger.0, 0), gate: self.gate(), heeds: true };
        let worker = Worker::new(&self.client).task::<T>().state(holding);
        run(worker.shutdown_timeout(Duration::from_millis(10)))
    }

    /// A worker in a process of its own, whose jobs have to be cut off.
    fn start(&self, url: &str) -> Child {
        let (url, gate, process) = (url.to_owned(), self.gate(), self.place.process);
        let command = move || {
            let mut command = Process::command(process, &url);
            command.env(GATE, &gate);
            command
        };
        self.ledger.record(command)().kill_on_drop(true).spawn().unwrap()
    }

    /// How often jobs were begun.
    fn begun(&self) -> usize {
        self.ledger.lines().iter().filter(|(_, step, _)| step == "begin").count()
    }

    async fn until_begun(&self, count: usize) {
        until(&format!("{}: {count} runs", self.what), async || self.begun() >= count).await;
    }

    /// Waits until the broker has delivered all jobs.
    async fn until_taken(&self) {
        let operator = self.client.operator().unwrap();
        until(&format!("{}: a worker has the jobs", self.what), async || {
            // This client may be without its connection as well.
            let Ok(queue) = operator.inspect(self.place.queue).await else { return false };
            let suspect = operator.inspect(&format!("{}.suspect", self.place.queue)).await;
            let suspect = suspect.unwrap_or_default();
            queue.ready + suspect.ready == 0 && queue.consumers + suspect.consumers > 0
        })
        .await;
    }

    /// Waits until the broker has nothing in the queue, nor set apart: also nothing that a worker has and leaves to another one,
    /// whose process lives.
    async fn until_empty(&self, node: &Private) {
        until(&format!("{}: nothing is left", self.what), async || {
            let queues = node.ctl(&["--quiet", "list_queues", "name", "messages"]).await;
            let ours = |line: &&str| line.starts_with(self.place.queue) && !line.contains(".dead");
            queues.lines().filter(ours).all(|line| line.ends_with("\t0"))
        })
        .await;
    }

    /// Lets the jobs end.
    async fn open(&self) {
        std::fs::write(self.gate(), "").unwrap();
        until(&format!("{}: all jobs end", self.what), async || self.ledger.ended() == self.jobs).await;
    }

    /// What was given back in order is not even suspected.
    async fn assert_none_was_set_apart(&self) {
        let apart = self.client.operator().unwrap().inspect(&format!("{}.suspect", self.place.queue)).await;
        assert!(apart.is_err(), "{}: set apart as {apart:?}", self.what);
    }

    /// How often jobs were begun, when all workers have gone; nothing is left, and nothing is dead.
    async fn end(self) -> usize {
        let operator = self.client.operator().unwrap();
        for suffix in ["", ".suspect", ".dead"] {
            let queue = format!("{}{suffix}", self.place.queue);
            let mut ready = 0;
            until(&format!("{}: the consumers of `{queue}` have gone", self.what), async || {
                let depth = operator.inspect(&queue).await.unwrap_or_default();
                ready = depth.ready;
                depth.consumers == 0
            })
            .await;
            assert_eq!(ready, 0, "{}: left in `{queue}`", self.what);
        }
        let _ = std::fs::remove_file(self.gate());
        self.client.close().await;
        self.begun()
    }
}

/// Stops a worker's process in the orderly way.
async fn stop(mut process: Child) {
    let id = process.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &id]).status().await.unwrap().success());
    let ended = soon("the end of the worker", process.wait()).await.unwrap();
    assert!(ended.success(), "{ended:?}");
}

async fn orderly_stops_cost_a_job_nothing(node: Node) {
    tokio::join!(stops(&node, stops_quorum::PLACE), stops(&node, stops_classic::PLACE));
}

async fn stops<T: Task + Runnable>(node: &Node, place: Place<T>) {
    let mut scene = Scene::new(node, place).await;
    scene.enqueue(1).await;
    for stop in 0..STOPS {
        let worker = scene.work();
        scene.until_begun(stop + 1).await;
        worker.stop().await;
    }

    let worker = scene.work();
    scene.open().await;
    worker.stop().await;

    scene.assert_none_was_set_apart().await;
    assert_eq!(scene.end().await, STOPS + 1);
}

async fn deploys_with_jobs_in_hand_cost_them_nothing(node: Node) {
    tokio::join!(deploys(&node, deploys_quorum::PLACE), deploys(&node, deploys_classic::PLACE));
}

async fn deploys<T: Task + Runnable>(node: &Node, place: Place<T>) {
    let mut scene = Scene::new(node, place).await;
    scene.enqueue(12).await;
    for deploy in 0..DEPLOYS {
        let process = scene.start(&node.url);
        scene.until_begun((deploy + 1) * 4).await;
        stop(process).await;
    }

    let process = scene.start(&node.url);
    scene.open().await;
    stop(process).await;

    scene.assert_none_was_set_apart().await;
    assert_eq!(scene.end().await, DEPLOYS * 4 + 12);
}

/// As "Get messages" of the management page does.
async fn looks_of_an_operator_cost_a_job_nothing(node: Node) {
    tokio::join!(looks(&node, looks_quorum::PLACE), looks(&node, looks_classic::PLACE));
}

async fn looks<T: Task + Runnable>(node: &Node, place: Place<T>) {
    let queue = place.queue;
    let mut scene = Scene::new(node, place).await;
    scene.enqueue(1).await;
    let connection = Connection::connect(&node.url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    for _ in 0..3 {
        until("the job is there to be looked at", async || {
            let Some(seen) = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap()
            else {
                return false;
            };
            seen.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await.unwrap();
            true
        })
        .await;
    }
    connection.close(200, "done".into()).await.unwrap();

    let worker = scene.work();
    scene.open().await;
    worker.stop().await;

    assert_eq!(scene.end().await, 1);
}

/// A shovel brings a message with the count that it had elsewhere.
async fn count_that_came_with_a_message_costs_it_nothing(node: Node) {
    tokio::join!(counted(&node, counted_quorum::PLACE), counted(&node, counted_classic::PLACE));
}

async fn counted<T: Task + Runnable>(node: &Node, place: Place<T>) {
    let queue = place.queue;
    let mut scene = Scene::new(node, place).await;
    let connection = Connection::connect(&node.url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut headers = FieldTable::default();
    headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(9));
    let properties = BasicProperties::default().with_type(T::NAME.into()).with_message_id("shovelled".into());
    let properties = properties.with_delivery_mode(2).with_headers(headers);
    let body = serde_json::to_vec(&(scene.place.job)(0)).unwrap();
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), queue.into(), options, &body, properties).await.unwrap();
    scene.jobs = 1;
    let worker = scene.work();
    scene.until_begun(1).await;
    worker.stop().await;

    let worker = scene.work();
    scene.open().await;
    worker.stop().await;

    assert_eq!(scene.end().await, 2);
    connection.close(200, "done".into()).await.unwrap();
}

async fn connections_that_the_operator_closes_cost_a_job_nothing(node: Private) {
    let proxy = Proxy::to(&node.url);
    let crew = Crew::start(&node, &proxy.url("")).await;

    for _ in 0..CLOSINGS {
        let before = proxy.opened(Role::Consumer);
        node.close_all_connections("maintenance").await;
        let all = before + crew.workers.len();
        until("all workers are connected", async || proxy.opened(Role::Consumer) >= all).await;
        crew.until_taken().await;
    }

    crew.end().await;
}

/// Each closing gives the job to any of them, and the others go on with it: so it may run several times, but not twice in one
/// process at once, and is no dead letter.
async fn connections_of_three_workers_cost_a_job_nothing(node: Private) {
    let proxy = Proxy::to(&node.url);
    let url = proxy.url("");
    let mut quorum = Scene::new(&node, one_quorum::PLACE).await;
    let mut classic = Scene::new(&node, one_classic::PLACE).await;
    quorum.enqueue(1).await;
    classic.enqueue(1).await;
    let workers: Vec<_> = (0..3).flat_map(|_| [quorum.start(&url), classic.start(&url)]).collect();
    quorum.until_begun(1).await;
    classic.until_begun(1).await;

    for _ in 0..CLOSINGS {
        let before = proxy.opened(Role::Consumer);
        node.close_all_connections("maintenance").await;
        let all = before + workers.len();
        // Not for the jobs: a worker that is to run one alone waits for the other to end before it fetches anything.
        until("all workers are connected", async || proxy.opened(Role::Consumer) >= all).await;
    }
    quorum.open().await;
    classic.open().await;
    quorum.until_empty(&node).await;
    classic.until_empty(&node).await;
    join_all(workers.into_iter().map(stop)).await;

    for runs in [quorum.end().await, classic.end().await] {
        assert!(runs <= 3, "{runs} runs by three workers");
    }
}

async fn killed_nodes_cost_a_job_nothing(node: Private) {
    let crew = Crew::start(&node, &node.url).await;

    for _ in 0..KILLS {
        grow_up().await;
        node.kill().await;
        node.start().await;
        // The node knows of no consumer from before.
        crew.until_taken().await;
    }

    crew.end().await;
}

/// A worker with a job in hand on a queue of each type.
struct Crew {
    quorum: Scene<one_quorum::Job>,
    classic: Scene<one_classic::Job>,
    workers: [Child; 2],
}

impl Crew {
    /// Returns when the jobs run.
    async fn start(node: &Node, url: &str) -> Self {
        let mut quorum = Scene::new(node, one_quorum::PLACE).await;
        let mut classic = Scene::new(node, one_classic::PLACE).await;
        quorum.enqueue(1).await;
        classic.enqueue(1).await;
        let workers = [quorum.start(url), classic.start(url)];
        quorum.until_begun(1).await;
        classic.until_begun(1).await;
        Self { quorum, classic, workers }
    }

    /// Waits until the workers have their jobs again.
    async fn until_taken(&self) {
        self.quorum.until_taken().await;
        self.classic.until_taken().await;
    }

    /// Lets the jobs end, which have run once.
    async fn end(self) {
        self.quorum.open().await;
        self.classic.open().await;
        join_all(self.workers.map(stop)).await;
        assert_eq!(self.quorum.end().await, 1, "runs of the quorum queue's job");
        assert_eq!(self.classic.end().await, 1, "runs of the classic queue's job");
    }
}

/// Killed younger than this, a quorum queue may never come back: see `scripts/rabbitmq`.
async fn grow_up() {
    let grown_up = Instant::now() + Duration::from_secs(2);
    until("the queues to grow up", async || Instant::now() > grown_up).await;
}
