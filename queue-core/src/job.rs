//! A job before it has a client: a payload with options. First hop of a job: `job` → `client` → `seal` → `broker/*`.

use std::time::{Duration, SystemTime};

#[cfg(feature = "sqlite-system")]
use crate::clock::Clock;
use crate::envelope::{HeaderValue, JobId};
use crate::error::EnqueueError;
#[cfg(feature = "sqlite-system")]
use crate::outbox::SqlInsert;
#[cfg(feature = "sqlite-system")]
use crate::seal::Sealer;
use crate::seal::{Due, Options};
use crate::task::Task;

/// A payload with options: when the job runs, with which priority, id and headers. [`Client::enqueue`] and
/// [`Client::enqueue_all`] take it in place of a bare payload.
///
/// ```
/// use std::time::Duration;
///
/// use leveret::Job;
/// # use leveret::{Client, task};
/// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
///
/// let reminder = Job::new(SendEmail { to: "ada@example.com".into() })
///     .delay(Duration::from_secs(60))
///     .header("tenant", "blue");
/// client.enqueue(reminder).await?;
/// # Ok(()) }
/// ```
///
/// [`Client::enqueue`]: crate::client::Client::enqueue
/// [`Client::enqueue_all`]: crate::client::Client::enqueue_all
#[derive(Debug, Clone)]
#[must_use = "a job is not enqueued until a client enqueues it"]
pub struct Job<T> {
    pub(crate) payload: T,
    pub(crate) options: Options,
}

impl<T: Task> Job<T> {
    /// A job that is due at once, with the options of its task.
    pub fn new(payload: T) -> Self {
        Self { payload, options: Options::default() }
    }

    /// Runs the job not earlier than `delay` after it was enqueued. RabbitMQ measures the delay itself, whatever the machines'
    /// clocks say; the other brokers go by this machine's clock. Replaces [`at`](Self::at).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use leveret::{Client, Job, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// let mail = Job::new(SendEmail { to: "ada@example.com".into() });
    /// client.enqueue(mail.delay(Duration::from_secs(3600))).await?;
    /// # Ok(()) }
    /// ```
    pub fn delay(mut self, delay: Duration) -> Self {
        self.options.due = Due::After(delay);
        self
    }

    /// Runs the job not earlier than `moment` by this machine's clock. A moment in the past means now. Replaces
    /// [`delay`](Self::delay).
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use leveret::{Client, Job, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    /// client.enqueue(Job::new(SendEmail { to: "ada@example.com".into() }).at(tomorrow)).await?;
    /// # Ok(()) }
    /// ```
    pub fn at(mut self, moment: SystemTime) -> Self {
        self.options.due = Due::At(moment);
        self
    }

    /// Sets the priority: jobs of a higher number run earlier, where the queue supports priorities.
    ///
    /// ```
    /// # use leveret::{Client, Job, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// client.enqueue(Job::new(SendEmail { to: "ada@example.com".into() }).priority(5)).await?;
    /// # Ok(()) }
    /// ```
    pub fn priority(mut self, priority: u8) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// Sets the job's id. Two jobs of one id are two jobs: the handler deduplicates. Without it, each enqueued job gets an
    /// id of its own, also where one `Job` is cloned.
    ///
    /// ```
    /// # use leveret::{Client, Job, task};
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// let job = Job::new(SendEmail { to: "ada@example.com".into() }).id("welcome-ada");
    /// assert_eq!(client.enqueue(job).await?.as_str(), "welcome-ada");
    /// # Ok(()) }
    /// ```
    pub fn id(mut self, id: impl Into<JobId>) -> Self {
        self.options.id = Some(id.into());
        self
    }

    /// Adds a header, which the handler finds in its `Context`. Names beginning with `q-` are Leveret's own.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.options.headers.insert(name, value);
        self
    }

    /// Makes an `INSERT` of the job, for a transaction of your own: the job is enqueued if, and only if, that commits. No client
    /// is needed, so a program that only writes such rows needs no broker; [`SqlInsert`] tells what becomes of the row. A
    /// delay counts from now by the system's clock, and the payload may have 16 MiB.
    ///
    /// ```
    /// use leveret::Job;
    /// # use leveret::task;
    /// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
    /// # fn f(database: &mut rusqlite::Connection) -> Result<(), leveret::BoxError> {
    ///
    /// let job = Job::new(SendEmail { to: "ada@example.com".into() }).header("tenant", "blue").into_sql()?;
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
        Ok(SqlInsert::of_job(&Sealer::without_client(&Clock::system()).job(&self.payload, self.options)?))
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

    /// The payload.
    pub fn payload(&self) -> &T {
        &self.payload
    }
}

/// Anything that can be enqueued: the payload of a task, or a [`Job`], which is a payload with options.
///
/// ```
/// use leveret::{Client, EnqueueError, IntoJob};
///
/// async fn nightly(client: &Client, job: impl IntoJob) -> Result<(), EnqueueError> {
///     client.enqueue(job).priority(1).await?;
///     Ok(())
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the payload of a task",
    label = "neither a payload nor a `Job`",
    note = "`#[task]` above a function generates its payload: `send_email` gives `SendEmail`"
)]
pub trait IntoJob {
    /// The task of the job.
    type Task: Task;

    /// Makes a job of it.
    fn into_job(self) -> Job<Self::Task>;
}

#[diagnostic::do_not_recommend]
impl<T: Task> IntoJob for T {
    type Task = T;

    fn into_job(self) -> Job<T> {
        Job::new(self)
    }
}

impl<T: Task> IntoJob for Job<T> {
    type Task = T;

    fn into_job(self) -> Self {
        self
    }
}
