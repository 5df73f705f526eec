//! Whatever is sent to whichever port, the process goes on serving (G18, G25 to G28).

use std::net::SocketAddr;
use std::time::Duration;

use countersign_proto::demo::v1::EchoRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::support::raw::{Outcome, call, envelope, frame, preface, send, send_fields};
use crate::support::{Sidecar, with_token, within};

/// Things that are no request.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    let with = |frames: &[Vec<u8>]| [preface(), frames.concat()].concat();
    vec![
        ("nothing", Vec::new()),
        ("one byte", vec![0]),
        ("zeros", vec![0; 4096]),
        ("noise", (0..=255).cycle().take(100_000).collect()),
        ("half a TLS hello", hello),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("HTTP/1.1 upgrade", b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n".to_vec()),
        ("HTTP/1.1 smuggling", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n".to_vec()),
        ("half a preface", b"PRI * HTTP/2.0\r\n\r\n".to_vec()),
        ("preface, then noise", [preface(), vec![0xff; 10_000]].concat()),
        ("a frame too large", with(&[[&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &[0; 100]].concat()])),
        ("headers on stream 0", with(&[frame(1, 5, 0, &[0x82])])),
        ("headers on an even stream", with(&[frame(1, 5, 2, &[0x82])])),
        ("HPACK index 0", with(&[frame(1, 5, 1, &[0x80])])),
        ("HPACK index past the table", with(&[frame(1, 5, 1, &[0xff, 0xff, 0xff, 0x7f])])),
        ("a table that is too large", with(&[frame(1, 5, 1, &[0x3f, 0xff, 0xff, 0xff, 0x7f])])),
        ("continuations for ever", with(&(0..2000).map(|n| if n == 0 { frame(1, 0, 1, &[0; 100]) } else { frame(9, 0, 1, &[0; 16_000]) }).collect::<Vec<_>>())),
        ("pings", with(&(0..5000).map(|_| frame(6, 0, 0, &[0; 8])).collect::<Vec<_>>())),
        ("settings", with(&(0..5000).map(|_| frame(4, 0, 0, &[])).collect::<Vec<_>>())),
        ("data on no stream", with(&[frame(0, 0, 1, b"data")])),
        ("a push promise", with(&[frame(5, 4, 1, &[0, 0, 0, 2, 0x82])])),
        ("a window of nothing", with(&[frame(8, 0, 0, &[0; 4])])),
    ]
}

async fn throw(address: SocketAddr, what: &[u8]) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    // Whether it takes it all is its affair; that it goes on is ours.
    let _taken = tokio::time::timeout(Duration::from_secs(2), stream.write_all(what)).await;
    let mut answer = vec![0; 1024];
    let _answer = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut answer)).await;
}

async fn still_serves(sidecar: &Sidecar, after: &str) {
    for mut client in [sidecar.client(), sidecar.tls_client("orders")] {
        let echoed = within(
            after,
            client.echo(with_token(EchoRequest::default(), &sidecar.token())),
        )
        .await;
        assert!(echoed.is_ok(), "{after}: {echoed:?}");
    }
}

#[tokio::test]
async fn garbage_on_any_port_stops_nothing() {
    let sidecar = Sidecar::start().await;
    let mut ports = sidecar.addresses.listeners.clone();
    ports.extend(sidecar.addresses.verify_grpc);
    ports.push(sidecar.addresses.admin);
    for (name, what) in garbage() {
        for port in &ports {
            throw(*port, &what).await;
        }
        let path = sidecar.addresses.verify_unix.as_ref().expect("a path");
        let mut stream = UnixStream::connect(path).await.expect("connected");
        let _taken = tokio::time::timeout(Duration::from_secs(2), stream.write_all(&what)).await;
        drop(stream);
        still_serves(&sidecar, name).await;
    }
    assert!(!sidecar.running.is_finished());
    assert_eq!(super::admin::get(&sidecar, "/live").await.0, 200);
}

/// G18: a header list over 16 KiB is refused, in one field or in many.
#[tokio::test]
async fn large_header_lists_are_refused() {
    let sidecar = Sidecar::start().await;
    let large = "x".repeat(17 * 1024);
    let one = call(sidecar.plaintext()).header("x-large", &large);
    let many = (0..400).fold(call(sidecar.plaintext()), |request, n| {
        request.header(format!("x-many-{n}"), "x".repeat(20))
    });
    for request in [one, many] {
        let answer = send(sidecar.plaintext(), request, envelope(&EchoRequest::default())).await;
        assert!(
            answer.as_ref().is_ok_and(|answer| answer.status.as_u16() == 431) || answer.is_err(),
            "{answer:?}"
        );
    }
    assert!(sidecar.service.seen().is_empty());
    still_serves(&sidecar, "large headers").await;
}

/// G19: opening and resetting for ever ends with the connection, and nobody else notices.
#[tokio::test]
async fn rapid_resets_end_the_connection_that_sends_them() {
    let sidecar = Sidecar::start().await;
    let mut stream = TcpStream::connect(sidecar.plaintext()).await.expect("connected");
    stream.write_all(&preface()).await.expect("sent");
    // Indexed fields only: POST, http, and `/` for the path.
    let headers = [0x83, 0x86, 0x84];
    let flood = (0..100_000_u32).flat_map(|n| {
        let id = 2 * n + 1;
        [frame(1, 5, id, &headers), frame(3, 0, id, &[0, 0, 0, 8])].concat()
    });
    let flood: Vec<u8> = flood.collect();
    let (mut reading, mut writing) = stream.split();
    let write = async {
        // Fails once the connection is ended.
        let _written = writing.write_all(&flood).await;
    };
    let read = async {
        let mut sink = vec![0; 65_536];
        while reading.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    };
    within(
        "the end of the connection",
        futures_util::future::join(write, read),
    )
    .await;
    still_serves(&sidecar, "rapid resets").await;
}

/// G26: streams beyond the cap are not opened.
#[tokio::test]
async fn streams_beyond_the_cap_are_refused() {
    let sidecar = Sidecar::start().await;
    assert_eq!(
        send_fields(sidecar.plaintext(), crate::support::raw::GOOD).await,
        Outcome::Answered
    );
    let mut stream = TcpStream::connect(sidecar.plaintext()).await.expect("connected");
    let mut flood = preface();
    for n in 0..2000_u32 {
        // Not ended, so that each stays open.
        flood.extend(frame(1, 4, 2 * n + 1, &[0x83, 0x86, 0x84]));
    }
    stream.write_all(&flood).await.expect("sent");
    still_serves(&sidecar, "many streams").await;
}

/// G25 with real time: a thousand silent connections take no place from others.
#[tokio::test]
async fn silent_connections_do_not_keep_others_out() {
    let sidecar = Sidecar::start().await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(TcpStream::connect(sidecar.plaintext()).await.expect("connected"));
    }
    still_serves(&sidecar, "silence").await;
    drop(silent);
}
