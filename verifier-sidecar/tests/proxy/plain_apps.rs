//! Plain HTTP to services that are somewhere else: behind a route, on a socket, over TLS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_mtls::{
    ClientCertificates, ClientTls, ExpectedServer, Limits, Protocols, ServerTls, TlsListener,
};
use countersign_verifier::test_util::SetClock;
use http::{Request, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::pki::Pki;
use crate::support::plain::{Caller, PlainService, Reply, SIZED};
use crate::support::service::Service;
use crate::support::{METHODS, Setup, Sidecar, within};

/// The first listener that a test adds.
const OWN: usize = 3;

/// A good request for something at `host`, through the sidecar's listener of this number.
async fn ask(sidecar: &Sidecar, listener: usize, host: &str) -> Reply {
    let mut caller = Caller::connect(sidecar.addresses.listeners[listener]).await;
    let request = Request::get(SIZED)
        .header("host", host)
        .header("authorization", format!("Bearer {}", sidecar.token()));
    caller.send(request, Bytes::new()).await
}

/// What callers of HTTP/1.1 name in `Host` leads them as `:authority` does.
#[tokio::test]
async fn requests_are_led_by_host_and_over_tls_and_to_sockets() {
    let pki = Pki::new();
    let socket = pki.folder().join("plain.sock");
    let on_socket = PlainService::start_unix(&socket);
    let by_host = PlainService::start().await;
    let over_tls = PlainService::start_tls(&pki, "orders").await;
    let own = |upstream: &str| {
        format!("[[listener]]\naddress = \"127.0.0.1:0\"\nplaintext = true\nupstream = {upstream}\n")
    };
    let listeners = [
        own(&format!("\"unix://{}\"", socket.display())),
        own(&format!("{{ uri = \"https://{}\" }}", over_tls.address)),
    ];
    let route = format!(
        "[[route]]\nhost = \"stock\"\nupstream = \"http://{}\"\n",
        by_host.address
    );
    let setup = Setup {
        upstream: Some("http://127.0.0.1:9".to_owned()),
        more: format!("{METHODS}{}{route}", listeners.concat()),
        pki: Some(pki),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    for (listener, host, service) in [
        (1, "stock", &by_host),
        (1, "STOCK:8080", &by_host),
        (OWN, "anybody", &on_socket),
        (OWN + 1, "anybody", &over_tls),
    ] {
        let reply = ask(&sidecar, listener, host).await;
        assert_eq!(
            (reply.status, &reply.body[..]),
            (200, &b"hello"[..]),
            "{host}: {reply:?}"
        );
        let seen = service.requests().pop().expect("seen");
        assert_eq!(
            (seen.version, &seen.headers["host"]),
            (Version::HTTP_11, &host.parse().expect("a value"))
        );
    }
    assert_eq!(ask(&sidecar, 1, "elsewhere").await.status, 502);
}

/// Of HTTP/1.1 the caller speaks first. So nothing is waited for between the handshake and the request: not for a word of the service,
/// and not even for its saying that it will say no more, which here it does at once.
#[tokio::test]
async fn over_tls_nothing_is_read_of_a_service_of_http1_before_it_is_asked() {
    let pki = Pki::new();
    let clock = SetClock::new();
    let required = ClientCertificates::Required;
    let tls = ServerTls::speaking(
        Protocols::Any,
        &pki.files("orders"),
        required,
        Arc::<SetClock>::clone(&clock),
    );
    let any = "127.0.0.1:0".parse().expect("an address");
    let mut listener = TlsListener::bind(any, tls.expect("TLS"), Limits::default())
        .await
        .expect("bound");
    let uri = format!("https://localhost:{}", listener.local_addr().port());
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.shutdown().await.expect("shut down");
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).await.expect("a request");
        asked
    });
    let tls = ClientTls::load(&pki.files("sidecar"), ExpectedServer::default(), clock).expect("TLS");
    let connecting = within("a connection", tls.connect_http1(&uri, Duration::from_secs(10)));
    let mut stream = connecting.await.expect("nothing is read yet");
    stream
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("written");
    stream.shutdown().await.expect("shut down");
    let asked = within("the request", asked).await.expect("no panic");
    assert_eq!(asked, b"GET / HTTP/1.1\r\n\r\n");
}

/// A service that speaks HTTP/2 alone cannot be asked over HTTP/1.1, and nobody pretends that it was.
#[tokio::test]
async fn a_service_of_http2_alone_is_a_bad_gateway_for_http1() {
    let pki = Pki::new();
    let grpc = Service::start_tls(&pki, "orders").await;
    let listener = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nplaintext = true\nupstream = {{ uri = \"https://{}\" }}\n",
        grpc.address
    );
    let setup = Setup {
        more: format!("{METHODS}{listener}"),
        pki: Some(pki),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    for listener in [1, OWN] {
        let reply = ask(&sidecar, listener, "orders").await;
        assert_eq!(
            (reply.status, reply.reason().as_str()),
            (502, "upstream_unavailable"),
            "{listener}"
        );
    }
    assert!(grpc.seen().is_empty() && sidecar.service.seen().is_empty());
}
