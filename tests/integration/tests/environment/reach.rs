//! When is it safe: what operators are told while a verifier is away, and what they can do about it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use countersign_core::ports::Clock as _;
use countersign_harness::dev::Dev;
use countersign_harness::eventually;
use countersign_runtime::SystemClock;
use serde_json::{Value, json};

use crate::{PROGRAM, start};

/// The identity of the environment's sidecar.
const SIDECAR: &str = "spiffe://dev.countersign.test/countersign/sidecar/demo";

/// A command that runs beside the test.
pub(crate) fn begin(dev: &Dev, arguments: &[&str]) -> Child {
    let mut command = Command::new(Path::new(PROGRAM));
    command.arg("--json").args(arguments).arg("--dir").arg(dev.dir());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("it runs")
}

/// What it says once it has ended well.
fn ended(child: Child) -> Value {
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {said}", output.status);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What `fleet` says of the one verifier.
fn verifier(dev: &Dev) -> Value {
    let fleet = dev.json(&["fleet"]);
    fleet.pointer("/verifiers/0").expect("one is known").clone()
}

fn state(verifier: &Value) -> &str {
    let state = verifier.get("state").and_then(Value::as_str);
    state.expect("a state")
}

/// Kills the sidecar.
async fn lose_sidecar(dev: &Dev) {
    dev.kill(dev.environment.processes.sidecar.pid).await;
    eventually("the authority has noticed", async || {
        state(&verifier(dev)) == "away"
    })
    .await;
}

fn restart_sidecar(dev: &mut Dev) {
    let config = dev.environment.processes.sidecar.config.clone();
    dev.restart(&["run", "sidecar", "--config", config.to_str().expect("text")]);
}

async fn answers(dev: &Dev) {
    eventually("the authority answers again", async || {
        dev.run(&["key", "list"]).status.success()
    })
    .await;
}

fn signing(dev: &Dev) -> Value {
    let listed = dev.json(&["key", "list"]);
    let keys = listed.get("keys").and_then(Value::as_array).expect("a list");
    let active = |key: &&Value| key.get("state").is_some_and(|state| state == "active");
    let key = keys.iter().find(active);
    key.and_then(|key| key.get("kid")).expect("one signs").clone()
}

/// The RFC 3339 time of a bound, which is at most `within` ahead and not past.
fn bounded(time: &Value, within: Duration) {
    let time = humantime::parse_rfc3339(time.as_str().expect("a time")).expect("RFC 3339");
    let time = time.duration_since(SystemTime::UNIX_EPOCH).expect("of our days");
    let now = Duration::from_secs(SystemClock.now().as_seconds());
    let left = time.checked_sub(now).expect("it is ahead");
    assert!(left <= within, "{left:?}");
}

/// F11: a verifier that is away is named with the time until which it decides, also when the authority has just started; nothing
/// is said to be everywhere before, and no key signs that it does not hold, unless an operator gives a reason or says that it is
/// gone.
#[tokio::test]
async fn nothing_is_said_to_be_everywhere_while_a_verifier_is_away() {
    let mut dev = start().await;
    lose_sidecar(&dev).await;

    let revoked = dev.json(&["revoke", "client", "billing"]);
    assert_eq!(
        (&revoked["complete"], &revoked["in_force"], &revoked["live"]),
        (&json!(false), &json!(0), &json!(1)),
        "{revoked}"
    );
    let laggard = &revoked["laggards"][0];
    assert_eq!(
        (&laggard["spiffe_id"], &laggard["state"]),
        (&json!(SIDECAR), &json!("away"))
    );
    // Lease, budget, what clocks run apart, and the second that has begun.
    let longest = Duration::from_secs(10 + 15 * 60 + 2);
    bounded(&revoked["by"], longest);
    bounded(&revoked["bounds"]["normal"], longest);
    let wait = ["revoke", "client", "billing", "--wait", "1s"];
    assert_eq!(dev.failed(&wait).exit, 4);
    let disabled = dev.text(&["client", "disable", "billing"]);
    assert!(
        disabled.contains("in force on 0 of 1 verifier now; on all by "),
        "{disabled}"
    );
    let rotate = ["key", "rotate", "--wait", "0s"];
    let pending = dev.run(&[&["--json"], &rotate[..]].concat());
    assert_eq!(pending.status.code(), Some(4));
    let pending: Value = serde_json::from_slice(&pending.stdout).expect("says who is waited for");
    assert_eq!(
        (&pending["signs"], &pending["laggards"][0]["spiffe_id"]),
        (&json!(false), &json!(SIDECAR)),
        "{pending}"
    );

    dev.restart_authority();
    answers(&dev).await;
    let before = signing(&dev);
    assert_eq!(dev.failed(&rotate).exit, 4);
    let refused = dev.failed(&["key", "activate"]);
    assert_eq!(refused.reason, "verifiers_behind");
    assert_eq!(signing(&dev), before, "the other key does not sign");
    let forced = dev.json(&[&rotate[..], &["--force", "a test"]].concat());
    assert_eq!(
        (&forced["forced"], &forced["verifiers"], &forced["previous"]),
        (&json!(true), &json!(0), &before)
    );
    assert_eq!(signing(&dev), forced["kid"]);

    assert_eq!(dev.failed(&rotate).exit, 4, "the next one has to wait again");
    dev.text(&["fleet", "forget", SIDECAR, "--reason", "it will not come back"]);
    let rotated = dev.json(&rotate);
    assert_eq!(rotated["forced"], false);
    assert_eq!(signing(&dev), rotated["kid"]);
    dev.stop().await;
}

/// Whoever waits is told when it is everywhere, although the authority was killed meanwhile; a rotation that waits goes on.
#[tokio::test]
async fn a_wait_outlives_the_authority_and_ends_when_the_verifier_is_back() {
    let mut dev = start().await;
    let before = signing(&dev);
    lose_sidecar(&dev).await;
    let revoking = begin(&dev, &["revoke", "client", "billing", "--wait"]);
    eventually("it is revoked", async || {
        dev.json(&["revoke", "list"])["total"] == 1
    })
    .await;
    let epoch = dev.json(&["fleet"])["epoch"].to_string();
    let watching = begin(&dev, &["fleet", "watch", &epoch]);
    let rotating = begin(&dev, &["key", "rotate", "--wait", "5m"]);
    eventually("a key is prepared", async || {
        dev.json(&["key", "list"])["keys"].as_array().map(Vec::len) > Some(1)
    })
    .await;

    dev.restart_authority();
    answers(&dev).await;
    assert_eq!(signing(&dev), before, "nobody holds the other key");
    restart_sidecar(&mut dev);
    for waiting in [revoking, watching] {
        let reached = ended(waiting);
        assert_eq!(
            (&reached["complete"], &reached["in_force"]),
            (&json!(true), &json!(1)),
            "{reached}"
        );
        assert_eq!(reached["laggards"], json!([]));
    }
    let rotated = ended(rotating);
    assert_eq!(
        (&rotated["previous"], &rotated["forced"]),
        (&before, &json!(false)),
        "{rotated}"
    );
    assert_eq!(signing(&dev), rotated["kid"]);
    dev.stop().await;
}

#[tokio::test]
async fn a_verifier_in_quarantine_is_granted_nothing_until_it_is_released() {
    let dev = start().await;
    let put = dev.json(&["fleet", "quarantine", SIDECAR, "--reason", "a test"]);
    bounded(&put["decides_until"], Duration::from_secs(10 + 15 * 60 + 2));
    let quarantined = verifier(&dev);
    assert_eq!(state(&quarantined), "quarantined");
    let until = |verifier: &Value| verifier["decides_until"].as_str().expect("a time").to_owned();
    assert!(
        until(&quarantined) <= until(&put),
        "it is not put off: {quarantined}"
    );
    let connected = dev.failed(&["fleet", "forget", SIDECAR, "--reason", "a test"]);
    assert_eq!(connected.reason, "verifier_connected");
    dev.text(&["fleet", "release", SIDECAR]);
    eventually("it is granted more", async || {
        let verifier = verifier(&dev);
        state(&verifier) == "current" && until(&verifier) > until(&put)
    })
    .await;
    assert_eq!(
        dev.failed(&["fleet", "release", SIDECAR]).reason,
        "verifier_unknown"
    );
    dev.stop().await;
}
