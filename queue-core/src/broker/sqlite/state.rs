//! The writer's state and its work within a transaction: the file's topology, cached; this client's consumers.
//! `store` moves messages, `consumer` claims, `settle` settles, `time` does what happens by the clock, `intake` takes in
//! what was inserted by SQL, `lease` watches who is alive.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension as _, ffi, params};

use super::command::{Answer, Command};
use super::deadlines::Deadlines;
use super::ids::{ClientId, ConsumerId, QueueId};
use super::inserted::Intake;
use super::lock::Locks;
use super::neighbours::Neighbours;
use super::subscription::{Claim, Line, ReplyConsumer, Subscription};
use super::tenure::Tenure;
use super::{row, schema};
use crate::broker::amqp::{Death, QueueRules, Remembered};
use crate::broker::missing::Complaints;
use crate::clock::Clock;
use crate::envelope::Envelope;
use crate::routing::Exchanges;
use crate::topology::{BindingDecl, Name, Namespace, QueueDecl};

/// The settings of a client.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) namespace: Namespace,
    pub(super) clock: Clock,
    /// How long a command waits for a file that another program has locked.
    pub(super) publish_timeout: Duration,
    pub(super) keep: Duration,
    pub(super) lease: Duration,
}

/// The exclusive queues of this client and their bindings.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) queues: Vec<QueueDecl>,
    pub(super) bindings: Vec<BindingDecl>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) connection: Connection,
    pub(super) setup: Setup,
    pub(super) sql: Sql,
    /// Where delayed jobs go whose queue has gone.
    pub(super) unroutable: Name,
    /// The number under which this client stands in the file.
    pub(super) me: ClientId,
    /// The number before, if this transaction gave us one.
    pub(super) former: Option<ClientId>,

    /// SQLite's own number of the file's content when we last looked; others' commits change it, ours do not.
    seen: i64,
    /// True if what we know must be read again, because a transaction of ours was undone.
    is_stale: bool,
    /// Counts the times that others have changed the file, so that a queue's counts are known to be fresh.
    pub(super) generation: u64,
    sequence: i64,
    saved_sequence: i64,
    topology: i64,
    has_new_topology: bool,

    pub(super) exchanges: Exchanges<QueueId>,
    pub(super) names: HashMap<Arc<str>, QueueId>,
    pub(super) queues: HashMap<QueueId, Queue>,
    /// Queues whose counts are to be written at the end of the transaction.
    pub(super) changed: Vec<QueueId>,

    pub(super) consumers: HashMap<ConsumerId, Subscription>,
    /// By the names of their queues.
    pub(super) lines: HashMap<Arc<str>, Line>,
    /// The generation in which all of them were last looked at.
    pub(super) dispatched: u64,
    /// The queues that are deleted when they are unused.
    pub(super) expiring: BTreeSet<QueueId>,
    /// The value of `names` before this transaction changed it: without this, a queue that was never committed would count
    /// as one that others have deleted.
    pub(super) renamed: Vec<(Arc<str>, Option<QueueId>)>,
    /// How to undo what this transaction did to the consumers' slots.
    pub(super) slots: Vec<(ConsumerId, i32)>,
    /// Consumers that this transaction added.
    pub(super) joined: Vec<ConsumerId>,
    /// Deliveries to hand over when the transaction is committed.
    pub(super) claims: Vec<Claim>,
    pub(super) replies: Option<ReplyConsumer>,
    /// Replies for this client, to be delivered when the transaction is committed.
    pub(super) handed: Vec<Envelope>,
    /// True if others may have inserted jobs by SQL.
    pub(super) has_inserted: bool,
    pub(super) intake: Intake,
    /// Messages that died and have not been dead-lettered yet.
    pub(super) deaths: VecDeque<Death>,
    pub(super) complaints: Complaints,
    /// The time of this transaction.
    pub(super) now: SystemTime,
    pub(super) deadlines: Deadlines,
    pub(super) neighbours: Neighbours,
    pub(super) locks: Locks,
    pub(super) tenure: Arc<Tenure>,
    /// Consumed queues that this transaction deleted.
    pub(super) deleted: Vec<QueueId>,
    /// The exclusive queues of this client and their bindings, to be declared again if others took us for dead.
    pub(super) own: Own,
    /// The topology that this client has declared and committed.
    pub(super) remembered: Remembered,
    /// The members of the registry that this client registered.
    pub(super) own_members: HashSet<String>,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: Arc<str>,
    pub(super) decl: QueueDecl,
    pub(super) rules: QueueRules,
    /// The owner of an exclusive queue.
    pub(super) owner: Option<ClientId>,
    pub(super) ready: i64,
    pub(super) bytes: i64,
    /// The generation in which the counts were read.
    generation: u64,
    is_changed: bool,
}

/// Statements that are put together once.
#[derive(Debug)]
pub(super) struct Sql {
    pub(super) insert_job: String,
    pub(super) ready_jobs: String,
    pub(super) job: String,
    pub(super) insert_delayed: String,
    pub(super) due: String,
    pub(super) insert_reply: String,
    pub(super) replies: String,
}

impl Sql {
    fn new() -> Self {
        let columns = row::COLUMNS;
        let marks = |from: usize, count: usize| {
            (from..from + count).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ")
        };
        Self {
            insert_job: format!(
                "INSERT INTO leveret_job (job, queue, level, returns, expires, exchange, routing_key, {columns}) \
                 VALUES ({})",
                marks(1, 7 + row::COUNT)
            ),
            ready_jobs: format!(
                "SELECT job, returns, exchange, routing_key, given_back, {columns} FROM leveret_job \
                 WHERE queue = ?1 AND client IS NULL ORDER BY level DESC, job LIMIT ?2"
            ),
            job: format!(
                "SELECT queue, client, exchange, routing_key, {columns} FROM leveret_job WHERE job = ?1"
            ),
            insert_delayed: format!(
                "INSERT INTO leveret_delayed (delayed, due, queue, exchange, routing_key, unroutable, {columns}) \
                 VALUES ({})",
                marks(1, 6 + row::COUNT)
            ),
            due: format!(
                "SELECT delayed, queue, exchange, routing_key, unroutable, {columns} FROM leveret_delayed \
                 WHERE due <= ?1 ORDER BY due, delayed LIMIT ?2"
            ),
            insert_reply: format!(
                "INSERT INTO leveret_reply (reply, address, {columns}) VALUES ({})",
                marks(1, 2 + row::COUNT)
            ),
            replies: format!("SELECT {columns} FROM leveret_reply WHERE address = ?1 ORDER BY reply"),
        }
    }
}

impl State {
    /// Knows nothing yet; the first transaction reads it.
    pub(super) fn new(connection: Connection, setup: Setup) -> Self {
        Self {
            unroutable: setup.namespace.unroutable(),
            now: setup.clock.now(),
            connection,
            setup,
            sql: Sql::new(),
            me: 0,
            former: None,
            seen: 0,
            is_stale: true,
            generation: 0,
            sequence: 0,
            saved_sequence: 0,
            topology: -1,
            has_new_topology: false,
            exchanges: Exchanges::new(),
            names: HashMap::new(),
            queues: HashMap::new(),
            changed: Vec::new(),
            consumers: HashMap::new(),
            lines: HashMap::new(),
            dispatched: 0,
            expiring: BTreeSet::new(),
            renamed: Vec::new(),
            slots: Vec::new(),
            joined: Vec::new(),
            claims: Vec::new(),
            replies: None,
            handed: Vec::new(),
            has_inserted: true,
            intake: Intake::default(),
            deaths: VecDeque::new(),
            complaints: Complaints::default(),
            deadlines: Deadlines::default(),
            neighbours: Neighbours::default(),
            locks: Locks::default(),
            tenure: Arc::default(),
            deleted: Vec::new(),
            own: Own::default(),
            remembered: Remembered::default(),
            own_members: HashSet::new(),
        }
    }

    /// The file itself: SQLite follows links to it, and keeps the log beside what they lead to.
    pub(super) fn database(&self) -> PathBuf {
        self.connection.path().map_or_else(|| self.setup.path.clone(), PathBuf::from)
    }

    /// Carries out `commands` and all that follows from them, in one transaction. All of it or nothing happens.
    pub(super) fn transact(&mut self, commands: &[Command]) -> rusqlite::Result<Vec<Answer>> {
        self.run("BEGIN IMMEDIATE")?;
        let result = self.within(commands).and_then(|answers| {
            self.run("COMMIT")?;
            Ok(answers)
        });
        match &result {
            Ok(_) => {
                self.former = None;
                self.locks.commit();
                self.renew_tenure();
            }
            Err(_) => self.undo(),
        }
        self.renamed.clear();
        self.slots.clear();
        self.joined.clear();
        result
    }

    fn within(&mut self, commands: &[Command]) -> rusqlite::Result<Vec<Answer>> {
        self.now = self.setup.clock.now();
        self.refresh()?;
        self.live()?;
        self.catch_up()?;
        self.take_in_outbox()?;
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands {
            answers.push(self.execute(command)?);
        }
        // A retry without a delay is due at once.
        self.catch_up()?;
        if self.has_overdue() {
            // The next transaction does it, which comes at once, and looks at all of them.
            self.dispatched = 0;
        } else {
            self.dispatch()?;
        }
        self.save()?;
        Ok(answers)
    }

    fn execute(&mut self, command: &Command) -> rusqlite::Result<Answer> {
        let answer = match command {
            Command::Publish { publish, .. } => Answer::Published(self.publish(publish)?),
            Command::PublishAll { publishes, .. } => {
                let results = publishes.iter().map(|publish| self.publish(publish));
                Answer::PublishedAll(results.collect::<rusqlite::Result<_>>()?)
            }
            Command::Settle { ticket, plan, .. } => Answer::Settled(self.settle(ticket, plan)?),
            Command::GiveBack(ticket) => {
                self.give_back(ticket)?;
                Answer::None
            }
            Command::Mark { ticket, name, value, .. } => Answer::Settled(self.mark(ticket, name, value)?),
            Command::Take { queue, job, .. } => Answer::Taken(Ok(self.take(*queue, *job)?)),
            Command::Declare { topology, .. } => Answer::Done(self.declare(topology)?),
            Command::Consume { options, handle, .. } => Answer::Consumer(self.consume(options, handle)?),
            Command::Leave(consumer) => {
                self.end_consumer(*consumer)?;
                Answer::None
            }
            Command::Purge { queue, .. } => Answer::Purged(self.purge(queue)?),
            Command::Delete { queue, .. } => Answer::Done(self.delete(queue)?),
            Command::Change { change, .. } => Answer::Changed(Ok(self.change(change)?)),
            Command::Close(_) => {
                // No consumer may claim the jobs that are given back.
                self.lines.clear();
                self.consumers.clear();
                self.replies = None;
                self.retire(self.me)?;
                self.forget_lock(self.me)?;
                self.leave_registry()?;
                Answer::None
            }
        };
        Ok(answer)
    }

    /// After a transaction that failed: what we know is as it was, or will be read again.
    fn undo(&mut self) {
        // Before another program can get our number, and look for its lock in the same place.
        self.locks.undo();
        // It fails where SQLite has rolled back by itself, as it does for a full disk.
        let _ = self.run("ROLLBACK");
        self.restore_names();
        self.restore_slots();
        for consumer in std::mem::take(&mut self.joined) {
            self.leave(consumer);
            self.end_replies(consumer);
        }
        self.claims.clear();
        self.handed.clear();
        self.deaths.clear();
        self.changed.clear();
        self.deleted.clear();
        self.neighbours.beat_was_undone();
        // The next program that asks gets the number that we were given.
        self.me = self.former.take().unwrap_or(self.me);
        self.is_stale = true;
        self.topology = -1;
        self.has_new_topology = false;
    }

    /// Moves as much of the log into the database as others' reading allows, and syncs both. Says how many pages the log
    /// has, and how many of them were moved; what comes next is written to its beginning if all were.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<(i64, i64)> {
        self.connection
            .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?
            .query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
    }

    /// Moves all of the log into the database, syncs it, and has the log begin anew as an empty file. Waits for programs that
    /// read from it as long as the connection waits for others.
    pub(super) fn empty_log(&self) -> rusqlite::Result<()> {
        let is_busy: bool =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if is_busy {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None));
        }
        Ok(())
    }

    fn run(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(|_| ())
    }

    /// SQLite's number for the file's present content.
    pub(super) fn data_version(&self) -> rusqlite::Result<i64> {
        self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }

    /// True if what others have changed gives us something to do. Only looks, so that programs that have nothing to do
    /// do not stand in the way of those that write.
    pub(super) fn has_work(&mut self) -> rusqlite::Result<bool> {
        if self.is_stale || self.me == 0 {
            return Ok(true);
        }
        if self.data_version()? == self.seen {
            return Ok(false);
        }
        let (schema, topology): (i64, i64) = self
            .connection
            .prepare_cached("SELECT schema, topology FROM leveret_meta")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        schema::check(schema)?;
        if topology != self.topology || !self.is_registered()? || self.has_replies()? {
            return Ok(true);
        }
        if self.has_outbox()? || !self.claimable()?.is_empty() {
            return Ok(true);
        }
        self.read_deadlines()?;
        Ok(false)
    }

    /// At the beginning of a transaction: reads again what others have changed.
    fn refresh(&mut self) -> rusqlite::Result<()> {
        let version = self.data_version()?;
        if version == self.seen && !self.is_stale {
            return Ok(());
        }
        let (schema, sequence, topology): (i64, i64, i64) = self
            .connection
            .prepare_cached("SELECT schema, sequence, topology FROM leveret_meta")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        schema::check(schema)?;
        (self.sequence, self.saved_sequence) = (sequence, sequence);
        self.generation += 1;
        self.pick_up_replies()?;
        self.has_inserted = true;
        self.deadlines.forget();
        self.neighbours.have_changed();
        if topology != self.topology {
            self.read_topology()?;
            self.topology = topology;
        }
        self.seen = version;
        self.is_stale = false;
        Ok(())
    }

    /// At the end of a transaction: writes what is kept in memory until then.
    fn save(&mut self) -> rusqlite::Result<()> {
        let mut save = self
            .connection
            .prepare_cached("UPDATE leveret_queue SET ready = ?2, bytes = ?3 WHERE queue = ?1")?;
        for id in self.changed.drain(..) {
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            save.execute(params![id, queue.ready, queue.bytes])?;
            queue.is_changed = false;
        }
        if self.sequence != self.saved_sequence || self.has_new_topology {
            self.topology += i64::from(self.has_new_topology);
            self.connection
                .prepare_cached("UPDATE leveret_meta SET sequence = ?1, topology = ?2")?
                .execute(params![self.sequence, self.topology])?;
            self.saved_sequence = self.sequence;
            self.has_new_topology = false;
        }
        Ok(())
    }

    /// A number that this file has never given before.
    pub(super) fn next(&mut self) -> i64 {
        self.sequence += 1;
        self.sequence
    }

    /// Makes other clients read exchanges, queues and bindings again.
    pub(super) fn topology_has_changed(&mut self) {
        self.has_new_topology = true;
        // What waits in the outbox may have waited for it.
        self.has_inserted = true;
        self.go_on_soon();
    }

    /// A queue with fresh counts.
    pub(super) fn counted(&mut self, id: QueueId) -> rusqlite::Result<Option<&mut Queue>> {
        let generation = self.generation;
        let Some(queue) = self.queues.get_mut(&id) else { return Ok(None) };
        if queue.generation != generation {
            let counts = self
                .connection
                .prepare_cached("SELECT ready, bytes FROM leveret_queue WHERE queue = ?1")?
                .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            (queue.ready, queue.bytes) = counts.unwrap_or_default();
            queue.generation = generation;
        }
        Ok(Some(queue))
    }

    /// Adds to a queue's counts, which are written at the end of the transaction.
    pub(super) fn count(&mut self, id: QueueId, jobs: i64, bytes: i64) -> rusqlite::Result<()> {
        let Some(queue) = self.counted(id)? else { return Ok(()) };
        queue.ready += jobs;
        queue.bytes += bytes;
        if !std::mem::replace(&mut queue.is_changed, true) {
            self.changed.push(id);
        }
        Ok(())
    }

    /// Counts a queue's jobs one by one.
    pub(super) fn recount(&mut self, id: QueueId) -> rusqlite::Result<()> {
        let (ready, bytes): (i64, i64) = self
            .connection
            .prepare_cached(
                "SELECT count(*), coalesce(sum(length(CAST(payload AS BLOB))), 0) FROM leveret_job \
                 WHERE queue = ?1 AND client IS NULL",
            )?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if let Some(queue) = self.counted(id)? {
            let (old_ready, old_bytes) = (queue.ready, queue.bytes);
            self.count(id, ready - old_ready, bytes - old_bytes)?;
        }
        Ok(())
    }

    pub(super) fn queue(name: &str, decl: QueueDecl, rules: QueueRules, owner: Option<ClientId>) -> Queue {
        // The counts of generation 0 are never fresh.
        Queue {
            name: Arc::from(name),
            decl,
            rules,
            owner,
            ready: 0,
            bytes: 0,
            generation: 0,
            is_changed: false,
        }
    }
}
