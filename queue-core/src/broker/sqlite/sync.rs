//! Syncs what the writer has committed, and only then answers those who want it on the disk.
//!
//! A thread of its own, so that the writer goes on while the disk works: all that was committed during one sync shares
//! the next. SQLite itself runs with `synchronous = NORMAL`, where a commit appends to the write-ahead log without a
//! sync; the log is synced here. What a checkpoint has moved into the database by then, SQLite has synced itself before
//! it let the log be written over.

use std::fs::File;
use std::path::Path;
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
    thread: JoinHandle<()>,
}

impl Syncer {
    /// Begins to sync the write-ahead log of a database, which must be there.
    pub(super) fn start(database: &Path) -> std::io::Result<Self> {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        let log = File::options().read(true).write(true).open(log)?;
        let (committed, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("leveret-sync".to_owned())
            .spawn(move || run(&log, &receiver))?;
        Ok(Self { committed, thread })
    }

    /// Answers when it is on the disk.
    pub(super) fn answer_later(&self, committed: Committed) {
        // It ends only with `finish`.
        let _ = self.committed.send((Instant::now(), committed));
    }

    /// Answers everybody, and ends.
    pub(super) fn finish(self) {
        drop(self.committed);
        let _ = self.thread.join();
    }
}

/// Ends when the writer does.
fn run(log: &File, receiver: &Receiver<(Instant, Committed)>) {
    while let Ok(first) = receiver.recv() {
        let batches: Vec<_> = std::iter::once(first).chain(receiver.try_iter()).collect();
        let synced = log.sync_data();
        if let Err(error) = &synced {
            tracing::error!(%error, "the disk does not keep what is written: nothing is confirmed");
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
fn unconfirmed(answer: Answer, since: Instant, error: &std::io::Error) -> Answer {
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
