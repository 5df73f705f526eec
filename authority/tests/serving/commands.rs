//! The program: its commands, its exit codes, what it says.

use std::process::{Command, Output};

use crate::deployment::{Deployment, write_private};

fn run(deployment: &Deployment, command: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_countersign-authority"))
        .args([command, "--config"])
        .arg(deployment.config())
        // C17: neither place nor language changes anything.
        .env("TZ", "Pacific/Kiritimati")
        .env("LANG", "tr_TR.UTF-8")
        .env("LC_ALL", "tr_TR.UTF-8")
        .output()
        .expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn edit(deployment: &Deployment, from: &str, to: &str) {
    let config = std::fs::read_to_string(deployment.config()).expect("reads");
    assert!(config.contains(from), "{from}");
    std::fs::write(deployment.config(), config.replace(from, to)).expect("writes");
}

#[test]
fn a_good_configuration_is_found_good_and_nothing_is_made() {
    let deployment = Deployment::new();
    let output = run(&deployment, "check-config");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("nothing is wrong"));
    assert!(said.contains("a revocation is kept for at most"), "{said}");
    assert!(!deployment.path("store.redb").exists());
}

/// C01, C03, C09: everything at once, each with its line, exit code 64, nothing on stdout.
#[test]
fn a_bad_configuration_is_told_with_all_that_is_wrong() {
    let deployment = Deployment::new();
    edit(&deployment, "https://", "http://");
    edit(&deployment, "drain = \"3s\"", "drain = \"3 s\"\ndrian = \"1s\"");
    for command in ["check-config", "serve", "publishing-keys", "recover"] {
        let output = run(&deployment, command);
        assert_eq!(output.status.code(), Some(64), "{command}");
        let complaints = text(&output.stderr);
        for expected in ["authority.toml:2", "drain", "drian"] {
            // What cannot be read hides what could be judged.
            let hidden = expected == "authority.toml:2";
            assert!(
                hidden || complaints.contains(expected),
                "{expected}: {complaints}"
            );
        }
        assert!(output.stdout.is_empty());
    }
    edit(&deployment, "drain = \"3 s\"\ndrian = \"1s\"", "");
    write_private(&deployment.path("authority.key"), "no key");
    std::fs::set_permissions(
        deployment.path("kek"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .expect("sets");
    let output = run(&deployment, "serve");
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).contains("authority.toml:2: `issuer`"),
        "{}",
        text(&output.stderr)
    );
    edit(&deployment, "http://", "https://");
    let complaints = text(&run(&deployment, "serve").stderr);
    assert!(complaints.contains("authority.key"), "{complaints}");
    assert!(complaints.contains("mode 644"), "{complaints}");
    assert!(!deployment.path("store.redb").exists());
}

#[test]
fn usage_is_told_with_64_and_help_with_0() {
    let program = || Command::new(env!("CARGO_BIN_EXE_countersign-authority"));
    for args in [
        &[][..],
        &["serve"],
        &["serve", "--config"],
        &["dance"],
        &["serve", "--verify=false"],
    ] {
        let output = program().args(args).output().expect("runs");
        assert_eq!(output.status.code(), Some(64), "{args:?}");
    }
    for args in [["--help"], ["--version"]] {
        let output = program().args(args).output().expect("runs");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
    }
}

/// The keys that a sidecar pins are there before the authority has ever served, and stay the same.
#[tokio::test]
async fn publishing_keys_are_printed_and_kept() {
    let deployment = Deployment::new();
    let first = run(&deployment, "publishing-keys");
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let printed = text(&first.stdout);
    assert_eq!(printed, text(&run(&deployment, "publishing-keys").stdout));
    let running = deployment.start().await;
    assert_eq!(running.publishing_keys, printed.trim_end());

    // D07: not while the authority has the store; and nobody is harmed.
    let output = run(&deployment, "publishing-keys");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another process has the store open"));
    let output = run(&deployment, "serve");
    assert_eq!(output.status.code(), Some(1));
    running.stop().await;
}

/// I-39: what need not be recovered is not touched, and what is not there is not made, unless an epoch is named.
#[tokio::test]
async fn a_recovery_that_nobody_asked_for_is_refused() {
    let deployment = Deployment::new();
    let refused = |deployment: &Deployment| {
        let output = run(deployment, "recover");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        text(&output.stderr)
    };
    assert!(refused(&deployment).contains("recovery_not_required"));
    assert!(!deployment.path("store.redb").exists());
    let running = deployment.start().await;
    let error = refused(&deployment);
    assert!(error.contains("another process has the store open"), "{error}");
    running.stop().await;
    assert!(refused(&deployment).contains("recovery_not_required"));

    let lost = Deployment::new();
    let output = Command::new(env!("CARGO_BIN_EXE_countersign-authority"))
        .args(["recover", "--above", "41", "--config"])
        .arg(lost.config())
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let expected = format!("from epoch {}", 41 + (1 << 20));
    assert!(
        text(&output.stdout).contains(&expected),
        "{}",
        text(&output.stdout)
    );
}

/// C16: another key-encryption key is refused by name, and the store is as it was.
#[test]
fn another_key_encryption_key_stops_the_start() {
    let deployment = Deployment::new();
    let printed = run(&deployment, "publishing-keys").stdout;
    let key = std::fs::read_to_string(deployment.path("kek")).expect("reads");
    write_private(&deployment.path("kek"), &"fedcba9876543210".repeat(4));
    let output = run(&deployment, "serve");
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains("key-encryption key") && error.contains("nothing was changed"),
        "{error}"
    );
    write_private(&deployment.path("kek"), &key);
    assert_eq!(run(&deployment, "publishing-keys").stdout, printed);
}
