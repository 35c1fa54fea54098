//! Jobs that were inserted in transactions of other programs: taken into queues by the clients of the file, or relayed
//! to another broker.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, Row, params};
use tokio_util::sync::CancellationToken;

use super::row::{self, moment};
use super::state::State;
use super::url::Options;
use super::{fault, headers, schema};
use crate::broker::Publish;
use crate::broker::amqp::{Message, Published};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result, chain};

/// How many rows are taken at once.
const STEP: i64 = 500;
/// How long a row waits whose queue cannot take it.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a relay looks for new rows.
const POLL: Duration = Duration::from_millis(20);

/// In the order of an envelope's columns, behind entry, queue and due.
const ROWS: &str = "SELECT entry, queue, due, id, task, payload, content_type, 1, priority, enqueued_at, NULL, NULL, \
     NULL, headers, encoding FROM leveret_outbox WHERE entry > ?1 ORDER BY entry LIMIT ?2";

#[derive(Debug)]
struct Entry {
    number: i64,
    queue: String,
    publish: Publish,
}

fn read(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let number = row.get(0)?;
    let queue = row::text(row, 1)?.unwrap_or_default();
    let mut publish = Publish::to_queue(queue.clone(), row::read(row, 3)?);
    if row::text(row, 14)?.as_deref() == Some("hex") {
        let hex = String::from_utf8_lossy(&publish.envelope.payload);
        if let Some(bytes) = headers::from_hex(&hex) {
            publish.envelope.payload = bytes;
        }
    }
    publish.not_before = row.get::<_, Option<i64>>(2).ok().flatten().map(moment);
    Ok(Entry { number, queue, publish })
}

fn entries(connection: &Connection, after: i64) -> rusqlite::Result<Vec<Entry>> {
    let mut select = connection.prepare_cached(ROWS)?;
    let entries = select.query_map(params![after, STEP], read)?;
    entries.collect()
}

impl State {
    /// Puts what others have inserted into the queues, in its order. What a queue cannot take waits, and so does what is
    /// behind it for the same queue.
    pub(super) fn take_in_outbox(&mut self) -> rusqlite::Result<()> {
        let mut waiting = HashSet::new();
        let mut last = 0;
        loop {
            let entries = entries(&self.connection, last)?;
            let is_last = entries.len() < usize::try_from(STEP).unwrap_or(usize::MAX);
            for Entry { number, queue, publish } in entries {
                last = number;
                if waiting.contains(&queue) {
                    continue;
                }
                if !self.names.contains_key(&*queue) {
                    tracing::warn!(
                        queue,
                        job = publish.envelope.id.as_str(),
                        "a job inserted by SQL waits for its queue to be declared"
                    );
                    waiting.insert(queue);
                    continue;
                }
                let Publish { route, envelope, mandatory, not_before } = publish;
                let message = Message { envelope, exchange: route.exchange, routing_key: route.routing_key };
                let publish = Published { message: Arc::new(message), mandatory, not_before };
                if let Err(error) = self.publish(&publish)? {
                    tracing::debug!(queue, %error, "a job inserted by SQL waits");
                    waiting.insert(queue);
                    continue;
                }
                self.connection
                    .prepare_cached("DELETE FROM leveret_outbox WHERE entry = ?1")?
                    .execute([number])?;
            }
            if is_last {
                break;
            }
        }
        self.deadlines.outbox_at((!waiting.is_empty()).then(|| row::micros_after(self.now + AGAIN)));
        Ok(())
    }

    pub(super) fn has_outbox(&self) -> rusqlite::Result<bool> {
        self.connection.prepare_cached("SELECT 1 FROM leveret_outbox")?.exists([])
    }
}

/// Relays jobs that were inserted by SQL into a database of yours to the broker that works them, such as RabbitMQ: the
/// transactional outbox. Made from the database's URL; see [`SqlInsert`](super::SqlInsert) for how jobs get in.
///
/// In order for each queue, each confirmed by the broker before it is taken out: a crash in between sends it twice,
/// under one job id, never not at all. One relay works at a time, however many run. A client must not have the same
/// file open as its broker, which would take the jobs itself.
#[derive(Debug)]
pub struct Outbox {
    path: PathBuf,
}

impl Outbox {
    /// Opens the database that `url` names (`sqlite:app.db`), and adds the table `leveret_outbox` if it is not there.
    ///
    /// # Errors
    /// As [`Client::connect`] to that URL.
    pub fn open(url: &str) -> Result<Self> {
        if !url.starts_with("sqlite:") {
            return Err(Error::config(
                "an outbox is a table of an SQLite database: open it by a URL such as `sqlite:app.db`",
            ));
        }
        let Options { path, .. } = Options::parse(url)?;
        schema::open(&path)?;
        Ok(Self { path })
    }

    /// Relays to the broker of `client` until `stop` says so. Run it beside your worker, in any process.
    ///
    /// What the broker does not take (away, full, no such queue) stays, is tried again each second, and holds up
    /// nothing but its own queue.
    ///
    /// # Errors
    /// If the database cannot be read or written any more.
    pub async fn relay(&self, client: &Client, stop: CancellationToken) -> Result<()> {
        let faulty = |fault| fault::error(&self.path, fault);
        let Some(_only) = self.become_the_only_one(&stop).await? else { return Ok(()) };
        // In an `Option`, because a connection is not shared between threads but goes from one to another.
        let connection = schema::open(&self.path)?;
        let mut seen = None;
        while !stop.is_cancelled() {
            let version = schema::pragma(&connection, "data_version").map_err(faulty)?;
            if seen == Some(version) {
                wait(POLL, &stop).await;
                continue;
            }
            let entries = entries(&connection, 0).map_err(faulty)?;
            let is_all = entries.len() < usize::try_from(STEP).unwrap_or(usize::MAX);
            let wanted = entries.len();
            let relayed = publish(client, entries, &stop).await;
            if !relayed.is_empty() {
                remove(&connection, &relayed).map_err(faulty)?;
            }
            if relayed.len() < wanted {
                wait(AGAIN, &stop).await;
            } else if is_all {
                seen = Some(version);
            }
        }
        Ok(())
    }

    /// Waits until no other relay works on this database. `None` if it was stopped before.
    async fn become_the_only_one(&self, stop: &CancellationToken) -> Result<Option<File>> {
        let mut path = self.path.clone().into_os_string();
        path.push("-relay");
        let faulty = |error: std::io::Error| {
            let words = format!("`{}` cannot be locked", path.display());
            Error::new(ErrorKind::Connection, words).with_source(error)
        };
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(faulty)?;
        while !stop.is_cancelled() {
            match lock.try_lock() {
                Ok(()) => return Ok(Some(lock)),
                Err(std::fs::TryLockError::WouldBlock) => wait(AGAIN, stop).await,
                Err(std::fs::TryLockError::Error(error)) => return Err(faulty(error)),
            }
        }
        Ok(None)
    }
}

async fn wait(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        // Both only wait.
        () = tokio::time::sleep(time) => {}
        () = stop.cancelled() => {}
    }
}

/// Publishes each queue's entries one after the other, the queues side by side. Says which are confirmed.
async fn publish(client: &Client, entries: Vec<Entry>, stop: &CancellationToken) -> Vec<i64> {
    let mut queues: BTreeMap<String, VecDeque<Entry>> = BTreeMap::new();
    for entry in entries {
        queues.entry(entry.queue.clone()).or_default().push_back(entry);
    }
    let relays = queues.into_values().map(|mut entries| async move {
        let mut relayed = Vec::new();
        while let Some(Entry { number, queue, mut publish }) = entries.pop_front() {
            if stop.is_cancelled() {
                break;
            }
            publish.not_before = publish.not_before.filter(|due| *due > SystemTime::now());
            if let Err(error) = client.broker().publish(publish).await {
                tracing::warn!(
                    queue,
                    error = chain(&error),
                    "a job inserted by SQL waits: the broker did not take it"
                );
                break;
            }
            relayed.push(number);
        }
        relayed
    });
    futures_util::future::join_all(relays).await.into_iter().flatten().collect()
}

fn remove(connection: &Connection, entries: &[i64]) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let removed = (|| {
        let mut delete = connection.prepare_cached("DELETE FROM leveret_outbox WHERE entry = ?1")?;
        for entry in entries {
            delete.execute([entry])?;
        }
        connection.execute_batch("COMMIT")
    })();
    if removed.is_err() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::sqlite::SqlInsert;
    use crate::envelope::Envelope;

    /// MessagePack and CBOR are no text, and the parameters are.
    #[test]
    fn payload_of_any_bytes_survives() {
        let path = std::env::temp_dir().join(format!("leveret-outbox-{}.db", std::process::id()));
        let connection = schema::open(&path).unwrap();
        let bytes: Vec<u8> = (0..=255).collect();

        for payload in [bytes, b"{}".to_vec(), Vec::new()] {
            let job = SqlInsert::new(&Publish::to_queue("jobs", Envelope::new(payload.clone())));
            connection.execute(job.sql(), rusqlite::params_from_iter(job.params())).unwrap();
            let entry = entries(&connection, 0).unwrap().pop().unwrap();

            assert_eq!(entry.publish.envelope.payload, payload);
            assert_eq!(entry.publish.envelope.id, *job.id());
        }
        drop(connection);
        std::fs::remove_file(path).unwrap();
    }
}
