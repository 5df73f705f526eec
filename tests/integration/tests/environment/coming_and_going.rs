//! A sidecar that comes without the authority, from a file; and one that goes for good, so that nobody waits for it (F41, F43).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use countersign_harness::dev::{Dev, Through, told};
use countersign_harness::eventually;
use serde_json::{Value, json};
use tonic::Code;

use crate::{PROGRAM, start};

/// The environment's sidecar, to be started with other settings.
struct Sidecar {
    config: String,
    state: PathBuf,
}

impl Sidecar {
    fn of(dev: &Dev) -> Self {
        let config = std::fs::read_to_string(&dev.environment.processes.sidecar.config).expect("there");
        let state = config.lines().find_map(|line| line.strip_prefix("state_dir = "));
        let state = state.expect("a state directory").trim_matches('"');
        Self {
            state: PathBuf::from(state),
            config,
        }
    }

    /// Runs it with `more` at the end of its configuration.
    fn run(&self, dev: &Dev, more: &str) -> Running {
        let path = dev.path("sidecar-of-test.toml");
        std::fs::write(&path, format!("{}\n{more}\n", self.config)).expect("written");
        let log = std::fs::File::create(dev.path("sidecar-of-test.log")).expect("a log");
        let mut command = Command::new(Path::new(PROGRAM));
        command.args(["run", "sidecar", "--config"]).arg(path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Running(command.spawn().expect("it starts"))
    }
}

/// A sidecar of this test. Killed at the end, unless it was stopped.
struct Running(Child);

impl Running {
    /// Stops it in order, as an orchestrator does.
    async fn stop(mut self) {
        let told = Command::new("kill")
            .args(["-TERM", &self.0.id().to_string()])
            .status();
        assert!(told.expect("runs").success());
        let mut ended = None;
        eventually("it stops", async || {
            ended = self.0.try_wait().expect("can be asked");
            ended.is_some()
        })
        .await;
        assert!(ended.is_some_and(|ended| ended.success()), "{ended:?}");
    }

    fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whatever has ended already cannot be killed.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn answer(dev: &Dev, token: &str) -> Result<(), (Code, String)> {
    dev.call(Through::Plaintext, Some(token))
        .await
        .map(drop)
        .map_err(told)
}

async fn until_accepted(dev: &Dev, token: &str) {
    eventually("the token is accepted", async || answer(dev, token).await.is_ok()).await;
}

async fn until_cold(dev: &Dev, token: &str) {
    let cold = Err((Code::Unavailable, "TRUST_COLD".to_owned()));
    eventually("it refuses for want of trust", async || {
        answer(dev, token).await == cold
    })
    .await;
}

/// The verifier that the authority knows, if it knows one.
fn verifier(dev: &Dev) -> Option<Value> {
    dev.json(&["fleet"]).pointer("/verifiers/0").cloned()
}

#[tokio::test]
async fn a_sidecar_starts_from_a_file_while_the_authority_is_down() {
    let dev = start().await;
    let sidecar = Sidecar::of(&dev);
    let (revoked, kept) = (
        dev.token(&["--client", "billing"]),
        dev.token(&["--client", "billing"]),
    );
    dev.text(&["revoke", "token", &revoked]);
    let (file, keys) = (dev.path("trust"), dev.path("keys.json"));
    let (file, keys) = (file.to_str().expect("text"), keys.to_str().expect("text"));
    dev.text(&["trust", "export", "--out", file]);
    let again = dev.failed(&["trust", "export", "--out", file]);
    assert_eq!(again.exit, 1, "nothing is replaced without being told to");
    dev.text(&["trust", "export", "--out", file, "--force"]);
    let piped = dev.run(&["trust", "export", "--out", "-"]);
    assert!(piped.status.success() && piped.stderr.is_empty(), "{piped:?}");
    std::fs::write(file, piped.stdout).expect("it is written");
    dev.text(&["key", "publishing", "--out", keys]);

    dev.kill(dev.environment.processes.sidecar.pid).await;
    dev.kill(dev.environment.processes.authority.pid).await;
    std::fs::remove_dir_all(&sidecar.state).expect("removed");
    let alone = sidecar.run(&dev, "");
    until_cold(&dev, &kept).await;
    alone.kill();
    std::fs::remove_dir_all(&sidecar.state).expect("removed");

    let warm = sidecar.run(&dev, &format!("[trust]\nwarm_start = \"{file}\""));
    until_accepted(&dev, &kept).await;
    let refused = Err((Code::Unauthenticated, "TOKEN_REVOKED".to_owned()));
    assert_eq!(answer(&dev, &revoked).await, refused);
    warm.kill();
    // What was in the file is on disk.
    let later = sidecar.run(&dev, "");
    until_accepted(&dev, &kept).await;
    later.kill();
}

#[tokio::test]
async fn nobody_waits_for_a_sidecar_that_has_taken_leave() {
    let mut dev = start().await;
    let sidecar = Sidecar::of(&dev);
    let token = dev.token(&["--client", "billing"]);
    dev.kill(dev.environment.processes.sidecar.pid).await;
    let keeping = sidecar.run(&dev, "");
    until_accepted(&dev, &token).await;
    keeping.stop().await;
    let waited_for = dev.json(&["revoke", "subject", "client:dev.countersign.test/nobody"]);
    assert_eq!(
        (&waited_for["complete"], &waited_for["live"]),
        (&json!(false), &json!(1)),
        "what is on disk may be started from: {waited_for}"
    );

    let forgetting = sidecar.run(&dev, "[trust]\non_stop = \"forget\"");
    until_accepted(&dev, &token).await;
    forgetting.stop().await;
    let alone = dev.json(&["revoke", "subject", "client:dev.countersign.test/another"]);
    assert_eq!(
        (&alone["complete"], &alone["live"], &alone["by"]),
        (&json!(true), &json!(0), &Value::Null),
        "{alone}"
    );
    eventually("the authority has forgotten it", async || {
        verifier(&dev).is_none_or(|verifier| verifier["decides_until"].is_null())
    })
    .await;

    dev.kill(dev.environment.processes.authority.pid).await;
    let later = sidecar.run(&dev, "");
    until_cold(&dev, &token).await;
    let authority = dev.environment.processes.authority.config.clone();
    dev.restart(&[
        "run",
        "authority",
        "serve",
        "--config",
        authority.to_str().expect("text"),
    ]);
    until_accepted(&dev, &token).await;
    later.stop().await;
}
