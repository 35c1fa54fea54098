//! A broker that a user writes: it serves jobs with the trait `Broker` alone, and what it cannot do is said in words.

use std::collections::BTreeMap;
use std::future::IntoFuture as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use leveret::{CallError, Client, Error, ErrorKind, Task as _, Worker};
use queue_core::admin::Page;
use queue_core::broker::memory::MemoryBroker;
use queue_core::broker::{Broker, BrokerInfo, ConsumeOptions, Consumer, Publish, Settings};
use queue_core::error::PublishError;
use queue_core::topology::Topology;

use crate::support::{options, patiently, queue, start, task};

task!(Double { n: i64 } -> i64 = "own.double", queue: queue("own.double"), options: options(), needs: [],
    async |_call, job| { Ok::<_, std::convert::Infallible>(job.n * 2) });

task!(Lenient {} = "lenient", queue: queue("own.lenient"), options: options(), needs: [],
    async |_call, _job| {});
task!(Strict {} = "strict", queue: queue("own.strict").crash_limit(2), options: options(), needs: [],
    async |_call, _job| {});

/// A broker that shows nothing. It notes how its queues are consumed.
#[derive(Debug)]
struct Plain(Arc<MemoryBroker>, Consumed);

/// By queue, the options of each consumer.
type Consumed = Arc<Mutex<BTreeMap<String, ConsumeOptions>>>;

#[async_trait]
impl Broker for Plain {
    fn info(&self) -> BrokerInfo {
        BrokerInfo::new("plain")
    }

    async fn declare(&self, topology: &Topology) -> leveret::Result<()> {
        self.0.declare(topology).await
    }

    async fn publish(&self, publish: Publish) -> Result<(), PublishError> {
        self.0.publish(publish).await
    }

    async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Result<(), PublishError>> {
        self.0.publish_all(publishes).await
    }

    async fn consume(&self, options: ConsumeOptions) -> leveret::Result<Consumer> {
        self.1.lock().unwrap().insert(options.queue.to_string(), options.clone());
        self.0.consume(options).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

fn client() -> Client {
    client_that_notes().0
}

fn client_that_notes() -> (Client, Consumed) {
    let consumed = Consumed::default();
    let broker = Plain(MemoryBroker::new(&Settings::default()), consumed.clone());
    (Client::builder().with_broker(Arc::new(broker)), consumed)
}

/// Says which broker it is, and how to mend it.
fn assert_unsupported(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    let words = error.to_string();
    assert!(words.contains("`plain`") && words.contains("`Broker::operator`"), "{words}");
}

#[tokio::test]
async fn broker_without_an_operator_serves_jobs_and_calls() {
    let client = client();
    let mut worker = start(Worker::new(&client).task::<Double>());

    client.enqueue(Double { n: 1 }).await.unwrap();
    worker.succeeded().await;
    client.enqueue(Double { n: 2 }).delay(Duration::from_millis(1)).await.unwrap();
    worker.succeeded().await;
    assert_eq!(patiently(client.call(Double { n: 21 }).into_future()).await.unwrap(), 42);

    worker.stop().await.unwrap();
}

#[tokio::test]
async fn crash_limit_is_the_tasks_own_then_the_workers_then_three() {
    let (client, consumed) = client_that_notes();
    let limits = async |worker: Worker| {
        let mut worker = start(worker.task::<Lenient>().task::<Strict>());
        client.enqueue(Lenient {}).await.unwrap();
        client.enqueue(Strict {}).await.unwrap();
        for _ in 0..2 {
            worker.succeeded().await;
        }
        worker.stop().await.unwrap();
        let limit = |queue: &str| consumed.lock().unwrap()[queue].crash_limit;
        (limit("own.lenient"), limit("own.strict"))
    };

    assert_eq!(limits(Worker::new(&client)).await, (3, 2));
    assert_eq!(limits(Worker::new(&client).crash_limit(5)).await, (5, 2));
}

#[tokio::test]
async fn broker_without_an_operator_says_so_to_operators() {
    let client = client();
    client.declare_queue(Double::queue()).await.unwrap();
    let admin = client.admin();

    assert_unsupported(&client.operator().unwrap_err());
    assert_unsupported(&client.depth::<Double>().await.unwrap_err());
    assert_unsupported(&admin.depth("own.double").await.unwrap_err());
    assert_unsupported(&admin.dead_letters("own.double.dead", 1).await.unwrap_err());
    assert_unsupported(&admin.replay("own.double.dead", 1, |_| true).await.unwrap_err().into());
    assert_unsupported(&admin.discard("own.double.dead", 1, |_| true).await.unwrap_err().into());
    assert_unsupported(&admin.browse("own.double", Page::new(1)).await.unwrap_err());
    assert_unsupported(&admin.purge("own.double").await.unwrap_err());
}

/// Its workers are not listed, and that is no matter to them.
#[tokio::test]
async fn broker_without_a_store_says_so_to_who_asks_for_its_workers() {
    let client = client();
    let mut worker = start(Worker::new(&client).task::<Double>());
    client.enqueue(Double { n: 1 }).await.unwrap();
    worker.succeeded().await;

    let (store, workers) = (client.store().map(drop), client.admin().workers().await);

    for error in [store.unwrap_err(), workers.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        let words = error.to_string();
        assert!(words.contains("`plain`") && words.contains("`Broker::store`"), "{words}");
    }
    worker.stop().await.unwrap();
}

/// It could not know when nothing is left, so it does not begin.
#[tokio::test]
async fn worker_cannot_run_until_idle_without_an_operator() {
    let client = client();
    client.enqueue(Double { n: 1 }).await.unwrap();
    let worker = Worker::new(&client).task::<Double>().signals(false);

    let refused = patiently(worker.run_until_idle()).await.unwrap_err();

    assert_unsupported(&refused);
}

/// That no worker is there is not known, so it is not said.
#[tokio::test]
async fn call_without_an_answer_times_out_without_an_operator() {
    let client = client();

    let call = client.call(Double { n: 1 }).timeout(Duration::from_millis(50)).into_future();
    let error = patiently(call).await.unwrap_err();

    assert!(matches!(error, CallError::Timeout { .. }), "{error:?}");
}
