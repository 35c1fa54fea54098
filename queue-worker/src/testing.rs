//! Unit tests of tasks: a client on a memory broker of its own, with a clock that the test moves. It runs jobs by the
//! same `execute` and `settle` as a worker does, one at a time, when the test asks for it.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Once};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use queue_core::broker::memory::{MemoryBroker, Waiting};
use queue_core::broker::{Broker, ConsumeOptions, Delivery, Settings, Settler};
use queue_core::call::wire;
use queue_core::client::Client;
use queue_core::clock::Clock;
use queue_core::envelope::{Envelope, header};
use queue_core::error::{Error, SettleError, chain};
use queue_core::format::Format;
use queue_core::outcome::{Outcome, ReasonKind};
use queue_core::settlement::Settlement;
use queue_core::topology::Name;

use self::unserved::Watched;
use crate::context::{Context, Run};
use crate::errand::{Errand, Unknown};
use crate::execute::{Executed, execute};
use crate::lane::{Lane, Shared};
use crate::process::process;
use crate::registry::{Queue, Runnable, Selection, Task, group};
use crate::slots::Slot;
use crate::state::State;

mod drained;
mod published;
mod unserved;

pub use drained::JobOutcome;

/// The number of jobs in one drain that counts as an endless loop.
const TOO_MANY: usize = 10_000;
/// The part of a payload that a failed assertion shows, in characters.
const SHOWN: usize = 300;

/// A job queue for one test: a broker in memory, a client on it, a clock that stands still, and a runner for jobs.
///
/// ```
/// use leveret::testing::TestQueue;
/// use leveret::{Client, EnqueueError, Outcome, task};
///
/// #[task(queue = "emails")]
/// async fn send_email(to: String) {
///     println!("to {to}");
/// }
///
/// async fn sign_up(client: &Client, address: &str) -> Result<(), EnqueueError> {
///     client.enqueue(SendEmail { to: address.into() }).await?;
///     Ok(())
/// }
///
/// // #[tokio::test]
/// async fn signing_up_sends_a_welcome() {
///     let queue = TestQueue::new();
/// #   let queue = queue.task::<SendEmail>();
///
///     sign_up(queue.client(), "ada@example.com").await.unwrap();
///
///     queue.assert_enqueued(|job: &SendEmail| job.to == "ada@example.com");
///     assert_eq!(queue.drain().await, [Outcome::Success]);
/// }
/// # tokio::runtime::Runtime::new().unwrap().block_on(signing_up_sends_a_welcome());
/// ```
///
/// Its retries wait exactly as long as stated, without jitter, so that [`advance`](Self::advance) reaches them.
#[must_use]
pub struct TestQueue {
    broker: Arc<MemoryBroker>,
    /// The broker as the client sees it.
    watched: Arc<Watched>,
    client: Client,
    clock: Clock,
    selection: Selection,
    state: State,
    /// Done once the subscribers' queues are bound.
    subscribed: Once,
}

impl TestQueue {
    /// An empty queue, whose clock stands at the present moment.
    pub fn new() -> Self {
        let clock = Clock::manual(SystemTime::now());
        let mut settings = Settings::default();
        settings.clock = clock.clone();
        let broker = MemoryBroker::new(&settings);
        let watched = Arc::new(Watched::new(Arc::clone(&broker)));
        let client =
            Client::builder().clock(clock.clone()).with_broker(Arc::clone(&watched) as Arc<dyn Broker>);
        Self {
            broker,
            watched,
            client,
            clock,
            selection: Selection::default(),
            state: State::default(),
            subscribed: Once::new(),
        }
    }

    /// Adds state: the value that tasks with a parameter `&T` get, as [`Worker::state`](crate::Worker::state).
    ///
    /// ```
    /// use leveret::testing::TestQueue;
    /// use leveret::{Outcome, task};
    ///
    /// struct Mailer {
    ///     is_down: bool,
    /// }
    ///
    /// #[task(queue = "emails")]
    /// async fn send_email(mailer: &Mailer, to: String) -> Result<(), String> {
    ///     if mailer.is_down { Err(format!("{to}: the mail server is down")) } else { Ok(()) }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let queue = TestQueue::new().state(Mailer { is_down: false });
    /// assert_eq!(queue.perform(SendEmail { to: "ada@example.com".into() }).await, Outcome::Success);
    /// # }
    /// ```
    pub fn state<T: Send + Sync + 'static>(self, value: T) -> Self {
        self.shared(Arc::new(value))
    }

    /// Adds state like [`state`](Self::state), as an `Arc`: a value that the test keeps, or a fake for a `&dyn Mailer`.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    ///
    /// use leveret::testing::TestQueue;
    /// use leveret::task;
    ///
    /// #[derive(Default)]
    /// struct Outbox(Mutex<Vec<String>>);
    ///
    /// #[task(queue = "emails")]
    /// async fn send_email(outbox: &Outbox, to: String) {
    ///     outbox.0.lock().unwrap().push(to);
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let outbox = Arc::new(Outbox::default());
    /// let queue = TestQueue::new().shared(Arc::clone(&outbox));
    /// queue.perform(SendEmail { to: "ada@example.com".into() }).await;
    /// assert_eq!(*outbox.0.lock().unwrap(), ["ada@example.com"]);
    /// # }
    /// ```
    pub fn shared<T: ?Sized + Send + Sync + 'static>(mut self, value: Arc<T>) -> Self {
        self.state.insert(value);
        self
    }

    /// Runs task `T`, and of the other tasks only those that are named in the same way. Without it, all tasks that are compiled
    /// into the test run.
    ///
    /// ```
    /// # use leveret::{testing::TestQueue, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let queue = TestQueue::new().task::<SendEmail>();
    /// queue.client().enqueue(SendEmail { to: "ada@example.com".into() }).await?;
    /// assert!(queue.drain().await[0].is_success());
    /// # Ok(()) }
    /// ```
    pub fn task<T: Runnable>(mut self) -> Self {
        self.selection.name::<T>();
        self
    }

    /// The client, for the code under test. The queues of subscribers are bound, so that they get the events that it
    /// publishes. Its calls are answered while the queue [`serve`](Self::serve)s or [`drain`](Self::drain)s.
    ///
    /// ```
    /// # use leveret::{testing::TestQueue, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let queue = TestQueue::new();
    /// # let queue = queue.task::<SendEmail>();
    /// queue.client().enqueue(SendEmail { to: "ada@example.com".into() }).await?;
    /// assert_eq!(queue.all_enqueued::<SendEmail>().len(), 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// If a subscriber's queue cannot be declared. A call panics if no jobs are run for five seconds, since its reply
    /// would never come.
    #[track_caller]
    pub fn client(&self) -> &Client {
        self.subscribed.call_once(|| {
            // Without any tasks there is nothing to bind; `drain` reports that.
            let tasks = self.selection.all().unwrap_or_default();
            for task in tasks.iter().filter(|task| task.registration.is_subscriber) {
                let mut topology = sound(task.queue().topology(self.client.namespace()));
                // Nothing is declared by other programs, since there are none.
                topology.queues.iter_mut().for_each(|queue| queue.passive = false);
                topology.exchanges.iter_mut().for_each(|exchange| exchange.passive = false);
                // A broker in memory answers at once.
                sound(self.client.declare(&topology).now_or_never().unwrap_or(Ok(())));
            }
        });
        &self.client
    }

    /// Moves the clock forward, to the time of delayed jobs and retries. [`drain`](Self::drain) then runs them.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::{testing::TestQueue, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let queue = TestQueue::new();
    /// # let queue = queue.task::<SendEmail>();
    /// let hour = Duration::from_secs(3600);
    /// queue.client().enqueue(SendEmail { to: "ada@example.com".into() }).delay(hour).await?;
    ///
    /// assert!(queue.drain().await.is_empty());
    /// queue.advance(hour);
    /// assert_eq!(queue.drain().await.len(), 1);
    /// # Ok(()) }
    /// ```
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// The jobs of a task that wait in its queue: first the ready ones in their order, then the delayed ones.
    ///
    /// ```
    /// # use leveret::{testing::TestQueue, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let queue = TestQueue::new();
    /// # let queue = queue.task::<SendEmail>();
    /// queue.client().enqueue(SendEmail { to: "ada@example.com".into() }).await?;
    /// let jobs = queue.all_enqueued::<SendEmail>();
    /// assert_eq!(jobs[0].to, "ada@example.com");
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// If one cannot be decoded.
    pub fn all_enqueued<T: queue_core::task::Task>(&self) -> Vec<T> {
        self.jobs(T::queue().name())
    }

    /// The dead letters of a task, in the order in which they died.
    ///
    /// ```
    /// # use leveret::{testing::TestQueue, task};
    /// # #[task(queue = "emails", retries = 0)] async fn send_email(to: String) -> Result<(), String> { Err(format!("no mailbox {to}")) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let queue = TestQueue::new();
    /// # let queue = queue.task::<SendEmail>();
    /// queue.client().enqueue(SendEmail { to: "nobody@example.com".into() }).await?;
    /// queue.drain().await;
    /// assert_eq!(queue.dead_letters::<SendEmail>()[0].to, "nobody@example.com");
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// If one cannot be decoded.
    pub fn dead_letters<T: queue_core::task::Task>(&self) -> Vec<T> {
        T::queue().dead_queue().map(|queue| self.jobs(&queue)).unwrap_or_default()
    }

    /// Asserts that a job is enqueued for which `is_meant` returns true: ready or delayed, and not yet run.
    ///
    /// ```
    /// # use leveret::{testing::TestQueue, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let queue = TestQueue::new();
    /// # let queue = queue.task::<SendEmail>();
    /// queue.client().enqueue(SendEmail { to: "ada@example.com".into() }).await?;
    /// queue.assert_enqueued(|job: &SendEmail| job.to == "ada@example.com");
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// If there is none. The message shows what is enqueued.
    #[track_caller]
    pub fn assert_enqueued<T: queue_core::task::Task>(&self, is_meant: impl Fn(&T) -> bool) {
        if !self.all_enqueued::<T>().iter().any(is_meant) {
            let all = self.broker.snapshot();
            let name = T::NAME;
            assert!(!all.is_empty(), "no job of task `{name}` is enqueued, nor any other");
            panic!("no such job of task `{name}` is enqueued, but:{}", self.show(&all));
        }
    }

    /// Asserts that no job is enqueued for which `is_meant` returns true.
    ///
    /// ```
    /// # use leveret::{testing::TestQueue, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let queue = TestQueue::new();
    /// # let queue = queue.task::<SendEmail>();
    /// queue.client().enqueue(SendEmail { to: "ada@example.com".into() }).await?;
    /// queue.refute_enqueued(|job: &SendEmail| job.to == "grace@example.com");
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// If there is one. The message shows it.
    #[track_caller]
    pub fn refute_enqueued<T: queue_core::task::Task>(&self, is_meant: impl Fn(&T) -> bool) {
        let waiting: Vec<_> = self.waiting::<T>(T::queue().name()).collect();
        let meant: Vec<_> = waiting.into_iter().filter(|waiting| is_meant(&decode(waiting))).collect();
        let name = T::NAME;
        assert!(
            meant.is_empty(),
            "a job of task `{name}` is enqueued that should not be:{}",
            self.show(&meant)
        );
    }

    /// Runs one job without the broker: its payload is encoded and decoded, the handler gets its state and a
    /// `Context`, and a panic or timeout is an outcome. Nothing is retried.
    ///
    /// ```
    /// # use leveret::Outcome;
    /// # use leveret::{testing::TestQueue, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let outcome = TestQueue::new().perform(SendEmail { to: "ada@example.com".into() }).await;
    /// assert_eq!(outcome, Outcome::Success);
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// If the job cannot be encoded, or the task wants state that is missing.
    #[track_caller]
    pub fn perform<T: queue_core::task::Task + Runnable>(
        &self,
        job: T,
    ) -> impl Future<Output = Outcome> + Send + use<T> {
        // Binds the subscribers' queues, for the events that the job publishes.
        self.client();
        let task = Task::new(T::registration());
        let format = T::options().format;
        let payload = format.encode(&job).unwrap_or_else(|error| {
            let name = T::NAME;
            panic!("the payload of task `{name}` could not be encoded: {error}")
        });
        sound(task.check_state(&self.state));

        let mut envelope = Envelope::new(payload);
        envelope.task = Some(T::NAME.to_owned());
        envelope.content_type = Some(format.content_type().to_owned());
        if T::options().version > 1 {
            envelope.headers.insert(header::VERSION, T::options().version);
        }
        envelope.enqueued_at = Some(self.clock.now());
        let queue = Queue { spec: T::queue(), tasks: vec![task], fallback: Some(task), subscriber: None };
        let lane = self.lane(queue);
        async move {
            let mut delivery = Delivery::new(envelope, T::queue().name().clone(), Box::new(Nowhere));
            let run = Run {
                task: task.name(),
                timeout: task.options.timeout,
                is_event: task.registration.is_subscriber,
                is_call: false,
                started: Instant::now(),
            };
            let slot = lane.slots.take().await;
            let context = Arc::new(Context::new(Arc::clone(&lane.environment), slot, run, &mut delivery));
            let payload = delivery.envelope.payload.clone();
            let shared = &lane.shared;
            let Shared { handler, events, activity, .. } = &**shared;
            let executed =
                execute(&context, &task, payload, handler, events, activity, std::future::pending()).await;
            outcome(executed, delivery.envelope.task.as_deref())
        }
    }

    /// Runs the ready jobs, one after the other, queue by queue, until none is left, including jobs that these jobs enqueue.
    /// Returns the outcome of each, in the order in which they ended. Retries and dead letters are made as on any
    /// broker; retries and delayed jobs wait for [`advance`](Self::advance).
    ///
    /// ```
    /// # use leveret::Outcome;
    /// # use leveret::{testing::TestQueue, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// let queue = TestQueue::new();
    /// # let queue = queue.task::<SendEmail>();
    /// queue.client().enqueue(SendEmail { to: "ada@example.com".into() }).await?;
    /// assert_eq!(queue.drain().await, [Outcome::Success]);
    /// # Ok(()) }
    /// ```
    ///
    /// While a job waits, for example for the reply to a call, jobs of the called queue run beside it, up to the call.
    ///
    /// # Panics
    /// If a task wants state that is missing, where possible before any job runs; if the tasks
    /// contradict each other; or if it does not end (10,000 jobs).
    #[track_caller]
    pub fn drain(&self) -> impl Future<Output = Vec<JobOutcome>> + Send {
        let at = Location::caller();
        self.check_ready();
        async move {
            let _running = self.watched.running();
            let mut outcomes = Vec::new();
            loop {
                let lanes = self.ready_lanes(1);
                if lanes.is_empty() {
                    return outcomes;
                }
                for lane in lanes {
                    while let Some(delivery) = self.take(&lane, at) {
                        self.run_with_calls(&lane, delivery, at, &mut outcomes).await;
                    }
                }
            }
        }
    }

    /// Runs `code`, and the ready jobs beside it, and returns the result of `code`. For code that calls tasks and waits for their
    /// replies. Jobs that still run when `code` has ended go back to their queue.
    ///
    /// ```
    /// # use leveret::{testing::TestQueue, task};
    /// # #[task(queue = "sums")] async fn add(a: u64, b: u64) -> Result<u64, String> { Ok(a + b) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let queue = TestQueue::new();
    /// # let queue = queue.task::<Add>();
    /// let sum = queue.serve(queue.client().call(Add { a: 2, b: 3 })).await;
    /// assert_eq!(sum.unwrap(), 5);
    /// # }
    /// ```
    ///
    /// A call times out by the clock that [`advance`](Self::advance) moves, and so not by itself.
    ///
    /// # Panics
    /// If a task wants state that is missing, or if the tasks contradict each other.
    #[track_caller]
    pub fn serve<F: IntoFuture>(&self, code: F) -> impl Future<Output = F::Output> {
        let at = Location::caller();
        self.check_ready();
        let code = code.into_future();
        let serving = async move {
            let _running = self.watched.running();
            let mut running = FuturesUnordered::new();
            loop {
                for lane in self.ready_lanes(u16::MAX) {
                    while let Some(delivery) = self.take(&lane, at) {
                        let lane = Arc::clone(&lane);
                        let slot = lane.slots.take().await;
                        running.push(async move { process(&lane, slot, delivery).await });
                    }
                }
                tokio::select! {
                    Some(_) = running.next() => {}
                    _ = self.broker.wait_for(|_| !self.ready_lanes(1).is_empty()) => {}
                }
            }
        };
        async move {
            tokio::select! {
                output = code => output,
                never = serving => never,
            }
        }
    }

    /// Runs a job, and the calls that arrive meanwhile, since the job may wait for one.
    async fn run_with_calls(
        &self,
        lane: &Arc<Lane>,
        delivery: Delivery,
        at: &Location<'_>,
        outcomes: &mut Vec<JobOutcome>,
    ) {
        let is_call = |waiting: &Waiting| wire::is_call(&waiting.envelope);
        let mut running = vec![run(Arc::clone(lane), lane.slots.take().await, delivery).boxed()];
        while !running.is_empty() {
            let jobs = outcomes.len() + running.len();
            assert!(
                jobs < TOO_MANY,
                "{jobs} jobs ran and there are still more: does one enqueue or call itself?"
            );
            tokio::select! {
                biased;
                ran = next_of(&mut running) => {
                    outcomes.push(ran);
                }
                _ = self.broker.wait_for(|_| !self.lanes(u16::MAX, is_call).is_empty()) => {
                    // Up to the call: other jobs may be before it.
                    for lane in self.lanes(u16::MAX, is_call) {
                        if let Some(delivery) = self.take(&lane, at) {
                            let slot = lane.slots.take().await;
                            running.push(run(lane, slot, delivery).boxed());
                        }
                    }
                }
            }
        }
    }

    /// Panics if a job that is ready wants state that is missing.
    #[track_caller]
    fn check_ready(&self) {
        let ready = self.broker.snapshot().into_iter().filter(|waiting| waiting.not_before.is_none());
        let lanes = self.ready_lanes(1);
        for Waiting { queue, envelope, .. } in ready {
            let lane = lanes.iter().find(|lane| lane.plan.spec.name().as_ref() == queue);
            if let Some(Ok(task)) =
                lane.map(|lane| Errand::of(&lane.plan, &lane.shared.tasks, &envelope).task)
            {
                sound(task.check_state(&self.state));
            }
        }
    }

    /// The next job of a queue. `at` is the test's line that runs jobs, for panics.
    fn take(&self, lane: &Lane, at: &Location<'_>) -> Option<Delivery> {
        let spec = lane.plan.spec;
        let options = ConsumeOptions::new(spec.name().clone())
            .dead_letter(spec.dead_letter_route(self.client.namespace()));
        let delivery = sound(self.broker.take(&options, None))?;
        if let Ok(task) = Errand::of(&lane.plan, &lane.shared.tasks, &delivery.envelope).task
            && let Err(error) = task.check_state(&self.state)
        {
            panic!("{} (jobs are run at {at})", chain(&error));
        }
        Some(delivery)
    }

    /// The queues that have a job ready for a task, each for so many jobs at once.
    #[track_caller]
    fn ready_lanes(&self, concurrency: u16) -> Vec<Arc<Lane>> {
        self.lanes(concurrency, |_| true)
    }

    /// The queues that have a ready job for which `is_meant` returns true.
    #[track_caller]
    fn lanes(&self, concurrency: u16, is_meant: impl Fn(&Waiting) -> bool) -> Vec<Arc<Lane>> {
        let ready: BTreeSet<_> = self
            .broker
            .snapshot()
            .into_iter()
            .filter(|waiting| waiting.not_before.is_none() && is_meant(waiting))
            .map(|waiting| waiting.queue)
            .collect();
        if ready.is_empty() {
            return Vec::new();
        }
        let mut tasks = sound(self.selection.all());
        tasks.retain(|task| ready.contains(task.queue().name().as_ref()));
        let plan = sound(group(&tasks));
        let shared = Arc::new(Shared::for_test(&self.client, plan.tasks, &self.state));
        plan.queues.into_iter().map(|queue| Lane::new(Arc::clone(&shared), queue, concurrency)).collect()
    }

    fn lane(&self, queue: Queue) -> Arc<Lane> {
        let tasks = queue.tasks.iter().map(|task| (task.name(), *task)).collect();
        Lane::new(Arc::new(Shared::for_test(&self.client, tasks, &self.state)), queue, 1)
    }

    fn waiting<T: queue_core::task::Task>(&self, queue: &Name) -> impl Iterator<Item = Waiting> {
        let is_meant = move |waiting: &Waiting| {
            let is_ours = |name: &str| name == T::NAME || T::options().aliases.contains(&name);
            waiting.queue == queue.as_ref() && waiting.envelope.task.as_deref().is_some_and(is_ours)
        };
        self.broker.snapshot().into_iter().filter(is_meant)
    }

    #[track_caller]
    fn jobs<T: queue_core::task::Task>(&self, queue: &Name) -> Vec<T> {
        self.waiting::<T>(queue).map(|waiting| decode(&waiting)).collect()
    }

    /// One line a job.
    fn show(&self, jobs: &[Waiting]) -> String {
        let now = self.clock.now();
        let mut text = String::new();
        for Waiting { queue, envelope, not_before, .. } in jobs {
            let task = envelope.task.as_deref().unwrap_or("(no task)");
            let payload = shown_in_short(envelope);
            let due = not_before.and_then(|due| due.duration_since(now).ok());
            let due = due.map(|due| format!(", due in {due:?}")).unwrap_or_default();
            text.push_str(&format!("\n  {task} {payload} in queue `{queue}`{due}"));
        }
        text
    }
}

impl Default for TestQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestQueue").field("broker", &self.broker).finish_non_exhaustive()
    }
}

#[track_caller]
fn decode<T: queue_core::task::Task>(waiting: &Waiting) -> T {
    let (name, queue) = (T::NAME, &waiting.queue);
    let format = Format::of(waiting.envelope.content_type.as_deref())
        .unwrap_or_else(|unknown| panic!("a job of task `{name}` in queue `{queue}`: {unknown}"));
    format.decode(&waiting.envelope.payload).unwrap_or_else(|error| {
        panic!("a job of task `{name}` in queue `{queue}` does not fit its payload: {error}")
    })
}

/// A payload for people: a binary one as JSON.
fn shown(envelope: &Envelope) -> String {
    let json = match Format::of(envelope.content_type.as_deref()) {
        Ok(format) if format != Format::Json => format.to_json(&envelope.payload).ok(),
        _ => None,
    };
    match json {
        Some(json) => json.to_string(),
        None => String::from_utf8_lossy(&envelope.payload).into_owned(),
    }
}

fn shown_in_short(envelope: &Envelope) -> String {
    shown(envelope).chars().take(SHOWN).collect()
}

/// The value, or a panic with the error's message, at the line of the test.
#[track_caller]
fn sound<T>(result: Result<T, Error>) -> T {
    // No closure: it would be what the panic points at.
    match result {
        Ok(value) => value,
        Err(error) => panic!("{}", chain(&error)),
    }
}

/// Removes the first of these futures that ends, and returns its result. Not `FuturesUnordered`, which would keep
/// [`TestQueue::drain`] from being `Send`: the handlers' futures are not `Sync`.
async fn next_of<T>(running: &mut Vec<BoxFuture<'_, T>>) -> T {
    std::future::poll_fn(|cx| {
        for at in 0..running.len() {
            if let Poll::Ready(ended) = running[at].as_mut().poll(cx) {
                drop(running.swap_remove(at));
                return Poll::Ready(ended);
            }
        }
        Poll::Pending
    })
    .await
}

/// Runs one job, and settles it.
async fn run(lane: Arc<Lane>, slot: Slot, delivery: Delivery) -> JobOutcome {
    let name = delivery.envelope.task.clone();
    let job = JobOutcome::of(&lane, delivery.envelope.clone());
    job(outcome(process(&lane, slot, delivery).await, name.as_deref()))
}

fn outcome(executed: Executed, task: Option<&str>) -> Outcome {
    match executed {
        Executed::Ran { outcome, .. } => outcome,
        Executed::Unknown(Unknown::Task) => {
            let task = task.unwrap_or_default();
            Outcome::failed(ReasonKind::UnknownTask, format!("task `{task}` is not compiled into this test"))
        }
        Executed::Unknown(Unknown::Version { task, version, known }) => Outcome::failed(
            ReasonKind::UnknownTask,
            format!(
                "version {version} of task `{task}` is not compiled into this test, which has version {known}"
            ),
        ),
        // Nothing is settled twice here.
        Executed::Repeated => {
            Outcome::failed(ReasonKind::Failed, "the job was not run: it had been run before")
        }
        // Only a worker that stops cuts off, and there is none.
        Executed::CutOff => Outcome::failed(ReasonKind::Failed, "the job was cut off"),
        Executed::Abandoned => {
            Outcome::failed(ReasonKind::Failed, "the job was not run: its caller had given up")
        }
        Executed::SetApart => Outcome::failed(
            ReasonKind::Failed,
            "the job was not run: the clients that held it before were closed, so that it is to run alone",
        ),
        Executed::Lost => Outcome::failed(
            ReasonKind::Failed,
            "the job was not run: its client was closed, or its queue deleted",
        ),
    }
}

/// Settles a job that has not come from a broker.
#[derive(Debug)]
struct Nowhere;

#[async_trait]
impl Settler for Nowhere {
    async fn settle(self: Box<Self>, _: Envelope, _: Settlement) -> Result<(), SettleError> {
        Ok(())
    }
}
