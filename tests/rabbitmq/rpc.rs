//! Calls over connections that break. A reply's address dies with its channel, so what was asked there is lost, and
//! never asked a second time by itself.

use std::convert::Infallible;
use std::future::IntoFuture as _;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use leveret::{CallError, Client, EnqueueError, JobEvent, PublishError, Task, Worker, task};
use queue_core::broker::{Broker, ConsumeOptions, Consumer, DIRECT_REPLY_TO, Health, Publish};
use queue_core::envelope::Envelope;
use queue_core::error::ErrorKind;
use queue_core::settlement::Settlement;
use queue_core::task::TaskOptions;
use queue_core::topology::{QueueSpec, QueueType};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::proxy::{Mode, Proxy};
use crate::support::{self, Node, consume, next, queue, soon, unique, until};

on_each_node!(
    call_in_flight_is_lost_with_its_connection_and_the_next_one_works,
    call_that_may_have_been_sent_is_lost_and_not_sent_again,
    call_that_has_not_been_sent_waits_for_the_connection,
    call_while_the_node_is_away_says_so,
    reader_hears_that_its_connection_is_gone,
    enqueued_jobs_are_sent_again_beside_requests_that_are_not,
    worker_that_lost_its_connection_answers_on_the_next,
    channel_closed_by_the_server_loses_only_what_was_asked_on_it,
    requests_are_lost_with_their_channel_and_new_ones_are_not,
    requests_that_cannot_be_written_wait_and_then_arrive,
    reply_to_another_cluster_costs_one_connection_at_most,
);

/// A task with a queue of its own.
macro_rules! task {
    ($name:ident) => {
        #[derive(Debug, Clone, Serialize, Deserialize)]
        struct $name {
            n: u64,
        }

        impl Task for $name {
            const NAME: &'static str = stringify!($name);
            type Output = u64;

            fn queue() -> &'static QueueSpec {
                static SPEC: OnceLock<QueueSpec> = OnceLock::new();
                SPEC.get_or_init(|| QueueSpec::new(unique("rpc")).queue_type(QueueType::Classic).no_dlx())
            }

            fn options() -> &'static TaskOptions {
                static OPTIONS: OnceLock<TaskOptions> = OnceLock::new();
                OPTIONS.get_or_init(TaskOptions::default)
            }
        }
    };
}

/// A caller behind a proxy, and who works without one.
struct Stage {
    proxy: Proxy,
    caller: Client,
    direct: Arc<dyn Broker>,
    queue: String,
    jobs: Consumer,
}

impl Stage {
    /// The caller has made a call by now, so that its first connection is there.
    async fn set<T: Task>(node: &Node, first: T) -> Self {
        let proxy = Proxy::start(&node.host()).await;
        let direct = node.broker().await;
        let queue = T::queue().name().to_string();
        let caller = client(&node.with(|url| url.host = proxy.address.to_string())).await;
        caller.declare_queue(T::queue()).await.unwrap();
        let jobs = consume(&direct, &queue, 1).await;
        let mut stage = Self { proxy, caller, direct, queue, jobs };

        let (result, ()) = tokio::join!(stage.caller.clone().call(first).into_future(), stage.answer("0"));
        assert!(result.is_ok(), "{:?}", result.err());
        stage
    }

    /// Takes a job, answers and acks it.
    async fn answer(&mut self, reply: &str) {
        let job = next(&mut self.jobs).await;
        answer(&*self.direct, &job.envelope, reply).await;
        job.settle(Settlement::Ack).await.unwrap();
    }

    async fn ready(&self) -> u64 {
        self.direct.operator().unwrap().inspect(&self.queue).await.unwrap().ready
    }

    /// The caller loses its connection, and gets no other.
    async fn lose_the_node(&self) {
        self.proxy.set(Mode::Shut);
        self.proxy.cut();
        until("the loss to be noticed", async || self.caller.info().health != Health::Up).await;
    }

    async fn end(self) {
        drop(self.jobs);
        self.caller.close().await;
        delete(&self.direct, &self.queue).await;
    }
}

async fn client(url: &str) -> Client {
    let builder = Client::builder().namespace("test.rabbitmq").unwrap().publish_timeout(support::SOON);
    builder.connect(url).await.expect("the node answers")
}

async fn answer(broker: &dyn Broker, request: &Envelope, reply: &str) {
    let mut answer = Envelope::new(reply.to_owned());
    answer.correlation_id = request.correlation_id.clone();
    let address = request.reply_to.clone().expect("it is a request");
    broker.publish(Publish::to_exchange("", address, answer)).await.unwrap();
}

fn request(queue: &str, id: &str) -> Publish {
    let mut request = Envelope::new("{}");
    request.reply_to = Some(DIRECT_REPLY_TO.to_owned());
    request.correlation_id = Some(id.to_owned());
    Publish::to_queue(queue.to_owned(), request)
}

async fn delete(broker: &Arc<dyn Broker>, queue: &str) {
    broker.operator().unwrap().delete(queue).await.unwrap();
    broker.close().await;
}

async fn call_in_flight_is_lost_with_its_connection_and_the_next_one_works(node: Node) {
    task!(Work);
    let mut stage = Stage::set(&node, Work { n: 0 }).await;
    let call = stage.caller.call(Work { n: 1 }).timeout(Duration::from_secs(600));
    let calling = tokio::spawn(call.into_future());
    let job = next(&mut stage.jobs).await;

    stage.proxy.cut();
    let lost = soon("an answer", calling).await.unwrap();
    // Its reply goes to an address that is gone, and harms nobody.
    answer(&*stage.direct, &job.envelope, "1").await;
    job.settle(Settlement::Ack).await.unwrap();
    let call = stage.caller.call(Work { n: 2 }).into_future();
    let (next, ()) = soon("a reply", async { tokio::join!(call, stage.answer("2")) }).await;

    assert!(matches!(lost, Err(CallError::Lost { task: "Work", .. })), "{lost:?}");
    assert_eq!(next.unwrap(), 2);
    stage.end().await;
}

/// The node has it, but its confirm never came: a job would be sent again, and perhaps be there twice.
async fn call_that_may_have_been_sent_is_lost_and_not_sent_again(node: Node) {
    task!(Work);
    let mut stage = Stage::set(&node, Work { n: 0 }).await;
    stage.jobs.stop();
    assert!(soon("the end", stage.jobs.next()).await.is_none());

    stage.proxy.set(Mode::Mute);
    let call = stage.caller.call(Work { n: 1 }).timeout(Duration::from_secs(600));
    let calling = tokio::spawn(call.into_future());
    until("the request to arrive", async || stage.ready().await == 1).await;
    stage.proxy.set(Mode::Open);
    stage.proxy.cut();
    let lost = soon("an answer", calling).await.unwrap();

    assert!(matches!(lost, Err(CallError::Lost { .. })), "{lost:?}");
    // What would still be sent on the next connection goes before the next request.
    let again = stage.caller.call(Work { n: 2 }).timeout(Duration::from_secs(4)).await;
    assert!(matches!(again, Err(CallError::NoWorker { .. })), "{again:?}");
    assert_eq!(stage.ready().await, 2);
    stage.end().await;
}

async fn call_that_has_not_been_sent_waits_for_the_connection(node: Node) {
    task!(Work);
    let mut stage = Stage::set(&node, Work { n: 0 }).await;
    stage.lose_the_node().await;

    let calling = tokio::spawn(stage.caller.call(Work { n: 1 }).timeout(support::SOON).into_future());
    tokio::task::yield_now().await;
    stage.proxy.set(Mode::Open);
    stage.answer("1").await;

    assert_eq!(soon("a reply", calling).await.unwrap().unwrap(), 1);
    stage.end().await;
}

async fn call_while_the_node_is_away_says_so(node: Node) {
    task!(Work);
    let stage = Stage::set(&node, Work { n: 0 }).await;
    stage.lose_the_node().await;

    let since = Instant::now();
    let away = stage.caller.call(Work { n: 1 }).timeout(Duration::from_millis(300)).await;
    let waited = since.elapsed();

    match &away {
        Err(CallError::Enqueue(EnqueueError::Publish(PublishError::Unavailable {
            source: Some(why),
            ..
        }))) => {
            assert!(why.to_string().contains("the broker is away"), "{why}");
        }
        other => panic!("the node was there: {other:?}"),
    }
    assert!(waited >= Duration::from_millis(300) && waited < Duration::from_secs(10), "{waited:?}");
    assert_eq!(stage.ready().await, 0);
    stage.proxy.set(Mode::Open);
    stage.end().await;
}

async fn reader_hears_that_its_connection_is_gone(node: Node) {
    let proxy = Proxy::start(&node.host()).await;
    let broker = support::broker(&node.with(|url| url.host = proxy.address.to_string())).await;
    let queue = queue(&broker).await;
    let mut replies = consume(&broker, DIRECT_REPLY_TO, 1).await;
    broker.publish(request(&queue, "before")).await.unwrap();

    proxy.cut();
    let last = soon("the last item", replies.next()).await.expect("an error goes before the end");
    let end = soon("the end", replies.next()).await;

    assert_eq!(last.unwrap_err().kind(), ErrorKind::Connection);
    assert!(end.is_none(), "{end:?}");
    let mut anew = soon("a connection", broker.consume(ConsumeOptions::new(DIRECT_REPLY_TO))).await.unwrap();
    broker.publish(request(&queue, "after")).await.unwrap();
    // The one before is answered to an address that is gone, which harms nobody.
    let mut jobs = consume(&broker, &queue, 2).await;
    for _ in 0..2 {
        let job = next(&mut jobs).await;
        answer(&*broker, &job.envelope, "1").await;
        job.settle(Settlement::Ack).await.unwrap();
    }
    assert_eq!(next(&mut anew).await.envelope.correlation_id.as_deref(), Some("after"));
    delete(&broker, &queue).await;
}

async fn enqueued_jobs_are_sent_again_beside_requests_that_are_not(node: Node) {
    let proxy = Proxy::start(&node.host()).await;
    let broker = support::broker(&node.with(|url| url.host = proxy.address.to_string())).await;
    let direct = node.broker().await;
    let queue = queue(&direct).await;
    let _replies = consume(&broker, DIRECT_REPLY_TO, 1).await;

    proxy.set(Mode::Mute);
    let publishing = ["a", "b", "c"].map(|text| {
        let (broker, queue, job) = (broker.clone(), queue.clone(), support::job(text));
        tokio::spawn(async move { broker.publish(Publish::to_queue(queue, job)).await })
    });
    let asking = {
        let (broker, request) = (broker.clone(), request(&queue, "x"));
        tokio::spawn(async move { broker.request(request).await })
    };
    until("all to arrive", async || direct.operator().unwrap().inspect(&queue).await.unwrap().ready == 4)
        .await;
    proxy.set(Mode::Open);
    proxy.cut();

    for published in publishing {
        soon("a confirm", published).await.unwrap().unwrap();
    }
    let asked = soon("an answer", asking).await.unwrap();
    assert!(matches!(asked, Err(PublishError::Unconfirmed { .. })), "{asked:?}");
    // The three once more, and the request once.
    assert_eq!(direct.operator().unwrap().inspect(&queue).await.unwrap().ready, 7);
    broker.close().await;
    delete(&direct, &queue).await;
}

/// Its job comes back and does not run again, and the caller has its answer.
async fn worker_that_lost_its_connection_answers_on_the_next(node: Node) {
    #[task(queue = "test.rpc.gated", queue_type = "classic", dlx = none)]
    async fn gated(gate: &Semaphore, n: u64) -> Result<u64, Infallible> {
        gate.acquire().await.expect("never closed").forget();
        Ok(n)
    }
    let proxy = Proxy::start(&node.host()).await;
    let working = client(&node.with(|url| url.host = proxy.address.to_string())).await;
    let caller = client(&node.url).await;
    working.declare_queue(Gated::queue()).await.unwrap();
    working.operator().unwrap().purge(Gated::queue().name()).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let worker = Worker::new(&working).task::<Gated>().shared(gate.clone()).concurrency(2).signals(false);
    let (handle, mut events) = (worker.handle(), worker.events());
    let running = tokio::spawn(worker.run());
    let calling = tokio::spawn(caller.call(Gated { n: 1 }).timeout(support::SOON).into_future());
    while !matches!(
        soon("an event", events.next()).await.expect("the worker is there"),
        JobEvent::Started { .. }
    ) {}

    proxy.cut();
    gate.add_permits(1);
    let reply = soon("a reply", calling).await.unwrap();

    assert_eq!(reply.unwrap(), 1);
    handle.shutdown();
    soon("the end", running).await.unwrap().unwrap();
    while let Some(event) = soon("an event, or the end", events.next()).await {
        assert!(!matches!(event, JobEvent::Started { .. }), "it ran twice");
    }
    working.operator().unwrap().delete(Gated::queue().name()).await.unwrap();
    working.close().await;
    caller.close().await;
}

async fn channel_closed_by_the_server_loses_only_what_was_asked_on_it(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    let mut replies = consume(&broker, DIRECT_REPLY_TO, 1).await;
    broker.publish(request(&queue, "a")).await.unwrap();

    // A request to a missing exchange closes the channel that requests are on.
    let mut astray = request(&queue, "b");
    astray.route = Publish::to_exchange(unique("missing"), "", Envelope::new("")).route;
    let refused = soon("a refusal", broker.publish(astray)).await;

    assert!(matches!(refused, Err(PublishError::Unroutable { .. })), "{refused:?}");
    let last = soon("the last item", replies.next()).await.expect("an error goes before the end");
    assert_eq!(last.unwrap_err().kind(), ErrorKind::Connection);
    let _anew = soon("another channel", broker.consume(ConsumeOptions::new(DIRECT_REPLY_TO))).await.unwrap();
    broker.publish(request(&queue, "c")).await.unwrap();
    assert_eq!(broker.operator().unwrap().inspect(&queue).await.unwrap().ready, 2);
    delete(&broker, &queue).await;
}

/// The server names the exchange, and so it is known whose request was refused and whose are lost.
async fn requests_are_lost_with_their_channel_and_new_ones_are_not(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    let mut replies = consume(&broker, DIRECT_REPLY_TO, 1).await;
    let ask = |request: Publish| {
        let broker = broker.clone();
        tokio::spawn(async move { broker.request(request).await })
    };
    let asked = ["a", "b"].map(|id| ask(request(&queue, id)));
    until("both to arrive", async || broker.operator().unwrap().inspect(&queue).await.unwrap().ready == 2)
        .await;

    let mut astray = request(&queue, "c");
    astray.route = Publish::to_exchange(unique("missing"), "", Envelope::new("")).route;
    let refused = soon("a refusal", ask(astray)).await.unwrap();

    assert!(matches!(refused, Err(PublishError::Unroutable { .. })), "{refused:?}");
    for asked in asked {
        let lost = soon("an answer", asked).await.unwrap();
        assert!(matches!(lost, Err(PublishError::Unconfirmed { .. })), "{lost:?}");
    }
    let last =
        soon("the last item", replies.next()).await.expect("an error goes before the end").unwrap_err();
    assert_eq!(last.kind(), ErrorKind::Connection);
    assert!(leveret::error_chain(&last).contains("no exchange 'test.missing"), "{last:?}");
    let refused = soon("a refusal", broker.request(request(&queue, "d"))).await;
    assert!(matches!(refused, Err(PublishError::NoReader)), "{refused:?}");
    delete(&broker, &queue).await;
}

/// The publisher stops at some that are not written, and goes on when they are.
async fn requests_that_cannot_be_written_wait_and_then_arrive(node: Node) {
    let proxy = Proxy::start(&node.host()).await;
    let url = node.with(|url| url.host = proxy.address.to_string());
    // Longer than the test waits: what is not sent must not be told so instead.
    let builder = Client::builder().namespace("test.rabbitmq").unwrap().publish_timeout(support::SOON * 3);
    let caller = builder.connect(&url).await.unwrap();
    let direct = node.broker().await;
    let (first, second) = (queue(&direct).await, queue(&direct).await);
    let _replies = consume(caller.broker(), DIRECT_REPLY_TO, 1).await;
    let ask = |queue: &str, count: u32| -> Vec<_> {
        let ask = |n: u32| {
            let (broker, mut request) = (caller.broker().clone(), request(queue, &n.to_string()));
            request.envelope.payload = vec![b'x'; 64 * 1024].into();
            tokio::spawn(async move { broker.request(request).await })
        };
        (0..count).map(ask).collect()
    };

    proxy.set(Mode::Stuck);
    // More than there is room for on the way, and 256 that wait to be written.
    let asking = ask(&first, 800);
    // What it is asked after them is answered after it has handled them.
    let handled = || {
        let broker = caller.broker().clone();
        let reading = tokio::spawn(async move { broker.consume(ConsumeOptions::new(DIRECT_REPLY_TO)).await });
        async { assert!(soon("an answer", reading).await.unwrap().is_err(), "there is a reader") }
    };
    handled().await;
    // For their sake it would be looked from time to time; one such look may still be due.
    asking.iter().for_each(|asking| asking.abort());
    let asking = ask(&second, 100);
    handled().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    proxy.set(Mode::Open);

    until("all to arrive", async || direct.operator().unwrap().inspect(&second).await.unwrap().ready == 100)
        .await;
    asking.iter().for_each(|asking| asking.abort());
    caller.close().await;
    direct.operator().unwrap().delete(&first).await.unwrap();
    delete(&direct, &second).await;
}

/// RabbitMQ 3.10 ends the connection over it.
async fn reply_to_another_cluster_costs_one_connection_at_most(node: Node) {
    let broker = node.broker().await;
    let queue = queue(&broker).await;
    let elsewhere = "amq.rabbitmq.reply-to.g1h3B3JlcGx5QDcAAAAAAAAAAAAAAAA=.key";

    for length in [10, 300 * 1024] {
        let reply = Publish::to_exchange("", elsewhere, Envelope::new("x".repeat(length)));
        let replied = soon("an answer", broker.publish(reply)).await;

        assert!(matches!(replied, Ok(()) | Err(PublishError::Unconfirmed { .. })), "{replied:?}");
        let job = Publish::to_queue(queue.clone(), support::job("next"));
        soon("a confirm", broker.publish(job)).await.unwrap();
    }

    // What was not confirmed before the connection went is there twice.
    assert!((2..=4).contains(&broker.operator().unwrap().inspect(&queue).await.unwrap().ready));
    delete(&broker, &queue).await;
}
