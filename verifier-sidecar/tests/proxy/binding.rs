//! Tokens that are bound to a certificate, over TLS and without.

use std::time::Duration;

use countersign_proto::demo::v1::EchoRequest;
use countersign_verifier::test_util::bound_claims;
use tokio::io::AsyncReadExt as _;
use tonic::Code;

use crate::support::raw::{call, envelope, send};
use crate::support::{Sidecar, reason, with_token, within};

/// T85: only the holder of the certificate may use the token, and only where he shows it.
#[tokio::test]
async fn a_bound_token_is_its_holders_only() {
    let sidecar = Sidecar::start().await;
    let token = sidecar
        .issuer
        .token(&bound_claims("1.1", sidecar.pki.thumbprint("orders")));
    let echo = || with_token(EchoRequest::default(), &token);
    let answer = sidecar
        .tls_client("orders")
        .echo(echo())
        .await
        .expect("the holder");
    assert_eq!(answer.into_inner().caller.expect("a caller").client_id, "orders");
    for refused in [
        sidecar.tls_client("billing").echo(echo()).await,
        sidecar.client().echo(echo()).await,
    ] {
        let status = refused.expect_err("not the holder");
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unauthenticated, "cnf_mismatch")
        );
    }
    assert_eq!(sidecar.service.seen().len(), 1);
}

/// An unbound token is good on both.
#[tokio::test]
async fn an_unbound_token_needs_no_certificate() {
    let sidecar = Sidecar::start().await;
    for mut client in [sidecar.tls_client("billing"), sidecar.client()] {
        let answer = client
            .echo(with_token(EchoRequest::default(), &sidecar.token()))
            .await;
        assert!(answer.is_ok(), "{answer:?}");
    }
}

/// T86: a method may insist on a bound token.
#[tokio::test]
async fn a_method_may_insist_on_a_bound_token() {
    let sidecar = Sidecar::start().await;
    let request = call(sidecar.plaintext())
        .uri("http://service/test.Bound/Do")
        .header("authorization", format!("Bearer {}", sidecar.token()));
    let answer = send(sidecar.plaintext(), request, envelope(&EchoRequest::default()))
        .await
        .expect("an answer");
    assert_eq!(
        (answer.grpc_status(), answer.reason().as_str()),
        (Some(16), "cnf_missing")
    );
    assert!(sidecar.service.seen().is_empty());
}

/// RFC 9113, section 3.4: the server's settings are its preface, and callers over TLS may wait for them. Ours do, to hear whether their
/// certificate is refused.
#[tokio::test]
async fn over_tls_the_server_speaks_first() {
    let sidecar = Sidecar::start().await;
    let (tls, uri) = (sidecar.tls_of("orders"), sidecar.tls_uri());
    let connecting = tls.connect(&uri, Duration::from_secs(10));
    let mut stream = connecting.await.expect("a handshake");
    let mut frame = [0; 9];
    within("settings", stream.read_exact(&mut frame))
        .await
        .expect("a frame");
    assert_eq!(frame[3], 4, "SETTINGS");
}

/// S01: without a certificate there is no connection to the TLS listener.
#[tokio::test]
async fn the_tls_listener_wants_a_certificate() {
    let sidecar = Sidecar::start().await;
    let plaintext = send(
        sidecar.tls(),
        call(sidecar.tls()),
        envelope(&EchoRequest::default()),
    )
    .await;
    assert!(plaintext.is_err(), "{plaintext:?}");
    assert!(sidecar.service.seen().is_empty());
    let answer = sidecar
        .tls_client("orders")
        .echo(with_token(EchoRequest::default(), &sidecar.token()))
        .await;
    assert!(answer.is_ok(), "and goes on: {answer:?}");
}
