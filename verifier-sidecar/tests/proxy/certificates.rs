//! A listener on which callers may have a certificate, and need not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_core::Timestamp;
use countersign_core::claims::Claims;
use countersign_core::names::Scope;
use countersign_mtls::{ClientTls, ExpectedServer};
use countersign_proto::demo::v1::EchoRequest;
use countersign_verifier::test_util::{START, SetClock, bound_claims};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::raw::{Answer, call, envelope, send_over};
use crate::support::{METHODS, Setup, Sidecar, claims_with};

/// The listener that a test adds.
const OPTIONAL: usize = 3;

async fn sidecar(more: &str) -> Sidecar {
    let listener = r#"
[[listener]]
address = "127.0.0.1:0"
tls = { certificate = "sidecar.crt", private_key = "sidecar.key", trust_roots = "ca.crt" }
client_certificates = "optional"
"#;
    let setup = Setup {
        more: format!("{METHODS}{listener}{more}"),
        ..Setup::default()
    };
    Sidecar::with(setup).await
}

fn request(sidecar: &Sidecar, path: &str, token: Option<&str>) -> http::request::Builder {
    let request = call(sidecar.addresses.listeners[OPTIONAL]).uri(format!("https://service{path}"));
    match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    }
}

const ECHO: &str = crate::support::ECHO;

/// What a call is answered whose caller shows no certificate.
async fn without(sidecar: &Sidecar, path: &str, token: Option<&str>) -> Answer {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(sidecar.pki.folder().join("ca.crt")).expect("a root");
    roots.add(root).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(sidecar.addresses.listeners[OPTIONAL]).await;
    let name = ServerName::try_from("localhost").expect("a name");
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, tcp.expect("connected"));
    let stream = connecting.await.expect("a handshake");
    let answer = send_over(stream, request(sidecar, path, token), message());
    answer.await.expect("an answer")
}

/// The same where it shows the certificate of `name`.
async fn with(sidecar: &Sidecar, name: &str, path: &str, token: Option<&str>) -> Answer {
    let files = sidecar.pki.files(name);
    let tls = ClientTls::load(&files, ExpectedServer::default(), SetClock::new()).expect("TLS");
    let uri = format!("https://{}", sidecar.addresses.listeners[OPTIONAL]);
    let stream = tls
        .connect(&uri, Duration::from_secs(10))
        .await
        .expect("connected");
    let answer = send_over(stream, request(sidecar, path, token), message());
    answer.await.expect("an answer")
}

fn message() -> Bytes {
    envelope(&EchoRequest::default())
}

/// T85, T86: what is bound to a certificate needs it, and the rest does not.
#[tokio::test]
async fn a_bound_token_needs_its_certificate_where_certificates_are_optional() {
    let sidecar = sidecar("disclose_reasons = true\n").await;
    let unbound = sidecar.token();
    let bound = sidecar
        .issuer
        .token(&bound_claims("1.1", sidecar.pki.thumbprint("orders")));
    for (shows, token, path, expected) in [
        (None, &unbound, ECHO, ""),
        (Some("billing"), &unbound, ECHO, ""),
        (Some("orders"), &bound, ECHO, ""),
        (None, &bound, ECHO, "cnf_mismatch"),
        (Some("billing"), &bound, ECHO, "cnf_mismatch"),
        (None, &unbound, "/test.Bound/Do", "cnf_missing"),
        (Some("orders"), &unbound, "/test.Bound/Do", "cnf_missing"),
        (None, &bound, "/test.Bound/Do", "cnf_mismatch"),
    ] {
        let answer = match shows {
            None => without(&sidecar, path, Some(token)).await,
            Some(name) => with(&sidecar, name, path, Some(token)).await,
        };
        if expected.is_empty() {
            assert_eq!(answer.grpc_status(), Some(0), "{shows:?} {path}: {answer:?}");
        } else {
            assert_eq!(answer.reason(), expected, "{shows:?} {path}");
        }
    }
    assert_eq!(sidecar.service.seen().len(), 3);
}

/// I-17: whoever shows nothing is told nothing but the class, in the same bytes for all of it; whoever is known is told why.
#[tokio::test]
async fn reasons_are_for_those_who_show_a_certificate() {
    let sidecar = sidecar("").await;
    let token = |change: fn(&mut Claims)| sidecar.issuer.token(&claims_with(change));
    let bound = sidecar
        .issuer
        .token(&bound_claims("1.1", sidecar.pki.thumbprint("orders")));
    let expired = token(|claims| {
        claims.issued_at = Timestamp::from_seconds(START - 60);
        claims.not_before = None;
        claims.expires_at = Timestamp::from_seconds(START);
    });
    let refused = [
        (bound, "cnf_mismatch"),
        (expired, "token_expired"),
        ("x.y.z".to_owned(), ""),
        (format!("{}x", sidecar.token()), ""),
    ];
    let mut told = Vec::new();
    for (token, reason) in &refused {
        let answer = without(&sidecar, ECHO, Some(token)).await;
        assert_eq!(answer.reason(), "invalid_token", "the class");
        told.push((
            answer.status,
            answer.headers,
            answer.body,
            answer.trailers.is_some(),
        ));
        let known = with(&sidecar, "billing", ECHO, Some(token)).await;
        assert_ne!(known.reason(), "invalid_token", "the reason");
        if !reason.is_empty() {
            assert_eq!(known.reason(), *reason);
        }
    }
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:?}");
    let poor = token(|claims| claims.scopes = vec![Scope::parse("other").expect("a scope")]);
    assert_eq!(
        without(&sidecar, ECHO, Some(&poor)).await.reason(),
        "insufficient_scope"
    );
    assert_eq!(
        with(&sidecar, "orders", ECHO, Some(&poor)).await.reason(),
        "scope_insufficient"
    );
    assert!(sidecar.service.seen().is_empty());
}
