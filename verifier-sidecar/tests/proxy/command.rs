//! The binary: what it says and how it ends.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use countersign_core::jwk::write_set;
use countersign_crypto::{SigningKey, publishing};

use crate::support::eventually;
use crate::support::pki::Pki;

pub(crate) const GOOD: &str = r#"
issuer = "https://auth.example.com"
trust_domain = "test.example.com"
audience = "demo"
publishing_keys = "publishing-keys.json"
state_dir = "state"
upstream = "http://127.0.0.1:9"
admin = "127.0.0.1:0"
[authority]
uri = "https://127.0.0.1:9"
spiffe_id = "spiffe://test.example.com/authority"
certificate = "sidecar.crt"
private_key = "sidecar.key"
trust_roots = "ca.crt"
[[listener]]
address = "127.0.0.1:0"
plaintext = true
[verify]
unix = "verify.sock"
"#;

pub(crate) fn folder(text: &str) -> tempfile::TempDir {
    let folder = Pki::new().into_folder();
    let key = SigningKey::generate(publishing::ALGORITHM).expect("a key");
    std::fs::write(folder.path().join("publishing-keys.json"), write_set([key.jwk()])).expect("written");
    std::fs::write(folder.path().join("sidecar.toml"), text).expect("written");
    folder
}

pub(crate) fn command(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign-sidecar"));
    command
        .arg("--config")
        .arg(folder.join("sidecar.toml"))
        .args(more);
    command
}

fn run(text: &str, more: &[&str]) -> Output {
    let folder = folder(text);
    command(folder.path(), more).output().expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_good_configuration_is_called_good() {
    let output = run(GOOD, &["--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        "the configuration is good\n\
         with leases of 10s, which are the authority's to grant (at most 1m is believed):\n\
         class `normal` (default): goes on for 15m10s after the last contact; if this sidecar is cut off, a revocation is unnoticed \
         for at most 15m10s\n"
    );
}

/// A path that no rule names is not closed by the rules that there are.
#[test]
fn whoever_writes_rules_is_told_what_the_rest_asks_for() {
    let told = |more: &str| {
        let output = run(
            &GOOD.replacen("[authority]", &format!("{more}\n[authority]"), 1),
            &["--check"],
        );
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let (guards, opens) = (
        "path = \"/v1/orders/*\"\nscopes = [\"read\"]",
        "path = \"/healthz\"\nopen = true",
    );
    let sentence =
        "what no `[[method]]` names takes any good token for `demo`: there are no `default_scopes`\n";
    let told_of = |rule: &str| told(&format!("[[method]]\n{rule}"));
    assert!(told_of(guards).ends_with(sentence), "{}", told_of(guards));
    assert!(!told_of(opens).contains("default_scopes"), "{}", told_of(opens));
    let all = told(&format!("default_scopes = [\"admin\"]\n[[method]]\n{guards}"));
    assert!(!all.contains("default_scopes"), "{all}");
}

/// C01, C06: every complaint on stderr, with file and line, and 64.
#[test]
fn a_bad_configuration_ends_with_64_and_every_complaint() {
    let bad = GOOD
        .replace("https://auth", "http://auth")
        .replace("\"demo\"", "\"\"");
    for more in [&[][..], &["--check"]] {
        let output = run(&bad, more);
        assert_eq!(output.status.code(), Some(64));
        let complaints = text(&output.stderr);
        assert!(complaints.contains("sidecar.toml:2: `issuer`"), "{complaints}");
        assert!(complaints.contains("sidecar.toml:4: `audience`"), "{complaints}");
    }
    let output = run("", &[]);
    assert_eq!(output.status.code(), Some(64));
    let usage = Command::new(env!("CARGO_BIN_EXE_countersign-sidecar"))
        .output()
        .expect("run");
    assert_eq!(usage.status.code(), Some(64));
    let help = Command::new(env!("CARGO_BIN_EXE_countersign-sidecar"))
        .arg("--help")
        .output()
        .expect("run");
    assert_eq!(help.status.code(), Some(0));
}

/// C06, C09: a key that others may read is no key. Every file that cannot be used is told, at a start as with `--check`.
#[test]
fn files_that_cannot_be_used_are_told() {
    let listener =
        "tls = { certificate = \"gone.crt\", private_key = \"sidecar.key\", trust_roots = \"ca.crt\" }";
    let folder = folder(&GOOD.replace("plaintext = true", listener));
    let key = folder.path().join("sidecar.key");
    std::fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("0644");
    for more in [&["--check"][..], &[]] {
        let output = command(folder.path(), more).output().expect("run");
        let complaints = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{complaints}");
        for file in ["sidecar.key", "gone.crt"] {
            assert!(complaints.contains(file), "{complaints}");
        }
    }
    assert!(!folder.path().join("state").exists());
}

/// Threat 36: what others can exchange is not used. Told at a start as with `--check`, and nothing is written there.
#[test]
fn a_state_directory_that_others_can_change_is_told() {
    let folder = folder(GOOD);
    let state = folder.path().join("state");
    std::fs::create_dir(&state).expect("made");
    std::fs::set_permissions(&state, Permissions::from_mode(0o777)).expect("0777");
    for more in [&["--check"][..], &[]] {
        let output = command(folder.path(), more).output().expect("run");
        let complaints = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{complaints}");
        assert!(
            complaints.contains("`state_dir` cannot be used: has mode 0777"),
            "{complaints}"
        );
    }
    assert_eq!(std::fs::read_dir(&state).expect("a folder").count(), 0);
}

/// F71: SIGTERM is a request, and the answer is 0.
#[tokio::test]
async fn a_termination_signal_ends_it_well() {
    for workers in [1, 3] {
        ends_well(workers).await;
    }
}

/// The threads of a process that serve calls. The kernel keeps the beginning of their names.
fn serving(process: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("a process");
    let names = tasks.map(|task| std::fs::read_to_string(task.expect("a thread").path().join("comm")));
    names
        .filter(|name| name.as_ref().is_ok_and(|name| name.trim() == "countersign-cal"))
        .count()
}

async fn ends_well(workers: usize) {
    let folder = folder(&format!("workers = {workers}\n{GOOD}"));
    let mut child = command(folder.path(), &[])
        .stderr(Stdio::null())
        .spawn()
        .expect("spawned");
    let socket = folder.path().join("verify.sock");
    eventually("the start", async || socket.exists()).await;
    assert_eq!(serving(child.id()), workers);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    let mut code = None;
    eventually("the end", async || {
        code = child.try_wait().expect("waited");
        code.is_some()
    })
    .await;
    assert_eq!(code.and_then(|code| code.code()), Some(0));
    assert!(!socket.exists());
}
