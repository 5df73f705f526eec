//! Why an agent has no token: read from what the authority answered, written for whoever asked the agent.

use std::time::Duration;

use countersign_core::issuing::IssueError;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{DOMAIN, Failure, error_info, make};

/// Why an agent has no token to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoToken {
    /// The authority does not issue it.
    NotIssued(IssueError),
    /// The authority's answer is another refusal, or there is none, or the agent itself cannot.
    Failed(Failure),
}

impl NoToken {
    /// The stable name.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotIssued(error) => error.reason(),
            Self::Failed(failure) => failure.reason(),
        }
    }

    fn code(self) -> Code {
        match self {
            Self::NotIssued(error) => super::issue_code(error),
            Self::Failed(failure) => failure.code(),
        }
    }

    fn message(self) -> String {
        match self {
            Self::NotIssued(error) => format!("the authority issues no token: {error}"),
            Self::Failed(failure) => failure.message().to_owned(),
        }
    }
}

/// What an answer of the authority's token service says: why there is no token, and after which time to ask again if it says so.
/// An answer that is not of ours came from something between us.
#[must_use]
pub fn read_no_token(status: &Status) -> (NoToken, Option<Duration>) {
    let info = status.get_details_error_info();
    let reason = info
        .filter(|info| info.domain == DOMAIN)
        .map(|info| info.reason.to_ascii_lowercase());
    let issuing = |reason: &str| IssueError::ALL.into_iter().find(|error| error.reason() == reason);
    let failure = |reason: &str| {
        Failure::ALL
            .into_iter()
            .find(|failure| failure.reason() == reason)
    };
    let why = reason.and_then(|reason| {
        issuing(&reason)
            .map(NoToken::NotIssued)
            .or_else(|| failure(&reason).map(NoToken::Failed))
    });
    let retry_after = status
        .get_details_retry_info()
        .and_then(|retry| retry.retry_delay);
    (
        why.unwrap_or(NoToken::Failed(Failure::AuthorityUnreachable)),
        retry_after,
    )
}

/// The status for an app that asked for a token. `retry_after`: when the authority will be asked again.
#[must_use]
pub fn no_token(why: NoToken, retry_after: Duration) -> Status {
    write(why.code(), why, retry_after)
}

/// The status for a call that is not made because there is no token for it. It was not sent, and may be repeated.
#[must_use]
pub fn not_called(why: NoToken, retry_after: Duration) -> Status {
    write(Code::Unavailable, why, retry_after)
}

fn write(code: Code, why: NoToken, retry_after: Duration) -> Status {
    let mut details = error_info(why.reason(), None);
    details.set_retry_info(Some(retry_after));
    make(code, why.message(), details)
}

#[cfg(test)]
mod tests {
    use super::super::{failed, not_issued};
    use super::*;

    const SOON: Duration = Duration::from_millis(1500);

    /// Whatever the authority refuses with is the reason that the app is told, with the same code.
    #[test]
    fn what_the_authority_says_is_passed_on() {
        for error in IssueError::ALL {
            let said = not_issued(error, Some(SOON));
            let (why, retry_after) = read_no_token(&said);
            assert_eq!((why, retry_after), (NoToken::NotIssued(error), Some(SOON)));
            let told = no_token(why, SOON);
            assert_eq!(told.code(), said.code());
            let info = told.get_details_error_info().expect("an ErrorInfo");
            assert_eq!(info.metadata["reason"], error.reason());
            assert!(told.get_details_retry_info().is_some());
        }
        for failure in [Failure::Draining, Failure::NoIdentity, Failure::Internal] {
            assert_eq!(read_no_token(&failed(failure)), (NoToken::Failed(failure), None));
        }
    }

    /// A call that was not sent may be repeated, whatever the reason.
    #[test]
    fn a_call_without_a_token_is_unavailable() {
        let why = NoToken::NotIssued(IssueError::InvalidClient);
        let told = not_called(why, SOON);
        assert_eq!(told.code(), Code::Unavailable);
        assert_eq!(read_no_token(&told), (why, Some(SOON)));
    }

    /// A proxy's answer, or a broken connection, is no word of the authority.
    #[test]
    fn an_answer_that_is_not_ours_means_that_the_authority_was_not_reached() {
        use tonic_types::ErrorDetails;
        let foreign = ErrorDetails::with_error_info("INVALID_CLIENT", "example.com", []);
        let unknown = ErrorDetails::with_error_info("NEWER_REASON", DOMAIN, []);
        for details in [ErrorDetails::new(), foreign, unknown] {
            let status = make(Code::Unavailable, String::new(), details);
            let unreachable = NoToken::Failed(Failure::AuthorityUnreachable);
            assert_eq!(read_no_token(&status), (unreachable, None));
        }
    }
}
