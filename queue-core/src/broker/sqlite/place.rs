//! Notices that a file was deleted, moved, replaced or emptied while a program has it open. SQLite goes on writing to what
//! no other program will ever see, and a confirm would be a lie. `writer` asks before a transaction, `sync` before it
//! confirms, `relay` before it reads.
//!
//! By `stat` alone, which takes about a microsecond. To open and close the database beside SQLite would drop SQLite's
//! locks on it: POSIX ties them to the process, not to the descriptor.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The files of a database as they were when it was opened.
#[derive(Debug)]
pub(crate) struct Place {
    database: Watched,
    /// The log and its index, and what else must stay where it is.
    beside: Vec<Watched>,
    /// True if the database has been seen empty. What is written into it afterwards is not what SQLite knows of it.
    was_emptied: AtomicBool,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    identity: Identity,
}

/// Tells a file from another one of the same name. No other file gets the same while SQLite has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    #[cfg(unix)]
    device: u64,
    #[cfg(unix)]
    inode: u64,
}

impl Identity {
    #[cfg(unix)]
    pub(super) fn of(file: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self { device: file.dev(), inode: file.ino() }
    }

    /// On other systems a file that is open cannot be deleted or replaced.
    #[cfg(not(unix))]
    pub(super) fn of(_file: &Metadata) -> Self {
        Self {}
    }

    /// Device and inode, for two columns.
    #[cfg(unix)]
    pub(super) fn numbers(self) -> (i64, i64) {
        (self.device.cast_signed(), self.inode.cast_signed())
    }

    #[cfg(not(unix))]
    pub(super) fn numbers(self) -> (i64, i64) {
        (0, 0)
    }

    /// The reverse of [`numbers`](Self::numbers).
    #[cfg(unix)]
    pub(super) fn from_numbers(device: i64, inode: i64) -> Self {
        Self { device: device.cast_unsigned(), inode: inode.cast_unsigned() }
    }

    #[cfg(not(unix))]
    pub(super) fn from_numbers(_device: i64, _inode: i64) -> Self {
        Self {}
    }
}

/// The state of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    /// The database that is open.
    database: PathBuf,
    /// The file that is not what it was.
    file: PathBuf,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Gone,
    Replaced,
    Emptied,
}

impl Place {
    /// Where the database is now that it is open. `asked` is the path by which it was opened, which may lead there by
    /// links; `database` is the file itself, beside which SQLite keeps its log. Call it when the log is there.
    pub(crate) fn of(asked: &Path, database: &Path) -> io::Result<Self> {
        // A program may change its directory.
        let asked = std::path::absolute(asked)?;
        let mut place =
            Self { database: Watched::new(asked)?, beside: Vec::new(), was_emptied: AtomicBool::new(false) };
        if database != place.database.path {
            place.watch(database)?;
        }
        for suffix in ["-wal", "-shm"] {
            let mut file = database.as_os_str().to_owned();
            file.push(suffix);
            place.watch(Path::new(&file))?;
        }
        Ok(place)
    }

    /// Watches one more file.
    pub(crate) fn watch(&mut self, file: &Path) -> io::Result<()> {
        self.beside.push(Watched::new(file.to_owned())?);
        Ok(())
    }

    /// Looks whether all files are where they were.
    ///
    /// # Errors
    /// The first that is not. A file that was moved may come back, and all is well then.
    pub(crate) fn look(&self) -> Result<(), Moved> {
        let moved = |watched: &Watched, how| {
            Err(Moved { database: self.database.path.clone(), file: watched.path.clone(), how })
        };
        match self.database.look() {
            Ok(Some(0)) => self.was_emptied.store(true, Ordering::Relaxed),
            Ok(_) => {}
            Err(how) => return moved(&self.database, how),
        }
        if self.was_emptied.load(Ordering::Relaxed) {
            return moved(&self.database, How::Emptied);
        }
        for watched in &self.beside {
            if let Err(how) = watched.look() {
                return moved(watched, how);
            }
        }
        Ok(())
    }
}

impl Watched {
    fn new(path: PathBuf) -> io::Result<Self> {
        let identity = Identity::of(&std::fs::metadata(&path)?);
        Ok(Self { path, identity })
    }

    /// How many bytes it has; `None` where the system does not tell, for which SQLite has better words.
    fn look(&self) -> Result<Option<u64>, How> {
        match std::fs::metadata(&self.path) {
            Ok(file) if Identity::of(&file) != self.identity => Err(How::Replaced),
            Ok(file) => Ok(Some(file.len())),
            Err(error) if is_absence(&error) => Err(How::Gone),
            Err(_) => Ok(None),
        }
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl Moved {
    /// True if all is well again when the file comes back.
    pub(crate) fn may_come_back(&self) -> bool {
        self.how == How::Gone && self.file == self.database
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (database, file) = (self.database.display(), self.file.display());
        if self.file == self.database {
            match self.how {
                How::Gone => write!(
                    f,
                    "`{database}` was deleted or moved while this program had it open: move it back, or restart all \
                     programs that use it, which begin with an empty file"
                ),
                How::Replaced => write!(
                    f,
                    "`{database}` was replaced by another file while this program had it open: end all programs that use \
                     it, delete `{database}-wal` and `{database}-shm`, which belong to the file before and would damage \
                     this one, put the new file there again, and start them"
                ),
                How::Emptied => write!(
                    f,
                    "`{database}` was emptied while this program had it open: end all programs that use it, and restore a \
                     backup or delete it"
                ),
            }
        } else {
            write!(
                f,
                "`{file}` was deleted, moved or replaced while `{database}` was open, to which it belongs: end all \
                 programs that use it, then start them again"
            )
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A folder that no other test uses, gone with the value.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("leveret-place-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        /// A database with its log and index; what they hold is no matter.
        fn database(&self) -> PathBuf {
            let database = self.0.join("jobs.db");
            for suffix in ["", "-wal", "-shm"] {
                std::fs::write(format!("{}{suffix}", database.display()), "content").unwrap();
            }
            database
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn file_that_was_moved_may_come_back() {
        let folder = Folder::new("moved");
        let database = folder.database();
        let place = Place::of(&database, &database).unwrap();
        let elsewhere = folder.0.join("other.db");

        std::fs::rename(&database, &elsewhere).unwrap();
        let moved = place.look().unwrap_err();
        std::fs::rename(&elsewhere, &database).unwrap();

        assert!(moved.may_come_back() && moved.to_string().contains("deleted or moved"), "{moved}");
        assert_eq!(place.look(), Ok(()));
    }

    #[test]
    fn link_that_leads_to_another_file_is_noticed() {
        let folder = Folder::new("link");
        let (database, other, link) =
            (folder.database(), folder.0.join("other.db"), folder.0.join("link.db"));
        std::fs::write(&other, "content").unwrap();
        std::os::unix::fs::symlink(&database, &link).unwrap();
        let place = Place::of(&link, &database).unwrap();
        assert_eq!(place.look(), Ok(()));

        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();

        let moved = place.look().unwrap_err();
        assert!(!moved.may_come_back() && moved.to_string().contains("link.db` was replaced"), "{moved}");
    }

    #[test]
    fn emptied_file_stays_lost_whatever_is_written_to_it() {
        let folder = Folder::new("emptied");
        let database = folder.database();
        let place = Place::of(&database, &database).unwrap();

        std::fs::write(&database, "").unwrap();
        let emptied = place.look().unwrap_err();
        std::fs::write(&database, "a backup").unwrap();

        assert!(emptied.to_string().contains("was emptied"), "{emptied}");
        assert_eq!(place.look(), Err(emptied));
    }

    #[test]
    fn directory_that_has_gone_takes_the_file_along() {
        let folder = Folder::new("directory");
        let database = folder.database();
        let place = Place::of(&database, &database).unwrap();

        std::fs::remove_dir_all(&folder.0).unwrap();

        assert!(place.look().unwrap_err().may_come_back());
    }
}
