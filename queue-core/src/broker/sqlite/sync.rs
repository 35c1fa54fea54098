//! Syncs what the writer has committed, and only then answers those who want it on the disk.
//!
//! A thread of its own, so that the writer goes on while the disk works: all that was committed during one sync shares
//! the next. SQLite itself runs with `synchronous = NORMAL`, where a commit appends to the write-ahead log without a
//! sync; the log is synced here. What a checkpoint has moved into the database by then, SQLite has synced itself before
//! it let the log be written over.
//!
//! A sync that fails leaves a log in doubt: the system has forgotten what it could not write, so that the next sync may
//! well succeed, and recovery after a power failure would end at the gap and lose all that was confirmed behind it.
//! Nothing is confirmed any more until the writer has moved the whole log into the database.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use super::command::{Answer, Command};
use crate::error::{Error, ErrorKind, PublishError, SettleError};

/// Commands that have been carried out, with what is to be said to those who asked.
pub(super) type Committed = Vec<(Command, Answer)>;

#[derive(Debug)]
pub(super) struct Syncer {
    committed: Sender<(Instant, Committed)>,
    is_in_doubt: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// The write-ahead log of a database, which must be there.
pub(super) fn open_log(database: &Path) -> io::Result<File> {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    File::options().read(true).write(true).open(log)
}

impl Syncer {
    /// Begins to answer; `sync` makes durable what has been written to the log.
    pub(super) fn start(sync: impl FnMut() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (committed, receiver) = channel();
        let is_in_doubt = Arc::new(AtomicBool::new(false));
        let doubt = is_in_doubt.clone();
        let thread = std::thread::Builder::new()
            .name("leveret-sync".to_owned())
            .spawn(move || run(sync, &doubt, &receiver))?;
        Ok(Self { committed, is_in_doubt, thread })
    }

    /// Answers when it is on the disk.
    pub(super) fn answer_later(&self, committed: Committed) {
        // It ends only with `finish`.
        let _ = self.committed.send((Instant::now(), committed));
    }

    /// Whether a sync has failed, so that nothing is confirmed until `trust` is called.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_in_doubt.load(Ordering::Acquire)
    }

    /// All that has been committed is in the database, and synced; what comes now is written to the log's beginning.
    /// Called by whoever commits, so that nothing is between the two.
    pub(super) fn trust(&self) {
        self.is_in_doubt.store(false, Ordering::Release);
    }

    /// Answers everybody, and ends.
    pub(super) fn finish(self) {
        drop(self.committed);
        let _ = self.thread.join();
    }
}

/// Ends when the writer does.
fn run(
    mut sync: impl FnMut() -> io::Result<()>,
    is_in_doubt: &AtomicBool,
    receiver: &Receiver<(Instant, Committed)>,
) {
    while let Ok(first) = receiver.recv() {
        let batches: Vec<_> = std::iter::once(first).chain(receiver.try_iter()).collect();
        let synced = if is_in_doubt.load(Ordering::Acquire) {
            Err(io::Error::other("an earlier sync of it failed"))
        } else {
            sync()
        };
        if let Err(error) = &synced
            && !is_in_doubt.swap(true, Ordering::AcqRel)
        {
            tracing::error!(%error, "the disk does not keep what is written: nothing is confirmed until it does");
        }
        for (since, committed) in batches {
            for (command, answer) in committed {
                match &synced {
                    Ok(()) => command.answer(answer),
                    Err(error) => command.answer(unconfirmed(answer, since, error)),
                }
            }
        }
    }
}

/// It is committed, but may not survive the next power failure.
fn unconfirmed(answer: Answer, since: Instant, error: &io::Error) -> Answer {
    let publish = || PublishError::Unconfirmed { waited: since.elapsed() };
    let words = || {
        Error::new(ErrorKind::Connection, format!("it was written, but the disk may not keep it: {error}"))
    };
    match answer {
        Answer::Published(Ok(())) => Answer::Published(Err(publish())),
        Answer::PublishedAll(results) => Answer::PublishedAll(
            results.into_iter().map(|result| result.and_then(|()| Err(publish()))).collect(),
        ),
        Answer::Settled(Ok(())) => Answer::Settled(Err(SettleError::Republish(publish()))),
        Answer::Done(Ok(())) => Answer::Done(Err(words())),
        Answer::Purged(Ok(_)) => Answer::Purged(Err(words())),
        other => other,
    }
}
