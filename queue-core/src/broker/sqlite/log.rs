//! Keeps the write-ahead log small, and says so when it cannot. `writer` calls it beside its transactions; nothing here
//! waits for another program, so that no job does.
//!
//! SQLite writes the log over from its beginning only when all of it is in the database and no program reads an older state
//! from it. A program that keeps a read transaction open makes it grow with every job.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many bytes a log may keep while nothing is written: what it takes between two checkpoints, and some more.
const SPARE: u64 = 16 << 20;
/// From how many bytes on a log that cannot be emptied is told.
const LONG: u64 = 64 << 20;
/// The pause between two tries of an idle writer to empty a log that another program reads.
const AGAIN: Duration = Duration::from_secs(1);

/// The log of a database.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// How many bytes it had when it was last told; 0 if it was not, or is short again.
    told: u64,
    tried: Option<Instant>,
}

impl Log {
    pub(super) fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self { path: path.into(), told: 0, tried: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes its file has, which are more than are in use after it has begun anew.
    pub(super) fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |log| log.len())
    }

    /// True if an idle writer is to empty it now.
    pub(super) fn is_to_be_emptied(&mut self) -> bool {
        if self.tried.is_some_and(|last| last.elapsed() < AGAIN) || self.bytes() <= SPARE {
            return false;
        }
        self.tried = Some(Instant::now());
        true
    }

    /// After a checkpoint: tells of a log that has become long because it could not all be moved into the database; again
    /// each time that it has doubled, and when that is over.
    pub(super) fn watch(&mut self, is_all_moved: bool) {
        let bytes = self.bytes();
        if is_all_moved {
            if std::mem::take(&mut self.told) > 0 {
                tracing::info!(log = %self.path.display(), "the log can be emptied again");
            }
        } else if bytes >= LONG && bytes >= self.told.saturating_mul(2) {
            self.told = bytes;
            tracing::warn!(
                log = %self.path.display(),
                mib = bytes >> 20,
                "the log of the database grows: a program keeps a read transaction open, and until it ends, nothing of \
                 what is written since can be taken out of the log; look for a long `SELECT`, an open cursor, or a \
                 `BEGIN` without `COMMIT` (`lsof` on this file names the programs)"
            );
        }
    }
}
