//! The rehearsal of a key compromise, on three sidecars of which one is stopped, and across a crash of the authority.
#![expect(clippy::print_stdout, reason = "what was measured is part of the report")]

use std::fs;
use std::path::{Path, PathBuf};

use countersign_harness::dev::Dev;
use countersign_harness::eventually;
use serde_json::{Value, json};

use crate::reach::begin;
use crate::start;

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// The configuration of another sidecar of the same identity, with a state and ports of its own.
fn another_sidecar(dev: &Dev, name: &str) -> PathBuf {
    let config = fs::read_to_string(&dev.environment.processes.sidecar.config).expect("a configuration");
    let state = dev.path(name);
    let line = |line: &str| match line.split(" = ").next() {
        Some("state_dir") => format!("state_dir = {:?}", text(&state)),
        Some(key @ ("admin" | "address" | "grpc")) => format!("{key} = \"127.0.0.1:0\""),
        Some("unix") => String::new(),
        _ => line.to_owned(),
    };
    let config: Vec<String> = config.lines().map(line).collect();
    let path = dev.path(&format!("{name}.toml"));
    fs::write(&path, config.join("\n")).expect("is written");
    path
}

/// Three sidecars of one identity.
async fn fleet_of_three() -> Dev {
    let mut dev = start().await;
    for name in ["second", "third"] {
        let config = another_sidecar(&dev, name);
        dev.restart(&["run", "sidecar", "--config", text(&config)]);
    }
    dev
}

fn keys(dev: &Dev) -> usize {
    let listed = dev.json(&["key", "list"]);
    let keys = listed.get("keys").and_then(Value::as_array);
    keys.map_or(0, Vec::len)
}

async fn followed_by(dev: &Dev, verifiers: u64) {
    eventually("everybody follows", async || {
        let listed = dev.run(&["--json", "fleet"]);
        let fleet: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        ["in_force", "live"]
            .iter()
            .all(|count| fleet.get(*count).and_then(Value::as_u64) == Some(verifiers))
    })
    .await;
}

/// F13, F77 rehearsed: those who follow are measured, the one that is stopped is named with its bound, and the set is as before.
#[tokio::test]
async fn a_drill_measures_those_who_follow_and_names_the_one_that_is_stopped() {
    let dev = fleet_of_three().await;
    followed_by(&dev, 3).await;
    let run = ["key", "drill", "run", "--reason", "a test"];
    let drill = dev.json(&run);
    assert_eq!(
        (&drill["state"], &drill["verifiers"], &drill["acknowledged"]),
        (&json!("complete"), &json!(3), &json!(3)),
        "{drill}"
    );
    let figures = ["held_after_ms", "time_to_safe_ms", "p50_ms", "p99_ms", "max_ms"];
    for figure in figures {
        let millis = drill[figure].as_f64().expect("a figure");
        assert!(millis > 0.0 && millis < 10_000.0, "{figure}: {millis}");
    }
    println!(
        "three sidecars: time to safe {} ms, p50 {} ms, max {} ms",
        drill["time_to_safe_ms"], drill["p50_ms"], drill["max_ms"]
    );
    assert_eq!(drill["responses"].as_array().map(Vec::len), Some(3));
    assert_eq!(keys(&dev), 1, "the shadow is gone");

    dev.pause(dev.environment.processes.sidecar.pid, true);
    let patience = [&run[..], &["--wait", "2s"]].concat();
    assert_eq!(dev.failed(&patience).exit, 4);
    let drill = dev.json(&["key", "drill", "show", "2"]);
    assert_eq!(
        (&drill["state"], &drill["verifiers"], &drill["acknowledged"]),
        (&json!("gave_up"), &json!(3), &json!(2)),
        "{drill}"
    );
    let laggard = &drill["responses"][0];
    assert!(
        laggard["took_ms"].is_null() && laggard["decides_until"].is_string(),
        "{drill}"
    );
    let lacking = dev.json(&["fleet"]);
    let verifiers = lacking["verifiers"].as_array().expect("a list").iter();
    let behind: Vec<&Value> = verifiers
        .filter(|verifier| verifier["up_to_date"] == false)
        .map(|verifier| &verifier["verifier_id"])
        .collect();
    assert_eq!(behind, [&laggard["verifier_id"]]);
    let shown = dev.text(&["key", "drill", "show", "2"]);
    assert!(
        shown.contains(": no answer; it may accept the key until "),
        "{shown}"
    );
    assert_eq!(keys(&dev), 1);

    dev.pause(dev.environment.processes.sidecar.pid, false);
    followed_by(&dev, 3).await;
    dev.token(&["--client", "orders"]);
    assert_eq!(
        dev.json(&["key", "drill", "list"])["drills"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    dev.stop().await;
}

/// F01 to F06 for a drill: an authority that is killed in the middle takes the shadow out at its next start, and whoever watched
/// is told.
#[tokio::test]
async fn a_drill_in_whose_middle_the_authority_is_killed_is_interrupted() {
    let mut dev = start().await;
    dev.pause(dev.environment.processes.sidecar.pid, true);
    let mut running = begin(
        &dev,
        &["key", "drill", "run", "--reason", "a test", "--wait", "5m"],
    );
    eventually("the shadow is published", async || keys(&dev) == 2).await;
    dev.restart_authority();
    let ended = tokio::task::spawn_blocking(move || running.wait()).await;
    let ended = ended.expect("runs").expect("ends");
    assert_eq!(ended.code(), Some(4));
    let drill = dev.json(&["key", "drill", "show", "1"]);
    assert_eq!(drill["state"], "interrupted", "{drill}");
    assert_eq!(keys(&dev), 1);
    let late = ["key", "drill", "abort", "1", "--reason", "a test"];
    assert_eq!(dev.failed(&late).reason, "drill_not_running");
    dev.pause(dev.environment.processes.sidecar.pid, false);
    followed_by(&dev, 1).await;
    dev.stop().await;
}

/// The one who runs it is told by whom it was aborted and why, and so is everybody later.
#[tokio::test]
async fn a_drill_that_waits_is_aborted_by_an_operator() {
    let dev = start().await;
    dev.pause(dev.environment.processes.sidecar.pid, true);
    let mut running = begin(
        &dev,
        &["key", "drill", "run", "--reason", "a test", "--wait", "5m"],
    );
    eventually("the shadow is published", async || keys(&dev) == 2).await;
    let aborted = dev.json(&["key", "drill", "abort", "--reason", "wrong day"]);
    assert_eq!(
        (&aborted["id"], &aborted["state"], &aborted["abort_reason"]),
        (&json!(1), &json!("aborted"), &json!("wrong day")),
        "{aborted}"
    );
    assert_eq!(keys(&dev), 1, "the shadow is gone");
    let ended = tokio::task::spawn_blocking(move || running.wait()).await;
    assert_eq!(ended.expect("runs").expect("ends").code(), Some(4));
    assert_eq!(dev.json(&["key", "drill", "show", "1"]), aborted);
    dev.pause(dev.environment.processes.sidecar.pid, false);
    followed_by(&dev, 1).await;
    dev.stop().await;
}
