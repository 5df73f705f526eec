use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Admin {
    address: SocketAddr,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<io::Result<()>>,
}

async fn start() -> Admin {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("address");
    let ready = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&ready);
    let mut registry = crate::metrics::registry("test", "1");
    registry.register("calls", "Calls", Counter::<u64>::default());
    let probe = move || {
        let ready = asked.load(Ordering::Relaxed);
        Readiness::ready()
            .unless(!ready, "no_trust_state")
            .unless(!ready, "clock_bad")
    };
    let stop = CancellationToken::new();
    let endpoints = AdminEndpoints::new(probe, Arc::new(registry));
    let serving = tokio::spawn(serve(listener, endpoints, stop.clone()));
    Admin {
        address,
        ready,
        stop,
        serving,
    }
}

impl Admin {
    /// The whole answer to raw bytes.
    async fn send(&self, request: &str) -> String {
        let mut tcp = TcpStream::connect(self.address).await.expect("connected");
        tcp.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let _reset = tcp.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("UTF-8")
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self
            .send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        parts(&answer)
    }
}

fn parts(answer: &str) -> (u16, String) {
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_default();
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default();
    (status, body)
}

/// H07, H08: readiness names its reasons; liveness does not follow it.
#[tokio::test]
async fn readiness_names_its_reasons_and_liveness_stays() {
    let admin = start().await;
    for path in ["/live", "/livez", "/ready", "/readyz", "/readyz?verbose"] {
        assert_eq!(admin.get(path).await, (200, "ok\n".to_owned()), "{path}");
    }
    admin.ready.store(false, Ordering::Relaxed);
    for path in ["/ready", "/readyz"] {
        assert_eq!(
            admin.get(path).await,
            (503, "no_trust_state\nclock_bad\n".to_owned()),
            "{path}"
        );
    }
    assert_eq!(admin.get("/live").await.0, 200);
}

#[tokio::test]
async fn metrics_are_open_metrics_text() {
    let admin = start().await;
    let answer = admin.send("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(
        answer.contains("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{answer}"
    );
    assert!(
        answer.contains("countersign_calls_total 0") && answer.ends_with("# EOF\n"),
        "{answer}"
    );
}

/// H01: nothing can be changed. H14: no CORS header.
#[tokio::test]
async fn other_methods_are_refused() {
    let admin = start().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"] {
        for path in ["/live", "/ready", "/metrics"] {
            let answer = admin
                .send(&format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
                .await;
            assert_eq!(parts(&answer).0, 405, "{method} {path}: {answer}");
            assert!(
                answer.contains("allow: GET, HEAD") && !answer.contains("access-control"),
                "{answer}"
            );
        }
    }
    let head = admin.send("HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(parts(&head), (200, String::new()), "{head}");
}

/// H02, H09: no spelling of a path leads to another one, and there is nothing to debug with.
#[tokio::test]
async fn other_paths_are_not_found() {
    let admin = start().await;
    for path in [
        "/",
        "//live",
        "/live/",
        "/live/../metrics",
        "/%6cive",
        "/%2e%2e/metrics",
        "/x/%2e%2e/live",
        "/LIVE",
        "/live%00",
        "/metrics;a",
        "/debug/pprof",
        "/config_dump",
        "/quitquitquit",
        "/metrics/x",
        "/.",
        "/healthz",
    ] {
        assert_eq!(admin.get(path).await.0, 404, "{path}");
    }
}

/// H04, H13: bodies, expectations, old and odd HTTP are refused, and the port goes on answering.
#[tokio::test]
async fn what_no_probe_sends_is_refused() {
    let admin = start().await;
    let huge = format!(
        "GET /live HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "a".repeat(20_000)
    );
    for (request, expected) in [
        (
            "GET /live HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc",
            400,
        ),
        (
            "GET /live HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzzz\r\n",
            400,
        ),
        (
            "GET /live HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\r\n",
            417,
        ),
        ("GET /live HTTP/1.0\r\n\r\n", 400),
        ("GET http://other/live HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("GET /live HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n", 400),
        ("GET /live HTTP/1.1\nhost: x\n\n", 400),
        ("\nGET /live HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("GET /live HTTP/1.1\nhost: x\r\n\r\n", 400),
        ("GET /live HTTP/1.1\r\nhost: x\nfolded: y\r\n\r\n", 400),
        ("GET /live HTTP/1.1\r\nhost: x\r\n\n", 400),
        ("\u{0}\u{1}\r\n\r\n", 400),
        (huge.as_str(), 431),
    ] {
        assert_eq!(parts(&admin.send(request).await).0, expected, "{request:.60}");
    }
    assert_eq!(admin.get("/live").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_loses_its_connection() {
    let admin = start().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut tcp = TcpStream::connect(admin.address).await.expect("connected");
        tcp.write_all(b"GET /live").await.expect("sent");
        silent.push(tcp);
    }
    // Paused time passes only when nothing else can happen: all places are taken until the deadlines have passed.
    let begun = tokio::time::Instant::now();
    assert_eq!(admin.get("/live").await.0, 200);
    assert!(begun.elapsed() <= CONNECTION_TIMEOUT, "{:?}", begun.elapsed());
}

/// H06: an address that only loopback reaches answers only loopback.
#[test]
fn only_loopback_peers_are_answered_on_loopback() {
    let address = |text: &str| text.parse::<SocketAddr>().expect("address");
    for (local, remote, expected) in [
        ("127.0.0.1:1", "127.0.0.1:2", true),
        ("127.0.0.1:1", "127.8.9.1:2", true),
        ("127.0.0.1:1", "10.0.0.1:2", false),
        ("[::1]:1", "[::1]:2", true),
        ("[::1]:1", "[2001:db8::1]:2", false),
        ("[::ffff:127.0.0.1]:1", "[::ffff:10.0.0.1]:2", false),
        ("10.0.0.9:1", "10.0.0.1:2", true),
    ] {
        assert_eq!(
            may_ask(address(local), address(remote)),
            expected,
            "{local} {remote}"
        );
    }
}

#[tokio::test]
async fn it_stops_when_asked() {
    let admin = start().await;
    assert_eq!(admin.get("/live").await.0, 200);
    admin.stop.cancel();
    admin.serving.await.expect("joined").expect("no error");
    assert!(TcpStream::connect(admin.address).await.is_err());
}
