//! What only the memory broker has: its clock, its looks inside, names shared in the process. What every broker does
//! stands in the contract.

use std::time::{Duration, UNIX_EPOCH};

use std::time::SystemTime;

use super::*;
use crate::broker::Publish;
use crate::clock::Clock;
use crate::envelope::Envelope;
use crate::envelope::{HeaderValue, header};
use crate::error::{ErrorKind, SettleError};
use crate::settlement::{Reason, ReasonKind, Settlement};
use crate::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Route, delay_ladder};

const SECOND: Duration = Duration::from_secs(1);

fn job(id: &str) -> Envelope {
    let mut envelope = Envelope::new("{}");
    envelope.id = id.into();
    envelope
}

fn manual() -> (Clock, Settings) {
    let clock = Clock::manual(UNIX_EPOCH + 1000 * SECOND);
    let settings = Settings { clock: clock.clone(), ..Settings::default() };
    (clock, settings)
}

fn ids(broker: &MemoryBroker, queue: &str) -> Vec<String> {
    let waiting = broker.snapshot().into_iter().filter(|waiting| waiting.queue == queue);
    waiting.map(|waiting| waiting.envelope.id.to_string()).collect()
}

fn retry(after: Duration) -> Settlement {
    Settlement::Retry { after, attempt: 2, reason: Reason::new(ReasonKind::Failed, "no luck") }
}

fn dead() -> Settlement {
    Settlement::DeadLetter { reason: Reason::new(ReasonKind::Permanent, "hopeless") }
}

async fn declare(broker: &MemoryBroker, queue: QueueDecl) {
    broker.declare(&Topology::new().queue(queue)).await.unwrap();
}

async fn publish(broker: &MemoryBroker, queue: &'static str, envelope: Envelope) {
    broker.publish(Publish::to_queue(queue, envelope)).await.unwrap();
}

async fn publish_after(broker: &MemoryBroker, queue: &'static str, id: &str, moment: SystemTime) {
    let mut publish = Publish::to_queue(queue, job(id));
    publish.not_before = Some(moment);
    broker.publish(publish).await.unwrap();
}

async fn next(consumer: &mut Consumer) -> Delivery {
    consumer.next().await.expect("the consumer goes on").expect("no error")
}

fn nothing(consumer: &mut Consumer) -> bool {
    consumer.try_next().is_none()
}

#[tokio::test]
async fn delayed_jobs_fall_due_in_their_order_when_the_clock_is_moved() {
    let (clock, settings) = manual();
    let broker = MemoryBroker::new(&settings);
    declare(&broker, QueueDecl::new("q")).await;
    for (id, seconds) in [("late", 30), ("early", 10), ("early too", 10)] {
        publish_after(&broker, "q", id, clock.now() + seconds * SECOND).await;
    }
    let mut consumer = broker.consume(ConsumeOptions::new("q").prefetch(10)).await.unwrap();

    clock.advance(9 * SECOND);
    assert_eq!(broker.operator().unwrap().inspect("q").await.unwrap().delayed, Some(3));
    clock.advance(60 * SECOND);

    for expected in ["early", "early too", "late"] {
        assert_eq!(next(&mut consumer).await.envelope.id.as_str(), expected);
    }
    assert_eq!(broker.operator().unwrap().inspect("q").await.unwrap().delayed, Some(0));
}

#[tokio::test]
async fn consumer_is_woken_by_the_clock_alone() {
    let (clock, settings) = manual();
    let broker = MemoryBroker::new(&settings);
    declare(&broker, QueueDecl::new("q")).await;
    publish_after(&broker, "q", "a", clock.now() + SECOND).await;
    let mut consumer = broker.consume(ConsumeOptions::new("q")).await.unwrap();
    let waiting = tokio::spawn(async move { next(&mut consumer).await.envelope.id });

    clock.advance(SECOND);

    assert_eq!(waiting.await.unwrap().as_str(), "a");
}

#[tokio::test]
async fn retry_waits_with_its_priority_and_attempt() {
    let (clock, settings) = manual();
    let broker = MemoryBroker::new(&settings);
    declare(&broker, QueueDecl::new("q").argument("x-max-priority", 9_i64)).await;
    let mut urgent = job("urgent");
    urgent.priority = Some(9);
    publish(&broker, "q", urgent).await;
    let taken = broker.take(&ConsumeOptions::new("q"), None).unwrap().unwrap();

    taken.settle(retry(5 * SECOND)).await.unwrap();
    publish(&broker, "q", job("plain")).await;

    assert_eq!(broker.activity().next_due, Some(clock.now() + 5 * SECOND));
    clock.advance(5 * SECOND);
    assert_eq!(ids(&broker, "q"), ["urgent", "plain"]);
    assert_eq!(broker.snapshot()[0].envelope.attempt, 2);
}

#[tokio::test]
async fn retry_without_delay_is_back_at_once() {
    let broker = MemoryBroker::new(&Settings::default());
    declare(&broker, QueueDecl::new("q")).await;
    publish(&broker, "q", job("a")).await;
    let mut consumer = broker.consume(ConsumeOptions::new("q")).await.unwrap();

    next(&mut consumer).await.settle(retry(Duration::ZERO)).await.unwrap();

    assert_eq!(next(&mut consumer).await.envelope.attempt, 2);
}

#[tokio::test]
async fn delayed_job_whose_queue_has_gone_waits_for_an_hour_and_is_kept_as_unroutable() {
    let (clock, settings) = manual();
    let broker = MemoryBroker::new(&settings);
    declare(&broker, QueueDecl::new("q")).await;
    publish_after(&broker, "q", "a", clock.now() + SECOND).await;

    broker.operator().unwrap().delete("q").await.unwrap();
    for _ in 0..3600 {
        clock.advance(SECOND);
        assert_eq!(broker.activity().delayed, 1);
    }
    clock.advance(SECOND);

    assert_eq!(ids(&broker, "leveret.unroutable"), ["a"]);
    assert_eq!(broker.snapshot()[0].envelope.headers.get(header::TARGET), Some(&"q".into()));
}

#[tokio::test]
async fn queue_of_unroutable_jobs_is_declared_as_the_delay_ladder_declares_it() {
    let broker = MemoryBroker::new(&Settings::default());
    publish_after(&broker, "q", "a", SystemTime::now() + 3600 * SECOND).await;

    broker.declare(&delay_ladder(&Settings::default().namespace)).await.unwrap();

    assert_eq!(broker.activity().delayed, 1);
}

#[tokio::test]
async fn delayed_job_whose_queue_is_full_waits_again() {
    let (clock, settings) = manual();
    let broker = MemoryBroker::new(&settings);
    let limited =
        QueueDecl::new("q").argument("x-max-length", 1_i64).argument("x-overflow", "reject-publish");
    declare(&broker, limited).await;
    publish(&broker, "q", job("first")).await;
    publish_after(&broker, "q", "second", clock.now() + SECOND).await;

    clock.advance(SECOND);
    assert_eq!((broker.activity().parked, broker.activity().delayed), (1, 1));
    broker.operator().unwrap().purge("q").await.unwrap();
    clock.advance(SECOND);

    assert_eq!(ids(&broker, "q"), ["second"]);
    assert_eq!(broker.activity().delayed, 0);
}

#[tokio::test]
async fn moving_the_clock_far_lives_through_all_that_was_due_in_between() {
    let (clock, settings) = manual();
    let broker = MemoryBroker::new(&settings);
    let short = QueueDecl::new("short")
        .argument("x-message-ttl", 60_000_i64)
        .argument("x-dead-letter-exchange", "")
        .argument("x-dead-letter-routing-key", "dead");
    declare(&broker, short).await;
    declare(&broker, QueueDecl::new("dead")).await;
    let due = clock.now() + 600 * SECOND;
    publish_after(&broker, "short", "a", due).await;

    clock.advance(3600 * SECOND);

    assert_eq!(ids(&broker, "dead"), ["a"]);
    let deaths = broker.snapshot()[0].envelope.headers.get("x-death").cloned();
    let Some(HeaderValue::List(deaths)) = deaths else { panic!("no x-death") };
    let HeaderValue::Table(death) = &deaths[0] else { panic!("a death is a table") };
    assert_eq!(death.get("time"), Some(&HeaderValue::Timestamp(1000 + 600 + 60)));
}

#[tokio::test]
async fn message_at_least_once_dead_lettered_waits_for_its_exchange() {
    let (clock, settings) = manual();
    let broker = MemoryBroker::new(&settings);
    let work = QueueDecl::new("q")
        .argument("x-queue-type", "quorum")
        .argument("x-message-ttl", 1000_i64)
        .argument("x-overflow", "reject-publish")
        .argument("x-dead-letter-strategy", "at-least-once")
        .argument("x-dead-letter-exchange", "dlx");
    declare(&broker, work).await;
    publish(&broker, "q", job("a")).await;
    clock.advance(SECOND);
    assert_eq!(broker.activity().delayed, 1);

    let topology = Topology::new()
        .exchange(ExchangeDecl::new("dlx", ExchangeKind::Direct))
        .queue(QueueDecl::new("dead"))
        .binding(BindingDecl::new("dlx", "dead", "q"));
    broker.declare(&topology).await.unwrap();
    clock.advance(SECOND);

    assert_eq!(ids(&broker, "dead"), ["a"]);
}

#[tokio::test]
async fn unused_queue_expires_but_not_while_it_is_consumed() {
    let (clock, settings) = manual();
    let broker = MemoryBroker::new(&settings);
    declare(&broker, QueueDecl::new("q").argument("x-expires", 5000_i64)).await;
    let consumer = broker.consume(ConsumeOptions::new("q")).await.unwrap();

    clock.advance(60 * SECOND);
    assert_eq!(broker.operator().unwrap().inspect("q").await.unwrap().consumers, 1);
    drop(consumer);
    while broker.operator().unwrap().inspect("q").await.unwrap().consumers > 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(5 * SECOND);

    assert_eq!(broker.operator().unwrap().inspect("q").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn take_finds_a_job_by_id_and_gives_it_back_to_its_place() {
    let broker = MemoryBroker::new(&Settings::default());
    declare(&broker, QueueDecl::new("q")).await;
    for id in ["a", "b", "c"] {
        publish(&broker, "q", job(id)).await;
    }

    let taken = broker.take(&ConsumeOptions::new("q"), Some(&"b".into())).unwrap().unwrap();
    assert_eq!(ids(&broker, "q"), ["a", "c"]);
    assert_eq!(broker.activity().unsettled, 1);
    drop(taken);

    assert_eq!(ids(&broker, "q"), ["a", "b", "c"]);
    assert!(broker.take(&ConsumeOptions::new("q"), Some(&"z".into())).unwrap().is_none());
}

#[tokio::test]
async fn wait_for_notices_the_last_settlement() {
    let broker = MemoryBroker::new(&Settings::default());
    declare(&broker, QueueDecl::new("q")).await;
    publish(&broker, "q", job("a")).await;
    let mut consumer = broker.consume(ConsumeOptions::new("q")).await.unwrap();
    let delivery = next(&mut consumer).await;
    let idle = tokio::spawn({
        let broker = broker.clone();
        async move { broker.wait_for(Activity::is_idle).await }
    });
    tokio::task::yield_now().await;
    assert!(!idle.is_finished());

    delivery.settle(Settlement::Ack).await.unwrap();

    assert_eq!(idle.await.unwrap(), Activity::default());
}

#[tokio::test]
async fn dead_letter_that_nobody_takes_returns_the_original() {
    let broker = MemoryBroker::new(&Settings::default());
    declare(&broker, QueueDecl::new("q")).await;
    publish(&broker, "q", job("a")).await;
    let nowhere = Route { exchange: "nowhere".into(), routing_key: "q".into() };
    let options = ConsumeOptions::new("q").dead_letter(Some(nowhere));
    let taken = broker.take(&options, None).unwrap().unwrap();

    let error = taken.settle(dead()).await.unwrap_err();

    assert!(
        matches!(error, SettleError::Republish(PublishError::Unroutable { exchange, .. }) if exchange == "nowhere")
    );
    assert_eq!(ids(&broker, "q"), ["a"]);
}

#[tokio::test]
async fn name_is_shared_while_somebody_holds_it() {
    let settings = Settings::default();
    let one = open("memory:name-is-shared", &settings).unwrap();
    let other = open("memory:name-is-shared", &settings).unwrap();
    one.declare(&Topology::new().queue(QueueDecl::new("q"))).await.unwrap();

    assert!(other.operator().unwrap().inspect("q").await.is_ok());
    assert!(open("memory:", &settings).unwrap().operator().unwrap().inspect("q").await.is_err());
    drop((one, other));

    assert!(
        open("memory:name-is-shared", &settings).unwrap().operator().unwrap().inspect("q").await.is_err()
    );
}

#[tokio::test]
async fn shared_name_has_one_clock() {
    let (clock, settings) = manual();
    let first = MemoryBroker::shared("one-clock", &settings).unwrap();

    let same = MemoryBroker::shared("one-clock", &Settings { clock, ..Settings::default() });
    let another = MemoryBroker::shared("one-clock", &Settings::default());

    assert!(same.is_ok());
    assert!(another.unwrap_err().to_string().contains("another clock"));
    drop(first);
}

#[tokio::test]
async fn junk_in_the_url_is_named() {
    for url in ["memory:a?b", "memory://a", "memory:a b", "memory:#"] {
        let text = open(url, &Settings::default()).unwrap_err().to_string();

        assert!(text.contains(url) && text.contains("memory:name"), "{text}");
    }
}

#[tokio::test]
async fn closing_one_client_leaves_the_others_alone() {
    let settings = Settings::default();
    let one = MemoryBroker::shared("closing-one", &settings).unwrap();
    let other = MemoryBroker::shared("closing-one", &settings).unwrap();
    declare(&one, QueueDecl::new("q")).await;
    declare(&one, QueueDecl::new("mine").exclusive()).await;
    publish(&one, "q", job("a")).await;
    let mut ours = one.consume(ConsumeOptions::new("q")).await.unwrap();
    let unsettled = next(&mut ours).await;
    let mut theirs = other.consume(ConsumeOptions::new("q")).await.unwrap();
    assert!(other.operator().unwrap().inspect("mine").await.unwrap_err().to_string().contains("exclusive"));
    assert!(nothing(&mut theirs));

    one.close().await;

    assert!(ours.next().await.is_none());
    assert!(matches!(unsettled.settle(Settlement::Ack).await, Err(SettleError::Lost)));
    assert!(next(&mut theirs).await.redelivered);
    assert!(
        other.operator().unwrap().inspect("mine").await.unwrap_err().to_string().contains("does not exist")
    );
    assert!(matches!(one.publish(Publish::to_queue("q", job("b"))).await, Err(PublishError::Closed)));
    one.close().await;
}

#[tokio::test]
async fn dropped_broker_leaves_nothing_running() {
    let (clock, settings) = manual();
    let broker = MemoryBroker::new(&settings);
    declare(&broker, QueueDecl::new("q")).await;
    publish_after(&broker, "q", "a", clock.now() + SECOND).await;
    let mut consumer = broker.consume(ConsumeOptions::new("q")).await.unwrap();
    let shared = Arc::downgrade(&broker.shared);

    drop(broker);

    assert!(consumer.next().await.is_none());
    assert_eq!(shared.strong_count(), 0);
}

/// Deliveries dropped where the broker holds its lock would lock it up.
#[tokio::test]
async fn consumer_that_vanished_with_deliveries_locks_nothing_up() {
    let broker = MemoryBroker::new(&Settings::default());
    declare(&broker, QueueDecl::new("q")).await;
    let consumer = broker.consume(ConsumeOptions::new("q").prefetch(2)).await.unwrap();
    publish(&broker, "q", job("a")).await;

    drop(consumer);
    publish(&broker, "q", job("b")).await;
    let mut after = broker.consume(ConsumeOptions::new("q").prefetch(2)).await.unwrap();

    assert_eq!(next(&mut after).await.envelope.id.as_str(), "a");
    assert_eq!(next(&mut after).await.envelope.id.as_str(), "b");
}

#[test]
fn client_outlives_the_runtime_that_its_timer_ran_on() {
    let broker = MemoryBroker::new(&Settings::default());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let soon = || SystemTime::now() + Duration::from_millis(5);
    runtime().block_on(async {
        declare(&broker, QueueDecl::new("q")).await;
        publish_after(&broker, "q", "a", soon()).await;
    });

    let id = runtime().block_on(async {
        let mut consumer = broker.consume(ConsumeOptions::new("q")).await.unwrap();
        next(&mut consumer).await.envelope.id
    });

    assert_eq!(id.as_str(), "a");
}

/// tokio tells a task that there is nothing when its turn has been long enough.
#[tokio::test]
async fn all_that_is_here_is_taken_in_one_turn() {
    let broker = MemoryBroker::new(&Settings::default());
    declare(&broker, QueueDecl::new("q")).await;
    for number in 0..500 {
        publish(&broker, "q", job(&number.to_string())).await;
    }
    let mut consumer = broker.consume(ConsumeOptions::new("q").prefetch(500)).await.unwrap();

    tokio::task::yield_now().await;
    // Kept, since a dropped one would come again.
    let here: Vec<_> = std::iter::from_fn(|| consumer.try_next()).collect();

    assert_eq!(here.len(), 500);
}

#[test]
fn closing_waits_for_no_runtime_that_nobody_drives() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stands_still, runs) = (runtime(), runtime());
    let broker = MemoryBroker::new(&Settings::default());
    let mut consumer = stands_still.block_on(async {
        declare(&broker, QueueDecl::new("q")).await;
        broker.consume(ConsumeOptions::new("q")).await.unwrap()
    });

    runs.block_on(async {
        tokio::time::timeout(10 * SECOND, broker.close()).await.expect("closed");
        let ended = tokio::time::timeout(10 * SECOND, consumer.next()).await.expect("it has ended");
        assert!(ended.is_none());
    });
}
