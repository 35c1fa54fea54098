//! What is given back in order costs a job nothing, however often: [`Settlement::Release`], a delivery dropped, a consumer
//! stopped. Only a holder that was lost counts for the delivery limit.

use std::time::{Duration, UNIX_EPOCH};

use queue_core::broker::{ConsumeOptions, Delivery, Publish, Returns};
use queue_core::envelope::{Envelope, HeaderValue, header};
use queue_core::settlement::Settlement;
use queue_core::topology::{BindingDecl, ExchangeKind, Name, QueueDecl, QueueSpec, Topology};

use crate::support::fixture::{message, quorum};
use crate::support::{Fixture, next, ready, take, text, until, until_ready};

/// More often than the delivery limit of a queue of ours allows a job to come back.
const OFTEN: usize = 150;

/// What a job is, without what brokers and copies of it write.
fn essence(job: &Envelope) -> impl PartialEq + std::fmt::Debug + use<> {
    let mut headers = job.headers.clone();
    let noted = ["x-delivery-count", "x-acquired-count", header::COPY, header::REDELIVERED];
    headers.retain(|name, _| !noted.contains(&name));
    let Envelope { id, task, payload, attempt, priority, correlation_id, enqueued_at, .. } = job.clone();
    (id, task, payload, attempt, priority, correlation_id, enqueued_at, headers)
}

async fn give_back(delivery: Delivery, turn: usize) {
    if turn.is_multiple_of(2) {
        delivery.settle(Settlement::Release).await.unwrap();
    } else {
        drop(delivery);
    }
}

pub(crate) async fn job_given_back_over_and_over_is_as_it_was(t: &Fixture) {
    let spec = t.work_queue("quorum").await;
    let classic = t.plain_queue("classic").await;
    // A limit that a policy may set.
    let narrow = quorum(t.name("narrow")).argument("x-delivery-limit", 2_i64);
    t.declare(&Topology::new().queue(narrow.clone())).await;
    for queue in [spec.name(), &classic, &narrow.name] {
        let mut sent = Envelope::new("job");
        sent.task = Some("send_email".to_owned());
        sent.attempt = 3;
        sent.priority = Some(2);
        sent.correlation_id = Some("7".to_owned());
        sent.enqueued_at = Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        sent.headers.insert(header::ERROR, "mail server said 451");
        sent.headers.insert("tenant", "blue");
        t.broker.publish(Publish::to_queue(queue.clone(), sent.clone())).await.unwrap();
        let mut consumer = t.consume(queue).await;

        for turn in 0..OFTEN {
            let delivery = next(&mut consumer).await;
            assert_eq!(essence(&delivery.envelope), essence(&sent), "of `{queue}`, given back {turn} times");
            assert_eq!(delivery.redelivered, turn > 0, "of `{queue}`, given back {turn} times");
            give_back(delivery, turn).await;
        }

        next(&mut consumer).await.settle(Settlement::Ack).await.unwrap();
        t.send(queue, ["marker"]).await;
        assert_eq!(take(&mut consumer, 1).await, ["marker"], "`{queue}` had one copy of the job");
    }
    assert_eq!(ready(&*t.broker, spec.dead_queue().as_deref().unwrap()).await, 0);
}

/// A worker is stopped with one job in hand, and more that it has not begun.
pub(crate) async fn orderly_stops_cost_nothing(t: &Fixture) {
    let spec = t.work_queue("jobs").await;
    t.send(spec.name(), ["a", "b", "c"]).await;

    for stop in 0..OFTEN {
        // With a prefetch as high as this RabbitMQ is asked for more when the consumer ends.
        let mut consumer = t.work(&spec, 40).await;
        let in_hand = next(&mut consumer).await;
        assert_eq!(in_hand.envelope.attempt, 1, "after {stop} stops");
        assert_eq!(in_hand.envelope.headers.get(header::ERROR), None);
        consumer.stop();
        in_hand.settle(Settlement::Release).await.unwrap();
        consumer.finish().await;
    }

    let mut consumer = t.work(&spec, 1).await;
    let mut jobs = take(&mut consumer, 3).await;
    jobs.sort_unstable();
    assert_eq!(jobs, ["a", "b", "c"]);
    t.send(spec.name(), ["marker"]).await;
    assert_eq!(take(&mut consumer, 1).await, ["marker"], "there was one copy of each");
    assert_eq!(ready(&*t.broker, spec.dead_queue().as_deref().unwrap()).await, 0);
}

pub(crate) async fn only_lost_holders_count_for_the_delivery_limit(t: &Fixture) {
    let (queue, dead) = (t.name("jobs"), t.name("dead"));
    let decl = QueueDecl::new(queue.clone())
        .argument("x-queue-type", "quorum")
        .argument("x-delivery-limit", 2_i64)
        .argument("x-dead-letter-exchange", "")
        .argument("x-dead-letter-routing-key", dead.clone().into_owned());
    t.declare(&Topology::new().queue(quorum(dead.clone())).queue(decl)).await;
    t.send(&queue, ["killer"]).await;
    let mut consumer = t.consume(&queue).await;
    for turn in 0..5 {
        let delivery = next(&mut consumer).await;
        let counted = delivery.envelope.headers.get("x-delivery-count").and_then(HeaderValue::as_int);
        assert!(t.is_older_rabbitmq() || counted.unwrap_or(0) == 0, "{counted:?} after {turn} turns");
        give_back(delivery, turn).await;
    }
    let last = next(&mut consumer).await;
    consumer.finish().await;
    drop(last);
    until_ready(&*t.broker, &queue, 1).await;

    // RabbitMQ before 4.3 may count some of those that were given back, too.
    let mut lost = 0;
    while ready(&*t.broker, &dead).await == 0 && lost < 3 {
        let worker = t.other_client().await;
        let mut consumer = worker.broker().consume(ConsumeOptions::new(queue.clone())).await.unwrap();
        let _unsettled = next(&mut consumer).await;
        worker.close().await;
        lost += 1;
        let is_back = async || ready(&*t.broker, &queue).await + ready(&*t.broker, &dead).await == 1;
        until("the job is back, or dead", is_back).await;
    }

    let mut dead_letters = t.consume(&dead).await;
    assert_eq!(text(&next(&mut dead_letters).await), "killer");
    assert!(lost == 3 || t.is_older_rabbitmq(), "dead after {lost} lost holders");
}

pub(crate) async fn given_back_job_does_not_reach_the_crash_limit(t: &Fixture) {
    for limit in [2, 5] {
        let spec = t.work_queue(&format!("jobs.{limit}")).await;
        t.send(spec.name(), ["job"]).await;
        let options = ConsumeOptions::new(spec.name().clone()).crash_limit(limit);
        let mut consumer = t.broker.consume(options).await.unwrap();

        let mut most = 0;
        for turn in 0..25 {
            let delivery = next(&mut consumer).await;
            if let Returns::Counted(lost) = delivery.returns {
                most = most.max(lost);
            }
            give_back(delivery, turn).await;
        }

        // RabbitMQ counts each return, up to where a copy takes the job's place.
        let expected = if t.broker.info().system == "rabbitmq" { limit - 1 } else { 0 };
        assert_eq!(most, u64::from(expected), "with a crash limit of {limit}");
    }
}

pub(crate) async fn job_given_back_to_a_full_queue_is_not_lost(t: &Fixture) {
    let spec = QueueSpec::new(t.name("jobs")).max_length(2);
    t.declare_spec(&spec).await;
    t.send(spec.name(), ["job"]).await;
    let mut consumer = t.work(&spec, 1).await;
    let mut job = next(&mut consumer).await;
    let mut more = Vec::new();
    while t.broker.publish(message(spec.name(), more.len().to_string())).await.is_ok() {
        more.push(more.len().to_string());
    }

    for turn in 0..10 {
        give_back(job, turn).await;
        job = next(&mut consumer).await;
        assert_eq!(text(&job), "job", "given back {turn} times: no copy of it was taken");
    }

    job.settle(Settlement::Ack).await.unwrap();
    assert_eq!(take(&mut consumer, more.len()).await, more);
    until_ready(&*t.broker, spec.name(), 0).await;
}

pub(crate) async fn given_back_event_keeps_where_it_came_from(t: &Fixture) {
    let exchange = t.exchange("shop", ExchangeKind::Topic).await;
    let queue: Name = t.name("mailer");
    let binding = BindingDecl::new(exchange.clone(), queue.clone(), "order.#");
    t.declare(&Topology::new().queue(quorum(queue.clone())).binding(binding)).await;
    let event = Publish::to_exchange(exchange.clone(), "order.paid", Envelope::new("event"));
    t.broker.publish(event).await.unwrap();
    let mut consumer = t.consume(&queue).await;

    for turn in 0..10 {
        let delivery = next(&mut consumer).await;
        assert_eq!((&*delivery.exchange, &*delivery.routing_key), (&*exchange, "order.paid"), "turn {turn}");
        give_back(delivery, turn).await;
    }
}
