//! The table `leveret_outbox`: jobs and events that were inserted in transactions of other programs. `intake` takes them
//! into the queues of this file, `relay` sends them to another broker.
//!
//! Both go through it queue by queue and exchange by exchange, which its index makes cheap however many rows wait for a queue that cannot take
//! them, and both set aside what can never be taken.

use std::fmt;
use std::time::Duration;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Params, Row, params};

use super::headers;
use super::row::{self, moment};
use crate::broker::{Publish, amqp};
use crate::error::PublishError;

/// How many rows one step takes, so that none takes long.
pub(crate) const STEP: usize = 500;
/// How many bytes of payload end a step before, so that none takes much memory.
const STEP_BYTES: usize = 4 * 1024 * 1024;
/// How long a queue's rows wait when the first of them was not taken.
pub(crate) const AGAIN: Duration = Duration::from_secs(1);

const FIRST_QUEUE: &str =
    "SELECT queue FROM leveret_outbox WHERE refused IS NULL AND exchange IS NULL ORDER BY queue LIMIT 1";
const NEXT_QUEUE: &str = "SELECT queue FROM leveret_outbox \
     WHERE refused IS NULL AND exchange IS NULL AND queue > ?1 ORDER BY queue LIMIT 1";
const FIRST_EXCHANGE: &str = "SELECT exchange FROM leveret_outbox \
     WHERE refused IS NULL AND exchange IS NOT NULL ORDER BY exchange LIMIT 1";
const NEXT_EXCHANGE: &str = "SELECT exchange FROM leveret_outbox \
     WHERE refused IS NULL AND exchange IS NOT NULL AND exchange > ?1 ORDER BY exchange LIMIT 1";
/// In the order of an envelope's columns, behind entry, due and encoding. A number is JSON too.
macro_rules! rows {
    ($where:literal) => {
        concat!(
            "SELECT entry, due, encoding, id, task, \
             CASE WHEN typeof(payload) IN ('integer', 'real') THEN CAST(payload AS TEXT) ELSE payload END, \
             content_type, 1, priority, enqueued_at, NULL, NULL, NULL, headers, NULL, NULL, NULL, routing_key \
             FROM leveret_outbox WHERE refused IS NULL AND ",
            $where,
            " ORDER BY entry LIMIT ?2"
        )
    };
}
const ROWS_OF_QUEUE: &str = rows!("exchange IS NULL AND queue = ?1");
const ROWS_OF_EXCHANGE: &str = rows!("exchange IS NOT NULL AND exchange = ?1");

/// Where rows are to go: jobs to a queue, events to an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Queue(Written),
    Exchange(Written),
}

/// The value of a column as it stands there, also if it is no name, so that a walk from one to the next gets past it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Written {
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Target {
    fn written(&self) -> &Written {
        let (Self::Queue(written) | Self::Exchange(written)) = self;
        written
    }

    /// The queue or exchange, if it can be one's name.
    fn name(&self) -> Option<&str> {
        match self.written() {
            Written::Text(name) => std::str::from_utf8(name).ok().filter(|name| !name.is_empty()),
            Written::Blob(_) => None,
        }
    }

    /// The queue, if it is one and can be one's name.
    pub(crate) fn queue(&self) -> Option<&str> {
        self.name().filter(|_| matches!(self, Self::Queue(_)))
    }

    /// The exchange, if it is one and can be one's name.
    pub(crate) fn exchange(&self) -> Option<&str> {
        self.name().filter(|_| matches!(self, Self::Exchange(_)))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Written::Text(bytes) | Written::Blob(bytes)) = self.written();
        f.write_str(match self {
            Self::Queue(_) => "queue ",
            Self::Exchange(_) => "exchange ",
        })?;
        f.write_str(&String::from_utf8_lossy(bytes))
    }
}

impl ToSql for Written {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A row.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) number: i64,
    /// The job; or why no broker can ever take it.
    pub(crate) publish: Result<Publish, String>,
}

/// The first target behind `after` for which rows wait: the queues, then the exchanges.
pub(crate) fn next_target(
    connection: &Connection,
    after: Option<&Target>,
) -> rusqlite::Result<Option<Target>> {
    let queue = match after {
        None => first(connection, FIRST_QUEUE, [])?,
        Some(Target::Queue(after)) => first(connection, NEXT_QUEUE, [after])?,
        Some(Target::Exchange(after)) => {
            return Ok(first(connection, NEXT_EXCHANGE, [after])?.map(Target::Exchange));
        }
    };
    match queue {
        Some(queue) => Ok(Some(Target::Queue(queue))),
        None => Ok(first(connection, FIRST_EXCHANGE, [])?.map(Target::Exchange)),
    }
}

/// The column of the first row.
fn first(connection: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<Option<Written>> {
    let read = |row: &Row<'_>| {
        Ok(match row.get_ref(0)? {
            ValueRef::Text(bytes) => Written::Text(bytes.to_vec()),
            ValueRef::Blob(bytes) => Written::Blob(bytes.to_vec()),
            // The columns make texts of numbers, and have no NULL here.
            _ => Written::Blob(Vec::new()),
        })
    };
    connection.prepare_cached(sql)?.query_row(params, read).optional()
}

/// The first rows for a target, at most `limit`, and whether these are all.
pub(crate) fn entries(
    connection: &Connection,
    target: &Target,
    limit: usize,
) -> rusqlite::Result<(Vec<Entry>, bool)> {
    let mut select = connection.prepare_cached(match target {
        Target::Queue(_) => ROWS_OF_QUEUE,
        Target::Exchange(_) => ROWS_OF_EXCHANGE,
    })?;
    let mut rows = select.query(params![target.written(), i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let entry = Entry { number: row.get(0)?, publish: read(row, target)? };
        bytes += entry.publish.as_ref().map_or(0, |publish| publish.envelope.payload.len());
        entries.push(entry);
        if bytes >= STEP_BYTES {
            return Ok((entries, false));
        }
    }
    let is_all = entries.len() < limit;
    Ok((entries, is_all))
}

fn read(row: &Row<'_>, target: &Target) -> rusqlite::Result<Result<Publish, String>> {
    let envelope = row::read(row, 3)?;
    let mut publish = match (target, target.name()) {
        (Target::Queue(_), Some(queue)) => Publish::to_queue(queue.to_owned(), envelope),
        (Target::Exchange(_), Some(exchange)) => {
            let key = row::text(row, 3 + row::COUNT)?.unwrap_or_default();
            Publish::to_exchange(exchange.to_owned(), key, envelope)
        }
        (Target::Queue(_), None) => {
            return Ok(Err("its `queue` is no queue's name: write one as text".to_owned()));
        }
        (Target::Exchange(_), None) => {
            return Ok(Err(
                "its `exchange` is no exchange's name: write one as text, or NULL for a job".to_owned()
            ));
        }
    };
    publish.not_before = match (target, row.get_ref(1)?) {
        (_, ValueRef::Null) => None,
        (Target::Exchange(_), _) => return Ok(Err("an event has no `due`: set it to NULL".to_owned())),
        (Target::Queue(_), ValueRef::Integer(due)) => Some(moment(due)),
        _ => return Ok(Err("its `due` is no number: write microseconds since 1970".to_owned())),
    };
    match row::text(row, 2)?.as_deref() {
        None => {}
        Some("hex") => {
            let hex = String::from_utf8_lossy(&publish.envelope.payload);
            let Some(bytes) = headers::from_hex(&hex) else {
                return Ok(Err("its `payload` is not the `hex` that its `encoding` says".to_owned()));
            };
            publish.envelope.payload = bytes;
        }
        Some(other) => {
            return Ok(Err(format!("its `encoding` is `{other}`: write `hex`, or NULL for a plain payload")));
        }
    }
    Ok(match amqp::check_publish(&publish) {
        Ok(()) => Ok(publish),
        Err(error) => Err(error.to_string()),
    })
}

/// True if a broker that said this will say it for ever.
pub(crate) fn is_for_good(error: &PublishError) -> bool {
    matches!(error, PublishError::Invalid(_) | PublishError::TooLarge { .. })
}

/// Takes a row out.
pub(crate) fn remove(connection: &Connection, entry: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM leveret_outbox WHERE entry = ?1")?.execute([entry]).map(|_| ())
}

/// Sets a row aside which can never be taken, so that it does not hold up those behind it.
pub(crate) fn set_aside(connection: &Connection, entry: i64, reason: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE leveret_outbox SET refused = ?2 WHERE entry = ?1")?
        .execute(params![entry, reason])
        .map(|_| ())
}

/// Logs a row that was set aside, for a person to correct.
pub(crate) fn tell(target: &Target, entry: i64, reason: &str) {
    tracing::error!(
        queue = target.queue(),
        exchange = target.exchange(),
        entry,
        reason,
        "a message inserted by SQL can never be published: it is set aside in `leveret_outbox`; put it right and set \
         its `refused` to NULL, or delete it"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::sqlite::schema;
    use crate::envelope::Envelope;
    use crate::outbox::SqlInsert;

    fn first_entry(connection: &Connection) -> (Target, Entry) {
        let target = next_target(connection, None).unwrap().unwrap();
        let entry = entries(connection, &target, 1).unwrap().0.pop().unwrap();
        (target, entry)
    }

    /// MessagePack and CBOR are no text, and the parameters are.
    #[test]
    fn payload_of_any_bytes_survives() {
        let path = std::env::temp_dir().join(format!("leveret-outbox-payload-{}.db", std::process::id()));
        let connection = schema::open(&path).unwrap();
        let bytes: Vec<u8> = (0..=255).collect();

        for payload in [bytes, b"{}".to_vec(), Vec::new()] {
            let job = SqlInsert::of_job(&Publish::to_queue("jobs", Envelope::new(payload.clone())));
            connection.execute(job.sql(), rusqlite::params_from_iter(job.params())).unwrap();
            let (_, entry) = first_entry(&connection);
            let publish = entry.publish.unwrap();

            assert_eq!(publish.envelope.payload, payload);
            assert_eq!(publish.envelope.id, *job.id());
            remove(&connection, entry.number).unwrap();
        }
        drop(connection);
        std::fs::remove_file(path).unwrap();
    }

    /// Rows that were written by hand are refused, not misunderstood.
    #[test]
    fn row_that_makes_no_sense_says_why() {
        let path = std::env::temp_dir().join(format!("leveret-outbox-words-{}.db", std::process::id()));
        let connection = schema::open(&path).unwrap();
        for (row, says) in [
            ("'jobs', NULL, 'id', 'xyz', 'hex'", Err("`hex`")),
            ("'jobs', NULL, 'id', '{}', 'base64'", Err("`base64`")),
            ("'jobs', 'tomorrow', 'id', '{}', NULL", Err("microseconds since 1970")),
            ("'jobs', NULL, printf('%0256d', 1), '{}', NULL", Err("256 bytes")),
            ("'', NULL, 'id', '{}', NULL", Err("no queue's name")),
            ("x'ff', NULL, 'id', '{}', NULL", Err("no queue's name")),
            ("CAST(x'ff' AS TEXT), NULL, 'id', '{}', NULL", Err("no queue's name")),
            ("'jobs', NULL, 'id', 15, NULL", Ok("15")),
        ] {
            let columns = "queue, due, id, payload, encoding";
            connection
                .execute(&format!("INSERT INTO leveret_outbox ({columns}) VALUES ({row})"), [])
                .unwrap();
            let (target, entry) = first_entry(&connection);

            match (entry.publish, says) {
                (Err(reason), Err(says)) => assert!(reason.contains(says), "{row}: {reason}"),
                (Ok(publish), Ok(payload)) => assert_eq!(publish.envelope.payload, payload),
                (other, _) => panic!("{row}: {other:?}"),
            }
            assert_eq!(next_target(&connection, Some(&target)).unwrap(), None, "{row}");
            remove(&connection, entry.number).unwrap();
        }
        drop(connection);
        std::fs::remove_file(path).unwrap();
    }

    /// Like a job's.
    #[test]
    fn row_of_an_event_that_makes_no_sense_says_why() {
        let path = std::env::temp_dir().join(format!("leveret-outbox-events-{}.db", std::process::id()));
        let connection = schema::open(&path).unwrap();
        for (row, says) in [
            ("'orders', 'order.placed', NULL", Ok("order.placed")),
            ("'orders', NULL, NULL", Ok("")),
            ("'orders', 'order.placed', 5", Err("an event has no `due`")),
            ("'', 'order.placed', NULL", Err("no exchange's name")),
            ("x'ff', 'order.placed', NULL", Err("no exchange's name")),
            ("'orders', printf('%0256d', 1), NULL", Err("256 bytes")),
        ] {
            let columns = "queue, id, payload, exchange, routing_key, due";
            let insert = format!("INSERT INTO leveret_outbox ({columns}) VALUES ('', 'id', '{{}}', {row})");
            connection.execute(&insert, []).unwrap();
            let (target, entry) = first_entry(&connection);

            match (entry.publish, says) {
                (Err(reason), Err(says)) => assert!(reason.contains(says), "{row}: {reason}"),
                (Ok(publish), Ok(key)) => assert_eq!(publish.route.routing_key, key),
                (other, _) => panic!("{row}: {other:?}"),
            }
            assert_eq!(next_target(&connection, Some(&target)).unwrap(), None, "{row}");
            remove(&connection, entry.number).unwrap();
        }
        drop(connection);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn walk_meets_each_queue_and_then_each_exchange() {
        let path = std::env::temp_dir().join(format!("leveret-outbox-walk-{}.db", std::process::id()));
        let connection = schema::open(&path).unwrap();
        for row in ["'b', NULL", "'a', NULL", "'b', NULL", "'', 'b'", "'', 'a'", "'', 'b'"] {
            let insert = "INSERT INTO leveret_outbox (id, payload, queue, exchange) VALUES ('id', '{}', ";
            connection.execute(&format!("{insert}{row})"), []).unwrap();
        }

        let mut met = Vec::new();
        while let Some(target) = next_target(&connection, met.last()).unwrap() {
            met.push(target);
        }

        let met: Vec<_> = met.iter().map(Target::to_string).collect();
        assert_eq!(met, ["queue a", "queue b", "exchange a", "exchange b"]);
        drop(connection);
        std::fs::remove_file(path).unwrap();
    }
}
