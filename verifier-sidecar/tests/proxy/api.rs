//! The local API, on its socket and its port.

use std::os::unix::fs::PermissionsExt as _;

use countersign_core::names::CertificateThumbprint;
use countersign_core::spiffe::SpiffeId;
use countersign_proto::verify::v1::verify_response::Verdict;
use countersign_proto::verify::v1::verify_service_client::VerifyServiceClient;
use countersign_proto::verify::v1::{
    GetStatusRequest, VerifyBatchRequest, VerifyRequest, VerifyResponse, VerifyStreamRequest,
};
use countersign_verifier::test_util::{self, START, TRUST_DOMAIN, bound_claims, claims_bound_to};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::support::{ECHO, Setup, Sidecar, channel, eventually, reason};

fn tcp(sidecar: &Sidecar) -> VerifyServiceClient<Channel> {
    VerifyServiceClient::new(channel(sidecar.addresses.verify_grpc.expect("an address")))
}

pub(crate) fn unix(sidecar: &Sidecar) -> VerifyServiceClient<Channel> {
    let path = sidecar.addresses.verify_unix.clone().expect("a path");
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    VerifyServiceClient::new(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector))
}

pub(crate) fn request(token: &str, path: &str) -> VerifyRequest {
    VerifyRequest {
        token: token.to_owned(),
        path: path.to_owned(),
        ..VerifyRequest::default()
    }
}

fn verdict(response: tonic::Response<VerifyResponse>) -> Verdict {
    response.into_inner().verdict.expect("a verdict")
}

#[tokio::test]
async fn the_api_tells_what_a_good_token_says() {
    let sidecar = Sidecar::start().await;
    for mut client in [tcp(&sidecar), unix(&sidecar)] {
        let response = client
            .verify(request(&sidecar.token(), ECHO))
            .await
            .expect("an answer");
        assert_eq!(response.get_ref().epoch, 1);
        let Verdict::Allowed(allowed) = verdict(response) else {
            panic!("refused")
        };
        assert_eq!(allowed.subject, "client:test.example.com/orders");
        assert_eq!(
            (allowed.client_id.as_str(), allowed.audience.as_str()),
            ("orders", "demo")
        );
        assert_eq!(
            (allowed.token_id.as_str(), allowed.scopes),
            ("1.1", vec!["demo.call".to_owned()])
        );
        let expires = allowed.expires_at.expect("a time").seconds;
        assert_eq!(expires, i64::try_from(START + 900).expect("a time"));
        assert!(!allowed.open_method && !allowed.bound);
    }
}

/// The method's demands are those of the proxy; without a method, the token alone is judged.
#[tokio::test]
async fn the_api_judges_methods_as_the_proxy_does() {
    let sidecar = Sidecar::start().await;
    let mut client = tcp(&sidecar);
    let token = sidecar.token();
    let mut ask = async |token: &str, path: &str| match verdict(
        client.verify(request(token, path)).await.expect("an answer"),
    ) {
        Verdict::Allowed(allowed) => (if allowed.open_method { "open" } else { "allowed" }).to_owned(),
        Verdict::Refused(refused) => {
            format!("{} {} {}", refused.reason, refused.grpc_code, refused.http_status)
        }
    };
    assert_eq!(ask(&token, "").await, "allowed");
    assert_eq!(ask(&token, "/no.Such/Method").await, "allowed");
    assert_eq!(ask("", "/test.Open/Do").await, "open");
    assert_eq!(ask("", ECHO).await, "token_missing 16 401");
    assert_eq!(ask(&token, "/test.Admin/Do").await, "scope_insufficient 7 403");
    assert_eq!(ask(&token, "/test.Bound/Do").await, "cnf_missing 16 401");
    for path in ["x", "/", "//a.B/C", "/a.B/C?x", "*"] {
        assert_eq!(ask(&token, path).await, "request_malformed 3 400", "{path}");
    }
}

/// T85, by what the caller of the API says of the connection.
#[tokio::test]
async fn the_api_judges_bound_tokens_by_the_certificate_it_is_told() {
    let sidecar = Sidecar::start().await;
    let ours = CertificateThumbprint::new([1; 32]);
    let token = sidecar.issuer.token(&bound_claims("1.1", ours));
    let mut client = tcp(&sidecar);
    for (certificate, allowed) in [(vec![1; 32], true), (vec![2; 32], false), (Vec::new(), false)] {
        let request = VerifyRequest {
            peer_certificate_sha256: certificate,
            ..request(&token, "/test.Bound/Do")
        };
        let verdict = verdict(client.verify(request).await.expect("an answer"));
        assert_eq!(
            matches!(&verdict, Verdict::Allowed(allowed) if allowed.bound),
            allowed,
            "{verdict:?}"
        );
    }
}

/// The same by the SPIFFE ID in that certificate.
#[tokio::test]
async fn the_api_judges_bound_tokens_by_the_spiffe_id_it_is_told() {
    let sidecar = Sidecar::start().await;
    let [orders, billing] = ["orders", "billing"].map(|name| format!("spiffe://{TRUST_DOMAIN}/{name}"));
    let ours = SpiffeId::parse(&orders).expect("an id");
    let token = sidecar.issuer.token(&claims_bound_to("1.1", ours));
    let mut client = tcp(&sidecar);
    for (certificate, spiffe_id, allowed) in [
        (vec![1; 32], orders.as_str(), true),
        (vec![2; 32], orders.as_str(), true),
        (vec![1; 32], billing.as_str(), false),
        (vec![1; 32], "", false),
        (Vec::new(), "", false),
    ] {
        let request = VerifyRequest {
            peer_certificate_sha256: certificate,
            peer_spiffe_id: spiffe_id.to_owned(),
            ..request(&token, "/test.Bound/Do")
        };
        let verdict = verdict(client.verify(request).await.expect("an answer"));
        let told = match verdict {
            Verdict::Allowed(allowed) => allowed.bound.then(String::new),
            Verdict::Refused(refused) => Some(refused.reason),
        };
        let expected = if allowed { "" } else { "cnf_mismatch" };
        assert_eq!(told.as_deref(), Some(expected), "{spiffe_id}");
    }
}

/// A question that cannot be understood is an error, and no refusal.
#[tokio::test]
async fn contradictory_questions_are_errors() {
    let sidecar = Sidecar::start().await;
    let mut client = tcp(&sidecar);
    let both = VerifyRequest {
        authorization: vec![b"Bearer x".to_vec()],
        ..request(&sidecar.token(), ECHO)
    };
    let short = VerifyRequest {
        peer_certificate_sha256: vec![1; 31],
        ..request(&sidecar.token(), ECHO)
    };
    let named = |certificate: &[u8], spiffe_id: &str| VerifyRequest {
        peer_certificate_sha256: certificate.to_vec(),
        peer_spiffe_id: spiffe_id.to_owned(),
        ..request(&sidecar.token(), ECHO)
    };
    for (question, field) in [
        (both, "authorization"),
        (short, "peer_certificate_sha256"),
        (named(&[], "spiffe://prod.example.com/orders"), "peer_spiffe_id"),
        (named(&[1; 32], "spiffe://prod.example.com"), "peer_spiffe_id"),
        (named(&[1; 32], "orders"), "peer_spiffe_id"),
    ] {
        let status = client.verify(question).await.expect_err("contradictory");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(field), "{status:?}");
    }
    let huge = request(&"a".repeat(5_000_000), ECHO);
    assert!(client.verify(huge).await.is_err(), "over the cap of a message");
    let large = verdict(
        client
            .verify(request(&"a".repeat(8193), ECHO))
            .await
            .expect("an answer"),
    );
    assert!(matches!(large, Verdict::Refused(refused) if refused.reason == "token_too_large"));
}

/// G14: the cause is told, and what is taken instead.
#[tokio::test]
async fn compressed_questions_are_not_taken() {
    let sidecar = Sidecar::start().await;
    let mut request = tonic::Request::new(GetStatusRequest {});
    let gzip = "gzip".parse().expect("ASCII");
    request.metadata_mut().insert("grpc-encoding", gzip);
    let refused = tcp(&sidecar).get_status(request).await.expect_err("compressed");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unimplemented, "encoding_unsupported")
    );
    assert_eq!(
        refused.metadata().get("grpc-accept-encoding").expect("said"),
        "identity"
    );
}

#[tokio::test]
async fn the_status_tells_what_is_trusted() {
    let sidecar = Sidecar::cold(Setup::default()).await;
    let mut client = unix(&sidecar);
    let status = client
        .get_status(GetStatusRequest {})
        .await
        .expect("a status")
        .into_inner();
    assert_eq!(
        (status.epoch, status.freshness.as_str(), status.age_ms),
        (0, "cold", None)
    );
    assert_eq!(
        (status.issuer.as_str(), status.audience.as_str()),
        (test_util::ISSUER, "demo")
    );
    test_util::trust(
        &sidecar.trust,
        sidecar.issuer.state(5, [test_util::revoke_token("1.9")]),
    );
    sidecar.clock.advance(std::time::Duration::from_secs(61));
    let status = client
        .get_status(GetStatusRequest {})
        .await
        .expect("a status")
        .into_inner();
    assert_eq!((status.epoch, status.freshness.as_str()), (5, "stale"));
    assert_eq!(
        (status.age_ms, status.refuses_in_ms),
        (Some(61_000), Some(839_000))
    );
    assert_eq!(
        (status.keys, status.revocations, status.state_digest.len()),
        (1, 1, 32)
    );
    assert!(!status.connected);
}

/// G49: nobody but this user can connect, and what a dead process left behind is no obstacle.
#[tokio::test]
async fn the_socket_is_this_users_only() {
    let sidecar = Sidecar::start().await;
    let path = sidecar.addresses.verify_unix.clone().expect("a path");
    let mode = std::fs::metadata(&path).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let only: Vec<_> = std::fs::read_dir(path.parent().expect("a folder"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name.to_string_lossy().starts_with("verify"))
        .collect();
    assert_eq!(only, ["verify.sock"]);
    sidecar.stop().await;
    assert!(!path.exists(), "the socket goes with its process");
}

/// gRPC health follows the trust, for probes.
#[tokio::test]
async fn health_is_served_and_follows_the_trust() {
    let sidecar = Sidecar::cold(Setup::default()).await;
    let address = sidecar.addresses.verify_grpc.expect("an address");
    let check = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = HealthClient::new(channel(address)).check(request).await;
        answer.map(|answer| answer.into_inner().status())
    };
    eventually("not serving", async || {
        matches!(check("").await, Ok(ServingStatus::NotServing))
    })
    .await;
    test_util::trust(&sidecar.trust, sidecar.issuer.state(1, []));
    eventually("serving", async || {
        matches!(check("").await, Ok(ServingStatus::Serving))
    })
    .await;
    let named = check("countersign.verify.v1.VerifyService").await;
    assert!(matches!(named, Ok(ServingStatus::Serving)), "{named:?}");
    assert_eq!(check("nobody").await.expect_err("unknown").code(), Code::NotFound);
}

/// What is listed is what is served; the details of refusals can be read.
#[tokio::test]
async fn reflection_lists_what_the_api_serves_and_nothing_else() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let sidecar = Sidecar::start().await;
    let address = sidecar.addresses.verify_grpc.expect("an address");
    let asked = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("google.rpc.ErrorInfo".to_owned()),
    ];
    let asked = asked.map(|message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    });
    let answers = ServerReflectionClient::new(channel(address))
        .server_reflection_info(tokio_stream::iter(asked))
        .await;
    let mut answers = answers.expect("answers").into_inner();
    let listed = answers.message().await.expect("an answer").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(listed)) = listed.message_response else {
        panic!("no list: {listed:?}");
    };
    let mut names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "countersign.verify.v1.VerifyService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ]
    );
    let detail = answers.message().await.expect("an answer").expect("an answer");
    assert!(
        matches!(
            detail.message_response,
            Some(MessageResponse::FileDescriptorResponse(_))
        ),
        "{detail:?}"
    );
}

fn reasons(responses: impl IntoIterator<Item = VerifyResponse>) -> Vec<String> {
    let reason = |response: VerifyResponse| match response.verdict.expect("a verdict") {
        Verdict::Allowed(allowed) => allowed.token_id,
        Verdict::Refused(refused) => refused.reason,
    };
    responses.into_iter().map(reason).collect()
}

/// A batch is answered as its requests would be one by one, in their order; those that may be early wait together.
#[tokio::test]
async fn a_batch_is_answered_in_order() {
    let sidecar = Sidecar::start().await;
    let mut client = tcp(&sidecar);
    let stranger = test_util::TestIssuer::new("stranger").token(&test_util::claims("1.2"));
    let mut requests = Vec::new();
    let mut expected = Vec::new();
    for number in 0..100 {
        let token_id = format!("1.{number}");
        let token = sidecar.issuer.token(&test_util::claims(&token_id));
        requests.extend([request(&token, ECHO), request(&stranger, ECHO), request("", ECHO)]);
        expected.extend([token_id, "kid_unknown".to_owned(), "token_missing".to_owned()]);
    }
    let begun = tokio::time::Instant::now();
    let batch = VerifyBatchRequest { requests };
    let answers = client.verify_batch(batch).await.expect("answers").into_inner();
    assert_eq!(reasons(answers.responses), expected);
    // A hundred waits one after another would take twenty seconds.
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

/// A batch has a bound, and names the request that it does not understand.
#[tokio::test]
async fn a_batch_that_is_not_understood_is_an_error() {
    let sidecar = Sidecar::start().await;
    let mut client = tcp(&sidecar);
    let good = request(&sidecar.token(), ECHO);
    let bad = VerifyRequest {
        peer_certificate_sha256: vec![1],
        ..good.clone()
    };
    for (requests, field) in [
        (vec![], "requests"),
        (vec![good.clone(); 1025], "requests"),
        (vec![good, bad], "requests[1].peer_certificate_sha256"),
    ] {
        let status = client
            .verify_batch(VerifyBatchRequest { requests })
            .await
            .expect_err("not understood");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(field), "{status:?}");
    }
}

/// A stream is answered in order while requests come, and ends at the first that is not understood.
#[tokio::test]
async fn a_stream_is_answered_in_order() {
    let sidecar = Sidecar::start().await;
    let token = sidecar.token();
    let asked = |token: &str| VerifyStreamRequest {
        request: Some(request(token, ECHO)),
    };
    let mut requests: Vec<_> = (0..500)
        .map(|number| asked(if number % 2 == 0 { &token } else { "" }))
        .collect();
    requests.push(VerifyStreamRequest::default());
    requests.push(asked(&token));
    let stream = tokio_stream::iter(requests);
    let mut answers = unix(&sidecar)
        .verify_stream(stream)
        .await
        .expect("a stream")
        .into_inner();
    for number in 0..500 {
        let answer = answers.message().await.expect("an answer").expect("an answer");
        let expected = if number % 2 == 0 { "1.1" } else { "token_missing" };
        assert_eq!(reasons(answer.response), [expected]);
    }
    let end = answers.message().await.expect_err("the end");
    assert_eq!(end.code(), Code::InvalidArgument);
    assert!(end.message().contains("request"), "{end:?}");
}
