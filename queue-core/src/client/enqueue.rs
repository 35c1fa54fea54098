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
    /// Enqueues a job: the payload of a task, or a [`Job`]. `.await` it: `Ok` means that the broker has it, and brings its
    /// id.
    ///
    /// ```no_run
    /// # use queue_core::{client::Client, error::EnqueueError, job::Job, task::Task};
    /// # use std::time::Duration;
    /// # async fn f<T: Task + Clone>(client: Client, send_email: T) -> Result<(), EnqueueError> {
    /// let job = client.enqueue(send_email.clone()).await?;
    /// println!("enqueued {job}");
    ///
    /// client.enqueue(send_email.clone()).delay(Duration::from_secs(60)).await?;
    ///
    /// let later = Job::new(send_email).delay(Duration::from_secs(60));
    /// client.enqueue(later).await?;
    /// # Ok(()) }
    /// ```
    pub fn enqueue<J: IntoJob>(&self, job: J) -> Enqueue<J::Task> {
        Enqueue(Sending::Prepared(Outgoing { client: self.clone(), job: job.into_job() }))
    }
}

/// A job about to be enqueued: options, then `.await`. A future like any other, for `tokio::spawn` or `join!`.
///
/// Its options panic once it has been polled.
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
    /// Runs it not earlier than `delay` from now. RabbitMQ measures that itself, whatever the machines' clocks say; the other
    /// brokers go by this machine's clock.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.message().job.options.due = Due::After(delay);
        self
    }

    /// Runs it not earlier than `moment` by this machine's clock, which is asked once. A moment that is past is now.
    pub fn at(mut self, moment: SystemTime) -> Self {
        self.0.message().job.options.due = Due::At(moment);
        self
    }

    /// A higher number runs earlier, where the queue knows priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.message().job.options.priority = Some(priority);
        self
    }

    /// Names the job. Two jobs of one id are two jobs: the handler deduplicates.
    pub fn id(mut self, id: impl Into<JobId>) -> Self {
        self.0.message().job.options.id = Some(id.into());
        self
    }

    /// Adds a header, which the handler finds in its `Context`. Names beginning with `q-` are Leveret's own.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.0.message().job.options.headers.insert(name, value);
        self
    }

    /// The job as a row to insert in a transaction of your own: it is enqueued if, and only if, that commits. See
    /// [`SqlInsert`], and [`Job::into_sql`] for a program that has no client.
    ///
    /// # Errors
    /// If the job cannot be encoded, or is too large.
    #[cfg(feature = "sqlite-system")]
    pub fn into_sql(self) -> Result<SqlInsert, EnqueueError> {
        let Outgoing { client, job: Job { payload, options } } = self.0.into_message();
        Ok(SqlInsert::of_job(&client.sealer().job(&payload, options)?))
    }

    /// Says which feature it takes.
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
    /// Seals before the first wait, so that the payload's type is in nothing that waits.
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
