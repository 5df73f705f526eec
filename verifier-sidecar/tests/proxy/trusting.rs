//! What the state of the trust means to callers: none, too old, newer than a moment ago.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::ports::Clock as _;
use countersign_proto::demo::v1::{EchoRequest, ExpandRequest};
use countersign_runtime::TimerClock;
use countersign_verifier::test_util::{self, REFUSE_AFTER, START};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{METHODS, Setup, Sidecar, claims_with, eventually, reason, with_token, within};

async fn echo(sidecar: &Sidecar, token: &str) -> Result<(), Status> {
    let echoed = sidecar
        .client()
        .echo(with_token(EchoRequest::default(), token))
        .await;
    echoed.map(drop)
}

/// F43: a cold sidecar is alive, refuses with a time to come back, and is ready as soon as it trusts.
#[tokio::test]
async fn a_cold_sidecar_is_unavailable_until_it_trusts() {
    let sidecar = Sidecar::cold(Setup::default()).await;
    let status = echo(&sidecar, &sidecar.token()).await.expect_err("cold");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "trust_cold")
    );
    assert!(status.get_details_retry_info().is_some());
    assert!(sidecar.service.seen().is_empty());
    test_util::trust(&sidecar.trust, sidecar.issuer.state(1, []));
    assert!(echo(&sidecar, &sidecar.token()).await.is_ok());
}

/// I-14: past the budget, calls are refused; and accepted again once the authority is heard.
#[tokio::test]
async fn a_stale_sidecar_is_unavailable_until_it_is_confirmed() {
    let sidecar = Sidecar::start().await;
    let token = sidecar.token();
    assert!(echo(&sidecar, &token).await.is_ok());
    sidecar.clock.advance(REFUSE_AFTER - Duration::from_secs(1));
    // The token has a second to live yet, and so has the trust.
    assert!(echo(&sidecar, &token).await.is_ok());
    sidecar.clock.advance(Duration::from_secs(1));
    let token = sidecar.issuer.token(&claims_with(|claims| {
        claims.issued_at = sidecar.clock.now();
        claims.not_before = None;
        claims.expires_at = claims.issued_at.saturating_add(Duration::from_secs(60));
    }));
    let status = echo(&sidecar, &token).await.expect_err("stale");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "trust_stale")
    );
    test_util::confirm(&sidecar.trust, Duration::from_secs(10));
    assert!(echo(&sidecar, &token).await.is_ok());
}

/// T91, K11: a revocation and a lost key count for the very next call, on an open connection.
#[tokio::test]
async fn a_revocation_counts_at_once() {
    let sidecar = Sidecar::start().await;
    let mut client = sidecar.client();
    let token = sidecar.token();
    client
        .echo(with_token(EchoRequest::default(), &token))
        .await
        .expect("good");
    test_util::trust(
        &sidecar.trust,
        sidecar.issuer.state(2, [test_util::revoke_token("1.1")]),
    );
    let status = client
        .echo(with_token(EchoRequest::default(), &token))
        .await
        .expect_err("revoked");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unauthenticated, "token_revoked")
    );
}

/// K16: a token that is ahead of its key waits for it, through the proxy.
#[tokio::test]
async fn a_call_ahead_of_its_key_waits_for_it() {
    let sidecar = Sidecar::cold(Setup::default()).await;
    test_util::trust(&sidecar.trust, test_util::TestIssuer::new("other").state(1, []));
    let token = sidecar.token();
    let arrival = async {
        // A call that is in the proxy and not decided is one that waits.
        eventually("the call", async || {
            metrics_have(&sidecar, "countersign_active_streams 1").await
        })
        .await;
        test_util::trust(&sidecar.trust, sidecar.issuer.state(2, []));
    };
    let (echoed, ()) = tokio::join!(echo(&sidecar, &token), arrival);
    echoed.expect("good");
    assert!(
        metrics_have(
            &sidecar,
            "countersign_epoch_waits_total{outcome=\"newer_epoch\"} 1"
        )
        .await
    );
}

async fn metrics_have(sidecar: &Sidecar, line: &str) -> bool {
    let (_, metrics) = super::admin::get(sidecar, "/metrics").await;
    metrics.lines().any(|has| has == line)
}

/// The answers of a stream until it is ended, and by which status.
async fn end_of_stream(sidecar: &Sidecar, token: &str, during: impl Future<Output = ()>) -> Status {
    let request = ExpandRequest {
        message: "for ever".to_owned(),
        count: 0,
    };
    let opened = sidecar.client().expand(with_token(request, token)).await;
    let mut answers = opened.expect("a stream").into_inner();
    answers.message().await.expect("no error").expect("an answer");
    during.await;
    within("the end", async {
        loop {
            match answers.message().await {
                Ok(answer) => assert!(answer.is_some(), "ended well"),
                Err(status) => return status,
            }
        }
    })
    .await
}

/// G32, I-29: a stream ends with the revocation of its token.
#[tokio::test]
async fn a_stream_ends_when_its_token_is_revoked() {
    let sidecar = Sidecar::start().await;
    let revocation = async {
        test_util::trust(
            &sidecar.trust,
            sidecar
                .issuer
                .state(2, [test_util::revoke_client("orders", START)]),
        );
    };
    let status = end_of_stream(&sidecar, &sidecar.token(), revocation).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unauthenticated, "client_revoked")
    );
}

/// G31, I-29: a stream ends with its token. Here a second of the clock is one of the test.
#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let setup = Setup {
        clock: Some(Arc::new(TimerClock::starting_at(Timestamp::from_seconds(START)))),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let token = sidecar.issuer.token(&claims_with(|claims| {
        claims.expires_at = Timestamp::from_seconds(START + 2)
    }));
    let status = end_of_stream(&sidecar, &token, async {}).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unauthenticated, "token_expired")
    );
}

/// G31, I-14, I-29: a stream of a strict method ends with the lease, although its token is good and other classes go on. Here a
/// second of the clock is one of the test.
#[tokio::test]
async fn a_stream_ends_when_the_trust_is_too_old_for_its_class() {
    let setup = Setup {
        clock: Some(Arc::new(TimerClock::starting_at(Timestamp::from_seconds(START)))),
        more: METHODS.to_owned() + STRICT,
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    test_util::confirm(&sidecar.trust, Duration::from_secs(2));
    let begun = Instant::now();
    let status = end_of_stream(&sidecar, &sidecar.token(), async {}).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "trust_stale")
    );
    let info = status.get_details_error_info().expect("an ErrorInfo");
    let told = ["stale", "class", "age"].map(|name| info.metadata[name].as_str());
    assert_eq!(told, ["revocations", "strict", "2s"]);
    assert!(status.get_details_retry_info().is_some());
    assert!(begun.elapsed() >= Duration::from_millis(1900), "not before");
    assert!(
        echo(&sidecar, &sidecar.token()).await.is_ok(),
        "a method of another class"
    );
}

/// The stream of the demo, in a class that is decided on nothing without a lease.
const STRICT: &str = r#"
[[method]]
path = "/countersign.demo.v1.DemoService/Expand"
class = "strict"
"#;

/// A stream of another client goes on when a client is revoked.
#[tokio::test]
async fn a_stream_goes_on_when_another_is_revoked() {
    let sidecar = Sidecar::start().await;
    let request = ExpandRequest {
        message: "for ever".to_owned(),
        count: 0,
    };
    let opened = sidecar
        .client()
        .expand(with_token(request, &sidecar.token()))
        .await;
    let mut answers = opened.expect("a stream").into_inner();
    test_util::trust(
        &sidecar.trust,
        sidecar
            .issuer
            .state(2, [test_util::revoke_client("billing", START)]),
    );
    let mut last = 0;
    eventually("a second and more of answers", async || {
        last = answers
            .message()
            .await
            .expect("no error")
            .expect("an answer")
            .index;
        last > 60
    })
    .await;
}
