//! Relays jobs and events that were inserted by SQL to another broker: the transactional outbox.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::sqlite::fault::{self, Fault, Trouble};
use crate::broker::sqlite::outbox_table::{self, AGAIN, Entry, STEP, Target};
use crate::broker::sqlite::place::Place;
use crate::broker::sqlite::schema;
use crate::broker::sqlite::url::Options;
use crate::client::Client;
use crate::error::{Error, ErrorKind, PublishError, Result, chain};

/// How often a relay looks for new rows.
const POLL: Duration = Duration::from_millis(20);
/// The longest pause between two attempts at an exchange. Each attempt may cost other publishers something: a missing exchange
/// ends the channel that it was published on, and where one of several queues is full, the others get the event at each attempt.
const LONGEST: Duration = Duration::from_secs(60);
/// How many queues and exchanges are sent to at once, so that their rows take a bounded amount of memory.
const QUEUES: usize = 64;

/// Relays jobs and events, which were inserted by SQL into an SQLite database of yours, to another broker, such as RabbitMQ: the
/// transactional outbox. Opened by the database's URL; [`SqlInsert`](super::SqlInsert) inserts the jobs.
///
/// ```no_run
/// use leveret::{CancellationToken, Client, Outbox};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> leveret::Result<()> {
/// let client = Client::connect("amqp://guest:guest@localhost:5672/").await?;
/// Outbox::open("sqlite:app.db")?.relay(&client, CancellationToken::new()).await
/// # }
/// ```
///
/// The relay sends in order for each queue and each exchange, and deletes a row after the broker's confirm. A crash in between
/// sends the message twice, under one job id; it never loses one. On RabbitMQ, an event that the full queue of one subscriber
/// refuses reaches the other subscribers at each attempt, under one id. Of several relays on one database, one works at a time.
/// No client may have the same file open as its broker: it would take the jobs itself.
#[derive(Debug)]
pub struct Outbox {
    /// The path of the file itself, with links resolved, so that all relays find the same lock.
    path: PathBuf,
}

impl Outbox {
    /// Opens the database that `url` names (`sqlite:app.db`), and creates it if it is missing. Adds Leveret's tables, of which
    /// `leveret_outbox` holds the jobs, and sets the journal mode WAL, which stays with the file, as a client does. Waits
    /// for the disk, and up to 10 s for another program that writes.
    ///
    /// ```no_run
    /// # fn f() -> leveret::Result<()> {
    /// let outbox = leveret::Outbox::open("sqlite:app.db")?;
    /// # Ok(()) }
    /// ```
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
        let connection = schema::open(&path)?;
        let path = connection.path().map_or(path, PathBuf::from);
        Ok(Self { path })
    }

    /// Relays to the broker of `client` until `stop` is cancelled. Run it in any process, for example beside your worker.
    ///
    /// ```no_run
    /// # use leveret::Client;
    /// use leveret::{CancellationToken, Outbox};
    ///
    /// # async fn serve_web() {}
    /// # async fn f(client: Client) -> leveret::Result<()> {
    /// let stop = CancellationToken::new();
    /// let outbox = Outbox::open("sqlite:app.db")?;
    /// let relaying = tokio::spawn({
    ///     let stop = stop.clone();
    ///     async move { outbox.relay(&client, stop).await }
    /// });
    ///
    /// serve_web().await;
    ///
    /// stop.cancel();
    /// relaying.await.expect("the relay does not panic")
    /// # }
    /// ```
    ///
    /// A message that the broker does not take (it is away, the queue is full, the queue or exchange is missing) stays, and
    /// blocks only its own queue or exchange. The relay tries a queue again each second, and an exchange after 1 s, 2 s, 4 s …
    /// and then each minute. A message that no broker can take (its name is too long, its payload above the broker's limit) is set
    /// aside: it stays in `leveret_outbox` with the reason in `refused`, which is logged as an error, and blocks nothing.
    /// Correct it and set `refused` to NULL, or delete it. If another program has locked the file for longer than the client's
    /// publish timeout, the disk is full, or the database was moved away, the relay logs a warning and tries again each second.
    ///
    /// Cancel safety: a relay that is dropped may have sent jobs without deleting their rows; they are sent again.
    ///
    /// # Errors
    /// If the database cannot be read or written any more, was replaced by another file, or the client is closed before
    /// `stop` is cancelled.
    pub async fn relay(&self, client: &Client, stop: CancellationToken) -> Result<()> {
        crate::runtime::require("a relay")?;
        let Some(_only) = self.become_the_only_one(&stop).await? else { return Ok(()) };
        let database = Database::open(&self.path, Some(self.lock()), client.publish_timeout()).await?;
        let relay = Relay {
            client: client.clone(),
            stop,
            database,
            tasks: JoinSet::new(),
            sending: HashSet::new(),
            stuck: HashMap::new(),
            at: None,
            seen: None,
            is_to_look: true,
        };
        relay.run().await
    }

    /// The lock file of the relay that works.
    fn lock(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push("-relay");
        path.into()
    }

    /// Waits until no other relay works on this database. `None` if it was stopped before.
    async fn become_the_only_one(&self, stop: &CancellationToken) -> Result<Option<File>> {
        let path = self.lock();
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

/// One relay at work.
struct Relay {
    client: Client,
    stop: CancellationToken,
    database: Database,
    /// Each sends rows of one queue, so that none waits for another.
    tasks: JoinSet<Sent>,
    /// Queues that a task sends to, or whose rows it sent have not been taken out.
    sending: HashSet<Target>,
    /// Those that did not take their first row.
    stuck: HashMap<Target, Stuck>,
    /// The queue behind which the next look begins, because the last one found more than `QUEUES`.
    at: Option<Target>,
    /// SQLite's number of the content that was looked through.
    seen: Option<i64>,
    /// True if there may be more to send, whatever that number says.
    is_to_look: bool,
}

impl Relay {
    /// Ends when it is stopped, the client is closed, or the database fails.
    async fn run(mut self) -> Result<()> {
        let mut ended = Vec::new();
        loop {
            while let Some(sent) = self.tasks.try_join_next() {
                ended.push(sent.map_err(cut_short)?);
            }
            let is_stopped = self.stop.is_cancelled();
            if !ended.is_empty() && !self.take_out(&mut ended, is_stopped).await? {
                // What was sent is taken out before anything else is sent, since it would be sent again.
                wait(AGAIN, &self.stop).await;
                continue;
            }
            if is_stopped && self.tasks.is_empty() {
                return Ok(());
            }
            if !is_stopped && self.look().await? {
                continue;
            }
            tokio::select! {
                // A result that is taken is kept; the others only wait.
                Some(sent) = self.tasks.join_next() => ended.push(sent.map_err(cut_short)?),
                () = tokio::time::sleep(POLL), if !is_stopped => {}
                () = self.stop.cancelled(), if !is_stopped => {}
            }
        }
    }

    /// Begins to send what may be sent now. Returns true to look again at once.
    async fn look(&mut self) -> Result<bool> {
        let now = Instant::now();
        let room = QUEUES - self.tasks.len();
        if room == 0 {
            return Ok(false);
        }
        self.is_to_look |= self.stuck.values().any(|stuck| stuck.until <= now);
        if !self.is_to_look {
            let version = self.database.run(|connection| schema::pragma(connection, "data_version")).await?;
            if version.is_none() || version == self.seen {
                return Ok(false);
            }
        }
        let mut limits: HashMap<Target, usize> = HashMap::new();
        for (target, stuck) in &self.stuck {
            limits.insert(target.clone(), usize::from(stuck.until <= now));
        }
        limits.extend(self.sending.iter().map(|target| (target.clone(), 0)));
        let at = self.at.take();
        let is_from_the_start = at.is_none();
        let find = move |connection: &mut Connection| find(connection, at, room, &limits);
        let Some(Found { version, batches, at }) = self.database.run(find).await? else {
            self.is_to_look = true;
            wait(AGAIN, &self.stop).await;
            return Ok(false);
        };
        let is_to_the_end = at.is_none();
        if is_from_the_start && is_to_the_end {
            // Those whose rows have gone are no longer stuck.
            let found: HashSet<&Target> = batches.iter().map(|(target, _)| target).collect();
            self.stuck.retain(|target, stuck| stuck.until > now || found.contains(target));
        }
        for (target, entries) in batches {
            self.sending.insert(target.clone());
            self.tasks.spawn(send(self.client.clone(), target, entries, self.stop.clone()));
        }
        self.at = at;
        self.seen = Some(version);
        self.is_to_look = !(is_from_the_start && is_to_the_end);
        Ok(self.is_to_look)
    }

    /// Takes out what was sent, and sets aside what never can be. `false` if the file is locked; then it is to be
    /// called again.
    async fn take_out(&mut self, ended: &mut Vec<Sent>, is_last: bool) -> Result<bool> {
        let done: Vec<Rows> = ended.iter().map(|sent| sent.rows.clone()).collect();
        if self.database.run(move |connection| settle(connection, &done)).await?.is_none() {
            if is_last {
                let words = self.database.waits.as_deref().unwrap_or_default();
                let words = format!("{words}; jobs that were relayed stay in it, and will be sent again");
                return Err(Error::new(ErrorKind::Connection, words));
            }
            return Ok(false);
        }
        for Sent { target, rows, end } in ended.drain(..) {
            for (entry, reason) in rows.refused {
                outbox_table::tell(&target, entry, &reason);
            }
            self.sending.remove(&target);
            self.is_to_look = true;
            let Some(error) = end else {
                self.stuck.remove(&target);
                continue;
            };
            if matches!(error, PublishError::Closed) && !self.stop.is_cancelled() {
                return Err(error.into());
            }
            let error = chain(&error);
            let before = self.stuck.get(&target).map(|stuck| stuck.pause);
            let pause = pause_after(before, &target);
            self.stuck.insert(target.clone(), Stuck { until: Instant::now() + pause, pause });
            if before.is_none() {
                tracing::warn!(
                    queue = target.queue(),
                    exchange = target.exchange(),
                    error,
                    "messages inserted by SQL wait: the broker did not take them"
                );
            } else {
                tracing::debug!(%target, error, "messages inserted by SQL still wait");
            }
        }
        Ok(true)
    }
}

/// A queue or exchange that did not take its first row.
struct Stuck {
    /// When it is tried again.
    until: Instant,
    /// How long it is left in peace.
    pause: Duration,
}

/// How long a queue or exchange is left in peace that did not take its row, after a pause before.
fn pause_after(before: Option<Duration>, target: &Target) -> Duration {
    match (before, target) {
        (Some(before), Target::Exchange(_)) => (before * 2).min(LONGEST),
        _ => AGAIN,
    }
}

/// The runtime ends, or a task panicked, whose panic goes on here.
fn cut_short(error: JoinError) -> Error {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => Error::new(ErrorKind::Connection, "the relay was cut short").with_source(error),
    }
}

/// Tells what became of some rows of a queue.
#[derive(Debug)]
struct Sent {
    target: Target,
    rows: Rows,
    /// The reason why it ended before the last.
    end: Option<PublishError>,
}

/// Rows that need not be sent any more.
#[derive(Debug, Clone, Default)]
struct Rows {
    /// Confirmed by the broker.
    sent: Vec<i64>,
    /// Rows that no broker can take, with the reason.
    refused: Vec<(i64, String)>,
}

/// Sends rows of one queue, one after the other. Ends with the first that the broker does not take, with a delayed one
/// whose queue is missing, or when it is stopped.
async fn send(client: Client, target: Target, entries: Vec<Entry>, stop: CancellationToken) -> Sent {
    let (mut rows, mut end) = (Rows::default(), None);
    let mut is_declared = false;
    for Entry { number, publish } in entries {
        if stop.is_cancelled() {
            break;
        }
        let mut publish = match publish {
            Ok(publish) => publish,
            Err(reason) => {
                rows.refused.push((number, reason));
                continue;
            }
        };
        publish.not_before = publish.not_before.filter(|due| *due > SystemTime::now());
        if publish.not_before.is_some() && !is_declared {
            if let Err(error) = look_for(&client, &publish.route.routing_key).await {
                end = Some(error);
                break;
            }
            is_declared = true;
        }
        match client.broker().publish(publish).await {
            Ok(()) => rows.sent.push(number),
            Err(error) if outbox_table::is_for_good(&error) => rows.refused.push((number, chain(&error))),
            Err(error) => {
                end = Some(error);
                break;
            }
        }
    }
    Sent { target, rows, end }
}

/// No broker looks for the queue of a delayed job before its time, and then it would be too late to keep it.
async fn look_for(client: &Client, queue: &str) -> Result<(), PublishError> {
    let since = Instant::now();
    // A broker that shows nothing is given the job.
    let Ok(operator) = client.operator() else { return Ok(()) };
    let Err(error) = operator.inspect(queue).await else { return Ok(()) };
    Err(match error.kind() {
        ErrorKind::NotFound | ErrorKind::Topology => {
            PublishError::Unroutable { exchange: String::new(), routing_key: queue.to_owned() }
        }
        ErrorKind::Closed => PublishError::Closed,
        // It may be there. A job that this user may not send either is refused when it is sent.
        ErrorKind::Refused => return Ok(()),
        _ => PublishError::Unavailable { waited: since.elapsed(), source: Some(error.into()) },
    })
}

/// The rows that are to be sent.
struct Found {
    version: i64,
    batches: Vec<(Target, Vec<Entry>)>,
    /// The last queue looked at, if there may be more behind it.
    at: Option<Target>,
}

/// Reads the first rows of each queue behind `at`, of at most `room` of them; `limits` says how many of queues that are
/// not to get a whole step.
fn find(
    connection: &Connection,
    mut at: Option<Target>,
    room: usize,
    limits: &HashMap<Target, usize>,
) -> rusqlite::Result<Found> {
    // First the number, then the content: what comes in between is looked at next time.
    let version = schema::pragma(connection, "data_version")?;
    // A newer program may have brought the file up to date meanwhile, and insert what this one would misread.
    let mut schema = connection.prepare_cached("SELECT schema FROM leveret_meta")?;
    schema::check(schema.query_row([], |row| row.get(0))?)?;
    let mut batches = Vec::new();
    while batches.len() < room {
        let Some(target) = outbox_table::next_target(connection, at.as_ref())? else {
            at = None;
            break;
        };
        let limit = limits.get(&target).copied().unwrap_or(STEP);
        if limit > 0 {
            let (entries, _) = outbox_table::entries(connection, &target, limit)?;
            batches.push((target.clone(), entries));
        }
        at = Some(target);
    }
    Ok(Found { version, batches, at })
}

/// Takes out the rows that were sent, and sets aside those that were refused.
fn settle(connection: &mut Connection, done: &[Rows]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for Rows { sent, refused } in done {
        for entry in sent {
            outbox_table::remove(&transaction, *entry)?;
        }
        for (entry, reason) in refused {
            outbox_table::set_aside(&transaction, *entry, reason)?;
        }
    }
    transaction.commit()
}

/// A connection that threads work with on which blocking is no harm.
struct Database {
    path: PathBuf,
    place: Arc<Place>,
    /// In the hands of a thread when `None`; lost if the relay was dropped meanwhile.
    connection: Option<Connection>,
    /// The reason why the last attempt is to be made again, as it was told.
    waits: Option<String>,
}

impl Database {
    /// `lock` is a file that must stay where it is, and `patience` how long a call waits for another program that writes.
    async fn open(path: &Path, lock: Option<PathBuf>, patience: Duration) -> Result<Self> {
        let path = path.to_owned();
        let opening = move || {
            let connection = schema::open(&path)?;
            connection.busy_timeout(patience).map_err(|fault| fault::error(&path, fault))?;
            let watch = || {
                let mut place = Place::of(&path, &path)?;
                lock.iter().try_for_each(|lock| place.watch(lock))?;
                Ok(place)
            };
            let place = watch().map_err(|error: std::io::Error| {
                let words = format!("`{}` went away while it was opened", path.display());
                Error::new(ErrorKind::Connection, words).with_source(error)
            })?;
            Ok(Self { path, place: Arc::new(place), connection: Some(connection), waits: None })
        };
        tokio::task::spawn_blocking(opening).await.map_err(cut_short)?
    }

    /// Does something with the connection. `None` if the file is locked or was moved away, or the disk is full, which is
    /// told, and may be over when it is tried again.
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let mut connection = self.connection.take().expect("each call puts it back, or ends the relay");
        let place = self.place.clone();
        let working = move || {
            let result = place.look().map(|()| work(&mut connection));
            (connection, result)
        };
        let (connection, result) = tokio::task::spawn_blocking(working).await.map_err(cut_short)?;
        self.connection = Some(connection);
        let words = match result {
            Ok(Ok(value)) => {
                self.waits = None;
                return Ok(Some(value));
            }
            Ok(Err(fault)) => match fault::trouble(&fault) {
                trouble @ (Trouble::Busy | Trouble::Full) => fault::words(&self.path, trouble),
                _ => return Err(fault::error(&self.path, fault)),
            },
            Err(moved) if moved.may_come_back() => moved.to_string(),
            Err(moved) => return Err(Fault::from(&moved).error()),
        };
        if self.waits.as_ref() != Some(&words) {
            tracing::warn!("messages inserted by SQL wait: {words}");
        }
        self.waits = Some(words);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::TransactionBehavior;

    use super::*;
    use crate::broker::sqlite::outbox_table::Written;

    #[test]
    fn exchange_that_takes_nothing_is_left_in_peace_for_longer_each_time_and_a_queue_is_not() {
        let exchange = Target::Exchange(Written::Text(b"orders".to_vec()));
        let queue = Target::Queue(Written::Text(b"emails".to_vec()));
        let mut pauses = vec![pause_after(None, &exchange)];
        for _ in 0..7 {
            pauses.push(pause_after(pauses.last().copied(), &exchange));
        }

        let seconds: Vec<_> = pauses.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause_after(Some(AGAIN), &queue), AGAIN);
    }

    #[tokio::test]
    async fn locked_file_is_tried_again() {
        let path = std::env::temp_dir().join(format!("leveret-relay-{}.db", std::process::id()));
        let mut database = Database::open(&path, None, Duration::ZERO).await.unwrap();
        let mut application = Connection::open(&path).unwrap();
        let remove =
            |connection: &mut Connection| settle(connection, &[Rows { sent: vec![1], ..Rows::default() }]);

        let transaction = application.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let locked = database.run(remove).await.unwrap();
        transaction.commit().unwrap();
        let free = database.run(remove).await.unwrap();

        assert_eq!((locked, free), (None, Some(())));
        drop((database, application));
        std::fs::remove_file(path).unwrap();
    }
}
