//! Calls of all four kinds pass as if nobody stood between.

use std::time::Duration;

use countersign_proto::demo::v1::*;
use countersign_verifier::test_util;
use tokio::net::UnixListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::raw::{call, envelope, send};
use crate::support::service::{self, Service};
use crate::support::{Setup, Sidecar, eventually, reason, with_token, within};

fn echo(message: &str) -> EchoRequest {
    EchoRequest {
        message: message.to_owned(),
    }
}

fn metrics_path() -> &'static str {
    "/metrics"
}

async fn gauge(sidecar: &Sidecar, name: &str) -> String {
    let text = super::admin::get(sidecar, metrics_path()).await.1;
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.and_then(|line| line.split(' ').nth(1))
        .unwrap_or_default()
        .to_owned()
}

/// I-30: when nothing goes on, nothing is counted as going on.
async fn is_quiet(sidecar: &Sidecar) {
    eventually("quiet", async || {
        gauge(sidecar, "countersign_active_streams").await == "0"
    })
    .await;
}

#[tokio::test]
async fn a_unary_call_passes_with_metadata_both_ways() {
    let sidecar = Sidecar::start().await;
    let response = sidecar
        .client()
        .echo(with_token(echo("hello"), &sidecar.token()))
        .await
        .expect("an answer");
    assert_eq!(
        response.metadata().get("x-from-service").expect("a header"),
        "yes"
    );
    let bytes = response.metadata().get_bin("x-bytes-bin").expect("a header");
    assert_eq!(bytes.to_bytes().expect("bytes").as_ref(), [0, 1, 254, 255]);
    assert_eq!(response.into_inner().message, "hello");
    is_quiet(&sidecar).await;
}

/// Errors of the service are its own: code, message and details.
#[tokio::test]
async fn errors_of_the_service_pass_as_they_are() {
    let sidecar = Sidecar::start().await;
    let status = sidecar
        .client()
        .echo(with_token(echo("fail"), &sidecar.token()))
        .await
        .expect_err("as asked");
    assert_eq!(
        (status.code(), status.message()),
        (Code::DataLoss, "as asked: 100% \u{fc}")
    );
    let info = status.get_details_error_info().expect("details");
    assert_eq!(
        (info.reason.as_str(), info.metadata["pot"].as_str()),
        ("TEAPOT", "tea")
    );
    is_quiet(&sidecar).await;
}

#[tokio::test]
async fn a_client_stream_passes() {
    let sidecar = Sidecar::start().await;
    let parts = (0..1000).map(|n| CollectRequest {
        message: n.to_string(),
    });
    let request = with_token(tokio_stream::iter(parts), &sidecar.token());
    let answer = sidecar
        .client()
        .collect(request)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(answer.count, 1000);
    assert!(answer.message.ends_with(" 998 999"));
}

/// Far more than any window: it arrives whole, and in order.
#[tokio::test]
async fn a_server_stream_passes() {
    let sidecar = Sidecar::start().await;
    let message = "x".repeat(10_000);
    let request = ExpandRequest {
        message: message.clone(),
        count: 2000,
    };
    let mut answers = sidecar
        .client()
        .expand(with_token(request, &sidecar.token()))
        .await
        .expect("a stream")
        .into_inner();
    for index in 0..2000 {
        let answer = answers.message().await.expect("no error").expect("an answer");
        assert_eq!((answer.index, answer.message.len()), (index, message.len()));
    }
    assert_eq!(answers.message().await.expect("no error"), None);
    is_quiet(&sidecar).await;
}

/// Each message is answered before the next one is sent: nothing waits for the end of anything.
#[tokio::test]
async fn a_bidirectional_stream_passes_message_by_message() {
    let sidecar = Sidecar::start().await;
    let (sender, messages) = tokio::sync::mpsc::channel(1);
    let request = with_token(
        tokio_stream::wrappers::ReceiverStream::new(messages),
        &sidecar.token(),
    );
    let mut answers = within("a stream", sidecar.client().chat(request))
        .await
        .expect("a stream")
        .into_inner();
    for index in 0..100 {
        let message = format!("message {index}");
        sender
            .send(ChatRequest {
                message: message.clone(),
            })
            .await
            .expect("sent");
        let answer = within("an answer", answers.message())
            .await
            .expect("no error")
            .expect("an answer");
        assert_eq!((answer.index, answer.message), (index, message));
    }
    sender
        .send(ChatRequest {
            message: "fail".to_owned(),
        })
        .await
        .expect("sent");
    let status = within("the end", answers.message()).await.expect_err("as asked");
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, "as asked"));
    is_quiet(&sidecar).await;
}

#[tokio::test]
async fn many_calls_at_once_pass() {
    let sidecar = Sidecar::start().await;
    let token = sidecar.token();
    // More than one connection to the service takes.
    let streams = (0..250).map(|_| {
        let (mut client, token) = (sidecar.client(), token.clone());
        async move {
            let request = ExpandRequest {
                message: "for ever".to_owned(),
                count: 0,
            };
            let mut answers = client
                .expand(with_token(request, &token))
                .await
                .expect("a stream")
                .into_inner();
            answers.message().await.expect("no error").expect("an answer");
            answers
        }
    });
    let streams = within("all streams", futures_util::future::join_all(streams)).await;
    let answer = within(
        "a call beside them",
        sidecar.client().echo(with_token(echo("hello"), &token)),
    )
    .await;
    assert_eq!(answer.expect("an answer").into_inner().message, "hello");
    assert_eq!(gauge(&sidecar, "countersign_active_streams").await, "250");
    drop(streams);
    is_quiet(&sidecar).await;
}

/// G30: a caller who goes away leaves nothing behind.
#[tokio::test]
async fn a_call_that_is_cancelled_leaves_nothing_behind() {
    let sidecar = Sidecar::start().await;
    let token = sidecar.token();
    for patience in [0, 1, 2, 5, 20] {
        let mut client = sidecar.client();
        let call = client.echo(with_token(echo("sleep"), &token));
        let given_up = tokio::time::timeout(Duration::from_millis(patience), call).await;
        assert!(given_up.is_err());
    }
    is_quiet(&sidecar).await;
}

/// G12: the deadline is enforced although the service does not.
#[tokio::test]
async fn a_deadline_ends_a_call_that_the_service_does_not_end() {
    let sidecar = Sidecar::start().await;
    // Not through tonic's client, which would enforce the deadline itself.
    for (timeout, patience) in [("50m", 50), ("1n", 0), ("0S", 0)] {
        let request = call(sidecar.plaintext())
            .header("authorization", format!("Bearer {}", sidecar.token()))
            .header("grpc-timeout", timeout);
        let start = tokio::time::Instant::now();
        let answer = within(
            "the deadline",
            send(sidecar.plaintext(), request, envelope(&echo("sleep"))),
        );
        let answer = answer.await.expect("an answer");
        assert_eq!(
            (answer.grpc_status(), answer.reason().as_str()),
            (Some(4), "deadline_exceeded")
        );
        assert!(start.elapsed() >= Duration::from_millis(patience), "{timeout}");
    }
    is_quiet(&sidecar).await;
}

#[tokio::test]
async fn a_deadline_ends_a_stream_in_the_middle() {
    let sidecar = Sidecar::start().await;
    let request = ExpandRequest {
        message: "for ever".to_owned(),
        count: 0,
    };
    let mut request = with_token(request, &sidecar.token());
    request
        .metadata_mut()
        .insert("grpc-timeout", "200m".parse().expect("a value"));
    let mut answers = sidecar
        .client()
        .expand(request)
        .await
        .expect("a stream")
        .into_inner();
    let status = within("the deadline", async {
        loop {
            match answers.message().await {
                Ok(answer) => assert!(answer.is_some(), "ended well"),
                Err(status) => return status,
            }
        }
    });
    assert_eq!(status.await.code(), Code::DeadlineExceeded);
    is_quiet(&sidecar).await;
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_is_unavailable() {
    let setup = Setup {
        upstream: Some("http://127.0.0.1:9".to_owned()),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    for _ in 0..3 {
        let status = sidecar
            .client()
            .echo(with_token(echo("hello"), &sidecar.token()))
            .await
            .expect_err("nobody");
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "upstream_unavailable")
        );
    }
    is_quiet(&sidecar).await;
}

#[tokio::test]
async fn a_service_that_comes_back_is_found_again() {
    let mut sidecar = Sidecar::start().await;
    let (mut client, token) = (sidecar.client(), sidecar.token());
    client
        .echo(with_token(echo("hello"), &token))
        .await
        .expect("an answer");
    let address = sidecar.service.address;
    sidecar.service.kill();
    eventually("the loss", async || {
        let status = client.echo(with_token(echo("hello"), &token)).await;
        status.is_err_and(|status| reason(&status) == "upstream_unavailable")
    })
    .await;
    sidecar.service = Service::start_at(address).await;
    eventually("the return", async || {
        client.echo(with_token(echo("hello"), &token)).await.is_ok()
    })
    .await;
}

/// A service that dies in the middle of a stream is told as such, and not as a broken connection.
#[tokio::test]
async fn a_service_that_dies_ends_its_calls_as_unavailable() {
    let mut sidecar = Sidecar::start().await;
    let request = ExpandRequest {
        message: "for ever".to_owned(),
        count: 0,
    };
    let mut answers = sidecar
        .client()
        .expand(with_token(request, &sidecar.token()))
        .await
        .expect("a stream")
        .into_inner();
    answers.message().await.expect("no error").expect("an answer");
    sidecar.service.kill();
    let status = within("the end", async {
        loop {
            if let Err(status) = answers.message().await {
                return status;
            }
        }
    });
    let status = status.await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "upstream_unavailable")
    );
}

#[tokio::test]
async fn a_service_on_a_unix_socket_is_reached() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("service.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let seen = std::sync::Arc::default();
    let task = service::serve(UnixListenerStream::new(listener), std::sync::Arc::clone(&seen));
    let setup = Setup {
        upstream: Some(format!("unix://{}", path.display())),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let answer = sidecar
        .client()
        .echo(with_token(echo("hello"), &sidecar.token()))
        .await
        .expect("an answer");
    assert_eq!(answer.into_inner().caller.expect("a caller").client_id, "orders");
    assert_eq!(seen.lock().expect("no panic").len(), 1);
    task.abort();
}

/// I-28: not even a connection reaches the service before the verdict.
#[tokio::test]
async fn a_refused_call_does_not_touch_the_service() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let setup = Setup {
        upstream: Some(format!("http://{}", listener.local_addr().expect("an address"))),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let stranger = test_util::TestIssuer::new("stranger").token(&test_util::claims("1.1"));
    let parts = tokio_stream::iter(0..).map(|n| CollectRequest {
        message: n.to_string(),
    });
    let status = sidecar
        .client()
        .collect(with_token(parts, &stranger))
        .await
        .expect_err("a stranger");
    assert_eq!(status.code(), Code::Unauthenticated);
    let connected = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(connected.is_err(), "a connection was made");
}
