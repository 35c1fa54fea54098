//! Opens the file: creates the tables, brings older ones up to date, and refuses what is not ours, in words.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, ffi};

use super::fault::{self, Trouble};
use crate::error::{Error, ErrorKind, Result};

/// The version of the tables that this program writes.
const VERSION: i64 = 7;
/// `Lvrt`: the file was made by us. One that has another program's mark is refused; one without a mark is shared with
/// the tables of an application, and so is one of ours that an application has given its own mark.
const APPLICATION_ID: i64 = 0x4c76_7274;
/// All tables, as this version has them.
const TABLES: &str = include_str!("schema.sql");
/// The changes of each version to the one before, from version 2 on. `schema.sql` has it all.
const STEPS: [&str; VERSION as usize - 1] = ["
    ALTER TABLE leveret_job ADD COLUMN content_encoding TEXT;
    ALTER TABLE leveret_job ADD COLUMN app_id TEXT;
    ALTER TABLE leveret_job ADD COLUMN cluster_id TEXT;
    ALTER TABLE leveret_delayed ADD COLUMN content_encoding TEXT;
    ALTER TABLE leveret_delayed ADD COLUMN app_id TEXT;
    ALTER TABLE leveret_delayed ADD COLUMN cluster_id TEXT;
    ALTER TABLE leveret_reply ADD COLUMN content_encoding TEXT;
    ALTER TABLE leveret_reply ADD COLUMN app_id TEXT;
    ALTER TABLE leveret_reply ADD COLUMN cluster_id TEXT;
    UPDATE leveret_meta SET schema = 2;
", "
    ALTER TABLE leveret_outbox ADD COLUMN exchange TEXT;
    ALTER TABLE leveret_outbox ADD COLUMN routing_key TEXT;
    DROP INDEX leveret_outbox_waiting;
    CREATE INDEX leveret_outbox_jobs ON leveret_outbox (queue) WHERE refused IS NULL AND exchange IS NULL;
    CREATE INDEX leveret_outbox_events ON leveret_outbox (exchange) WHERE refused IS NULL AND exchange IS NOT NULL;
    UPDATE leveret_meta SET schema = 3;
", "
    ALTER TABLE leveret_meta ADD COLUMN store TEXT;
    DROP INDEX leveret_delayed_for;
    CREATE INDEX leveret_delayed_for ON leveret_delayed (queue, due) WHERE exchange IS NULL;
    CREATE TABLE leveret_member (
        member     INTEGER PRIMARY KEY,
        id         TEXT NOT NULL UNIQUE,
        kind       TEXT NOT NULL,
        name       TEXT NOT NULL,
        host       TEXT NOT NULL,
        process    INTEGER NOT NULL,
        version    TEXT NOT NULL,
        protocol   INTEGER NOT NULL,
        started_at INTEGER NOT NULL,
        last_seen  INTEGER NOT NULL,
        busy       INTEGER NOT NULL,
        queues     TEXT NOT NULL,
        tasks      TEXT NOT NULL,
        running    TEXT NOT NULL
    );
    UPDATE leveret_meta SET schema = 4, store = lower(hex(randomblob(16)));
", "
    ALTER TABLE leveret_job ADD COLUMN given_back INTEGER NOT NULL DEFAULT 0;
    UPDATE leveret_meta SET schema = 5;
", "
    ALTER TABLE leveret_job ADD COLUMN unmarked TEXT;
    UPDATE leveret_meta SET schema = 6;
", "
    CREATE TABLE leveret_lock (
        client INTEGER PRIMARY KEY,
        device INTEGER NOT NULL,
        inode  INTEGER NOT NULL
    );
    UPDATE leveret_meta SET schema = 7;
"];
/// How many bytes of a log are kept to be written over.
const LOG_LIMIT: u64 = 32 << 20;
/// How long opening waits for a program that writes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it rests between two tries where SQLite does not wait.
const PAUSE: Duration = Duration::from_millis(5);

/// Opens the file to write it, with tables as this version knows them.
///
/// # Errors
/// If it is a directory, no database, another program's, damaged, newer than this program, or cannot be written.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    check_place(path)?;
    let mut connection = connect(path)?;
    prepare(&mut connection, path)?;
    Ok(connection)
}

/// One more connection to a file that has been opened, which does not write.
pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    let connection = connect(path)?;
    connection.execute_batch("PRAGMA query_only = ON").map_err(|fault| fault::error(path, fault))?;
    Ok(connection)
}

/// Names the store of a file that has been opened.
pub(super) fn store_id(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("SELECT coalesce(store, '') FROM leveret_meta", [], |row| row.get(0))
}

/// Refuses tables that a newer program has changed since the file was opened.
pub(super) fn check_now(connection: &Connection) -> rusqlite::Result<()> {
    let mut select = connection.prepare_cached("SELECT schema FROM leveret_meta")?;
    check(select.query_row([], |row| row.get(0))?)
}

fn check_place(path: &Path) -> Result<()> {
    let shown = path.display();
    if path.is_dir() {
        return Err(Error::config(format!(
            "`{shown}` is a directory: name a file in it, such as `sqlite:{shown}/jobs.db`"
        )));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent
        && !parent.is_dir()
    {
        return Err(Error::config(format!(
            "`{shown}` cannot be created: there is no directory `{}`; create it",
            parent.display()
        )));
    }
    Ok(())
}

fn connect(path: &Path) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|fault| opening(path, fault))?;
    connection.busy_timeout(PATIENCE).map_err(|fault| opening(path, fault))?;
    connection.set_prepared_statement_cache_capacity(64);
    // A log that became long while a program read from it is cut to this when it begins anew. Above what it has usually,
    // or each time would take room from the disk anew.
    let limit = format!("PRAGMA journal_size_limit = {LOG_LIMIT}");
    connection.execute_batch(&limit).map_err(|fault| opening(path, fault))?;
    Ok(connection)
}

fn opening(path: &Path, fault: rusqlite::Error) -> Error {
    if fault.sqlite_error_code() == Some(rusqlite::ErrorCode::CannotOpen) {
        let words = format!(
            "`{}` cannot be opened or created: let this user read and write it and its directory",
            path.display()
        );
        return Error::new(ErrorKind::Refused, words).with_source(fault);
    }
    fault::error(path, fault)
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<()> {
    let faulty = |fault| opening(path, fault);
    let is_new = pragma(connection, "page_count").map_err(faulty)? == 0;
    if is_new {
        // Only a file without tables takes it.
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL").map_err(faulty)?;
    }
    let before = look(connection, path)?;
    let mode = begin_log(connection).map_err(faulty)?;
    if mode != "wal" {
        return Err(Error::config(format!(
            "`{}` is on a file system that cannot share memory (journal mode `{mode}` instead of `wal`): put it on a \
             local disk",
            path.display()
        )));
    }
    if before != Some(VERSION) {
        migrate(connection, path)?;
    }
    // What is written by a program that opened the file a moment before us is as new as what we look at.
    Ok(())
}

/// Switches the file to WAL, and returns its journal mode. SQLite does not wait by itself for a program that writes in
/// another mode.
fn begin_log(connection: &Connection) -> rusqlite::Result<String> {
    let since = Instant::now();
    loop {
        let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0));
        match mode {
            Err(error) if fault::trouble(&error) == Trouble::Busy && since.elapsed() < PATIENCE => {
                std::thread::sleep(PAUSE);
            }
            mode => return mode,
        }
    }
}

/// The version of our tables in the file; `None` if there are none. It stands in a table of ours, because `user_version`
/// belongs to the application that shares the file: many count their own migrations in it.
fn look(connection: &Connection, path: &Path) -> Result<Option<i64>> {
    let faulty = |fault| opening(path, fault);
    let shown = path.display();
    let there: i64 = connection
        .query_row(
            "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'leveret_meta'",
            [],
            |row| row.get(0),
        )
        .map_err(faulty)?;
    if there == 0 {
        let application = pragma(connection, "application_id").map_err(faulty)?;
        if application != 0 && application != APPLICATION_ID {
            return Err(Error::config(format!(
                "`{shown}` belongs to another program (application id {application:#x}): name another file"
            )));
        }
        return Ok(None);
    }
    let version: Option<i64> = connection
        .query_row("SELECT schema FROM leveret_meta", [], |row| row.get(0))
        .optional()
        .map_err(faulty)?;
    match version {
        Some(newer) if newer > VERSION => Err(Error::config(format!(
            "`{shown}` was written by a newer Leveret: its tables are of version {newer}, and this program knows \
             {VERSION}; update this program, or name another file"
        ))),
        _ => Ok(version),
    }
}

/// Refuses tables of this version if they are newer than we know: a newer program may bring the file up to date while
/// we have it open.
pub(crate) fn check(version: i64) -> rusqlite::Result<()> {
    if version <= VERSION {
        return Ok(());
    }
    let words = format!("its tables are of version {version}, and this program knows {VERSION}");
    Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_SCHEMA), Some(words)))
}

/// Brings the tables up to date, in one transaction: another program may open the file at the same moment.
fn migrate(connection: &mut Connection, path: &Path) -> Result<()> {
    let faulty = |fault| opening(path, fault);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(faulty)?;
    let there = look(&transaction, path)?;
    let others: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(faulty)?;
    match there {
        None => transaction.execute_batch(TABLES).map_err(faulty)?,
        Some(version) => {
            for step in STEPS.iter().skip(usize::try_from(version - 1).unwrap_or(0)) {
                transaction.execute_batch(step).map_err(faulty)?;
            }
        }
    }
    if others == 0 {
        let mark = format!("PRAGMA application_id = {APPLICATION_ID}");
        transaction.execute_batch(&mark).map_err(faulty)?;
    }
    transaction.commit().map_err(faulty)
}

/// A pragma whose value is a number.
pub(crate) fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
}
