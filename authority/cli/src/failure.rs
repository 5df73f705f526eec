//! How a command fails: with a message, what to do next, and an exit code that scripts can tell apart.

use std::error::Error;
use std::process::ExitCode;

use countersign_mtls::ConnectError;
use countersign_runtime::ErrorChain;
use countersign_wire::status::DOMAIN;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The exit codes. `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did not work.
    Failure,
    /// The command line makes no sense.
    Usage,
    /// Somebody decided against it: a token is not good, a caller may not.
    Refused,
    /// Somebody cannot be reached, or cannot answer now. Trying again may help.
    Unavailable,
    /// A configuration file is not acceptable.
    Configuration,
}

impl Exit {
    /// Every code.
    pub const ALL: [Self; 5] = [
        Self::Failure,
        Self::Usage,
        Self::Refused,
        Self::Unavailable,
        Self::Configuration,
    ];

    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Unavailable => 4,
            Self::Configuration => 64,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// A command failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong, with its causes, in one line.
    pub message: String,
    /// The stable reason, where a server named one.
    pub reason: Option<String>,
    /// What to do next.
    pub next: Option<String>,
}

impl Failure {
    /// A failure of this kind.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            reason: None,
            next: None,
        }
    }

    /// The command line makes no sense.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// `doing` failed because of `error`.
    #[must_use]
    pub fn because(doing: &str, error: &dyn Error) -> Self {
        Self::new(Exit::Failure, format!("{doing}: {}", ErrorChain(error)))
    }

    /// The same, with what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// `doing` failed because a server answered `status`, or because there was no connection to it.
    #[must_use]
    pub fn answered(doing: &str, status: &Status) -> Self {
        if let Some(error) = ConnectError::in_chain(status) {
            return Self::unconnected(doing, error);
        }
        let reason = reason(status);
        let message = match status.message() {
            "" => format!("{doing}: {}", status.code().description()),
            message => format!("{doing}: {message}"),
        };
        Self {
            exit: exit_of(status.code()),
            message,
            next: advice(status.code(), reason.as_deref()).map(str::to_owned),
            reason,
        }
    }

    fn unconnected(doing: &str, error: &ConnectError) -> Self {
        let (exit, next) = match error {
            ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } | ConnectError::Handshake(_) => {
                (
                    Exit::Unavailable,
                    "see whether the authority runs, and whether this is its address: `--authority` or `--dir`",
                )
            }
            ConnectError::CertificateRequired | ConnectError::CertificateRefused { .. } => (
                Exit::Refused,
                "give a certificate that comes from a root which the authority trusts: `--cert` and `--key`",
            ),
            ConnectError::ServerUntrusted(_) | ConnectError::WrongServer(_) => (
                Exit::Failure,
                "give the root that the authority's certificate comes from: `--ca`",
            ),
            ConnectError::NoHttp2 => (
                Exit::Failure,
                "see whether the address is the authority's gRPC address",
            ),
        };
        Self::new(exit, format!("{doing}: {}", ErrorChain(error))).next(next)
    }
}

/// The stable reason in a status of ours, in lower case.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)
        .map(|info| info.reason.to_ascii_lowercase())
}

const fn exit_of(code: Code) -> Exit {
    match code {
        Code::PermissionDenied | Code::Unauthenticated => Exit::Refused,
        // A TLS 1.3 client hears of a refused certificate only when its first call is cancelled.
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => {
            Exit::Unavailable
        }
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Exit::Failure,
    }
}

/// What to do about a refusal: by its reason where there is one, else by its code.
fn advice(code: Code, reason: Option<&str>) -> Option<&'static str> {
    reason.and_then(advice_for_reason).or(match code {
        Code::Unavailable | Code::DeadlineExceeded => {
            Some("see whether the authority runs and is reached at this address, then try again")
        }
        Code::Cancelled | Code::Unknown => Some(
            "see whether the authority accepts this certificate (`--cert`, `--key`), then look at its log",
        ),
        Code::Unimplemented => Some("see whether the address is the authority's gRPC address"),
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => None,
    })
}

fn advice_for_reason(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "not_an_operator" => "use an operator's certificate: `--cert` and `--key`, or `--dir`",
        "no_identity" => "use a certificate with exactly one SPIFFE ID of the authority's trust domain",
        "invalid_client" => {
            "see `countersign client show`: is the client enabled, its certificate or secret registered, and not revoked \
             (`countersign revoke list`)?"
        }
        "invalid_target" => {
            "see `countersign client show` for the audiences granted, and name one: `--audience`"
        }
        "invalid_scope" => "see `countersign client show` for the scopes granted",
        "rate_limited" => "wait a moment, then try again",
        "no_active_key" => "see `countersign key list`",
        "client_unknown" => "see `countersign client list`",
        "client_exists" => "choose another name, or change it: `countersign client update`",
        "identity_taken" => {
            "see `countersign client show` of the others for who holds it; an operator's identity is no client's"
        }
        "secret_unknown" => "see `countersign client show` for the secrets",
        "too_many_secrets" => "see `countersign client show`, then `countersign client secret retire`",
        "key_unknown" | "key_not_prepared" | "key_not_retirable" | "key_compromised" => {
            "see `countersign key list`"
        }
        "key_already_prepared" => "go on with `countersign key activate` or `countersign key rotate`",
        "verifiers_behind" => {
            "wait for them with `countersign key rotate`, see who they are with `countersign fleet`, or go on without them: \
             `--force REASON`"
        }
        "drill_running" => {
            "wait for its end, or end it: `countersign key drill abort`; see `countersign key drill list`"
        }
        "drill_unknown" | "drill_not_running" => "see `countersign key drill list`",
        "verifier_unknown" => "see `countersign fleet`",
        "verifier_connected" => {
            "stop it first; for one that goes on running there is `countersign fleet quarantine`"
        }
        "version_moved" => "somebody changed it at the same time: look at it, then repeat",
        "token_not_ours" => "see what it is: `countersign token inspect`",
        "recovery_required" => {
            "verifiers hold a later or another state than the authority's store: `countersign-authority recover` on its machine"
        }
        "authority_unreachable" => "see whether the authority runs, and whether the sidecar reaches it",
        "too_many_tokens" => {
            "see `countersign agent status`, and `agent.max_tokens` in the sidecar's configuration"
        }
        "store_unavailable" => "see the authority's log and disk",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use countersign_core::issuing::IssueError;
    use countersign_wire::status::{self, Failure as Wire};

    use super::*;

    #[test]
    fn an_answer_keeps_its_reason_and_gets_advice() {
        let failure = Failure::answered("cannot list keys", &status::failed(Wire::NotAnOperator));
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(failure.reason.as_deref(), Some("not_an_operator"));
        assert_eq!(
            failure.to_string(),
            "cannot list keys: the caller is not an operator"
        );
        assert!(failure.next.is_some_and(|next| next.contains("--cert")));
    }

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        let exit = |status: &Status| Failure::answered("x", status).exit;
        assert_eq!(exit(&status::failed(Wire::StoreUnavailable)), Exit::Unavailable);
        assert_eq!(
            exit(&status::not_issued(IssueError::InvalidClient, None)),
            Exit::Refused
        );
        assert_eq!(
            exit(&status::not_issued(IssueError::InvalidScope, None)),
            Exit::Failure
        );
        assert_eq!(exit(&status::failed(Wire::ClientUnknown)), Exit::Failure);
    }

    #[test]
    fn every_exit_code_has_its_own_number() {
        let numbers: std::collections::BTreeSet<u8> = Exit::ALL.into_iter().map(Exit::number).collect();
        assert_eq!(numbers.len(), Exit::ALL.len());
        assert!(!numbers.contains(&0));
    }
}
