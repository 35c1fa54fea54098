//! Delays on machines whose clocks disagree: what counts is the time that has passed on the server.

use std::time::{Duration, Instant, SystemTime};

use queue_core::broker::{Broker, Consumer, Publish, rabbitmq};
use queue_core::clock::{Clock, to_millis};
use queue_core::envelope::header;
use queue_core::settlement::{Reason, ReasonKind, Settlement};
use queue_core::topology::{Namespace, delay_ladder};

use crate::support::{Node, consume, job, next, queue, settings, soon, unique, until};

on_each_node!(
    delay_is_exact_though_the_enqueuers_clock_is_ahead,
    delay_is_exact_though_the_enqueuers_clock_is_behind,
    delays_are_exact_though_one_of_two_routers_is_behind,
    delays_are_exact_though_one_of_two_routers_is_ahead,
    retry_is_exact_though_its_workers_clock_differs,
    job_that_was_due_while_nobody_worked_comes_at_once,
    job_of_an_older_version_comes_by_its_eta_alone,
    job_that_an_older_version_passed_on_comes_by_its_eta,
);

/// Far more than clocks ever differ by chance.
const WRONG: Duration = Duration::from_secs(600);
/// How late a job may be whose enqueuer, router and server disagree about the time: 2 s, and more on a loaded machine.
const LATE: Duration = Duration::from_secs(5);

/// A broker in a namespace of the test's own: its jobs are not to be routed by clocks of other tests.
async fn broker(node: &Node, namespace: &str, clock: Clock) -> std::sync::Arc<dyn Broker> {
    let mut settings = settings();
    settings.namespace = Namespace::new(namespace.to_owned()).unwrap();
    settings.clock = clock;
    rabbitmq::connect(&node.url, &settings).await.expect("the node answers")
}

/// Takes the ladder out.
async fn clean_up(broker: &dyn Broker, namespace: &str) {
    for queue in delay_ladder(&Namespace::new(namespace.to_owned()).unwrap()).queues {
        broker.operator().unwrap().delete(&queue.name).await.unwrap();
    }
    broker.close().await;
}

/// What arrives after `delay`, and when: never early, and late by no more than [`LATE`].
async fn arrives(consumer: &mut Consumer, since: Instant, delay: Duration) {
    let delivery = next(consumer).await;
    let took = since.elapsed();
    let traces: Vec<_> = delivery.envelope.headers.iter().map(|(name, _)| name.to_owned()).collect();
    assert!(took >= delay, "{:?} early", delay - took);
    assert!(took < delay + LATE, "{:?} late", took - delay);
    assert!(traces.is_empty(), "{traces:?}");
    delivery.settle(Settlement::Ack).await.unwrap();
}

async fn delayed_by(node: Node, clock: Clock) {
    let namespace = unique("clock");
    let worker = broker(&node, &namespace, Clock::system()).await;
    let enqueuer = broker(&node, &namespace, clock.clone()).await;
    let queue = queue(&worker).await;
    let mut consumer = consume(&worker, &queue, 10).await;

    // The second of them takes three rungs.
    for delay in [Duration::from_millis(100), Duration::from_millis(1_900), Duration::from_secs(4)] {
        let mut publish = Publish::to_queue(queue.clone(), job("x"));
        publish.not_before = Some(clock.now() + delay);
        let since = Instant::now();
        enqueuer.publish(publish).await.unwrap();
        arrives(&mut consumer, since, delay).await;
    }

    enqueuer.close().await;
    clean_up(&*worker, &namespace).await;
}

async fn delay_is_exact_though_the_enqueuers_clock_is_ahead(node: Node) {
    delayed_by(node, Clock::ahead(WRONG)).await;
}

async fn delay_is_exact_though_the_enqueuers_clock_is_behind(node: Node) {
    delayed_by(node, Clock::behind(WRONG)).await;
}

/// Either may route any job.
async fn routed_by(node: Node, clock: Clock) {
    const JOBS: u32 = 20;
    let namespace = unique("clock");
    let workers = [Clock::system(), clock].map(|clock| broker(&node, &namespace, clock));
    let [one, other] = workers;
    let (one, other) = (one.await, other.await);
    let (queue, unrelated) = (queue(&one).await, queue(&one).await);
    let mut consumer = consume(&one, &queue, 100).await;
    let _router = consume(&other, &unrelated, 1).await;
    let delay = Duration::from_millis(1_400);

    let since = Instant::now();
    let publishes = (0..JOBS).map(|_| {
        let mut publish = Publish::to_queue(queue.clone(), job("x"));
        publish.not_before = Some(SystemTime::now() + delay);
        publish
    });
    for sent in one.publish_all(publishes.collect()).await {
        sent.unwrap();
    }
    for _ in 0..JOBS {
        arrives(&mut consumer, since, delay).await;
    }

    other.close().await;
    clean_up(&*one, &namespace).await;
}

async fn delays_are_exact_though_one_of_two_routers_is_behind(node: Node) {
    routed_by(node, Clock::behind(WRONG)).await;
}

async fn delays_are_exact_though_one_of_two_routers_is_ahead(node: Node) {
    routed_by(node, Clock::ahead(WRONG)).await;
}

async fn retry_is_exact_though_its_workers_clock_differs(node: Node) {
    let namespace = unique("clock");
    let wrong = broker(&node, &namespace, Clock::ahead(WRONG)).await;
    let queue = queue(&wrong).await;
    let mut failing = consume(&wrong, &queue, 1).await;
    wrong.publish(Publish::to_queue(queue.clone(), job("x"))).await.unwrap();
    let delivery = next(&mut failing).await;
    let right = broker(&node, &namespace, Clock::system()).await;
    let after = Duration::from_millis(1_700);

    let since = Instant::now();
    let reason = Reason::new(ReasonKind::Failed, "mail server said 451");
    delivery.settle(Settlement::Retry { after, attempt: 2, reason }).await.unwrap();
    // From now on the job is routed by the other.
    failing.stop();
    assert!(soon("the end", failing.next()).await.is_none());
    drop(failing);
    let mut consumer = consume(&right, &queue, 1).await;
    let again = next(&mut consumer).await;
    let took = since.elapsed();

    assert!((after..after + LATE).contains(&took), "{took:?}");
    again.settle(Settlement::Ack).await.unwrap();
    wrong.close().await;
    clean_up(&*right, &namespace).await;
}

/// On its first rung it has waited 8 of its 15 s; that it has waited for longer in `due` only clocks know.
async fn job_that_was_due_while_nobody_worked_comes_at_once(node: Node) {
    let namespace = unique("clock");
    let enqueuer = broker(&node, &namespace, Clock::ahead(WRONG)).await;
    let queue = queue(&enqueuer).await;
    let delay = Duration::from_secs(15);
    let mut publish = Publish::to_queue(queue.clone(), job("x"));
    publish.not_before = Some(SystemTime::now() + WRONG + delay);
    let since = Instant::now();
    enqueuer.publish(publish).await.unwrap();
    until("its time", async || since.elapsed() >= delay).await;

    let worker = broker(&node, &namespace, Clock::behind(WRONG)).await;
    let mut consumer = consume(&worker, &queue, 1).await;
    let begun = Instant::now();
    next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
    let took = begun.elapsed();

    assert!(took < LATE, "{took:?}");
    enqueuer.close().await;
    clean_up(&*worker, &namespace).await;
}

/// As an older Leveret or another program sends it: to the rung that it thinks right.
async fn job_of_an_older_version_comes_by_its_eta_alone(node: Node) {
    let namespace = unique("clock");
    // A wrong clock of the router's does not matter: the server tells it the time.
    let worker = broker(&node, &namespace, Clock::behind(WRONG)).await;
    let queue = queue(&worker).await;
    let mut consumer = consume(&worker, &queue, 1).await;
    let delay = Duration::from_millis(1_700);
    let since = Instant::now();
    let mut envelope = job("x");
    envelope.headers.insert(header::ETA, to_millis(SystemTime::now() + delay) + 1);
    envelope.headers.insert(header::TARGET, queue.as_str());

    let rung = Namespace::new(namespace.clone()).unwrap().rung(3);
    worker.publish(Publish::to_queue(rung, envelope)).await.unwrap();

    arrives(&mut consumer, since, delay).await;
    clean_up(&*worker, &namespace).await;
}

/// It keeps what we wrote, and takes another rung than the one for which that counts.
async fn job_that_an_older_version_passed_on_comes_by_its_eta(node: Node) {
    let namespace = unique("clock");
    let worker = broker(&node, &namespace, Clock::system()).await;
    let queue = queue(&worker).await;
    let enqueuer = broker(&node, &namespace, Clock::system()).await;
    let ladder = Namespace::new(namespace.clone()).unwrap();
    // Before the time counts: it takes a while.
    enqueuer.declare(&delay_ladder(&ladder)).await.unwrap();
    let delay = Duration::from_millis(3_900);
    let mut publish = Publish::to_queue(queue.clone(), job("x"));
    publish.not_before = Some(SystemTime::now() + delay);
    let since = Instant::now();
    enqueuer.publish(publish).await.unwrap();
    let mut due = consume(&enqueuer, &ladder.rung(4), 1).await;
    let delivery = next(&mut due).await;
    // What an older Leveret does at an earlier arrival.
    let passed_on = delivery.envelope.clone();
    enqueuer.publish(Publish::to_queue(ladder.rung(0), passed_on)).await.unwrap();
    delivery.settle(Settlement::Ack).await.unwrap();
    due.stop();
    assert!(soon("the end", due.next()).await.is_none());

    let mut consumer = consume(&worker, &queue, 1).await;

    arrives(&mut consumer, since, delay).await;
    enqueuer.close().await;
    clean_up(&*worker, &namespace).await;
}
