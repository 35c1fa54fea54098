//! Settlements, the delay ladder and dead letters.

use std::time::{Duration, SystemTime};

use queue_core::broker::{ConsumeOptions, Delivery, Publish};
use queue_core::envelope::{HeaderValue, header};
use queue_core::error::SettleError;
use queue_core::settlement::{Reason, ReasonKind, Settlement};
use queue_core::topology::{Namespace, QueueSpec, Route};

use crate::proxy::{Mode, Proxy};
use crate::support::{self, Node, consume, job, next, queue, soon, unique, until};

on_each_node!(
    delayed_jobs_come_in_time_and_never_early,
    retried_job_comes_back_after_its_delay_with_its_attempt,
    dead_letter_reaches_its_queue_with_the_reason,
    dead_letter_that_nobody_takes_goes_back_to_its_queue,
    delayed_job_whose_queue_has_gone_is_kept,
    released_and_dropped_deliveries_come_again,
    ack_is_sent_though_its_thread_is_blocked_and_nothing_more_is_fetched,
);

fn failed() -> Reason {
    Reason::new(ReasonKind::Failed, "mail server said 451")
}

async fn delayed_jobs_come_in_time_and_never_early(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    let mut consumer = consume(&broker, &queue, 200).await;
    let begin = SystemTime::now();
    let dues: Vec<_> = (0..100).map(|i| begin + Duration::from_millis(20 + i * 23)).collect();
    let due_at = |due: SystemTime| {
        let mut envelope = job("x");
        envelope.headers.insert("due", micros(due));
        Publish::to_queue(queue.clone(), envelope)
    };

    let publishes = dues.iter().map(|due| {
        let mut publish = due_at(*due);
        publish.envelope.priority = Some(5);
        publish.not_before = Some(*due);
        publish
    });
    let outcomes = broker.publish_all(publishes.collect()).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    // What takes no delay, but is sent when it is due, tells how late everything is on a machine that is busy.
    for due in dues.iter().copied() {
        let (broker, publish) = (broker.clone(), due_at(due));
        tokio::spawn(async move {
            tokio::time::sleep(due.duration_since(SystemTime::now()).unwrap_or_default()).await;
            broker.publish(publish).await.unwrap();
        });
    }

    let (mut late, mut others) = (Vec::new(), Vec::new());
    for _ in 0..2 * dues.len() {
        let delivery = next(&mut consumer).await;
        let envelope = &delivery.envelope;
        let due = envelope.headers.get("due").and_then(HeaderValue::as_int).unwrap();
        let now = micros(SystemTime::now());
        if envelope.priority == Some(5) {
            assert!(now >= due, "{} us early", due - now);
            assert_eq!(envelope.headers.get(header::ETA), None);
            assert_eq!(envelope.headers.get(header::TARGET), None);
            late.push((now - due) / 1000);
        } else {
            others.push((now - due) / 1000);
        }
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    late.sort_unstable();
    others.sort_unstable();
    // Tens of milliseconds on an idle machine; what is checked is that nothing waits for a whole rung. A delayed job takes
    // up to five steps where another takes one.
    assert!(late[50] < 200 + 5 * others[50], "{late:?}, and without a delay {others:?}");
    broker.close().await;
}

fn micros(moment: SystemTime) -> i64 {
    moment.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as i64
}

async fn retried_job_comes_back_after_its_delay_with_its_attempt(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    let mut consumer = consume(&broker, &queue, 1).await;
    let sent = job("x");
    broker.publish(Publish::to_queue(queue.clone(), sent.clone())).await.unwrap();

    let after = Duration::from_millis(700);
    let since = std::time::Instant::now();
    let retry = Settlement::Retry { after, attempt: 2, reason: failed() };
    next(&mut consumer).await.settle(retry).await.unwrap();
    let again = next(&mut consumer).await;

    assert!(since.elapsed() >= after, "{:?}", since.elapsed());
    assert_eq!(again.envelope.id, sent.id);
    assert_eq!(again.envelope.attempt, 2);
    assert_eq!(again.envelope.headers.get(header::ERROR_KIND), Some(&"failed".into()));
    again.settle(Settlement::Ack).await.unwrap();
    let stats = broker.operator().unwrap().inspect(&queue).await.unwrap();
    assert_eq!(stats.ready, 0);
    broker.close().await;
}

async fn dead_letter_reaches_its_queue_with_the_reason(node: Node) {
    let broker = node.broker().await;
    let spec = QueueSpec::new(unique("spec")).dlx(unique("dlx"));
    let namespace = Namespace::default();
    broker.declare(&spec.topology(&namespace).unwrap()).await.unwrap();
    let options = ConsumeOptions::new(spec.name().clone()).dead_letter(spec.dead_letter_route(&namespace));
    let mut consumer = broker.consume(options).await.unwrap();
    let sent = job("x");
    broker.publish(Publish::to_queue(spec.name().clone(), sent.clone())).await.unwrap();

    next(&mut consumer).await.settle(Settlement::DeadLetter { reason: failed() }).await.unwrap();
    let mut dead = consume(&broker, &spec.dead_queue().unwrap(), 1).await;
    let letter = next(&mut dead).await;

    assert_eq!(letter.envelope.id, sent.id);
    assert_eq!(letter.envelope.headers.get(header::ERROR), Some(&"mail server said 451".into()));
    assert_eq!(letter.envelope.headers.get(header::QUEUE), Some(&HeaderValue::from(spec.name().as_ref())));
    letter.settle(Settlement::Ack).await.unwrap();
    drop((consumer, dead));
    broker.operator().unwrap().delete(spec.name()).await.unwrap();
    broker.operator().unwrap().delete(&spec.dead_queue().unwrap()).await.unwrap();
    broker.close().await;
}

async fn dead_letter_that_nobody_takes_goes_back_to_its_queue(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    let nowhere = Route { exchange: "".into(), routing_key: unique("missing").into() };
    let options = ConsumeOptions::new(queue.clone()).dead_letter(Some(nowhere));
    let mut consumer = broker.consume(options).await.unwrap();
    let sent = job("x");
    broker.publish(Publish::to_queue(queue.clone(), sent.clone())).await.unwrap();

    let settled = next(&mut consumer).await.settle(Settlement::DeadLetter { reason: failed() }).await;

    assert!(matches!(settled, Err(SettleError::Republish(_))), "{settled:?}");
    let again = next(&mut consumer).await;
    assert_eq!(again.envelope.id, sent.id);
    assert!(again.redelivered);
    again.settle(Settlement::Ack).await.unwrap();
    broker.close().await;
}

async fn delayed_job_whose_queue_has_gone_is_kept(node: Node) {
    let settings = support::settings();
    let broker = queue_core::broker::rabbitmq::connect(&node.url, &settings).await.unwrap();
    let queue = queue(&broker).await;
    let _consumer = consume(&broker, &queue, 1).await;
    let sent = job("x");
    let mut publish = Publish::to_queue(unique("gone"), sent.clone());
    // It has been looked for for nearly an hour.
    publish.envelope.headers.insert(header::MISSING, 3_599_000_i64);
    publish.envelope.priority = Some(3);
    publish.not_before = Some(SystemTime::now() + Duration::from_millis(200));

    broker.publish(publish).await.unwrap();
    let mut unroutable = consume(&broker, &settings.namespace.unroutable(), 1).await;
    // An earlier run may have left something there.
    let kept = loop {
        let kept = next(&mut unroutable).await;
        if kept.envelope.id == sent.id {
            break kept;
        }
        kept.settle(Settlement::Ack).await.unwrap();
    };

    let headers: Vec<_> = kept.envelope.headers.iter().map(|(name, _)| name).collect();
    assert_eq!(headers, [header::PRIORITY, header::TARGET]);
    kept.settle(Settlement::Ack).await.unwrap();
    broker.close().await;
}

async fn released_and_dropped_deliveries_come_again(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    let mut consumer = consume(&broker, &queue, 1).await;
    broker.publish(Publish::to_queue(queue.clone(), job("x"))).await.unwrap();

    next(&mut consumer).await.settle(Settlement::Release).await.unwrap();
    drop(next(&mut consumer).await);
    let third = next(&mut consumer).await;
    assert!(third.redelivered);
    consumer.stop();
    assert!(soon("the end", consumer.next()).await.is_none());
    // A delivery outlives its consumer.
    third.settle(Settlement::Ack).await.unwrap();

    drop(consumer);
    until("the queue to be empty", async || {
        let stats = broker.operator().unwrap().inspect(&queue).await.unwrap();
        stats.ready == 0 && stats.consumers == 0
    })
    .await;
    broker.close().await;
}

/// A thread on which a delivery is acked and then nothing else runs, until `drop`.
fn ack_and_block(delivery: Delivery) -> (std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>) {
    let (unblock, blocked) = std::sync::mpsc::channel();
    let blocking = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            delivery.settle(Settlement::Ack).await.unwrap();
            let _ = blocked.recv();
        });
    });
    (unblock, blocking)
}

/// Acks wait for what else is ready on the runtime that they were made on, to be sent together. Not for ever, also when
/// the worker shuts down. (While it fetches: the contract's `ack_counts_though_its_thread_is_blocked`.)
async fn ack_is_sent_though_its_thread_is_blocked_and_nothing_more_is_fetched(node: Node) {
    let direct = node.broker().await;
    let queue = queue(&direct).await;
    for _ in 0..2 {
        direct.publish(Publish::to_queue(queue.clone(), job("x"))).await.unwrap();
    }
    let proxy = Proxy::start(&node.host()).await;
    let broker = support::broker(&node.with(|url| url.host = proxy.address.to_string())).await;
    let mut consumer = consume(&broker, &queue, 2).await;
    let (first, _second) = (next(&mut consumer).await, next(&mut consumer).await);

    consumer.stop();
    let (unblock, blocking) = ack_and_block(first);
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.set(Mode::Shut);
    proxy.cut();

    until("the other one is back", async || {
        direct.operator().unwrap().inspect(&queue).await.unwrap().ready > 0
    })
    .await;
    assert_eq!(direct.operator().unwrap().inspect(&queue).await.unwrap().ready, 1);
    drop(unblock);
    blocking.join().unwrap();
    direct.close().await;
}
