//! Enqueues one job: options, then the sending.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use super::Client;
use crate::broker::Publish;
#[cfg(feature = "sqlite-system")]
use crate::broker::sqlite::SqlInsert;
use crate::envelope::{HeaderValue, JobId};
use crate::error::EnqueueError;
use crate::seal::{Due, Options};
use crate::sending::Sending;
use crate::task::Task;
use crate::topology::QueueSpec;

impl Client {
    /// Enqueues a job. `.await` it: `Ok(id)` means that the broker has it.
    ///
    /// ```no_run
    /// # use queue_core::{client::Client, task::Task, error::EnqueueError};
    /// # use std::time::Duration;
    /// # async fn f<T: Task + Clone>(client: Client, send_email: T) -> Result<(), EnqueueError> {
    /// client.enqueue(send_email.clone()).await?;
    /// client.enqueue(send_email).delay(Duration::from_secs(60)).await?;
    /// # Ok(()) }
    /// ```
    pub fn enqueue<T: Task>(&self, task: T) -> Enqueue<T> {
        Enqueue(Sending::Prepared(Outgoing {
            client: self.clone(),
            payload: task,
            options: Options::default(),
        }))
    }
}

/// A job about to be enqueued: options, then `.await`. A future like any other, for `tokio::spawn` or `join!`.
///
/// Its options panic once it has been polled.
#[derive(Debug)]
#[must_use = "nothing is enqueued until you `.await` it"]
pub struct Enqueue<T>(Sending<Outgoing<T>, Result<JobId, EnqueueError>>);

/// A payload, and how it is enqueued.
#[derive(Debug)]
struct Outgoing<T> {
    client: Client,
    payload: T,
    options: Options,
}

impl<T: Task> Enqueue<T> {
    /// Runs it not earlier than `delay` from now. RabbitMQ measures that itself, whatever the machines' clocks say; the other
    /// brokers go by this machine's clock.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.message().options.due = Due::After(delay);
        self
    }

    /// Runs it not earlier than `moment` by this machine's clock, which is asked once. A moment that is past is now.
    pub fn at(mut self, moment: SystemTime) -> Self {
        self.0.message().options.due = Due::At(moment);
        self
    }

    /// A higher number runs earlier, where the queue knows priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.message().options.priority = Some(priority);
        self
    }

    /// Names the job. Two jobs of one id are two jobs: the handler deduplicates.
    pub fn id(mut self, id: impl Into<JobId>) -> Self {
        self.0.message().options.id = Some(id.into());
        self
    }

    /// Adds a header, which the handler finds in its `Context`. Names beginning with `q-` are Leveret's own.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.0.message().options.headers.insert(name, value);
        self
    }

    /// The job as a row to insert in a transaction of your own: it is enqueued if, and only if, that commits. See
    /// [`SqlInsert`].
    ///
    /// # Errors
    /// If the job cannot be encoded, or is too large.
    #[cfg(feature = "sqlite-system")]
    pub fn into_sql(self) -> Result<SqlInsert, EnqueueError> {
        let Outgoing { client, payload, options } = self.0.into_message();
        Ok(SqlInsert::new(&client.sealer().job(&payload, options)?))
    }

    /// Says which feature it takes.
    #[cfg(not(feature = "sqlite-system"))]
    #[doc(hidden)]
    pub fn into_sql(self) -> Result<without_sqlite::NoInsert, EnqueueError>
    where
        Self: without_sqlite::IntoSql,
    {
        unreachable!("nothing is `IntoSql`")
    }
}

/// Stands where the feature `sqlite` is off, so that the compiler says which feature is missing, and not that there is no
/// such method.
#[cfg(not(feature = "sqlite-system"))]
mod without_sqlite {
    #[diagnostic::on_unimplemented(
        message = "`into_sql` takes the feature `sqlite` of `leveret`, which is off",
        label = "the feature is off",
        note = "`cargo add leveret --features sqlite`, or `sqlite-system` to link the system's library"
    )]
    pub trait IntoSql {}

    /// Has no value.
    #[derive(Debug)]
    pub enum NoInsert {}

    impl NoInsert {
        pub fn sql(&self) -> &'static str {
            match *self {}
        }

        pub fn params(&self) -> [String; 0] {
            match *self {}
        }
    }
}

impl<T: Task> Outgoing<T> {
    /// Seals before the first wait, so that the payload's type is in nothing that waits.
    fn send(self) -> impl Future<Output = Result<JobId, EnqueueError>> + Send + use<T> {
        let Self { client, payload, options } = self;
        let sealed = client.sealer().job(&payload, options);
        send(client, T::queue(), sealed)
    }
}

async fn send(
    client: Client,
    queue: &'static QueueSpec,
    sealed: Result<Publish, EnqueueError>,
) -> Result<JobId, EnqueueError> {
    let publish = sealed?;
    let id = publish.envelope.id.clone();
    client.publish_to(queue, publish).await?;
    Ok(id)
}

impl<T: Task> Future for Enqueue<T> {
    type Output = Result<JobId, EnqueueError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, Outgoing::send)
    }
}

// The payload is moved out of it before anything borrows from it.
impl<T> Unpin for Enqueue<T> {}
