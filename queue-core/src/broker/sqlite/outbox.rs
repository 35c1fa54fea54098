//! The table `leveret_outbox`: jobs that were inserted in transactions of other programs. `intake` takes them into the
//! queues of this file, `relay` sends them to another broker.
//!
//! Both go through it queue by queue, which its index makes cheap however many rows wait for a queue that cannot take
//! them, and both set aside what can never be taken.

use std::fmt;
use std::time::Duration;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::headers;
use super::row::{self, moment};
use crate::broker::{Publish, amqp};
use crate::error::PublishError;

/// How many rows one step takes, so that none takes long.
pub(super) const STEP: usize = 500;
/// How many bytes of payload end a step before, so that none takes much memory.
const STEP_BYTES: usize = 4 * 1024 * 1024;
/// How long a queue's rows wait when the first of them was not taken.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

const FIRST_QUEUE: &str = "SELECT queue FROM leveret_outbox WHERE refused IS NULL ORDER BY queue LIMIT 1";
const NEXT_QUEUE: &str =
    "SELECT queue FROM leveret_outbox WHERE refused IS NULL AND queue > ?1 ORDER BY queue LIMIT 1";
/// In the order of an envelope's columns, behind entry, due and encoding. A number is JSON too.
const ROWS: &str = "SELECT entry, due, encoding, id, task, \
     CASE WHEN typeof(payload) IN ('integer', 'real') THEN CAST(payload AS TEXT) ELSE payload END, \
     content_type, 1, priority, enqueued_at, NULL, NULL, NULL, headers, NULL, NULL, NULL \
     FROM leveret_outbox WHERE refused IS NULL AND queue = ?1 ORDER BY entry LIMIT ?2";

/// Where rows are to go: the value of their column as it stands there, also if it is no name, so that a walk from one
/// to the next gets past it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Target {
    /// The queue, if it can be one's name.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Text(name) => std::str::from_utf8(name).ok().filter(|name| !name.is_empty()),
            Self::Blob(_) => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Text(bytes) | Self::Blob(bytes)) = self;
        f.write_str(&String::from_utf8_lossy(bytes))
    }
}

impl ToSql for Target {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A row.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) number: i64,
    /// The job; or why no broker can ever take it.
    pub(super) publish: Result<Publish, String>,
}

/// The first queue behind `after` for which rows wait.
pub(super) fn next_queue(
    connection: &Connection,
    after: Option<&Target>,
) -> rusqlite::Result<Option<Target>> {
    let read = |row: &Row<'_>| {
        Ok(match row.get_ref(0)? {
            ValueRef::Text(bytes) => Target::Text(bytes.to_vec()),
            ValueRef::Blob(bytes) => Target::Blob(bytes.to_vec()),
            // The column makes texts of numbers, and has no NULL.
            _ => Target::Blob(Vec::new()),
        })
    };
    match after {
        None => connection.prepare_cached(FIRST_QUEUE)?.query_row([], read).optional(),
        Some(after) => connection.prepare_cached(NEXT_QUEUE)?.query_row([after], read).optional(),
    }
}

/// The first rows for a queue, at most `limit`, and whether these are all.
pub(super) fn entries(
    connection: &Connection,
    target: &Target,
    limit: usize,
) -> rusqlite::Result<(Vec<Entry>, bool)> {
    let mut select = connection.prepare_cached(ROWS)?;
    let mut rows = select.query(params![target, i64::try_from(limit).unwrap_or(i64::MAX)])?;
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
    let Some(queue) = target.name() else {
        return Ok(Err("its `queue` is no queue's name: write one as text".to_owned()));
    };
    let mut publish = Publish::to_queue(queue.to_owned(), row::read(row, 3)?);
    publish.not_before = match row.get_ref(1)? {
        ValueRef::Null => None,
        ValueRef::Integer(due) => Some(moment(due)),
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

/// Whether a broker that said this will say it for ever.
pub(super) fn is_for_good(error: &PublishError) -> bool {
    matches!(error, PublishError::Invalid(_) | PublishError::TooLarge { .. })
}

/// Takes a row out.
pub(super) fn remove(connection: &Connection, entry: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM leveret_outbox WHERE entry = ?1")?.execute([entry]).map(|_| ())
}

/// Sets a row aside which can never be taken, so that it does not hold up those behind it.
pub(super) fn set_aside(connection: &Connection, entry: i64, reason: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE leveret_outbox SET refused = ?2 WHERE entry = ?1")?
        .execute(params![entry, reason])
        .map(|_| ())
}

/// Tells whoever can put a row right that was set aside.
pub(super) fn tell(target: &Target, entry: i64, reason: &str) {
    tracing::error!(
        queue = %target,
        entry,
        reason,
        "a job inserted by SQL can never be enqueued: it is set aside in `leveret_outbox`; put it right and set its \
         `refused` to NULL, or delete it"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::sqlite::{SqlInsert, schema};
    use crate::envelope::Envelope;

    fn first(connection: &Connection) -> (Target, Entry) {
        let target = next_queue(connection, None).unwrap().unwrap();
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
            let job = SqlInsert::new(&Publish::to_queue("jobs", Envelope::new(payload.clone())));
            connection.execute(job.sql(), rusqlite::params_from_iter(job.params())).unwrap();
            let (_, entry) = first(&connection);
            let publish = entry.publish.unwrap();

            assert_eq!(publish.envelope.payload, payload);
            assert_eq!(publish.envelope.id, *job.id());
            remove(&connection, entry.number).unwrap();
        }
        drop(connection);
        std::fs::remove_file(path).unwrap();
    }

    /// Whoever writes rows by hand is told, not misunderstood.
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
            let (target, entry) = first(&connection);

            match (entry.publish, says) {
                (Err(reason), Err(says)) => assert!(reason.contains(says), "{row}: {reason}"),
                (Ok(publish), Ok(payload)) => assert_eq!(publish.envelope.payload, payload),
                (other, _) => panic!("{row}: {other:?}"),
            }
            assert_eq!(next_queue(&connection, Some(&target)).unwrap(), None, "{row}");
            remove(&connection, entry.number).unwrap();
        }
        drop(connection);
        std::fs::remove_file(path).unwrap();
    }
}
