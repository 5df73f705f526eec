use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Service {
    issuer: String,
    lifetime: Period,
    #[serde(default)]
    cache: Option<Cache>,
    #[serde(default)]
    listeners: Vec<Listener>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Cache {
    entries: u32,
    #[serde(default)]
    max_age: Option<PeriodOrZero>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Listener {
    address: std::net::SocketAddr,
    name: String,
}

const GOOD: &str = r#"
issuer = "https://auth.example.com"
lifetime = "15m"

[cache]
entries = 5
max_age = "0s"

[[listeners]]
address = "127.0.0.1:1"
name = "one"
"#;

fn complaints(text: &str) -> Vec<String> {
    let refused = parse::<Service>("f.toml".as_ref(), text).expect_err("refused");
    refused.to_string().lines().map(str::to_owned).collect()
}

fn write(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("f.toml");
    std::fs::write(&path, content).expect("written");
    (folder, path)
}

#[test]
fn a_good_file_is_read() {
    let (_folder, path) = write(GOOD.as_bytes());
    let service: Service = read_file(&path).expect("good");
    assert_eq!(service.lifetime.get(), std::time::Duration::from_secs(900));
    assert_eq!(service.listeners.len(), 1);
}

/// C01: an unknown, misspelt, repeated or misplaced key is named with its line.
#[test]
fn a_key_that_does_not_belong_is_named_with_its_line() {
    let cases = [
        (
            "lifetime = \"15m\"",
            "lifetime = \"15m\"\nlifetme = \"1h\"",
            "f.toml:4: `lifetme`: unknown field `lifetme`",
        ),
        (
            "lifetime = \"15m\"",
            "lifetime = \"15m\"\nlifetime = \"1h\"",
            "f.toml:4: duplicate key",
        ),
        (
            "entries = 5",
            "entries = 5\nissuer = \"x\"",
            "f.toml:7: `cache.issuer`: unknown field `issuer`",
        ),
        (
            "name = \"one\"",
            "name = \"one\"\nport = 5",
            "f.toml:12: `listeners.port`: unknown field `port`",
        ),
        ("[cache]", "[cash]", "f.toml:5: `cash`: unknown field `cash`"),
    ];
    for (from, to, expected) in cases {
        let found = complaints(&GOOD.replace(from, to));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(expected), "{found:?}, not {expected}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = r#"
issuer = 5
lifetime = "5"
lifetme = "1h"

[cache]
entries = -1
max_age = "1e9s"
extra = true

[[listeners]]
address = "localhost"
name = "one"

[[listeners]]
address = "127.0.0.1:1"

[[listeners]]
address = "127.0.0.1:1"
name = "two"
nome = "two"
"#;
    let found = complaints(text);
    let starts = [
        "f.toml:2: `issuer`: invalid type: integer `5`, expected a string",
        "f.toml:3: `lifetime`: a length of time is digits and units",
        "f.toml:4: `lifetme`: unknown field",
        "f.toml:7: `cache.entries`: invalid value: integer `-1`",
        "f.toml:8: `cache.max_age`: a length of time is",
        "f.toml:9: `cache.extra`: unknown field",
        "f.toml:12: `listeners.address`: invalid socket address",
        "f.toml:15: `listeners`: missing field `name`",
        "f.toml:21: `listeners.nome`: unknown field",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found}, not {start}");
    }
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        complaints("lifetime = \"1s\""),
        ["f.toml: missing field `issuer`"]
    );
    let without_entries = GOOD.replace("entries = 5\n", "");
    assert_eq!(
        complaints(&without_entries),
        ["f.toml:5: `cache`: missing field `entries`"]
    );
}

/// C02, through a file.
#[test]
fn a_length_of_time_that_is_none_is_refused_with_its_line() {
    for value in [
        "\"5\"",
        "5",
        "\"-1s\"",
        "\"5 min\"",
        "\"1e9s\"",
        "\"0s\"",
        "1.5",
        "true",
        "\"\"",
    ] {
        let found = complaints(&GOOD.replace("\"15m\"", value));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("f.toml:3: `lifetime`: "), "{found:?}");
    }
}

#[test]
fn a_syntax_error_is_told_with_its_line() {
    let found = complaints("issuer = \"a\nlifetime = ]\n");
    assert!(
        found.iter().any(|line| line.starts_with("f.toml:1: ")),
        "{found:?}"
    );
    assert!(
        found.iter().any(|line| line.starts_with("f.toml:2: ")),
        "{found:?}"
    );
}

#[test]
fn a_reader_complains_about_keys_with_their_lines() {
    let (service, mut complaints) = parse::<Service>("f.toml".as_ref(), GOOD).expect("good");
    assert!(complaints.is_empty());
    complaints.push("listeners.0.address", "is taken");
    complaints.push("cache.absent", "should be there");
    complaints.push("issuer", "is not ours");
    complaints.push_general("makes no sense");
    assert_eq!(
        complaints.accept("lifetime", "15m".parse::<Period>()),
        Some(service.lifetime)
    );
    assert_eq!(complaints.accept("lifetime", "0s".parse::<Period>()), None);
    let all = complaints.into_result(service).expect_err("refused");
    assert_eq!(all.iter().count(), 5);
    let expected = "f.toml:2: `issuer`: is not ours\n\
                    f.toml:3: `lifetime`: must be longer than nothing\n\
                    f.toml:5: `cache.absent`: should be there\n\
                    f.toml:10: `listeners.0.address`: is taken\n\
                    f.toml: makes no sense";
    assert_eq!(all.to_string(), expected);
}

/// C12: size and depth are bounded.
#[test]
fn a_huge_or_deep_file_is_refused() {
    let (_folder, path) = write("#".repeat(1024 * 1024 + 1).as_bytes());
    let error = read_file::<Service>(&path).expect_err("huge").to_string();
    assert!(error.ends_with("is over 1048576 bytes"), "{error}");
    let deep = format!("labels = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(complaints(&deep).len() <= 50);
    let tables = format!("labels = {}{}", "{a=".repeat(10_000), "}".repeat(10_000));
    assert!(complaints(&tables).len() <= 50);
}

#[test]
fn complaints_about_one_file_are_bounded() {
    let text =
        GOOD.to_owned() + "\n[labels]\n" + &(0..1_000).map(|n| format!("k{n} = {n}\n")).collect::<String>();
    assert!((10..=50).contains(&complaints(&text).len()));
}

#[test]
fn what_is_no_readable_text_file_is_refused_without_waiting() {
    let folder = tempfile::tempdir().expect("folder");
    let pipe = folder.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("pipe");
    let (_other, latin1) = write(b"issuer = \"\xe4\"");
    let cases = [
        (folder.path().join("absent"), "cannot be read: entity not found"),
        (folder.path().to_owned(), "is no regular file"),
        (pipe, "is no regular file"),
        (Path::new("/dev/zero").to_owned(), "is no regular file"),
        (latin1, "is not UTF-8"),
    ];
    for (path, expected) in cases {
        let error = read_file::<Service>(&path).expect_err("refused").to_string();
        assert_eq!(error, format!("{}: {expected}", path.display()));
    }
}

/// C17: neither time zone nor locale changes what is read, said or logged. Runs the tests that read and write text again
/// in a process of another place.
#[test]
fn time_zone_and_locale_change_nothing() {
    let this = std::env::current_exe().expect("the test binary");
    for filter in [
        "config::tests::everything",
        "config::duration",
        "telemetry::tests::json",
    ] {
        let child = std::process::Command::new(&this)
            .arg(filter)
            .env("TZ", "Pacific/Kiritimati")
            .env("LANG", "tr_TR.UTF-8")
            .env("LC_ALL", "tr_TR.UTF-8")
            .output()
            .expect("started");
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && !output.contains(" 0 passed"),
            "{filter}: {output}"
        );
    }
}
