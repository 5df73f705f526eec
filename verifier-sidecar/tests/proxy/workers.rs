//! Several workers: each connection stays on one, all of them serve, and what holds for one holds for all together.

use std::os::unix::fs::PermissionsExt as _;

use countersign_proto::demo::v1::demo_service_client::DemoServiceClient;
use countersign_proto::demo::v1::{ChatRequest, ChatResponse, EchoRequest};
use countersign_verifier::test_util::{self, revoke_token};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::support::upstream::RawService;
use crate::support::{ECHO, METHODS, Setup, Sidecar, eventually, reason, with_token, within};

const WORKERS: usize = 3;

/// A sidecar of several workers.
async fn sidecar(setup: Setup) -> Sidecar {
    Sidecar::with(Setup {
        workers: WORKERS,
        ..setup
    })
    .await
}

/// Callers with a connection each, as many for each worker.
fn callers(sidecar: &Sidecar) -> Vec<DemoServiceClient<Channel>> {
    (0..WORKERS).map(|_| sidecar.client()).collect()
}

async fn echo(client: &mut DemoServiceClient<Channel>, token: &str) -> Result<(), Status> {
    let message = "hello".to_owned();
    let answer = client.echo(with_token(EchoRequest { message }, token));
    let answer = within("an answer", answer).await?;
    assert_eq!(answer.into_inner().message, "hello");
    Ok(())
}

/// A call that goes on until its end is dropped.
async fn chat(
    client: &mut DemoServiceClient<Channel>,
    token: &str,
) -> (mpsc::Sender<ChatRequest>, Streaming<ChatResponse>) {
    let (sender, messages) = mpsc::channel(1);
    let request = with_token(ReceiverStream::new(messages), token);
    let answers = client.chat(request).await.expect("a stream").into_inner();
    (sender, answers)
}

/// Connections to the service tell on how many workers the callers are: each has its own.
#[tokio::test]
async fn connections_are_spread_and_all_are_served() {
    let service = RawService::start(65_535, 65_535).await;
    let setup = Setup {
        upstream: Some(format!("http://{}", service.address)),
        more: format!("{METHODS}\n[limits]\nupstream_connections = 1\n"),
        ..Setup::default()
    };
    let sidecar = sidecar(setup).await;
    let token = sidecar.token();
    let mut first = callers(&sidecar);
    for (others, client) in first.iter_mut().enumerate() {
        echo(client, &token).await.expect("let in");
        assert_eq!(service.connections(), others + 1);
    }
    for client in callers(&sidecar).iter_mut().chain(&mut first) {
        echo(client, &token).await.expect("let in");
    }
    assert_eq!(service.connections(), WORKERS);
    sidecar.stop().await;
}

/// TLS with the handshake, and the socket of the local API.
#[tokio::test]
async fn every_listener_is_served_by_all() {
    let mut sidecar = sidecar(Setup::default()).await;
    let token = sidecar.token();
    let mut callers = Vec::new();
    for _ in 0..WORKERS {
        let mut client = sidecar.tls_client("orders");
        echo(&mut client, &token).await.expect("let in");
        let mut asking = super::api::unix(&sidecar);
        let asked = asking.verify(super::api::request(&token, ECHO));
        within("a verdict", asked).await.expect("a verdict");
        callers.push((client, asking));
    }
    let socket = sidecar.addresses.verify_unix.clone().expect("a path");
    let mode = std::fs::metadata(&socket).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(callers);
    sidecar.shutdown.request();
    within("the end", &mut sidecar.running).await.expect("no panic");
    assert!(!socket.exists());
}

#[tokio::test]
async fn the_limit_of_connections_is_that_of_all_together() {
    let setup = Setup {
        more: format!("{METHODS}\n[limits]\nconnections = {WORKERS}\n"),
        ..Setup::default()
    };
    let sidecar = sidecar(setup).await;
    let token = sidecar.token();
    let mut inside = callers(&sidecar);
    for client in &mut inside {
        echo(client, &token).await.expect("let in");
    }
    let (mut client, one_more) = (sidecar.client(), token.clone());
    let outside = tokio::spawn(async move { echo(&mut client, &one_more).await });
    for client in &mut inside {
        // Time enough for it to come in.
        for _ in 0..50 {
            echo(client, &token).await.expect("let in");
        }
    }
    assert!(!outside.is_finished());
    inside.pop();
    within("a place", outside)
        .await
        .expect("no panic")
        .expect("let in");
    sidecar.stop().await;
}

/// One trust for all: once it is in force, nobody is let in who was revoked, on whichever worker.
#[tokio::test]
async fn a_revocation_is_seen_by_all_at_once() {
    let sidecar = sidecar(Setup::default()).await;
    let token = sidecar.token();
    let mut clients = callers(&sidecar);
    let mut streams = Vec::new();
    for client in &mut clients {
        echo(client, &token).await.expect("let in");
        streams.push(chat(client, &token).await);
    }
    let state = sidecar.issuer.state(2, [revoke_token("1.1")]);
    test_util::trust(&sidecar.trust, state);
    for client in &mut clients {
        let refused = echo(client, &token).await.expect_err("revoked");
        assert_eq!(reason(&refused), "token_revoked");
    }
    for (_open, mut answers) in streams {
        let ended = within("the end", answers.message()).await;
        assert_eq!(reason(&ended.expect_err("revoked")), "token_revoked");
    }
    sidecar.stop().await;
}

/// F71: open calls may end on all of them, nobody new comes in, and then it is over.
#[tokio::test]
async fn all_of_them_drain() {
    let sidecar = sidecar(Setup::default()).await;
    let token = sidecar.token();
    let mut clients = callers(&sidecar);
    let mut streams = Vec::new();
    for client in &mut clients {
        streams.push(chat(client, &token).await);
    }
    sidecar.shutdown.request();
    let address = sidecar.plaintext();
    eventually("the closed door", async || {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    for (sender, mut answers) in streams {
        let message = "late".to_owned();
        sender.send(ChatRequest { message }).await.expect("sent");
        let answer = within("an answer", answers.message()).await.expect("no error");
        assert_eq!(answer.expect("an answer").message, "late");
        assert!(!sidecar.running.is_finished());
        drop(sender);
        assert_eq!(
            within("the end", answers.message()).await.expect("no error"),
            None
        );
    }
    sidecar.stop().await;
}

/// A task that panics takes neither its worker with it nor what that worker serves.
#[tokio::test]
async fn a_panic_ends_nothing_else() {
    let sidecar = sidecar(Setup::default()).await;
    let token = sidecar.token();
    let mut before = callers(&sidecar);
    for client in &mut before {
        echo(client, &token).await.expect("let in");
    }
    for runtime in sidecar.runtimes() {
        let panicked = runtime.spawn(async { panic!("on purpose") }).await;
        assert!(panicked.expect_err("a panic").is_panic());
    }
    for client in callers(&sidecar).iter_mut().chain(&mut before) {
        echo(client, &token).await.expect("let in");
    }
    sidecar.stop().await;
}
