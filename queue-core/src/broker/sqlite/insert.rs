//! A job as a row of `leveret_outbox`, which a program inserts in a transaction of its own.

use std::fmt;

use super::headers;
use super::row::{micros, micros_after};
use crate::broker::Publish;
use crate::envelope::JobId;

/// A job to be enqueued in a transaction of your own, on an SQLite database that Leveret has open or relays from: made
/// by [`Enqueue::into_sql`](crate::client::Enqueue::into_sql), executed by whatever library you use.
///
/// The job is there if, and only if, your transaction commits, and is as durable as that. A client that has the file
/// open as its broker (`sqlite:app.db`) puts it into its queue within some 20 ms; on RabbitMQ an
/// [`Outbox`](super::Outbox) does. A queue that nobody has declared yet, or that is full, is waited for. A row that no
/// broker can ever take, because somebody wrote it by hand, is set aside: it stays in `leveret_outbox` with the reason in
/// its column `refused`, which is logged as an error, and holds up nothing. Put it right and set `refused` to NULL, or
/// delete it.
///
/// The parameters are texts or NULL, so that every library can bind them:
///
/// ```
/// # use queue_core::{client::Client, error::BoxError, task::Task};
/// # fn f<T: Task>(client: &Client, welcome: T, database: &mut rusqlite::Connection) -> Result<(), BoxError> {
/// let job = client.enqueue(welcome).into_sql()?;
/// let transaction = database.transaction()?;
/// transaction.execute("INSERT INTO account (name) VALUES ('Ada')", [])?;
/// transaction.execute(job.sql(), rusqlite::params_from_iter(job.params()))?;
/// transaction.commit()?;
/// # Ok(()) }
/// ```
///
/// With sqlx: `job.params().into_iter().fold(sqlx::query(job.sql()), |query, value| query.bind(value))`.
#[derive(Clone)]
#[must_use = "nothing is enqueued until it is inserted"]
pub struct SqlInsert {
    id: JobId,
    params: [Option<String>; SqlInsert::PARAMS],
}

impl fmt::Debug for SqlInsert {
    /// Without the parameters, the payload among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlInsert").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SqlInsert {
    /// How many parameters the statement has.
    pub const PARAMS: usize = 10;

    pub(crate) fn new(publish: &Publish) -> Self {
        let envelope = &publish.envelope;
        let text = std::str::from_utf8(&envelope.payload);
        let params = [
            Some(publish.route.routing_key.clone().into_owned()),
            publish.not_before.map(|due| micros_after(due).to_string()),
            Some(envelope.id.as_str().to_owned()),
            envelope.task.clone(),
            Some(text.map_or_else(|_| headers::hex(&envelope.payload), str::to_owned)),
            text.is_err().then(|| "hex".to_owned()),
            envelope.content_type.clone(),
            envelope.priority.map(|priority| priority.to_string()),
            envelope.enqueued_at.map(|at| micros(at).to_string()),
            headers::write(&envelope.headers),
        ];
        Self { id: envelope.id.clone(), params }
    }

    /// The statement, with parameters `?1` to `?10`. Columns that hold numbers make numbers of texts.
    pub fn sql(&self) -> &'static str {
        "INSERT INTO leveret_outbox \
         (queue, due, id, task, payload, encoding, content_type, priority, enqueued_at, headers) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
    }

    /// What is to be bound, in this order.
    pub fn params(&self) -> [Option<&str>; Self::PARAMS] {
        self.params.each_ref().map(Option::as_deref)
    }

    /// The job's id.
    pub fn id(&self) -> &JobId {
        &self.id
    }
}
