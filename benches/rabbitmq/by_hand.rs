//! Two lapin loops written by hand: `plain`, what people write, and `tuned`, the best that lapin gives.
//!
//! Both publish confirmed, mandatory, persistent JSON; both open a connection of their own for each round, outside
//! the measured time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use leveret::JobId;
use tokio::sync::mpsc;

use crate::job::{Counter, Raw, text};
use crate::measure::{Sample, Stopwatch};

/// Whether messages say which job they are, of what type, and since when, as Leveret's do.
pub(crate) static IS_LABELLED: AtomicBool = AtomicBool::new(false);

async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.expect("the bench's node answers")
}

async fn confirming(connection: &Connection) -> Channel {
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    channel
}

fn options() -> BasicPublishOptions {
    BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() }
}

fn properties() -> BasicProperties {
    let bare = BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
    if !IS_LABELLED.load(Ordering::Relaxed) {
        return bare;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    bare.with_message_id(JobId::new().as_str().into())
        .with_type("classic_job".into())
        .with_timestamp(now.as_secs())
}

fn body(number: u64) -> Vec<u8> {
    serde_json::to_vec(&Raw { number, text: text() }).expect("JSON")
}

fn check(confirmation: Confirmation) {
    assert!(matches!(confirmation, Confirmation::Ack(None)), "not confirmed: {confirmation:?}");
}

/// One publish after another, each confirmed before the next.
pub(crate) async fn one_by_one(url: &str, queue: &str, jobs: usize) -> Sample {
    let connection = connect(url).await;
    let channel = confirming(&connection).await;
    let watch = Stopwatch::start();
    for number in 0..jobs {
        let body = body(number as u64);
        let publish = channel.basic_publish("".into(), queue.into(), options(), &body, properties()).await;
        check(publish.expect("published").await.expect("confirmed"));
    }
    let sample = watch.stop(jobs);
    close(connection).await;
    sample
}

/// Plain: publish awaited one after another, confirms collected and awaited at the end.
pub(crate) async fn plain_all(url: &str, queue: &str, jobs: usize) -> Sample {
    let connection = connect(url).await;
    let channel = confirming(&connection).await;
    let watch = Stopwatch::start();
    let mut confirms = Vec::with_capacity(jobs);
    for number in 0..jobs {
        let body = body(number as u64);
        let publish = channel.basic_publish("".into(), queue.into(), options(), &body, properties()).await;
        confirms.push(publish.expect("published"));
    }
    for confirm in confirms {
        check(confirm.await.expect("confirmed"));
    }
    let sample = watch.stop(jobs);
    close(connection).await;
    sample
}

/// Tuned: publish futures polled together from one task.
pub(crate) async fn tuned_all(url: &str, queue: &str, jobs: usize) -> Sample {
    let connection = connect(url).await;
    let channel = confirming(&connection).await;
    let watch = Stopwatch::start();
    let bodies: Vec<_> = (0..jobs).map(|number| body(number as u64)).collect();
    let mut publishes: FuturesUnordered<_> = bodies
        .iter()
        .map(|body| channel.basic_publish("".into(), queue.into(), options(), body, properties()))
        .collect();
    let mut confirms = Vec::with_capacity(jobs);
    while let Some(publish) = publishes.next().await {
        confirms.push(publish.expect("published"));
    }
    for confirmation in join_all(confirms).await {
        check(confirmation.expect("confirmed"));
    }
    let sample = watch.stop(jobs);
    drop(publishes);
    close(connection).await;
    sample
}

async fn consumer(channel: &Channel, queue: &str, prefetch: u16) -> Consumer {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.expect("qos");
    channel
        .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .expect("a consumer")
}

fn run(data: &[u8], counter: &Counter) {
    let job: Raw = serde_json::from_slice(data).expect("JSON");
    std::hint::black_box((job.number, job.text));
    counter.count();
}

/// Plain: `concurrency` consumers with prefetch 1 on channels of their own, `Acker::ack` awaited.
pub(crate) async fn plain_work(url: &str, queue: &str, jobs: usize, concurrency: u16) -> Sample {
    let connection = connect(url).await;
    let counter = Counter::new(jobs);
    let mut channels = Vec::new();
    for _ in 0..concurrency {
        channels.push(connection.create_channel().await.expect("a channel"));
    }
    let mut slots = Vec::new();
    for channel in &channels {
        let mut consumer = consumer(channel, queue, 1).await;
        let counter = counter.clone();
        slots.push(tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                run(&delivery.data, &counter);
                // The last one may come after the connection is closed.
                let _ = delivery.ack(BasicAckOptions::default()).await;
            }
        }));
    }
    let sample = counter.all_done().await;
    close(connection).await;
    for slot in slots {
        slot.abort();
    }
    sample
}

/// Tuned: one consumer with `concurrency` as its qos, as many slots, `basic_ack` not awaited, `multiple` where
/// contiguous.
pub(crate) async fn tuned_work(url: &str, queue: &str, jobs: usize, concurrency: u16) -> Sample {
    let connection = connect(url).await;
    let counter = Counter::new(jobs);
    let channel = connection.create_channel().await.expect("a channel");
    let (finished, mut tags) = mpsc::unbounded_channel::<u64>();
    let mut consumer = consumer(&channel, queue, concurrency).await;
    let fetching = tokio::spawn({
        let counter = counter.clone();
        async move {
            // Prefetch bounds how many run at once.
            while let Some(Ok(delivery)) = consumer.next().await {
                let counter = counter.clone();
                let finished = finished.clone();
                tokio::spawn(async move {
                    run(&delivery.data, &counter);
                    let _ = finished.send(delivery.delivery_tag);
                });
            }
        }
    });
    let acking = tokio::spawn(async move {
        let (mut acked, mut waiting) = (0, BTreeSet::new());
        let mut turn = Vec::with_capacity(64);
        while tags.recv_many(&mut turn, 64).await > 0 {
            waiting.extend(turn.drain(..));
            let low = acked;
            while waiting.first() == Some(&(acked + 1)) {
                waiting.pop_first();
                acked += 1;
            }
            if acked > low {
                let _ = channel.basic_ack(acked, BasicAckOptions { multiple: true }).now_or_never();
            }
        }
    });
    let sample = counter.all_done().await;
    close(connection).await;
    fetching.abort();
    acking.abort();
    sample
}

async fn close(connection: Connection) {
    connection.close(200, "done".into()).await.expect("closed");
}
