//! Calls, against whoever answers: here by hand, as any AMQP program might.

use std::future::IntoFuture as _;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use leveret::{CallError, EnqueueError, PublishError, Task};
use queue_core::broker::{Broker, ConsumeOptions, Consumer, Delivery, Publish};
use queue_core::envelope::{Envelope, HeaderValue, header};
use queue_core::settlement::{ReasonKind, Settlement};
use queue_core::task::TaskOptions;
use queue_core::topology::{Declare, Overflow, QueueSpec};
use serde::{Deserialize, Serialize};

use crate::support::fixture::unique;
use crate::support::wait::PATIENCE;
use crate::support::{Fixture, next, text, until_ready};

/// A task with a queue of its own, and a reply.
macro_rules! task {
    ($name:ident -> $output:ty, $spec:expr) => {
        #[derive(Debug, Clone, Serialize, Deserialize)]
        struct $name {
            a: u32,
            b: u32,
        }

        impl Task for $name {
            const NAME: &'static str = stringify!($name);
            type Output = $output;

            fn queue() -> &'static QueueSpec {
                static SPEC: OnceLock<QueueSpec> = OnceLock::new();
                SPEC.get_or_init(|| {
                    $spec(QueueSpec::new(unique(concat!("contract.call.", stringify!($name)))))
                })
            }

            fn options() -> &'static TaskOptions {
                static OPTIONS: OnceLock<TaskOptions> = OnceLock::new();
                OPTIONS.get_or_init(TaskOptions::default)
            }
        }
    };
}

/// Consumes a task's queue.
async fn serve<T: Task>(t: &Fixture) -> Consumer {
    t.declare_spec(T::queue()).await;
    t.consume_with(ConsumeOptions::new(T::queue().name().clone()).prefetch(200)).await
}

/// Answers a request, and is done with it.
async fn answer(t: &Fixture, request: Delivery, reply: impl Into<String>) {
    publish_reply(&*t.broker, &request.envelope, Envelope::new(reply.into())).await;
    request.settle(Settlement::Ack).await.expect("settled");
}

async fn publish_reply(broker: &dyn Broker, request: &Envelope, mut reply: Envelope) {
    reply.correlation_id = request.correlation_id.clone();
    let address = request.reply_to.clone().expect("a request says where its reply goes");
    broker.publish(Publish::to_exchange("", address, reply)).await.expect("a reply is published");
}

pub(crate) async fn call_returns_what_a_plain_program_replies(t: &Fixture) {
    task!(Add -> u64, |spec| spec);
    let mut requests = serve::<Add>(t).await;
    let client = t.other_client().await;
    let before = SystemTime::now();

    let calling =
        tokio::spawn(client.call(Add { a: 1, b: 2 }).priority(3).header("tenant", "blue").into_future());
    let request = next(&mut requests).await;
    let job = request.envelope.clone();
    answer(t, request, "3").await;

    assert_eq!(calling.await.unwrap().unwrap(), 3);
    assert_eq!(job.payload, r#"{"a":1,"b":2}"#);
    assert_eq!((job.task.as_deref(), job.content_type.as_deref()), (Some("Add"), Some("application/json")));
    assert_eq!((job.attempt, job.priority), (1, Some(3)));
    assert_eq!(job.correlation_id.as_deref(), Some(job.id.as_str()));
    assert_eq!(job.headers.get("tenant"), Some(&HeaderValue::from("blue")));
    let deadline = job.headers.get(header::DEADLINE).and_then(HeaderValue::as_int).expect("a deadline");
    let left = queue_core::clock::from_millis(deadline).duration_since(before).expect("a later moment");
    assert!(left >= Duration::from_millis(29_999) && left < Duration::from_secs(60), "{left:?}");
}

pub(crate) async fn unit_is_null_or_nothing_at_all(t: &Fixture) {
    task!(Ping -> (), |spec| spec);
    let mut requests = serve::<Ping>(t).await;

    for reply in ["null", ""] {
        let call = t.client.call(Ping { a: 0, b: 0 });
        let (result, ()) =
            tokio::join!(call.into_future(), async { answer(t, next(&mut requests).await, reply).await });

        result.unwrap_or_else(|error| panic!("`{reply}`: {error}"));
    }
}

pub(crate) async fn failure_arrives_with_its_kind_and_words(t: &Fixture) {
    task!(Div -> u64, |spec| spec);
    let mut requests = serve::<Div>(t).await;
    let failing = async {
        let request = next(&mut requests).await;
        let mut reply = Envelope::new(r#"{"error": "division by zero", "kind": "permanent"}"#);
        reply.headers.insert(header::ERROR_KIND, "permanent");
        publish_reply(&*t.broker, &request.envelope, reply).await;
        request.settle(Settlement::Ack).await.unwrap();
    };

    let (result, ()) = tokio::join!(t.client.call(Div { a: 1, b: 0 }).into_future(), failing);

    match result {
        Err(CallError::Handler { task: "Div", kind: ReasonKind::Permanent, message }) => {
            assert_eq!(message, "division by zero");
        }
        other => panic!("not that failure: {other:?}"),
    }
}

pub(crate) async fn reply_that_does_not_decode_is_named(t: &Fixture) {
    task!(Name -> String, |spec| spec);
    let mut requests = serve::<Name>(t).await;

    for junk in ["7", "{\"error\":\"no\"}", "not JSON", "\"cut off"] {
        let (result, ()) = tokio::join!(t.client.call(Name { a: 0, b: 0 }).into_future(), async {
            answer(t, next(&mut requests).await, junk).await
        });

        match result {
            Err(CallError::Decode { task: "Name", expected, .. }) => assert!(expected.contains("String")),
            other => panic!("`{junk}` was decoded: {other:?}"),
        }
    }
}

pub(crate) async fn stray_and_second_replies_are_ignored(t: &Fixture) {
    task!(Add -> u64, |spec| spec);
    let mut requests = serve::<Add>(t).await;
    let confusing = async {
        let request = next(&mut requests).await;
        let mut stray = request.envelope.clone();
        for id in [Some("somebody else's".to_owned()), None] {
            stray.correlation_id = id;
            publish_reply(&*t.broker, &stray, Envelope::new("666")).await;
        }
        for reply in ["3", "4"] {
            publish_reply(&*t.broker, &request.envelope, Envelope::new(reply)).await;
        }
        request.settle(Settlement::Ack).await.unwrap();
    };

    let (result, ()) = tokio::join!(t.client.call(Add { a: 1, b: 2 }).into_future(), confusing);
    let (next, ()) = tokio::join!(t.client.call(Add { a: 2, b: 3 }).into_future(), async {
        answer(t, next(&mut requests).await, "5").await
    });

    assert_eq!((result.unwrap(), next.unwrap()), (3, 5));
}

pub(crate) async fn concurrent_calls_get_their_own_replies_in_any_order(t: &Fixture) {
    task!(Add -> u64, |spec| spec);
    let mut requests = serve::<Add>(t).await;
    let calls = (0..100).map(|n| t.client.call(Add { a: n, b: 1000 }).into_future());
    let answering = async {
        let mut taken = Vec::new();
        for _ in 0..100 {
            taken.push(next(&mut requests).await);
        }
        fastrand::shuffle(&mut taken);
        for request in taken {
            let Add { a, b } = serde_json::from_slice(&request.envelope.payload).unwrap();
            answer(t, request, (a + b).to_string()).await;
        }
    };

    let (results, ()) = tokio::join!(join_all(calls), answering);

    let results: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(results, (1000..1100).collect::<Vec<_>>());
}

pub(crate) async fn call_that_nobody_works_says_so(t: &Fixture) {
    task!(Add -> u64, |spec| spec);
    t.declare_spec(Add::queue()).await;

    let result = t.client.call(Add { a: 1, b: 2 }).timeout(Duration::from_millis(300)).await;

    match result {
        Err(CallError::NoWorker { task: "Add", queue, .. }) => assert_eq!(queue, *Add::queue().name()),
        other => panic!("somebody works: {other:?}"),
    }
}

pub(crate) async fn call_that_is_not_answered_in_time_times_out(t: &Fixture) {
    task!(Add -> u64, |spec| spec);
    let mut requests = serve::<Add>(t).await;
    let waited = Duration::from_millis(300);

    let result = t.client.call(Add { a: 1, b: 2 }).timeout(waited).await;

    match &result {
        Err(CallError::Timeout { task: "Add", queue, waited: told, .. }) => {
            assert_eq!((&**queue, *told), (&**Add::queue().name(), waited));
        }
        other => panic!("no timeout: {other:?}"),
    }
    // The late reply finds nobody, and disturbs nobody.
    answer(t, next(&mut requests).await, "3").await;
    let (next, ()) = tokio::join!(t.client.call(Add { a: 2, b: 3 }).into_future(), async {
        answer(t, next(&mut requests).await, "5").await
    });
    assert_eq!(next.unwrap(), 5);
}

pub(crate) async fn dropped_call_is_forgotten_and_disturbs_no_other(t: &Fixture) {
    task!(Add -> u64, |spec| spec);
    let mut requests = serve::<Add>(t).await;
    let dropped = {
        let call = t.client.call(Add { a: 1, b: 2 }).into_future();
        tokio::select! {
            result = call => panic!("nobody answered: {result:?}"),
            request = next(&mut requests) => request,
        }
    };

    let (result, ()) = tokio::join!(t.client.call(Add { a: 2, b: 3 }).into_future(), async {
        answer(t, dropped, "3").await;
        answer(t, next(&mut requests).await, "5").await;
    });

    assert_eq!(result.unwrap(), 5);
}

pub(crate) async fn call_works_again_after_its_queue_was_deleted(t: &Fixture) {
    task!(Add -> u64, |spec| spec);
    let mut requests = serve::<Add>(t).await;
    let (first, ()) = tokio::join!(t.client.call(Add { a: 1, b: 2 }).into_future(), async {
        answer(t, next(&mut requests).await, "3").await
    });
    drop(requests);
    t.broker.operator().unwrap().delete(Add::queue().name()).await.unwrap();

    let (again, ()) = tokio::join!(t.client.call(Add { a: 2, b: 3 }).into_future(), async {
        until_declared(t, Add::queue().name()).await;
        let mut requests = t.consume(Add::queue().name()).await;
        answer(t, next(&mut requests).await, "5").await
    });

    assert_eq!((first.unwrap(), again.unwrap()), (3, 5));
}

/// Polls, because no broker signals a declaration.
async fn until_declared(t: &Fixture, queue: &str) {
    let declared = async {
        while t.broker.operator().unwrap().inspect(queue).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, declared).await.expect("the call declares its queue");
}

pub(crate) async fn call_that_cannot_be_enqueued_says_why(t: &Fixture) {
    task!(Full -> u64, |spec: QueueSpec| spec.max_length(0).overflow(Overflow::Reject));
    t.declare_spec(Full::queue()).await;

    let own_header = t.client.call(Full { a: 1, b: 2 }).header("q-deadline", "never").await;
    // RabbitMQ keeps a few more than the limit.
    let fill = (0..20).map(|_| t.client.enqueue(Full { a: 1, b: 2 }).into_future());
    join_all(fill).await;
    let full = t.client.call(Full { a: 1, b: 2 }).await;

    assert!(
        matches!(&own_header, Err(CallError::Enqueue(EnqueueError::Publish(PublishError::Invalid(words)))) if words.contains("q-deadline")),
        "{own_header:?}"
    );
    assert!(matches!(&full, Err(CallError::Enqueue(EnqueueError::QueueFull { .. }))), "{full:?}");
}

/// Of a queue that others have declared nobody knows here whether it refuses.
pub(crate) async fn full_queue_is_named_while_other_calls_wait(t: &Fixture) {
    task!(Add -> u64, |spec| spec);
    task!(Full -> u64, |spec: QueueSpec| spec.max_length(0).overflow(Overflow::Reject));
    task!(Passive -> u64, |_| QueueSpec::new(Full::queue().name().clone()).declare(Declare::Passive));
    let mut requests = serve::<Add>(t).await;
    t.declare_spec(Full::queue()).await;
    super::limit::fill(t, Full::queue().name()).await;
    let client = t.other_client().await;
    let waiting = tokio::spawn(client.call(Add { a: 1, b: 2 }).into_future());
    let request = next(&mut requests).await;

    let full = client.call(Passive { a: 1, b: 2 }).await;

    assert!(matches!(&full, Err(CallError::Enqueue(EnqueueError::QueueFull { .. }))), "{full:?}");
    answer(t, request, "3").await;
    assert_eq!(waiting.await.unwrap().unwrap(), 3);
    let (again, ()) = tokio::join!(client.call(Add { a: 2, b: 3 }).into_future(), async {
        answer(t, next(&mut requests).await, "5").await
    });
    assert_eq!(again.unwrap(), 5);
}

pub(crate) async fn call_in_flight_when_its_client_closes_is_lost(t: &Fixture) {
    task!(Add -> u64, |spec| spec);
    let mut requests = serve::<Add>(t).await;
    let client = t.other_client().await;
    let calling = tokio::spawn(client.call(Add { a: 1, b: 2 }).into_future());
    let request = next(&mut requests).await;

    client.close().await;

    let lost = tokio::time::timeout(PATIENCE, calling).await.expect("an answer").unwrap();
    assert!(matches!(&lost, Err(CallError::Lost { task: "Add", .. })), "{lost:?}");
    let closed = client.call(Add { a: 1, b: 2 }).await;
    assert!(
        matches!(&closed, Err(CallError::Enqueue(EnqueueError::Publish(PublishError::Closed)))),
        "{closed:?}"
    );
    assert_eq!(text(&request), r#"{"a":1,"b":2}"#);
    request.settle(Settlement::Ack).await.unwrap();
    until_ready(&*t.broker, Add::queue().name(), 0).await;
}
