//! Decisions about requests that go another way: what is known of such a request when it is decided, and nothing of how it ends.

use std::net::SocketAddr;

use countersign_core::names::ClientId;
use countersign_core::spiffe::SpiffeId;
use countersign_core::trust::Epoch;
use countersign_verifier::verifier::{Admission, Admitted, Decision};
use http::{HeaderMap, Method, Uri};

use super::lines::Weight;
use super::record::{TraceId, millis};
use super::{AccessLog, Entry};
use crate::metrics::Judged;

/// A request that was decided on for somebody else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) remote: Option<SocketAddr>,
    /// Whose certificate its caller showed.
    pub(crate) peer: Option<&'a SpiffeId>,
    /// The pattern by which its method was found.
    pub(crate) route: Option<&'a str>,
}

/// What was decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict<'a> {
    judged: Judged,
    epoch: Epoch,
    admitted: Option<&'a Admitted>,
    /// Whose request it is that passed as nobody's.
    observed: Option<&'a ClientId>,
}

impl<'a> From<&'a Decision> for Verdict<'a> {
    fn from(decision: &'a Decision) -> Self {
        let observed = decision.observed.as_ref();
        Self {
            judged: decision.into(),
            epoch: decision.epoch,
            admitted: match &decision.verdict {
                Ok(Admission::Token(admitted)) => Some(admitted),
                Ok(Admission::Open) | Err(_) => None,
            },
            observed: observed.and_then(|observed| observed.client_id.as_ref()),
        }
    }
}

impl Verdict<'_> {
    /// A refusal on `epoch`, for what comes before the token.
    pub(crate) const fn refused(reason: &'static str, epoch: Epoch) -> Self {
        Self {
            judged: Judged::refused(reason),
            epoch,
            admitted: None,
            observed: None,
        }
    }
}

impl AccessLog {
    /// Tells of what was decided about `request`, if that much is known of it, for who asks at `listener`; unless it is one of those of which
    /// only a sample is told. Those cost nothing more.
    pub(crate) fn tell_decided(
        &self,
        listener: &'static str,
        request: Option<&Request<'_>>,
        verdict: &Verdict<'_>,
    ) {
        let weight = if matches!(verdict.judged.decision, "refused" | "observed") {
            Weight::MustBeTold
        } else if self.sampler.takes_this_one() {
            Weight::Ordinary
        } else {
            return;
        };
        let claims = verdict.admitted.map(Admitted::claims);
        let client = claims.map(|claims| &claims.client_id).or(verdict.observed);
        let authority = request.and_then(|request| request.uri.authority());
        let trace = request.and_then(|request| TraceId::of(request.headers));
        let entry = Entry {
            start_time: Entry::time(self.trust.clock().now_millis()),
            listener,
            downstream_remote_address: request.and_then(|request| request.remote),
            downstream_peer_uri_san: request.and_then(|request| request.peer).map(|id| id.as_str()),
            method: request.map(|request| request.method.as_str()),
            authority: authority.map(|authority| authority.as_str()),
            path: request.map(|request| request.uri.path()),
            route_name: request.and_then(|request| request.route),
            decision: Some(verdict.judged.decision),
            reason: Some(verdict.judged.reason),
            client: client.map(ClientId::as_str),
            subject: claims.map(|claims| claims.subject.to_string()),
            token_id: claims.map(|claims| claims.token_id.as_str()),
            epoch: Some(verdict.epoch),
            trust_age_ms: self.trust.status().age.map(millis),
            trace_id: trace.map(TraceId::text),
            ..Entry::default()
        };
        self.tell(&entry, weight);
    }
}
