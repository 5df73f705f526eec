//! HTTP/1.1 by hand (G01 to G05, G28): what could be read in two ways is refused, the service sees nothing of it, and nothing after
//! it is read.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::plain::before_plain;
use crate::support::plain::{ECHO, SIZED, raw};
use crate::support::{Setup, Sidecar, eventually, within};

/// What would be a request, were it taken for one.
const SMUGGLED: &str = "GET /v1/smuggled HTTP/1.1\r\nhost: orders\r\n\r\n";

/// Requests that end in two places, or nowhere. `TOKEN` stands for good credentials.
const AMBIGUOUS: &[&str] = &[
    "POST /v1/echo HTTP/1.1\r\nhost: orders\r\nTOKEN\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /v1/echo HTTP/1.1\r\nhost: orders\r\nTOKEN\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "POST /v1/echo HTTP/1.1\r\nhost: orders\r\nTOKEN\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "POST /v1/echo HTTP/1.1\r\nhost: orders\r\nTOKEN\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "POST /v1/echo HTTP/1.1\r\nhost: orders\r\nTOKEN\r\ncontent-length: 5, 5\r\n\r\nhello",
    "POST /v1/echo HTTP/1.1\r\nhost: orders\r\nTOKEN\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST /v1/echo HTTP/1.1\r\nhost: orders\r\nTOKEN\r\ntransfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "POST /v1/echo HTTP/1.1\r\nhost: orders\r\nTOKEN\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "POST /v1/echo HTTP/1.1\r\nhost: orders\r\nTOKEN\r\nx: y\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /v1/echo HTTP/1.1\r\nhost: orders\r\nTOKEN\r\nx: y\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET /v1/sized HTTP/1.1\r\nhost: orders\r\nTOKEN\r\nx: y\n\r\n",
    "GET /v1/sized HTTP/1.1\nhost: orders\nTOKEN\n\n",
    "GET /v1/sized HTTP/1.1\r\nhost : orders\r\nTOKEN\r\n\r\n",
    "GET  /v1/sized HTTP/1.1\r\nhost: orders\r\nTOKEN\r\n\r\n",
    "GET /v1/sized HTTP/1.1 \r\nhost: orders\r\nTOKEN\r\n\r\n",
    "GET /v1/sized#f HTTP/1.1\r\nhost: orders\r\nTOKEN\r\n\r\n",
    "GET /v1/sized\r\nhost: orders\r\nTOKEN\r\n\r\n",
    "GET /v1/sized HTTP/2.0\r\nhost: orders\r\nTOKEN\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n",
    "GET v1/sized HTTP/1.1\r\nhost: orders\r\nTOKEN\r\n\r\n",
    "\r\n",
    "\0",
];

/// G28: CL.TE, TE.CL and all their kin.
#[tokio::test]
async fn what_ends_in_two_places_is_refused() {
    let (sidecar, service) = before_plain().await;
    let token = format!("authorization: Bearer {}", sidecar.token());
    for ambiguous in AMBIGUOUS {
        let sent = format!("{}{SMUGGLED}", ambiguous.replace("TOKEN", &token));
        let told = raw(sidecar.plaintext(), sent.as_bytes()).await;
        assert!(
            told.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{ambiguous:?}: {told}"
        );
        assert_eq!(told.matches("HTTP/1.1").count(), 1, "{ambiguous:?}: {told}");
        assert!(told.contains("connection: close\r\n"), "{told}");
    }
    assert_eq!((service.connections(), service.bytes().as_str()), (0, ""));
}

/// G28: the same within a body that has begun. What of it was passed on is broken off, and looks so.
#[tokio::test]
async fn a_body_with_two_readings_is_broken_off() {
    let (sidecar, service) = before_plain().await;
    let token = sidecar.token();
    for chunks in [
        "5\r\nhello\r\n0\n\n",
        "5\r\nhelloX\r\n",
        "5;a=\"\n\"\r\nhello\r\n",
        "5\r\nhello\r\n0\r\nx : y\r\n\r\n",
    ] {
        let sent = format!(
            "POST {ECHO} HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {token}\r\ntransfer-encoding: chunked\r\n\r\n{chunks}{SMUGGLED}"
        );
        let told = raw(sidecar.plaintext(), sent.as_bytes()).await;
        assert!(!told.ends_with("0\r\n\r\n"), "{chunks:?}: {told}");
        assert!(!service.bytes().contains("smuggled"), "{chunks:?}");
        assert!(
            !service.bytes().contains("0\r\n\r\n"),
            "{chunks:?}: {}",
            service.bytes()
        );
    }
}

/// Heads of which it is plain where they end, but not what they ask for: status and reason.
const REFUSED: &[(&str, u16)] = &[
    ("GET /v1/sized HTTP/1.1\r\nTOKEN\r\n\r\n", 400),
    (
        "GET /v1/sized HTTP/1.1\r\nhost: orders\r\nhost: orders\r\nTOKEN\r\n\r\n",
        400,
    ),
    (
        "GET /v1/sized HTTP/1.1\r\nhost: orders\r\nhost: evil\r\nTOKEN\r\n\r\n",
        400,
    ),
    ("GET /v1/sized HTTP/1.1\r\nhost:\r\nTOKEN\r\n\r\n", 400),
    (
        "GET /v1/sized HTTP/1.1\r\nhost: user@orders\r\nTOKEN\r\n\r\n",
        400,
    ),
    (
        "GET /v1/sized HTTP/1.1\r\nhost: orders, evil\r\nTOKEN\r\n\r\n",
        400,
    ),
    ("GET /v1/sized HTTP/1.1\r\nhost: orders/x\r\nTOKEN\r\n\r\n", 400),
    (
        "GET http://evil/v1/sized HTTP/1.1\r\nhost: orders\r\nTOKEN\r\n\r\n",
        400,
    ),
    (
        "GET ftp://orders/v1/sized HTTP/1.1\r\nhost: orders\r\nTOKEN\r\n\r\n",
        400,
    ),
    (
        "GET /v1/sized HTTP/1.1\r\nhost: orders\r\nconnection: host\r\nTOKEN\r\n\r\n",
        400,
    ),
    ("GET //v1/sized HTTP/1.1\r\nhost: orders\r\nTOKEN\r\n\r\n", 400),
    (
        "GET /v1/../v1/sized HTTP/1.1\r\nhost: orders\r\nTOKEN\r\n\r\n",
        400,
    ),
    ("OPTIONS * HTTP/1.1\r\nhost: orders\r\nTOKEN\r\n\r\n", 405),
    ("TRACE /v1/sized HTTP/1.1\r\nhost: orders\r\nTOKEN\r\n\r\n", 405),
    (
        "CONNECT orders:80 HTTP/1.1\r\nhost: orders:80\r\nTOKEN\r\n\r\n",
        405,
    ),
    ("get /v1/sized HTTP/1.1\r\nhost: orders\r\nTOKEN\r\n\r\n", 405),
    ("BREW /v1/sized HTTP/1.1\r\nhost: orders\r\nTOKEN\r\n\r\n", 405),
    (
        "POST /v1/sized HTTP/1.1\r\nhost: orders\r\ncontent-type: application/grpc\r\nTOKEN\r\n\r\n",
        415,
    ),
    (
        "GET /v1/sized HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nTOKEN\r\n\r\n",
        501,
    ),
    ("GET /v1/sized HTTP/1.0\r\nhost: orders\r\nTOKEN\r\n\r\n", 505),
    (
        "GET /v1/sized HTTP/1.1\r\nhost: orders\r\nx: LONG\r\nTOKEN\r\n\r\n",
        431,
    ),
];

/// G02, G03, G05, G18, G28: the rest of what is no request for something at a path of one server.
#[tokio::test]
async fn what_asks_for_something_else_is_refused() {
    let (sidecar, service) = before_plain().await;
    let token = format!("authorization: Bearer {}\r\nconnection: close", sidecar.token());
    for (head, status) in REFUSED {
        let sent = head.replace("TOKEN", &token).replace("LONG", &"y".repeat(17_000));
        let told = raw(sidecar.plaintext(), sent.as_bytes()).await;
        assert!(
            told.starts_with(&format!("HTTP/1.1 {status} "))
                || *status == 505 && told.starts_with("HTTP/1.0 505 "),
            "{head:?}: {told}"
        );
    }
    assert_eq!((service.connections(), service.bytes().as_str()), (0, ""));
}

/// What is for the sidecar alone does not go on, and what has two spellings goes on in one.
#[tokio::test]
async fn what_is_for_the_neighbour_stays_here() {
    let (sidecar, service) = before_plain().await;
    let token = sidecar.token();
    let sent = format!(
        "GET http://orders/v1/sized?a=b HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nTE: trailers, gzip\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    let told = raw(sidecar.plaintext(), sent.as_bytes()).await;
    assert!(told.starts_with("HTTP/1.1 200 OK\r\n"), "{told}");
    assert!(told.ends_with("\r\n\r\nhello"), "{told}");
    let sent = service.bytes();
    let (line, fields) = sent.split_once("\r\n").expect("a line");
    assert_eq!(line, "GET /v1/sized?a=b HTTP/1.1");
    let mut names: Vec<_> = fields
        .lines()
        .filter_map(|field| field.split_once(": "))
        .collect();
    names.sort_unstable();
    let expected = [
        ("connection", "te"),
        ("host", "orders"),
        ("te", "trailers"),
        ("x-countersign-client", "orders"),
        ("x-countersign-scopes", "demo.call"),
        ("x-countersign-subject", "client:test.example.com/orders"),
        ("x-countersign-token-id", "1.1"),
    ];
    assert_eq!(names, expected);
}

/// Requests in one piece are answered one by one, and each is judged.
#[tokio::test]
async fn requests_in_one_piece_are_told_apart() {
    let (sidecar, service) = before_plain().await;
    let token = sidecar.token();
    let good = |path: &str, more: &str| {
        format!("{path} HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {token}\r\n{more}\r\n")
    };
    let sent = [
        good(&format!("POST {ECHO}"), "content-length: 5\r\n") + "hello",
        SMUGGLED.to_owned(),
        good(&format!("POST {ECHO}"), "transfer-encoding: chunked\r\n") + "3\r\nyes\r\n0\r\n\r\n",
        good(&format!("GET {SIZED}"), "connection: close\r\n"),
        SMUGGLED.to_owned(),
    ];
    let told = raw(sidecar.plaintext(), sent.concat().as_bytes()).await;
    let statuses: Vec<_> = told
        .lines()
        .filter_map(|line| line.split_once("HTTP/1.1 "))
        .map(|(_, status)| status)
        .collect();
    assert_eq!(
        statuses,
        ["200 OK", "401 Unauthorized", "200 OK", "200 OK"],
        "{told}"
    );
    let paths: Vec<_> = service
        .requests()
        .iter()
        .map(|seen| seen.uri.path().to_owned())
        .collect();
    assert_eq!(paths, [ECHO, ECHO, SIZED]);
}

/// A caller that waits to be told to go on is told so only once his request is let in.
#[tokio::test]
async fn nobody_is_told_to_go_on_before_the_verdict() {
    let (sidecar, service) = before_plain().await;
    let head = |token: &str| {
        format!(
            "POST {ECHO} HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {token}\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
        )
    };
    let told = raw(sidecar.plaintext(), head("x").as_bytes()).await;
    assert!(told.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{told}");
    let mut stream = TcpStream::connect(sidecar.plaintext()).await.expect("connected");
    stream
        .write_all(head(&sidecar.token()).as_bytes())
        .await
        .expect("sent");
    let mut told = vec![0; 25];
    within("the word", stream.read_exact(&mut told))
        .await
        .expect("told");
    assert_eq!(told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.expect("sent");
    let mut rest = String::new();
    within("the rest", stream.read_to_string(&mut rest))
        .await
        .expect("the rest");
    assert!(
        rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.contains("hello"),
        "{rest}"
    );
    assert!(!service.bytes().contains("expect"), "{}", service.bytes());
}

/// G28, G10: a listener for gRPC alone hangs up on HTTP/1.1, as all ports do that are not the proxy's.
#[tokio::test]
async fn other_protocols_are_hung_up_on_where_grpc_alone_is_taken() {
    let sidecar = Sidecar::with(Setup {
        grpc_only: true,
        ..Setup::default()
    })
    .await;
    for port in [
        sidecar.plaintext(),
        sidecar.tls(),
        sidecar.addresses.verify_grpc.expect("an address"),
        sidecar.addresses.ext_authz_grpc.expect("an address"),
    ] {
        let told = raw(port, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert!(!told.contains("HTTP/1.1"), "{told}");
    }
}

/// G25, S21: silent and slow connections of HTTP/1.1 take no place from others.
#[tokio::test]
async fn slow_requests_keep_nobody_out() {
    let (sidecar, service) = before_plain().await;
    let token = sidecar.token();
    let mut slow = Vec::new();
    for part in ["", "GET /v1/si", "GET /v1/sized HTTP/1.1\r\nhost: ord"]
        .iter()
        .cycle()
        .take(300)
    {
        let mut stream = TcpStream::connect(sidecar.plaintext()).await.expect("connected");
        stream.write_all(part.as_bytes()).await.expect("sent");
        slow.push(stream);
    }
    let good = format!(
        "GET {SIZED} HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    let answer =
        tokio::time::timeout(Duration::from_secs(5), raw(sidecar.plaintext(), good.as_bytes())).await;
    assert!(answer.expect("in time").starts_with("HTTP/1.1 200 OK"));
    eventually("one request", async || service.requests().len() == 1).await;
    drop(slow);
}
