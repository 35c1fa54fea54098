//! Tasks and workers for these tests.

use std::time::{Duration, UNIX_EPOCH};

use leveret::__private::TaskOptions;
use leveret::{Client, JobEvent, JobEvents, JobInfo, Result, Summary, Worker, WorkerHandle};
use queue_core::broker::memory::MemoryBroker;
use queue_core::broker::{ConsumeOptions, Publish, Settings};
use queue_core::clock::Clock;
use queue_core::envelope::Envelope;
use queue_core::retry::{Backoff, RetryPolicy};
use queue_core::settlement::Reason;
use queue_core::topology::QueueSpec;
use tokio::task::JoinHandle;

/// A test that waits longer than this waits for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// A task by hand, with a queue spec and options that a test computes.
macro_rules! task {
    (@output) => { () };
    (@output $output:ty) => { $output };
    (@item $name:ident { $($field:ident: $type:ty),* } [$($output:ty)?] = $wire:literal, $queue:expr, $options:expr,
     [$($need:ty),*], $run:expr) => {
        #[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
        pub(crate) struct $name { $(pub(crate) $field: $type),* }

        impl leveret::Task for $name {
            const NAME: &'static str = $wire;
            type Output = $crate::support::task!(@output $($output)?);

            fn queue() -> &'static queue_core::topology::QueueSpec {
                static SPEC: std::sync::OnceLock<queue_core::topology::QueueSpec> = std::sync::OnceLock::new();
                SPEC.get_or_init(|| $queue)
            }

            fn options() -> &'static leveret::__private::TaskOptions {
                static OPTIONS: std::sync::OnceLock<leveret::__private::TaskOptions> = std::sync::OnceLock::new();
                OPTIONS.get_or_init(|| $options)
            }
        }

        impl leveret::Runnable for $name {
            fn registration() -> leveret::__private::Registration {
                leveret::__private::Registration {
                    name: $wire,
                    path: concat!(module_path!(), "::", stringify!($name)),
                    queue: <$name as leveret::Task>::queue,
                    options: <$name as leveret::Task>::options,
                    run: $run,
                    needs: || vec![$(leveret::__private::need::<$need>()),*],
                    is_subscriber: false,
                }
            }
        }
    };
    ($name:ident { $($field:ident: $type:ty),* } $(-> $output:ty)? = $wire:literal, queue: $queue:expr, options: $options:expr,
     needs: [$($need:ty),*], async |$call:ident, $job:ident| $body:block) => {
        $crate::support::task!(@item $name { $($field: $type),* } [$($output)?] = $wire, $queue, $options, [$($need),*], |call| {
            Box::pin(async move {
                let $job: $name = match call.payload() {
                    Ok(job) => job,
                    Err(bad) => return bad,
                };
                let $call = &call;
                let result = async { $body }.await;
                leveret::__private::outcome::<$name, _>(result, false, call.reply_format())
            })
        });
    };
    ($name:ident { $($field:ident: $type:ty),* } $(-> $output:ty)? = $wire:literal, queue: $queue:expr, options: $options:expr,
     needs: [$($need:ty),*], blocking |$call:ident, $job:ident| $body:block) => {
        $crate::support::task!(@item $name { $($field: $type),* } [$($output)?] = $wire, $queue, $options, [$($need),*], |call| {
            leveret::__private::run_blocking(call, |call| {
                let $job: $name = match call.payload() {
                    Ok(job) => job,
                    Err(bad) => return bad,
                };
                let $call = &call;
                let result = $body;
                leveret::__private::outcome::<$name, _>(result, false, call.reply_format())
            })
        });
    };
}
pub(crate) use task;

pub(crate) fn queue(name: &'static str) -> QueueSpec {
    QueueSpec::new(name)
}

pub(crate) fn options() -> TaskOptions {
    TaskOptions::default()
}

/// Exactly `retries` retries, a second apart and without jitter worth mentioning.
pub(crate) fn retries(retries: u32) -> TaskOptions {
    let mut options = options();
    options.retry = RetryPolicy::new(retries, Backoff::Fixed(Duration::from_secs(1)));
    options
}

pub(crate) fn timeout(timeout: Duration) -> TaskOptions {
    let mut options = options();
    options.timeout = Some(timeout);
    options
}

/// A client on a broker of its own, and the broker's clock.
pub(crate) fn client() -> (Client, Clock) {
    let clock = Clock::manual(UNIX_EPOCH + Duration::from_secs(1_900_000_000));
    let mut settings = Settings::default();
    settings.clock = clock.clone();
    let client = Client::builder().clock(clock.clone()).with_broker(MemoryBroker::new(&settings));
    (client, clock)
}

/// A worker at work on a tokio task of its own.
pub(crate) struct Running {
    pub(crate) events: JobEvents,
    pub(crate) handle: WorkerHandle,
    ended: JoinHandle<Result<()>>,
}

/// Runs a worker that leaves signals alone.
pub(crate) fn start(worker: Worker) -> Running {
    let worker = worker.signals(false);
    let (events, handle) = (worker.events(), worker.handle());
    Running { events, handle, ended: tokio::spawn(worker.run()) }
}

impl Running {
    /// The next event.
    pub(crate) async fn event(&mut self) -> JobEvent {
        patiently(self.events.next()).await.expect("the worker has stopped")
    }

    /// The next event that is not `Started`.
    pub(crate) async fn fate(&mut self) -> JobEvent {
        loop {
            match self.event().await {
                JobEvent::Started { .. } => {}
                fate => return fate,
            }
        }
    }

    /// Waits for a handler to begin.
    pub(crate) async fn started(&mut self) -> JobInfo {
        match self.event().await {
            JobEvent::Started { job } => job,
            other => panic!("expected a start: {other:?}"),
        }
    }

    /// Waits for a dead letter, and says why it is one.
    pub(crate) async fn dead(&mut self) -> Reason {
        match self.fate().await {
            JobEvent::Dead { reason, .. } => reason,
            other => panic!("expected a dead letter: {other:?}"),
        }
    }

    /// Waits for a retry: when and why.
    pub(crate) async fn retried(&mut self) -> (Duration, Reason) {
        match self.fate().await {
            JobEvent::Retried { after, reason, .. } => (after, reason),
            other => panic!("expected a retry: {other:?}"),
        }
    }

    pub(crate) async fn succeeded(&mut self) -> JobInfo {
        match self.fate().await {
            JobEvent::Succeeded { job, .. } => job,
            other => panic!("expected a success: {other:?}"),
        }
    }

    /// Waits for the worker to have stopped.
    pub(crate) async fn ended(self) -> Result<()> {
        patiently(self.ended).await.expect("the worker panicked")
    }

    /// Stops the worker in the orderly way.
    pub(crate) async fn stop(self) -> Result<()> {
        self.handle.shutdown();
        self.ended().await
    }
}

/// Waits for what must happen.
pub(crate) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("waited for what must happen, and it did not")
}

/// Runs a worker until it is idle.
pub(crate) async fn work(worker: Worker) -> Summary {
    patiently(worker.signals(false).run_until_idle()).await.unwrap()
}

/// Why a worker does not start.
pub(crate) async fn refusal(worker: Worker) -> String {
    patiently(worker.signals(false).run()).await.expect_err("the worker started").to_string()
}

/// Publishes as a foreign program would.
pub(crate) async fn publish(client: &Client, queue: &QueueSpec, envelope: Envelope) {
    client.declare_queue(queue).await.unwrap();
    client.broker().publish(Publish::to_queue(queue.name().clone(), envelope)).await.unwrap();
}

/// A message as a foreign program would write it.
pub(crate) fn message(task: Option<&str>, body: impl Into<bytes::Bytes>) -> Envelope {
    let mut envelope = Envelope::new(body);
    envelope.task = task.map(str::to_owned);
    envelope
}

/// Takes one dead letter out of a queue's dead-letter queue.
pub(crate) async fn take_dead_letter(client: &Client, queue: &QueueSpec) -> Envelope {
    let dead = ConsumeOptions::new(queue.dead_queue().unwrap());
    let mut consumer = client.broker().consume(dead).await.unwrap();
    let delivery = patiently(consumer.next()).await.unwrap().unwrap();
    let envelope = delivery.envelope.clone();
    delivery.settle(queue_core::settlement::Settlement::Ack).await.unwrap();
    envelope
}
