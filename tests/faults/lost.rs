//! Deliveries that a worker holds and has not begun, and whose channel goes meanwhile: they come again, so here they are
//! not begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use leveret::{Client, Context, JobEvent, Task, Worker, task};
use queue_core::broker::ConsumeOptions;
use queue_core::error::SettleError;
use queue_core::settlement::{Reason, ReasonKind, Settlement};
use queue_core::topology::{Name, QueueDecl, Topology};
use tokio::sync::Semaphore;

use crate::support::{
    Book, Private, client, consume, fresh, log, message, next, run, send, text, unique, until, until_ready,
};

mod operator {
    on_each!(Private:
        deliveries_lost_with_their_connection_are_not_begun,
        deliveries_held_beyond_consumer_timeout_are_not_begun,
        consumer_that_the_server_ends_gives_back_what_waits_and_acks_what_runs,
        settlement_after_the_consumers_own_timeout_is_lost,
        job_may_take_longer_than_the_server_waits_by_itself,
    );

    use super::{
        consumer_that_the_server_ends_gives_back_what_waits_and_acks_what_runs,
        deliveries_held_beyond_consumer_timeout_are_not_begun,
        deliveries_lost_with_their_connection_are_not_begun,
        job_may_take_longer_than_the_server_waits_by_itself,
        settlement_after_the_consumers_own_timeout_is_lost,
    };
}

/// How many jobs there are, and how many of them a worker holds.
const JOBS: u64 = 20;
const HELD: u64 = 10;

/// Lets handlers end, and keeps the book of those that began.
struct Gate {
    book: Book,
    /// Those that came again.
    again: Book,
    open: Semaphore,
}

impl Gate {
    fn closed() -> Arc<Self> {
        Arc::new(Self { book: Book::default(), again: Book::default(), open: Semaphore::new(0) })
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
    let stats = async || direct.operator().unwrap().inspect(name).await;
    until("the others are held", async || stats().await.is_ok_and(|stats| stats.ready == JOBS - HELD)).await;

    node.close_all_connections("maintenance").await;
    until("it consumes again", async || {
        stats().await.is_ok_and(|stats| stats.consumers == 1 && stats.ready == JOBS - HELD)
    })
    .await;
    gate.open.close();

    gate.book.balance("lost with their connection").await;
    // The one that ran then has lost its ack, and is known when it comes again.
    assert_eq!(gate.book.runs(), JOBS as u32, "what had not begun was begun in vain");
    assert_eq!(lost.load(Ordering::Relaxed), HELD - 1);
    let said = log::lines(&["WARN", name, &name_of_worker, "lost before they began"]);
    assert_eq!(said.len(), 1, "{said:?}");
    worker.stop().await;
    client.close().await;
    direct.close().await;
}

#[task(queue = "test.faults.lost.timeout", prefetch = 10)]
async fn works(context: &Context, gate: &Gate, number: u64) {
    gate.book.ran(number);
    if context.is_redelivered() {
        gate.again.ran(number);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
}

/// None of them takes long, but together they are held for longer than `consumer_timeout`.
async fn deliveries_held_beyond_consumer_timeout_are_not_begun(node: Private) {
    set_consumer_timeout(&node, Some(1500)).await;
    let client = client(&node.url).await;
    fresh::<Works>(&client).await;
    let gate = Gate::closed();
    enqueue(&client, &gate, (0..JOBS).map(|number| Works { number })).await;

    let worker = run(Worker::new(&client).task::<Works>().shared(gate.clone()));
    gate.book.balance("held beyond `consumer_timeout`").await;
    let name = Works::queue().name();
    until("all is settled", async || {
        client.operator().unwrap().inspect(name).await.is_ok_and(|stats| stats.ready == 0)
    })
    .await;

    if waits_as_long_as_it_is_asked(&node).await {
        assert_eq!(
            (gate.book.runs(), gate.again.runs()),
            (JOBS as u32, 0),
            "the worker asked for half an hour"
        );
        worker.stop().await;
        client.close().await;
        set_consumer_timeout(&node, None).await;
        return;
    }
    // At each timeout the one that ran then has lost its ack, or the server has lost patience with it: one run in five,
    // where the machine keeps pace. With all that was held it was five times as many runs as jobs.
    let runs = gate.book.runs();
    assert!(gate.again.runs() > 0, "nothing timed out");
    assert!(runs < 2 * JOBS as u32, "{runs} runs");
    let said = log::lines(&[name, "consumer_timeout", "Lower the queue's prefetch of 10"]);
    assert!(!said.is_empty(), "{:?}", log::lines(&[name]));
    worker.stop().await;
    client.close().await;
    set_consumer_timeout(&node, None).await;
}

/// RabbitMQ 4.3 ends a consumer and leaves its channel open; the versions before close the channel, and all is lost.
async fn consumer_that_the_server_ends_gives_back_what_waits_and_acks_what_runs(node: Private) {
    if !waits_as_long_as_it_is_asked(&node).await {
        return;
    }
    set_consumer_timeout(&node, Some(4000)).await;
    let client = client(&node.url).await;
    let queue: Name = unique("ended").into();
    let decl = QueueDecl::new(queue.clone()).argument("x-queue-type", "quorum");
    client.declare(&Topology::new().queue(decl)).await.unwrap();
    let mut consumer = consume(&client, &queue, 3).await;
    let listed = async |what: &[&str]| node.ctl(&[what, &["--quiet", "--no-table-headers"]].concat()).await;
    let consumers = listed(&["list_consumers", "queue_name", "channel_pid"]).await;
    let channel = consumers.lines().find_map(|line| line.strip_prefix(&*queue)).unwrap().trim().to_owned();
    send(&client, &queue, 1).await;
    let too_long = next(&mut consumer).await;
    // Held for not as long when the server loses patience with the first.
    for body in ["runs", "waits"] {
        let mut later = message(&queue, body);
        later.not_before = Some(SystemTime::now() + Duration::from_secs(1));
        client.broker().publish(later).await.unwrap();
    }
    let runs = next(&mut consumer).await;
    assert!(!runs.is_lost() && !runs.redelivered);

    let (one, other) = (next(&mut consumer).await, next(&mut consumer).await);

    let mut again = [text(&one), text(&other)];
    again.sort();
    assert_eq!(
        again,
        [text(&too_long), if text(&runs) == "runs" { "waits".into() } else { "runs".to_owned() }]
    );
    assert!(too_long.is_lost() && runs.is_lost(), "what has not begun would not begin any more");
    runs.settle(Settlement::Ack).await.unwrap();
    for delivery in [too_long, one, other] {
        let _ = delivery.settle(Settlement::Ack).await;
    }
    until("the old channel is closed", async || !listed(&["list_channels", "pid"]).await.contains(&channel))
        .await;
    // What ran has been acked: it does not come again when its channel goes.
    until_ready(&client, &queue, 0).await;
    send(&client, &queue, 1).await;
    assert_eq!(text(&next(&mut consumer).await), "0");
    client.operator().unwrap().delete(&queue).await.unwrap();
    client.close().await;
    set_consumer_timeout(&node, None).await;
}

/// The server ignores an ack of what it has taken back, so the worker must not believe that it told it.
async fn settlement_after_the_consumers_own_timeout_is_lost(node: Private) {
    if !waits_as_long_as_it_is_asked(&node).await {
        return;
    }
    let client = client(&node.url).await;
    let queue: Name = unique("impatient").into();
    let decl = QueueDecl::new(queue.clone()).argument("x-queue-type", "quorum");
    client.declare(&Topology::new().queue(decl)).await.unwrap();
    let options = ConsumeOptions::new(queue.clone()).prefetch(2).consumer_timeout(Duration::from_secs(3));
    let mut consumer = client.broker().consume(options).await.unwrap();
    send(&client, &queue, 2).await;
    let (acked, retried) = (next(&mut consumer).await, next(&mut consumer).await);

    let (one, other) = (next(&mut consumer).await, next(&mut consumer).await);

    assert!(one.redelivered && other.redelivered);
    let said = log::lines(&["ERROR", &queue, "x-consumer-timeout"]);
    assert!(said.len() == 1 && said[0].contains("limit=3s"), "{said:?}");
    let reason = Reason::new(ReasonKind::Failed, "no");
    let retry = Settlement::Retry { after: Duration::ZERO, attempt: 2, reason };
    for (late, settlement) in [(acked, Settlement::Ack), (retried, retry)] {
        let settled = late.settle(settlement).await;
        assert!(matches!(settled, Err(SettleError::Lost)), "{settled:?}");
    }
    one.settle(Settlement::Ack).await.unwrap();
    other.settle(Settlement::Ack).await.unwrap();
    until_ready(&client, &queue, 0).await;
    client.operator().unwrap().delete(&queue).await.unwrap();
    client.close().await;
}

#[task(queue = "test.faults.lost.endless", timeout = none)]
async fn endless(gate: &Gate, number: u64) {
    gate.book.ran(number);
    let _ = gate.open.acquire().await;
}

async fn job_may_take_longer_than_the_server_waits_by_itself(node: Private) {
    if !waits_as_long_as_it_is_asked(&node).await {
        return;
    }
    set_consumer_timeout(&node, Some(1000)).await;
    let (client, gate) = (client(&node.url).await, Gate::closed());
    fresh::<Endless>(&client).await;
    // The neighbour shows when the server has lost patience with consumers that do not ask.
    let queue: Name = unique("default").into();
    let decl = QueueDecl::new(queue.clone()).argument("x-queue-type", "quorum");
    client.declare(&Topology::new().queue(decl)).await.unwrap();
    let mut neighbour = consume(&client, &queue, 1).await;
    enqueue(&client, &gate, std::iter::once(Endless { number: 0 })).await;
    let worker = run(Worker::new(&client).task::<Endless>().shared(gate.clone()));
    gate.book.until_ran(1).await;

    send(&client, &queue, 1).await;
    let held = next(&mut neighbour).await;
    let again = next(&mut neighbour).await;
    assert_eq!(again.envelope.id, held.envelope.id);
    gate.open.close();

    gate.book.balance("longer than the server waits by itself").await;
    worker.stop().await;
    assert_eq!(gate.book.runs(), 1);
    let left = client.operator().unwrap().inspect(Endless::queue().name()).await.unwrap();
    assert_eq!(left.ready, 0, "its ack counted");
    client.operator().unwrap().delete(&queue).await.unwrap();
    client.close().await;
    set_consumer_timeout(&node, None).await;
}

/// Since RabbitMQ 4.3 a consumer of a quorum queue says how long the server is to wait for it.
async fn waits_as_long_as_it_is_asked(node: &Private) -> bool {
    node.eval("rabbit_misc:version().").await.contains("\"4.3")
}

/// For channels that are opened from now on, in milliseconds; `None` is what RabbitMQ comes with.
async fn set_consumer_timeout(node: &Private, timeout: Option<u32>) {
    let (timeout, tick) = timeout.map_or((1_800_000, 60_000), |timeout| (timeout, 300));
    node.eval(&format!(
        "application:set_env(rabbit, consumer_timeout, {timeout}), \
         application:set_env(rabbit, channel_tick_interval, {tick})."
    ))
    .await;
}
