//! The state directory: who owns it, what lies where, and what is moved out of the way.
//!
//! ```text
//! <state_dir>/lock            held while the sidecar runs
//! <state_dir>/floor           the highest durable epoch
//! <state_dir>/carried         certificates that are revoked by more than what is in the database
//! <state_dir>/verifier-id     which verifier of its identity this is
//! <state_dir>/opening         there while the database is opened; as long as starts that did not survive it
//! <state_dir>/cache/          the database
//! <state_dir>/cache.damaged/  the last one that could not be used
//! <state_dir>/cache.newer/    the last one of another format
//! ```
//!
//! What lies there verifies itself, but nobody else may put it there: an older copy of the whole directory verifies, too.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use countersign_core::names::VerifierId;
use rustix::fs::OFlags;
use rustix::process::geteuid;

use super::Unusable;

const VERIFIER_ID: &str = "verifier-id";

/// More than the longest identifier and the end of its line.
const MAX_VERIFIER_ID: u64 = 128;

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
    /// Others can change what is in it.
    Exposed(Exposed),
    /// It cannot be created or written.
    Unwritable(io::Error),
}

/// Who else can change what is in the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exposed {
    /// Another user's directory.
    #[error("belongs to user {owner}; it must belong to root or to the user of this process")]
    ForeignOwner {
        /// The owner.
        owner: u32,
    },
    /// A directory that is shared.
    #[error(
        "has mode {mode:04o}, so that others can change what is in it; use `chmod 700`, or name a folder in it that is \
         not there yet"
    )]
    WritableByOthers {
        /// The mode bits.
        mode: u32,
    },
}

/// Whether nobody else can change what is in the state directory at `path`. One that is not there yet is made so.
pub(crate) fn check_access(path: &Path) -> Result<(), Exposed> {
    fs::metadata(path).map_or(Ok(()), |found| {
        access(found.uid(), found.mode() & 0o7777, geteuid().as_raw())
    })
}

/// What [`check_access`] says to `user`.
pub(super) fn access(owner: u32, mode: u32, user: u32) -> Result<(), Exposed> {
    if owner != 0 && owner != user {
        return Err(Exposed::ForeignOwner { owner });
    }
    // A group is let in on purpose where new files are to belong to it: Kubernetes does both to volumes with `fsGroup`.
    let forbidden = if mode & 0o2000 == 0 { 0o022 } else { 0o002 };
    if mode & forbidden == 0 {
        Ok(())
    } else {
        Err(Exposed::WritableByOthers { mode })
    }
}

/// Opens what should be a regular file as `options` say. Anything else in its place is an error, and never waited for.
pub(super) fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // Without it, opening a pipe waits for somebody at the other end.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = options.custom_flags(nonblocking).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other(format!(
            "`{}` is no regular file",
            path.display()
        )))
    }
}

/// Puts a file `name` with `content` in `directory`, in place of one that is there. When it returns, it survives a power cut.
pub(super) fn replace_file(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    // What lies there, from a write that was broken off for instance, is not opened: it need not be a file.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

/// A file of ours that is written, and made if it is not there.
fn own_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    // Also for reading: then even a pipe is opened, and is told from a file.
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options
}

/// From this many starts in a row that died while opening the database, it is not opened again. One may be chance: the
/// process can be killed at any moment.
const DEADLY: u64 = 2;

impl Directory {
    /// Creates what is missing, makes sure that nobody else can change it, and takes the lock.
    pub(super) fn claim(path: &Path) -> Result<Self, Unavailable> {
        let mut builder = DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(path);
        created.map_err(Unavailable::Unwritable)?;
        check_access(path).map_err(Unavailable::Exposed)?;
        let lock = open_regular(&mut own_file(), &path.join("lock")).map_err(Unavailable::Unwritable)?;
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

    /// Which verifier of its identity this one is: what the directory says, so that it is the same after a restart; `fresh`
    /// from now on, when it says nothing that could be one.
    pub(super) fn verifier_id(&self, fresh: &VerifierId) -> io::Result<VerifierId> {
        let mut text = String::new();
        let read = open_regular(OpenOptions::new().read(true), &self.path.join(VERIFIER_ID))
            .and_then(|file| file.take(MAX_VERIFIER_ID).read_to_string(&mut text));
        if read.is_ok()
            && let Ok(id) = VerifierId::parse(text.trim_end())
        {
            return Ok(id);
        }
        replace_file(&self.path, VERIFIER_ID, format!("{fresh}\n").as_bytes())?;
        Ok(fresh.clone())
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
        let marker = open_regular(&mut own_file(), &self.path.join("opening"))?;
        let died = marker.metadata()?.len();
        let opens = died < DEADLY;
        marker.set_len(if opens { died + 1 } else { 0 })?;
        Ok(opens)
    }

    /// Takes note that opening ended, however.
    pub(super) fn end_opening(&self) -> io::Result<()> {
        fs::remove_file(self.path.join("opening"))
    }
}
