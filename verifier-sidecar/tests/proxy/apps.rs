//! Several apps behind one sidecar, and apps over TLS.

use bytes::Bytes;
use countersign_proto::demo::v1::EchoRequest;

use crate::support::pki::Pki;
use crate::support::plain::{Caller, PlainService, SIZED};
use crate::support::raw::{Answer, call, envelope, send};
use crate::support::service::Service;
use crate::support::{ECHO, METHODS, Setup, Sidecar};

const PERMISSION_DENIED: i32 = 7;
const UNAVAILABLE: i32 = 14;

fn message() -> Bytes {
    envelope(&EchoRequest::default())
}

/// A good call of `path` at `authority`, through the sidecar's listener of this number.
async fn ask(sidecar: &Sidecar, listener: usize, authority: &str, path: &str) -> Answer {
    let address = sidecar.addresses.listeners[listener];
    let request = call(address)
        .uri(format!("http://{authority}{path}"))
        .header("authorization", format!("Bearer {}", sidecar.token()));
    send(address, request, message()).await.expect("an answer")
}

/// What a service has seen of its callers, in the order of the calls.
fn authorities(service: &Service) -> Vec<String> {
    service.seen().into_iter().map(|seen| seen.authority).collect()
}

/// The listener without TLS that tells reasons.
const PLAINTEXT: usize = 1;

/// The first listener that a test adds.
const OWN: usize = 3;

#[tokio::test]
async fn calls_reach_the_app_that_their_route_leads_to() {
    let (stock, prices, own) = (
        Service::start().await,
        Service::start().await,
        Service::start().await,
    );
    let more = format!(
        r#"
{METHODS}
[[listener]]
address = "127.0.0.1:0"
plaintext = true
upstream = "http://{own}"
[[route]]
host = "stock.example.com:8443"
upstream = "http://{stock}"
[[route]]
path = "/test.Open/*"
upstream = "http://{prices}"
[[route]]
host = "prices"
upstream = "http://{prices}"
"#,
        own = own.address,
        stock = stock.address,
        prices = prices.address,
    );
    let setup = Setup {
        more,
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    for (authority, path) in [
        ("stock.example.com:8443", ECHO),
        ("STOCK.example.com:8443", "/test.Open/Do"),
        ("stock.example.com:1", ECHO),
        ("service", "/test.Open/Do"),
        ("PRICES:80", ECHO),
        ("prices.example.com", ECHO),
    ] {
        for listener in [PLAINTEXT, OWN] {
            ask(&sidecar, listener, authority, path).await;
        }
    }
    assert_eq!(
        authorities(&stock),
        ["stock.example.com:8443", "STOCK.example.com:8443"]
    );
    assert_eq!(authorities(&prices), ["service", "PRICES:80"]);
    assert_eq!(
        authorities(&sidecar.service),
        ["stock.example.com:1", "prices.example.com"]
    );
    assert_eq!(own.seen().len(), 6, "whatever routes say");
    let told = &stock.seen()[0].headers;
    assert_eq!(told["x-countersign-client"], "orders");
    assert!(!told.contains_key("authorization"));
}

/// I-28: nobody learns what is behind the sidecar before he may call, and what leads nowhere is refused.
#[tokio::test]
async fn what_no_route_leads_is_refused_once_it_is_let_in() {
    let stock = Service::start().await;
    let route = format!(
        "[[route]]\nhost = \"stock\"\nupstream = \"http://{}\"\n",
        stock.address
    );
    let setup = Setup {
        upstream: Some(String::new()),
        more: format!("{METHODS}{route}"),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let answer = ask(&sidecar, PLAINTEXT, "service", ECHO).await;
    assert_eq!(
        (answer.grpc_status(), answer.reason().as_str()),
        (Some(PERMISSION_DENIED), "route_unknown")
    );
    for authority in ["stock", "service"] {
        let request = call(sidecar.plaintext()).uri(format!("http://{authority}{ECHO}"));
        let answer = send(sidecar.plaintext(), request, message())
            .await
            .expect("an answer");
        assert_eq!(answer.reason(), "token_missing", "{authority}");
    }
    assert!(sidecar.service.seen().is_empty() && stock.seen().is_empty());
    assert_eq!(
        ask(&sidecar, PLAINTEXT, "stock", ECHO).await.grpc_status(),
        Some(0)
    );
}

/// Plain HTTP is led in the same way, by paths of its own.
#[tokio::test]
async fn plain_http_reaches_the_app_that_its_route_leads_to() {
    let service = PlainService::start().await;
    let route = format!(
        "[[route]]\npath = \"/v1/*\"\nupstream = \"http://{}\"\n",
        service.address
    );
    let setup = Setup {
        upstream: Some(String::new()),
        more: format!("{METHODS}{route}"),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let mut caller = Caller::connect(sidecar.plaintext()).await;
    let mut get = async |target: &str| {
        let request = http::Request::builder()
            .uri(target)
            .header("host", "orders")
            .header("authorization", format!("Bearer {}", sidecar.token()));
        caller.send(request, Bytes::new()).await
    };
    assert_eq!(get(SIZED).await.status, 200);
    let reply = get("/v2/sized").await;
    assert_eq!((reply.status, reply.reason().as_str()), (403, "route_unknown"));
    let paths = service
        .requests()
        .into_iter()
        .map(|request| request.uri.to_string());
    assert!(paths.eq([SIZED]));
}

/// One app that is away is no reason for others not to be there.
#[tokio::test]
async fn an_app_that_is_away_takes_no_other_with_it() {
    let mut stock = Service::start().await;
    let route = format!(
        "[[route]]\nhost = \"stock\"\nupstream = \"http://{}\"\n",
        stock.address
    );
    let setup = Setup {
        more: format!("{METHODS}{route}"),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    assert_eq!(
        ask(&sidecar, PLAINTEXT, "stock", ECHO).await.grpc_status(),
        Some(0)
    );
    stock.kill();
    let answer = ask(&sidecar, PLAINTEXT, "stock", ECHO).await;
    assert_eq!(
        (answer.grpc_status(), answer.reason().as_str()),
        (Some(UNAVAILABLE), "upstream_unavailable")
    );
    assert_eq!(
        ask(&sidecar, PLAINTEXT, "service", ECHO).await.grpc_status(),
        Some(0)
    );
}

/// A listener whose app is at `uri`, with who must answer there.
fn over_tls(uri: &str, who: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nplaintext = true\nupstream = {{ uri = \"{uri}\"{who} }}\n"
    )
}

/// S07, S24, S25 towards the service: it is who it must be, or nothing is sent. It asks for a certificate, and is shown the sidecar's.
#[tokio::test]
async fn an_app_over_tls_has_to_be_the_one_that_is_meant() {
    let (pki, other) = (Pki::new(), Pki::new());
    let app = Service::start_tls(&pki, "orders").await;
    let stranger = Service::start_tls(&other, "orders").await;
    let (uri, theirs) = (
        format!("https://{}", app.address),
        format!("https://{}", stranger.address),
    );
    let domain = countersign_verifier::test_util::TRUST_DOMAIN;
    let id = |name: &str| format!(", spiffe_id = \"spiffe://{domain}/{name}\"");
    let roots = format!(", trust_roots = \"{}/ca.crt\"", other.folder().display());
    let listeners = [
        over_tls(&uri, &id("orders")),
        over_tls(&uri, ""),
        over_tls(&uri, ", server_name = \"localhost\""),
        // From here on, nobody.
        over_tls(&uri, &id("billing")),
        over_tls(&uri, ", server_name = \"elsewhere\""),
        over_tls(&uri, &roots),
        over_tls(&theirs, &id("orders")),
    ];
    let setup = Setup {
        more: format!("{METHODS}{}", listeners.concat()),
        pki: Some(pki),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    for listener in OWN..OWN + 3 {
        let answer = ask(&sidecar, listener, "orders.example.com", ECHO).await;
        assert_eq!(answer.grpc_status(), Some(0), "{listener}: {answer:?}");
    }
    assert_eq!(authorities(&app), ["orders.example.com"; 3]);
    assert_eq!(app.seen()[0].headers["x-countersign-client"], "orders");
    for listener in OWN + 3..OWN + 7 {
        let answer = ask(&sidecar, listener, "orders.example.com", ECHO).await;
        assert_eq!(
            (answer.grpc_status(), answer.reason().as_str()),
            (Some(UNAVAILABLE), "upstream_unavailable"),
            "{listener}"
        );
    }
    assert_eq!(app.seen().len(), 3);
    assert!(stranger.seen().is_empty());
}
