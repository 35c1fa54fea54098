//! Reads the file beside the writer, without waiting for it: what an operator asks for.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::runtime::Handle;

use super::fault::{self, Fault};
use super::place::Place;
use crate::broker::closed;
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug)]
pub(super) struct Reader {
    /// `None` when the client is closed.
    connection: Mutex<Option<Connection>>,
    path: PathBuf,
    place: Arc<Place>,
}

impl Reader {
    pub(super) fn new(connection: Connection, path: PathBuf, place: Arc<Place>) -> Arc<Self> {
        Arc::new(Self { connection: Mutex::new(Some(connection)), path, place })
    }

    /// Reads where it keeps no task from running. A read whose caller no longer waits runs to its end.
    ///
    /// # Errors
    /// If the client is closed, or the file is not where it was: what it holds is no other program's any more.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let reader = self.clone();
        let reading = move || reader.read_here(read);
        match Handle::try_current() {
            Ok(runtime) => runtime.spawn_blocking(reading).await.map_err(|error| {
                Error::new(ErrorKind::Connection, "reading the database was cut short").with_source(error)
            })?,
            Err(_) => reading(),
        }
    }

    fn read_here<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = connection.as_ref().ok_or_else(closed)?;
        self.place.look().map_err(|moved| Fault::from(&moved).error())?;
        read(connection).map_err(|error| fault::error(&self.path, error))
    }

    /// Waits for what is being read, a page at most.
    pub(super) fn close(&self) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
