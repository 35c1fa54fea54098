//! Enqueues one job: options, then the sending.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use super::{Client, Enqueued};
use crate::broker::Publish;
use crate::envelope::{HeaderValue, JobId};
use crate::error::EnqueueError;
use crate::job::{IntoJob, Job};
#[cfg(feature = "sqlite-system")]
use crate::outbox::SqlInsert;
use crate::seal::Due;
use crate::sending::Sending;
use crate::task::Task;
use crate::topology::QueueSpec;

impl Client {
    /// Enqueues a job: the payload of a task, or a [`Job`]. `.await` it: `Ok` means that the broker has the job, and holds its
    /// id.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::{Client, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// let job = client.enqueue(SendEmail { to: "ada@example.com".into() }).await?;
    /// println!("enqueued {job}");
    ///
    /// client
    ///     .enqueue(SendEmail { to: "grace@example.com".into() })
    ///     .delay(Duration::from_secs(60))
    ///     .header("tenant", "blue")
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The future's: an [`EnqueueError`], whose variants say whether the broker may have the job.
    pub fn enqueue<J: IntoJob>(&self, job: J) -> Enqueue<J::Task> {
        Enqueue(Sending::Prepared(Outgoing { client: self.clone(), job: job.into_job() }))
    }
}

/// A job about to be enqueued: set options, then `.await` it. It is a future like any other, for `tokio::spawn` or `join!`.
/// Made by [`Client::enqueue`].
///
/// ```
/// # use std::time::Duration;
/// # use leveret::{Client, task};
/// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
/// let welcome = client.enqueue(SendEmail { to: "ada@example.com".into() });
/// let reminder = client.enqueue(SendEmail { to: "ada@example.com".into() }).delay(Duration::from_secs(86_400));
///
/// let (welcome, reminder) = tokio::join!(welcome, reminder);
/// println!("enqueued {} and {}", welcome?, reminder?);
/// # Ok(()) }
/// ```
///
/// Setting an option after the first poll panics.
#[derive(Debug)]
#[must_use = "nothing is enqueued until you `.await` it"]
pub struct Enqueue<T>(Sending<Outgoing<T>, Result<Enqueued, EnqueueError>>);

/// A job, and by which client it is enqueued.
#[derive(Debug)]
struct Outgoing<T> {
    client: Client,
    job: Job<T>,
}

impl<T: Task> Enqueue<T> {
    /// Runs the job not earlier than `delay` from now. RabbitMQ measures the delay itself, whatever the machines' clocks say;
    /// the other brokers go by this machine's clock.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.message().job.options.due = Due::After(delay);
        self
    }

    /// Runs the job not earlier than `moment` by this machine's clock, which is read once. A moment in the past means now.
    pub fn at(mut self, moment: SystemTime) -> Self {
        self.0.message().job.options.due = Due::At(moment);
        self
    }

    /// Sets the priority: jobs of a higher number run earlier, where the queue supports priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.message().job.options.priority = Some(priority);
        self
    }

    /// Sets the job's id. Two jobs of one id are two jobs: the handler deduplicates.
    pub fn id(mut self, id: impl Into<JobId>) -> Self {
        self.0.message().job.options.id = Some(id.into());
        self
    }

    /// Adds a header, which the handler finds in its `Context`. Names beginning with `q-` are Leveret's own.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.0.message().job.options.headers.insert(name, value);
        self
    }

    /// Makes an `INSERT` of the job, for a transaction of your own: the job is enqueued if, and only if, that commits. See
    /// [`SqlInsert`], and [`Job::into_sql`] for a program that has no client.
    ///
    /// ```
    /// # use leveret::{Client, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # async fn f(client: Client, database: &mut rusqlite::Connection) -> Result<(), leveret::BoxError> {
    /// let job = client.enqueue(SendEmail { to: "ada@example.com".into() }).header("tenant", "blue").into_sql()?;
    ///
    /// let transaction = database.transaction()?;
    /// transaction.execute("INSERT INTO account (name) VALUES ('Ada')", [])?;
    /// transaction.execute(job.sql(), rusqlite::params_from_iter(job.params()))?;
    /// transaction.commit()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the job cannot be encoded, or is too large.
    #[cfg(feature = "sqlite-system")]
    pub fn into_sql(self) -> Result<SqlInsert, EnqueueError> {
        let Outgoing { client, job: Job { payload, options } } = self.0.into_message();
        Ok(SqlInsert::of_job(&client.sealer().job(&payload, options)?))
    }

    /// Makes the compiler name the missing feature.
    #[cfg(not(feature = "sqlite-system"))]
    #[doc(hidden)]
    pub fn into_sql(self) -> Result<crate::without_sqlite::NoInsert, EnqueueError>
    where
        Self: crate::without_sqlite::IntoSql,
    {
        unreachable!("nothing is `IntoSql`")
    }
}

impl<T: Task> Outgoing<T> {
    /// Encodes the payload before the first `.await`, so that its type is no part of the future that waits.
    fn send(self) -> impl Future<Output = Result<Enqueued, EnqueueError>> + Send + use<T> {
        let Self { client, job: Job { payload, options } } = self;
        let sealed = client.sealer().job(&payload, options);
        send(client, T::queue(), sealed)
    }
}

async fn send(
    client: Client,
    queue: &'static QueueSpec,
    sealed: Result<Publish, EnqueueError>,
) -> Result<Enqueued, EnqueueError> {
    let publish = sealed?;
    let id = publish.envelope.id.clone();
    client.publish_to(queue, publish).await?;
    Ok(Enqueued::new(id))
}

impl<T: Task> Future for Enqueue<T> {
    type Output = Result<Enqueued, EnqueueError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, Outgoing::send)
    }
}

// The payload is moved out of it before anything borrows from it.
impl<T> Unpin for Enqueue<T> {}
