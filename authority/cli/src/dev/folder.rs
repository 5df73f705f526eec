//! The environment's folder: ours and nobody else's, used by one run at a time.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

use super::layout::{BILLING, ORDERS};
use crate::environment::{self, Environment};
use crate::failure::{Exit, Failure};
use crate::files::{self, Audience, cannot};
use crate::output::Output;

/// Marks a folder as ours.
const MARK: &str = ".countersign-dev";

/// Held by the run that uses the folder.
const LOCK: &str = "dev.lock";

/// Where `dev.json` goes when nothing runs any more, so that the next run finds the ports again.
const EARLIER: &str = "dev.earlier.json";

/// Something that a run makes.
#[derive(Debug)]
enum Made {
    File(&'static str),
    /// A certificate and its key.
    Certificate(&'static str),
    /// A log, and that of the run before.
    Log(&'static str),
    /// Files whose names begin so and go on with a number.
    Numbered(&'static str),
    Folder(&'static str, &'static [Self]),
}

/// Everything that a run makes, apart from mark and lock: what `--reset` removes. What else lies there stays.
const MADE: &[Made] = &[
    Made::File(environment::FILE),
    Made::File(EARLIER),
    Made::File("authority.toml"),
    Made::File("sidecar.toml"),
    Made::File("publishing-keys.json"),
    Made::Folder(
        "pki",
        &[
            Made::Certificate("ca"),
            Made::Certificate("authority"),
            Made::Certificate("sidecar"),
            Made::Certificate("operator"),
            Made::Certificate(ORDERS),
            Made::Certificate(BILLING),
        ],
    ),
    Made::Folder("secrets", &[Made::File("sealing-key"), Made::File(BILLING)]),
    Made::Folder("authority", &[Made::File("store.redb")]),
    Made::Folder(
        "sidecar",
        &[Made::File("verify.sock"), Made::Folder("trust", STATE)],
    ),
    Made::Folder(
        "logs",
        &[Made::Log("authority"), Made::Log("sidecar"), Made::Log("demo")],
    ),
];

/// What a sidecar keeps.
const STATE: &[Made] = &[
    Made::File("lock"),
    Made::File("floor"),
    Made::File("verifier-id"),
    Made::File("opening"),
    Made::Folder("cache", DATABASE),
    Made::Folder("cache.damaged", DATABASE),
    Made::Folder("cache.newer", DATABASE),
];

/// What its database is made of.
const DATABASE: &[Made] = &[
    Made::File("conf"),
    Made::File("db"),
    Made::Numbered("snap."),
    Made::Folder("blobs", &[Made::Numbered("")]),
];

impl Made {
    /// Whether `name` is the name of it, or of what a write that was broken off has left of it.
    fn is_called(&self, name: &str) -> bool {
        let after = |made: &str| name.strip_prefix(made);
        match self {
            Self::File(made) => after(made).is_some_and(is_ending),
            Self::Certificate(made) => after(made)
                .and_then(|rest| rest.strip_prefix("-key").unwrap_or(rest).strip_prefix(".pem"))
                .is_some_and(is_ending),
            Self::Log(made) => matches!(after(made), Some(".log" | ".log.1")),
            Self::Numbered(made) => after(made).is_some_and(|rest| {
                let number = rest.strip_suffix(".generating").unwrap_or(rest);
                !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_hexdigit())
            }),
            Self::Folder(made, _) => name == *made,
        }
    }
}

/// How the name of a file of ours ends: with the name itself, or as in `.4711.new` while it is written.
fn is_ending(rest: &str) -> bool {
    let process = rest.strip_suffix(".new");
    rest.is_empty() || process.is_some_and(|id| id.bytes().all(|b| b == b'.' || b.is_ascii_digit()))
}

/// A folder that this run may use.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The lock, released when the file is closed.
    _lock: File,
}

/// The last run.
#[derive(Debug)]
pub(super) struct Earlier {
    pub(super) environment: Environment,
    /// Whether it stopped its parts. Otherwise it was killed, and they may be about to notice.
    pub(super) stopped: bool,
}

impl Folder {
    /// Takes the folder, and makes it when it is not there.
    ///
    /// # Errors
    /// When it is somebody else's, something else's, or in use.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        files::folder(path)?;
        let path = path.canonicalize().map_err(|error| cannot("use", path, &error))?;
        check(&path)?;
        let lock = lock(&path)?;
        files::write(
            &path.join(MARK),
            b"A development environment of countersign.\n",
            Audience::Everybody,
        )?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder, as an absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what earlier runs made, and names what else is there.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub(super) fn reset(&self, output: Output) -> Result<(), Failure> {
        let mut foreign = Vec::new();
        clear(&self.path, MADE, &mut foreign)?;
        foreign.retain(|path| path != &self.path.join(MARK) && path != &self.path.join(LOCK));
        for path in &foreign {
            output.warn(&format!("`{}` is not of our making, and stays", path.display()));
        }
        output.note(&format!(
            "nothing that earlier runs made is left in `{}`",
            self.path.display()
        ));
        Ok(())
    }

    /// The environment of the last run. A file that cannot be read is as good as none: only ports are taken from it.
    pub(super) fn earlier(&self) -> Option<Earlier> {
        let read = |name: &str| serde_json::from_slice(&fs::read(self.path.join(name)).ok()?).ok();
        let of = |name: &str, stopped| read(name).map(|environment| Earlier { environment, stopped });
        of(environment::FILE, false).or_else(|| of(EARLIER, true))
    }

    /// Takes `dev.json` away, because what it says is no longer so.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub(super) fn withdraw(&self) -> Result<(), Failure> {
        let path = self.path.join(environment::FILE);
        match fs::rename(&path, self.path.join(EARLIER)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot("move", &path, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Removes from `folder` what is `made` there, and tells what else there is. A link is removed and not followed.
fn clear(folder: &Path, made: &[Made], foreign: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let unreadable = |error| cannot("look into", folder, &error);
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let is_folder = entry.file_type().map_err(unreadable)?.is_dir();
        let (path, name) = (entry.path(), entry.file_name());
        let is_called = |made: &&Made| name.to_str().is_some_and(|name| made.is_called(name));
        let removed = match made.iter().find(is_called) {
            Some(Made::Folder(_, inside)) if is_folder => {
                let before = foreign.len();
                clear(&path, inside, foreign)?;
                if foreign.len() > before {
                    continue;
                }
                fs::remove_dir(&path)
            }
            Some(_) if !is_folder => fs::remove_file(&path),
            Some(_) | None => {
                foreign.push(path);
                continue;
            }
        };
        removed.map_err(|error| cannot("remove", &path, &error))?;
    }
    Ok(())
}

/// In a folder for everybody's temporary files, somebody else may have been there before. A folder is ours when it is
/// marked, and may become ours when it is empty.
fn check(path: &Path) -> Result<(), Failure> {
    let found = fs::metadata(path).map_err(|error| cannot("look at", path, &error))?;
    let name = path.display();
    let refused =
        |message: String| Failure::new(Exit::Failure, message).next("choose a new folder: `--dir DIR`");
    if found.uid() != geteuid().as_raw() {
        return Err(refused(format!("`{name}` belongs to another user")));
    }
    let is_open = found.permissions().mode() & 0o022 != 0;
    if path.join(MARK).is_file() {
        return if is_open {
            Err(refused(format!("others may write to `{name}`")))
        } else {
            Ok(())
        };
    }
    let must_be_empty = || match is_empty(path) {
        Ok(true) => Ok(()),
        Ok(false) => Err(refused(format!(
            "`{name}` is not empty and holds no development environment"
        ))),
        Err(error) => Err(cannot("look at", path, &error)),
    };
    must_be_empty()?;
    if is_open {
        let closed = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        closed.map_err(|error| cannot("close to others", path, &error))?;
        // Somebody may have filled it before it was closed.
        must_be_empty()?;
    }
    Ok(())
}

/// Whether nothing is in it, apart from what a run leaves that was broken off before it made the mark.
fn is_empty(path: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(path)? {
        if entry?.file_name() != LOCK {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lock(path: &Path) -> Result<File, Failure> {
    let file_path = path.join(LOCK);
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&file_path);
    let file = opened.map_err(|error| cannot("open", &file_path, &error))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_in_use| {
        let message = format!("a development environment runs already in `{}`", path.display());
        Failure::new(Exit::Failure, message)
            .next("use that one, stop it, or choose another folder: `--dir DIR`")
    })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::ColourChoice;

    #[test]
    fn a_folder_is_used_by_one_run_at_a_time() {
        let temporary = tempfile::tempdir().expect("a folder");
        let path = temporary.path().join("dev");
        let first = Folder::open(&path).expect("ours");
        let second = Folder::open(&path).expect_err("in use");
        assert!(second.message.contains("runs already"), "{second}");
        drop(first);
        Folder::open(&path).expect("free again");
    }

    #[test]
    fn a_folder_with_something_else_in_it_is_left_alone() {
        let temporary = tempfile::tempdir().expect("a folder");
        fs::write(temporary.path().join("thesis.txt"), "important").expect("written");
        let shared = fs::Permissions::from_mode(0o775);
        fs::set_permissions(temporary.path(), shared).expect("set");
        let refused = Folder::open(temporary.path()).expect_err("not ours");
        assert!(refused.message.contains("not empty"), "{refused}");
        let mode = fs::metadata(temporary.path())
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o775, "as it was");
    }

    #[test]
    fn reset_removes_what_is_ours_and_nothing_else() {
        let temporary = tempfile::tempdir().expect("a folder");
        let path = temporary.path().join("dev");
        let folder = Folder::open(&path).expect("ours");
        fs::create_dir_all(path.join("pki")).expect("made");
        for name in ["pki/ca.pem", "authority.toml", "notes.txt"] {
            fs::write(path.join(name), "x").expect("written");
        }
        let outside = temporary.path().join("outside");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("kept"), "x").expect("written");
        std::os::unix::fs::symlink(&outside, path.join("logs")).expect("linked");
        folder
            .reset(Output::new(true, ColourChoice::Never))
            .expect("reset");
        assert!(!path.join("pki").exists() && !path.join("authority.toml").exists());
        assert!(!path.join("logs").exists(), "the link is gone");
        assert!(outside.join("kept").exists(), "and what it led to is not");
        assert!(path.join("notes.txt").exists());
    }

    /// Also below the folders that a run makes, and by names that look like ours.
    #[test]
    fn reset_leaves_what_somebody_else_put_there() {
        let temporary = tempfile::tempdir().expect("a folder");
        let path = temporary.path().join("dev");
        let folder = Folder::open(&path).expect("ours");
        for name in [
            "pki",
            "secrets",
            "authority",
            "logs/old",
            "sidecar/trust/cache/blobs",
        ] {
            fs::create_dir_all(path.join(name)).expect("made");
        }
        let ours = [
            "dev.json.123.new",
            "pki/ca-key.pem",
            "pki/orders.pem.7.new",
            "secrets/sealing-key",
            "logs/demo.log.1",
            "sidecar/verify.sock",
            "sidecar/trust/floor.new",
            "sidecar/trust/cache/db",
            "sidecar/trust/cache/snap.000000000000A1F0",
            "sidecar/trust/cache/blobs/4711",
        ];
        let foreign = [
            "authority.toml.bak",
            "pki/MYKEY",
            "pki/ca.pem.new.pem",
            "secrets/mine",
            "logs/demo.log.2",
            "logs/old/demo.log",
            "sidecar/trust/cache/blobs/faces.txt",
        ];
        for name in ours.iter().chain(&foreign) {
            fs::write(path.join(name), "x").expect("written");
        }
        fs::create_dir(path.join("sidecar.toml")).expect("made");
        folder
            .reset(Output::new(true, ColourChoice::Never))
            .expect("reset");
        for name in ours {
            assert!(!path.join(name).exists(), "{name}");
        }
        for name in foreign.into_iter().chain(["sidecar.toml"]) {
            assert!(path.join(name).exists(), "{name}");
        }
        assert!(!path.join("authority").exists(), "an empty folder goes");
        drop(folder);
        Folder::open(&path).expect("still ours");
    }

    #[test]
    fn others_must_not_be_able_to_write_there() {
        let temporary = tempfile::tempdir().expect("a folder");
        let path = temporary.path().join("dev");
        let mode = |mode: u32| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        fs::create_dir(&path).expect("made");
        mode(0o775);
        drop(Folder::open(&path).expect("an empty folder of ours is closed to others"));
        assert_eq!(
            fs::metadata(&path).expect("there").permissions().mode() & 0o777,
            0o700
        );
        mode(0o777);
        let refused = Folder::open(&path).expect_err("others may have been there");
        assert!(refused.message.contains("others may write"), "{refused}");
    }
}
