//! SQLite's errors in the words of this broker: what it is, and what to do about it.

use std::path::Path;
use std::time::Duration;

use rusqlite::ErrorCode;

use super::place::Moved;
use crate::error::{BoxError, Error, ErrorKind, PublishError, chain};

/// The kind of trouble of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Another program has it locked.
    Busy,
    /// There is no room on the disk.
    Full,
    /// It may not be written.
    ReadOnly,
    /// It is none of SQLite's.
    Foreign,
    /// It is damaged.
    Corrupt,
    /// A newer program has changed its tables.
    Newer,
    /// The disk does not write or read it.
    Disk,
    /// It is not where it was.
    Moved,
    /// Something else.
    Other,
}

pub(crate) fn trouble(error: &rusqlite::Error) -> Trouble {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Trouble::Busy,
        Some(ErrorCode::DiskFull) => Trouble::Full,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Trouble::ReadOnly,
        Some(ErrorCode::NotADatabase) => Trouble::Foreign,
        Some(ErrorCode::DatabaseCorrupt) => Trouble::Corrupt,
        Some(ErrorCode::SchemaChanged) => Trouble::Newer,
        Some(ErrorCode::SystemIoFailure) => Trouble::Disk,
        _ => Trouble::Other,
    }
}

/// The trouble of the file, and the remedy.
pub(crate) fn words(path: &Path, trouble: Trouble) -> String {
    let path = path.display();
    match trouble {
        Trouble::Busy => {
            format!("`{path}` is locked by another program: end what holds a write transaction open")
        }
        Trouble::Full => format!("the disk of `{path}` is full: make room; what is in the file is safe"),
        Trouble::ReadOnly => format!(
            "`{path}` cannot be written: give this user the right to write the file and its directory, where SQLite \
             keeps `-wal` and `-shm` beside it"
        ),
        Trouble::Foreign => format!(
            "`{path}` is no SQLite database, or an encrypted one: name another file, or move this one away"
        ),
        Trouble::Corrupt => format!(
            "`{path}` is damaged: keep a copy, then save what can be read with `sqlite3 {path} .recover`, or restore a \
             backup"
        ),
        Trouble::Newer => format!(
            "`{path}` belongs to a newer Leveret: update this program; until then it leaves the file alone"
        ),
        Trouble::Disk => format!(
            "the disk of `{path}` fails: see the system's log, and check the disk and what this program may write \
             (`ulimit -f`)"
        ),
        Trouble::Moved | Trouble::Other => format!("`{path}` cannot be used"),
    }
}

/// The kind of an administrative call's error.
pub(super) fn kind(trouble: Trouble) -> ErrorKind {
    match trouble {
        Trouble::ReadOnly => ErrorKind::Refused,
        Trouble::Foreign | Trouble::Corrupt | Trouble::Newer => ErrorKind::Config,
        Trouble::Busy | Trouble::Full | Trouble::Disk | Trouble::Moved | Trouble::Other => {
            ErrorKind::Connection
        }
    }
}

/// The error of an administrative call.
pub(crate) fn error(path: &Path, fault: rusqlite::Error) -> Error {
    let trouble = trouble(&fault);
    Error::new(kind(trouble), words(path, trouble)).with_source(fault)
}

/// The reason why a transaction was not carried out. Nothing of it was kept.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(super) trouble: Trouble,
    /// The trouble and the remedy, in the same words as long as the trouble is the same.
    pub(super) words: String,
    /// SQLite's error.
    detail: Option<String>,
}

impl Fault {
    pub(super) fn new(path: &Path, error: &rusqlite::Error) -> Self {
        let trouble = trouble(error);
        Self { trouble, words: words(path, trouble), detail: Some(chain(error)) }
    }

    /// The words with what SQLite said.
    pub(super) fn in_full(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {detail}", self.words),
            None => self.words.clone(),
        }
    }

    /// The error of an administrative call.
    pub(crate) fn error(&self) -> Error {
        Error::new(kind(self.trouble), self.in_full())
    }

    /// The error of a publish.
    pub(super) fn publish_error(&self, waited: Duration) -> PublishError {
        match self.trouble {
            Trouble::Full => PublishError::Blocked { waited, reason: self.words.clone() },
            _ => PublishError::Unavailable { waited, source: Some(BoxError::from(self.in_full())) },
        }
    }
}

impl From<&Moved> for Fault {
    fn from(moved: &Moved) -> Self {
        Self { trouble: Trouble::Moved, words: moved.to_string(), detail: None }
    }
}
