//! The state directory: who owns it, what lies where, and what is moved out of the way.
//!
//! ```text
//! <state_dir>/lock            held while the sidecar runs
//! <state_dir>/floor           the highest durable epoch
//! <state_dir>/opening         there while the database is opened; counts the starts that did not survive it
//! <state_dir>/cache/          the database
//! <state_dir>/cache.damaged/  the last one that could not be used
//! <state_dir>/cache.newer/    the last one of another format
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::Unusable;

/// A state directory that belongs to this process.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

/// Why the directory is not ours.
#[derive(Debug)]
pub(super) enum Unavailable {
    /// Another process holds the lock.
    InUse,
    /// It cannot be created or written.
    Unwritable(io::Error),
}

/// From this many starts in a row that died while opening the database, it is not opened again. One may be chance: the
/// process can be killed at any moment.
const DEADLY: usize = 2;

impl Directory {
    /// Creates what is missing and takes the lock.
    pub(super) fn claim(path: &Path) -> Result<Self, Unavailable> {
        let mut builder = DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(path);
        created.map_err(Unavailable::Unwritable)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(Unavailable::Unwritable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(Unavailable::InUse),
            Err(TryLockError::Error(error)) => Err(Unavailable::Unwritable(error)),
        }
    }

    /// The state directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the database is.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// Whether there is a database.
    pub(super) fn has_database(&self) -> bool {
        self.database().exists()
    }

    /// Makes the database's directory, for this user only.
    pub(super) fn make_database(&self) -> io::Result<()> {
        let database = self.database();
        DirBuilder::new().recursive(true).mode(0o700).create(&database)?;
        // Also one that was restored with looser modes.
        fs::set_permissions(&database, Permissions::from_mode(0o700))
    }

    /// Moves the database out of the way, in place of one that was moved before.
    pub(super) fn set_aside(&self, why: Unusable) -> io::Result<()> {
        let name = if why == Unusable::Format {
            "cache.newer"
        } else {
            "cache.damaged"
        };
        let target = self.path.join(name);
        match fs::remove_dir_all(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::rename(self.database(), target)
    }

    /// Takes note that the database is about to be opened. False when too many starts have died of it: damage can make
    /// sled ask for more memory than there is, which ends the process.
    pub(super) fn begin_opening(&self) -> io::Result<bool> {
        let marker = self.path.join("opening");
        let died = match fs::read(&marker) {
            Ok(marks) => marks.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let opens = died < DEADLY;
        fs::write(&marker, vec![b'.'; if opens { died + 1 } else { 0 }])?;
        Ok(opens)
    }

    /// Takes note that opening ended, however.
    pub(super) fn end_opening(&self) -> io::Result<()> {
        fs::remove_file(self.path.join("opening"))
    }
}
