//! Another library's view of the same tokens. What we accept, it accepts; what it accepts and we refuse has a line in the
//! catalogue, so that nobody can say that we are merely different.
#![expect(clippy::expect_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use countersign_core::{Rejection, Timestamp};
use countersign_vectors::{Expected, Role, Setting, cases};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};

/// Whether `jsonwebtoken` takes the token under some key of the setting, with issuer and audience configured and the clock
/// left out (it cannot be told the time).
fn is_accepted_elsewhere(setting: &Setting, token: &[u8]) -> bool {
    let keys = [
        (Role::Active, Algorithm::ES256),
        (Role::Second, Algorithm::ES256),
        (Role::Retired, Algorithm::ES256),
        (Role::EdDsa, Algorithm::EdDSA),
        (Role::Rsa, Algorithm::RS256),
    ];
    keys.into_iter().any(|(role, algorithm)| {
        let jwk = serde_json::from_str(&setting.key(role).jwk.to_json()).expect("a JWK");
        let key = DecodingKey::from_jwk(&jwk).expect("a key");
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.set_audience(&[setting.audience.as_str()]);
        validation.set_issuer(&[setting.issuer.as_str()]);
        jsonwebtoken::decode::<serde_json::Value>(token, &key, &validation).is_ok()
    })
}

#[test]
fn what_we_accept_another_library_accepts_too() {
    let setting = Setting::at(Timestamp::from_seconds(1_800_000_000));
    let mut accepted = 0;
    let mut signatures = Vec::new();
    let mut stricter: BTreeMap<&str, usize> = BTreeMap::new();
    for case in cases(&setting) {
        let Some(token) = case.token() else { continue };
        let elsewhere = is_accepted_elsewhere(&setting, token);
        match case.expected {
            Expected::Accept => {
                assert!(elsewhere, "{} {}: accepted by us alone", case.id, case.name);
                accepted += 1;
            }
            Expected::Reject(Rejection::SigInvalid) if elsewhere => signatures.push((case.id, case.name)),
            Expected::Reject(rejection) if elsewhere => *stricter.entry(rejection.reason()).or_default() += 1,
            Expected::Reject(_) => {}
        }
    }
    assert!(accepted >= 40, "only {accepted} accepted");
    // Of signatures we are stricter about one: it satisfies the equation, with a point that no honest signer uses.
    assert_eq!(signatures, [("T61", "R is the neutral element".to_owned())]);
    assert_eq!(stricter.get(Rejection::IssMismatch.reason()), None);
    // These are known: the other library leaves them to its callers.
    for reason in [
        Rejection::CritUnsupported,
        Rejection::TypNotAllowed,
        Rejection::HeaderForbidden,
    ] {
        assert!(stricter.contains_key(reason.reason()), "{}", reason.reason());
    }
}
