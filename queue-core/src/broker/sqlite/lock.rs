//! The lock that each client holds on a file of its own beside the database, `<database>-client-<number>`. The system lets go of it
//! when the process ends, however it ends. `lease` looks at the locks of others; `liveness` says what follows from them.
//!
//! A lock that can be taken proves that its holder is gone only on exactly the file that the holder locked, so the database records
//! that file's device and inode. Everything else proves nothing.

use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::ids::ClientId;
use super::place::Identity;

/// Names the lock file of a client.
pub(super) fn path_of(database: &Path, client: ClientId) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(format!("-client-{client}"));
    path.into()
}

/// The lock of one client, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    identity: Identity,
}

impl Lock {
    fn take(path: PathBuf) -> io::Result<Self> {
        // The lock file may have been replaced by a link to the database, which must not be opened and closed beside SQLite.
        if std::fs::symlink_metadata(&path).is_ok_and(|found| !is_ordinary(&found)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a link has the name of the lock file"));
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        let lock = Self { identity: Identity::of(&file.metadata()?), file, path };
        match lock.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::Error::from(TryLockError::WouldBlock)),
            Err(TryLockError::Error(error)) => {
                lock.remove();
                return Err(error);
            }
        }
        // Some file systems grant every lock. Our neighbours would take us for dead.
        if !matches!(probe(&lock.path, lock.identity), Holder::Lives) {
            lock.remove();
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the file system grants a lock twice"));
        }
        Ok(lock)
    }

    /// Deletes the file, if it is still in its place, and lets go of the lock.
    fn remove(self) {
        let is_there =
            std::fs::symlink_metadata(&self.path).is_ok_and(|file| Identity::of(&file) == self.identity);
        if is_there && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the lock file was not deleted");
        }
    }
}

/// True if it is a file that has this one name.
fn is_ordinary(found: &Metadata) -> bool {
    #[cfg(unix)]
    let is_only = std::os::unix::fs::MetadataExt::nlink(found) == 1;
    #[cfg(not(unix))]
    let is_only = true;
    found.is_file() && is_only
}

/// The state of a client's process, as its lock file shows it.
#[derive(Debug)]
pub(super) enum Holder {
    /// The lock is held.
    Lives,
    /// The lock can be taken. It is held shared as long as the value lives.
    Ended(Lock),
    /// The file is gone, or another one has its name.
    Absent,
    /// The system does not say.
    Unknown,
}

/// Looks whether the lock on this very file is held. Shared, so that two who look do not take each other for the holder.
pub(super) fn probe(path: &Path, identity: Identity) -> Holder {
    // Looked at before it is opened: it may be a link to the database, which must not be opened and closed beside SQLite.
    match std::fs::symlink_metadata(path) {
        Ok(file) if Identity::of(&file) == identity => {}
        Ok(_) => return Holder::Absent,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Holder::Absent,
        Err(_) => return Holder::Unknown,
    }
    let Ok(file) = File::open(path) else { return Holder::Unknown };
    match file.metadata() {
        Ok(metadata) if Identity::of(&metadata) == identity => {}
        _ => return Holder::Unknown,
    }
    match file.try_lock_shared() {
        Ok(()) => Holder::Ended(Lock { file, path: path.to_owned(), identity }),
        Err(TryLockError::WouldBlock) => Holder::Lives,
        Err(TryLockError::Error(_)) => Holder::Unknown,
    }
}

/// The locks that a client holds.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// One for each number that the client has had: its process lives under all of them.
    own: Vec<Lock>,
    /// True while the transaction is open that took the last of them.
    is_new: bool,
    /// Of clients that have ended. Their files are deleted when the transaction that forgets them is committed.
    ended: Vec<Lock>,
}

impl Locks {
    /// Takes the lock of a number that was just given to us. `None` where the file system does not let us: the client then lives
    /// by its lease alone.
    pub(super) fn take(&mut self, database: &Path, client: ClientId) -> Option<Identity> {
        let path = path_of(database, client);
        match Lock::take(path.clone()) {
            Ok(lock) => {
                let identity = lock.identity;
                self.own.push(lock);
                self.is_new = true;
                Some(identity)
            }
            Err(error) => {
                let path = path.display();
                tracing::debug!(
                    %path, %error,
                    "this program holds no lock, so if it is killed, its jobs go to others after its lease only"
                );
                None
            }
        }
    }

    /// Deletes the file of a client that has ended when this transaction is committed.
    pub(super) fn remove_later(&mut self, lock: Lock) {
        self.ended.push(lock);
    }

    /// The transaction is committed.
    pub(super) fn commit(&mut self) {
        self.is_new = false;
        self.ended.drain(..).for_each(Lock::remove);
    }

    /// The transaction was rolled back, and the number that it gave us may be given to another.
    pub(super) fn undo(&mut self) {
        if std::mem::take(&mut self.is_new)
            && let Some(lock) = self.own.pop()
        {
            lock.remove();
        }
        self.ended.clear();
    }

    /// The client has left the file.
    pub(super) fn leave(&mut self) {
        self.own.drain(..).for_each(Lock::remove);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// The path of a lock file that no other test uses.
    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("leveret-lock-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    #[test]
    fn lock_is_held_until_it_is_dropped_and_its_file_goes_when_it_is_removed() {
        let path = path("held");
        let lock = Lock::take(path.clone()).unwrap();
        let identity = lock.identity;
        assert!(matches!(probe(&path, identity), Holder::Lives));
        assert_eq!(Lock::take(path.clone()).unwrap_err().kind(), io::ErrorKind::WouldBlock);

        drop(lock);
        let Holder::Ended(first) = probe(&path, identity) else { panic!("it is held") };
        let Holder::Ended(second) = probe(&path, identity) else { panic!("looking holds it") };

        first.remove();
        assert!(matches!(probe(&path, identity), Holder::Absent));
        second.remove();
    }

    #[test]
    fn another_file_of_the_same_name_proves_nothing_and_stays() {
        let path = path("replaced");
        let lock = Lock::take(path.clone()).unwrap();
        let identity = lock.identity;
        std::fs::rename(&path, path.with_extension("moved")).unwrap();
        std::fs::write(&path, "another").unwrap();

        assert!(matches!(probe(&path, identity), Holder::Absent));
        lock.remove();

        assert_eq!(std::fs::read(&path).unwrap(), b"another");
        std::fs::remove_file(path.with_extension("moved")).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
