//! Stopping: open calls may end, new ones go elsewhere, and it does not take for ever.

use countersign_proto::demo::v1::{ChatRequest, EchoRequest, ExpandRequest};
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::{METHODS, Setup, Sidecar, eventually, reason, with_token, within};

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

/// Connections are wound up from time to time, and no call that was sent is lost by it.
#[tokio::test]
async fn connections_are_wound_up_without_a_lost_call() {
    let setup = Setup {
        more: format!("{METHODS}\n[limits]\nconnection_age = \"100ms\"\n"),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let mut client = sidecar.client();
    eventually("three connections", async || {
        for _ in 0..20 {
            let echo = client.echo(with_token(EchoRequest::default(), &sidecar.token()));
            if let Err(status) = echo.await {
                // tonic's client hands a call to a connection that it has just closed, and does not send it.
                assert!(
                    status.code() == Code::Cancelled && reason(&status).is_empty(),
                    "{status:?}"
                );
            }
        }
        let (_, metrics) = super::admin::get(&sidecar, "/metrics").await;
        let aged = "countersign_connections_ended_total{listener=\"plaintext\",reason=\"aged\"} ";
        let ended = metrics.lines().find_map(|line| line.strip_prefix(aged));
        ended.is_some_and(|count| count.parse::<u32>().expect("a number") >= 2)
    })
    .await;
    let (_, metrics) = super::admin::get(&sidecar, "/metrics").await;
    let lost = metrics
        .lines()
        .any(|line| line.starts_with("countersign_requests_total") && !line.contains("code=\"OK\""));
    assert!(!lost, "{metrics}");
    sidecar.stop().await;
}
