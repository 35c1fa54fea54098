//! The worker as a program builds it: its options, and their checks before anything runs. `run` does the rest.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use queue_core::broker::Settings;
use queue_core::client::Client;
use queue_core::error::{BoxError, Error, ErrorKind, Result};
use queue_core::outcome::Outcome;
use queue_core::topology::QueueSpec;
use tokio_util::task::TaskTracker;
use tower_layer::Layer;
use tower_service::Service;

use crate::activity::Activity;
use crate::events::{Emitter, JobEvent, JobEvents, Listener, Summary, Tally};
use crate::handler::Call;
use crate::lane::{Lane, Shared};
use crate::middleware::HandlerService;
use crate::registry::{Plan, Runnable, Selection, Task, config};
use crate::run;
use crate::signals::Signals;
use crate::state::State;
use crate::steps::{Steps, WorkerHandle};

/// Runs jobs: those of all tasks that are compiled into the program, or of the tasks and queues that you name.
///
/// ```no_run
/// use leveret::{Client, TaskResult, Worker, task};
///
/// #[derive(Default)]
/// struct Mailer;
///
/// #[task(queue = "emails")]
/// async fn send_email(mailer: &Mailer, to: String) -> TaskResult {
///     println!("to {to}");
///     Ok(())
/// }
///
/// #[tokio::main]
/// async fn main() -> leveret::Result<()> {
///     let client = Client::connect("memory:").await?;
///     // Until Ctrl-C or SIGTERM.
///     Worker::new(&client).state(Mailer::default()).run().await
/// }
/// ```
///
/// A process may run several workers, on one client or on many, beside its other work. All futures are
/// `Send`, and a current-thread runtime is enough.
#[must_use = "a worker does nothing until it is run"]
pub struct Worker {
    client: Client,
    selection: Selection,
    state: State,
    /// The name of a type that was added as state twice.
    state_twice: Option<&'static str>,
    handler: HandlerService,
    concurrency: Option<u16>,
    queue_concurrency: HashMap<String, u16>,
    crash_limit: Option<u32>,
    name: String,
    shutdown_timeout: Duration,
    takes_signals: bool,
    events: Arc<Emitter>,
    listeners: Vec<Listener>,
    steps: Arc<Steps>,
}

impl Worker {
    /// A worker for all tasks of this program, on the client's broker.
    ///
    /// ```no_run
    /// # use leveret::{Client, Worker};
    /// # async fn f() -> leveret::Result<()> {
    /// let client = Client::connect("sqlite:jobs.db").await?;
    /// Worker::new(&client).run().await
    /// # }
    /// ```
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            selection: Selection::default(),
            state: State::default(),
            state_twice: None,
            handler: HandlerService::default(),
            concurrency: None,
            queue_concurrency: HashMap::new(),
            crash_limit: None,
            name: default_name(),
            shutdown_timeout: Duration::from_secs(30),
            takes_signals: true,
            events: Arc::default(),
            listeners: Vec::new(),
            steps: Arc::default(),
        }
    }

    /// Adds state: the value that tasks with a parameter `&T` get. One value of each type.
    ///
    /// ```
    /// # use leveret::{Client, TaskResult, Worker, task};
    /// struct Mailer {
    ///     from: String,
    /// }
    ///
    /// #[task(queue = "emails")]
    /// async fn send_email(mailer: &Mailer, to: String) -> TaskResult {
    ///     println!("{} writes to {to}", mailer.from);
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// let worker = Worker::new(&client).state(Mailer { from: "shop@example.com".into() });
    /// # let summary = worker.task::<SendEmail>().run_until_idle().await?;
    /// # Ok(()) }
    /// ```
    pub fn state<T: Send + Sync + 'static>(self, value: T) -> Self {
        self.shared(Arc::new(value))
    }

    /// Adds state like [`state`](Self::state), as an `Arc`: a value that the program shares, or a trait object, which tasks with a
    /// parameter `&dyn Mailer` get.
    ///
    /// ```
    /// # use leveret::{Client, Worker, task};
    /// use std::sync::Arc;
    ///
    /// trait Mailer: Send + Sync {
    ///     fn send(&self, to: &str);
    /// }
    ///
    /// struct Smtp;
    /// impl Mailer for Smtp {
    ///     fn send(&self, to: &str) {
    ///         println!("to {to}");
    ///     }
    /// }
    ///
    /// #[task(queue = "emails")]
    /// async fn send_email(mailer: &dyn Mailer, to: String) {
    ///     mailer.send(&to);
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// let worker = Worker::new(&client).shared::<dyn Mailer>(Arc::new(Smtp));
    /// # let summary = worker.task::<SendEmail>().run_until_idle().await?;
    /// # Ok(()) }
    /// ```
    pub fn shared<T: ?Sized + Send + Sync + 'static>(mut self, value: Arc<T>) -> Self {
        if self.state.insert(value) {
            self.state_twice = Some(std::any::type_name::<T>());
        }
        self
    }

    /// Runs task `T`, and of the other tasks only those that are named in the same way.
    ///
    /// ```
    /// # use leveret::{Client, Worker, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// let worker = Worker::new(&client).task::<SendEmail>();
    /// # let summary = worker.run_until_idle().await?;
    /// # Ok(()) }
    /// ```
    pub fn task<T: Runnable>(mut self) -> Self {
        self.selection.name::<T>();
        self
    }

    /// Runs only the tasks of these names. All tasks of a queue that is consumed must be among them: `run` refuses to start
    /// otherwise.
    ///
    /// ```
    /// use leveret::Task as _;
    /// # use leveret::{Client, Worker, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// # let _ = Worker::new(&client).task::<SendEmail>();
    /// let worker = Worker::new(&client).only([SendEmail::NAME]);
    /// # Ok(()) }
    /// ```
    pub fn only<N: Into<String>>(mut self, tasks: impl IntoIterator<Item = N>) -> Self {
        self.selection.only = Some(tasks.into_iter().map(Into::into).collect());
        self
    }

    /// Consumes only these queues, with all their tasks.
    ///
    /// ```
    /// # use leveret::{Client, Worker, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// // Mails in one process, thumbnails in another.
    /// let worker = Worker::new(&client).queues(["emails"]);
    /// # Ok(()) }
    /// ```
    pub fn queues<N: Into<String>>(mut self, queues: impl IntoIterator<Item = N>) -> Self {
        self.selection.queues = Some(queues.into_iter().map(Into::into).collect());
        self
    }

    /// Sets how many jobs of *each* queue run at once; replaces the number that the tasks set. At least 1.
    ///
    /// ```
    /// # use leveret::{Client, Worker, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// let worker = Worker::new(&client).concurrency(8);
    /// # let summary = worker.task::<SendEmail>().run_until_idle().await?;
    /// # Ok(()) }
    /// ```
    pub fn concurrency(mut self, jobs: u16) -> Self {
        self.concurrency = Some(jobs);
        self
    }

    /// Sets how many jobs of one queue run at once. Overrides [`concurrency`](Self::concurrency).
    ///
    /// ```
    /// # use leveret::{Client, Worker, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// let worker = Worker::new(&client).concurrency(2).queue_concurrency("emails", 8);
    /// # let summary = worker.task::<SendEmail>().run_until_idle().await?;
    /// # Ok(()) }
    /// ```
    pub fn queue_concurrency(mut self, queue: impl Into<String>, jobs: u16) -> Self {
        self.queue_concurrency.insert(queue.into(), jobs);
        self
    }

    /// Sets how often the process of a worker may end while it holds a job, before the job runs alone. Applies to queues whose
    /// tasks do not set it. From 1 to 100; without it, 3. After as many more ends while it ran alone, the job is a dead letter of
    /// kind `crash-loop`.
    ///
    /// It is a default: a task's `crash_limit = 5` overrides it, unlike with [`concurrency`](Self::concurrency), which
    /// replaces the number of the tasks. All workers of a queue count together, so give each of them the same limit, or set it at
    /// the task.
    ///
    /// ```
    /// # use leveret::{Client, Worker};
    /// # fn f(client: &Client) -> Worker {
    /// // Jobs here call a C library that may end the process: a job that does so twice runs alone from then on.
    /// Worker::new(client).crash_limit(2)
    /// # }
    /// ```
    pub fn crash_limit(mut self, ends: u32) -> Self {
        self.crash_limit = Some(ends);
        self
    }

    /// Puts a layer around all handlers; the last one added is the outermost. A layer may read the
    /// [`Call`], replace the [`Outcome`], or answer instead of the handler. An error of the layer is a failure of the
    /// attempt, and is retried. A layer cannot settle a job. The task's timeout includes the layers.
    ///
    /// The layer's service is cloned for each job, so put state that jobs share behind an `Arc`.
    ///
    /// With `tower` (feature `util`):
    ///
    /// ```
    /// # use leveret::Worker;
    /// # fn f(worker: Worker) -> Worker {
    /// use leveret::{Call, HandlerService};
    /// use tower::{Service as _, layer::layer_fn, service_fn};
    ///
    /// let timed = layer_fn(|handler: HandlerService| {
    ///     service_fn(move |call: Call| {
    ///         let mut handler = handler.clone();
    ///         async move {
    ///             let (task, since) = (call.context().task().to_owned(), std::time::Instant::now());
    ///             let outcome = handler.call(call).await;
    ///             println!("{task} took {:?}", since.elapsed());
    ///             outcome
    ///         }
    ///     })
    /// });
    /// worker.layer(timed)
    /// # }
    /// ```
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<HandlerService>,
        L::Service: Service<Call, Response = Outcome> + Clone + Send + Sync + 'static,
        <L::Service as Service<Call>>::Error: Into<BoxError>,
        <L::Service as Service<Call>>::Future: Send + 'static,
    {
        self.handler = HandlerService::layered(layer.layer(self.handler));
        self
    }

    /// Sets the worker's name, which stands on failed jobs (`q-worker`), in the log and in the broker's lists. Default:
    /// `program@host:process`.
    ///
    /// ```
    /// # use leveret::{Client, Worker, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// let worker = Worker::new(&client).name("mailer-1");
    /// # let summary = worker.task::<SendEmail>().run_until_idle().await?;
    /// # Ok(()) }
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how long running jobs may go on after the worker was asked to stop. Default 30 s. Then they are told to end
    /// through their `Context`; one second later they are dropped and given back to their queue, which costs no
    /// attempt.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::{Client, Worker, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// // Kubernetes kills a pod 30 s after SIGTERM.
    /// let worker = Worker::new(&client).shutdown_timeout(Duration::from_secs(20));
    /// # let summary = worker.task::<SendEmail>().run_until_idle().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// A function without `async` cannot be dropped: it goes on although its job may already run elsewhere, and a tokio
    /// runtime waits for it. The log names it, and a [second signal](Self::signals) ends the process.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// Makes SIGTERM and SIGINT stop the worker, or not. Default true. tokio keeps a signal once a program has listened to
    /// it: afterwards Ctrl-C no longer ends the process by itself.
    ///
    /// ```
    /// # use leveret::{Client, Worker};
    /// # fn f(client: &Client) -> Worker {
    /// // The web server in this process handles signals, and stops the worker by its handle.
    /// Worker::new(client).signals(false)
    /// # }
    /// ```
    ///
    /// A second signal stops the worker at once: [`run`](Self::run) drops the running jobs, gives them back, and returns an
    /// error. If a job still runs one second later that cannot be dropped (a function without `async`, or a job that blocks its
    /// thread), the worker ends the process, with 128 and the signal's number as its exit code: 143 for SIGTERM, 130 for
    /// SIGINT. A signal that arrives while the program waits for such a function after
    /// [`shutdown_timeout`](Self::shutdown_timeout) does the same. Where jobs block every thread of the runtime, the worker
    /// cannot see a signal; then the process ends six seconds after the second one. With `false` the worker never ends the
    /// process.
    pub fn signals(mut self, yes: bool) -> Self {
        self.takes_signals = yes;
        self
    }

    /// Calls `listener` at each event, on the job's own tokio task: it should be quick. A panic in it does not affect the job.
    ///
    /// ```
    /// use leveret::JobEvent;
    /// # use leveret::{Client, Worker, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    ///
    /// let worker = Worker::new(&client).on_event(|event| {
    ///     if let JobEvent::Dead { job, reason, .. } = event {
    ///         eprintln!("{} {} is a dead letter: {reason}", job.task(), job.id);
    ///     }
    /// });
    /// # let summary = worker.task::<SendEmail>().run_until_idle().await?;
    /// # Ok(()) }
    /// ```
    pub fn on_event(mut self, listener: impl Fn(&JobEvent) + Send + Sync + 'static) -> Self {
        self.listeners.push(Box::new(listener));
        self
    }

    /// The events of this worker's jobs, as a stream that ends with the worker.
    ///
    /// ```
    /// use leveret::JobEvent;
    /// # use leveret::{Client, Worker, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// client.enqueue(SendEmail { to: "ada@example.com".into() }).await?;
    ///
    /// let worker = Worker::new(&client);
    /// # let worker = worker.task::<SendEmail>();
    /// let mut events = worker.events();
    /// worker.run_until_idle().await?;
    /// while let Some(event) = events.next().await {
    ///     if let JobEvent::Succeeded { job, took } = event {
    ///         println!("{} {} took {took:?}", job.task(), job.id);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn events(&self) -> JobEvents {
        self.events.subscribe()
    }

    /// A handle that stops this worker from anywhere in the program. For example beside a web server, which handles signals
    /// itself:
    ///
    /// ```
    /// # use leveret::{Client, Worker};
    /// # async fn serve_web() {}
    /// # async fn f(client: Client) -> leveret::Result<()> {
    /// let worker = Worker::new(&client).signals(false);
    /// let handle = worker.handle();
    /// let working = tokio::spawn(worker.run());
    ///
    /// serve_web().await;
    ///
    /// handle.shutdown();
    /// working.await.expect("the worker does not panic")?;
    /// client.close().await;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle::new(Arc::clone(&self.steps))
    }

    /// Declares the queues of its tasks and subscribers with their exchanges and bindings, and consumes nothing.
    ///
    /// [`run`](Self::run) declares as well. Use this method before the first event is published: an event reaches only the queues
    /// that exist, and so no service that was never started.
    ///
    /// ```
    /// # use leveret::{Client, Worker, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// let worker = Worker::new(&client);
    /// # let worker = worker.task::<SendEmail>();
    /// worker.declare().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If its tasks contradict each other or want state that is missing, or a queue cannot be declared.
    pub async fn declare(&self) -> Result<()> {
        let plan = self.check()?;
        let specs: Vec<_> = plan.queues.iter().map(|queue| queue.spec).collect();
        run::declare(&self.client, &specs).await
    }

    /// Declares and consumes the queues of its tasks until SIGTERM, SIGINT, or a [`handle`](Self::handle) stops it;
    /// then waits for the running jobs, and returns.
    ///
    /// ```no_run
    /// # use leveret::{Client, Worker};
    /// # async fn f() -> leveret::Result<()> {
    /// let client = Client::from_env().await?;
    /// Worker::new(&client).run().await?;
    /// client.close().await;
    /// # Ok(()) }
    /// ```
    ///
    /// The worker waits for a broker that is away, also at the start. If the broker says that a queue can no longer be consumed,
    /// the worker logs an error, tries again every minute, and goes on with the other queues. A second signal stops it at once:
    /// running jobs are dropped and given back. Dropping the future does the same, without waiting.
    ///
    /// # Errors
    /// Before anything is consumed: if there is no task, tasks contradict each other or want state that is missing, or
    /// a queue cannot be declared or consumed. Later: if the client is closed; the worker then stops as on a signal. At the
    /// end: if jobs had to be cut off because of [`shutdown_now`](WorkerHandle::shutdown_now) or a second signal; none is
    /// lost. If `main` returns the result, an error is exit code 1, and every normal stop 0; see
    /// [`signals`](Self::signals) for functions that cannot be stopped.
    pub async fn run(self) -> Result<()> {
        self.drive(false).await.map(drop)
    }

    /// Like [`run`](Self::run), but also returns when there is nothing left to do, with a count of what was done. For scripts,
    /// tests and first steps.
    ///
    /// ```
    /// # use leveret::{Client, Worker, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// client.enqueue(SendEmail { to: "ada@example.com".into() }).await?;
    ///
    /// let worker = Worker::new(&client);
    /// # let worker = worker.task::<SendEmail>();
    /// let summary = worker.run_until_idle().await?;
    /// assert_eq!(summary.succeeded, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// On `memory:` and `sqlite:` the worker returns when none of its queues has a job ready, unsettled or delayed. If a test moves
    /// the clock, the worker waits for a delayed job until the test moves the clock to it. RabbitMQ does not show
    /// delayed jobs: there the worker returns when no job is ready, none runs here, and every retry and snoozed job
    /// that this worker scheduled has come back; it does not wait for jobs that were enqueued with `.delay(..)`, nor for jobs
    /// that other workers hold.
    ///
    /// # Errors
    /// As [`run`](Self::run); also if the broker says that a queue can no longer be consumed, since its jobs are left.
    /// [`Unsupported`](ErrorKind::Unsupported) with a broker that shows no queues, see [`Client::operator`].
    pub async fn run_until_idle(self) -> Result<Summary> {
        self.drive(true).await
    }

    async fn drive(mut self, ends_when_idle: bool) -> Result<Summary> {
        if ends_when_idle {
            // Only an operator can see that no job is left.
            self.client.operator()?;
        }
        // Or tokio would panic.
        tokio::runtime::Handle::try_current().map_err(|error| {
            config("a worker needs a tokio runtime: run it within one").with_source(error)
        })?;
        let signals = if self.takes_signals {
            Signals::listen().map_err(|error| {
                Error::new(
                    ErrorKind::Worker,
                    "SIGTERM and SIGINT cannot be listened to; leave them to the program with `.signals(false)`",
                )
                .with_source(error)
            })?
        } else {
            Signals::none()
        };
        let shutdown_timeout = self.shutdown_timeout;
        let plan = self.check()?;
        let concurrency = self.concurrency_of(&plan)?;
        let shared = self.take_shared(plan.tasks, ends_when_idle);
        let lanes = plan.queues.into_iter().zip(concurrency);
        let lanes =
            lanes.map(|(queue, concurrency)| Lane::new(Arc::clone(&shared), queue, concurrency)).collect();
        run::run(&shared, lanes, signals, shutdown_timeout, ends_when_idle).await
    }

    fn check(&self) -> Result<Plan> {
        if let Some(twice) = self.state_twice {
            return Err(config(format!(
                "this worker was given two values of type `{twice}`; `&{twice}` can only be one of them"
            )));
        }
        let plan = self.selection.plan(&self.state)?;
        self.check_crash_limits(&plan)?;
        Ok(plan)
    }

    fn check_crash_limits(&self, plan: &Plan) -> Result<()> {
        let own = self.crash_limit.map(|limit| ("this worker".to_owned(), limit));
        let of_queues = plan.queues.iter().filter_map(|queue| {
            let limit = queue.spec.get_crash_limit()?;
            Some((format!("queue `{}`", queue.spec.name()), limit))
        });
        let most = QueueSpec::DELIVERY_LIMIT;
        match own.into_iter().chain(of_queues).find(|(_, limit)| !(1..=most).contains(&i64::from(*limit))) {
            Some((of, limit)) => {
                Err(config(format!("the crash limit of {of} is {limit}; it must be from 1 to {most}")))
            }
            None => Ok(()),
        }
    }

    /// In the order of the plan's queues.
    fn concurrency_of(&self, plan: &Plan) -> Result<Vec<u16>> {
        let names: Vec<_> = plan.queues.iter().map(|queue| queue.spec.name().as_ref()).collect();
        if let Some(unknown) = self.queue_concurrency.keys().find(|name| !names.contains(&name.as_str())) {
            let known = names.join("`, `");
            return Err(config(format!(
                "`.queue_concurrency(..)` names queue `{unknown}`, which this worker does not consume; it consumes `{known}`"
            )));
        }
        let of = |queue: &crate::registry::Queue| {
            let name = queue.spec.name();
            let own = self.queue_concurrency.get(name.as_ref()).copied();
            match own.or(self.concurrency).or(queue.spec.get_concurrency()).unwrap_or(1) {
                0 => Err(config(format!("the concurrency of queue `{name}` is 0; it must be at least 1"))),
                jobs => Ok(jobs),
            }
        };
        plan.queues.iter().map(of).collect()
    }

    fn take_shared(&mut self, tasks: HashMap<&'static str, Task>, is_watched: bool) -> Arc<Shared> {
        self.events.listen_all(std::mem::take(&mut self.listeners));
        let activity = Activity::default();
        if is_watched {
            activity.watch();
        }
        Arc::new(Shared {
            client: self.client.clone(),
            system: self.client.info().system,
            name: std::mem::take(&mut self.name),
            tasks,
            crash_limit: self.crash_limit.unwrap_or(QueueSpec::CRASH_LIMIT),
            state: std::mem::take(&mut self.state),
            handler: std::mem::take(&mut self.handler),
            events: Arc::clone(&self.events),
            steps: Arc::clone(&self.steps),
            jitter: fastrand::f64,
            tally: Tally::default(),
            activity,
            blocking: Arc::default(),
            jobs: TaskTracker::new(),
            turns: Arc::default(),
        })
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("client", &self.client)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// `program@host:process`.
fn default_name() -> String {
    let name = Settings::default().name;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    match (name.rsplit_once(':'), host.as_deref().map(str::trim)) {
        (Some((program, process)), Some(host)) if !host.is_empty() => format!("{program}@{host}:{process}"),
        _ => name,
    }
}
