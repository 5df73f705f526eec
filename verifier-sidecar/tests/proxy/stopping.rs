//! Stopping: open calls may end, new ones go elsewhere, and it does not take for ever.

use std::time::Duration;

use countersign_proto::demo::v1::{ChatRequest, EchoRequest, ExpandRequest};
use tokio::net::TcpStream;

use crate::support::{METHODS, Setup, Sidecar, eventually, with_token, within};

/// F71: a call that is open when the end begins is served to its end.
#[tokio::test]
async fn open_calls_are_served_to_their_end() {
    let sidecar = Sidecar::start().await;
    let (sender, messages) = tokio::sync::mpsc::channel(1);
    let request = with_token(
        tokio_stream::wrappers::ReceiverStream::new(messages),
        &sidecar.token(),
    );
    let mut client = sidecar.client();
    let mut answers = client.chat(request).await.expect("a stream").into_inner();
    sidecar.shutdown.request();
    let address = sidecar.plaintext();
    eventually("the closed door", async || {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    let message = "late".to_owned();
    sender.send(ChatRequest { message }).await.expect("sent");
    let answer = within("an answer", answers.message())
        .await
        .expect("no error")
        .expect("an answer");
    assert_eq!(answer.message, "late");
    drop(sender);
    assert_eq!(
        within("the end", answers.message()).await.expect("no error"),
        None
    );
    sidecar.stop().await;
}

/// F71: a call that does not end is cut.
#[tokio::test]
async fn calls_that_do_not_end_are_cut() {
    let setup = Setup {
        more: format!("{METHODS}\n[limits]\ndrain = \"200ms\"\n"),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let request = ExpandRequest {
        message: "for ever".to_owned(),
        count: 0,
    };
    let mut client = sidecar.client();
    let opened = client.expand(with_token(request, &sidecar.token())).await;
    let mut answers = opened.expect("a stream").into_inner();
    answers.message().await.expect("no error").expect("an answer");
    sidecar.stop().await;
    let ended = within("the cut", async { while answers.message().await.is_ok() {} });
    ended.await;
}

/// The state directory is free for the next process at once.
#[tokio::test]
async fn a_sidecar_starts_again_where_another_stopped() {
    let setup = Setup {
        more: format!("{METHODS}\n[limits]\nconnection_age = \"200ms\"\n"),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    // Callers do not notice that connections are wound up.
    let mut client = sidecar.client();
    let start = tokio::time::Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let echoed = client
            .echo(with_token(EchoRequest::default(), &sidecar.token()))
            .await;
        assert!(echoed.is_ok(), "{echoed:?}");
    }
    sidecar.stop().await;
}
