//! What becomes of jobs when the process that runs them is killed, or told to stop.

use std::sync::Arc;

use leveret::{Context, Runnable, Task, Worker, task};
use tokio::signal::unix::{SignalKind, signal};

use crate::support::{Book, Node, Process, Proxy, client, fresh, process, ready, rounds, work};

on_each!(Node:
    job_of_a_killed_process_runs_elsewhere,
    sigterm_loses_nothing_and_exits_0,
    sigterm_waits_until_the_broker_has_every_ack,
    sigterm_while_the_broker_is_away_exits_0,
    second_sigterm_stops_at_once,
);

/// Where a job runs.
enum Place {
    /// In the process that is killed.
    Child,
    /// In the test.
    Parent(Runs),
}

#[derive(Default)]
struct Runs {
    all: Book,
    redelivered: Book,
}

impl Place {
    fn parent() -> Arc<Self> {
        Arc::new(Self::Parent(Runs::default()))
    }

    fn runs(&self) -> &Runs {
        match self {
            Self::Parent(runs) => runs,
            Self::Child => panic!("only the parent counts"),
        }
    }

    /// Whether the job runs in the child, which then says so.
    fn is_child(&self, context: &Context, number: u64) -> bool {
        match self {
            Self::Child => println!("runs {number}"),
            Self::Parent(runs) => {
                assert_eq!(context.attempt(), 1, "a killed worker costs no attempt");
                runs.all.ran(number);
                if context.is_redelivered() {
                    runs.redelivered.ran(number);
                }
            }
        }
        matches!(self, Self::Child)
    }

    /// In the child: says that the job runs, and waits for the signal that stops the worker.
    async fn runs_until_sigterm(&self, context: &Context, number: u64) {
        // First, since the signal may come as soon as the test knows that the job runs.
        let sigterm = matches!(self, Self::Child).then(|| signal(SignalKind::terminate()).unwrap());
        self.is_child(context, number);
        if let Some(mut sigterm) = sigterm {
            sigterm.recv().await;
            println!("ended {number}");
        }
    }
}

#[task(queue = "test.faults.worker.killed")]
async fn killed(context: &Context, place: &Place, number: u64) {
    if place.is_child(context, number) {
        std::future::pending().await
    }
}

#[task(queue = "test.faults.worker.stopped")]
async fn stopped(context: &Context, place: &Place, number: u64) {
    place.runs_until_sigterm(context, number).await;
}

#[task(queue = "test.faults.worker.crowd", concurrency = 100)]
async fn crowd(context: &Context, place: &Place, number: u64) {
    place.runs_until_sigterm(context, number).await;
}

#[task(queue = "test.faults.worker.cut_off")]
async fn cut_off(context: &Context, place: &Place, number: u64) {
    place.runs_until_sigterm(context, number).await;
}

#[task(queue = "test.faults.worker.stubborn")]
async fn stubborn(context: &Context, place: &Place, number: u64) {
    if place.is_child(context, number) {
        std::future::pending().await
    }
}

fn child<T: Runnable>() {
    let Some(url) = process::url() else { return };
    process::work(&url, |client| Worker::new(client).task::<T>().state(Place::Child))
}

#[test]
#[ignore = "the process that a test here starts"]
fn killed_process() {
    child::<Killed>();
}

#[test]
#[ignore = "the process that a test here starts"]
fn stopped_process() {
    child::<Stopped>();
}

#[test]
#[ignore = "the process that a test here starts"]
fn crowd_process() {
    child::<Crowd>();
}

#[test]
#[ignore = "the process that a test here starts"]
fn cut_off_process() {
    child::<CutOff>();
}

#[test]
#[ignore = "the process that a test here starts"]
fn stubborn_process() {
    child::<Stubborn>();
}

async fn job_of_a_killed_process_runs_elsewhere(node: Node) {
    let (client, place) = (client(&node.url).await, Place::parent());
    fresh::<Killed>(&client).await;
    for enqueued in client.enqueue_all((0..3).map(|number| Killed { number })).await {
        enqueued.unwrap();
    }
    let mut process = Process::start("worker_killed::killed_process", &node.url);
    process.says("runs 0").await;

    process.signal("KILL").await;

    assert_eq!(process.end().await.0, None);
    let worker = work::<Killed>(&client, &place);
    place.runs().all.until_ran(3).await;
    assert_eq!(place.runs().redelivered.ran_count(), 1, "the one that was running, and no other");
    worker.stop().await;
    client.close().await;
}

async fn sigterm_loses_nothing_and_exits_0(node: Node) {
    let (client, place) = (client(&node.url).await, Place::parent());
    fresh::<Stopped>(&client).await;
    for enqueued in client.enqueue_all((0..5).map(|number| Stopped { number })).await {
        enqueued.unwrap();
    }
    let mut process = Process::start("worker_killed::stopped_process", &node.url);
    process.says("runs 0").await;

    process.signal("TERM").await;

    let (code, rest) = process.end().await;
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("ended 0") && !rest.contains("runs 1"), "{rest}");
    assert_eq!(ready(&client, Stopped::queue().name()).await, 4);
    let worker = work::<Stopped>(&client, &place);
    place.runs().all.until_ran(4).await;
    worker.stop().await;
    assert_eq!(ready(&client, Stopped::queue().name()).await, 0);
    client.close().await;
}

/// A hundred jobs end with the process. One whose ack stays behind has succeeded, and would run again.
async fn sigterm_waits_until_the_broker_has_every_ack(node: Node) {
    let client = client(&node.url).await;
    fresh::<Crowd>(&client).await;
    for _ in 0..rounds() {
        for enqueued in client.enqueue_all((0..100).map(|number| Crowd { number })).await {
            enqueued.unwrap();
        }
        let mut process = Process::start("worker_killed::crowd_process", &node.url);
        for _ in 0..100 {
            process.says("runs ").await;
        }

        process.signal("TERM").await;

        let (code, rest) = process.end().await;
        assert_eq!(code, Some(0), "{rest}");
        assert_eq!(ready(&client, Crowd::queue().name()).await, 0, "acks were left behind");
    }
    client.close().await;
}

async fn sigterm_while_the_broker_is_away_exits_0(node: Node) {
    let (client, place) = (client(&node.url).await, Place::parent());
    fresh::<CutOff>(&client).await;
    client.enqueue(CutOff { number: 0 }).await.unwrap();
    let proxy = Proxy::to(&node.url);
    let mut process = Process::start("worker_killed::cut_off_process", &proxy.url(""));
    process.says("runs 0").await;

    proxy.refuse();
    process.says("RabbitMQ is away").await;
    process.signal("TERM").await;

    // Its job had its time, and no ack of it arrived: it runs again.
    let (code, rest) = process.end().await;
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("ended 0"), "{rest}");
    let worker = work::<CutOff>(&client, &place);
    place.runs().all.until_ran(1).await;
    worker.stop().await;
    client.close().await;
}

async fn second_sigterm_stops_at_once(node: Node) {
    let (client, place) = (client(&node.url).await, Place::parent());
    fresh::<Stubborn>(&client).await;
    client.enqueue(Stubborn { number: 0 }).await.unwrap();
    let mut process = Process::start("worker_killed::stubborn_process", &node.url);
    process.says("runs 0").await;

    process.signal("TERM").await;
    // Two signals at once may arrive as one.
    process.says("a second signal stops it at once").await;
    process.signal("TERM").await;

    let (code, rest) = process.end().await;
    assert_eq!(code, Some(1), "{rest}");
    assert!(rest.contains("1 running jobs were cut off and run again"), "{rest}");
    let worker = work::<Stubborn>(&client, &place);
    place.runs().all.until_ran(1).await;
    worker.stop().await;
    client.close().await;
}
