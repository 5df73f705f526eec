//! Plain HTTP to services that are somewhere else: behind a route, on a socket, over TLS.

use bytes::Bytes;
use http::{Request, Version};

use crate::support::pki::Pki;
use crate::support::plain::{Caller, PlainService, Reply, SIZED};
use crate::support::service::Service;
use crate::support::{METHODS, Setup, Sidecar};

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
