//! What enqueues. First hop of a job: `client` → `envelope` → `broker/*`.
//!
//! `Ok` means that the broker has the job: confirmed, and routed to the task's queue.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

pub use self::builder::ClientBuilder;
use crate::admin::Admin;
#[cfg(feature = "sqlite-system")]
use crate::broker::sqlite::SqlInsert;
use crate::broker::{Broker, BrokerInfo, Operator, Publish, QueueStats, Settings};
use crate::call::replies::Replies;
use crate::clock::Clock;
use crate::declaring::Declaring;
use crate::envelope::{Envelope, HeaderValue, Headers, JobId, header};
use crate::error::{EnqueueError, Error, ErrorKind, PublishError, Result, chain};
use crate::publish::refuse_own_headers;
use crate::sending::Sending;
use crate::task::Task;
use crate::topology::{MAX_NAME, Namespace, QueueSpec, Topology};

mod builder;
mod environment;

/// How often a job is published to a queue that is missing, or refuses it without being full.
pub(crate) const TRIES: u32 = 3;
/// How long the deletion of a queue takes.
const MOMENT: Duration = Duration::from_millis(50);

/// A connection to a broker, by which a program enqueues. Cheap to clone; clones share everything.
///
/// It comes back by itself when the broker has been away.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    broker: Arc<dyn Broker>,
    settings: Settings,
    max_payload: usize,
    /// Queues and exchanges whose topology the broker has confirmed to us.
    declared: RwLock<HashSet<String>>,
    declaring: Declaring,
    /// Who waits for which reply.
    replies: Replies,
}

impl Client {
    /// Connects to the broker that `url` names: `memory:`, or `amqp://user:password@host:5672/vhost`.
    ///
    /// # Errors
    /// If the URL makes no sense, its broker is not compiled in, or it refuses us (wrong password, missing vhost,
    /// bad certificate). See [`ClientBuilder::connect`] for a broker that is away.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder().connect(url).await
    }

    /// Connects to the broker that the environment names: by `LEVERET_URL`, or where that is unset by `RABBITMQ_URL`.
    /// There is no default, since a program whose variable is missing would lose its jobs in it.
    /// `LEVERET_MANAGEMENT_URL` is that of RabbitMQ's [management API](ClientBuilder::management).
    ///
    /// # Errors
    /// As [`connect`](Self::connect); also if neither variable is set, or the one that counts is empty or not UTF-8.
    pub async fn from_env() -> Result<Self> {
        Self::builder().from_env().await
    }

    /// Sets what [`connect`](Self::connect) leaves at its default.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

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
        Enqueue(Sending::Prepared(Job {
            client: self.clone(),
            task,
            due: Due::Now,
            priority: None,
            id: None,
            headers: Headers::new(),
        }))
    }

    /// Enqueues many jobs of one task, pipelined, and reports each by itself, in their order. One that fails does
    /// not keep the others from being enqueued. However many there are: a job's time is up only when the broker has taken
    /// none of them for the whole publish timeout.
    #[must_use = "each result says whether its job was enqueued"]
    pub async fn enqueue_all<T: Task>(
        &self,
        tasks: impl IntoIterator<Item = T>,
    ) -> Vec<Result<JobId, EnqueueError>> {
        let envelopes: Vec<_> =
            tasks.into_iter().map(|task| self.check_payload(self.envelope(&task, Headers::new())?)).collect();
        if let Err(error) = self.declare_queue(T::queue()).await {
            let again = || Error::new(error.kind(), chain(&error));
            return envelopes
                .into_iter()
                .map(|envelope| envelope.and_then(|_| Err(self.declare_error(T::queue(), again()))))
                .collect();
        }

        // The outcome of each job, and what it takes to make its message once more: a payload is shared, not copied.
        let mut jobs: Vec<Result<(JobId, Bytes), EnqueueError>> = Vec::with_capacity(envelopes.len());
        let mut batch = Vec::with_capacity(envelopes.len());
        for envelope in envelopes {
            jobs.push(envelope.map(|envelope| {
                let job = (envelope.id.clone(), envelope.payload.clone());
                batch.push(Publish::to_queue(T::queue().name().clone(), envelope));
                job
            }));
        }
        let mut outcomes = self.inner.broker.publish_all(batch).await;
        for _ in 1..TRIES {
            if !self.publish_again::<T>(jobs.iter().flatten(), &mut outcomes).await {
                break;
            }
        }
        let mut outcomes = outcomes.into_iter();
        jobs.into_iter()
            .map(|job| {
                let (id, _) = job?;
                let outcome = outcomes.next().unwrap_or(Err(PublishError::Closed));
                outcome.map(|()| id).map_err(|error| enqueue_error(T::queue(), error))
            })
            .collect()
    }

    /// Publishes once more what did not reach a queue that was deleted since we declared it; it is declared again. Says
    /// whether there was anything.
    async fn publish_again<T: Task>(
        &self,
        jobs: impl Iterator<Item = &(JobId, Bytes)>,
        outcomes: &mut [Result<(), PublishError>],
    ) -> bool {
        let unroutable = |outcome: &Result<(), _>| matches!(outcome, Err(PublishError::Unroutable { .. }));
        let refused = |outcome: &Result<(), _>| matches!(outcome, Err(PublishError::QueueFull { .. }));
        let are_unroutable = outcomes.iter().any(unroutable);
        let are_refused = outcomes.iter().any(refused) && self.refuses_for_a_moment(T::queue()).await;
        if are_unroutable {
            self.forget(T::queue().name());
        }
        // If it cannot be declared, the jobs keep their outcome, which names the queue.
        if !(are_unroutable || are_refused) || self.declare_queue(T::queue()).await.is_err() {
            return false;
        }
        let mut failed = Vec::new();
        let mut batch = Vec::new();
        for ((id, payload), outcome) in jobs.zip(outcomes) {
            if unroutable(outcome) || are_refused && refused(outcome) {
                let mut envelope = self.envelope_around::<T>(payload.clone(), Headers::new());
                envelope.id = id.clone();
                batch.push(Publish::to_queue(T::queue().name().clone(), envelope));
                failed.push(outcome);
            }
        }
        for (outcome, again) in failed.into_iter().zip(self.inner.broker.publish_all(batch).await) {
            *outcome = again;
        }
        true
    }

    /// How deep the task's queue is.
    ///
    /// # Errors
    /// If the queue cannot be declared or looked at. [`Unsupported`](ErrorKind::Unsupported) as [`operator`](Self::operator).
    pub async fn depth<T: Task>(&self) -> Result<QueueStats> {
        self.declare_queue(T::queue()).await?;
        self.operator()?.inspect(T::queue().name()).await
    }

    /// Declares exchanges, queues and bindings of your own, beside those that tasks bring.
    ///
    /// # Errors
    /// If one exists with other settings.
    pub async fn declare(&self, topology: &Topology) -> Result<()> {
        self.inner.broker.declare(topology).await
    }

    /// Declares a task's queue with its dead-letter exchange and queue, unless this client has done so.
    ///
    /// # Errors
    /// If its description contradicts itself, or it exists with other settings.
    pub async fn declare_queue(&self, spec: &QueueSpec) -> Result<()> {
        self.declare_once(spec.name(), || spec.topology(&self.inner.settings.namespace)).await
    }

    /// Declares what `topology` says, unless this client has done so under this name.
    pub(crate) async fn declare_once(
        &self,
        name: &str,
        topology: impl FnOnce() -> Result<Topology>,
    ) -> Result<()> {
        let Inner { broker, settings, declared, declaring, .. } = &*self.inner;
        let declare = async {
            broker.declare(&topology()?).await?;
            declared.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
            Ok(())
        };
        declaring.once(settings.publish_timeout, || self.is_declared(name), declare).await
    }

    /// Looks into queues and acts on what is there: depth, dead letters, replay.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// What the broker is, and how it is at this moment.
    pub fn info(&self) -> BrokerInfo {
        self.inner.broker.info()
    }

    /// The broker itself, for what a client does not do.
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.inner.broker
    }

    /// The broker's interface for operators: how deep a queue is, what waits in it, and to empty or delete it.
    ///
    /// ```
    /// use queue_core::client::Client;
    /// use queue_core::topology::{QueueDecl, Topology};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> queue_core::error::Result<()> {
    /// let client = Client::connect("memory:").await?;
    /// client.declare(&Topology::new().queue(QueueDecl::new("emails"))).await?;
    ///
    /// let operator = client.operator()?;
    /// let stats = operator.inspect("emails").await?;
    /// println!("{} jobs wait for {} consumers", stats.ready, stats.consumers);
    /// operator.delete("emails").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) with a broker that is not one of Leveret's and shows nothing to operators.
    pub fn operator(&self) -> Result<&dyn Operator> {
        let broker = &self.inner.broker;
        broker.operator().ok_or_else(|| {
            let system = broker.info().system;
            let words = format!(
                "the broker `{system}` shows nothing to operators: implement `Operator` for it, and return that from \
                 `Broker::operator`"
            );
            Error::new(ErrorKind::Unsupported, words)
        })
    }

    /// The time as the broker sees it.
    pub fn clock(&self) -> &Clock {
        &self.inner.settings.clock
    }

    /// The largest payload in bytes that this client sends.
    pub fn max_payload(&self) -> usize {
        self.inner.max_payload
    }

    /// The prefix of Leveret's own names.
    pub fn namespace(&self) -> &Namespace {
        &self.inner.settings.namespace
    }

    /// Flushes what was published and closes the connections, within ten seconds at most. All clones are closed
    /// with it.
    pub async fn close(&self) {
        self.inner.broker.close().await;
        self.inner.replies.ended().await;
    }

    pub(crate) fn replies(&self) -> &Replies {
        &self.inner.replies
    }

    pub(crate) fn publish_timeout(&self) -> Duration {
        self.inner.settings.publish_timeout
    }

    /// The envelope of a job that is due now. `headers` are the user's.
    pub(crate) fn envelope<T: Task>(&self, task: &T, headers: Headers) -> Result<Envelope, EnqueueError> {
        let payload = T::options()
            .format
            .encode(task)
            .map_err(|source| EnqueueError::Encode { task: T::NAME, source })?;
        Ok(self.envelope_around::<T>(payload, headers))
    }

    fn envelope_around<T: Task>(&self, payload: impl Into<Bytes>, headers: Headers) -> Envelope {
        let mut envelope = Envelope::new(payload);
        envelope.task = Some(T::NAME.to_owned());
        let options = T::options();
        envelope.content_type = Some(options.format.content_type().to_owned());
        envelope.priority = options.priority;
        envelope.enqueued_at = Some(self.clock().now());
        envelope.headers = headers;
        if options.version > 1 {
            envelope.headers.insert(header::VERSION, options.version);
        }
        envelope
    }

    pub(crate) fn check_payload(&self, envelope: Envelope) -> Result<Envelope, EnqueueError> {
        self.check_size(&envelope).map_err(EnqueueError::Publish)?;
        Ok(envelope)
    }

    /// Whether the message is one that the client's settings and AMQP allow.
    pub(crate) fn check_size(&self, envelope: &Envelope) -> Result<(), PublishError> {
        let limit = self.inner.max_payload;
        let size = envelope.payload.len();
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        check_sizes(envelope)
    }

    /// Publishes to a task's queue. A queue that was deleted since we declared it is declared once more.
    async fn publish_to(&self, spec: &QueueSpec, publish: Publish) -> Result<(), EnqueueError> {
        for _ in 1..TRIES {
            match self.publish_once(spec, publish.clone()).await {
                Err(EnqueueError::Publish(PublishError::Unroutable { .. })) => self.forget(spec.name()),
                Err(EnqueueError::QueueFull { .. }) if self.refuses_for_a_moment(spec).await => {}
                confirmed => return confirmed,
            }
        }
        self.publish_once(spec, publish).await
    }

    /// Whether a queue that has refused a job is not full, as far as can be seen: RabbitMQ also refuses what comes while a
    /// queue is being deleted. Waits for a moment then.
    pub(crate) async fn refuses_for_a_moment(&self, spec: &QueueSpec) -> bool {
        // A broker that shows nothing is believed.
        let Ok(operator) = self.operator() else { return false };
        match operator.inspect(spec.name()).await {
            Ok(stats) if spec.is_full_at(stats.ready) => return false,
            Err(error) if error.kind() == ErrorKind::Topology => self.forget(spec.name()),
            // A queue whose process has crashed does not answer until it has been started again.
            _ => {}
        }
        // Without a runtime nothing can wait, and brokers that need none do not refuse in this way.
        if tokio::runtime::Handle::try_current().is_err() {
            return false;
        }
        tokio::time::sleep(MOMENT).await;
        true
    }

    /// Publishes to a task's queue, which is declared unless this client has done so.
    pub(crate) async fn publish_once(&self, spec: &QueueSpec, publish: Publish) -> Result<(), EnqueueError> {
        self.declare_for(spec).await?;
        self.inner.broker.publish(publish).await.map_err(|error| enqueue_error(spec, error))
    }

    /// Declares a task's queue for a message, unless this client has done so.
    pub(crate) async fn declare_for(&self, spec: &QueueSpec) -> Result<(), EnqueueError> {
        self.declare_queue(spec).await.map_err(|error| self.declare_error(spec, error))
    }

    /// Publishes a request to a task's queue. May not return while a reply may come.
    pub(crate) async fn request(&self, spec: &QueueSpec, publish: Publish) -> Result<(), EnqueueError> {
        let broker = &self.inner.broker;
        let sent =
            if spec.may_refuse() { broker.publish(publish).await } else { broker.request(publish).await };
        sent.map_err(|error| enqueue_error(spec, error))
    }

    /// What it means for a job that its queue could not be declared.
    fn declare_error(&self, spec: &QueueSpec, source: Error) -> EnqueueError {
        match self.if_away(source) {
            Ok(away) => EnqueueError::Publish(away),
            Err(source) => EnqueueError::Declare { queue: spec.name().clone().into_owned(), source },
        }
    }

    /// A broker that was away for a declaration was away for the publish that wanted it.
    pub(crate) fn if_away(&self, error: Error) -> Result<PublishError> {
        match error.kind() {
            ErrorKind::Connection => {
                let waited = self.inner.settings.publish_timeout;
                Ok(PublishError::Unavailable { waited, source: Some(error.into()) })
            }
            _ => Err(error),
        }
    }

    fn is_declared(&self, name: &str) -> bool {
        self.inner.declared.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// Declares again what was declared under this name.
    pub(crate) fn forget(&self, name: &str) {
        self.inner.declared.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("broker", &self.inner.broker).finish_non_exhaustive()
    }
}

fn enqueue_error(spec: &QueueSpec, error: PublishError) -> EnqueueError {
    match error {
        PublishError::QueueFull { .. } => EnqueueError::QueueFull { queue: spec.name().clone().into_owned() },
        other => EnqueueError::Publish(other),
    }
}

/// AMQP carries names of at most 255 bytes, and all headers in one frame.
fn check_sizes(envelope: &Envelope) -> Result<(), PublishError> {
    let too_long = |what: &str, text: &str| {
        let len = text.len();
        PublishError::Invalid(format!("{what} has {len} bytes; AMQP carries at most {MAX_NAME}: shorten it"))
    };
    if envelope.id.as_str().len() > MAX_NAME {
        return Err(too_long("the job id", envelope.id.as_str()));
    }
    if let Some((name, _)) = envelope.headers.iter().find(|(name, _)| name.len() > MAX_NAME) {
        return Err(too_long("a header's name", name));
    }
    let size = envelope.headers.wire_size();
    if size > Headers::MAX_SIZE {
        let limit = Headers::MAX_SIZE;
        return Err(PublishError::Invalid(format!(
            "the headers take {size} bytes, over the limit of {limit}; put large values into the payload"
        )));
    }
    Ok(())
}

/// When a job is due.
#[derive(Debug, Clone, Copy)]
enum Due {
    Now,
    After(Duration),
    At(SystemTime),
}

/// A job about to be enqueued: options, then `.await`. A future like any other, for `tokio::spawn` or `join!`.
///
/// Its options panic once it has been polled.
#[derive(Debug)]
#[must_use = "nothing is enqueued until you `.await` it"]
pub struct Enqueue<T>(Sending<Job<T>, Result<JobId, EnqueueError>>);

/// A job, and when it is to run.
#[derive(Debug)]
struct Job<T> {
    client: Client,
    task: T,
    due: Due,
    priority: Option<u8>,
    id: Option<JobId>,
    headers: Headers,
}

impl<T: Task> Enqueue<T> {
    /// Runs it not earlier than `delay` from now. RabbitMQ measures that itself, whatever the machines' clocks say; the other
    /// brokers go by this machine's clock.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.options().due = Due::After(delay);
        self
    }

    /// Runs it not earlier than `moment` by this machine's clock, which is asked once. A moment that is past is now.
    pub fn at(mut self, moment: SystemTime) -> Self {
        self.0.options().due = Due::At(moment);
        self
    }

    /// A higher number runs earlier, where the queue knows priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.options().priority = Some(priority);
        self
    }

    /// Names the job. Two jobs of one id are two jobs: the handler deduplicates.
    pub fn id(mut self, id: impl Into<JobId>) -> Self {
        self.0.options().id = Some(id.into());
        self
    }

    /// Adds a header, which the handler finds in its `Context`. Names beginning with `q-` are Leveret's own.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.0.options().headers.insert(name, value);
        self
    }

    /// The job as a row to insert in a transaction of your own: it is enqueued if, and only if, that commits. See
    /// [`SqlInsert`].
    ///
    /// # Errors
    /// If the job cannot be encoded, or is too large.
    #[cfg(feature = "sqlite-system")]
    pub fn into_sql(self) -> Result<SqlInsert, EnqueueError> {
        Ok(SqlInsert::new(&self.0.into_message().into_publish()?))
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

impl<T: Task> Job<T> {
    async fn send(self) -> Result<JobId, EnqueueError> {
        let client = self.client.clone();
        let publish = self.into_publish()?;
        let id = publish.envelope.id.clone();
        client.publish_to(T::queue(), publish).await?;
        Ok(id)
    }

    fn into_publish(self) -> Result<Publish, EnqueueError> {
        refuse_own_headers(&self.headers).map_err(EnqueueError::Publish)?;
        let mut envelope = self.client.envelope(&self.task, self.headers)?;
        envelope.priority = self.priority.or(envelope.priority);
        if let Some(id) = self.id {
            envelope.id = id;
        }
        let mut publish = Publish::to_queue(T::queue().name().clone(), self.client.check_payload(envelope)?);
        publish.not_before = match self.due {
            Due::Now => None,
            Due::At(moment) => Some(moment),
            Due::After(delay) => Some(self.client.clock().now().checked_add(delay).ok_or_else(|| {
                EnqueueError::Publish(PublishError::Invalid(format!(
                    "a delay of {delay:?} ends beyond all time"
                )))
            })?),
        };
        Ok(publish)
    }
}

impl<T: Task> Future for Enqueue<T> {
    type Output = Result<JobId, EnqueueError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, Job::send)
    }
}

// The job is moved out of it before anything borrows from it.
impl<T> Unpin for Enqueue<T> {}
