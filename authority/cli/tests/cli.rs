//! The command line as a script sees it: what it prints where, and how it exits. Nothing here needs an authority.

#![expect(clippy::expect_used, reason = "helpers of tests may panic as tests do")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use countersign_core::jose::{Algorithm, access_token_header, encode_segment};
use countersign_core::jwk::write_set;
use countersign_core::ports::{Clock as _, Signer as _};
use countersign_crypto::SigningKey;
use countersign_runtime::SystemClock;
use serde_json::{Value, json};

/// The command line, without anything that the surroundings say.
fn countersign(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command
        .args(arguments)
        .env_clear()
        .env("TMPDIR", folder)
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    countersign(folder.path(), arguments).output().expect("it runs")
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

#[test]
fn help_lists_the_commands_and_the_exit_codes() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(err(&help).is_empty());
    let expected = "\
Issues, rotates and revokes access tokens for gRPC services

Usage: countersign [OPTIONS] <COMMAND>

Commands:
  dev          Start a whole development environment: authority, sidecar and a demo service
  token        Get tokens, and see what is wrong with one
  agent        Ask the sidecar beside an app for the app's tokens
  client       Register the clients that may ask for tokens
  key          Move signing keys through their life
  revoke       Take tokens back
  fleet        Show the verifiers and how far each is; put one out of service
  trust        Take the trust that verifiers hold along in a file, for starts without the authority
  observed     Show what a sidecar would have refused, were it enforced
  status       Show whether the parts of an environment run and agree
  completions  Write a completion script for a shell
  help         Print this message or the help of the given subcommand(s)

Options:
  -h, --help     Print help
  -V, --version  Print version

Output:
      --json          Write JSON for programs instead of text for people
      --color <WHEN>  When to use colour [default: auto] [possible values: auto, always, never]

Exit codes:
  0   it worked
  1   it did not work
  2   the command line makes no sense
  3   refused: a token is not good, or the caller may not
  4   unavailable: somebody cannot be reached or cannot answer now; try again
  64  a configuration file is not acceptable

Try it out:
  countersign dev                           # starts everything, and prints commands to try
  countersign token get --client orders     # in another terminal
";
    assert_eq!(out(&help), expected);
}

#[test]
fn every_command_explains_itself() {
    for (command, wanted) in [
        (
            &["dev"][..],
            &["--dir", "--reset", "--authority-port", "--proxy-plaintext-port"][..],
        ),
        (
            &["token", "get"],
            &[
                "--client",
                "--secret-file",
                "--audience",
                "--scope",
                "--lifetime",
                "--dir",
            ],
        ),
        (
            &["token", "inspect"],
            &["--keys", "--issuer", "--audience", "--scope", "--peer-cert"],
        ),
        (
            &["client", "create"],
            &["--grant", "--spiffe-id", "--certificate", "--with-secret"],
        ),
        (&["client", "secret", "retire"], &["<CLIENT>", "<SECRET_ID>"]),
        (&["key", "rotate"], &["--wait", "--algorithm", "--force <REASON>"]),
        (&["key", "activate"], &["--force <REASON>"]),
        (
            &["key", "compromise"],
            &["--reason", "--yes", "--wait [<DURATION>]"],
        ),
        (&["key", "users"], &["<KID>"]),
        (
            &["key", "drill", "run"],
            &["--reason <REASON>", "--wait <DURATION>"],
        ),
        (&["key", "drill", "abort"], &["[ID]", "--reason <REASON>"]),
        (&["revoke", "token"], &["--id", "--reason", "--wait [<DURATION>]"]),
        (&["client", "disable"], &["--wait [<DURATION>]"]),
        (&["fleet", "watch"], &["[EPOCH]", "--wait <DURATION>"]),
        (&["fleet", "quarantine"], &["<SPIFFE_ID>", "--reason <REASON>"]),
        (
            &["fleet", "forget"],
            &["<SPIFFE_ID>", "[VERIFIER_ID]", "--reason <REASON>"],
        ),
        (&["revoke", "issued-before"], &["<TIME>"]),
        (
            &["fleet"],
            &["--authority", "--ca", "--cert", "--key", "COUNTERSIGN_AUTHORITY"],
        ),
        (&["status"], &["--dir"]),
    ] {
        explains(command, wanted);
    }
}

fn explains(command: &[&str], wanted: &[&str]) {
    let help = run(&[command, &["--help"]].concat());
    assert_eq!(help.status.code(), Some(0), "{command:?}");
    for option in wanted {
        let text = out(&help);
        assert!(text.contains(option), "{command:?} lacks {option}: {text}");
    }
}

#[test]
fn completions_are_written_for_every_shell() {
    for (shell, sign) in [
        ("bash", "_countersign()"),
        ("zsh", "#compdef countersign"),
        ("fish", "complete -c countersign"),
    ] {
        let script = run(&["completions", shell]);
        assert_eq!(script.status.code(), Some(0));
        assert!(out(&script).contains(sign), "{shell}");
    }
}

#[test]
fn a_senseless_command_line_exits_with_2() {
    for arguments in [
        &["nonsense"][..],
        &["token", "get", "--lifetime", "5"],
        &["fleet", "--cert", "x"],
        &["revoke", "token"],
        &["revoke", "issued-before", "yesterday"],
        // What is done in spite of something, or to somebody, has a reason.
        &["key", "rotate", "--force"],
        &["key", "rotate", "--force", ""],
        &["key", "activate", "--force", ""],
        &["key", "retire", "A"],
        &["key", "drill"],
        &["key", "drill", "run"],
        &["key", "drill", "abort", "7"],
        &["key", "drill", "abort", "0", "--reason", "x"],
        &["key", "drill", "show", "last"],
        &["key", "drill", "--reason", "x", "list"],
        &["fleet", "quarantine", "spiffe://dev.test/a"],
        &["fleet", "forget", "spiffe://dev.test/a"],
        // An option of the list is none of another command.
        &["fleet", "--timeout", "1s", "release", "spiffe://dev.test/a"],
        &["client", "create", "x"],
        &["fleet"],
        &["fleet", "list"],
        &["fleet", "--authority", "127.0.0.1:1"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", err(&output));
        assert!(out(&output).is_empty(), "{arguments:?}");
        assert!(!err(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn what_cannot_be_undone_is_not_done_where_nobody_can_be_asked() {
    let key = "A".repeat(43);
    for arguments in [
        &["revoke", "issued-before", "now"][..],
        &["revoke", "key", &key],
        &["key", "compromise", &key, "--reason", "b"],
        &["client", "delete", "a"],
        &["--json", "client", "delete", "a"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", err(&output));
        // It did not come as far as to look for an authority.
        assert!(
            err(&output).contains("repeat with `--yes`"),
            "{arguments:?}: {}",
            err(&output)
        );
    }
}

#[test]
fn whoever_finds_no_environment_is_told_how_to_start_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("text");
    let output = countersign(
        folder.path(),
        &["token", "get", "--client", "orders", "--dir", dir],
    )
    .output()
    .expect("runs");
    assert_eq!(output.status.code(), Some(4));
    assert!(
        err(&output).starts_with("error: no development environment runs in"),
        "{}",
        err(&output)
    );
    assert!(
        err(&output).contains(&format!("countersign dev --dir {dir}")),
        "{}",
        err(&output)
    );
    let output = countersign(folder.path(), &["--json", "fleet", "--dir", dir])
        .output()
        .expect("runs");
    let report: Value = serde_json::from_str(err(&output)).expect("JSON");
    assert_eq!(report["error"]["exit"], 4);
    assert!(
        report["error"]["next"]
            .as_str()
            .is_some_and(|next| next.contains("countersign dev"))
    );
}

#[test]
fn colour_is_never_written_where_nobody_sees_it() {
    let plain = run(&["fleet"]);
    assert!(!err(&plain).contains('\u{1b}'), "not on a terminal");
    let asked_for = run(&["--color", "always", "fleet"]);
    assert!(err(&asked_for).contains('\u{1b}'));
}

/// A token of our own, and its key as a file.
struct Issued {
    folder: tempfile::TempDir,
    token: String,
}

fn issued(expires_in: i64) -> Issued {
    let folder = tempfile::tempdir().expect("a folder");
    let key = SigningKey::generate(Algorithm::Es256).expect("a key");
    std::fs::write(folder.path().join("keys.json"), write_set([key.jwk()])).expect("written");
    let now = i64::try_from(SystemClock.now().as_seconds()).expect("a time");
    let claims = json!({
        "iss": "https://issuer.test", "sub": "client:dev.test/orders", "aud": "demo", "client_id": "orders",
        "iat": now - 60, "exp": now + expires_in, "jti": "1.0", "scope": "demo.call",
    });
    let header = access_token_header(Algorithm::Es256, key.jwk().key_id());
    let input = format!(
        "{}.{}",
        encode_segment(header.as_bytes()),
        encode_segment(claims.to_string().as_bytes())
    );
    let signature = encode_segment(&key.sign(input.as_bytes()).expect("signed"));
    Issued {
        folder,
        token: format!("{input}.{signature}"),
    }
}

impl Issued {
    fn inspect(&self, more: &[&str]) -> Output {
        let keys = self.folder.path().join("keys.json");
        let keys = keys.to_str().expect("text");
        let mut command = countersign(self.folder.path(), &["token", "inspect", "-", "--keys", keys]);
        let child = command
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("it runs");
        writeln!(child.stdin.take().expect("stdin"), "{}", self.token).expect("written");
        child.wait_with_output().expect("it ends")
    }
}

#[test]
fn a_token_is_inspected_offline_from_a_key_file() {
    let issued = issued(600);
    let good = issued.inspect(&[
        "--issuer",
        "https://issuer.test",
        "--audience",
        "demo",
        "--scope",
        "demo.call",
    ]);
    assert_eq!(good.status.code(), Some(0), "{}", err(&good));
    assert!(
        out(&good).starts_with("good, as far as it was checked"),
        "{}",
        out(&good)
    );
    let unchecked = issued.inspect(&["--json", "--audience", "demo"]);
    assert_eq!(unchecked.status.code(), Some(0));
    let report: Value = serde_json::from_str(out(&unchecked)).expect("JSON");
    assert_eq!(report["verdict"], "unchecked", "nobody looked for revocations");
    let json = issued.inspect(&["--json", "--audience", "other"]);
    assert_eq!(json.status.code(), Some(3));
    let report: Value = serde_json::from_str(out(&json)).expect("JSON");
    assert_eq!(
        (&report["verdict"], &report["reason"]),
        (&json!("refused"), &json!("aud_mismatch"))
    );
    assert_eq!(report["claims"]["sub"], "client:dev.test/orders");
    let checks = report["checks"].as_array().expect("a list");
    let results: Vec<(&str, &str)> = checks
        .iter()
        .map(|check| {
            (
                check["check"].as_str().expect("text"),
                check["result"].as_str().expect("text"),
            )
        })
        .collect();
    assert_eq!(
        results,
        [
            ("form", "pass"),
            ("header", "pass"),
            ("key", "pass"),
            ("signature", "pass"),
            ("claims", "pass"),
            ("issuer", "skipped"),
            ("audience", "fail"),
            ("time", "pass"),
            ("revocation", "skipped"),
            ("binding", "pass"),
            ("scopes", "skipped"),
        ]
    );
    let signature = issued.token.rsplit('.').next().expect("a signature");
    assert!(!out(&good).contains(signature) && !out(&json).contains(signature));
}

#[test]
fn an_expired_and_a_tampered_token_say_so() {
    let expired = issued(-1).inspect(&[]);
    assert_eq!(expired.status.code(), Some(3));
    assert!(
        out(&expired).starts_with("refused: token_expired"),
        "{}",
        out(&expired)
    );
    assert!(err(&expired).contains("(token_expired)"));
    let mut issued = issued(600);
    let (rest, signature) = issued.token.rsplit_once('.').expect("segments");
    issued.token = format!("{rest}.{}", signature.chars().rev().collect::<String>());
    let tampered = issued.inspect(&["--json"]);
    let report: Value = serde_json::from_str(out(&tampered)).expect("JSON");
    assert_ne!(report["verdict"], "good");
    assert_eq!(report["signature_verified"], false);
}

/// Where others take a file, this takes a token.
#[test]
fn whoever_names_a_file_instead_of_a_token_is_told_of_stdin() {
    let issued = issued(600);
    let keys = issued.folder.path().join("keys.json");
    let file = keys.to_str().expect("text");
    for command in [&["token", "inspect", file][..], &["revoke", "token", file]] {
        let told = countersign(issued.folder.path(), command)
            .output()
            .expect("it runs");
        assert_eq!(told.status.code(), Some(2), "{}", err(&told));
        assert!(
            err(&told).contains(&format!("on stdin: `- <{file}`")),
            "{}",
            err(&told)
        );
    }
}

/// Whoever asks for JSON gets it, also when the command line is not understood.
#[test]
fn a_senseless_command_line_is_answered_in_json_where_asked_for() {
    for arguments in [
        &["--json", "frob"][..],
        &["fleet", "--json", "--frob"],
        &["--json"],
        &["token", "get", "--lifetime", "5", "--json"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let report: Value = serde_json::from_str(err(&output)).expect("JSON");
        assert_eq!(report["error"]["exit"], 2, "{arguments:?}");
        let message = report["error"]["message"].as_str().expect("text");
        assert!(!message.is_empty() && !message.contains("Usage:"), "{message}");
    }
    let text = run(&["frob"]);
    assert!(
        err(&text).starts_with("error: ") && err(&text).contains("Usage:"),
        "{}",
        err(&text)
    );
    let after = run(&["frob", "--", "--json"]);
    assert!(
        err(&after).starts_with("error: "),
        "it is no flag there: {}",
        err(&after)
    );
}

/// T84 and its like: what the command line said is repeated without commanding the terminal.
#[test]
fn an_error_shows_what_it_repeats() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("\u{1b}[31m\u{202e}");
    let dir = dir.to_str().expect("text");
    for arguments in [
        &["fleet", "--dir", dir][..],
        &["\u{1b}[31m\u{202e}"],
        &["token", "get", "--lifetime", "\u{1b}[31m\u{202e}"],
    ] {
        let output = run(arguments);
        let shown = err(&output);
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
        assert!(shown.contains(r"\u{202e}"), "{shown:?}");
    }
}
