//! Stopping consumers and closing clients.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use leveret::{EnqueueError, ErrorKind, PublishError, Task, Worker};
use queue_core::broker::{ConsumeOptions, Health, Publish};
use queue_core::envelope::Envelope;
use queue_core::error::{SettleError, chain};
use queue_core::settlement::{Reason, ReasonKind, Settlement};
use queue_core::task::TaskOptions;
use queue_core::topology::{Declare, QueueDecl, QueueSpec, Topology};
use serde::{Deserialize, Serialize};

use crate::support::fixture::{message, unique};
use crate::support::wait::PATIENCE;
use crate::support::{Fixture, next, take, text, until_ready};

pub(crate) async fn broker_says_what_it_is(t: &Fixture) {
    let info = t.broker.info();

    assert!(["memory", "sqlite", "rabbitmq"].contains(&info.system), "{info:?}");
    assert_eq!(info.health, Health::Up);
}

/// What is already here can be worked on or given back; nothing more is sent.
pub(crate) async fn stopped_consumer_ends_after_what_is_here(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, (0..20).map(|n| n.to_string())).await;
    let mut consumer = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(5)).await;
    let first = next(&mut consumer).await;
    // All five are here, or on their way to us.
    until_ready(&*t.broker, &queue, 15).await;

    consumer.stop();
    first.settle(Settlement::Ack).await.unwrap();
    let mut rest = 0;
    while let Some(delivery) = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("an end") {
        rest += 1;
        delivery.unwrap().settle(Settlement::Ack).await.unwrap();
    }

    // One more could have come in between the stop and its arrival at the broker, for the one that was acked.
    assert!(rest <= 5, "{rest} came after the stop");
    let mut other = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(20)).await;
    take(&mut other, 19 - rest).await;
    until_ready(&*t.broker, &queue, 0).await;
}

pub(crate) async fn stopped_consumer_takes_no_new_jobs(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    let mut stopped = t.consume(&queue).await;

    stopped.stop();
    let end = tokio::time::timeout(PATIENCE, stopped.next()).await.expect("an end");
    assert!(end.is_none(), "{end:?}");
    t.send(&queue, ["job"]).await;
    let mut other = t.consume(&queue).await;

    assert_eq!(take(&mut other, 1).await, ["job"]);
    let end = tokio::time::timeout(PATIENCE, stopped.next()).await.expect("an end, still");
    assert!(end.is_none(), "{end:?}");
}

pub(crate) async fn finished_consumer_has_settled_what_was_taken_and_given_back_the_rest(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, (0..10).map(|n| n.to_string())).await;
    let mut consumer = t.consume_with(ConsumeOptions::new(queue.clone()).prefetch(5)).await;
    assert_eq!(take(&mut consumer, 2).await, ["0", "1"]);

    tokio::time::timeout(PATIENCE, consumer.finish()).await.expect("an end");

    until_ready(&*t.broker, &queue, 8).await;
}

pub(crate) async fn consumer_finishes_while_a_delivery_is_held(t: &Fixture) {
    let queue = t.quorum_queue("jobs").await;
    t.send(&queue, ["held"]).await;
    let mut consumer = t.consume(&queue).await;
    let held = next(&mut consumer).await;

    tokio::time::timeout(PATIENCE, consumer.finish()).await.expect("an end");
    held.settle(Settlement::Ack).await.unwrap();
    t.send(&queue, ["next"]).await;

    assert_eq!(take(&mut t.consume(&queue).await, 1).await, ["next"]);
}

pub(crate) async fn closed_client_says_so(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let client = t.other_client().await;
    let broker = client.broker();
    let mut consumer = broker.consume(ConsumeOptions::new(queue.clone())).await.unwrap();
    t.send(&queue, ["held"]).await;
    let held = next(&mut consumer).await;

    client.close().await;
    // Twice is fine, also at once.
    join_all([client.close(), client.close()]).await;

    let end = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("an end");
    assert!(end.is_none(), "{end:?}");
    let settled = held.settle(Settlement::Ack).await;
    assert!(matches!(settled, Err(SettleError::Lost)), "{settled:?}");
    let published = broker.publish(message(&queue, "job")).await;
    assert!(matches!(published, Err(PublishError::Closed)), "{published:?}");
    let batch = broker.publish_all(vec![message(&queue, "a"), message(&queue, "b")]).await;
    assert!(matches!(batch[..], [Err(PublishError::Closed), Err(PublishError::Closed)]), "{batch:?}");
    let declared = broker.declare(&Topology::new().queue(QueueDecl::new(queue.clone()))).await;
    assert_eq!(declared.unwrap_err().kind(), ErrorKind::Closed);
    let consumed = broker.consume(ConsumeOptions::new(queue.clone())).await;
    assert_eq!(consumed.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(broker.operator().unwrap().inspect(&queue).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(broker.operator().unwrap().purge(&queue).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(broker.operator().unwrap().delete(&queue).await.unwrap_err().kind(), ErrorKind::Closed);
    // Others are untouched.
    let mut ours = t.consume(&queue).await;
    assert_eq!(text(&next(&mut ours).await), "held");
}

/// What was being published when the client closed is either kept or refused, and the answer is true.
pub(crate) async fn close_answers_everybody_who_waits(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let client = t.other_client().await;
    let publishing: Vec<_> = (0..50)
        .map(|n| {
            let (client, publish) = (client.clone(), message(&queue, n.to_string()));
            tokio::spawn(async move { client.broker().publish(publish).await })
        })
        .collect();
    tokio::task::yield_now().await;

    client.close().await;
    let results =
        tokio::time::timeout(PATIENCE, join_all(publishing)).await.expect("an answer for everybody");

    let results: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    let kept = results.iter().filter(|result| result.is_ok()).count() as u64;
    let unknown = results.iter().filter(|result| matches!(result, Err(PublishError::Unconfirmed { .. })));
    let unknown = unknown.count() as u64;
    let there = crate::support::ready(&*t.broker, &queue).await;
    assert!((kept..=kept + unknown).contains(&there), "{there} are there: {results:?}");
}

/// A worker closes its client while its consumer waits.
pub(crate) async fn close_ends_a_consumer_that_waits(t: &Fixture) {
    let queue = t.plain_queue("jobs").await;
    let client = t.other_client().await;
    let mut consumer = client.broker().consume(ConsumeOptions::new(queue)).await.unwrap();
    let waiting = tokio::spawn(async move { consumer.next().await.is_none() });
    tokio::task::yield_now().await;

    client.close().await;

    assert!(tokio::time::timeout(PATIENCE, waiting).await.expect("it wakes").unwrap());
}

/// Runs a future on this thread, which has no tokio runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut future, mut cx) = (pin!(future), Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(PATIENCE),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Outside {}

impl Task for Outside {
    const NAME: &'static str = "outside";
    type Output = u32;

    fn queue() -> &'static QueueSpec {
        static SPEC: OnceLock<QueueSpec> = OnceLock::new();
        SPEC.get_or_init(|| QueueSpec::new(unique("contract.lifecycle.outside")))
    }

    fn options() -> &'static TaskOptions {
        static OPTIONS: OnceLock<TaskOptions> = OnceLock::new();
        OPTIONS.get_or_init(TaskOptions::default)
    }
}

/// A task whose queue another program has made small, which its own words do not say.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Small {}

impl Task for Small {
    const NAME: &'static str = "small";
    type Output = ();

    fn queue() -> &'static QueueSpec {
        static SPEC: OnceLock<QueueSpec> = OnceLock::new();
        SPEC.get_or_init(|| {
            QueueSpec::new(unique("contract.lifecycle.small")).no_dlx().declare(Declare::Passive)
        })
    }

    fn options() -> &'static TaskOptions {
        static OPTIONS: OnceLock<TaskOptions> = OnceLock::new();
        OPTIONS.get_or_init(TaskOptions::default)
    }
}

/// Never a panic: on another executor, or in a program that has forgotten its runtime.
pub(crate) async fn outside_of_a_tokio_runtime_things_work_or_say_that_they_need_one(t: &Fixture) {
    let queue = Outside::queue();
    t.declare_spec(queue).await;
    let name = queue.name().clone();
    // Taken within a runtime, and settled outside.
    t.send(&name, ["acked", "retried", "dead", "nowhere", "released", "dropped"]).await;
    let missing = queue.clone().dlx(t.name("missing"));
    let route = queue.dead_letter_route(t.client.namespace());
    let mut consumer = t.consume_with(ConsumeOptions::new(name.clone()).prefetch(3).dead_letter(route)).await;
    let mut astray = t
        .consume_with(
            ConsumeOptions::new(name.clone())
                .prefetch(3)
                .dead_letter(missing.dead_letter_route(t.client.namespace())),
        )
        .await;
    let mut ours = Vec::new();
    for _ in 0..3 {
        ours.push(next(&mut consumer).await);
    }
    let nowhere = next(&mut astray).await;
    t.declare_spec(&QueueSpec::new(Small::queue().name().clone()).no_dlx().max_length(1)).await;
    let needs_one = |words: String| assert!(words.contains("needs a tokio runtime"), "{words}");

    let outside = async {
        let client = t.other_client().await;
        client.declare_queue(queue).await.unwrap();
        client.enqueue(Outside {}).await.unwrap();
        client.enqueue(Outside {}).delay(Duration::from_secs(3600)).await.unwrap();
        for enqueued in client.enqueue_all([Outside {}, Outside {}]).await {
            enqueued.unwrap();
        }
        let mut late = message(&name, "late");
        late.not_before = Some(SystemTime::now() + Duration::from_secs(3600));
        for published in client.broker().publish_all(vec![late, message(&name, "now")]).await {
            published.unwrap();
        }
        let reply = Publish::to_exchange("", "amq.rabbitmq.reply-to.nobody", Envelope::new("{}"));
        if let Err(error) = client.broker().publish(reply).await {
            needs_one(error.to_string());
        }
        let mut refused = Ok(());
        for _ in 0..200 {
            refused = refused.and(client.enqueue(Small {}).await.map(drop));
        }
        assert!(matches!(refused, Err(EnqueueError::QueueFull { .. })), "{refused:?}");
        needs_one(chain(&client.call(Outside {}).await.unwrap_err()));
        match client.broker().consume(ConsumeOptions::new(name.clone())).await {
            Ok(mut consumer) => {
                let delivery = consumer.next().await.expect("a delivery").unwrap();
                delivery.settle(Settlement::Release).await.unwrap();
                consumer.finish().await;
            }
            Err(error) => needs_one(error.to_string()),
        }
        client.depth::<Outside>().await.unwrap();
        client.admin().dead_letters_of::<Outside>(1).await.unwrap();
        client.admin().replay(&queue.dead_queue().expect("one"), 1, |_| true).await.unwrap();
        needs_one(Worker::new(&client).run().await.unwrap_err().to_string());

        let reason = Reason::new(ReasonKind::Permanent, "no");
        let mut ours = ours.into_iter();
        let mut settle = async |settlement| ours.next().expect("three").settle(settlement).await.unwrap();
        settle(Settlement::Ack).await;
        settle(crate::settle::retry_in(Duration::from_secs(3600))).await;
        settle(Settlement::DeadLetter { reason: reason.clone() }).await;
        let settled = nowhere.settle(Settlement::DeadLetter { reason }).await;
        assert!(matches!(settled, Err(SettleError::Republish(_))), "{settled:?}");

        client.operator().unwrap().purge(&name).await.unwrap();
        client.operator().unwrap().delete(&t.name("missing")).await.unwrap();
        client.close().await;
        client.close().await;
        drop(client);
    };
    thread::scope(|scope| scope.spawn(|| block_on(outside)).join()).expect("no panic");
}
