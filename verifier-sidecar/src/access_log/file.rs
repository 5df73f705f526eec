//! Where lines go: stdout, or a file that others may move away or cut at any time.
//!
//! Whoever rotates logs needs no signal: before each write the file at the path is looked at, and made anew where it is no
//! longer the one that is open. Cutting it (`copytruncate`) works because everything is appended.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// What is set aside on the disk at the start, so that a full one is found then. The file grows into it.
const SET_ASIDE: u64 = 64 * 1024;

/// Why lines cannot be written to a place.
#[derive(Debug, thiserror::Error)]
pub enum Unwritable {
    /// The path leads to something else than a file.
    #[error("is no file; `-` is stdout")]
    NoFile,
    /// The file cannot be opened.
    #[error("cannot be opened for writing")]
    Open(#[source] io::Error),
    /// There is no room on the disk.
    #[error("has no room to grow")]
    Full(#[source] io::Error),
}

/// Where lines go.
#[derive(Debug)]
pub(super) struct Place {
    open: File,
    /// Where the open file is looked for. Nothing follows stdout.
    followed: Option<(PathBuf, Identity)>,
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    number: u64,
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            number: metadata.ino(),
        }
    }
}

impl Place {
    /// Stdout, without the buffer that the standard library puts before it.
    pub(super) fn stdout() -> io::Result<Self> {
        let open = io::stdout().as_fd().try_clone_to_owned()?.into();
        Ok(Self { open, followed: None })
    }

    /// The file at `path`, which is made if it is not there, and can grow.
    pub(super) fn file(path: &Path) -> Result<Self, Unwritable> {
        let (open, is) = open(path, true)?;
        let length = open.metadata().map_err(Unwritable::Open)?.len();
        let set_aside = fallocate(&open, FallocateFlags::KEEP_SIZE, length, SET_ASIDE);
        // Not every file system can say; this much is sure.
        if let Err(error @ (Errno::NOSPC | Errno::DQUOT)) = set_aside {
            return Err(Unwritable::Full(error.into()));
        }
        let followed = Some((path.to_owned(), is));
        Ok(Self { open, followed })
    }

    #[cfg(test)]
    pub(super) const fn of(open: File) -> Self {
        Self { open, followed: None }
    }

    /// Writes all of `text`. Where that fails, the number of bytes that were written, and why no more.
    pub(super) fn write(&mut self, text: &[u8]) -> Result<(), (usize, io::Error)> {
        self.follow().map_err(|error| (0, error))?;
        let mut rest = text;
        while !rest.is_empty() {
            let written = text.len() - rest.len();
            match self.open.write(rest) {
                Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }

    /// Whether the file at `path` could be opened, as far as that can be said without making it.
    pub(super) fn check(path: &Path) -> Result<(), Unwritable> {
        match open(path, false) {
            Err(Unwritable::Open(error)) if error.kind() == io::ErrorKind::NotFound => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = fs::metadata(folder.unwrap_or(Path::new("."))).map_err(Unwritable::Open)?;
                if folder.is_dir() {
                    Ok(())
                } else {
                    Err(Unwritable::Open(io::ErrorKind::NotADirectory.into()))
                }
            }
            opened => opened.map(drop),
        }
    }

    /// Goes on with the file that is at the path now.
    fn follow(&mut self) -> io::Result<()> {
        let Some((path, is)) = &mut self.followed else {
            return Ok(());
        };
        let is_the_same = match fs::metadata(&*path) {
            Ok(metadata) => Identity::from(&metadata) == *is,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !is_the_same {
            (self.open, *is) = open(path, true).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

fn open(path: &Path, create: bool) -> Result<(File, Identity), Unwritable> {
    // Opening a pipe that nobody reads would wait.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(Unwritable::NoFile);
    }
    // It tells who called what: not for everybody.
    let file = OpenOptions::new()
        .append(true)
        .create(create)
        .mode(0o640)
        .open(path)
        .map_err(Unwritable::Open)?;
    let metadata = file.metadata().map_err(Unwritable::Open)?;
    Ok((file, Identity::from(&metadata)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn written(path: &Path) -> String {
        fs::read_to_string(path).expect("a file")
    }

    #[test]
    fn a_file_that_was_moved_away_or_cut_is_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        let mut place = Place::file(&path).expect("opens");
        place.write(b"one\n").expect("writes");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o137, 0, "nobody else reads it: {mode:o}");

        // As logrotate does it: rename, and sometimes create.
        let (moved, again) = (folder.path().join("1"), folder.path().join("2"));
        fs::rename(&path, &moved).expect("moved");
        place.write(b"two\n").expect("writes");
        fs::rename(&path, &again).expect("moved");
        File::create(&path).expect("made");
        place.write(b"three\n").expect("writes");
        let all = [&moved, &again, &path].map(|path| written(path));
        assert_eq!(all, ["one\n", "two\n", "three\n"]);

        // `copytruncate`.
        File::options()
            .write(true)
            .truncate(true)
            .open(&path)
            .expect("cut");
        place.write(b"four\n").expect("writes");
        assert_eq!(written(&path), "four\n");

        fs::remove_file(&path).expect("removed");
        place.write(b"five\n").expect("writes");
        assert_eq!(written(&path), "five\n");
    }

    #[test]
    fn a_restart_goes_on_behind_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        for line in [&b"one\n"[..], b"two\n"] {
            Place::check(&path).expect("can be written");
            let mut place = Place::file(&path).expect("opens");
            place.write(line).expect("writes");
        }
        assert_eq!(written(&path), "one\ntwo\n");
    }

    #[test]
    fn what_cannot_be_written_is_refused_before_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("no/folder/access.log");
        for (path, is_no_file) in [
            (folder.path(), true),
            (Path::new("/dev/full"), true),
            (missing.as_path(), false),
        ] {
            for refused in [Place::check(path), Place::file(path).map(drop)] {
                let refused = refused.expect_err("cannot be written");
                assert_eq!(matches!(refused, Unwritable::NoFile), is_no_file, "{refused:?}");
            }
        }
        let path = folder.path().join("access.log");
        Place::check(&path).expect("can be made");
        assert!(!path.exists(), "a check makes nothing");
    }

    /// A full disk says so.
    #[test]
    fn a_full_disk_is_an_error_and_no_silence() {
        let full = File::options().write(true).open("/dev/full");
        let mut place = Place::of(full.expect("Linux has it"));
        let (written, error) = place.write(b"one\n").expect_err("it is full");
        assert_eq!((written, error.kind()), (0, io::ErrorKind::StorageFull));
    }
}
