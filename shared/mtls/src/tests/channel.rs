use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_core::spiffe::SpiffeId;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::AlertDescription;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Server as TonicServer;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::pki::{Authority, Leaf, NOW, dns, uri};
use super::rig::{Folder, Server, SetClock, eventually, server, server_speaking, write};
use crate::{
    ChannelOptions, ClientCertificates, ClientTls, ConnectError, ExpectedServer, Limits, Peer, PeerIdentity,
    Protocols, TlsError,
};

/// A gRPC server that notes who calls.
struct Serving {
    uri: String,
    callers: Arc<Mutex<Vec<Peer>>>,
    stop: CancellationToken,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Serves on the listener of `server`; gives back the rest of it.
async fn serve(server: Server) -> (Serving, Rest) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", ServingStatus::Serving).await;
    let callers = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&callers);
    let note = tonic::service::InterceptorLayer::new(move |request: Request<()>| {
        noted
            .lock()
            .expect("lock")
            .extend(request.extensions().get::<Peer>().cloned());
        Ok(request)
    });
    let stop = CancellationToken::new();
    let uri = format!("https://localhost:{}", server.address.port());
    let router = TonicServer::builder().layer(note).add_service(health);
    let incoming = server.listener;
    tokio::spawn(router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()));
    (
        Serving { uri, callers, stop },
        Rest {
            root: server.root,
            tls: server.tls,
            folder: server.folder,
        },
    )
}

struct Rest {
    root: Authority,
    tls: Arc<crate::ServerTls>,
    folder: Folder,
}

fn client(leaf: &Leaf, roots: &str, expected: ExpectedServer) -> (Arc<ClientTls>, Folder) {
    let folder = Folder::with(leaf, roots);
    (
        ClientTls::load(&folder.files, expected, SetClock::at(NOW)).expect("loaded"),
        folder,
    )
}

fn expecting(path: &str) -> ExpectedServer {
    let spiffe_id = SpiffeId::parse(&format!("spiffe://test/{path}")).expect("valid");
    ExpectedServer {
        spiffe_id: Some(spiffe_id),
        server_name: None,
    }
}

async fn call(tls: &Arc<ClientTls>, uri: &str) -> Result<(), tonic::Status> {
    let channel = tls.channel(uri, ChannelOptions::default()).expect("channel");
    HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .map(drop)
}

/// The connect error of a call that cannot be made.
async fn failure(tls: &Arc<ClientTls>, uri: &str) -> String {
    let status = call(tls, uri).await.expect_err("refused");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    let error = ConnectError::in_chain(&status).expect("a connect error in the chain");
    error.to_string()
}

#[tokio::test]
async fn a_call_reaches_the_server_with_the_callers_identity() {
    let (serving, rest) = serve(server().await).await;
    let (tls, _folder) = client(&rest.root.workload("orders"), &rest.root.pem, expecting("server"));
    call(&tls, &serving.uri).await.expect("answered");
    let peer = serving.callers.lock().expect("lock").pop().expect("noted");
    let identity = peer.identity.expect("certificate");
    assert_eq!(
        identity.spiffe_id.as_ref().map(SpiffeId::as_str),
        Some("spiffe://test/orders")
    );
    assert!(peer.remote.ip().is_loopback());
}

/// S24: only the configured roots count. S25: a workload that is not the server is refused, though its root is right.
#[tokio::test]
async fn a_server_that_is_not_the_meant_one_is_refused() {
    let (serving, rest) = serve(server().await).await;
    let leaf = rest.root.workload("orders");
    let (tls, _folder) = client(&leaf, &Authority::root("other").pem, expecting("server"));
    assert!(
        failure(&tls, &serving.uri)
            .await
            .contains("the server's certificate is not trusted")
    );
    let (tls, _folder) = client(&leaf, &rest.root.pem, expecting("authority"));
    let status = call(&tls, &serving.uri).await.expect_err("refused");
    let error = ConnectError::in_chain(&status).expect("connect error");
    let text = crate::connect::chain(error);
    assert_eq!(
        text,
        "the server is not who it should be: the server is `spiffe://test/server`, not `spiffe://test/authority`"
    );
    let by_name = ExpectedServer {
        spiffe_id: None,
        server_name: Some("elsewhere.test".to_owned()),
    };
    let (tls, _folder) = client(&leaf, &rest.root.pem, by_name);
    assert!(
        failure(&tls, &serving.uri)
            .await
            .contains("the server's certificate is not trusted")
    );
}

/// S07, S25: a server whose certificate is a client's only; S10: one that identifies nobody.
#[tokio::test]
async fn a_server_with_a_certificate_of_the_wrong_kind_is_refused() {
    let server = server().await;
    let (root, files) = (&server.root, &server.folder.files);
    let client_only = root.leaf(|params| {
        params.subject_alt_names = vec![uri("spiffe://test/server"), dns("localhost")];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let two_uris = root.leaf(|params| {
        let uris = [uri("spiffe://test/server"), uri("spiffe://test/other")];
        params.subject_alt_names = uris.into_iter().chain([dns("localhost")]).collect();
    });
    write(&files.certificate, &client_only.chain_pem);
    write(&files.private_key, &client_only.key_pem);
    server
        .tls
        .reload()
        .expect("rustls does not look at its own usage");
    let (serving, rest) = serve(server).await;
    let (tls, _folder) = client(&rest.root.workload("orders"), &rest.root.pem, expecting("server"));
    assert!(
        failure(&tls, &serving.uri)
            .await
            .contains("the server's certificate is not trusted")
    );
    write(&rest.folder.files.certificate, &two_uris.chain_pem);
    write(&rest.folder.files.private_key, &two_uris.key_pem);
    assert!(
        matches!(rest.tls.reload(), Err(TlsError::Identity { .. })),
        "we would not even show it"
    );
}

/// A TLS 1.3 client learns late that it was refused; the call says so all the same.
#[tokio::test]
async fn a_refused_certificate_is_a_clear_error_of_the_first_call() {
    let (serving, rest) = serve(server().await).await;
    let stranger = Authority::root("other").workload("orders");
    let (tls, folder) = client(&stranger, &rest.root.pem, expecting("server"));
    let text = failure(&tls, &serving.uri).await;
    assert!(
        text.contains("the server refused our certificate (UnknownCA)"),
        "{text}"
    );
    // The same channel works once the certificate was replaced.
    let channel = tls
        .channel(&serving.uri, ChannelOptions::default())
        .expect("channel");
    let mut health = HealthClient::new(channel);
    assert!(health.check(HealthCheckRequest::default()).await.is_err());
    let shown = |leaf: &Leaf| PeerIdentity::from_der(leaf.der()).expect("a leaf").certificate();
    assert_eq!(tls.certificate(), shown(&stranger));
    let good = rest.root.workload("orders");
    write(&folder.files.certificate, &good.chain_pem);
    write(&folder.files.private_key, &good.key_pem);
    let stop = CancellationToken::new();
    tokio::spawn(tls.watch(Duration::from_millis(10), stop.clone()));
    eventually("change seen", || {
        tls.health().reloads > 0 && !tls.health().failing
    })
    .await;
    health
        .check(HealthCheckRequest::default())
        .await
        .expect("answered");
    assert_eq!(tls.certificate(), shown(&good));
    stop.cancel();
}

#[test]
fn a_missing_certificate_is_said_to_be_missing() {
    let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
    let error = ConnectError::of_handshake(std::io::Error::new(std::io::ErrorKind::InvalidData, alert));
    assert!(
        error
            .to_string()
            .contains("the server requires a client certificate"),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_there_and_no_answer_are_told_apart() {
    let root = Authority::root("root");
    let (tls, _folder) = client(&root.workload("orders"), &root.pem, expecting("server"));
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let uri = format!("https://{}", silent.local_addr().expect("address"));
    let error = tls
        .connect(&uri, Duration::from_millis(50))
        .await
        .expect_err("no answer");
    assert!(
        error.to_string().contains("did not answer within 50ms"),
        "{error}"
    );
    drop(silent);
    let text = failure(&tls, &uri).await;
    assert!(text.contains("cannot be reached"), "{text}");
}

#[test]
fn an_address_is_https_and_nothing_more() {
    let root = Authority::root("root");
    let (tls, _folder) = client(&root.workload("orders"), &root.pem, ExpectedServer::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let _inside = runtime.enter();
    for uri in [
        "",
        "localhost:1",
        "http://localhost:1",
        "https://",
        "https://a/b",
        "https://a?b",
        "https://a b",
        "/x",
    ] {
        assert!(
            matches!(
                tls.channel(uri, ChannelOptions::default()),
                Err(TlsError::Address { .. })
            ),
            "{uri:?}"
        );
    }
    for uri in [
        "https://localhost",
        "https://localhost:1/",
        "https://127.0.0.1:1",
        "https://[::1]:1",
    ] {
        assert!(tls.channel(uri, ChannelOptions::default()).is_ok(), "{uri:?}");
    }
}

/// A client of HTTP/1.1 is connected to servers that take it, and to no others.
#[tokio::test]
async fn a_connection_speaks_what_was_asked_for() {
    for (protocols, takes_http1) in [(Protocols::Any, true), (Protocols::Http2, false)] {
        let server = server_speaking(protocols, ClientCertificates::Required, Limits::default()).await;
        let folder = Folder::with(&server.root.workload("orders"), &server.root.pem);
        let clock = SetClock::at(NOW);
        let client = ClientTls::load(&folder.files, ExpectedServer::default(), clock).expect("loaded");
        let uri = format!("https://localhost:{}", server.address.port());
        let patience = Duration::from_secs(10);
        let http2 = client.connect(&uri, patience).await.expect("connected");
        assert_eq!(http2.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let http1 = client.connect_http1(&uri, patience).await;
        match http1 {
            Ok(stream) if takes_http1 => {
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            }
            Err(ConnectError::NoHttp2) if !takes_http1 => {}
            other => panic!("{protocols:?}: {other:?}"),
        }
    }
}
