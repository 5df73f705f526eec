//! Every gRPC status that Countersign answers with, in tables without a catch-all: a new reason does not compile until it
//! has a row.
//!
//! Each status carries exactly one `google.rpc.ErrorInfo` of the domain [`DOMAIN`]. Its `reason` is the stable reason in
//! upper case, as that message's grammar asks; the metadata entry `reason` holds it as it stands in metrics and logs.

mod http;
mod no_token;

use std::collections::HashMap;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue};
use countersign_core::issuing::IssueError;
use countersign_core::staleness::Stale;
use countersign_core::{Outcome, Rejection};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

pub use http::{JSON, http_status, http_status_of, json, json_of};
pub use no_token::{NoToken, no_token, not_called, read_no_token};

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "countersign";

/// How much a refused caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disclosure {
    /// The class of the refusal only: the same bytes for every reason of one class.
    Coarse,
    /// The precise reason. For callers who are known, and for development.
    Precise,
}

/// Whatever else goes wrong on the authority's and the sidecar's services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The connection's certificate holds no identity that is accepted here.
    NoIdentity,
    /// The caller is no operator.
    NotAnOperator,
    /// The caller is no verifier.
    NotAVerifier,
    /// The identifier is taken, also by a deleted client.
    ClientExists,
    /// No such client.
    ClientUnknown,
    /// A SPIFFE ID or certificate is registered for another client.
    IdentityTaken,
    /// No such secret.
    SecretUnknown,
    /// The client has as many secrets as it may have.
    TooManySecrets,
    /// No such key.
    KeyUnknown,
    /// A key is prepared already.
    KeyAlreadyPrepared,
    /// The key is not prepared.
    KeyNotPrepared,
    /// The key is not one that was prepared and never signed.
    KeyNotRetirable,
    /// The key is compromised already.
    KeyCompromised,
    /// The key is a drill's.
    ShadowKey,
    /// A drill runs.
    DrillRunning,
    /// No drill runs, or not that one any more.
    DrillNotRunning,
    /// No such drill.
    DrillUnknown,
    /// The token to revoke was not signed here.
    TokenNotOurs,
    /// The object has changed since it was read.
    VersionMoved,
    /// As many entries as are kept.
    LimitReached,
    /// The identity has as many streams as it may have.
    TooManyStreams,
    /// The stream was too slow to take its updates.
    StreamTooSlow,
    /// The verifier has opened another stream.
    StreamSuperseded,
    /// No such verifier.
    VerifierUnknown,
    /// The verifier is connected.
    VerifierConnected,
    /// A live verifier does not hold the key.
    VerifiersBehind,
    /// The store is not the one that was published from: nothing is changed until an operator recovers the authority.
    RecoveryRequired,
    /// The store cannot be written now.
    StoreUnavailable,
    /// The server is about to stop.
    Draining,
    /// The called service behind the sidecar cannot be reached.
    UpstreamUnavailable,
    /// The authority does not answer an agent.
    AuthorityUnreachable,
    /// A token of the authority is of no form that is known, or is revoked already.
    TokenUnusable,
    /// An agent keeps as many tokens as it may.
    TooManyTokens,
    /// A call out to where no route leads.
    RouteUnknown,
    /// A call out that has a credential already.
    TokenPresent,
    /// The service that a call goes to takes no gRPC.
    GrpcUnsupported,
    /// The caller has no stream of that name.
    StreamUnknown,
    /// The caller's deadline has passed.
    DeadlineExceeded,
    /// Not a gRPC method: another HTTP method or path.
    MethodUnknown,
    /// The request's messages are compressed.
    EncodingUnsupported,
    /// Our own fault.
    Internal,
}

impl Failure {
    /// Every failure.
    pub const ALL: [Self; 41] = [
        Self::NoIdentity,
        Self::NotAnOperator,
        Self::NotAVerifier,
        Self::ClientExists,
        Self::ClientUnknown,
        Self::IdentityTaken,
        Self::SecretUnknown,
        Self::TooManySecrets,
        Self::KeyUnknown,
        Self::KeyAlreadyPrepared,
        Self::KeyNotPrepared,
        Self::KeyNotRetirable,
        Self::KeyCompromised,
        Self::ShadowKey,
        Self::DrillRunning,
        Self::DrillNotRunning,
        Self::DrillUnknown,
        Self::TokenNotOurs,
        Self::VersionMoved,
        Self::LimitReached,
        Self::TooManyStreams,
        Self::StreamTooSlow,
        Self::StreamSuperseded,
        Self::VerifierUnknown,
        Self::VerifierConnected,
        Self::VerifiersBehind,
        Self::RecoveryRequired,
        Self::StoreUnavailable,
        Self::Draining,
        Self::UpstreamUnavailable,
        Self::AuthorityUnreachable,
        Self::TokenUnusable,
        Self::TooManyTokens,
        Self::RouteUnknown,
        Self::TokenPresent,
        Self::GrpcUnsupported,
        Self::StreamUnknown,
        Self::DeadlineExceeded,
        Self::MethodUnknown,
        Self::EncodingUnsupported,
        Self::Internal,
    ];

    /// The stable name.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::NotAnOperator => "not_an_operator",
            Self::NotAVerifier => "not_a_verifier",
            Self::ClientExists => "client_exists",
            Self::ClientUnknown => "client_unknown",
            Self::IdentityTaken => "identity_taken",
            Self::SecretUnknown => "secret_unknown",
            Self::TooManySecrets => "too_many_secrets",
            Self::KeyUnknown => "key_unknown",
            Self::KeyAlreadyPrepared => "key_already_prepared",
            Self::KeyNotPrepared => "key_not_prepared",
            Self::KeyNotRetirable => "key_not_retirable",
            Self::KeyCompromised => "key_compromised",
            Self::ShadowKey => "shadow_key",
            Self::DrillRunning => "drill_running",
            Self::DrillNotRunning => "drill_not_running",
            Self::DrillUnknown => "drill_unknown",
            Self::TokenNotOurs => "token_not_ours",
            Self::VersionMoved => "version_moved",
            Self::LimitReached => "limit_reached",
            Self::TooManyStreams => "too_many_streams",
            Self::StreamTooSlow => "stream_too_slow",
            Self::StreamSuperseded => "stream_superseded",
            Self::VerifierUnknown => "verifier_unknown",
            Self::VerifierConnected => "verifier_connected",
            Self::VerifiersBehind => "verifiers_behind",
            Self::RecoveryRequired => "recovery_required",
            Self::StoreUnavailable => "store_unavailable",
            Self::Draining => "draining",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::AuthorityUnreachable => "authority_unreachable",
            Self::TokenUnusable => "token_unusable",
            Self::TooManyTokens => "too_many_tokens",
            Self::RouteUnknown => "route_unknown",
            Self::TokenPresent => "token_present",
            Self::GrpcUnsupported => "grpc_unsupported",
            Self::StreamUnknown => "stream_unknown",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::MethodUnknown => "method_unknown",
            Self::EncodingUnsupported => "encoding_unsupported",
            Self::Internal => "internal",
        }
    }

    const fn code(self) -> Code {
        match self {
            Self::NoIdentity => Code::Unauthenticated,
            Self::NotAnOperator | Self::NotAVerifier | Self::RouteUnknown => Code::PermissionDenied,
            Self::ClientExists | Self::IdentityTaken => Code::AlreadyExists,
            Self::ClientUnknown
            | Self::SecretUnknown
            | Self::KeyUnknown
            | Self::DrillUnknown
            | Self::StreamUnknown
            | Self::VerifierUnknown => Code::NotFound,
            Self::TooManySecrets
            | Self::KeyAlreadyPrepared
            | Self::KeyNotPrepared
            | Self::KeyNotRetirable
            | Self::KeyCompromised
            | Self::ShadowKey
            | Self::DrillRunning
            | Self::DrillNotRunning
            | Self::VerifierConnected
            | Self::VerifiersBehind => Code::FailedPrecondition,
            Self::TokenNotOurs | Self::TokenPresent => Code::InvalidArgument,
            Self::VersionMoved | Self::StreamSuperseded => Code::Aborted,
            Self::LimitReached | Self::TooManyStreams | Self::StreamTooSlow | Self::TooManyTokens => {
                Code::ResourceExhausted
            }
            Self::RecoveryRequired
            | Self::StoreUnavailable
            | Self::Draining
            | Self::UpstreamUnavailable
            | Self::AuthorityUnreachable
            | Self::TokenUnusable => Code::Unavailable,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::MethodUnknown | Self::EncodingUnsupported | Self::GrpcUnsupported => Code::Unimplemented,
            Self::Internal => Code::Internal,
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::NoIdentity => "the client certificate holds no acceptable identity",
            Self::NotAnOperator => "the caller is not an operator",
            Self::NotAVerifier => "the caller is not a verifier",
            Self::ClientExists => "the client id is taken",
            Self::ClientUnknown => "there is no such client",
            Self::IdentityTaken => "a SPIFFE ID or certificate is another client's or an operator's",
            Self::SecretUnknown => "the client has no such secret",
            Self::TooManySecrets => "the client has two secrets: retire one of them first",
            Self::KeyUnknown => "there is no such key",
            Self::KeyAlreadyPrepared => "a key is prepared already",
            Self::KeyNotPrepared => "the key is not prepared",
            Self::KeyNotRetirable => {
                "only a key that does not sign, and never did, can be withdrawn: activate its successor first"
            }
            Self::KeyCompromised => "the key is compromised",
            Self::ShadowKey => "the key is a drill's: it goes when the drill ends",
            Self::DrillRunning => "a drill runs already",
            Self::DrillNotRunning => "no drill runs, or not that one any more",
            Self::DrillUnknown => "there is no such drill",
            Self::TokenNotOurs => "the token was not signed by this authority",
            Self::VersionMoved => "the object has changed: read it again and repeat",
            Self::LimitReached => "there are too many entries",
            Self::TooManyStreams => "this identity has as many streams open as it may have",
            Self::StreamTooSlow => "the stream does not take its updates",
            Self::StreamSuperseded => "the verifier has opened another stream",
            Self::VerifierUnknown => "there is no such verifier",
            Self::VerifierConnected => "the verifier is connected",
            Self::VerifiersBehind => {
                "a live verifier does not hold the key on disk: wait for it, put it in quarantine, or force with a reason"
            }
            Self::RecoveryRequired => {
                "verifiers hold a later or another state than the store: the authority has to be recovered"
            }
            Self::StoreUnavailable => "the store cannot be written now",
            Self::Draining => "the server is about to stop",
            Self::UpstreamUnavailable => "the called service cannot be reached",
            Self::AuthorityUnreachable => "the authority cannot be reached",
            Self::TokenUnusable => "the token that the authority issued cannot be used",
            Self::TooManyTokens => "as many tokens are kept as may be",
            Self::RouteUnknown => "no route leads there",
            Self::TokenPresent => "the call has an `authorization` already",
            Self::GrpcUnsupported => "the called service takes no gRPC",
            Self::StreamUnknown => "there is no stream of that name",
            Self::DeadlineExceeded => "the deadline has passed",
            Self::MethodUnknown => "there is no such method",
            Self::EncodingUnsupported => "messages are not taken compressed",
            Self::Internal => "internal error",
        }
    }
}

/// The status for a failure.
#[must_use]
pub fn failed(failure: Failure) -> Status {
    make(
        failure.code(),
        failure.message().to_owned(),
        error_info(failure.reason(), None),
    )
}

/// The status of what went well.
#[must_use]
pub fn ok() -> Status {
    Status::ok("")
}

/// The status as it stands at the end of a stream.
#[must_use]
pub fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // Fails only for a message that is no header; ours are written here.
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(i32::from(status.code())));
    }
    trailers
}

/// The status for a field that is not of its form.
#[must_use]
pub fn invalid(field: &str, description: &str) -> Status {
    let mut details = error_info("invalid_argument", None);
    details.set_bad_request(vec![FieldViolation::new(field, description)]);
    make(
        Code::InvalidArgument,
        format!("`{field}`: {description}"),
        details,
    )
}

/// The status for a token that is not issued. `retry_after` goes with [`IssueError::RateLimited`]; whoever is refused for a
/// cause of the authority's own is told to come back anyway.
#[must_use]
pub fn not_issued(error: IssueError, retry_after: Option<Duration>) -> Status {
    let code = issue_code(error);
    let mut details = error_info(error.reason(), None);
    let retry_after = retry_after.or_else(|| (code == Code::Unavailable).then_some(RETRY_AFTER));
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    make(code, error.to_string(), details)
}

const fn issue_code(error: IssueError) -> Code {
    match error {
        IssueError::UnsupportedGrantType
        | IssueError::InvalidRequest
        | IssueError::InvalidTarget
        | IssueError::InvalidScope => Code::InvalidArgument,
        IssueError::InvalidClient | IssueError::SpiffeIdRequired => Code::Unauthenticated,
        IssueError::RateLimited => Code::ResourceExhausted,
        IssueError::NoActiveKey
        | IssueError::RecoveryRequired
        | IssueError::ClockBehind
        | IssueError::SigningFailed => Code::Unavailable,
    }
}

/// The gRPC code for an outcome.
#[must_use]
pub const fn code(outcome: Outcome) -> Code {
    match outcome {
        Outcome::Invalid => Code::InvalidArgument,
        Outcome::Unauthenticated => Code::Unauthenticated,
        Outcome::Denied => Code::PermissionDenied,
        Outcome::TooLarge => Code::ResourceExhausted,
        Outcome::Unavailable => Code::Unavailable,
    }
}

/// What every refused caller may know: the coarse reason and a message for people.
const fn coarse(outcome: Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Invalid => ("invalid_request", "the request is malformed"),
        Outcome::Unauthenticated => ("invalid_token", "the token is refused"),
        Outcome::Denied => ("insufficient_scope", "the token does not allow this method"),
        Outcome::TooLarge => ("token_too_large", "the token is too large"),
        Outcome::Unavailable => ("temporarily_unavailable", "the verifier cannot decide now"),
    }
}

/// How soon to try again when a verifier has no trust that it may use, or the authority does not sign: about the time of a
/// reconnect.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The status for a refused request.
#[must_use]
pub fn refused(rejection: Rejection, disclosure: Disclosure) -> Status {
    let outcome = rejection.outcome();
    let (coarse_reason, message) = coarse(outcome);
    let (message, mut details) = match disclosure {
        Disclosure::Coarse => (message.to_owned(), error_info(coarse_reason, None)),
        Disclosure::Precise => (
            format!("{message}: {rejection}"),
            error_info(
                rejection.reason(),
                rejection.claim().map(|claim| ("claim", claim.name())),
            ),
        ),
    };
    if outcome == Outcome::Unavailable {
        details.set_retry_info(Some(RETRY_AFTER));
    }
    make(code(outcome), message, details)
}

/// The status for a request that is refused because trust is too old for its method's class. Whoever may know the reason is told
/// the class, the data whose budget is used up, and how long ago the authority confirmed it, in whole seconds.
#[must_use]
pub fn stale(stale: &Stale, disclosure: Disclosure) -> Status {
    let rejection = Rejection::TrustStale;
    if disclosure == Disclosure::Coarse {
        return refused(rejection, disclosure);
    }
    let (_, message) = coarse(rejection.outcome());
    let told = [
        ("stale", stale.data.name().to_owned()),
        ("class", stale.class.as_str().to_owned()),
    ];
    let age = stale.age.map(|age| ("age", format!("{}s", age.as_secs())));
    let mut details = error_info_with(rejection.reason(), told.into_iter().chain(age));
    details.set_retry_info(Some(RETRY_AFTER));
    make(
        code(rejection.outcome()),
        format!("{message}: {rejection}"),
        details,
    )
}

/// The `WWW-Authenticate` challenge that belongs to a refusal (RFC 6750, section 3), if one does. It never tells more than
/// the class.
#[must_use]
pub const fn challenge(rejection: Rejection) -> Option<&'static str> {
    match rejection.outcome() {
        Outcome::Unauthenticated if matches!(rejection, Rejection::TokenMissing) => Some("Bearer"),
        Outcome::Unauthenticated => Some(r#"Bearer error="invalid_token""#),
        Outcome::Denied => Some(r#"Bearer error="insufficient_scope""#),
        Outcome::Invalid => Some(r#"Bearer error="invalid_request""#),
        Outcome::TooLarge | Outcome::Unavailable => None,
    }
}

fn error_info(reason: &'static str, extra: Option<(&'static str, &'static str)>) -> ErrorDetails {
    error_info_with(reason, extra.map(|(name, value)| (name, value.to_owned())))
}

fn error_info_with(
    reason: &'static str,
    extra: impl IntoIterator<Item = (&'static str, String)>,
) -> ErrorDetails {
    let mut metadata = HashMap::from([("reason".to_owned(), reason.to_owned())]);
    metadata.extend(extra.into_iter().map(|(name, value)| (name.to_owned(), value)));
    ErrorDetails::with_error_info(reason.to_ascii_uppercase(), DOMAIN, metadata)
}

fn make(code: Code, message: String, details: ErrorDetails) -> Status {
    Status::with_error_details(code, message, details)
}

#[cfg(test)]
mod tests;
