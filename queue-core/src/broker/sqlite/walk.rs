//! Walks through a queue for an operator: reads its rows beside the writer, and asks the writer only for what is taken.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, ToSql, params};

use super::command::{Command, Ticket};
use super::ids::QueueId;
use super::settler::SqliteSettler;
use super::state::State;
use super::{SqliteBroker, row};
use crate::broker::{Delivery, Found, FoundDelayed, Mark, Place, Walk, amqp, closed};
use crate::error::Result;
use crate::topology::Name;

/// How many bytes of payload end a page before its number does, so that none takes much memory or time.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct SqliteWalk<'a> {
    broker: &'a SqliteBroker,
    queue: QueueId,
    name: Name,
    /// Level and number of the job that it came by last.
    last: Option<(i64, i64)>,
}

impl<'a> SqliteWalk<'a> {
    pub(super) fn new(broker: &'a SqliteBroker, queue: QueueId, name: &str) -> Self {
        Self { broker, queue, name: name.to_owned().into(), last: None }
    }
}

#[async_trait]
impl Walk for SqliteWalk<'_> {
    async fn next(&mut self, count: u16) -> Result<Vec<Found>> {
        let (queue, last) = (self.queue, self.last);
        let now = row::micros(self.broker.clock.now());
        let page =
            self.broker.reader.read(move |reader| page(reader, now, queue, last, count.into())).await?;
        let page = page.ok_or_else(|| amqp::queue_not_found(&self.name))?;
        if let Some((level, job, _)) = page.rows.last() {
            self.last = Some((*level, *job));
        }
        let found = page.rows.into_iter().map(|(_, job, envelope)| {
            // The numbers of jobs count up from 1.
            Found::new(Place(job.unsigned_abs()), envelope)
        });
        Ok(found.collect())
    }

    fn mark(&self) -> Option<Mark> {
        // Neither level nor number is below 0.
        self.last.map(|(level, job)| Mark { level: level.unsigned_abs(), place: job.unsigned_abs() })
    }

    async fn go_to(&mut self, mark: Mark) -> Result<()> {
        self.last = Some((signed(mark.level), signed(mark.place)));
        Ok(())
    }

    async fn take(&mut self, found: Found) -> Result<Option<Delivery>> {
        let Found { place: Place(job), envelope } = found;
        let (queue, job) = (self.queue, i64::try_from(job).unwrap_or(i64::MAX));
        let settler = self.broker.settler();
        let taken = self.broker.ask(|reply| Command::Take { queue, job, settler, reply }).await;
        let settler = taken.unwrap_or_else(|| Err(closed()))?;
        Ok(settler.map(|settler| Delivery::new(envelope, self.name.clone(), Box::new(settler))))
    }

    async fn end(self: Box<Self>) {}
}

/// A number of a mark, as SQLite has it.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Picks a page of the delayed jobs for a queue. The index `leveret_delayed_for` has them in this order, so that nothing is sorted
/// and no row is read in vain.
const DELAYED: &str = "SELECT due, delayed, {columns} FROM leveret_delayed \
     WHERE exchange IS NULL AND queue = ?1 AND (due, delayed) > (?2, ?3) ORDER BY due, delayed LIMIT ?4";

/// The next `count` jobs for a queue that are not due yet, behind a mark; fewer if they are large.
pub(super) fn delayed(
    reader: &Connection,
    queue: &str,
    after: Option<Mark>,
    count: u16,
) -> rusqlite::Result<Vec<FoundDelayed>> {
    let (due, place) = after.map_or((-1, -1), |mark| (signed(mark.level), signed(mark.place)));
    let mut select = reader.prepare_cached(&DELAYED.replace("{columns}", row::COLUMNS))?;
    let mut rows = select.query(params![queue, due, place, count])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let (due, number): (i64, i64) = (row.get(0)?, row.get(1)?);
        let envelope = row::read(row, 2)?;
        bytes += envelope.payload.len();
        let mark = Mark { level: due.unsigned_abs(), place: number.unsigned_abs() };
        found.push(FoundDelayed::new(mark, row::moment(due), envelope));
    }
    Ok(found)
}

/// The level and number of a job, and what it is.
type Row = (i64, i64, crate::envelope::Envelope);

#[derive(Debug, Default)]
struct Page {
    rows: Vec<Row>,
    bytes: usize,
}

/// The next `count` jobs of a queue after the last one, or fewer if they are large: at least one, if there is one. `None` if
/// the queue has been deleted.
fn page(
    reader: &Connection,
    now: i64,
    queue: QueueId,
    last: Option<(i64, i64)>,
    count: i64,
) -> rusqlite::Result<Option<Page>> {
    let mut page = Page::default();
    // First the rest of a level, then the lower ones: so that the index finds both at once, however many have been passed.
    if let Some((level, job)) = last {
        let place: [&dyn ToSql; 5] = [&queue, &now, &count, &level, &job];
        select(reader, "level = ?4 AND job > ?5 ORDER BY job", &place, &mut page)?;
    }
    if page.bytes < PAGE_BYTES {
        let below = last.map_or(i64::MAX, |(level, _)| level);
        let left = count - i64::try_from(page.rows.len()).unwrap_or(count);
        let place: [&dyn ToSql; 4] = [&queue, &now, &left, &below];
        select(reader, "level < ?4 ORDER BY level DESC, job", &place, &mut page)?;
    }
    if page.rows.is_empty() {
        let mut select = reader.prepare_cached("SELECT 1 FROM leveret_queue WHERE queue = ?1")?;
        return Ok(select.exists([queue])?.then_some(page));
    }
    Ok(Some(page))
}

/// A message that has expired counts as dead, also before it is removed.
fn select(reader: &Connection, those: &str, place: &[&dyn ToSql], page: &mut Page) -> rusqlite::Result<()> {
    let columns = row::COLUMNS;
    let mut select = reader.prepare_cached(&format!(
        "SELECT level, job, {columns} FROM leveret_job \
         WHERE queue = ?1 AND client IS NULL AND (expires IS NULL OR expires > ?2) AND {those} LIMIT ?3"
    ))?;
    let mut rows = select.query(place)?;
    while page.bytes < PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let envelope = row::read(row, 2)?;
        page.bytes += envelope.payload.len();
        page.rows.push((row.get(0)?, row.get(1)?, envelope));
    }
    Ok(())
}

impl SqliteBroker {
    /// Settles a delivery that it is given later on.
    fn settler(&self) -> SqliteSettler {
        let (writer, clock) = (Arc::downgrade(&self.commands), self.clock.clone());
        SqliteSettler { writer, ticket: None, clock, tenure: self.tenure.clone() }
    }
}

impl State {
    /// Claims one job of a queue, if it is free.
    pub(super) fn take(&mut self, queue: QueueId, job: i64) -> rusqlite::Result<Option<Ticket>> {
        let Some(queue_name) = self.queues.get(&queue).map(|queue| queue.name.clone()) else {
            return Ok(None);
        };
        let found: Option<(i64, i64)> = self
            .connection
            .prepare_cached(
                "SELECT returns, length(CAST(payload AS BLOB)) FROM leveret_job \
                 WHERE job = ?1 AND queue = ?2 AND client IS NULL",
            )?
            .query_row(params![job, queue], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((returns, bytes)) = found else { return Ok(None) };
        self.connection
            .prepare_cached("UPDATE leveret_job SET client = ?1 WHERE job = ?2")?
            .execute(params![self.me, job])?;
        self.count(queue, -1, -bytes)?;
        // Without a consumer, whose numbers count up from 1.
        let client = self.me;
        Ok(Some(Ticket { client, consumer: 0, queue, queue_name, job, returns, bytes, dead_letter: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    /// A queue may have a million of them: each page would read and sort all that are behind it.
    #[test]
    fn page_of_delayed_jobs_is_read_from_the_index_in_its_order() {
        let folder = std::env::temp_dir().join(format!("leveret-plan-{}", std::process::id()));
        let connection = schema::open(&folder).unwrap();
        let explain = format!("EXPLAIN QUERY PLAN {}", DELAYED.replace("{columns}", row::COLUMNS));

        let mut select = connection.prepare(&explain).unwrap();
        let plan: Vec<String> =
            select.query_map(params!["jobs", -1, -1, 10], |row| row.get(3)).unwrap().flatten().collect();

        let index = "SEARCH leveret_delayed USING INDEX leveret_delayed_for (queue=? AND due>?)";
        assert_eq!(plan, [index]);
        drop(select);
        drop(connection);
        std::fs::remove_file(folder).unwrap();
    }
}
