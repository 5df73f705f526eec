//! Open streams whose tokens are revoked: how and when they end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use countersign_proto::demo::v1::ChatRequest;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::calling::{Answer, AuthorityArguments, bearing, latest_bound, now_millis, sidecar};
use crate::report::{Report, millis, say, spread};

/// In its first second a call is not judged again, as docs/staleness.md says.
const SHORT_CALL: Duration = Duration::from_secs(1);

/// How long a stream may go on before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a stream may go on after the receipt that says that the revocation is in force everywhere.
const AFTER_RECEIPT: Duration = Duration::from_millis(500);

/// What [`run`] needs.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    authority: AuthorityArguments,
    /// The sidecar's plaintext listener.
    #[arg(long)]
    sidecar: SocketAddr,
    /// How many streams.
    #[arg(long)]
    count: usize,
}

/// What [`hold`] needs.
#[derive(Debug, Args)]
pub(crate) struct HoldArguments {
    /// The sidecar's plaintext listener.
    #[arg(long)]
    sidecar: SocketAddr,
    /// A file with the token.
    #[arg(long)]
    token: PathBuf,
}

/// How a stream ended.
#[derive(Debug)]
struct End {
    at: Instant,
    at_millis: u64,
    answer: Answer,
}

/// A stream in both directions, which the service has answered once. Ends by itself never.
async fn open(address: SocketAddr, token: &str) -> JoinHandle<End> {
    let (sender, messages) = mpsc::channel(1);
    let request = bearing(ReceiverStream::new(messages), token);
    let message = "hello".to_owned();
    sender.send(ChatRequest { message }).await.expect("room for one");
    let mut answers = sidecar(address)
        .chat(request)
        .await
        .expect("the token is good")
        .into_inner();
    let answer = answers.message().await.expect("an answer").expect("an answer");
    assert_eq!(answer.message, "hello");
    tokio::spawn(async move {
        let ended = answers.message().await;
        let (at, at_millis) = (Instant::now(), now_millis());
        // Held until here: the caller has not hung up.
        drop(sender);
        let answer = match ended {
            Ok(_) => Answer::through(),
            Err(status) => Answer::refused(&status),
        };
        End {
            at,
            at_millis,
            answer,
        }
    })
}

/// Opens one stream, says so, and says when it has ended, in milliseconds since 1970, and how.
pub(crate) async fn hold(arguments: &HoldArguments) {
    let token = std::fs::read_to_string(&arguments.token).expect("a token");
    let stream = open(arguments.sidecar, token.trim_end()).await;
    say("open");
    let end = stream.await.expect("it is waited for");
    say(&format!(
        "{} {:?} {}",
        end.at_millis, end.answer.code, end.answer.reason
    ));
}

/// I-29: every stream ends within the bound after its token is revoked, with status and reason; the others go on.
pub(crate) async fn run(arguments: &Arguments, report: &mut Report) {
    let mut authority = arguments.authority.open();
    let mut streams = Vec::new();
    for _ in 0..arguments.count {
        let token = authority.token().await;
        let stream = open(arguments.sidecar, &token).await;
        streams.push((token, stream));
    }
    tokio::time::sleep(SHORT_CALL).await;
    let early = streams.iter().filter(|(_, stream)| stream.is_finished()).count();
    report.check(early == 0, &format!("{} streams are open", streams.len() - early));

    let (mut ends, mut after_receipt) = (Vec::new(), Vec::new());
    let (mut told_why, mut within, mut in_force) = (0, 0, 0);
    for (token, stream) in streams {
        // None ends before its own token is revoked.
        assert!(!stream.is_finished(), "a stream whose token is good has ended");
        let sent = Instant::now();
        let reach = authority.revoke(&token).await;
        let answered = Instant::now();
        let end = tokio::time::timeout(PATIENCE, stream).await;
        let end = end.expect("the stream ends").expect("it is waited for");
        ends.push(end.at.duration_since(sent));
        after_receipt.push(end.at.saturating_duration_since(answered));
        told_why +=
            usize::from(end.answer.code == Code::Unauthenticated && end.answer.reason == "TOKEN_REVOKED");
        let bound = latest_bound(&reach);
        in_force += usize::from(bound.is_none());
        within += usize::from(match bound {
            Some(by) => end.at_millis <= by,
            None => end.at.saturating_duration_since(answered) <= AFTER_RECEIPT,
        });
    }
    let count = ends.len();
    let (median, longest) = spread(&mut ends);
    let (_, late) = spread(&mut after_receipt);
    report.check(
        told_why == count,
        &format!("{told_why} of {count} streams ended with UNAUTHENTICATED TOKEN_REVOKED"),
    );
    report.check(
        within == count,
        &format!(
            "{within} of {count} ended within the bound of the receipt, which {in_force} times was `in force on all`: \
             p50 {}, max {} after the revocation was sent, at most {} after the receipt",
            millis(median),
            millis(longest),
            millis(late)
        ),
    );
}
