//! Envoy's external authorization, on its port and its socket.

use std::collections::BTreeSet;

use bytes::Bytes;
use countersign_mtls::{ChannelOptions, ClientTls, ExpectedServer, TlsFiles};
use countersign_proto::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use countersign_proto::envoy::service::auth::v3::check_response::HttpResponse;
use countersign_proto::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use countersign_verifier::test_util::SetClock;
use http::Request;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::envoy::{client, denied, question};
use crate::support::pki::Pki;
use crate::support::raw::{call, envelope, send};
use crate::support::{METHODS, Setup, Sidecar, channel, eventually};

/// The service's name.
const SERVICE: &str = "envoy.service.auth.v3.Authorization";

fn unix(sidecar: &Sidecar) -> AuthorizationClient<Channel> {
    let path = sidecar.addresses.ext_authz_unix.clone().expect("a path");
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    AuthorizationClient::new(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector))
}

/// A good call, and the same without its token.
fn calls(sidecar: &Sidecar) -> (CheckRequest, CheckRequest) {
    let good = call(sidecar.plaintext()).header("authorization", format!("Bearer {}", sidecar.token()));
    (question(good), question(call(sidecar.plaintext())))
}

#[tokio::test]
async fn envoy_asks_on_a_port_and_on_a_socket() {
    let sidecar = Sidecar::start().await;
    let (good, bad) = calls(&sidecar);
    for mut asking in [client(&sidecar), unix(&sidecar)] {
        let answer = asking.check(good.clone()).await.expect("an answer").into_inner();
        let Some(HttpResponse::OkResponse(passes)) = answer.http_response else {
            panic!("{answer:?}")
        };
        assert!(passes.headers_to_remove.contains(&"authorization".to_owned()));
        let client = passes.headers.iter().filter_map(|option| option.header.as_ref());
        let client: Vec<_> = client
            .filter(|header| header.key == "x-countersign-client")
            .collect();
        assert_eq!(client.len(), 1);
        assert_eq!(client[0].value, "orders");
        let answer = asking.check(bad.clone()).await.expect("an answer").into_inner();
        assert_eq!(
            denied(answer).expect("denied").status.expect("a status").code,
            401
        );
    }
}

/// What an rpc with this body is answered: HTTP's status and gRPC's, and the message.
async fn ask_raw(sidecar: &Sidecar, header: Option<(&str, &str)>, body: Bytes) -> CheckResponse {
    let address = sidecar.addresses.ext_authz_grpc.expect("an address");
    let mut request = Request::builder()
        .method("POST")
        .uri(format!("http://{address}/{SERVICE}/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let answer = send(address, request, body).await.expect("an answer");
    assert_eq!(
        (answer.status.as_u16(), answer.grpc_status()),
        (200, Some(0)),
        "{answer:?}"
    );
    assert!(answer.trailers.is_some(), "{answer:?}");
    CheckResponse::decode(&answer.body[5..]).expect("one message")
}

/// G16, G48: whatever comes as a question is answered with a denial. An rpc that fails would pass where Envoy is told to let pass what
/// nobody decides.
#[tokio::test]
async fn what_is_no_question_is_denied_in_an_rpc_that_succeeds() {
    let sidecar = Sidecar::start().await;
    let (good, _) = calls(&sidecar);
    // A body of 10 MiB, in the field for it, that this side does not even read.
    let body = [&[0x62, 0x80, 0x80, 0x80, 0x05][..], &[b'x'; 10 << 20]].concat();
    let with = |number: u8, message: Vec<u8>| {
        let mut length = Vec::new();
        prost::encode_length_delimiter(message.len(), &mut length).expect("encoded");
        [vec![number << 3 | 2], length, message].concat()
    };
    let large = with(1, with(4, with(2, body)));
    let framed = |message: &[u8]| {
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        Bytes::from([&[0][..], &length, message].concat())
    };
    let good = envelope(&good);
    for (name, header, body) in [
        ("too large", None, framed(&large)),
        ("empty", None, framed(&[])),
        ("no protobuf", None, framed(&[0xff; 100])),
        ("another wire type", None, framed(&[0x08, 0x01])),
        (
            "a path that is no text",
            None,
            framed(&with(1, with(4, with(2, with(4, vec![0xff]))))),
        ),
        (
            "shorter than it says",
            None,
            Bytes::from_static(&[0, 0, 0, 0, 9, 1]),
        ),
        (
            "longer than there is",
            None,
            Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]),
        ),
        ("no message", None, Bytes::new()),
        (
            "a flag that is none",
            None,
            [&[2][..], &good[1..]].concat().into(),
        ),
        ("compressed", None, [&[1][..], &good[1..]].concat().into()),
        (
            "said to be compressed",
            Some(("grpc-encoding", "gzip")),
            good.clone(),
        ),
    ] {
        let answer = ask_raw(&sidecar, header, body).await;
        let denied = denied(answer.clone()).unwrap_or_else(|| panic!("{name}: {answer:?}"));
        assert_eq!(denied.status.expect("a status").code, 400, "{name}");
    }
    assert_eq!(denied(ask_raw(&sidecar, None, good).await), None);
}

/// It tells of its health as the local API does, and describes itself.
#[tokio::test]
async fn its_health_is_that_of_the_trust() {
    let sidecar = Sidecar::cold(Setup::default()).await;
    let address = sidecar.addresses.ext_authz_grpc.expect("an address");
    let mut health = HealthClient::new(channel(address));
    let mut serves = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.expect("an answer");
        answer.into_inner().status() == ServingStatus::Serving
    };
    assert!(!serves("").await);
    countersign_verifier::test_util::trust(&sidecar.trust, sidecar.issuer.state(1, []));
    for service in ["", SERVICE] {
        eventually("health", async || serves(service).await).await;
    }
    let unknown = HealthCheckRequest {
        service: "countersign.verify.v1.VerifyService".to_owned(),
    };
    let mut health = HealthClient::new(channel(address));
    let unknown = health.check(unknown).await.expect_err("another service");
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

/// S01, S03: over TLS Envoy shows a certificate, and nobody else is answered.
#[tokio::test]
async fn over_tls_envoy_shows_a_certificate() {
    let tls = r#"tls = { certificate = "sidecar.crt", private_key = "sidecar.key", trust_roots = "ca.crt" }"#;
    let setup = Setup {
        more: format!("{tls}\n{METHODS}"),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let uri = format!(
        "https://{}",
        sidecar.addresses.ext_authz_grpc.expect("an address")
    );
    let (good, bad) = calls(&sidecar);
    let asking = |pki: &Pki, roots: &Pki| {
        let files = TlsFiles {
            trust_roots: roots.files("orders").trust_roots,
            ..pki.files("orders")
        };
        let tls = ClientTls::load(&files, ExpectedServer::default(), SetClock::new()).expect("TLS");
        AuthorizationClient::new(tls.channel(&uri, ChannelOptions::default()).expect("a channel"))
    };
    let mut envoy = asking(&sidecar.pki, &sidecar.pki);
    let answer = envoy.check(good.clone()).await.expect("an answer").into_inner();
    assert_eq!(denied(answer), None);
    let answer = envoy.check(bad).await.expect("an answer").into_inner();
    assert_eq!(
        denied(answer).expect("denied").status.expect("a status").code,
        401
    );
    let other = Pki::new();
    let stranger = asking(&other, &sidecar.pki).check(good.clone()).await;
    assert!(stranger.is_err(), "{stranger:?}");
    let plaintext = client(&sidecar).check(good).await;
    assert!(plaintext.is_err(), "{plaintext:?}");
}

/// It describes itself, so that operators can ask it with grpcurl.
#[tokio::test]
async fn it_describes_what_envoy_asks() {
    let sidecar = Sidecar::start().await;
    let address = sidecar.addresses.ext_authz_grpc.expect("an address");
    let asked = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol(SERVICE.to_owned()),
        MessageRequest::FileContainingSymbol("countersign.verify.v1.VerifyService".to_owned()),
    ];
    let asked = asked.map(|message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    });
    let answers = ServerReflectionClient::new(channel(address))
        .server_reflection_info(tokio_stream::iter(asked))
        .await;
    let mut answers = answers.expect("answers").into_inner();
    let mut next = async || {
        let answer = answers.message().await.expect("an answer").expect("an answer");
        answer.message_response.expect("a response")
    };
    let MessageResponse::ListServicesResponse(listed) = next().await else {
        panic!("no list")
    };
    let names: BTreeSet<String> = listed.service.into_iter().map(|service| service.name).collect();
    let expected = [
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
    let MessageResponse::FileDescriptorResponse(file) = next().await else {
        panic!("no file")
    };
    let files = file.file_descriptor_proto.iter();
    let mut files = files.map(|file| prost_types::FileDescriptorProto::decode(&file[..]).expect("a file"));
    assert!(files.any(|file| {
        file.service
            .iter()
            .any(|service| service.name() == "Authorization")
    }));
    let other = answers.message().await.expect_err("another service");
    assert_eq!(other.code(), tonic::Code::NotFound);
}

/// A question about `size` bytes of headers and no more of them than the proxy takes by number, with a good token.
fn long(sidecar: &Sidecar, size: usize) -> CheckRequest {
    let mut request =
        call(sidecar.plaintext()).header("authorization", format!("Bearer {}", sidecar.token()));
    for number in 0..size / 1024 {
        request = request.header(format!("x-long-{number}"), "x".repeat(1024));
    }
    question(request)
}

/// G44, I-18: how many headers a request may have is Envoy's to say. As many as it takes are judged; what no Envoy would ask about is
/// denied. What Envoy says of itself, in an rpc's own headers, is bounded as everywhere, and is never an answer that lets pass.
#[tokio::test]
async fn questions_are_as_long_as_envoy_asks_them() {
    let sidecar = Sidecar::start().await;
    let mut asking = client(&sidecar);
    for size in [20 << 10, 60 << 10] {
        let answer = asking.check(long(&sidecar, size)).await.expect("an answer");
        assert_eq!(denied(answer.into_inner()), None, "{size}");
    }
    let answer = asking.check(long(&sidecar, 200 << 10)).await.expect("an answer");
    let refused = denied(answer.into_inner()).expect("denied");
    assert_eq!(refused.status.expect("a status").code, 400);

    let (good, _) = calls(&sidecar);
    let mut request = tonic::Request::new(good.clone());
    let value = "x".repeat(20 << 10).parse().expect("a value");
    request.metadata_mut().insert("x-of-envoy", value);
    let status = asking.check(request).await.expect_err("no answer");
    assert_ne!(status.code(), tonic::Code::Ok, "{status:?}");
    let answer = asking.check(good).await.expect("the next is answered");
    assert_eq!(denied(answer.into_inner()), None);
}
