//! A worker in the registry: by the clock of its client, and without any harm to its jobs where the store fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use leveret::admin::Member;
use leveret::broker::{Broker, Clock, ConsumeOptions, Consumer, Publish, Settings};
use leveret::store::{GONE_AFTER, HEARTBEAT, Heartbeat, Registry, Store};
use leveret::{Client, Error, ErrorKind, PublishError, Result, Worker};
use queue_core::broker::BrokerInfo;
use queue_core::broker::memory::MemoryBroker;
use queue_core::topology::Topology;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::support::{client, options, patiently, queue, start, task};

struct Gate(Semaphore);

task!(Waits {} = "registry.waits", queue: queue("registry.waits"), options: options(), needs: [Gate],
    async |call, _job| { call.arg::<Gate>().0.acquire().await.unwrap().forget() });
task!(Quick {} = "registry.quick", queue: queue("registry.quick"), options: options(), needs: [],
    async |_call, _job| {});

/// The only worker, as soon as it is so. Nothing signals that it was written.
async fn worker(client: &Client, is_so: impl Fn(&Member) -> bool) -> Member {
    patiently(async {
        loop {
            let workers = client.admin().workers().await.unwrap();
            if let [worker] = &workers[..]
                && is_so(worker)
            {
                return worker.clone();
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn heartbeats_are_by_the_clock_that_a_test_moves() {
    let (client, clock) = client();
    client.enqueue(Waits {}).await.unwrap();
    let gate = Arc::new(Gate(Semaphore::new(0)));
    let mut running = start(Worker::new(&client).task::<Waits>().shared(Arc::clone(&gate)));
    running.started().await;
    let began = clock.now();
    assert_eq!(worker(&client, |_| true).await.started_at, began);

    clock.advance(HEARTBEAT);
    let seen = worker(&client, |worker| worker.last_seen > began).await;

    assert_eq!((seen.last_seen, seen.started_at), (began + HEARTBEAT, began));
    assert_eq!((seen.busy, seen.running[0].since), (1, began));
    gate.0.add_permits(1);
    running.stop().await.unwrap();
    assert!(client.admin().workers().await.unwrap().is_empty());
}

/// As one whose process was killed.
#[tokio::test]
async fn worker_whose_future_is_dropped_is_gone() {
    let (client, clock) = client();
    let running = tokio::spawn(Worker::new(&client).task::<Quick>().signals(false).run());
    worker(&client, |worker| !worker.is_gone).await;

    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    clock.advance(GONE_AFTER);

    assert!(worker(&client, |_| true).await.is_gone);
}

#[tokio::test]
async fn client_that_is_dropped_leaves_the_registry_and_no_task_behind() {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000));
    let before = Handle::current().metrics().num_alive_tasks();
    let mut settings = Settings::default();
    settings.clock = clock.clone();
    let name = format!("registry-{}", std::process::id());
    let broker = MemoryBroker::shared(&name, &settings).unwrap();
    let observer = Client::builder().clock(clock.clone()).with_broker(broker);
    let with_observer = Handle::current().metrics().num_alive_tasks();
    let broker = MemoryBroker::shared(&name, &settings).unwrap();
    let dropped = Client::builder().name("dropped").clock(clock.clone()).with_broker(broker);
    let is_listed =
        async || observer.admin().clients().await.unwrap().iter().any(|client| client.name == "dropped");
    // Its first heartbeat is so far off once its task has begun to wait for it.
    tokio::task::yield_now().await;
    clock.advance(HEARTBEAT);
    patiently(async {
        while !is_listed().await {
            tokio::task::yield_now().await;
        }
    })
    .await;

    drop(dropped);

    assert!(!is_listed().await);
    patiently(async {
        while Handle::current().metrics().num_alive_tasks() > with_observer {
            tokio::task::yield_now().await;
        }
    })
    .await;
    observer.close().await;
    patiently(async {
        while Handle::current().metrics().num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A broker whose store is of no use.
#[derive(Debug)]
struct Forgetful {
    broker: Arc<MemoryBroker>,
    store: Arc<Useless>,
}

#[derive(Debug, Default)]
struct Useless {
    /// Whether it never answers, in place of failing.
    hangs: bool,
    asked: AtomicUsize,
}

impl Useless {
    async fn fail<T>(&self) -> Result<T> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Err(Error::new(ErrorKind::Connection, "the disk is read-only"))
    }
}

impl Store for Useless {
    fn id(&self) -> &str {
        "useless"
    }

    fn registry(&self) -> &dyn Registry {
        self
    }
}

#[async_trait]
impl Registry for Useless {
    async fn register(&self, _: &Member) -> Result<()> {
        self.fail().await
    }

    async fn heartbeat(&self, _: &Heartbeat) -> Result<bool> {
        self.fail().await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.fail().await
    }

    async fn leave(&self, _: &str) -> Result<()> {
        self.fail().await
    }
}

#[async_trait]
impl Broker for Forgetful {
    fn info(&self) -> BrokerInfo {
        BrokerInfo::new("forgetful")
    }

    async fn declare(&self, topology: &Topology) -> Result<()> {
        self.broker.declare(topology).await
    }

    async fn publish(&self, publish: Publish) -> Result<(), PublishError> {
        self.broker.publish(publish).await
    }

    async fn publish_all(&self, publishes: Vec<Publish>) -> Vec<Result<(), PublishError>> {
        self.broker.publish_all(publishes).await
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer> {
        self.broker.consume(options).await
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(self.store.clone())
    }

    async fn close(&self) {
        self.broker.close().await;
    }
}

#[tokio::test]
async fn worker_works_and_ends_whatever_becomes_of_its_heartbeats() {
    for hangs in [false, true] {
        let store = Arc::new(Useless { hangs, asked: AtomicUsize::new(0) });
        let mut settings = Settings::default();
        settings.clock = Clock::manual(SystemTime::now());
        let (broker, clock) = (MemoryBroker::new(&settings), settings.clock);
        let broker = Arc::new(Forgetful { broker, store: Arc::clone(&store) });
        let client = Client::builder().clock(clock).with_broker(broker);
        let mut running = start(Worker::new(&client).task::<Quick>());

        for _ in 0..2 {
            client.enqueue(Quick {}).await.unwrap();
            running.succeeded().await;
        }
        assert_eq!(
            store.asked.load(Ordering::SeqCst),
            1,
            "it is asked at each heartbeat, and not at each job"
        );
        let since = std::time::Instant::now();
        running.stop().await.unwrap();
        client.close().await;

        assert!(since.elapsed() < Duration::from_secs(10), "it waited {:?} for the store", since.elapsed());
    }
}
