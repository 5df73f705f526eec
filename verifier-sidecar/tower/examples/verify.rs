//! Asks a sidecar about the tokens on stdin, one in each line, and prints one line for each.
//!
//! ```sh
//! cargo run --release -p countersign-tower --example verify -- one|batch|stream TARGET METHOD <tokens
//! ```
//!
//! `TARGET` is `unix:///run/countersign-sidecar/verify.sock`, or `host:port` on loopback; `docs/verify-api.md` goes through it. What asks
//! needs `countersign-proto` alone: the layer of this crate is for services that verify by themselves.

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign_proto::verify::v1::verify_response::Verdict;
use countersign_proto::verify::v1::verify_service_client::VerifyServiceClient;
use countersign_proto::verify::v1::{VerifyBatchRequest, VerifyRequest, VerifyResponse, VerifyStreamRequest};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

type Sidecar = VerifyServiceClient<Channel>;
type Answers = Vec<VerifyResponse>;

/// Without an answer there is no permission, so nobody waits for one for long.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One call for each question: what a service does that is called once.
async fn one(mut sidecar: Sidecar, questions: Vec<VerifyRequest>) -> Result<Answers, Status> {
    let mut answers = Vec::new();
    for question in questions {
        answers.push(sidecar.verify(question).await?.into_inner());
    }
    Ok(answers)
}

/// One call for all of them: up to 1024.
async fn batch(mut sidecar: Sidecar, requests: Vec<VerifyRequest>) -> Result<Answers, Status> {
    let answer = sidecar.verify_batch(VerifyBatchRequest { requests }).await?;
    Ok(answer.into_inner().responses)
}

/// One call that stays open. Questions go out without waiting for answers, which come in the same order.
async fn stream(mut sidecar: Sidecar, questions: Vec<VerifyRequest>) -> Result<Answers, Status> {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let questions = questions.into_iter().map(move |question| {
        counted.fetch_add(1, Ordering::Relaxed);
        VerifyStreamRequest {
            request: Some(question),
        }
    });
    let mut call = sidecar
        .verify_stream(tokio_stream::iter(questions))
        .await?
        .into_inner();
    let (mut answers, mut ahead) = (Vec::new(), 0);
    while let Some(answer) = call.message().await? {
        ahead = ahead.max(asked.load(Ordering::Relaxed).saturating_sub(answers.len()));
        answers.push(answer.response.unwrap_or_default());
    }
    let _unread = writeln!(io::stderr(), "at most {ahead} without an answer");
    Ok(answers)
}

/// What the answer says. Whatever is not `allowed` is refused.
fn verdict(response: VerifyResponse) -> String {
    match response.verdict {
        Some(Verdict::Allowed(allowed)) => format!("allowed {} {}", allowed.client_id, allowed.token_id),
        Some(Verdict::Refused(refused)) => format!("refused {}", refused.reason),
        None => "refused".to_owned(),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [form, target, method] = &arguments[..] else {
        return Err("verify one|batch|stream TARGET METHOD".into());
    };
    let mut questions = Vec::new();
    for line in io::stdin().lines() {
        questions.push(VerifyRequest {
            token: line?,
            path: method.clone(),
            ..VerifyRequest::default()
        });
    }
    let address = if target.starts_with("unix:") {
        target.clone()
    } else {
        format!("http://{target}")
    };
    let endpoint = Endpoint::from_shared(address)?
        .connect_timeout(TIMEOUT)
        .timeout(TIMEOUT);
    let sidecar = VerifyServiceClient::new(endpoint.connect_lazy());
    let answers = match form.as_str() {
        "one" => one(sidecar, questions).await,
        "batch" => batch(sidecar, questions).await,
        "stream" => stream(sidecar, questions).await,
        _ => return Err("one, batch or stream".into()),
    };
    // No verdict: the question was not understood, or nobody answered. Not allowed.
    let answers = answers.map_err(|status| format!("no answer: {:?}", status.code()))?;
    for answer in answers {
        writeln!(io::stdout(), "{}", verdict(answer))?;
    }
    Ok(())
}
