//! Calls a task and waits for its reply: an RPC. `client` → `call` → `envelope` → `broker/*` ⇢ worker ⇢ `replies`.
//!
//! [`wire`] says what request and reply look like to any AMQP program, [`error`] what can go wrong, and `replies` brings
//! each reply to the call that waits for it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::broker::{Health, Publish};
use crate::client::{Client, TRIES};
use crate::envelope::{Envelope, HeaderValue};
use crate::error::{EnqueueError, Error, ErrorKind, PublishError, chain};
use crate::seal::Options;
use crate::sending::Sending;
use crate::task::Task;
use crate::topology::QueueSpec;

pub mod error;
pub(crate) mod replies;
pub mod wire;

pub use error::CallError;

/// How long a call waits that sets no timeout.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a call that got no reply looks for the reason.
const LOOK: Duration = Duration::from_secs(1);

impl Client {
    /// Calls a task and waits for its reply. `.await` it: `Ok` is what the task's function returned.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use leveret::{Client, Worker, task};
    ///
    /// #[task(queue = "sums")]
    /// async fn add(a: u64, b: u64) -> Result<u64, String> {
    ///     a.checked_add(b).ok_or_else(|| format!("{a} + {b} is too large"))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// # tokio::spawn(Worker::new(&client).task::<Add>().run());
    /// let sum = client.call(Add { a: 2, b: 3 }).timeout(Duration::from_secs(5)).await?;
    /// assert_eq!(sum, 5);
    /// # Ok(()) }
    /// ```
    ///
    /// The job runs once: the worker reports an error to the caller, does not retry, and makes no dead letter. The caller
    /// decides what to do. Where a worker ends while it runs the job, the broker gives the job to another. A job that must be
    /// done is [enqueued](Self::enqueue), not called. A worker drops a call whose timeout has passed before it begins; clocks of
    /// two hosts that differ shift that moment by as much.
    ///
    /// A full queue refuses the call with [`QueueFull`](EnqueueError::QueueFull) where the task says `max_length`, or
    /// `declare = "passive"`. On RabbitMQ, a queue that only a policy limits drops the call silently, and the call times out.
    ///
    /// A task that calls a task of its own queue holds its worker's slot while it waits.
    ///
    /// Cancel safe: dropping the call stops waiting for it, but the job may run.
    ///
    /// # Errors
    /// The future's: a [`CallError`].
    pub fn call<T: Task>(&self, task: T) -> Request<T> {
        Request(Sending::Prepared(Call {
            client: self.clone(),
            task,
            timeout: TIMEOUT,
            options: Options::default(),
        }))
    }
}

/// A call about to be made: set options, then `.await` it. It is a future like any other, for `tokio::spawn` or `join!`. Made
/// by [`Client::call`].
///
/// ```no_run
/// # use std::time::Duration;
/// # use leveret::{Client, task};
/// # #[task(queue = "sums")] async fn add(a: u64, b: u64) -> Result<u64, String> { Ok(a + b) }
/// # async fn f(client: Client) -> leveret::Result<()> {
/// let sum = client.call(Add { a: 2, b: 3 }).timeout(Duration::from_secs(5)).header("tenant", "blue").await?;
/// # Ok(()) }
/// ```
///
/// Setting an option after the first poll panics.
#[derive(Debug)]
#[must_use = "nothing is called until you `.await` it"]
pub struct Request<T: Task>(Sending<Call<T>, Result<T::Output, CallError>>);

/// A task to be called, and how long to wait.
#[derive(Debug)]
struct Call<T> {
    client: Client,
    task: T,
    timeout: Duration,
    options: Options,
}

impl<T: Task> Request<T> {
    /// Sets how long to wait for the reply, counted from the `.await`: connecting, queueing and running included. Default 30 s.
    /// A call that times out takes up to a second more, in which it looks if the queue has a worker at all.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.0.message().timeout = timeout;
        self
    }

    /// Sets the priority: jobs of a higher number run earlier, where the queue supports priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.message().options.priority = Some(priority);
        self
    }

    /// Adds a header, which the handler finds in its `Context`. Names beginning with `q-` are Leveret's own.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.0.message().options.headers.insert(name, value);
        self
    }
}

impl<T: Task> Call<T> {
    async fn send(self) -> Result<T::Output, CallError> {
        crate::runtime::require("a call")
            .map_err(|error| PublishError::Refused(chain(&error)))
            .map_err(EnqueueError::Publish)?;
        if !T::options().replies {
            let words =
                format!("task `{}` says `reply = false`, so a call would wait in vain: enqueue it", T::NAME);
            return Err(EnqueueError::Publish(PublishError::Invalid(words)).into());
        }
        let publish = self.client.sealer().request(&self.task, self.options, self.timeout)?;
        let clock = self.client.clock();

        let mut asking =
            Asking { client: &self.client, task: T::NAME, queue: T::queue(), publish, may_be_sent: false };
        let reply = tokio::select! {
            // In this order: a reply that is there counts, however late.
            biased;
            reply = asking.reply() => Some(reply?),
            () = clock.sleep(self.timeout) => None,
        };
        match reply {
            Some(reply) => wire::read::<T>(&reply),
            None => Err(asking.gave_up(self.timeout).await),
        }
    }
}

impl<T: Task> Future for Request<T> {
    type Output = Result<T::Output, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, Call::send)
    }
}

// The task is moved out of it before anything borrows from it.
impl<T: Task> Unpin for Request<T> {}

/// A call under way.
struct Asking<'call> {
    client: &'call Client,
    task: &'static str,
    queue: &'static QueueSpec,
    publish: Publish,
    /// The broker may have the request.
    may_be_sent: bool,
}

impl Asking<'_> {
    /// Waits for the reply, for ever if need be. Cancel safe.
    async fn reply(&mut self) -> Result<Envelope, CallError> {
        let id = self.publish.envelope.id.to_string();
        let (mut is_declared_again, mut refused) = (false, 1);
        loop {
            self.may_be_sent = false;
            // Before it waits for the reply: declaring may take longer than the consumer of replies lives.
            self.client.declare_for(self.queue).await?;
            let replies = self.client.replies();
            let line = replies.line(self.client.broker()).await.map_err(|error| self.not_opened(error))?;
            let Some(mut waiting) = line.wait_for(id.clone()) else {
                replies.forget(&line);
                continue;
            };

            self.may_be_sent = true;
            let publishing = self.client.request(self.queue, self.publish.clone());
            tokio::pin!(publishing);
            let (published, has_ended) = tokio::select! {
                // In this order: a reply that is here counts, whatever has become of the connection.
                biased;
                reply = waiting.reply() => match reply {
                    Some(reply) => return Ok(reply),
                    None => (publishing.await, true),
                },
                published = &mut publishing => (published, false),
            };
            match published {
                // Confirmed or not, only the reply counts now. If the connection was lost, the line has ended.
                Ok(()) | Err(EnqueueError::Publish(PublishError::Unconfirmed { .. })) => {}
                // The queue was deleted since we declared it.
                Err(EnqueueError::Publish(PublishError::Unroutable { .. })) if !is_declared_again => {
                    is_declared_again = true;
                    self.client.forget(self.queue.name());
                    continue;
                }
                // RabbitMQ also refuses in this way while the queue is being deleted. It has not taken the request.
                Err(EnqueueError::QueueFull { .. })
                    if refused < TRIES && self.client.refuses_for_a_moment(self.queue).await =>
                {
                    refused += 1;
                    continue;
                }
                // The connection was lost before the request was sent, so the next connection can send it.
                Err(EnqueueError::Publish(PublishError::NoReader)) => {
                    replies.forget(&line);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }

            let reply = if has_ended { None } else { waiting.reply().await };
            return reply.ok_or_else(|| self.lost(line.why()));
        }
    }

    /// The error of a call that could not begin, since replies cannot be read.
    fn not_opened(&self, error: Error) -> CallError {
        let error = match error.kind() {
            ErrorKind::Closed => PublishError::Closed,
            ErrorKind::Connection => {
                let waited = self.client.publish_timeout();
                PublishError::Unavailable { waited, source: Some(error.into()) }
            }
            _ => PublishError::Refused(chain(&error)),
        };
        EnqueueError::Publish(error).into()
    }

    fn lost(&self, source: impl Into<crate::error::BoxError>) -> CallError {
        CallError::Lost { task: self.task, source: source.into() }
    }

    /// The error of a call without a reply, after at most a second in which it looks for the reason.
    async fn gave_up(&self, waited: Duration) -> CallError {
        let broker = self.client.broker();
        let trouble = match broker.info().health {
            Health::Up => None,
            Health::Blocked(reason) => Some(format!("the broker takes no messages at the moment: {reason}")),
            Health::Down(reason) => Some(format!("the broker is away: {reason}")),
        };
        let source = trouble.map(Into::into);
        if !self.may_be_sent {
            return EnqueueError::Publish(PublishError::Unavailable { waited, source }).into();
        }
        let (task, queue) = (self.task, self.queue.name());
        if source.is_none()
            && let Some(operator) = broker.operator()
            && let Ok(Ok(stats)) = tokio::time::timeout(LOOK, operator.inspect(queue)).await
            && stats.consumers == 0
        {
            return CallError::NoWorker { task, queue: queue.to_string(), waited };
        }
        CallError::Timeout { task, queue: queue.to_string(), waited, source }
    }
}
