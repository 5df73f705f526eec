//! Streams that outlive the token they were opened with, because their caller presents another.

use countersign_core::names::{Scope, TokenId};
use countersign_proto::demo::v1::demo_service_client::DemoServiceClient;
use countersign_proto::demo::v1::{ExpandRequest, ExpandResponse};
use countersign_proto::stream::v1::stream_token_service_client::StreamTokenServiceClient;
use countersign_proto::stream::v1::{PresentRequest, PresentResponse};
use countersign_verifier::test_util::{self, revoke_token};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::support::{Sidecar, channel, claims_with, eventually, reason, with_token, within};

fn named<T>(message: T, token: &str, id: &'static str) -> tonic::Request<T> {
    let mut request = with_token(message, token);
    request
        .metadata_mut()
        .insert("x-countersign-stream-id", id.parse().expect("a value"));
    request
}

async fn open(
    mut client: DemoServiceClient<Channel>,
    token: &str,
    id: &'static str,
) -> Result<Streaming<ExpandResponse>, Status> {
    let request = ExpandRequest {
        message: "for ever".to_owned(),
        count: 0,
    };
    let opened = client.expand(named(request, token, id)).await?;
    Ok(opened.into_inner())
}

async fn present(sidecar: &Sidecar, token: &str, id: &'static str) -> Result<PresentResponse, Status> {
    present_on(channel(sidecar.plaintext()), token, id).await
}

async fn present_on(channel: Channel, token: &str, id: &'static str) -> Result<PresentResponse, Status> {
    let mut client = StreamTokenServiceClient::new(channel);
    let presented = client.present(named(PresentRequest {}, token, id)).await?;
    Ok(presented.into_inner())
}

/// A good token of that identifier.
fn token(sidecar: &Sidecar, id: &str) -> String {
    sidecar.issuer.token(&claims_with(|claims| {
        claims.token_id = TokenId::parse(id).expect("an identifier");
    }))
}

/// What the stream ends with.
async fn end(mut answers: Streaming<ExpandResponse>) -> Status {
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

/// I-29: the newer token is the one that keeps the stream open, and the one whose revocation ends it.
#[tokio::test]
async fn a_stream_goes_on_under_the_token_that_was_presented_last() {
    let sidecar = Sidecar::start().await;
    let (older, newer) = (token(&sidecar, "1.1"), token(&sidecar, "1.20"));
    let mut kept = open(sidecar.client(), &older, "feed").await.expect("a stream");
    let other = open(sidecar.client(), &older, "other").await.expect("a stream");
    let taken = present(&sidecar, &newer, "feed").await.expect("it is taken");
    assert_eq!(taken.streams, 1);

    test_util::trust(&sidecar.trust, sidecar.issuer.state(2, [revoke_token("1.1")]));
    assert_eq!(reason(&end(other).await), "token_revoked");
    let mut last = 0;
    eventually("a second and more of answers", async || {
        let answer = kept.message().await.expect("no error").expect("an answer");
        last = answer.index;
        last > 60
    })
    .await;
    let revoked = ["1.1", "1.20"].map(revoke_token);
    test_util::trust(&sidecar.trust, sidecar.issuer.state(3, revoked));
    let status = end(kept).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unauthenticated, "token_revoked")
    );
    let gone = present(&sidecar, &token(&sidecar, "1.300"), "feed").await;
    assert_eq!(reason(&gone.expect_err("it has ended")), "stream_unknown");

    let paths: Vec<_> = sidecar.service.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(
        paths.len(),
        2,
        "the service sees its own methods alone: {paths:?}"
    );
    let seen = sidecar.service.seen();
    let told = seen
        .iter()
        .any(|seen| seen.headers.contains_key("x-countersign-stream-id"));
    assert!(!told);
}

/// T18, G08: what is presented is judged as any token is, and refused with the same reasons.
#[tokio::test]
async fn what_is_no_good_is_not_taken() {
    let sidecar = Sidecar::start().await;
    let two = sidecar.issuer.token(&claims_with(|claims| {
        claims.scopes.push(Scope::parse("demo.more").expect("a scope"));
    }));
    let _open = open(sidecar.client(), &two, "feed").await.expect("a stream");
    let lesser = token(&sidecar, "1.20");
    let refusals = [
        ("x", "feed", Code::Unauthenticated, "token_malformed"),
        (&*lesser, "feed", Code::PermissionDenied, "scope_insufficient"),
        (&*two, "fee", Code::NotFound, "stream_unknown"),
        (&*two, "no/name", Code::InvalidArgument, "request_malformed"),
    ];
    for (token, id, code, expected) in refusals {
        let refused = present(&sidecar, token, id).await.expect_err(expected);
        assert_eq!((refused.code(), reason(&refused).as_str()), (code, expected));
    }
    let mut client = StreamTokenServiceClient::new(channel(sidecar.plaintext()));
    let unnamed = client.present(with_token(PresentRequest {}, &two)).await;
    assert_eq!(reason(&unnamed.expect_err("no name")), "request_malformed");
    let unnamed = open(sidecar.client(), &two, "no/name").await;
    assert_eq!(reason(&unnamed.expect_err("no name")), "request_malformed");
    let (_, metrics) = crate::admin::get(&sidecar, "/metrics").await;
    let counted = r#"countersign_decisions_total{decision="refused",reason="request_malformed"} 3"#;
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
    assert_eq!(present(&sidecar, &two, "feed").await.expect("good").streams, 1);
}

/// T85: a stream stays its connection's. Another certificate of the same client keeps nothing open there.
#[tokio::test]
async fn a_token_that_is_bound_to_another_certificate_is_not_taken() {
    let sidecar = Sidecar::start().await;
    let bound_to = |id, holder| {
        let claims = test_util::bound_claims(id, sidecar.pki.thumbprint(holder));
        sidecar.issuer.token(&claims)
    };
    let opened = bound_to("1.1", "orders");
    let _open = open(sidecar.tls_client("orders"), &opened, "feed")
        .await
        .expect("a stream");
    let others = bound_to("1.2", "billing");
    for holder in ["billing", "orders"] {
        let presented = present_on(sidecar.tls_channel(holder), &others, "feed").await;
        assert_eq!(reason(&presented.expect_err("not its holder")), "cnf_mismatch");
    }
    let own = bound_to("1.3", "orders");
    let taken = present_on(sidecar.tls_channel("orders"), &own, "feed").await;
    assert_eq!(taken.expect("it is taken").streams, 1);
}
