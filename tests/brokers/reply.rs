//! Direct replies: a request finds whoever works, and its reply finds who asked.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, join_all};
use leveret::{ErrorKind, PublishError};
use queue_core::broker::{Broker, ConsumeOptions, Consumer, DIRECT_REPLY_TO, Delivery, Publish};
use queue_core::envelope::Envelope;
use queue_core::settlement::{Reason, ReasonKind, Settlement};
use queue_core::topology::{ExchangeKind, Name, QueueSpec};

use crate::support::fixture::message;
use crate::support::wait::PATIENCE;
use crate::support::{Fixture, next, take, text, until_ready};

async fn replies(broker: &dyn Broker) -> Consumer {
    broker.consume(ConsumeOptions::new(DIRECT_REPLY_TO)).await.expect("replies can be consumed")
}

fn request(queue: &Name, id: &str) -> Publish {
    let mut request = message(queue, id);
    request.envelope.correlation_id = Some(id.to_owned());
    request.envelope.reply_to = Some(DIRECT_REPLY_TO.to_owned());
    request
}

/// Answers a request as any AMQP program does.
async fn answer(broker: &dyn Broker, request: &Delivery, text: impl Into<String>) {
    let mut reply = Envelope::new(text.into());
    reply.correlation_id = request.envelope.correlation_id.clone();
    broker.publish(Publish::to_exchange("", address(request), reply)).await.expect("a reply is published");
}

fn address(request: &Delivery) -> String {
    request.envelope.reply_to.clone().expect("a request says where its reply goes")
}

/// Which request it answers, and its text.
async fn reply(replies: &mut Consumer) -> (String, String) {
    let reply = next(replies).await;
    (reply.envelope.correlation_id.clone().expect("a reply says what it answers"), text(&reply))
}

pub(crate) async fn reply_reaches_who_asked(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let asking = t.other_client().await;
    let mut replies = replies(&**asking.broker()).await;

    asking.broker().publish(request(&queue, "one")).await.unwrap();
    let request = next(&mut t.consume(&queue).await).await;
    answer(&*t.broker, &request, "1").await;
    let reply = next(&mut replies).await;

    assert!(address(&request).starts_with("amq.rabbitmq.reply-to."), "{request:?}");
    assert_eq!(reply.envelope.correlation_id.as_deref(), Some("one"));
    assert_eq!(text(&reply), "1");
    assert_eq!(
        (&*reply.queue, &*reply.exchange, &*reply.routing_key),
        (DIRECT_REPLY_TO, "", &*address(&request))
    );
}

pub(crate) async fn replies_of_two_clients_do_not_mix(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let (one, two) = (t.other_client().await, t.other_client().await);
    let mut to_one = replies(&**one.broker()).await;
    let mut to_two = replies(&**two.broker()).await;
    let mut worker = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(100)).await;

    for n in 0..20 {
        one.broker().publish(request(&queue, &format!("one {n}"))).await.unwrap();
        two.broker().publish(request(&queue, &format!("two {n}"))).await.unwrap();
    }
    for _ in 0..40 {
        let request = next(&mut worker).await;
        answer(&*t.broker, &request, text(&request)).await;
    }

    for n in 0..20 {
        let (one, two) = (format!("one {n}"), format!("two {n}"));
        assert_eq!(reply(&mut to_one).await, (one.clone(), one));
        assert_eq!(reply(&mut to_two).await, (two.clone(), two));
    }
}

/// There is no queue that they could go back to, and so nothing that bounds them.
pub(crate) async fn replies_need_no_settlement(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let mut replies = replies(&*t.broker).await;
    t.broker.publish(request(&queue, "asked")).await.unwrap();
    let request = next(&mut t.consume(&queue).await).await;

    join_all((0..50).map(|n| answer(&*t.broker, &request, n.to_string()))).await;
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(next(&mut replies).await);
    }

    for (n, reply) in held.into_iter().enumerate() {
        match n % 4 {
            0 => reply.settle(Settlement::Ack).await.unwrap(),
            1 => reply.settle(Settlement::Release).await.unwrap(),
            2 => {
                let reason = Reason::new(ReasonKind::Failed, "no");
                reply.settle(Settlement::DeadLetter { reason }).await.unwrap();
            }
            _ => drop(reply),
        }
    }
    answer(&*t.broker, &request, "last").await;
    assert_eq!(reply(&mut replies).await.1, "last");
}

pub(crate) async fn request_without_a_reader_is_refused(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;

    let refused = t.broker.publish(request(&queue, "a")).await;
    let batch =
        t.broker.publish_all(vec![message(&queue, "b"), request(&queue, "c"), message(&queue, "d")]).await;

    assert!(matches!(refused, Err(PublishError::NoReader)), "{refused:?}");
    assert!(matches!(batch[..], [Ok(()), Err(PublishError::NoReader), Ok(())]), "{batch:?}");
    assert_eq!(take(&mut t.consume(&queue).await, 2).await, ["b", "d"]);
}

pub(crate) async fn second_reader_is_refused_while_there_is_one(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let mut first = replies(&*t.broker).await;

    let second = t.broker.consume(ConsumeOptions::new(DIRECT_REPLY_TO)).await.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Topology);
    assert!(second.to_string().contains("already"), "{second}");

    // The first goes on, and another client has its own.
    let _other = replies(&**t.other_client().await.broker()).await;
    t.broker.publish(request(&queue, "a")).await.unwrap();
    answer(&*t.broker, &next(&mut t.consume(&queue).await).await, "reply").await;
    assert_eq!(reply(&mut first).await.1, "reply");
}

pub(crate) async fn reader_that_stopped_makes_room_for_another(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let mut stopped = replies(&*t.broker).await;
    stopped.stop();
    // At once, as everything else that is local.
    let end = tokio::time::timeout(PATIENCE / 10, stopped.next()).await.expect("an end");
    assert!(end.is_none(), "{end:?}");
    let refused = t.broker.publish(request(&queue, "nobody reads")).await;
    assert!(matches!(refused, Err(PublishError::NoReader)), "{refused:?}");
    drop(replies(&*t.broker).await);

    let mut third = replies(&*t.broker).await;
    t.broker.publish(request(&queue, "read")).await.unwrap();
    answer(&*t.broker, &next(&mut t.consume(&queue).await).await, "reply").await;

    assert_eq!(reply(&mut third).await, ("read".to_owned(), "reply".to_owned()));
}

pub(crate) async fn reply_to_a_caller_that_is_gone_is_dropped(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let caller = t.other_client().await;
    let _replies = replies(&**caller.broker()).await;
    caller.broker().publish(request(&queue, "a")).await.unwrap();
    let request = next(&mut t.consume(&queue).await).await;
    caller.close().await;

    answer(&*t.broker, &request, "too late").await;

    // Not even the next reader of that name gets it.
    let mut ours = replies(&*t.broker).await;
    t.broker.publish(self::request(&queue, "b")).await.unwrap();
    request.settle(Settlement::Ack).await.unwrap();
    answer(&*t.broker, &next(&mut t.consume(&queue).await).await, "in time").await;
    assert_eq!(reply(&mut ours).await, ("b".to_owned(), "in time".to_owned()));
}

pub(crate) async fn request_keeps_its_address_through_release_retry_and_snooze(t: &Fixture) {
    let spec = t.work_queue("jobs").await;
    let mut replies = replies(&*t.broker).await;
    let mut worker = t.work(&spec, 1).await;
    t.broker.publish(request(spec.name(), "a")).await.unwrap();

    next(&mut worker).await.settle(Settlement::Release).await.unwrap();
    let reason = Reason::new(ReasonKind::UnknownTask, "not yet");
    let retry = Settlement::Retry { after: Duration::from_millis(150), attempt: 1, reason };
    next(&mut worker).await.settle(retry).await.unwrap();
    let until = SystemTime::now() + Duration::from_millis(150);
    next(&mut worker).await.settle(Settlement::Snooze { until }).await.unwrap();
    let request = next(&mut worker).await;
    answer(&*t.broker, &request, "at last").await;

    assert_eq!(reply(&mut replies).await, ("a".to_owned(), "at last".to_owned()));
    request.settle(Settlement::Ack).await.unwrap();
}

pub(crate) async fn request_may_be_delayed(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let mut replies = replies(&*t.broker).await;
    let mut later = request(&queue, "a");
    later.not_before = Some(SystemTime::now() + Duration::from_millis(200));

    t.broker.publish(later).await.unwrap();
    answer(&*t.broker, &next(&mut t.consume(&queue).await).await, "reply").await;

    assert_eq!(reply(&mut replies).await.1, "reply");
}

pub(crate) async fn request_may_go_to_an_exchange(t: &Fixture) {
    let exchange = t.exchange("events", ExchangeKind::Fanout).await;
    let queues = [t.bound_queue(&exchange, "").await, t.bound_queue(&exchange, "").await];
    let mut replies = replies(&*t.broker).await;
    let mut all = request(&exchange, "who is there?");
    all.route = Publish::to_exchange(exchange.clone(), "", Envelope::new("")).route;

    t.broker.publish(all).await.unwrap();
    for queue in &queues {
        answer(&*t.broker, &next(&mut t.consume(queue).await).await, queue.to_string()).await;
    }

    assert_eq!(
        [reply(&mut replies).await.1, reply(&mut replies).await.1],
        queues.map(|queue| queue.to_string())
    );
}

pub(crate) async fn request_that_no_queue_takes_is_an_error(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let missing = t.name("missing");
    let mut replies = replies(&*t.broker).await;

    let lost = t.broker.publish(request(&missing, "a")).await;

    assert!(
        matches!(&lost, Err(PublishError::Unroutable { routing_key, .. }) if *routing_key == *missing),
        "{lost:?}"
    );
    t.broker.publish(request(&queue, "b")).await.unwrap();
    answer(&*t.broker, &next(&mut t.consume(&queue).await).await, "reply").await;
    assert_eq!(reply(&mut replies).await.0, "b");
}

pub(crate) async fn request_is_told_what_keeps_its_reply_from_coming(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let missing = t.name("missing");
    let mut replies = replies(&*t.broker).await;

    let asking = t.broker.request(request(&missing, "a"));
    let lost = tokio::time::timeout(PATIENCE, asking).await.expect("it is told");

    assert!(
        matches!(&lost, Err(PublishError::Unroutable { routing_key, .. }) if *routing_key == *missing),
        "{lost:?}"
    );
    // It may be told nothing of one that is well.
    let asked = t.broker.request(request(&queue, "b"));
    let answered = async {
        answer(&*t.broker, &next(&mut t.consume(&queue).await).await, "reply").await;
        reply(&mut replies).await.0
    };
    match futures_util::future::select(asked, std::pin::pin!(answered)).await {
        Either::Left((asked, answered)) => {
            asked.unwrap();
            assert_eq!(answered.await, "b");
        }
        Either::Right((answered, _)) => assert_eq!(answered, "b"),
    }
}

pub(crate) async fn request_ends_when_nobody_reads_its_reply_any_more(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let replies = replies(&*t.broker).await;
    let broker = t.broker.clone();
    let request = request(&queue, "a");
    let asking = tokio::spawn(async move { broker.request(request).await });
    next(&mut t.consume(&queue).await).await.settle(Settlement::Ack).await.unwrap();

    // Another takes its place at once.
    drop(replies);
    let _others = self::replies(&*t.broker).await;

    let end = tokio::time::timeout(PATIENCE, asking).await.expect("an end").expect("no panic");
    assert!(matches!(end, Ok(()) | Err(PublishError::Unconfirmed { .. })), "{end:?}");
}

/// On RabbitMQ some of these are sent with confirms and some without, on one channel, which goes over to confirms while
/// others are on their way.
pub(crate) async fn each_of_many_requests_is_told_what_became_of_it(t: &Fixture) {
    let (queue, missing) = (t.plain_queue("jobs").await, t.name("missing"));
    let full = QueueSpec::new(t.name("full")).max_length(5);
    t.declare_spec(&full).await;
    super::limit::fill(t, full.name()).await;
    let mut worker = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(100)).await;
    let mut replies = replies(&*t.broker).await;

    let mut raced = Vec::new();
    let mut told = Vec::new();
    for n in 0..50 {
        let (broker, id) = (t.broker.clone(), n.to_string());
        let send = |queue: &Name, is_raced| {
            let request = request(queue, &id);
            async move { if is_raced { broker.request(request).await } else { broker.publish(request).await } }
        };
        match n % 5 {
            0 => raced.push(tokio::spawn(send(&queue, true))),
            1 => told.push((n, tokio::spawn(send(&missing, true)))),
            2 => told.push((n, tokio::spawn(send(&queue, false)))),
            3 => told.push((n, tokio::spawn(send(full.name(), false)))),
            _ => told.push((n, tokio::spawn(send(&missing, false)))),
        }
    }

    for (n, told) in told {
        let outcome = tokio::time::timeout(PATIENCE, told).await.expect("it is told").expect("no panic");
        let is_right = match n % 5 {
            2 => outcome.is_ok(),
            3 => matches!(outcome, Err(PublishError::QueueFull { .. })),
            _ => matches!(outcome, Err(PublishError::Unroutable { .. })),
        };
        assert!(is_right, "{n}: {outcome:?}");
    }
    let mut answered = HashSet::new();
    for _ in 0..20 {
        answer(&*t.broker, &next(&mut worker).await, "reply").await;
        answered.insert(reply(&mut replies).await.0);
    }
    let expected = (0..50).filter(|n| n % 5 == 0 || n % 5 == 2).map(|n| n.to_string());
    assert_eq!(answered, expected.collect());
    for raced in raced {
        raced.abort();
    }
}

/// On RabbitMQ such a publish ends the channel, and with it every address that was given out on it.
pub(crate) async fn publish_to_a_missing_exchange_costs_nobody_his_reply(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let mut replies = replies(&*t.broker).await;
    t.broker.publish(request(&queue, "a")).await.unwrap();
    let request = next(&mut t.consume(&queue).await).await;

    let missing = t.name("missing");
    let lost = t.broker.publish(Publish::to_exchange(missing, "", Envelope::new("x"))).await;
    assert!(matches!(lost, Err(PublishError::Unroutable { .. })), "{lost:?}");
    answer(&*t.broker, &request, "reply").await;

    assert_eq!(reply(&mut replies).await, ("a".to_owned(), "reply".to_owned()));
}

pub(crate) async fn reply_to_an_address_that_makes_no_sense_is_dropped(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let mut replies = replies(&*t.broker).await;
    t.broker.publish(request(&queue, "a")).await.unwrap();
    let request = next(&mut t.consume(&queue).await).await;

    for junk in [
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.junk",
        "amq.rabbitmq.reply-to.ü.g2d=",
        // A string, and a pid of a node that has no number.
        "amq.rabbitmq.reply-to.g2sABGp1bms=.key",
        "amq.rabbitmq.reply-to.g1hkAAxyYWJiaXRAdGhlcmUAAAAAAAAAAAAAAAA=.key",
    ] {
        let reply = Publish::to_exchange("", junk, Envelope::new("junk"));
        t.broker.publish(reply).await.unwrap_or_else(|error| panic!("`{junk}`: {error}"));
    }
    answer(&*t.broker, &request, "reply").await;

    assert_eq!(reply(&mut replies).await.1, "reply");
}

pub(crate) async fn reply_may_be_as_long_as_a_job(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let mut replies = replies(&*t.broker).await;
    t.broker.publish(request(&queue, "a")).await.unwrap();
    let request = next(&mut t.consume(&queue).await).await;

    for length in [0, 1, 128 * 1024, 128 * 1024 + 1, 4 * 1024 * 1024] {
        answer(&*t.broker, &request, "x".repeat(length)).await;

        assert_eq!(reply(&mut replies).await.1.len(), length);
    }
}

pub(crate) async fn closed_client_reads_no_replies(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let client = t.other_client().await;
    let mut replies = replies(&**client.broker()).await;
    client.broker().publish(request(&queue, "a")).await.unwrap();

    client.close().await;

    let end = tokio::time::timeout(PATIENCE, replies.next()).await.expect("an end");
    assert!(end.is_none(), "{end:?}");
    let again = client.broker().consume(ConsumeOptions::new(DIRECT_REPLY_TO)).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Closed);
    let published = client.broker().publish(request(&queue, "b")).await;
    assert!(matches!(published, Err(PublishError::Closed)), "{published:?}");
    // The request itself is a message like any other.
    until_ready(&*t.broker, &queue, 1).await;
}
