//! Syncs what the writer has committed, and only then answers the commands that need it on the disk.
//!
//! A thread of its own, so that the writer goes on while the disk works: all that was committed during one sync shares
//! the next. SQLite itself runs with `synchronous = NORMAL`, where a commit appends to the write-ahead log without a
//! sync; the log is synced here. What a checkpoint has moved into the database by then, SQLite has synced itself before
//! it let the log be written over.
//!
//! A sync that fails leaves a log in doubt: the system has forgotten what it could not write, so that the next sync may
//! well succeed, and recovery after a power failure would end at the gap and lose all that was confirmed behind it.
//! Nothing is confirmed any more until the writer has moved the whole log into the database.
//!
//! Checkpoints sync the log, too, and are told what a sync of ours at the same time may not be: ext4 reports a journal
//! that it has given up to whoever waited for it. So they take turns, and a failed one leaves the same doubt.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::command::{Answer, Command};
use super::place::Place;
use crate::error::{Error, ErrorKind, PublishError, SettleError};

/// Commands that have been carried out, with the answers to their callers.
pub(super) type Committed = Vec<(Command, Answer)>;

#[derive(Debug)]
pub(super) struct Syncer {
    committed: Sender<(Instant, Committed)>,
    log: Arc<Log>,
    thread: JoinHandle<()>,
}

/// The state of the log.
#[derive(Debug, Default)]
struct Log {
    /// True if a sync has failed. Written by the task that has the turn.
    is_in_doubt: AtomicBool,
    /// Held by who syncs it.
    turn: Mutex<()>,
}

impl Log {
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Syncer {
    /// Begins to answer; `sync` makes durable what has been written to the log of the database in `place`.
    pub(super) fn start(
        sync: impl FnMut() -> io::Result<()> + Send + 'static,
        place: Arc<Place>,
    ) -> io::Result<Self> {
        let (committed, receiver) = channel();
        let log = Arc::new(Log::default());
        let theirs = log.clone();
        let thread = std::thread::Builder::new()
            .name("leveret-sync".to_owned())
            .spawn(move || run(sync, &place, &theirs, &receiver))?;
        Ok(Self { committed, log, thread })
    }

    /// Answers when it is on the disk.
    pub(super) fn answer_later(&self, committed: Committed) {
        // It ends only with `finish`.
        let _ = self.committed.send((Instant::now(), committed));
    }

    /// True if a sync has failed, so that nothing is confirmed.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.log.is_in_doubt.load(Ordering::Acquire)
    }

    /// Syncs the log by `checkpoint`, while no other task does. Doubts it if that `fails`; trusts it again if `is_all` of
    /// what has been committed is in the database thereby, and what comes next at the log's beginning. For who commits.
    pub(super) fn checkpoint<T, E>(
        &self,
        is_all: bool,
        checkpoint: impl FnOnce() -> Result<T, E>,
        fails: impl FnOnce(&E) -> bool,
    ) -> Result<T, E> {
        let _turn = self.log.turn();
        let result = checkpoint();
        match &result {
            Ok(_) if is_all => self.log.is_in_doubt.store(false, Ordering::Release),
            Err(error) if fails(error) => self.log.is_in_doubt.store(true, Ordering::Release),
            _ => {}
        }
        result
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
    place: &Place,
    log: &Log,
    receiver: &Receiver<(Instant, Committed)>,
) {
    while let Ok(first) = receiver.recv() {
        let batches: Vec<_> = std::iter::once(first).chain(receiver.try_iter()).collect();
        let turn = log.turn();
        let synced = if log.is_in_doubt.load(Ordering::Acquire) {
            Err(io::Error::other("an earlier sync of it failed"))
        } else {
            sync()
        };
        if let Err(error) = &synced
            && !log.is_in_doubt.swap(true, Ordering::AcqRel)
        {
            tracing::error!(%error, "the disk does not keep what is written: nothing is confirmed until it does");
        }
        drop(turn);
        // Only now: what was moved away before it was written is not where anybody looks for it.
        let kept = match synced {
            Ok(()) => place.look().map_err(|moved| moved.to_string()),
            Err(error) => Err(error.to_string()),
        };
        for (since, committed) in batches {
            for (command, answer) in committed {
                match &kept {
                    Ok(()) => command.answer(answer),
                    Err(error) => command.answer(unconfirmed(answer, since, error)),
                }
            }
        }
    }
}

/// It is committed, but may not survive the next power failure, or into a file that has gone.
fn unconfirmed(answer: Answer, since: Instant, error: &str) -> Answer {
    let publish = || PublishError::Unconfirmed { waited: since.elapsed() };
    let words = || Error::new(ErrorKind::Connection, format!("it was written, but may not be kept: {error}"));
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
