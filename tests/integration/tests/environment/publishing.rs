//! The publishing key is replaced while everything runs, while a sidecar is away, and over restarts of both sides (K11, K12, F30).

use std::path::PathBuf;

use countersign_harness::dev::{Dev, Through, told};
use countersign_harness::eventually;

use crate::start;

/// The sidecar of an environment, to be killed and started again.
struct Sidecar {
    config: String,
    state: PathBuf,
    pinned: PathBuf,
}

impl Sidecar {
    fn of(dev: &Dev) -> Self {
        let config = &dev.environment.processes.sidecar.config;
        Self {
            config: config.to_str().expect("text").to_owned(),
            state: dev.dir().join("sidecar/trust"),
            pinned: dev.dir().join("publishing-keys.json"),
        }
    }

    fn start(&self, dev: &mut Dev) {
        dev.restart(&["run", "sidecar", "--config", &self.config]);
    }
}

fn rotate(dev: &Dev) -> String {
    dev.text(&["key", "publishing", "rotate", "--wait", "20s"])
}

/// With nobody there to wait for.
fn rotate_at_once(dev: &Dev) {
    dev.text(&[
        "key",
        "publishing",
        "rotate",
        "--wait",
        "0s",
        "--force",
        "a sidecar is away",
    ]);
}

/// The sidecar hears the authority, and believes it: what is revoked now is refused there.
async fn follows(dev: &Dev, what: &str) {
    let token = dev.token(&["--client", "billing"]);
    eventually(&format!("{what}: a token is accepted"), async || {
        dev.call(Through::Plaintext, Some(&token)).await.is_ok()
    })
    .await;
    dev.text(&["revoke", "token", &token]);
    eventually(&format!("{what}: a revocation is in force"), async || {
        let answer = dev.call(Through::Plaintext, Some(&token)).await;
        answer
            .err()
            .is_some_and(|status| told(status).1 == "TOKEN_REVOKED")
    })
    .await;
}

#[tokio::test]
async fn the_publishing_key_is_replaced_while_everything_runs() {
    let mut dev = start().await;
    let pinned = dev.text(&["key", "publishing"]);
    let steady = dev.token(&["--client", "billing"]);
    for rotation in 1..=2 {
        let said = rotate(&dev);
        assert!(
            said.contains(&format!("generation {}", 1 + 2 * rotation)),
            "{said}"
        );
        assert!(dev.call(Through::Plaintext, Some(&steady)).await.is_ok());
        follows(&dev, "after a rotation").await;
    }
    assert_ne!(dev.text(&["key", "publishing", "show"]), pinned);
    dev.restart_authority();
    eventually("the authority is back", async || {
        dev.run(&["key", "publishing", "prepare"]).status.success()
    })
    .await;
    follows(&dev, "after the authority was killed").await;
    // What was prepared before the crash is gone on with.
    let said = rotate(&dev);
    assert!(said.contains("generation 7"), "{said}");
    follows(&dev, "after what was broken off").await;
    dev.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_was_away_follows_through_two_rotations_whatever_it_pins() {
    let mut dev = start().await;
    let sidecar = Sidecar::of(&dev);
    follows(&dev, "at first").await;
    dev.kill(dev.environment.processes.sidecar.pid).await;
    rotate_at_once(&dev);
    rotate_at_once(&dev);

    sidecar.start(&mut dev);
    follows(&dev, "two rotations later, with the disk of before").await;
    dev.kill_last();
    sidecar.start(&mut dev);
    follows(&dev, "from the disk, with the links on it").await;
    dev.kill_last();

    std::fs::remove_dir_all(&sidecar.state).expect("there was a disk");
    sidecar.start(&mut dev);
    follows(&dev, "with an empty disk and the first pin").await;
    dev.kill_last();

    std::fs::remove_dir_all(&sidecar.state).expect("there was a disk");
    let new = dev.text(&["key", "publishing"]);
    std::fs::write(&sidecar.pinned, new).expect("the pin is written");
    sidecar.start(&mut dev);
    follows(&dev, "with an empty disk and the pin of now").await;
    // The verifiers of the disks that were removed may still decide, for all that the authority knows.
    let waits = dev.failed(&["key", "publishing", "rotate", "--wait", "0s"]);
    assert_eq!(waits.exit, 4, "{waits:?}");
    rotate_at_once(&dev);
    follows(&dev, "on from the pin of now").await;
    dev.stop().await;
}
