//! `countersign dev` as a user has it: real processes, real connections, the commands that it prints.

#![expect(clippy::expect_used, reason = "helpers of tests may panic as tests do")]

mod agent;
mod certificate;
mod coming_and_going;
mod crash;
mod drill;
mod outbound;
mod publishing;
mod reach;
mod recovering;
mod rotation;

use std::path::Path;

use countersign_harness::dev::{Dev, Through, is_running, told};
use countersign_harness::eventually;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

/// The command line.
const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign-under-test");

async fn start() -> Dev {
    Dev::start(Path::new(PROGRAM)).await
}

async fn start_in(folder: TempDir, more: &[&str]) -> Dev {
    Dev::start_in(Path::new(PROGRAM), folder, more).await
}

#[tokio::test]
async fn both_clients_get_tokens_and_call_through_both_listeners() {
    let dev = start().await;
    let orders = dev.token(&["--client", "orders"]);
    let billing = dev.token(&["--client", "billing"]);

    let caller = dev
        .call(Through::Tls("orders"), Some(&orders))
        .await
        .expect("allowed");
    assert_eq!(
        (caller.client_id.as_str(), caller.scopes.as_slice()),
        ("orders", &["demo.call".to_owned()][..])
    );
    assert_eq!(caller.subject, "client:dev.countersign.test/orders");
    let caller = dev
        .call(Through::Plaintext, Some(&billing))
        .await
        .expect("allowed");
    assert_eq!(caller.client_id, "billing");
    let caller = dev
        .call(Through::Tls("billing"), Some(&billing))
        .await
        .expect("allowed: it is bound to nothing");
    assert_eq!(caller.client_id, "billing");

    let refused = |token: Option<String>, through| {
        let dev = &dev;
        async move { told(dev.call(through, token.as_deref()).await.expect_err("refused")) }
    };
    let unauthenticated = |reason: &str| (Code::Unauthenticated, reason.to_owned());
    for through in [Through::Plaintext, Through::Tls("billing")] {
        assert_eq!(refused(None, through).await, unauthenticated("TOKEN_MISSING"));
        // T85: a token is accepted only from the holder of the certificate that it is bound to.
        assert_eq!(
            refused(Some(orders.clone()), through).await,
            unauthenticated("CNF_MISMATCH")
        );
        let other = dev.token(&["--client", "billing", "--audience", "warehouse"]);
        assert_eq!(
            refused(Some(other), through).await,
            unauthenticated("AUD_MISMATCH")
        );
        let lacking = dev.token(&["--client", "billing", "--scope", "demo.other"]);
        let reason = (Code::PermissionDenied, "SCOPE_INSUFFICIENT".to_owned());
        assert_eq!(refused(Some(lacking), through).await, reason);
    }
    dev.stop().await;
}

#[tokio::test]
async fn the_commands_show_the_same_to_people_and_programs() {
    let dev = start().await;
    let json = dev.json(&["token", "get", "--client", "orders"]);
    assert_eq!(
        (&json["token_type"], &json["audience"]),
        (&json!("Bearer"), &json!("demo"))
    );
    assert_eq!(json["expires_in"], 900);

    let fleet = dev.json(&["fleet"]);
    let verifiers = fleet["verifiers"].as_array().expect("a list");
    assert_eq!(verifiers.len(), 1);
    assert_eq!(verifiers[0]["connected"], true);
    assert_eq!(
        verifiers[0]["spiffe_id"],
        "spiffe://dev.countersign.test/countersign/sidecar/demo"
    );
    assert!(dev.text(&["fleet"]).contains("VERIFIER"));

    let status = dev.json(&["status"]);
    assert_eq!(status["healthy"], true, "{status}");
    assert_eq!(status["trust"]["connected"], true);

    let clients = dev.json(&["client", "list"]);
    let ids: Vec<&str> = clients
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|c| c["client_id"].as_str())
        .collect();
    assert_eq!(ids, ["billing", "orders"]);
    assert!(dev.text(&["client", "show", "orders"]).contains("service/orders"));

    let keys = dev.json(&["key", "list"]);
    assert_eq!(keys["keys"][0]["state"], "active");
    let publishing: Value = serde_json::from_str(&dev.text(&["key", "publishing"])).expect("a JWK Set");
    assert_eq!(publishing["keys"][0]["crv"], "Ed25519");

    let token = dev.token(&["--client", "billing"]);
    let report = dev.json(&["token", "inspect", &token]);
    assert_eq!(report["verdict"], "good", "{report}");
    assert!(
        report["trust"]
            .as_str()
            .is_some_and(|trust| trust.contains("epoch"))
    );
    let lacking = dev.token(&["--client", "billing", "--scope", "demo.other"]);
    let inspected = dev.failed(&["token", "inspect", &lacking]);
    assert_eq!(
        (inspected.exit, inspected.reason.as_str()),
        (3, "scope_insufficient")
    );
    dev.stop().await;
}

/// Registers the client `reports` with a secret, in the file that is answered.
fn register_reports(dev: &Dev) -> (String, Value) {
    let secret = dev.path("secret-of-reports").to_str().expect("text").to_owned();
    let create = [
        "client",
        "create",
        "reports",
        "--grant",
        "demo=demo.call,demo.other",
        "--default",
        "demo=demo.call",
        "--with-secret",
        "--secret-file",
        &secret,
    ];
    let created = dev.json(&create);
    (secret, created)
}

#[tokio::test]
async fn a_client_lives_its_life_by_command_line() {
    let dev = start().await;
    // A secret that could not be handed over is not made, and nor is its client.
    let nowhere = dev.path("no-such-folder/secret");
    let nowhere = nowhere.to_str().expect("text");
    let grant = ["--grant", "demo=demo.call"];
    let lost = [
        &["client", "create", "lost"][..],
        &grant,
        &["--with-secret", "--secret-file", nowhere],
    ];
    assert_eq!(dev.failed(&lost.concat()).exit, 1);
    assert_eq!(dev.failed(&["client", "show", "lost"]).reason, "client_unknown");

    let (secret, created) = register_reports(&dev);
    assert_eq!(created["grants"][0]["default_scopes"], json!(["demo.call"]));
    assert!(created.get("client_secret").is_none(), "it is in the file");
    let again = dev.failed(&["client", "create", "reports", "--grant", "demo=demo.call"]);
    assert_eq!((again.exit, again.reason.as_str()), (1, "client_exists"));
    let get = ["--client", "reports", "--secret-file", &secret];
    let token = dev.token(&get);
    dev.call(Through::Plaintext, Some(&token)).await.expect("allowed");

    let updated = dev.json(&["client", "update", "reports", "--description", "monthly"]);
    assert_eq!(updated["description"], "monthly");
    assert_eq!(updated["grants"], created["grants"], "what is not named stays");

    dev.text(&["client", "disable", "reports"]);
    let refused = dev.failed(&[&["token", "get"][..], &get].concat());
    assert_eq!((refused.exit, refused.reason.as_str()), (3, "invalid_client"));
    eventually("its tokens are refused", async || {
        let answer = dev.call(Through::Plaintext, Some(&token)).await;
        answer.is_err_and(|status| told(status) == (Code::Unauthenticated, "CLIENT_REVOKED".to_owned()))
    })
    .await;
    dev.text(&["client", "enable", "reports"]);
    dev.token(&get);
    dev.text(&["client", "delete", "reports", "--yes"]);
    assert_eq!(
        dev.failed(&["client", "show", "reports"]).reason,
        "client_unknown"
    );
    dev.stop().await;
}

#[tokio::test]
async fn two_secrets_overlap_and_no_more() {
    let dev = start().await;
    let (first, _) = register_reports(&dev);
    let first = ["--client", "reports", "--secret-file", &first];
    let second = dev.path("second");
    let bare = dev.text(&["client", "secret", "add", "reports"]);
    std::fs::write(&second, &bare).expect("written");
    let second = [
        "--client",
        "reports",
        "--secret-file",
        second.to_str().expect("text"),
    ];
    dev.token(&first);
    dev.token(&second);
    assert_eq!(
        dev.failed(&["client", "secret", "add", "reports"]).reason,
        "too_many_secrets"
    );
    let shown = dev.json(&["client", "show", "reports"]);
    assert_eq!(shown["secrets"].as_array().map(Vec::len), Some(2));
    assert!(!shown.to_string().contains(bare.trim()), "a secret is shown once");
    let oldest = shown["secrets"][0]["secret_id"].as_str().expect("an identifier");
    dev.text(&["client", "secret", "retire", "reports", oldest]);
    let refused = dev.failed(&[&["token", "get"][..], &first].concat());
    assert_eq!((refused.exit, refused.reason.as_str()), (3, "invalid_client"));
    dev.token(&second);
    dev.stop().await;
}

#[tokio::test]
async fn a_rotation_loses_no_call_and_a_revocation_is_in_force_when_it_is_answered() {
    let dev = start().await;
    let before = dev.token(&["--client", "billing"]);
    let old = dev.json(&["key", "list"])["keys"][0]["kid"].clone();
    let rotated = dev.json(&["key", "rotate"]);
    assert_eq!(rotated["previous"], old);
    assert_eq!(rotated["verifiers"], 1);
    let after = dev.token(&["--client", "billing"]);
    let report = dev.json(&["token", "inspect", &after]);
    assert_eq!(report["header"]["kid"], rotated["kid"]);
    for token in [&before, &after] {
        dev.call(Through::Plaintext, Some(token)).await.expect("allowed");
    }

    let revoked = dev.json(&["revoke", "token", &before]);
    assert_eq!(
        (&revoked["complete"], &revoked["in_force"]),
        (&json!(true), &json!(1)),
        "{revoked}"
    );
    let refusal = told(
        dev.call(Through::Plaintext, Some(&before))
            .await
            .expect_err("refused"),
    );
    assert_eq!(refusal, (Code::Unauthenticated, "TOKEN_REVOKED".to_owned()));
    dev.call(Through::Plaintext, Some(&after))
        .await
        .expect("the other one is not");

    dev.text(&["revoke", "client", "billing"]);
    let refusal = told(
        dev.call(Through::Plaintext, Some(&after))
            .await
            .expect_err("refused"),
    );
    assert_eq!(refusal, (Code::Unauthenticated, "CLIENT_REVOKED".to_owned()));
    let listed = dev.json(&["revoke", "list"]);
    assert_eq!(listed["total"], 2, "{listed}");

    let compromised = rotated["kid"].as_str().expect("a key");
    let orders = dev.token(&["--client", "orders"]);
    dev.text(&["key", "compromise", compromised, "--reason", "a test", "--yes"]);
    eventually("tokens of the compromised key are refused", async || {
        let answer = dev.call(Through::Tls("orders"), Some(&orders)).await;
        answer.is_err_and(|status| told(status).1 == "KEY_REVOKED")
    })
    .await;
    let fresh = dev.token(&["--client", "orders"]);
    dev.call(Through::Tls("orders"), Some(&fresh))
        .await
        .expect("another key signs at once");
    dev.stop().await;
}

#[tokio::test]
async fn an_outage_of_the_authority_is_not_one_of_the_calls() {
    let mut dev = start().await;
    let good = dev.token(&["--client", "orders"]);
    let revoked = dev.token(&["--client", "billing"]);
    dev.text(&["revoke", "token", &revoked]);
    let as_before = async |dev: &Dev| {
        eventually("a good token passes", async || {
            dev.call(Through::Tls("orders"), Some(&good)).await.is_ok()
        })
        .await;
        let refusal = told(
            dev.call(Through::Plaintext, Some(&revoked))
                .await
                .expect_err("refused"),
        );
        assert_eq!(refusal, (Code::Unauthenticated, "TOKEN_REVOKED".to_owned()));
    };

    dev.kill(dev.environment.processes.authority.pid).await;
    let unreachable = dev.run(&["token", "get", "--client", "orders"]);
    assert_eq!(
        unreachable.status.code(),
        Some(4),
        "{}",
        String::from_utf8_lossy(&unreachable.stderr)
    );
    as_before(&dev).await;
    dev.said("run authority serve --config").await;

    dev.kill(dev.environment.processes.sidecar.pid).await;
    let config = dev.environment.processes.sidecar.config.clone();
    dev.restart(&["run", "sidecar", "--config", config.to_str().expect("text")]);
    as_before(&dev).await;
    assert_eq!(dev.failed(&["status"]).exit, 4);

    let config = dev.environment.processes.authority.config.clone();
    dev.restart(&[
        "run",
        "authority",
        "serve",
        "--config",
        config.to_str().expect("text"),
    ]);
    eventually("the sidecar follows the authority again", async || {
        let fleet = dev.run(&["--json", "fleet"]);
        let fleet: Value = serde_json::from_slice(&fleet.stdout).unwrap_or_default();
        fleet["verifiers"][0]["up_to_date"] == true
    })
    .await;
    as_before(&dev).await;
    let late = dev.token(&["--client", "billing"]);
    dev.call(Through::Plaintext, Some(&late)).await.expect("allowed");
    let revoked = dev.json(&["revoke", "token", &late]);
    assert_eq!(revoked["in_force"], 1, "{revoked}");
    assert_eq!(
        told(
            dev.call(Through::Plaintext, Some(&late))
                .await
                .expect_err("refused")
        )
        .1,
        "TOKEN_REVOKED"
    );
    dev.stop().await;
}

#[tokio::test]
async fn a_restart_finds_everything_as_it_was() {
    let dev = start().await;
    let first = dev.environment.clone();
    let revoked = dev.token(&["--client", "billing"]);
    dev.text(&["revoke", "token", &revoked]);
    let kept = dev.token(&["--client", "orders"]);
    let second = dev.second_run();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("runs already"));
    let folder = dev.stop().await;
    assert!(
        !folder.path().join("dev/dev.json").exists(),
        "what is not there is not said to be"
    );

    let dev = start_in(folder, &[]).await;
    let mut again = dev.environment.clone();
    again.processes = first.processes.clone();
    assert_eq!(again, first, "the same but for the processes");
    dev.call(Through::Tls("orders"), Some(&kept))
        .await
        .expect("the certificate and the key are the same");
    let refusal = told(
        dev.call(Through::Plaintext, Some(&revoked))
            .await
            .expect_err("refused"),
    );
    assert_eq!(refusal.1, "TOKEN_REVOKED");
    dev.token(&["--client", "billing"]);
    let folder = dev.stop().await;

    let dev = start_in(folder, &["--reset"]).await;
    let refusal = told(
        dev.call(Through::Tls("orders"), Some(&kept))
            .await
            .expect_err("refused"),
    );
    assert_eq!(refusal.1, "KID_UNKNOWN");
    dev.stop().await;
}

/// The program is built anew while an environment starts, and again while it runs: all parts are of the build that was
/// started, and what is printed names the file where the next build is.
#[tokio::test]
async fn a_program_that_is_replaced_goes_on_as_it_was_started() {
    // Where a link to the program can be made. A copy could not be executed while another thread forks.
    let builds = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let program = builds.path().join("countersign");
    std::fs::hard_link(PROGRAM, &program).expect("linked");
    let mut dev = Dev::start_by(Path::new(PROGRAM), &program, || {
        std::fs::remove_file(&program).expect("removed");
        std::fs::write(&program, "not finished yet").expect("written");
    })
    .await;
    dev.token(&["--client", "billing"]);
    let printed = program.display().to_string();
    assert!(
        dev.output().contains(&format!("\n{printed} key rotate")),
        "{}",
        dev.output()
    );

    std::fs::remove_file(&program).expect("removed");
    dev.kill(dev.environment.processes.authority.pid).await;
    let command = format!("{printed} run authority serve --config ");
    dev.said(&format!("with\n  {command}")).await;
    assert!(!dev.output().contains("(deleted)"), "{}", dev.output());

    std::fs::hard_link(PROGRAM, &program).expect("linked");
    let said = dev.output();
    let line = said.lines().rfind(|line| line.trim_start().starts_with(&command));
    dev.restart_as_told(line.expect("it was said"));
    eventually("the authority answers again", async || {
        dev.run(&["token", "get", "--client", "billing"]).status.success()
    })
    .await;
    dev.stop().await;
}

#[tokio::test]
async fn no_orphan_stays_when_dev_itself_is_killed() {
    let dev = start().await;
    let processes = dev.environment.processes.clone();
    let pids = [processes.authority.pid, processes.sidecar.pid, processes.demo.pid];
    assert!(pids.into_iter().all(is_running));
    let folder = dev.kill_supervisor();
    eventually("the parts have gone too", async || {
        !pids.into_iter().any(is_running)
    })
    .await;
    // And the folder is free for the next run, at once.
    let dev = start_in(folder, &[]).await;
    dev.token(&["--client", "billing"]);
    dev.stop().await;
}

#[tokio::test]
async fn secrets_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let dev = start().await;
    let environment = &dev.environment;
    let clients = &environment.clients;
    for path in [
        &clients.billing.secret_file,
        &clients.billing.key,
        &clients.orders.key,
        &environment.operator.key,
    ] {
        let mode = std::fs::metadata(path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    let mode = std::fs::metadata(dev.dir()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // Nothing that runs writes a token or a secret down.
    let token = dev.token(&["--client", "billing"]);
    dev.call(Through::Plaintext, Some(&token)).await.expect("allowed");
    let signature = token.rsplit('.').next().expect("a signature").to_owned();
    let secret = std::fs::read_to_string(&clients.billing.secret_file).expect("there");
    let logs = dev.dir().join("logs");
    let folder = dev.stop().await;
    for entry in std::fs::read_dir(&logs).expect("logs") {
        let text = std::fs::read_to_string(entry.expect("a log").path()).expect("text");
        assert!(!text.contains(&signature) && !text.contains(secret.trim()));
    }
    drop(folder);
}
