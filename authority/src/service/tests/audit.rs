//! The audit trail: what was done is in it, to whom, and whether or not the operator waited.

use std::sync::Arc;
use std::time::Duration;

use countersign_proto::admin::v1;
use countersign_proto::admin::v1::key_service_client::KeyServiceClient;
use countersign_proto::admin::v1::revoke_request::Subject;
use tonic::Request;

use super::stage::{NOBODY, ORDERS, Setting, SlowStore, Stage, ask};
use crate::store::memory::MemoryStore;
use crate::test_util::{Bench, Logs, START, client_id, registration};

/// The audit events of one action, each as actor, subject, outcome and reason.
fn events(logs: &Logs, action: &str) -> Vec<[String; 4]> {
    let text = logs.text();
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    lines
        .filter(|line: &serde_json::Value| line["target"] == "audit" && line["fields"]["action"] == action)
        .map(|line| {
            ["actor", "subject", "outcome", "reason"]
                .map(|field| line["fields"][field].as_str().expect("text").to_owned())
        })
        .collect()
}

fn everything() -> v1::RevokeRequest {
    let seconds = i64::try_from(START).expect("fits");
    v1::RevokeRequest {
        subject: Some(Subject::IssuedBefore(prost_types::Timestamp {
            seconds,
            nanos: 0,
        })),
        reason: "a test".to_owned(),
    }
}

/// I-24, G30: a change that has begun is made and written down, however its caller goes away, and also when the authority is
/// about to stop.
#[tokio::test(start_paused = true)]
async fn a_change_that_nobody_waits_for_is_written_down() {
    for leave in ["deadline", "reset", "limit"] {
        let logs = Logs::default();
        let _capturing = logs.capture();
        let store = SlowStore(MemoryStore::default(), Duration::from_secs(1));
        let stage = Stage::with(Setting {
            bench: Bench::over(Arc::new(store)),
            timeout: Duration::from_millis(500),
            ..Setting::default()
        })
        .await;
        let mut revocations = stage.revocations().await;
        let mut request = Request::new(everything());
        match leave {
            "deadline" => {
                request.set_timeout(Duration::from_millis(100));
                revocations.revoke(request).await.expect_err("is over");
            }
            "reset" => {
                let call = tokio::time::timeout(Duration::from_millis(100), revocations.revoke(request));
                call.await.expect_err("is dropped");
            }
            _ => {
                revocations.revoke(request).await.expect_err("takes too long");
            }
        }
        assert_eq!(stage.opened.ledger.books().trust.epoch(), 1, "is not made yet");
        stage.opened.ledger.close().await;
        assert_eq!(stage.opened.ledger.books().trust.epoch(), 2);
        let events = events(&logs, "revoke_everything");
        assert_eq!(events.len(), 1, "{leave}: {events:?}");
        assert_eq!(
            (events[0][2].as_str(), events[0][3].as_str()),
            ("done", ""),
            "{leave}"
        );
    }
}

/// I-41: who is refused again and again does not fill the disk, and takes nobody else's place.
#[tokio::test]
async fn a_storm_of_refusals_is_counted_and_not_written_down_one_by_one() {
    let logs = Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    let (mut tokens, mut sync) = (stage.tokens(NOBODY).await, stage.sync(NOBODY).await);
    let mut keys = KeyServiceClient::new(stage.connect(NOBODY).await);
    for _ in 0..100 {
        tokens.issue_token(ask()).await.expect_err("is refused");
        sync.sync(futures_util::stream::empty())
            .await
            .expect_err("is refused");
        let list = v1::ListKeysRequest::default();
        keys.list_keys(list).await.expect_err("is refused");
    }
    let count = || ["issue_token", "open_stream", "list_keys"].map(|action| events(&logs, action).len());
    assert_eq!(count().iter().sum::<usize>(), 100);
    assert_eq!(stage.bench.metrics.unaudited(), 200);
    let mut other = stage.tokens(ORDERS).await;
    other.issue_token(ask()).await.expect_err("is refused");
    let mut operator = stage.keys().await;
    operator
        .list_keys(v1::ListKeysRequest::default())
        .await
        .expect("lists");
    assert_eq!(count().iter().sum::<usize>(), 102);
}

/// Whom and what it was done to, also where the request leaves it to the authority to find out.
#[tokio::test]
async fn what_was_changed_is_named() {
    let logs = Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    let ledger = &stage.opened.ledger;
    let created = ledger.create_client(client_id("orders"), registration(Some("orders")), false);
    created.await.expect("creates");
    let issued = stage.tokens(ORDERS).await.issue_token(ask()).await;
    let token = issued.expect("issues").into_inner().access_token;
    let mut revocations = stage.revocations().await;
    let by_token = |token: String| v1::RevokeRequest {
        subject: Some(Subject::Token(token)),
        reason: String::new(),
    };
    let revoked = revocations.revoke(by_token(token.clone())).await;
    let token_id = revoked.expect("revokes").into_inner().token_id;
    revocations
        .revoke(by_token(format!("{token}x")))
        .await
        .expect_err("is not ours");
    revocations.revoke(everything()).await.expect("revokes");
    let subjects = |action| events(&logs, action).into_iter().map(|[_, subject, ..]| subject);
    assert_eq!(
        subjects("revoke_token").collect::<Vec<_>>(),
        [format!("{token_id} of orders"), "(a token)".to_owned()]
    );
    assert_eq!(
        subjects("revoke_everything").collect::<Vec<_>>(),
        [format!("issued before {START}")]
    );

    let mut keys = stage.keys().await;
    let prepared = keys.prepare_key(v1::PrepareKeyRequest::default()).await;
    let kid = prepared.expect("prepares").into_inner().key.expect("a key").kid;
    let activate = v1::ActivateKeyRequest::default();
    keys.activate_key(activate.clone()).await.expect("activates");
    keys.activate_key(activate).await.expect_err("there is none");
    assert_eq!(
        subjects("activate_key").collect::<Vec<_>>(),
        [kid.clone(), String::new()]
    );
    assert_eq!(subjects("prepare_key").collect::<Vec<_>>(), [kid]);
    assert!(!logs.text().contains(&token), "H11");
}
