use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::rig::{Stranger, echo, eventually, refused, server, server_with};
use crate::{HandshakeFailure, Limits, PlainListener};

/// S21, S26: peers that say nothing hold up neither others nor, beyond their time, their places.
#[tokio::test]
async fn a_silent_peer_holds_up_nobody() {
    let mut server = server().await;
    let leaf = server.root.workload("orders");
    let mut silent = TcpStream::connect(server.address).await.expect("connected");
    let client = Stranger::new(&server.root, Some(&leaf));
    let mut theirs = client.connect(server.address).await.expect("connected");
    let (mut ours, _) = server.listener.accept().await.expect("accepted");
    echo(&mut theirs, &mut ours).await.expect("alive");
    tokio::time::pause();
    assert_eq!(
        silent.read(&mut [0; 1]).await.unwrap_or(0),
        0,
        "cut off after the timeout"
    );
    assert_eq!(refused(&server.stats, HandshakeFailure::TimedOut), 1);
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_place() {
    let mut server = server_with(Limits {
        connections: 2,
        ..Limits::default()
    })
    .await;
    let leaf = server.root.workload("orders");
    let client = Stranger::new(&server.root, Some(&leaf));
    let mut held = Vec::new();
    for _ in 0..2 {
        let theirs = client.connect(server.address).await.expect("connected");
        held.push((theirs, server.listener.accept().await.expect("accepted")));
    }
    let (waiting, address) = (client.clone(), server.address);
    let third = tokio::spawn(async move { waiting.connect(address).await });
    eventually("full", || server.stats.full() == 1).await;
    assert_eq!(server.stats.accepted(), 2);
    held.pop();
    third.await.expect("joined").expect("connected");
    assert!(server.listener.accept().await.is_ok());
}

/// S22: a connection ends soon after its peer's certificate has expired, though nothing is said on it.
#[tokio::test]
async fn a_connection_does_not_outlive_the_peers_certificate() {
    let mut server = server().await;
    let leaf = server.root.workload("orders");
    let mut theirs = Stranger::new(&server.root, Some(&leaf))
        .connect(server.address)
        .await
        .expect("connected");
    let (mut ours, peer) = server.listener.accept().await.expect("accepted");
    echo(&mut theirs, &mut ours).await.expect("alive");
    let not_after = peer.identity.as_ref().expect("certificate").not_after;
    tokio::time::pause();
    let reading = tokio::spawn(async move { ours.read(&mut [0; 1]).await });
    tokio::time::advance(Duration::from_secs(3_600)).await;
    server.clock.set(not_after.as_seconds());
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(
        !reading.is_finished() && !peer.is_expired(not_after),
        "valid in its last second"
    );
    server.clock.set(not_after.as_seconds() + 1);
    let begun = tokio::time::Instant::now();
    let error = reading.await.expect("joined").expect_err("cut off");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(
        begun.elapsed() <= Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
    assert!(peer.is_expired(not_after.saturating_add(Duration::from_secs(1))));
}

#[tokio::test]
async fn the_plain_listener_has_the_same_limits() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let any_port = "127.0.0.1:0".parse().expect("address");
    let mut listener = PlainListener::bind_plain(any_port, limits).await.expect("bound");
    let stats = listener.stats();
    let mut one = TcpStream::connect(listener.local_addr())
        .await
        .expect("connected");
    let _two = TcpStream::connect(listener.local_addr())
        .await
        .expect("in the backlog");
    let (mut first, peer) = listener.accept().await.expect("accepted");
    assert!(peer.identity.is_none());
    one.write_all(b"x").await.expect("sent");
    first.read_exact(&mut [0; 1]).await.expect("received");
    eventually("full", || stats.full() == 1).await;
    assert_eq!(stats.accepted(), 1);
    drop(first);
    let (mut second, _) = listener.accept().await.expect("accepted");
    tokio::time::pause();
    let silence = second.read(&mut [0; 1]).await.expect_err("cut off");
    assert_eq!(silence.kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn the_socket_is_closed_with_the_listener() {
    let any_port = "127.0.0.1:0".parse().expect("address");
    let listener = PlainListener::bind_plain(any_port, Limits::default())
        .await
        .expect("bound");
    let address = listener.local_addr();
    TcpStream::connect(address).await.expect("connected");
    drop(listener);
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused)
        .await
        .expect("closed");
}
