//! A job or event as a row of `leveret_outbox`, which a program inserts in a transaction of its own.

use std::fmt;

use crate::broker::Publish;
use crate::broker::sqlite::headers;
use crate::broker::sqlite::row::{micros, micros_after};
use crate::clock::Clock;
use crate::envelope::{Envelope, JobId};
use crate::error::EventError;
use crate::event::Event;
use crate::seal::{Options, Sealer};

const INSERT_JOB: &str = "INSERT INTO leveret_outbox \
    (queue, due, id, task, payload, encoding, content_type, priority, enqueued_at, headers) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
const INSERT_EVENT: &str = "INSERT INTO leveret_outbox \
    (exchange, routing_key, id, task, payload, encoding, content_type, priority, enqueued_at, headers, queue) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, '')";

/// An `INSERT` that enqueues a job or publishes an event in a transaction of your own, on an SQLite database that Leveret has
/// open or relays from. [`Job::into_sql`](crate::job::Job::into_sql) and [`event`](Self::event) make it; the SQL library
/// of your choice executes it. Its parameters are texts or NULL, so that every library can bind them:
///
/// ```
/// use leveret::Job;
/// # use leveret::task;
/// # #[task(queue = "emails")] async fn send_email(to: String) { let _ = to; }
/// # fn f(database: &mut rusqlite::Connection) -> Result<(), leveret::BoxError> {
///
/// let job = Job::new(SendEmail { to: "ada@example.com".into() }).into_sql()?;
/// let transaction = database.transaction()?;
/// transaction.execute("INSERT INTO account (name) VALUES ('Ada')", [])?;
/// transaction.execute(job.sql(), rusqlite::params_from_iter(job.params()))?;
/// transaction.commit()?;
/// # Ok(()) }
/// ```
///
/// With sqlx: `job.params().into_iter().fold(sqlx::query(job.sql()), |query, value| query.bind(value))`.
///
/// The message is sent if, and only if, your transaction commits, and is as durable as that. A client that has the file
/// open as its broker (`sqlite:app.db`) puts it into its queue within some 20 ms; for RabbitMQ an
/// [`Outbox`](super::Outbox) does. A message waits while its queue is full, and until its queue or exchange is declared: by a
/// worker, a subscriber, or a client that enqueues or publishes the same type.
///
/// A row that no broker can take, because it was written by hand, is set aside: it stays in `leveret_outbox` with the reason in
/// its column `refused`, which is logged as an error, and blocks no other row. Correct it and set `refused` to NULL, or
/// delete it.
#[derive(Clone)]
#[must_use = "nothing is sent until it is inserted"]
pub struct SqlInsert {
    sql: &'static str,
    id: JobId,
    params: [Option<String>; SqlInsert::PARAMS],
}

impl fmt::Debug for SqlInsert {
    /// Prints no parameters, since the payload is one of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlInsert").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SqlInsert {
    /// The number of parameters of the statement.
    pub const PARAMS: usize = 10;

    /// Makes an `INSERT` that publishes an event when your transaction commits. It needs no client, as
    /// [`Job::into_sql`](crate::job::Job::into_sql). [`PublishEvent::into_sql`](crate::publish::PublishEvent::into_sql)
    /// has one, and so can set headers and an id.
    ///
    /// ```
    /// use leveret::{Event, SqlInsert};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize, Event)]
    /// #[event(exchange = "account.events", kind = "fanout")]
    /// struct AccountOpened {
    ///     name: String,
    /// }
    ///
    /// # fn f(database: &mut rusqlite::Connection) -> Result<(), leveret::BoxError> {
    /// let event = SqlInsert::event(&AccountOpened { name: "Ada".into() })?;
    /// let transaction = database.transaction()?;
    /// transaction.execute("INSERT INTO account (name) VALUES ('Ada')", [])?;
    /// transaction.execute(event.sql(), rusqlite::params_from_iter(event.params()))?;
    /// transaction.commit()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the event cannot be encoded or is too large, or its fields make no routing key.
    pub fn event<E: Event>(event: &E) -> Result<Self, EventError> {
        let clock = Clock::system();
        Ok(Self::of_event(&Sealer::without_client(&clock).event(event, Options::default())?))
    }

    /// A job's, which goes to a queue.
    pub(crate) fn of_job(publish: &Publish) -> Self {
        let due = publish.not_before.map(|due| micros_after(due).to_string());
        Self::new(INSERT_JOB, publish.route.routing_key.clone().into_owned(), due, &publish.envelope)
    }

    /// An event's, which goes to an exchange.
    pub(crate) fn of_event(publish: &Publish) -> Self {
        let key = publish.route.routing_key.clone().into_owned();
        Self::new(INSERT_EVENT, publish.route.exchange.clone().into_owned(), Some(key), &publish.envelope)
    }

    fn new(sql: &'static str, target: String, second: Option<String>, envelope: &Envelope) -> Self {
        let text = std::str::from_utf8(&envelope.payload);
        let params = [
            Some(target),
            second,
            Some(envelope.id.as_str().to_owned()),
            envelope.task.clone(),
            Some(text.map_or_else(|_| headers::hex(&envelope.payload), str::to_owned)),
            text.is_err().then(|| "hex".to_owned()),
            envelope.content_type.clone(),
            envelope.priority.map(|priority| priority.to_string()),
            envelope.enqueued_at.map(|at| micros(at).to_string()),
            headers::write(&envelope.headers),
        ];
        Self { sql, id: envelope.id.clone(), params }
    }

    /// The statement, with parameters `?1` to `?10`. SQLite converts the texts of number columns.
    pub fn sql(&self) -> &'static str {
        self.sql
    }

    /// The parameters, in the order in which to bind them.
    pub fn params(&self) -> [Option<&str>; Self::PARAMS] {
        self.params.each_ref().map(Option::as_deref)
    }

    /// The id of the job or event.
    pub fn id(&self) -> &JobId {
        &self.id
    }
}
