//! What the questions of the API come to: one, many at once, or one after another.

use std::pin::Pin;

use countersign_core::Rejection;
use countersign_core::bearer;
use countersign_core::binding::PeerCertificate;
use countersign_core::requirements::MethodPath;
use countersign_core::spiffe::{SpiffeId, SpiffeIdError};
use countersign_proto::verify::v1;
use countersign_proto::verify::v1::verify_response::Verdict;
use countersign_verifier::verifier::{Admission, Decision, Question};
use countersign_wire::{status, verify};
use futures_util::future::{FutureExt as _, try_join_all};
use futures_util::stream::{Stream, StreamExt as _};
use tonic::Status;

use super::VerifyApi;
use crate::observations::Origin;
use crate::refusal_log::Refused;

/// The most requests in one batch.
const MOST: usize = 1024;

/// How many requests of a batch are judged before others get a turn: a new token costs a signature check.
const TURN: usize = 16;

/// How many requests of a stream are judged before the answer to the first has left.
const PIPELINED: usize = 64;

/// The answers of a stream.
pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<v1::VerifyStreamResponse, Status>> + Send>>;

/// Where a request stands, for complaints about it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// By itself.
    Alone,
    /// In a batch, counted from 0.
    InBatch(usize),
    /// In a message of a stream.
    InStream,
}

impl Place {
    fn invalid(self, field: &str, description: &str) -> Status {
        match self {
            Self::Alone => status::invalid(field, description),
            Self::InBatch(index) => status::invalid(&format!("requests[{index}].{field}"), description),
            Self::InStream => status::invalid(&format!("request.{field}"), description),
        }
    }
}

impl VerifyApi {
    /// The answer to `request`.
    pub(super) async fn judge(
        &self,
        request: v1::VerifyRequest,
        place: Place,
    ) -> Result<v1::VerifyResponse, Status> {
        let peer_certificate = peer_certificate(&request, place)?;
        let token = token(&request, place)?;
        let method = method(&request.path);
        let decision = match method {
            // As the proxy does: the form comes before the token.
            Err(rejection) => {
                self.verifier.count_refused(rejection);
                Decision::refused(rejection, self.verifier.trust().epoch())
            }
            Ok(method) => {
                let question = Question {
                    token,
                    method,
                    peer_certificate: peer_certificate.as_ref(),
                };
                self.verifier.decide_patiently(&question).await
            }
        };
        self.tell(&decision, method.ok().flatten());
        Ok(self.write(decision))
    }

    /// The answers to all of `requests`. Those that wait for a newer epoch wait together.
    pub(super) async fn judge_all(
        &self,
        requests: Vec<v1::VerifyRequest>,
    ) -> Result<Vec<v1::VerifyResponse>, Status> {
        if requests.is_empty() || requests.len() > MOST {
            return Err(status::invalid("requests", "are between 1 and 1024"));
        }
        let mut answers = Vec::with_capacity(requests.len());
        for (index, request) in requests.into_iter().enumerate() {
            if index % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            let mut judging = Box::pin(self.judge(request, Place::InBatch(index)));
            answers.push(match judging.as_mut().now_or_never() {
                Some(answer) => futures_util::future::ready(answer).left_future(),
                None => judging.right_future(),
            });
        }
        try_join_all(answers).await
    }

    /// The answers to `requests`, as they come.
    pub(super) fn judge_each(&self, requests: tonic::Streaming<v1::VerifyStreamRequest>) -> Answers {
        let api = self.clone();
        let answers = requests.map(move |request| {
            let api = api.clone();
            async move {
                let missing = || status::invalid("request", "is missing");
                let request = request?.request.ok_or_else(missing)?;
                let response = api.judge(request, Place::InStream).await?;
                Ok(v1::VerifyStreamResponse {
                    response: Some(response),
                })
            }
        });
        Box::pin(answers.buffered(PIPELINED))
    }

    fn tell(&self, decision: &Decision, method: Option<MethodPath<'_>>) {
        let refused = |denied| Refused {
            denied,
            method,
            remote: None,
            epoch: decision.epoch,
        };
        if let Err(denied) = &decision.verdict {
            self.log.tell(&refused(denied));
        }
        if let Some(observed) = &decision.observed {
            self.log.tell_observed(&refused(&observed.denied));
            let pattern = method.and_then(|method| self.verifier.rule(method).pattern.clone());
            let now = self.verifier.trust().clock().now();
            self.observations.note(pattern, observed, Origin::default(), now);
        }
    }

    fn write(&self, decision: Decision) -> v1::VerifyResponse {
        let verdict = match decision.verdict {
            Ok(Admission::Open) => Verdict::Allowed(v1::Allowed {
                open_method: true,
                ..v1::Allowed::default()
            }),
            Ok(Admission::Token(admitted)) => {
                let audience = self.verifier.expected().audience.as_str();
                Verdict::Allowed(verify::write_allowed(admitted.claims(), audience))
            }
            Err(denied) => Verdict::Refused(verify::write_refused(denied.rejection, denied.stale.as_ref())),
        };
        let observed = decision.observed.map(|observed| observed.denied);
        v1::VerifyResponse {
            verdict: Some(verdict),
            epoch: decision.epoch,
            would_refuse: observed
                .map(|denied| verify::write_refused(denied.rejection, denied.stale.as_ref())),
        }
    }
}

/// The credential asked about, in one of its two forms.
fn token(request: &v1::VerifyRequest, place: Place) -> Result<Result<&[u8], Rejection>, Status> {
    if request.token.is_empty() {
        let fields = request.authorization.iter().map(Vec::as_slice);
        return Ok(bearer::from_authorization(fields));
    }
    if request.authorization.is_empty() {
        return Ok(Ok(request.token.as_bytes()));
    }
    Err(place.invalid("authorization", "is not to be given together with `token`"))
}

fn method(path: &str) -> Result<Option<MethodPath<'_>>, Rejection> {
    if path.is_empty() {
        Ok(None)
    } else {
        MethodPath::parse(path).map(Some)
    }
}

/// The certificate of the connection asked about. A SPIFFE ID is of a certificate: without that nobody could say whether it is
/// revoked.
fn peer_certificate(request: &v1::VerifyRequest, place: Place) -> Result<Option<PeerCertificate>, Status> {
    let (sha256, spiffe_id) = (&request.peer_certificate_sha256, &request.peer_spiffe_id);
    if sha256.is_empty() {
        return if spiffe_id.is_empty() {
            Ok(None)
        } else {
            Err(place.invalid(
                "peer_spiffe_id",
                "is given together with `peer_certificate_sha256` only",
            ))
        };
    }
    let sha256 = <[u8; 32]>::try_from(sha256.as_slice()).map_err(|_length| {
        place.invalid(
            "peer_certificate_sha256",
            "is 32 bytes, or empty for no certificate",
        )
    })?;
    let invalid = |error: SpiffeIdError| place.invalid("peer_spiffe_id", &error.to_string());
    let spiffe_id = Some(spiffe_id).filter(|text| !text.is_empty());
    Ok(Some(PeerCertificate {
        spiffe_id: spiffe_id
            .map(|text| SpiffeId::parse(text))
            .transpose()
            .map_err(invalid)?,
        ..PeerCertificate::from(sha256)
    }))
}
