//! What is kept of a call while it goes on, should it be told of at its end. It costs counters of what is shared, and one of its own: of
//! the bytes that its request's body brings, which pass elsewhere than those of the answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use countersign_core::names::ClientId;
use countersign_core::trust::Epoch;
use countersign_verifier::verifier::{Admission, Admitted, Decision};
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

use super::lines::Weight;
use super::{AccessLog, Entry};
use crate::server::listener::Peer;

/// A call that may be told of.
#[derive(Debug)]
pub(crate) struct Record {
    log: Arc<AccessLog>,
    listener: &'static str,
    peer: Arc<Peer>,
    method: Method,
    uri: Uri,
    version: Version,
    /// Names the server where the target does not.
    host: Option<HeaderValue>,
    trace: Option<TraceId>,
    /// The token that it was let in with.
    admitted: Option<Admitted>,
    /// Whose call it is that passed as nobody's.
    observed: Option<ClientId>,
    /// Why it would have ended, were its method enforced: known once it would have.
    outlived: Option<Arc<OnceLock<&'static str>>>,
    epoch: Option<Epoch>,
    decision_took: Option<Duration>,
    upstream: Option<Arc<str>>,
    response_code: Option<StatusCode>,
    details: Option<&'static str>,
    bytes_received: Arc<AtomicU64>,
    bytes_sent: u64,
}

/// How a call ended, for its metrics and its line alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended<'a> {
    /// `allowed`, `refused`, `observed`; nothing where nothing was decided.
    pub(crate) decision: Option<&'static str>,
    /// For what.
    pub(crate) reason: Option<&'static str>,
    /// The pattern by which its method was found.
    pub(crate) route: Option<&'a str>,
    /// The gRPC status that the caller saw.
    pub(crate) code: &'static str,
    /// From its headers to its end.
    pub(crate) took: Duration,
}

impl Record {
    /// A call of this request that has come from `peer`.
    pub(crate) fn new<B>(log: Arc<AccessLog>, peer: Arc<Peer>, request: &http::Request<B>) -> Self {
        Self {
            log,
            listener: peer.listener,
            peer,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            host: request.headers().get(HOST).cloned(),
            trace: TraceId::of(request.headers()),
            admitted: None,
            observed: None,
            outlived: None,
            epoch: None,
            decision_took: None,
            upstream: None,
            response_code: None,
            details: None,
            bytes_received: Arc::default(),
            bytes_sent: 0,
        }
    }

    /// The same, out of the service beside the sidecar.
    pub(crate) fn outbound(mut self) -> Self {
        self.listener = "outbound";
        self
    }

    /// Takes note of what was decided, and how long that took.
    pub(crate) fn decided(&mut self, decision: &Decision, took: Duration) {
        self.epoch = Some(decision.epoch);
        self.decision_took = Some(took);
        if let Ok(Admission::Token(admitted)) = &decision.verdict {
            self.admitted = Some(admitted.clone());
        }
        let observed = decision.observed.as_ref();
        self.observed = observed.and_then(|observed| observed.client_id.clone());
    }

    /// Takes note of where it will be said why the call would have ended, were its method enforced.
    pub(crate) fn may_outlive(&mut self, outlived: Arc<OnceLock<&'static str>>) {
        self.outlived = Some(outlived);
    }

    /// Takes note of where it goes.
    pub(crate) fn goes_to(&mut self, upstream: &Arc<str>) {
        self.upstream = Some(Arc::clone(upstream));
    }

    /// Takes note of the HTTP status that the caller is sent.
    pub(crate) const fn responded(&mut self, status: StatusCode) {
        self.response_code = Some(status);
    }

    /// Takes note of why the sidecar ends it.
    pub(crate) const fn ended_for(&mut self, reason: &'static str) {
        self.details = Some(reason);
    }

    /// Counts the bytes of the request's body that are read.
    pub(crate) const fn received(&self) -> &Arc<AtomicU64> {
        &self.bytes_received
    }

    /// Takes note of a part of the answer.
    pub(crate) const fn sent(&mut self, bytes: u64) {
        self.bytes_sent = self.bytes_sent.saturating_add(bytes);
    }

    /// Tells of it, unless it is one of those of which only a sample is told.
    pub(crate) fn tell(&self, ended: &Ended<'_>) {
        let weight = if self.must_be_told(ended) {
            Weight::MustBeTold
        } else if self.log.sampler.takes_this_one() {
            Weight::Ordinary
        } else {
            return;
        };
        self.log.tell(&self.entry(ended), weight);
    }

    fn must_be_told(&self, ended: &Ended<'_>) -> bool {
        matches!(ended.decision, Some("refused" | "observed"))
            || self.details.is_some()
            || self.would_end_for().is_some()
            || is_failure(ended.code)
            || self.response_code.is_some_and(|code| code.is_server_error())
    }

    fn would_end_for(&self) -> Option<&'static str> {
        self.outlived.as_ref()?.get().copied()
    }

    fn entry<'a>(&'a self, ended: &Ended<'a>) -> Entry<'a> {
        let claims = self.admitted.as_ref().map(Admitted::claims);
        let client = claims.map(|claims| &claims.client_id).or(self.observed.as_ref());
        let identity = self.peer.identity.as_ref();
        let spiffe_id = identity.and_then(|identity| identity.spiffe_id.as_ref());
        let named = self.uri.authority().map(|authority| authority.as_str());
        let host = self.host.as_ref().and_then(|host| host.to_str().ok());
        let began = self
            .log
            .trust
            .clock()
            .now_millis()
            .saturating_sub(millis(ended.took));
        Entry {
            start_time: Entry::time(began),
            listener: self.listener,
            downstream_remote_address: self.peer.remote,
            downstream_peer_uri_san: spiffe_id.map(|id| id.as_str()),
            method: Some(self.method.as_str()),
            authority: named.or(host),
            path: Some(self.uri.path()),
            protocol: protocol(self.version),
            route_name: ended.route,
            decision: ended.decision,
            reason: ended.reason,
            client: client.map(ClientId::as_str),
            subject: claims.map(|claims| claims.subject.to_string()),
            token_id: claims.map(|claims| claims.token_id.as_str()),
            epoch: self.epoch,
            trust_age_ms: self.epoch.and_then(|_| self.log.trust.status().age).map(millis),
            response_code: self.response_code.map(|code| code.as_u16()),
            grpc_status: Some(ended.code).filter(|code| !code.starts_with("HTTP_")),
            response_code_details: self.details,
            would_end_for: self.would_end_for(),
            duration_us: Some(micros(ended.took)),
            decision_us: self.decision_took.map(micros),
            bytes_received: Some(self.bytes_received.load(Ordering::Relaxed)),
            bytes_sent: Some(self.bytes_sent),
            upstream_host: self.upstream.as_deref(),
            trace_id: self.trace.map(TraceId::text),
        }
    }
}

/// Whether a call that ended with this status failed, for whoever serves it: what OpenTelemetry's conventions call an error of a
/// server. The other codes are answers to what callers asked.
fn is_failure(code: &str) -> bool {
    matches!(
        code,
        "UNKNOWN" | "DEADLINE_EXCEEDED" | "UNIMPLEMENTED" | "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS"
    )
}

fn protocol(version: Version) -> Option<&'static str> {
    [
        (Version::HTTP_2, "HTTP/2"),
        (Version::HTTP_11, "HTTP/1.1"),
        (Version::HTTP_10, "HTTP/1.0"),
    ]
    .into_iter()
    .find_map(|(known, name)| (known == version).then_some(name))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The trace that a caller says its call belongs to (W3C Trace Context, section 3.2.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceId(u128);

impl TraceId {
    /// Nothing where the header is absent, repeated or malformed.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all("traceparent").iter();
        let (parent, None) = (parents.next()?.to_str().ok()?, parents.next()) else {
            return None;
        };
        let (version, rest) = parent.split_once('-')?;
        let (id, _) = rest.split_once('-')?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        let is_id = version.len() == 2 && id.len() == 32 && id.bytes().all(is_hex);
        let id = is_id.then(|| u128::from_str_radix(id, 16).ok())??;
        (id != 0).then_some(Self(id))
    }

    pub(super) fn text(self) -> String {
        format!("{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_trace_is_read_where_there_is_one() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let read = |values: &[String]| {
            let values = values
                .iter()
                .map(|value| HeaderValue::from_str(value).expect("a value"));
            let headers = values.map(|value| (http::HeaderName::from_static("traceparent"), value));
            TraceId::of(&headers.collect()).map(TraceId::text)
        };
        let good = format!("00-{id}-00f067aa0ba902b7-01");
        assert_eq!(read(std::slice::from_ref(&good)).as_deref(), Some(id));
        let wrong = [
            vec![],
            vec![good.clone(), good.clone()],
            vec![good.to_uppercase()],
            vec![format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32))],
            vec![format!("00-{id}")],
            vec![good.replacen("4b", "+b", 1)],
            vec![String::new()],
        ];
        for values in wrong {
            assert_eq!(read(&values), None, "{values:?}");
        }
    }
}
