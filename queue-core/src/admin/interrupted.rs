//! The error of a replay or discard that ended midway.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// The error of a replay or discard that ended midway. The letters that it had handled stay handled, and
/// [`done`](Self::done) is their number; the next call continues with the rest.
///
/// ```
/// use leveret::ErrorKind;
/// # use leveret::Client;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
///
/// let interrupted = client.admin().replay("no.such.dead", 100, |_| true).await.unwrap_err();
/// assert_eq!((interrupted.done(), interrupted.kind()), (0, ErrorKind::NotFound));
/// # Ok(()) }
/// ```
///
/// `?` makes an [`Error`] of it, whose message tells the number, too.
pub struct Interrupted {
    done: usize,
    /// The operation, for the message: "replayed".
    participle: &'static str,
    error: Error,
}

impl Interrupted {
    pub(super) fn new(done: usize, participle: &'static str, error: Error) -> Self {
        Self { done, participle, error }
    }

    /// The number of dead letters that were replayed or discarded before the error.
    pub fn done(&self) -> usize {
        self.done
    }

    /// The kind of error that ended it: [`Connection`](ErrorKind::Connection) if the broker went away or took nothing for the whole
    /// publish timeout, [`Topology`](ErrorKind::Topology) if a letter's queue is unknown, missing or full,
    /// [`NotFound`](ErrorKind::NotFound) if the dead-letter queue does not exist. [`ErrorKind`] lists the others.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }
}

/// Before the first letter: nothing was done.
impl From<Error> for Interrupted {
    fn from(error: Error) -> Self {
        Self { done: 0, participle: "handled", error }
    }
}

impl From<Interrupted> for Error {
    fn from(interrupted: Interrupted) -> Self {
        let words = interrupted.to_string();
        interrupted.error.reword(|_| words)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, participle, error } = self;
        match done {
            0 => error.fmt(f),
            1 => write!(f, "{error}; 1 dead letter was {participle} before it"),
            more => write!(f, "{error}; {more} dead letters were {participle} before it"),
        }
    }
}

/// Prints the chain of causes, as [`Error`] does, since a `main` prints it.
impl fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return f.write_str(&crate::error::chain(self));
        }
        let Self { done, participle, error } = self;
        f.debug_struct("Interrupted")
            .field("done", done)
            .field("participle", participle)
            .field("error", error)
            .finish()
    }
}

impl std::error::Error for Interrupted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_cause_are_said_once_each() {
        let error = || Error::new(ErrorKind::Connection, "the broker is away").with_source("no route");
        let one = Interrupted::new(1, "replayed", error());
        let many = Interrupted::new(7, "discarded", error());

        assert_eq!(format!("{one:?}"), "the broker is away; 1 dead letter was replayed before it: no route");
        assert_eq!((many.done(), many.kind()), (7, ErrorKind::Connection));
        let error = Error::from(many);
        assert_eq!(
            format!("{error:?}"),
            "the broker is away; 7 dead letters were discarded before it: no route"
        );
        assert_eq!(error.kind(), ErrorKind::Connection);
    }
}
