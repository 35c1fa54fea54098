//! Calls: a job whose caller waits for its result runs once, and is answered whatever becomes of it.

use std::collections::HashMap;
use std::future::IntoFuture as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use leveret::{BoxError, CallError, Client, Context, JobEvent, Outcome, ReasonKind, TaskError, Worker};
use queue_core::broker::memory::MemoryBroker;
use queue_core::broker::{Broker, BrokerInfo, ConsumeOptions, Consumer, Operator, Publish, Settings};
use queue_core::clock::Clock;
use queue_core::envelope::{Envelope, HeaderValue, header};
use queue_core::error::PublishError;
use queue_core::format::Format;
use queue_core::settlement::Settlement;
use queue_core::topology::{QueueDecl, Topology};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::support::{
    client, message, options, patiently, publish, queue, retries, start, take_dead_letter, task, timeout,
    work,
};

/// How often handlers ran.
#[derive(Default)]
struct Runs(AtomicU32);

impl Runs {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sum {
    sum: u64,
    of: Vec<u32>,
}

task!(Add { a: u32, b: u32 } -> u64 = "add", queue: queue("rpc"), options: options(), needs: [],
    async |_call, job| { Ok::<_, String>(u64::from(job.a) + u64::from(job.b)) });
task!(AddUp { of: Vec<u32> } -> Sum = "add_up", queue: queue("rpc"), options: options(), needs: [],
    blocking |_call, job| { Ok::<_, String>(Sum { sum: job.of.iter().copied().map(u64::from).sum(), of: job.of }) });
task!(Ping {} = "ping", queue: queue("rpc"), options: options(), needs: [], async |_call, _job| {});
task!(Fail { how: String } -> u64 = "fail", queue: queue("rpc.fail"), options: retries(5), needs: [Runs],
async |call, job| {
    call.arg::<Runs>().add();
    match &*job.how {
        "panic" => panic!("out of cheese"),
        "permanent" => Err(TaskError::permanent("no such cheese").into()),
        "later" => Err(TaskError::retry_in(Duration::from_secs(1), "cheese is ripening").into()),
        words => Err::<u64, BoxError>(words.into()),
    }
});
task!(Sleep {} = "sleep", queue: queue("rpc.sleep"), options: timeout(Duration::from_millis(20)), needs: [],
    async |_call, _job| { std::future::pending::<()>().await });
task!(Unsayable {} -> HashMap<(u8, u8), u8> = "unsayable", queue: queue("rpc.unsayable"), options: options(),
    needs: [], async |_call, _job| { Ok::<_, String>(HashMap::from([((1, 2), 3)])) });
task!(Long { bytes: usize } -> String = "long", queue: queue("rpc.long"), options: options(), needs: [],
    async |_call, job| { Ok::<_, String>("x".repeat(job.bytes)) });
task!(Packed { byte: u8, count: usize } -> (Vec<u8>, Option<()>) = "packed", queue: queue("rpc.packed"), options: {
    let mut options = options();
    options.format = Format::MessagePack;
    options
}, needs: [], async |_call, job| {
    if job.byte == 0 { Err("nothing to pack") } else { Ok((vec![job.byte; job.count], None)) }
});
task!(Twice { n: u32 } -> u64 = "twice", queue: queue("rpc.twice"), options: options(), needs: [Context],
    async |call, job| { call.arg::<Context>().client().call(Add { a: job.n, b: job.n }).await });

/// What the caller of a failing task is told.
fn failure<T: std::fmt::Debug>(result: Result<T, CallError>) -> (ReasonKind, String) {
    match result {
        Err(CallError::Handler { kind, message, .. }) => (kind, message),
        other => panic!("the handler did not fail: {other:?}"),
    }
}

/// The queue and its dead-letter queue are empty.
async fn assert_gone(client: &Client, queue: &str) {
    let look = async |queue: &str| client.operator().unwrap().inspect(queue).await.unwrap();
    let left = look(queue).await;
    assert_eq!((left.ready, left.unsettled, left.delayed), (0, Some(0), Some(0)), "{queue}");
    assert_eq!(look(&format!("{queue}.dead")).await.ready, 0, "dead letters of {queue}");
}

/// A request as a foreign program would write it, with a reply queue of its own.
async fn foreign_request(client: &Client, task: Option<&str>, body: &str) -> (Envelope, Consumer) {
    let replies = QueueDecl::new("foreign.replies").exclusive();
    client.broker().declare(&Topology::new().queue(replies)).await.unwrap();
    let mut request = message(task, body.to_owned());
    request.reply_to = Some("foreign.replies".to_owned());
    request.correlation_id = Some("7".to_owned());
    (request, client.broker().consume(ConsumeOptions::new("foreign.replies")).await.unwrap())
}

async fn reply(replies: &mut Consumer) -> Envelope {
    let delivery = patiently(replies.next()).await.unwrap().unwrap();
    let reply = delivery.envelope.clone();
    delivery.settle(Settlement::Ack).await.unwrap();
    reply
}

#[tokio::test]
async fn caller_gets_what_the_handler_returned() {
    let (client, _clock) = client();
    let mut worker = start(Worker::new(&client).task::<Add>().task::<AddUp>().task::<Ping>());

    let sum = patiently(client.call(Add { a: 1, b: 2 }).into_future()).await.unwrap();
    worker.succeeded().await;
    let all = patiently(client.call(AddUp { of: vec![1, 2, 3] }).into_future()).await.unwrap();
    worker.succeeded().await;
    let () = patiently(client.call(Ping {}).into_future()).await.unwrap();
    worker.succeeded().await;

    assert_eq!(sum, 3);
    assert_eq!(all, Sum { sum: 6, of: vec![1, 2, 3] });
    assert_gone(&client, "rpc").await;
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn failure_is_told_to_the_caller_and_neither_retried_nor_kept() {
    let runs = Arc::new(Runs::default());
    let (client, _clock) = client();
    let mut worker = start(Worker::new(&client).task::<Fail>().shared(Arc::clone(&runs)));
    let told = [
        ("no cheese today", ReasonKind::Failed, "no cheese today"),
        ("later", ReasonKind::Failed, "cheese is ripening"),
        ("permanent", ReasonKind::Permanent, "no such cheese"),
        ("panic", ReasonKind::Panic, "the handler panicked: out of cheese"),
    ];

    for (how, kind, words) in told {
        let result = patiently(client.call(Fail { how: how.to_owned() }).into_future()).await;

        assert_eq!(failure(result), (kind, words.to_owned()));
        match worker.fate().await {
            JobEvent::CallFailed { job, reason, .. } => {
                assert_eq!((job.attempt, reason.kind, &*reason.message), (1, kind, words));
            }
            other => panic!("`{how}`: {other:?}"),
        }
    }

    assert_eq!(runs.count(), 4);
    assert_gone(&client, "rpc.fail").await;
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn timeout_of_the_task_is_told_to_the_caller() {
    let (client, _clock) = client();
    let worker = start(Worker::new(&client).task::<Sleep>());

    let (kind, words) = failure(patiently(client.call(Sleep {}).into_future()).await);

    assert_eq!(kind, ReasonKind::Timeout);
    assert!(words.contains("task `sleep` did not finish within its timeout of 20ms"), "{words}");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn result_that_is_no_json_is_a_failure() {
    let (client, _clock) = client();
    let worker = start(Worker::new(&client).task::<Unsayable>());

    let (kind, words) = failure(patiently(client.call(Unsayable {}).into_future()).await);

    assert_eq!(kind, ReasonKind::Permanent);
    assert!(words.contains("the reply of task `unsayable` could not be encoded"), "{words}");
    // A job that nobody waits for does not mind.
    client.enqueue(Unsayable {}).await.unwrap();
    worker.stop().await.unwrap();
    assert_eq!(work(Worker::new(&client).task::<Unsayable>()).await.dead, 0);
}

#[tokio::test]
async fn result_over_the_limit_is_a_failure_that_names_it() {
    let client = Client::builder().max_payload(1000).connect("memory:").await.unwrap();
    let worker = start(Worker::new(&client).task::<Long>());

    let just = patiently(client.call(Long { bytes: 998 }).into_future()).await;
    let (kind, words) = failure(patiently(client.call(Long { bytes: 999 }).into_future()).await);

    assert_eq!(just.unwrap().len(), 998);
    assert_eq!(kind, ReasonKind::Permanent);
    assert!(words.contains("the reply has 1001 bytes, over the limit of 1000"), "{words}");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn layer_that_answers_in_the_handlers_stead_replies_null() {
    let (client, _clock) = client();
    let answering = crate::layer::answering(|| Ok(Outcome::Success));
    let worker = start(Worker::new(&client).task::<Ping>().task::<Add>().layer(answering));

    let () = patiently(client.call(Ping {}).into_future()).await.unwrap();
    let sum = patiently(client.call(Add { a: 1, b: 2 }).into_future()).await;

    assert!(matches!(sum, Err(CallError::Decode { task: "add", .. })), "{sum:?}");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn task_may_call_another() {
    let (client, _clock) = client();
    let worker = start(Worker::new(&client).task::<Twice>().task::<Add>());

    let four = patiently(client.call(Twice { n: 2 }).into_future()).await;

    assert_eq!(four.unwrap(), 4);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn foreign_caller_gets_plain_json() {
    let (client, _clock) = client();
    let (request, mut replies) = foreign_request(&client, Some("add"), r#"{"a": 1, "b": 2}"#).await;
    let worker = start(Worker::new(&client).task::<Add>());

    publish(&client, &queue("rpc"), request).await;
    let reply = reply(&mut replies).await;

    assert_eq!(&*reply.payload, b"3");
    assert_eq!(reply.correlation_id.as_deref(), Some("7"));
    assert_eq!(reply.content_type.as_deref(), Some("application/json"));
    assert!(reply.headers.is_empty(), "{reply:?}");
    assert_eq!((reply.reply_to, reply.task), (None, None));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn foreign_caller_gets_failures_as_json_too() {
    let (client, _clock) = client();
    let (request, mut replies) = foreign_request(&client, Some("add"), r#"{"a": "one"}"#).await;
    let mut worker = start(Worker::new(&client).task::<Add>());

    publish(&client, &queue("rpc"), request).await;
    let reply = reply(&mut replies).await;

    let body: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap();
    assert_eq!(body["kind"], "bad-message");
    let words = body["error"].as_str().unwrap();
    assert!(words.contains("the payload does not fit task `add`"), "{words}");
    assert_eq!(reply.headers.get(header::ERROR_KIND), Some(&HeaderValue::from("bad-message")));
    assert_eq!(reply.correlation_id.as_deref(), Some("7"));
    assert!(matches!(worker.fate().await, JobEvent::CallFailed { .. }));
    assert_gone(&client, "rpc").await;
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn request_in_another_format_is_answered_in_it() {
    let (client, _clock) = client();
    let (mut request, mut replies) = foreign_request(&client, Some("add"), "").await;
    let worker = start(Worker::new(&client).task::<Add>());
    for format in [Format::MessagePack, Format::Cbor] {
        request.content_type = Some(format.content_type().to_owned());

        request.payload = format.encode(&Add { a: 1, b: 2 }).unwrap().into();
        publish(&client, &queue("rpc"), request.clone()).await;
        let sum = reply(&mut replies).await;
        request.payload = format.encode(&"no map").unwrap().into();
        publish(&client, &queue("rpc"), request.clone()).await;
        let failure = reply(&mut replies).await;

        assert_eq!(sum.content_type.as_deref(), Some(format.content_type()));
        assert_eq!(format.to_json(&sum.payload).unwrap(), 3);
        assert_eq!(failure.content_type.as_deref(), Some(format.content_type()));
        assert_eq!(format.to_json(&failure.payload).unwrap()["kind"], "bad-message");
    }
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn task_of_another_format_is_called_in_it() {
    let (client, _clock) = client();
    let worker = start(Worker::new(&client).task::<Packed>());

    let bytes = patiently(client.call(Packed { byte: 255, count: 3 }).into_future()).await.unwrap();
    let (_, words) = failure(patiently(client.call(Packed { byte: 0, count: 3 }).into_future()).await);

    assert_eq!(bytes, (vec![255; 3], None));
    assert_eq!(words, "nothing to pack");
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn request_that_names_no_task_of_several_is_answered() {
    let (client, _clock) = client();
    let (request, mut replies) = foreign_request(&client, None, "{}").await;
    let worker = start(Worker::new(&client).task::<Add>().task::<Ping>());

    publish(&client, &queue("rpc"), request).await;

    let reply = reply(&mut replies).await;
    assert_eq!(reply.headers.get(header::ERROR_KIND), Some(&HeaderValue::from("bad-message")));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn reply_that_nobody_takes_does_not_keep_the_job() {
    let (client, _clock) = client();
    let full =
        QueueDecl::new("rpc.full").argument("x-max-length", 0_i64).argument("x-overflow", "reject-publish");
    client.broker().declare(&Topology::new().queue(full)).await.unwrap();
    let mut worker = start(Worker::new(&client).task::<Add>());

    for address in ["rpc.no-such-queue", "amq.rabbitmq.reply-to.of-somebody-gone", "rpc.full"] {
        let mut request = message(Some("add"), r#"{"a": 1, "b": 2}"#);
        request.reply_to = Some(address.to_owned());
        publish(&client, &queue("rpc"), request).await;
        worker.succeeded().await;
    }

    assert_gone(&client, "rpc").await;
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn call_whose_caller_gave_up_is_not_run_and_is_no_dead_letter() {
    let runs = Arc::new(Runs::default());
    let clock = Clock::manual(SystemTime::now());
    let mut settings = Settings::default();
    settings.clock = clock.clone();
    let broker = MemoryBroker::new(&settings);
    let client = Client::builder().clock(clock.clone()).with_broker(broker.clone());
    let call = client.call(Fail { how: "no".to_owned() }).timeout(Duration::from_secs(5));
    let calling = tokio::spawn(call.into_future());
    patiently(broker.wait_for(|activity| activity.parked == 1)).await;

    clock.advance(Duration::from_secs(5));
    let result = patiently(calling).await.unwrap();
    let summary = work(Worker::new(&client).task::<Fail>().shared(Arc::clone(&runs))).await;

    assert!(matches!(result, Err(CallError::NoWorker { .. })), "{result:?}");
    assert_eq!((summary.abandoned, summary.succeeded, summary.dead), (1, 0, 0));
    assert!(summary.to_string().contains("1 abandoned by their callers"), "{summary}");
    assert_eq!(runs.count(), 0);
    assert_gone(&client, "rpc.fail").await;
}

#[tokio::test]
async fn abandoned_call_is_told_as_an_event() {
    let (client, _clock) = client();
    let mut request = message(Some("add"), r#"{"a": 1, "b": 2}"#);
    request.reply_to = Some("gone".to_owned());
    request.headers.insert(header::DEADLINE, 1_000_000_i64);
    let id = request.id.clone();
    publish(&client, &queue("rpc"), request).await;

    let mut worker = start(Worker::new(&client).task::<Add>());

    match worker.event().await {
        JobEvent::Abandoned { job } => assert_eq!((job.id, &*job.task), (id, "add")),
        other => panic!("it was not abandoned: {other:?}"),
    }
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn deadline_of_a_job_that_nobody_waits_for_means_nothing() {
    let (client, _clock) = client();
    let mut job = message(Some("add"), r#"{"a": 1, "b": 2}"#);
    job.headers.insert(header::DEADLINE, 1_000_000_i64);
    publish(&client, &queue("rpc"), job).await;

    assert_eq!(work(Worker::new(&client).task::<Add>()).await.succeeded, 1);
}

#[tokio::test]
async fn call_of_an_unknown_task_waits_for_a_newer_worker() {
    let (client, clock) = client();
    let calling = tokio::spawn(client.call(Add { a: 1, b: 2 }).into_future());
    let mut old = start(Worker::new(&client).task::<Ping>());
    let (after, reason) = old.retried().await;
    assert_eq!(reason.kind, ReasonKind::UnknownTask);
    old.stop().await.unwrap();

    let new = start(Worker::new(&client).task::<Ping>().task::<Add>());
    clock.advance(after);

    assert_eq!(patiently(calling).await.unwrap().unwrap(), 3);
    new.stop().await.unwrap();
}

#[tokio::test]
async fn caller_of_an_unknown_task_is_told_while_it_still_waits() {
    let (client, clock) = client();
    let calling = tokio::spawn(client.call(Add { a: 1, b: 2 }).timeout(Duration::from_secs(5)).into_future());
    let mut worker = start(Worker::new(&client).task::<Ping>());

    // After 1 s and 3 s; the next attempt would come after 7 s.
    for seconds in [1, 2] {
        let (after, _) = worker.retried().await;
        assert_eq!(after, Duration::from_secs(seconds));
        clock.advance(after);
    }
    let (kind, words) = failure(patiently(calling).await.unwrap());

    assert_eq!(kind, ReasonKind::UnknownTask);
    assert!(words.contains("task `add` is unknown to this worker of queue `rpc`"), "{words}");
    assert!(matches!(worker.fate().await, JobEvent::CallFailed { .. }));
    assert_gone(&client, "rpc").await;
    worker.stop().await.unwrap();
}

/// How long a foreign program waits nobody knows.
#[tokio::test]
async fn unknown_task_of_a_caller_without_a_deadline_is_kept_and_answered_when_it_dies() {
    let (client, clock) = client();
    let (request, mut replies) = foreign_request(&client, Some("add"), "{}").await;
    publish(&client, &queue("rpc"), request).await;
    let mut worker = start(Worker::new(&client).task::<Ping>());
    worker.retried().await;

    clock.advance(Duration::from_secs(3600));
    let dead = worker.dead().await;
    let reply = reply(&mut replies).await;

    assert_eq!(dead.kind, ReasonKind::UnknownTask);
    assert_eq!(reply.headers.get(header::ERROR_KIND), Some(&HeaderValue::from("unknown-task")));
    assert_eq!(take_dead_letter(&client, &queue("rpc")).await.task.as_deref(), Some("add"));
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn replayed_call_is_a_job_that_nobody_waits_for() {
    let (client, clock) = client();
    let (request, mut replies) = foreign_request(&client, Some("add"), r#"{"a": 1, "b": 2}"#).await;
    publish(&client, &queue("rpc"), request).await;
    let mut worker = start(Worker::new(&client).task::<Ping>());
    worker.retried().await;
    clock.advance(Duration::from_secs(3600));
    worker.dead().await;
    worker.stop().await.unwrap();
    reply(&mut replies).await;

    assert_eq!(client.admin().replay("rpc.dead", 10, |_| true).await.unwrap(), 1);
    let summary = work(Worker::new(&client).task::<Ping>().task::<Add>()).await;

    assert_eq!(summary.succeeded, 1);
    assert!(replies.try_next().is_none());
}

/// A memory broker that publishes replies only when it is let, and may keep to itself that it has a request.
#[derive(Debug)]
struct SlowReplies {
    inner: Arc<MemoryBroker>,
    confirms: bool,
    let_through: Semaphore,
    arrived: Semaphore,
}

impl SlowReplies {
    fn new(confirms: bool) -> Arc<Self> {
        let inner = MemoryBroker::new(&Settings::default());
        Arc::new(Self { inner, confirms, let_through: Semaphore::new(0), arrived: Semaphore::new(0) })
    }
}

#[async_trait]
impl Broker for SlowReplies {
    fn info(&self) -> BrokerInfo {
        self.inner.info()
    }

    async fn declare(&self, topology: &Topology) -> leveret::Result<()> {
        self.inner.declare(topology).await
    }

    async fn publish(&self, publish: Publish) -> Result<(), PublishError> {
        if publish.route.routing_key.starts_with("amq.rabbitmq.reply-to.") {
            self.arrived.add_permits(1);
            self.let_through.acquire().await.unwrap().forget();
        }
        self.inner.publish(publish).await
    }

    async fn request(&self, publish: Publish) -> Result<(), PublishError> {
        self.inner.publish(publish).await?;
        if self.confirms { Ok(()) } else { Err(PublishError::Unconfirmed { waited: Duration::ZERO }) }
    }

    async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Result<(), PublishError>> {
        self.inner.publish_all(publishes).await
    }

    async fn consume(&self, options: ConsumeOptions) -> leveret::Result<Consumer> {
        self.inner.consume(options).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.inner.operator()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// A crash in between repeats the job; the other order would leave the caller without an answer.
#[tokio::test]
async fn job_is_settled_after_its_reply_is_published() {
    let broker = SlowReplies::new(true);
    let client = Client::builder().with_broker(broker.clone());
    let mut worker = start(Worker::new(&client).task::<Add>());
    let calling = tokio::spawn(client.call(Add { a: 1, b: 2 }).into_future());

    patiently(broker.arrived.acquire()).await.unwrap().forget();
    assert_eq!(broker.inner.operator().unwrap().inspect("rpc").await.unwrap().unsettled, Some(1));
    broker.let_through.add_permits(1);

    assert_eq!(patiently(calling).await.unwrap().unwrap(), 3);
    worker.succeeded().await;
    assert_gone(&client, "rpc").await;
    worker.stop().await.unwrap();
}

/// The confirm is late, and the connection is there: the reply is what the caller waits for.
#[tokio::test]
async fn call_whose_request_is_not_confirmed_has_its_reply() {
    let broker = SlowReplies::new(false);
    let client = Client::builder().with_broker(broker.clone());
    let worker = start(Worker::new(&client).task::<Add>());
    let calling = tokio::spawn(client.call(Add { a: 1, b: 2 }).into_future());

    patiently(broker.arrived.acquire()).await.unwrap().forget();
    broker.let_through.add_permits(1);

    assert_eq!(patiently(calling).await.unwrap().unwrap(), 3);
    worker.stop().await.unwrap();
}
