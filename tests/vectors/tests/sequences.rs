//! Cases that are more than one request: exhaustive edits, orders of arrival, what changes between two looks at one token.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::bearer::from_authorization;
use countersign_core::claims::Claims;
use countersign_core::json::Members;
use countersign_core::names::{ClientId, TokenId};
use countersign_core::requirements::Requirements;
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_core::staleness::StalenessBudget;
use countersign_core::trust::{Change, TrustState};
use countersign_core::verifying::{Presentation, TrustView, authenticate, judge, verify};
use countersign_core::{Claim, Rejection, Timestamp};
use countersign_crypto::AwsLc;
use countersign_vectors::workshop::{bit_flips, text};
use countersign_vectors::{REVOKED_TOKEN, Role, Setting, WATERMARKED_CLIENT};

fn setting() -> Setting {
    Setting::at(Timestamp::from_seconds(1_800_000_000))
}

fn decide_at(setting: &Setting, state: &TrustState, token: &[u8], now: Timestamp) -> Result<(), Rejection> {
    let requirements = Requirements::default();
    let presented = Presentation {
        peer_certificate: None,
        requirements: &requirements,
    };
    let view = setting.view(state);
    verify(token, Ok(view), &setting.expectations(), &presented, now).map(|_| ())
}

fn decide(setting: &Setting, state: &TrustState, token: &[u8]) -> Result<(), Rejection> {
    decide_at(setting, state, token, setting.now)
}

/// T09: an empty token is malformed for who asks about a token, missing for who asks about a request (T05).
#[test]
fn an_empty_token_is_refused_at_both_doors() {
    let setting = setting();
    let state = setting.trust_state();
    assert_eq!(decide(&setting, &state, b""), Err(Rejection::TokenMalformed));
    assert_eq!(
        from_authorization([b"Bearer ".as_slice()]),
        Err(Rejection::TokenMissing)
    );
}

/// T11, T12: what is over the limit is refused before anything looks inside; nothing is copied to find the token.
#[test]
fn a_large_token_is_refused_unread() {
    let huge = [b"Bearer ".as_slice(), &vec![b'.'; 1_000_000]].concat();
    assert_eq!(
        from_authorization([huge.as_slice()]),
        Err(Rejection::TokenTooLarge)
    );
    let field = b"Bearer a.b.c".as_slice();
    let token = from_authorization([field]).expect("a token");
    assert!(field.as_ptr_range().contains(&token.as_ptr()), "a copy was made");
}

/// T26: nesting far beyond any stack is refused by a scan.
#[test]
fn a_document_a_hundred_thousand_deep_is_refused() {
    for document in [
        format!(r#"{{"a":{}"#, "[".repeat(100_000)),
        format!(r#"{{"a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000)),
        r#"{"a":"#.repeat(100_000),
    ] {
        assert!(Members::read(document.as_bytes()).is_err());
        assert_eq!(Claims::read(document.as_bytes()), Err(Rejection::TokenMalformed));
    }
    let brackets_in_text = format!(r#"{{"a":"{}\"{}"}}"#, "[".repeat(500), "{".repeat(500));
    assert!(Members::read(brackets_in_text.as_bytes()).is_ok());
}

/// T56: one bit changed anywhere, under every algorithm: never accepted.
#[test]
fn no_flipped_bit_goes_unnoticed() {
    let setting = setting();
    let state = setting.trust_state();
    for role in [Role::Active, Role::EdDsa, Role::Rsa] {
        let token = setting.token(role, &setting.payload());
        assert_eq!(decide(&setting, &state, token.as_bytes()), Ok(()));
        let mut flips = 0;
        for flipped in bit_flips(token.as_bytes()) {
            assert!(
                decide(&setting, &state, &flipped).is_err(),
                "{role:?}: {}",
                String::from_utf8_lossy(&flipped)
            );
            flips += 1;
        }
        assert_eq!(flips, token.len() * 8);
    }
}

/// I-20: every other byte in every place of a token is refused, not just one bit of it.
#[test]
fn no_other_byte_in_the_signature_is_accepted() {
    let setting = setting();
    let state = setting.trust_state();
    let token = setting.good_token().into_bytes();
    let signature = token.iter().rposition(|byte| *byte == b'.').expect("a dot");
    for index in signature..token.len() {
        for byte in 0..=u8::MAX {
            let mut edited = token.clone();
            edited[index] = byte;
            assert_eq!(
                decide(&setting, &state, &edited).is_ok(),
                edited == token,
                "{index} {byte}"
            );
        }
    }
}

/// T78: with a policy that allows several audiences, up to four are read and ours must be among them.
#[test]
fn several_audiences_pass_only_where_policy_says_so() {
    let setting = setting();
    let state = setting.trust_state();
    let ours = text(setting.audience.as_str());
    let requirements = Requirements::default();
    let presented = Presentation {
        peer_certificate: None,
        requirements: &requirements,
    };
    for (audiences, expected) in [
        (format!("[{ours}]"), Ok(())),
        (format!("[{ours},\"b\"]"), Ok(())),
        (format!("[\"b\",\"c\",\"d\",{ours}]"), Ok(())),
        ("[\"b\",\"c\"]".to_owned(), Err(Rejection::AudMismatch)),
        (
            format!("[\"b\",\"c\",\"d\",\"e\",{ours}]"),
            Err(Rejection::ClaimMalformed(Claim::Aud)),
        ),
    ] {
        let token = setting.token(Role::Active, &setting.payload().with("aud", audiences.as_str()));
        let mut expectations = setting.expectations();
        expectations.several_audiences = true;
        let view = setting.view(&state);
        let answer = verify(token.as_bytes(), Ok(view), &expectations, &presented, setting.now);
        assert_eq!(answer.map(|_| ()), expected, "{audiences}");
    }
}

fn permutations<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    (0..items.len())
        .flat_map(|index| {
            let mut rest = items.to_vec();
            let first = rest.remove(index);
            permutations(&rest).into_iter().map(move |mut tail| {
                tail.insert(0, first.clone());
                tail
            })
        })
        .collect()
}

/// T88, I-12: general, client and token entries in all six orders: the same list, the same answers.
#[test]
fn the_strictest_revocation_wins_in_every_order() {
    let setting = setting();
    let payload = setting
        .payload_for(WATERMARKED_CLIENT)
        .with("jti", text(REVOKED_TOKEN))
        .with("iat", setting.general_watermark().to_string());
    let claims = Claims::read(payload.to_json().as_bytes()).expect("claims");
    let mut digests = Vec::new();
    let orders = permutations(&setting.revocations()[..3]);
    assert_eq!(orders.len(), 6);
    for order in orders {
        let list = order
            .into_iter()
            .fold(RevocationList::default(), |list, entry| list.with(entry));
        assert_eq!(list.check(&claims), Err(Rejection::TokenRevoked));
        digests.push(list.digest());
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

/// T88: several watermarks for one client, in every order of arrival: the latest holds, for the longest.
#[test]
fn the_latest_watermark_of_a_client_holds() {
    let setting = setting();
    let entry = |issued: i64, expires: i64| Revocation {
        subject: RevokedSubject::Client(ClientId::parse("billing").expect("a client id")),
        issued_before: setting.after(issued),
        expires_at: setting.after(expires),
    };
    for order in permutations(&[entry(-30, 100), entry(-20, 50), entry(-40, 200)]) {
        let list = order
            .into_iter()
            .fold(RevocationList::default(), |list, entry| list.with(entry));
        let held: Vec<_> = list.iter().collect();
        assert_eq!(held, [entry(-20, 200)]);
    }
}

/// T91: what was accepted is judged anew: after a revocation, and once the clock passes `exp`.
#[test]
fn an_accepted_token_is_refused_once_revoked_or_expired() {
    let setting = setting();
    let state = setting.trust_state();
    let token = setting.good_token();
    let (view, authentic) = authenticate(
        token.as_bytes(),
        Ok(setting.view(&state)),
        &StalenessBudget::NORMAL,
    )
    .expect("authentic");
    let requirements = Requirements::default();
    let presented = Presentation {
        peer_certificate: None,
        requirements: &requirements,
    };
    let judge_at = |state: &TrustState, now: Timestamp| {
        let view = setting.view(state);
        judge(authentic.clone(), view, &setting.expectations(), &presented, now).map(|_| ())
    };
    assert_eq!(judge_at(view.state, setting.now), Ok(()));
    let expires_at = authentic.claims().expires_at;
    assert_eq!(judge_at(&state, setting.after(599)), Ok(()));
    assert_eq!(judge_at(&state, expires_at), Err(Rejection::TokenExpired));
    let stale = TrustView {
        overdue: Some(StalenessBudget::NORMAL.shortest()),
        ..setting.view(&state)
    };
    let on_stale_trust = judge(
        authentic.clone(),
        stale,
        &setting.expectations(),
        &presented,
        setting.now,
    );
    assert_eq!(on_stale_trust.map(|_| ()), Err(Rejection::TrustStale));

    let revoke = |subject: RevokedSubject| Change {
        revoked: [Revocation {
            subject,
            issued_before: setting.now,
            expires_at: setting.after(3600),
        }]
        .into(),
        ..Change::default()
    };
    let by_token = RevokedSubject::Token(TokenId::parse("5e7.1f").expect("a token id"));
    let state_after = state.next(&revoke(by_token), &AwsLc);
    assert_eq!(judge_at(&state_after, setting.now), Err(Rejection::TokenRevoked));
    let by_client = RevokedSubject::Client(setting.client_id.clone());
    let state_after = state.next(&revoke(by_client), &AwsLc);
    assert_eq!(judge_at(&state_after, setting.now), Err(Rejection::ClientRevoked));
    let state_after = state.next(&revoke(RevokedSubject::Everything), &AwsLc);
    assert_eq!(judge_at(&state_after, setting.now), Err(Rejection::TokenRevoked));
}

/// T91, T52: the key of a token that was authenticated under an earlier epoch is looked at again.
#[test]
fn an_accepted_token_is_refused_once_its_key_is_withdrawn() {
    let setting = setting();
    let state = setting.trust_state();
    let token = setting.good_token();
    let (_, authentic) = authenticate(
        token.as_bytes(),
        Ok(setting.view(&state)),
        &StalenessBudget::NORMAL,
    )
    .expect("authentic");
    let with_keys = |edit: &dyn Fn(&mut countersign_core::key_set::PublishedKey)| {
        let mut keys = state.keys().keys().to_vec();
        for key in keys
            .iter_mut()
            .filter(|key| key.jwk.key_id() == authentic.key_id())
        {
            edit(key);
        }
        let change = Change {
            key_set: Some(Arc::new(countersign_core::key_set::KeySet::new(keys))),
            ..Change::default()
        };
        state.next(&change, &AwsLc)
    };
    let requirements = Requirements::default();
    let presented = Presentation {
        peer_certificate: None,
        requirements: &requirements,
    };
    let judge = |state: &TrustState| {
        judge(
            authentic.clone(),
            setting.view(state),
            &setting.expectations(),
            &presented,
            setting.now,
        )
        .map(|_| ())
    };
    let compromised = with_keys(&|key| key.times.compromised_at = Some(setting.now));
    assert_eq!(judge(&compromised), Err(Rejection::KeyRevoked));
    let retired = with_keys(&|key| key.times.retired_from = Some(setting.now));
    assert_eq!(judge(&retired), Ok(()));
    let gone = with_keys(&|key| key.times.retired_from = Some(setting.after(-3605)));
    assert_eq!(judge(&gone), Err(Rejection::KidUnknown));
    let almost_gone = with_keys(&|key| key.times.retired_from = Some(setting.after(-3604)));
    assert_eq!(judge(&almost_gone), Err(Rejection::KeyNotActive));
}

/// T92: a token refused for its unknown key is accepted as soon as the key is there.
#[test]
fn a_refusal_for_an_unknown_key_does_not_outlive_its_epoch() {
    let setting = setting();
    let state = setting.trust_state();
    let token = setting.token(Role::Stranger, &setting.payload());
    assert_eq!(
        decide(&setting, &state, token.as_bytes()),
        Err(Rejection::KidUnknown)
    );
    let mut keys = state.keys().keys().to_vec();
    let stranger = setting.key(Role::Stranger);
    let mut published = keys.first().expect("a key").clone();
    published.public_key =
        countersign_core::ports::KeyReader::public_key(&AwsLc, &stranger.jwk).expect("a key");
    published.jwk = stranger.jwk.clone();
    keys.push(published);
    let change = Change {
        key_set: Some(Arc::new(countersign_core::key_set::KeySet::new(keys))),
        ..Change::default()
    };
    let next = state.next(&change, &AwsLc);
    assert_eq!(decide(&setting, &next, token.as_bytes()), Ok(()));
}

/// T50, I-05: a retired key is believed until the last of its tokens has expired, to the second.
#[test]
fn a_retired_key_ends_with_its_last_token() {
    let setting = setting();
    let state = setting.trust_state();
    let retired_from = setting.after(-60);
    let gone = retired_from
        .saturating_add(setting.max_lifetime)
        .saturating_add(setting.leeway);
    let last = gone.as_seconds() - 1;
    let issued = last - setting.max_lifetime.as_secs();
    let payload = setting
        .payload()
        .with("iat", issued.to_string())
        .with("nbf", issued.to_string())
        .with("exp", last.to_string());
    let token = setting.token(Role::Retired, &payload);
    for (before, expected) in [
        (2, Ok(())),
        (1, Err(Rejection::TokenExpired)),
        (0, Err(Rejection::KidUnknown)),
    ] {
        let now = Timestamp::from_seconds(gone.as_seconds() - before);
        assert_eq!(
            decide_at(&setting, &state, token.as_bytes(), now),
            expected,
            "{before} s before"
        );
    }
}

/// T51: a key that was announced is believed for tokens from its first second on.
#[test]
fn an_announced_key_begins_at_its_time() {
    let setting = setting();
    let state = setting.trust_state();
    let active_from = setting.after(3600);
    let token = |iat: u64| {
        let payload = setting
            .payload()
            .with("iat", iat.to_string())
            .with("nbf", iat.to_string())
            .with("exp", (iat + 600).to_string());
        setting.token(Role::Announced, &payload)
    };
    let first = token(active_from.as_seconds());
    let too_early = token(active_from.as_seconds() - 1);
    assert_eq!(decide_at(&setting, &state, first.as_bytes(), active_from), Ok(()));
    let answer = decide_at(&setting, &state, too_early.as_bytes(), active_from);
    assert_eq!(answer, Err(Rejection::KeyNotActive));
    // A verifier whose clock is behind by less than the leeway takes it all the same.
    let behind = active_from.saturating_sub(setting.leeway);
    assert_eq!(decide_at(&setting, &state, first.as_bytes(), behind), Ok(()));
}

/// Without trust, or past its budget, nothing is accepted; form and size are still told first.
#[test]
fn without_fresh_trust_nothing_is_accepted() {
    let setting = setting();
    let state = setting.trust_state();
    let token = setting.good_token();
    let requirements = Requirements::default();
    let presented = Presentation {
        peer_certificate: None,
        requirements: &requirements,
    };
    let decide = |token: &[u8], overdue: Result<Duration, Rejection>| {
        let view = overdue.map(|overdue| TrustView {
            state: &state,
            overdue: Some(overdue),
        });
        verify(token, view, &setting.expectations(), &presented, setting.now).map(|_| ())
    };
    for none in [Rejection::TrustCold, Rejection::VerifierClock] {
        assert_eq!(decide(token.as_bytes(), Err(none)), Err(none));
        assert_eq!(decide(b"a.b", Err(none)), Err(Rejection::TokenMalformed));
    }
    let budget = StalenessBudget::NORMAL.shortest();
    let just_within = budget - Duration::from_nanos(1);
    assert_eq!(decide(token.as_bytes(), Ok(just_within)), Ok(()));
    assert_eq!(decide(token.as_bytes(), Ok(budget)), Err(Rejection::TrustStale));
}
