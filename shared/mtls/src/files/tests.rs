use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::tests::rig::write;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
}

/// C09: a secret that others can read or change is none.
#[test]
fn a_secret_that_others_can_reach_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("key.pem");
    write(&path, "secret");
    assert_eq!(read_secret(&path, 10).expect("ours alone").as_slice(), b"secret");
    for mode in [0o644, 0o604, 0o602, 0o620, 0o610, 0o640, 0o666, 0o777] {
        set_mode(&path, mode);
        let error = read_secret(&path, 10).expect_err("reachable");
        assert_eq!(error.problem, FileProblem::ReachableByOthers { mode });
        assert!(
            error.to_string().contains("chmod 600") && !error.to_string().contains("secret`"),
            "{error}"
        );
    }
    for mode in [0o600, 0o400] {
        set_mode(&path, mode);
        assert!(read_secret(&path, 10).is_ok(), "{mode:o}");
    }
}

/// C09: who may own a secret, and what its group may do.
#[test]
fn a_secret_belongs_to_us_or_to_root() {
    let foreign = |owner| Err(FileProblem::ForeignOwner { owner });
    let reachable = |mode| Err(FileProblem::ReachableByOthers { mode });
    for (owner, mode, user, expected) in [
        (1000, 0o600, 1000, Ok(())),
        (1000, 0o600, 1001, foreign(1000)),
        (1000, 0o600, 0, foreign(1000)),
        (1000, 0o640, 1000, reachable(0o640)),
        (0, 0o640, 1000, Ok(())),
        (0, 0o660, 1000, reachable(0o660)),
        (0, 0o644, 1000, reachable(0o644)),
        (0, 0o640, 0, reachable(0o640)),
    ] {
        assert_eq!(
            check_access(owner, mode, user),
            expected,
            "{owner} {mode:o} {user}"
        );
    }
}

/// C09: a secret in a folder where anybody can replace it is refused, also at the end of a link.
#[test]
fn a_secret_that_anybody_could_replace_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let (open, closed) = (folder.path().join("open"), folder.path().join("closed"));
    std::fs::create_dir(&open).expect("created");
    std::fs::create_dir(&closed).expect("created");
    write(&open.join("key.pem"), "secret");
    symlink(open.join("key.pem"), closed.join("link.pem")).expect("linked");
    assert!(
        read_secret(&closed.join("link.pem"), 10).is_ok(),
        "links are followed"
    );
    set_mode(&open, 0o777);
    for path in [open.join("key.pem"), closed.join("link.pem")] {
        assert!(matches!(
            read_secret(&path, 10).expect_err("open").problem,
            FileProblem::OpenFolder { .. }
        ));
    }
    set_mode(&open, 0o1777);
    assert!(
        read_secret(&closed.join("link.pem"), 10).is_ok(),
        "the sticky bit protects it"
    );
}

/// C09: nothing but a regular file is read, and opening it never waits.
#[test]
fn pipes_devices_and_folders_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let pipe = folder.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("pipe");
    for path in [&pipe, Path::new("/dev/zero"), folder.path()] {
        for result in [read_public(path, 10).map(drop), read_secret(path, 10).map(drop)] {
            assert_eq!(
                result.expect_err("refused").problem,
                FileProblem::NotRegular,
                "{}",
                path.display()
            );
        }
    }
    let absent = read_public(&folder.path().join("absent"), 10).expect_err("absent");
    assert_eq!(
        absent.problem,
        FileProblem::Unreadable(std::io::ErrorKind::NotFound)
    );
}

#[test]
fn a_file_may_be_as_large_as_the_limit_and_no_larger() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("file");
    write(&path, "0123456789");
    assert_eq!(read_public(&path, 10).expect("fits").len(), 10);
    assert_eq!(
        read_public(&path, 9).expect_err("large").problem,
        FileProblem::TooLarge { limit: 9 }
    );
}
