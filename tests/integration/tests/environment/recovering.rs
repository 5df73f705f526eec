//! Yesterday's store put back under an authority (D17, F30, F61): nothing is un-revoked, and one command goes on.

use std::path::PathBuf;
use std::process::Command;

use countersign_harness::dev::{Dev, Through, told};
use countersign_harness::eventually;
use tonic::Code;

use crate::{PROGRAM, start};

/// The authority of an environment, to be stopped, robbed of its memory, and started.
struct Authority {
    config: String,
    store: PathBuf,
}

impl Authority {
    fn of(dev: &Dev) -> Self {
        let config = &dev.environment.processes.authority.config;
        Self {
            config: config.to_str().expect("text").to_owned(),
            store: dev.dir().join("authority/store.redb"),
        }
    }

    fn start(&self, dev: &mut Dev) {
        dev.restart(&["run", "authority", "serve", "--config", &self.config]);
    }

    fn recover(&self) -> (Option<i32>, String, String) {
        let recover = ["run", "authority", "recover", "--config", &self.config];
        let output = Command::new(PROGRAM).args(recover).output().expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

async fn refusal(dev: &Dev, token: &str) -> Option<(Code, String)> {
    let answer = dev.call(Through::Plaintext, Some(token)).await;
    answer.err().map(told)
}

async fn until_it_issues(dev: &Dev) -> String {
    eventually("a token is issued", async || {
        let output = dev.run(&["token", "get", "--client", "billing"]);
        output.status.success()
    })
    .await;
    dev.token(&["--client", "billing"])
}

#[tokio::test]
async fn a_restored_store_un_revokes_nothing_and_one_command_recovers_it() {
    let mut dev = start().await;
    let authority = Authority::of(&dev);
    let revoked = dev.token(&["--client", "billing"]);
    let kept = dev.token(&["--client", "billing"]);
    dev.text(&["key", "prepare"]);
    dev.text(&["key", "publishing", "prepare"]);

    dev.kill(dev.environment.processes.authority.pid).await;
    let backup = dev.path("yesterday.redb");
    std::fs::copy(&authority.store, &backup).expect("copied");
    authority.start(&mut dev);
    until_it_issues(&dev).await;
    let unasked = authority.recover();
    assert_eq!(unasked.0, Some(1), "the store is in use: {}", unasked.2);
    dev.text(&["revoke", "token", &revoked]);
    let is_revoked = Some((Code::Unauthenticated, "TOKEN_REVOKED".to_owned()));
    eventually("the revocation is in force", async || {
        refusal(&dev, &revoked).await == is_revoked
    })
    .await;

    dev.kill_last();
    std::fs::copy(&backup, &authority.store).expect("restored");
    let (exit, _, said) = authority.recover();
    assert_eq!(exit, Some(1), "{said}");
    assert!(
        said.contains("recovery_not_required"),
        "nobody has shown anything: {said}"
    );
    authority.start(&mut dev);
    eventually("the authority knows that it is behind", async || {
        let get = ["--json", "token", "get", "--client", "orders"];
        let output = dev.run(&get);
        String::from_utf8_lossy(&output.stderr).contains("recovery_required")
    })
    .await;
    // A rotation has a key to wait for, and does not.
    for change in [
        &["revoke", "token", &kept][..],
        &["key", "rotate", "--wait", "1m"],
        &["key", "publishing", "rotate", "--wait", "1m"],
    ] {
        assert_eq!(dev.failed(change).reason, "recovery_required", "{change:?}");
    }
    assert_eq!(refusal(&dev, &revoked).await, is_revoked, "no step back");
    assert_eq!(refusal(&dev, &kept).await, None, "within its budget");

    dev.kill_last();
    let (exit, told, said) = authority.recover();
    assert_eq!(exit, Some(0), "{said}");
    for expected in ["recovered: ", "withdrawn", "signs now", "enabled   orders"] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert!(said.contains("recover"), "the audit event: {said}");
    let (exit, _, said) = authority.recover();
    assert_eq!(exit, Some(1), "once: {said}");
    authority.start(&mut dev);
    let fresh = until_it_issues(&dev).await;
    eventually("it is accepted", async || refusal(&dev, &fresh).await.is_none()).await;
    for before in [&revoked, &kept] {
        let reason = refusal(&dev, before).await.map(|(_, reason)| reason);
        assert_eq!(reason.as_deref(), Some("KEY_REVOKED"));
    }
    dev.stop().await;
}
