//! Who may present a bound token (T85, T86), and how one that is bound is written and read.

use super::*;
use crate::names::CertificateThumbprint;
use crate::spiffe::SpiffeId;

fn spiffe_id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://prod.example.com/{path}")).expect("a SPIFFE ID")
}

fn certificate(number: u8, path: Option<&str>) -> PeerCertificate {
    PeerCertificate {
        thumbprint: CertificateThumbprint::new([number; 32]),
        spiffe_id: path.map(spiffe_id),
    }
}

fn bound_to(confirmation: Confirmation) -> Claims {
    Claims {
        confirmation,
        ..claims()
    }
}

fn present(
    claims: &Claims,
    peer_certificate: Option<&PeerCertificate>,
    revocations: RevocationList,
    bound: bool,
) -> Result<(), Rejection> {
    let key = jwk(1);
    let token = sign_token(claims, key.key_id(), &ToyKey::of(&key)).expect("signed");
    let state = state(times(), revocations);
    let requirements = Requirements {
        bound,
        ..Requirements::default()
    };
    let presented = Presentation {
        peer_certificate,
        requirements: &requirements,
    };
    let view = TrustView::current(&state);
    verify(token.as_bytes(), Ok(view), &expected(), &presented, NOW).map(drop)
}

#[test]
fn a_token_bound_to_a_spiffe_id_goes_on_over_each_certificate_that_has_it() {
    let claims = bound_to(Confirmation::SpiffeId(spiffe_id("billing")));
    let mismatch = Err(Rejection::CnfMismatch);
    for (shown, answer) in [
        (Some(certificate(1, Some("billing"))), Ok(())),
        (Some(certificate(2, Some("billing"))), Ok(())),
        (Some(certificate(1, Some("billing/more"))), mismatch),
        (Some(certificate(1, Some("bill"))), mismatch),
        (Some(certificate(1, Some("Billing"))), mismatch),
        (Some(certificate(1, None)), mismatch),
        (None, mismatch),
    ] {
        for bound in [false, true] {
            let decided = present(&claims, shown.as_ref(), RevocationList::default(), bound);
            assert_eq!(decided, answer, "{shown:?}, {bound}");
        }
    }
}

#[test]
fn a_token_bound_to_a_certificate_is_not_for_its_spiffe_id() {
    let first = certificate(1, Some("billing"));
    let claims = bound_to(Confirmation::Certificate(first.thumbprint));
    let none = RevocationList::default;
    assert_eq!(present(&claims, Some(&first), none(), true), Ok(()));
    let renewed = certificate(2, Some("billing"));
    let refused = present(&claims, Some(&renewed), none(), true);
    assert_eq!(refused, Err(Rejection::CnfMismatch));
}

/// That the first certificate is revoked, until the end given.
fn revoked_until(end: i64) -> RevocationList {
    RevocationList::from([Revocation {
        subject: RevokedSubject::Certificate(CertificateThumbprint::new([1; 32])),
        issued_before: after(-5),
        expires_at: after(end),
    }])
}

/// Who has stolen a certificate has no use for the tokens of its workload, not even for those that were issued after the
/// certificate was revoked; and the workload goes on with its next one.
#[test]
fn nobody_presents_a_token_bound_to_a_spiffe_id_over_a_revoked_certificate() {
    let id = Confirmation::SpiffeId(spiffe_id("billing"));
    let revoked = || revoked_until(3600);
    for issued in [-10, -5, -1] {
        let claims = Claims {
            issued_at: after(issued),
            ..bound_to(id.clone())
        };
        for (shown, answer) in [
            (certificate(1, Some("billing")), Err(Rejection::TokenRevoked)),
            (certificate(2, Some("billing")), Ok(())),
            (certificate(1, Some("orders")), Err(Rejection::CnfMismatch)),
        ] {
            let decided = present(&claims, Some(&shown), revoked(), false);
            assert_eq!(decided, answer, "issued {issued:+}, {shown:?}");
        }
    }
    // It is about those who prove something with it.
    let unbound = present(
        &claims(),
        Some(&certificate(1, Some("billing"))),
        revoked(),
        false,
    );
    assert_eq!(unbound, Ok(()));
}

/// An authority that was recovered from a backup gives tokens over a certificate of which it has forgotten that it is revoked.
#[test]
fn a_token_bound_to_a_revoked_certificate_is_refused_whenever_it_was_issued() {
    for number in [1, 2] {
        let shown = certificate(number, None);
        for issued in [-10, -5, -4, -1, 0] {
            let claims = Claims {
                issued_at: after(issued),
                ..bound_to(Confirmation::Certificate(shown.thumbprint))
            };
            let answer = match number {
                1 => Err(Rejection::TokenRevoked),
                _ => Ok(()),
            };
            let decided = present(&claims, Some(&shown), revoked_until(3600), false);
            assert_eq!(decided, answer, "issued {issued:+}, {shown:?}");
        }
    }
    // Whoever presents a stolen one without its certificate is told no more than before.
    let claims = bound_to(Confirmation::Certificate(certificate(1, None).thumbprint));
    let later = Claims {
        issued_at: NOW,
        ..claims
    };
    for shown in [None, Some(certificate(2, None))] {
        let decided = present(&later, shown.as_ref(), revoked_until(3600), false);
        assert_eq!(decided, Err(Rejection::CnfMismatch), "{shown:?}");
    }
}

/// A verifier that is cut off, or that carries the entry past a recovery, may hold it for longer than it lasts. The authority gives
/// tokens over the certificate again, and they are good.
#[test]
fn a_token_from_after_the_end_of_the_entry_is_good_where_the_entry_is_still_held() {
    let shown = certificate(1, Some("billing"));
    for (issued, answer) in [
        (-4, Err(Rejection::TokenRevoked)),
        (-3, Err(Rejection::TokenRevoked)),
        (-2, Ok(())),
        (0, Ok(())),
    ] {
        for confirmation in [
            Confirmation::Certificate(shown.thumbprint),
            Confirmation::SpiffeId(spiffe_id("billing")),
        ] {
            let claims = Claims {
                issued_at: after(issued),
                ..bound_to(confirmation)
            };
            let decided = present(&claims, Some(&shown), revoked_until(-3), true);
            assert_eq!(decided, answer, "issued {issued:+}, {:?}", claims.confirmation);
        }
    }
}

#[test]
fn what_a_token_is_bound_to_is_read_as_it_was_written() {
    for confirmation in [
        Confirmation::Unbound,
        Confirmation::Certificate(CertificateThumbprint::new([1; 32])),
        Confirmation::SpiffeId(spiffe_id("billing")),
    ] {
        let claims = bound_to(confirmation);
        let written = serde_json::to_vec(&claims).expect("written");
        let read = Claims::read(&written).expect("claims");
        assert_eq!(read.confirmation, claims.confirmation);
    }
    let claims = bound_to(Confirmation::SpiffeId(spiffe_id("billing")));
    let written = serde_json::to_string(&claims).expect("written");
    assert!(
        written.contains(r#""cnf":{"spiffe_id":"spiffe://prod.example.com/billing"}"#),
        "{written}"
    );
}
