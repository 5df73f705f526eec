//! What goes over the wire for each refusal.

use countersign_core::names::ClassName;
use countersign_core::staleness::Data;

use super::*;

#[test]
fn every_status_has_one_error_info_of_the_grammar() {
    let statuses = Rejection::ALL
        .into_iter()
        .flat_map(|r| [refused(r, Disclosure::Coarse), refused(r, Disclosure::Precise)])
        .chain(Failure::ALL.into_iter().map(failed))
        .chain(IssueError::ALL.into_iter().map(|e| not_issued(e, None)))
        .chain([invalid("client_id", "is empty")]);
    for status in statuses {
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(info.domain, DOMAIN);
        assert!(info.reason.len() <= 63, "{}", info.reason);
        assert!(
            info.reason.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'),
            "{}",
            info.reason
        );
        assert_eq!(info.metadata["reason"].to_ascii_uppercase(), info.reason);
    }
}

/// Assurance rule: two reasons under one coarse code are byte-identical on the wire.
#[test]
fn a_coarse_refusal_does_not_tell_reasons_apart() {
    for one in Rejection::ALL {
        for other in Rejection::ALL
            .into_iter()
            .filter(|r| r.outcome() == one.outcome())
        {
            let (a, b) = (
                refused(one, Disclosure::Coarse),
                refused(other, Disclosure::Coarse),
            );
            assert_eq!(a.details(), b.details());
            assert_eq!((a.code(), a.message()), (b.code(), b.message()));
        }
    }
}

/// I-16: nothing that refuses is OK, and nothing that an outsider controls is INTERNAL.
#[test]
fn no_refusal_is_ok_or_internal() {
    for rejection in Rejection::ALL {
        let code = refused(rejection, Disclosure::Precise).code();
        assert!(
            !matches!(code, Code::Ok | Code::Internal | Code::Unknown),
            "{rejection}"
        );
    }
}

/// I-14: who may know is told which data is too old, how old it is and for which class; nobody else can tell it from another
/// reason of its class.
#[test]
fn what_is_too_old_is_told_to_those_who_may_know() {
    let mut stale = Stale {
        class: ClassName::parse("strict").expect("a class"),
        data: Data::Keys,
        age: Some(Duration::from_millis(12_999)),
    };
    let told = super::stale(&stale, Disclosure::Precise);
    assert_eq!(
        (told.code(), told.message()),
        (Code::Unavailable, "the verifier cannot decide now: trust_stale")
    );
    assert!(told.get_details_retry_info().is_some());
    let metadata = |status: &Status| status.get_details_error_info().expect("an ErrorInfo").metadata;
    let entry = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut expected = HashMap::from([
        entry("reason", "trust_stale"),
        entry("stale", "keys"),
        entry("age", "12s"),
        entry("class", "strict"),
    ]);
    assert_eq!(metadata(&told), expected);
    stale.age = None;
    expected.remove("age");
    assert_eq!(metadata(&super::stale(&stale, Disclosure::Precise)), expected);
    let coarse = super::stale(&stale, Disclosure::Coarse);
    let other = refused(Rejection::TrustCold, Disclosure::Coarse);
    assert_eq!(
        (coarse.details(), coarse.message()),
        (other.details(), other.message())
    );
}

#[test]
fn who_cannot_decide_or_sign_says_when_to_come_back() {
    for rejection in [
        Rejection::TrustCold,
        Rejection::TrustStale,
        Rejection::VerifierClock,
    ] {
        let status = refused(rejection, Disclosure::Coarse);
        assert!(status.get_details_retry_info().is_some());
    }
    for error in IssueError::ALL {
        let status = not_issued(error, None);
        let retryable = status.code() == Code::Unavailable;
        assert_eq!(status.get_details_retry_info().is_some(), retryable, "{error}");
    }
}
