//! What a handler may know about its job and do besides it: `&Context`.

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

/// What all jobs of one queue of one worker find around them.
pub(crate) struct Environment {
    pub(crate) client: Client,
    pub(crate) queue: Name,
    /// What by-reference parameters get.
    pub(crate) state: State,
    /// How far the worker has gone in stopping.
    pub(crate) steps: Arc<Steps>,
    /// The functions without `async` that run.
    pub(crate) blocking: Arc<Blocking>,
}

/// What a job's task says of its run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// The task's name on the wire.
    pub(crate) task: &'static str,
    pub(crate) timeout: Option<Duration>,
    /// Whether the handler sees all of AMQP's properties, as a subscriber does.
    pub(crate) is_event: bool,
    /// Whether somebody waits for what the handler returns.
    pub(crate) is_call: bool,
    pub(crate) started: Instant,
}

/// What a handler may know about its job. A task takes it as `&Context`.
pub struct Context {
    pub(crate) id: JobId,
    pub(crate) task: &'static str,
    pub(crate) attempt: u32,
    pub(crate) deadline: Option<Instant>,
    /// The attempt timed out. That the worker stops is in the environment's steps: one token for all jobs.
    pub(crate) timed_out: CancellationToken,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) redelivered: bool,
    pub(crate) headers: Headers,
    /// Somebody waits for what the handler returns.
    pub(crate) is_call: bool,
    /// What the payload is written in. Whether that is known matters only to whoever reads it.
    pub(crate) format: Result<Format, UnknownFormat>,
    /// What is asked for less often. Empty for a job that has none of it.
    properties: Option<Box<Properties>>,
    pub(crate) environment: Arc<Environment>,
    /// Freed with the context, and so only when the handler has let go of it: a blocking function that outlives its
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
    /// The context of `delivery`. Takes out of it what its settlement does not need.
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

    /// What watchers of the worker are told of the job.
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
    /// Only a message of another program may come without one (AMQP `message_id`), and then this is one of our making; see
    /// [`has_stable_id`](Self::has_stable_id).
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// Whether the job brought its [`id`](Self::id), as all do that Leveret enqueues.
    ///
    /// A message without AMQP's `message_id` is given an id when it is delivered. Its retries, its dead letter and their
    /// replays keep that id. But when a worker dies before it has settled the message, or loses its connection, the message
    /// comes again as it was, and gets another id: AMQP has nothing else to know it by. So deduplicate such a job by what
    /// its payload says, through all its attempts, or have its producer set `message_id`:
    ///
    /// ```
    /// # use queue_core::outcome::TaskResult;
    /// # use queue_worker::Context;
    /// # async fn charge_once(key: &str) -> TaskResult { let _ = key; Ok(()) }
    /// // #[task(queue = "charges")]
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

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When the attempt times out; `None` where the task has no timeout.
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

    /// Says that the broker has delivered this attempt before, so that it may have run in part. Also true where RabbitMQ says otherwise,
    /// because a copy took the place of a job that was given back.
    pub fn is_redelivered(&self) -> bool {
        self.redelivered
    }

    /// The message's headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The program that published the message, if it says so (AMQP `app_id`).
    pub fn app_id(&self) -> Option<&str> {
        self.properties.as_ref()?.app_id.as_deref()
    }

    /// The user who published the message, if it says so (AMQP `user_id`). RabbitMQ has checked it. On a retry or replay it
    /// comes from a header, `q-user-id`, which anybody may write who may publish.
    pub fn user_id(&self) -> Option<&str> {
        self.headers.get(header::USER_ID).and_then(HeaderValue::as_str)
    }

    /// A client on the worker's broker, to enqueue more.
    pub fn client(&self) -> &Client {
        &self.environment.client
    }

    /// Whether the attempt should end: it timed out, or the worker was told to stop at once. A blocking function
    /// looks here from time to time, since nobody can stop it.
    pub fn is_cancelled(&self) -> bool {
        self.timed_out.is_cancelled() || self.environment.steps.is_cancelling()
    }

    /// Waits until the attempt should end. Cancel safe.
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
