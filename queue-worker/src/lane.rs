//! One queue of a worker, and the state that all queues of the worker share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use queue_core::broker::{ConsumeOptions, Consumer};
use queue_core::client::Client;
use queue_core::envelope::Envelope;
use queue_core::error::Result;
use queue_core::topology::{Name, QueueType};
use tokio_util::task::TaskTracker;

use crate::activity::Activity;
use crate::blocking::Blocking;
use crate::consumer_timeout;
use crate::context::Environment;
use crate::errand;
use crate::events::{Emitter, JobInfo, Tally};
use crate::middleware::HandlerService;
use crate::registry::{Queue, Task};
use crate::repeat::Repeats;
use crate::slots::Slots;
use crate::state::State;
use crate::steps::Steps;
use crate::suspect::queue::SuspectQueue;
use crate::suspect::turn::Turns;

/// The state that all queues of a worker share.
pub(crate) struct Shared {
    pub(crate) client: Client,
    /// OpenTelemetry's `messaging.system`.
    pub(crate) system: &'static str,
    pub(crate) name: String,
    pub(crate) tasks: HashMap<&'static str, Task>,
    /// The crash limit of the queues whose tasks set none.
    pub(crate) crash_limit: u32,
    /// The values of by-reference parameters.
    pub(crate) state: State,
    pub(crate) handler: HandlerService,
    pub(crate) events: Arc<Emitter>,
    pub(crate) steps: Arc<Steps>,
    /// A random number from 0 to 1; a constant in users' tests.
    pub(crate) jitter: fn() -> f64,
    pub(crate) tally: Tally,
    pub(crate) activity: Activity,
    /// The running functions that cannot be stopped.
    pub(crate) blocking: Arc<Blocking>,
    /// The deliveries under way.
    pub(crate) jobs: TaskTracker,
    /// Gives jobs their turns to run alone.
    pub(crate) turns: Arc<Turns>,
}

#[cfg(feature = "testing")]
impl Shared {
    /// The shared state in users' tests: without middleware, and without jitter.
    pub(crate) fn for_test(client: &Client, tasks: HashMap<&'static str, Task>, state: &State) -> Self {
        Self {
            client: client.clone(),
            system: client.info().system,
            name: "test".to_owned(),
            tasks,
            crash_limit: queue_core::topology::QueueSpec::CRASH_LIMIT,
            state: state.clone(),
            handler: HandlerService::default(),
            events: Arc::default(),
            steps: Arc::default(),
            jitter: || 0.0,
            tally: Tally::default(),
            activity: Activity::default(),
            blocking: Arc::default(),
            jobs: TaskTracker::new(),
            turns: Arc::default(),
        }
    }
}

/// One queue of one worker.
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Name,
    /// The tasks of this queue, for messages that name none or an unknown one.
    pub(crate) plan: Queue,
    /// The environment of its jobs.
    pub(crate) environment: Arc<Environment>,
    pub(crate) slots: Arc<Slots>,
    /// The errands that this worker remembers, in case they are delivered again.
    pub(crate) repeats: Repeats,
    /// The queue where its jobs wait that are to run alone.
    pub(crate) suspects: SuspectQueue,
    /// The jobs of this queue that are being moved, as copies, whose originals the broker may still have.
    pub(crate) moves: TaskTracker,
    /// True if jobs run one after another, and no more are fetched than run.
    pub(crate) has_one_slot: bool,
    /// How often the process of a worker may end while it holds a job, before the job runs alone; and how often then, before it
    /// is a dead letter.
    pub(crate) crash_limit: u32,
    /// True once the log has warned that messages come without an id.
    is_told_of_no_id: AtomicBool,
}

impl Lane {
    pub(crate) fn new(shared: Arc<Shared>, plan: Queue, concurrency: u16) -> Arc<Self> {
        let queue = plan.spec.name().clone();
        let has_one_slot = concurrency == 1 && plan.spec.get_prefetch().is_none_or(|prefetch| prefetch <= 1);
        let crash_limit = plan.spec.get_crash_limit().unwrap_or(shared.crash_limit);
        let repeats = Repeats::new(plan.spec.get_prefetch().unwrap_or(1).max(concurrency));
        let suspects = SuspectQueue::of(plan.spec, &shared.client);
        let environment = Arc::new(Environment {
            client: shared.client.clone(),
            queue: queue.clone(),
            state: shared.state.clone(),
            steps: Arc::clone(&shared.steps),
            blocking: Arc::clone(&shared.blocking),
        });
        let moves = TaskTracker::new();
        // So that it can be waited for until there is none.
        moves.close();
        Arc::new(Self {
            shared,
            queue,
            plan,
            environment,
            slots: Slots::new(concurrency),
            repeats,
            suspects,
            moves,
            has_one_slot,
            crash_limit,
            is_told_of_no_id: AtomicBool::new(false),
        })
    }

    /// Consumes the queue, with as many unsettled deliveries as run at once, unless its `prefetch` is higher.
    ///
    /// # Errors
    /// If the queue cannot be consumed.
    pub(crate) async fn consume(&self) -> Result<Consumer> {
        let options = ConsumeOptions::new(self.queue.clone()).prefetch(self.prefetch());
        self.consume_by(options, self.prefetch(), self.slots.total()).await
    }

    /// Consumes the jobs of this queue that wait in `apart` to run alone, one at a time.
    ///
    /// # Errors
    /// If it cannot be consumed.
    pub(crate) async fn consume_apart(&self, apart: &Name) -> Result<Consumer> {
        let mut options = ConsumeOptions::new(apart.clone());
        options.home = Some(self.queue.clone());
        self.consume_by(options, 1, 1).await
    }

    async fn consume_by(&self, options: ConsumeOptions, prefetch: u16, concurrency: u16) -> Result<Consumer> {
        let spec = self.plan.spec;
        let client = &self.shared.client;
        let is_quorum = options.home.is_some() || spec.get_queue_type() == QueueType::Quorum;
        let mut options =
            options.dead_letter(spec.dead_letter_route(client.namespace())).crash_limit(self.crash_limit);
        // A classic queue of RabbitMQ 4.3 waits without end, and refuses the argument.
        if is_quorum {
            options = options.consumer_timeout(self.consumer_timeout(prefetch, concurrency));
        }
        options.name = Some(self.shared.name.clone());
        client.broker().consume(options).await
    }

    fn prefetch(&self) -> u16 {
        self.plan.spec.get_prefetch().unwrap_or(1).max(self.slots.total())
    }

    /// How long the broker must wait for a settlement. It counts all tasks of the worker, since an exchange may route any of them
    /// into this queue.
    fn consumer_timeout(&self, prefetch: u16, concurrency: u16) -> Duration {
        let timeouts =
            self.shared.tasks.values().chain(&self.plan.subscriber).map(|task| task.options.timeout);
        consumer_timeout::least(prefetch, concurrency, timeouts)
    }

    /// The job, as the worker's events name it.
    pub(crate) fn job_info(&self, job: &Envelope) -> JobInfo {
        // Known names are static: no copy.
        let task = match errand::task_of(&self.plan, &self.shared.tasks, job) {
            Some(task) => Name::Borrowed(task.name()),
            None => job.task.clone().map_or(Name::Borrowed(""), Name::Owned),
        };
        JobInfo { id: job.id.clone(), task, queue: self.queue.clone(), attempt: job.attempt }
    }

    /// Warns once that this queue's messages have no stable ids.
    pub(crate) fn tell_of_no_id(&self) {
        if !self.is_told_of_no_id.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "leveret",
                queue = %self.queue,
                "messages come without an id: `context.id()` changes when one is delivered again, so that a handler cannot \
                 deduplicate by it; have the program that publishes them set the AMQP property `message_id`"
            );
        }
    }
}
