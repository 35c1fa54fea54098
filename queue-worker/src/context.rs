//! The context of a running job, which its handler takes as `&Context`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use queue_core::broker::Delivery;
use queue_core::client::Client;
use queue_core::envelope::{Envelope, HeaderValue, Headers, JobId, header};
use queue_core::event::RawMessage;
use queue_core::format::{Format, UnknownFormat};
use queue_core::store::RunningJob;
use queue_core::topology::Name;
use tokio_util::sync::CancellationToken;

use crate::blocking::Blocking;
use crate::events::JobInfo;
use crate::slots::Slot;
use crate::state::State;
use crate::steps::Steps;

/// The environment that all jobs of one queue of one worker share.
pub(crate) struct Environment {
    pub(crate) client: Client,
    pub(crate) queue: Name,
    /// The values of by-reference parameters.
    pub(crate) state: State,
    /// The steps of the worker's stop.
    pub(crate) steps: Arc<Steps>,
    /// The running functions without `async`.
    pub(crate) blocking: Arc<Blocking>,
}

/// The options of one run, from the job's task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// The task's name on the wire.
    pub(crate) task: &'static str,
    pub(crate) timeout: Option<Duration>,
    /// True if the handler sees all of AMQP's properties, as a subscriber does.
    pub(crate) is_event: bool,
    /// True if a caller waits for the handler's result.
    pub(crate) is_call: bool,
    pub(crate) started: Instant,
}

/// The context of a running job: its id, attempt, deadline, headers, and a client to enqueue more. A task takes it as
/// `&Context`.
///
/// ```
/// use leveret::{Context, TaskResult, task};
///
/// #[task(queue = "reports", retries = 3)]
/// async fn report(context: &Context, month: String) -> TaskResult {
///     println!("{} {}, attempt {}", context.task(), context.id(), context.attempt());
///     context.client().enqueue(SendReport { month }).await?;
///     Ok(())
/// }
///
/// #[task(queue = "emails")]
/// async fn send_report(month: String) {
///     println!("{month}");
/// }
/// ```
pub struct Context {
    pub(crate) id: JobId,
    pub(crate) task: &'static str,
    pub(crate) attempt: u32,
    pub(crate) deadline: Option<Instant>,
    /// Cancelled when the attempt times out. The worker's stop is in the environment's steps: one token for all jobs.
    pub(crate) timed_out: CancellationToken,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) redelivered: bool,
    pub(crate) headers: Headers,
    /// True if a caller waits for the handler's result.
    pub(crate) is_call: bool,
    /// The format of the payload. An unknown one is an error only when the payload is read.
    pub(crate) format: Result<Format, UnknownFormat>,
    /// Properties that few handlers ask for. Empty for a job that has none of them.
    properties: Option<Box<Properties>>,
    pub(crate) environment: Arc<Environment>,
    /// Freed with the context, and so only when the handler has dropped it: a blocking function that outlives its
    /// timeout keeps its slot.
    _slot: Slot,
}

/// AMQP's properties that most jobs have no use for.
struct Properties {
    kind: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<String>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    priority: Option<u8>,
    timestamp: Option<SystemTime>,
    expiration: Option<Duration>,
    app_id: Option<String>,
    cluster_id: Option<String>,
}

impl Properties {
    fn new(envelope: &Envelope) -> Self {
        Self {
            kind: envelope.task.clone(),
            content_type: envelope.content_type.clone(),
            content_encoding: envelope.content_encoding.clone(),
            correlation_id: envelope.correlation_id.clone(),
            reply_to: envelope.reply_to.clone(),
            priority: envelope.priority,
            timestamp: envelope.enqueued_at,
            expiration: envelope.expiration,
            app_id: envelope.app_id.clone(),
            cluster_id: envelope.cluster_id.clone(),
        }
    }
}

impl Context {
    /// The context of `delivery`. Moves out of it the parts that its settlement does not need.
    pub(crate) fn new(environment: Arc<Environment>, slot: Slot, run: Run, delivery: &mut Delivery) -> Self {
        let Run { task, timeout, is_event, is_call, started } = run;
        Self {
            id: delivery.envelope.id.clone(),
            task,
            attempt: delivery.envelope.attempt,
            deadline: timeout.and_then(|timeout| started.checked_add(timeout)),
            timed_out: CancellationToken::new(),
            exchange: std::mem::take(&mut delivery.exchange),
            routing_key: std::mem::take(&mut delivery.routing_key),
            redelivered: delivery.redelivered,
            headers: delivery.envelope.headers.clone(),
            is_call,
            format: Format::of_message(
                delivery.envelope.content_type.as_deref(),
                delivery.envelope.content_encoding.as_deref(),
            ),
            properties: (is_event || delivery.envelope.app_id.is_some())
                .then(|| Box::new(Properties::new(&delivery.envelope))),
            environment,
            _slot: slot,
        }
    }

    /// The message as it crossed the wire, given its body.
    pub(crate) fn message(&self, body: Bytes) -> RawMessage {
        let mut message = RawMessage::new(body);
        message.id = self.id.clone();
        message.exchange.clone_from(&self.exchange);
        message.routing_key.clone_from(&self.routing_key);
        message.headers = self.headers.clone();
        message.headers.retain(|name, _| !name.starts_with("q-"));
        if let Some(properties) = &self.properties {
            message.kind.clone_from(&properties.kind);
            message.content_type.clone_from(&properties.content_type);
            message.content_encoding.clone_from(&properties.content_encoding);
            message.correlation_id.clone_from(&properties.correlation_id);
            message.reply_to.clone_from(&properties.reply_to);
            message.priority = properties.priority;
            message.timestamp = properties.timestamp;
            message.expiration = properties.expiration;
            message.app_id.clone_from(&properties.app_id);
            message.cluster_id.clone_from(&properties.cluster_id);
        }
        message.user_id = self.user_id().map(str::to_owned);
        message
    }

    /// The job, as events of the worker name it.
    pub(crate) fn job_info(&self) -> JobInfo {
        JobInfo {
            id: self.id.clone(),
            task: Name::Borrowed(self.task),
            queue: self.environment.queue.clone(),
            attempt: self.attempt,
        }
    }

    /// The entry of the job in the registry. It runs since now.
    pub(crate) fn running_job(&self) -> RunningJob {
        let Environment { client, queue, .. } = &*self.environment;
        RunningJob::new(self.id.clone(), self.task, queue.clone(), client.clock().now())
    }

    /// The job's id: the same through all its attempts and replays, and so the key to deduplicate by.
    ///
    /// ```
    /// use leveret::{Context, TaskResult, task};
    /// # struct Bank;
    /// # impl Bank { async fn charge(&self, key: &str, cents: u64) -> TaskResult { let _ = (key, cents); Ok(()) } }
    ///
    /// #[task(queue = "charges")]
    /// async fn charge(context: &Context, bank: &Bank, cents: u64) -> TaskResult {
    ///     // The bank charges once for each key, however often the job runs.
    ///     bank.charge(context.id().as_str(), cents).await
    /// }
    /// ```
    ///
    /// Only a message of another program may have no id (AMQP `message_id`); Leveret then generates one, see
    /// [`has_stable_id`](Self::has_stable_id).
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// True if the message carried its [`id`](Self::id), as all do that Leveret enqueues.
    ///
    /// A message without AMQP's `message_id` gets an id when it is delivered. Its retries, its dead letter and their
    /// replays keep that id. But if a worker ends or loses its connection before it has settled the message, the message
    /// is delivered again unchanged, and gets another id: AMQP has nothing else to identify it. So deduplicate such a job by
    /// its payload, through all its attempts, or have its producer set `message_id`:
    ///
    /// ```
    /// use leveret::{Context, TaskResult, task};
    /// # async fn charge_once(key: &str) -> TaskResult { let _ = key; Ok(()) }
    ///
    /// #[task(queue = "charges")]
    /// async fn charge(context: &Context, order: u64) -> TaskResult {
    ///     let key = if context.has_stable_id() { context.id().to_string() } else { format!("order {order}") };
    ///     charge_once(&key).await
    /// }
    /// ```
    pub fn has_stable_id(&self) -> bool {
        self.headers.get(header::NO_ID).is_none()
    }

    /// The task's name on the wire.
    pub fn task(&self) -> &str {
        self.task
    }

    /// The queue that the job came from.
    pub fn queue(&self) -> &str {
        &self.environment.queue
    }

    /// The number of this attempt, from 1.
    ///
    /// ```
    /// # use leveret::{Context, TaskResult, task};
    /// #[task(queue = "imports", retries = 5)]
    /// async fn import(context: &Context, path: String) -> TaskResult {
    ///     let mirror = if context.attempt() < 3 { "a.example.com" } else { "b.example.com" };
    ///     println!("{path} from {mirror}");
    ///     Ok(())
    /// }
    /// ```
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The moment that the attempt times out; `None` where the task has no timeout.
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # use leveret::{Context, task};
    /// #[task(queue = "imports", timeout = "30s")]
    /// async fn import(context: &Context, path: String) {
    ///     let left = context.deadline().map(|deadline| deadline - Instant::now());
    ///     println!("{path}: {left:?} left");
    /// }
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The exchange that the message was published to; empty for the default exchange.
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// The routing key that the message was published with.
    pub fn routing_key(&self) -> &str {
        &self.routing_key
    }

    /// True if the broker has delivered this attempt before, so that it may have run in part. Also true for a copy that replaces a
    /// returned job, which RabbitMQ does not mark.
    pub fn is_redelivered(&self) -> bool {
        self.redelivered
    }

    /// The message's headers.
    ///
    /// ```
    /// # use leveret::{Context, HeaderValue, task};
    /// #[task(queue = "emails")]
    /// async fn send_email(context: &Context, to: String) {
    ///     // Set by `.header("tenant", "blue")`.
    ///     let tenant = context.headers().get("tenant").and_then(HeaderValue::as_str);
    ///     println!("{to} of {tenant:?}");
    /// }
    /// ```
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The program that published the message, if the message names it (AMQP `app_id`).
    pub fn app_id(&self) -> Option<&str> {
        self.properties.as_ref()?.app_id.as_deref()
    }

    /// The user that published the message, if the message names it (AMQP `user_id`). RabbitMQ has checked it. On a retry or
    /// replay it comes from the header `q-user-id`, which every user that may publish can write.
    pub fn user_id(&self) -> Option<&str> {
        self.headers.get(header::USER_ID).and_then(HeaderValue::as_str)
    }

    /// A client on the worker's broker, to enqueue more.
    ///
    /// ```
    /// # use leveret::{Context, TaskResult, task};
    /// #[task(queue = "newsletters")]
    /// async fn newsletter(context: &Context, readers: Vec<String>) -> TaskResult {
    ///     let mails = readers.into_iter().map(|to| SendEmail { to });
    ///     context.client().enqueue_all(mails).await.all_ok()?;
    ///     Ok(())
    /// }
    ///
    /// #[task(queue = "emails")]
    /// async fn send_email(to: String) {
    ///     println!("to {to}");
    /// }
    /// ```
    pub fn client(&self) -> &Client {
        &self.environment.client
    }

    /// True if the attempt should end: it timed out, or the worker's shutdown timeout is over. A blocking function cannot be
    /// stopped, and so should check this from time to time.
    ///
    /// ```
    /// # use leveret::{Context, task};
    /// #[task(queue = "primes", timeout = "1m")]
    /// fn count_primes(context: &Context, below: u64) -> Result<u64, String> {
    ///     let mut primes = 0;
    ///     for n in 2..below {
    ///         if context.is_cancelled() {
    ///             return Err(format!("cancelled at {n}"));
    ///         }
    ///         primes += u64::from((2..n).all(|factor| n % factor != 0));
    ///     }
    ///     Ok(primes)
    /// }
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.timed_out.is_cancelled() || self.environment.steps.is_cancelling()
    }

    /// Waits until the attempt should end, as [`is_cancelled`](Self::is_cancelled) tells. Cancel safe.
    ///
    /// ```
    /// # use leveret::{Context, TaskResult, task};
    /// # async fn copy(path: &str) -> TaskResult { let _ = path; Ok(()) }
    /// # async fn clean_up(path: &str) { let _ = path; }
    /// #[task(queue = "copies", timeout = "10m")]
    /// async fn copy_file(context: &Context, path: String) -> TaskResult {
    ///     tokio::select! {
    ///         copied = copy(&path) => copied,
    ///         () = context.cancelled() => {
    ///             clean_up(&path).await;
    ///             Err("cancelled".into())
    ///         }
    ///     }
    /// }
    /// ```
    pub async fn cancelled(&self) {
        tokio::select! {
            () = self.timed_out.cancelled() => {}
            () = self.environment.steps.cancelling() => {}
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.id)
            .field("task", &self.task)
            .field("queue", &self.queue())
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
