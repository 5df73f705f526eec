//! Files that are there whole or not at all, and that only their owner may read where they are secret.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::failure::{Exit, Failure};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Its owner.
    Owner,
    /// Everybody.
    Everybody,
}

impl Audience {
    const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everybody => 0o644,
        }
    }
}

/// Writes `content` to `path` at once: a reader sees the old file or the new one, also after a crash.
///
/// # Errors
/// [`Failure`] naming the file.
pub(crate) fn write(path: &Path, content: &[u8], audience: Audience) -> Result<(), Failure> {
    replace(path, content, audience).map_err(|error| cannot("write", path, &error))
}

/// Writes `content` to `path` at once, where no file may be yet.
///
/// # Errors
/// [`Failure`] naming the file.
pub(crate) fn write_first(path: &Path, content: &[u8], audience: Audience) -> Result<(), Failure> {
    let new = beside(path);
    // Unlike a rename, a link does not take the place of anything.
    let written = write_new(&new, content, audience).and_then(|()| fs::hard_link(&new, path));
    // The file stays under its own name.
    let _left = fs::remove_file(&new);
    written.map_err(|error| cannot("write", path, &error))
}

/// A name for a file that is not whole yet.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

fn replace(path: &Path, content: &[u8], audience: Audience) -> io::Result<()> {
    let new = beside(path);
    let written = write_new(&new, content, audience).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // What is left behind is told by the error that is returned.
        let _left = fs::remove_file(&new);
    }
    written
}

fn write_new(path: &Path, content: &[u8], audience: Audience) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(audience.mode())
        .open(path)?;
    // The mode above is narrowed by the umask and does not hold for a file that is there.
    file.set_permissions(Permissions::from_mode(audience.mode()))?;
    file.write_all(content)?;
    file.sync_all()
}

/// A new file for a secret that is yet to be made, for its owner only. It is removed again unless it is written.
#[derive(Debug)]
pub(crate) struct SecretFile {
    path: PathBuf,
    file: File,
    written: bool,
}

impl SecretFile {
    /// Makes the file, which must not be there yet.
    ///
    /// # Errors
    /// [`Failure`] naming the file.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        let created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let file = created.map_err(|error| cannot("make, for the secret, the new file", path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            written: false,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the secret.
    ///
    /// # Errors
    /// [`Failure`] naming the file.
    pub(crate) fn write(mut self, secret: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(secret).and_then(|()| self.file.sync_all());
        written.map_err(|error| cannot("write the secret to", &self.path, &error))?;
        self.written = true;
        Ok(())
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        if !self.written {
            // Why it was not written is told already; an empty file in its place tells the same.
            let _left = fs::remove_file(&self.path);
        }
    }
}

/// Makes a folder, and those above it, that only its owner may enter.
///
/// # Errors
/// [`Failure`] naming the folder.
pub(crate) fn folder(path: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| cannot("make the folder", path, &error))
}

/// The longest input read from a file or from stdin that should hold one line.
const LONGEST_LINE: u64 = 64 * 1024;

/// The one line in the file `path`, or on stdin for `-`, without its line break.
///
/// # Errors
/// [`Failure`] naming the file.
pub(crate) fn line(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(LONGEST_LINE).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(LONGEST_LINE).read_to_string(&mut text))
    };
    read.map_err(|error| cannot("read", path, &error))?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        let message = format!("`{}` is empty", path.display());
        return Err(Failure::new(Exit::Failure, message));
    }
    if line.contains(['\r', '\n']) {
        let message = format!("`{}` has more than one line", path.display());
        return Err(Failure::new(Exit::Failure, message));
    }
    Ok(line.to_owned())
}

/// Whether `path` is ours and nobody else may write to it.
///
/// # Errors
/// [`Failure`] naming the file.
pub(crate) fn is_only_ours(path: &Path) -> Result<bool, Failure> {
    let found = fs::metadata(path).map_err(|error| cannot("look at", path, &error))?;
    Ok(found.uid() == geteuid().as_raw() && found.permissions().mode() & 0o022 == 0)
}

/// Whether a file that should be secret can be read by others than its owner.
pub(crate) fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o077 != 0)
}

/// Reads a file whole.
///
/// # Errors
/// [`Failure`] naming the file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| cannot("read", path, &error))
}

/// The failure to do something with `path`.
#[must_use]
pub(crate) fn cannot(doing: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::because(&format!("cannot {doing} `{}`", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_for_its_owner_only_also_when_the_file_was_open_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        fs::write(&path, "old").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("set");
        write(&path, b"new", Audience::Owner).expect("written");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read(&path).expect("there"), b"new");
        assert_eq!(
            fs::read_dir(folder.path()).expect("there").count(),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn a_first_file_takes_the_place_of_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("trust");
        write_first(&path, b"one", Audience::Everybody).expect("written");
        assert!(write_first(&path, b"two", Audience::Everybody).is_err());
        assert_eq!(fs::read(&path).expect("there"), b"one");
        assert_eq!(
            fs::read_dir(folder.path()).expect("there").count(),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn a_new_secret_never_replaces_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        let file = SecretFile::create(&path).expect("made");
        assert!(SecretFile::create(&path).is_err());
        file.write(b"one").expect("written");
        assert!(SecretFile::create(&path).is_err());
        assert_eq!(line(&path).expect("there"), "one");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (link, elsewhere) = (folder.path().join("link"), folder.path().join("elsewhere"));
        std::os::unix::fs::symlink(&elsewhere, &link).expect("linked");
        assert!(SecretFile::create(&link).is_err(), "a link that leads nowhere");
        assert!(!elsewhere.exists());
    }

    #[test]
    fn a_file_for_a_secret_that_does_not_come_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        drop(SecretFile::create(&path).expect("made"));
        assert!(!path.exists());
    }

    #[test]
    fn a_line_is_read_without_its_break() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("line");
        for (content, expected) in [
            ("a\n", Some("a")),
            ("a\r\n", Some("a")),
            ("a", Some("a")),
            ("\n", None),
            // What is no line is some other file, a private key for instance, and is sent to nobody.
            ("a\nb\n", None),
            ("a\rb", None),
        ] {
            fs::write(&path, content).expect("written");
            assert_eq!(line(&path).ok().as_deref(), expected, "{content:?}");
        }
    }
}
