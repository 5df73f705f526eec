//! Properties that hold for every input, not just for the rows of a table.
#![expect(clippy::expect_used, reason = "helpers of tests")]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use countersign_core::bearer::from_authorization;
use countersign_core::claims::{Claims, Confirmation, Subject};
use countersign_core::issuing::sign_token;
use countersign_core::jwk::read_set;
use countersign_core::key_set::KeySet;
use countersign_core::names::{CertificateThumbprint, ClientId, Scope, TokenId};
use countersign_core::requirements::{MethodPath, Requirements};
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_core::trust::{Applied, Change, TrustState, Update, UpdateContent, UpdateRules};
use countersign_core::verifying::{Presentation, VerifiedToken, verify};
use countersign_core::{Rejection, Timestamp};
use countersign_crypto::AwsLc;
use countersign_vectors::workshop::{Object, sign, text};
use countersign_vectors::{Role, Setting};
use proptest::collection::vec;
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000;

struct Verifier {
    setting: Setting,
    state: TrustState,
    token: String,
}

fn verifier() -> &'static Verifier {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    VERIFIER.get_or_init(|| {
        let setting = Setting::at(Timestamp::from_seconds(NOW));
        Verifier {
            state: setting.trust_state(),
            token: setting.good_token(),
            setting,
        }
    })
}

impl Verifier {
    fn decide(&self, token: &[u8]) -> Result<VerifiedToken, Rejection> {
        let requirements = Requirements::default();
        let presented = Presentation {
            peer_certificate: Some(&self.setting.holder),
            requirements: &requirements,
        };
        let view = self.setting.view(&self.state);
        verify(
            token,
            Ok(view),
            &self.setting.expectations(),
            &presented,
            self.setting.now,
        )
    }
}

fn subjects() -> impl Strategy<Value = RevokedSubject> {
    prop_oneof![
        (0_u8..20)
            .prop_map(|n| RevokedSubject::Token(TokenId::parse(&format!("a.{n}")).expect("a token id"))),
        (0_u8..5)
            .prop_map(|n| RevokedSubject::Client(ClientId::parse(&format!("c{n}")).expect("a client id"))),
        Just(RevokedSubject::Everything),
    ]
}

fn revocations() -> impl Strategy<Value = Revocation> {
    (subjects(), 0_u64..1000, 0_u64..3600).prop_map(|(subject, issued, lasts)| Revocation {
        subject,
        issued_before: Timestamp::from_seconds(NOW - issued),
        expires_at: Timestamp::from_seconds(NOW - 1800 + lasts),
    })
}

/// What may happen to a trust state: which keys are published (by a mask), what is revoked, whether ended entries go.
fn changes() -> impl Strategy<Value = (Option<u8>, Vec<Revocation>, bool)> {
    (
        proptest::option::of(any::<u8>()),
        vec(revocations(), 0..4),
        any::<bool>(),
    )
}

fn change((keys, revoked, prune): (Option<u8>, Vec<Revocation>, bool)) -> Change {
    let state = &verifier().state;
    let published = |mask: u8| {
        let keys = state.keys().keys().iter().enumerate();
        let chosen = keys.filter(|(index, _)| *index == 0 || mask >> (index % 8) & 1 == 1);
        Arc::new(KeySet::new(chosen.map(|(_, key)| key.clone()).collect()))
    };
    Change {
        key_set: keys.map(published),
        revoked: revoked.into_iter().collect(),
        prune_before: prune.then_some(Timestamp::from_seconds(NOW)),
        publishers: None,
    }
}

fn list(entries: &[Revocation]) -> RevocationList {
    entries
        .iter()
        .fold(RevocationList::default(), |list, entry| list.with(entry.clone()))
}

fn update(state: &TrustState, content: UpdateContent) -> Update {
    Update {
        issuer: state.issuer().clone(),
        epoch: state.epoch(),
        state_digest: *state.digest(),
        published_at: verifier().setting.now,
        content,
    }
}

fn snapshot(state: &TrustState) -> Update {
    let content = UpdateContent::Snapshot {
        key_set: Arc::clone(state.keys()),
        revocations: state.revocations().clone(),
        publishers: state.publishers(),
    };
    update(state, content)
}

fn rules() -> UpdateRules {
    let setting = &verifier().setting;
    UpdateRules {
        issuer: setting.issuer.clone(),
        max_revocations: 1000,
        max_revocation_life: Duration::from_secs(7200),
        leeway: setting.leeway,
    }
}

fn apply(current: Option<&TrustState>, update: &Update) -> Option<TrustState> {
    let floor = current.map_or(0, TrustState::epoch);
    match rules().apply(current, floor, update, verifier().setting.now, &AwsLc) {
        Ok(Applied::Advanced(state)) => Some(state),
        Ok(Applied::Confirmed) | Err(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// I-20: any byte of an accepted token in place of another, taken away or put in: never accepted.
    #[test]
    fn an_edited_token_is_refused(index in any::<prop::sample::Index>(), byte in any::<u8>(), edit in 0_u8..3) {
        let verifier = verifier();
        let mut token = verifier.token.clone().into_bytes();
        let index = index.index(token.len());
        match edit {
            0 if token[index] == byte => return Ok(()),
            0 => token[index] = byte,
            1 => { token.remove(index); }
            _ => token.insert(index, byte),
        }
        prop_assert!(verifier.decide(&token).is_err());
    }

    /// Whatever comes in, there is an answer.
    #[test]
    fn random_bytes_get_an_answer(bytes in vec(any::<u8>(), 0..600)) {
        prop_assert!(verifier().decide(&bytes).is_err());
        prop_assert!(from_authorization([bytes.as_slice()]).is_err() || bytes.to_ascii_lowercase().starts_with(b"bearer "));
        let _ = Claims::read(&bytes);
        prop_assert!(read_set(&bytes, &AwsLc).is_err());
        if let Ok(path) = std::str::from_utf8(&bytes) {
            prop_assert!(MethodPath::parse(path).is_err());
        }
    }

    /// The same for what looks more like a token.
    #[test]
    fn random_segments_get_an_answer(token in "[A-Za-z0-9_-]{0,90}\\.[A-Za-z0-9_-]{0,200}\\.[A-Za-z0-9_-]{0,90}") {
        prop_assert!(verifier().decide(token.as_bytes()).is_err());
    }

    /// And for what our own key signed: any text for a payload, any for a header.
    #[test]
    fn signed_text_gets_an_answer(header in "\\PC{0,80}", payload in "\\PC{0,200}") {
        let setting = &verifier().setting;
        let signer = setting.key(Role::Active).signer.as_ref();
        let token = sign(header.as_bytes(), payload.as_bytes(), signer);
        prop_assert!(verifier().decide(token.as_bytes()).is_err());
        let good = setting.header(Role::Active).to_json();
        let token = sign(good.as_bytes(), payload.as_bytes(), signer);
        prop_assert!(verifier().decide(token.as_bytes()).is_err());
    }

    /// A payload with one claim replaced by any JSON: accepted or not, never for a reason of form before the signature.
    #[test]
    fn any_value_of_a_claim_gets_an_answer(claim in 0_usize..12, value in json()) {
        let setting = &verifier().setting;
        let name = countersign_core::Claim::ALL[claim].name();
        let token = setting.token(Role::Active, &setting.payload().with(name, value));
        let reason = verifier().decide(token.as_bytes()).err().map(Rejection::outcome);
        prop_assert_ne!(reason, Some(countersign_core::Outcome::Unavailable));
    }

    /// I-10: whoever applied every delta holds what whoever took the snapshot holds.
    #[test]
    fn a_chain_of_deltas_is_the_snapshot(steps in vec(changes(), 1..12)) {
        let mut authority = verifier().state.clone();
        let mut follower = apply(None, &snapshot(&authority)).expect("a snapshot");
        let mut all = verifier().setting.revocations();
        for step in steps {
            let change = change(step);
            all.extend(change.revoked.iter());
            let next = authority.next(&change, &AwsLc);
            let delta = UpdateContent::Delta {
                base_epoch: authority.epoch(),
                base_digest: *authority.digest(),
                change,
            };
            follower = apply(Some(&follower), &update(&next, delta)).expect("a delta");
            authority = next;
            prop_assert_eq!(follower.digest(), authority.digest());
        }
        let late = apply(None, &snapshot(&authority)).expect("a snapshot");
        prop_assert_eq!(late.digest(), authority.digest());
        prop_assert_eq!(late.revocations().len(), authority.revocations().len());
        let over = apply(Some(&verifier().state), &snapshot(&authority)).expect("a snapshot over an old state");
        prop_assert_eq!(over.digest(), authority.digest());
        // Nothing that still matters is lost on the way.
        for entry in all.iter().filter(|entry| entry.expires_at >= verifier().setting.now) {
            let held = authority.revocations().find(&entry.subject);
            let is_token = matches!(entry.subject, RevokedSubject::Token(_));
            prop_assert!(held.is_some_and(|held| is_token || held.issued_before >= entry.issued_before));
        }
    }

    /// The digest of a list says what is in it, not how it came about.
    #[test]
    fn a_list_has_one_digest_in_any_order(entries in vec(revocations(), 0..20), seed in any::<u64>()) {
        let mut shuffled = entries.clone();
        let mut random = seed;
        for index in (1..shuffled.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let other = usize::try_from(random >> 33).expect("31 bits") % (index + 1);
            shuffled.swap(index, other);
        }
        let (one, two) = (list(&entries), list(&shuffled));
        prop_assert_eq!(one.digest(), two.digest());
        prop_assert_eq!(one.len(), two.len());
        let now = Timestamp::from_seconds(NOW);
        let pruned = one.pruned(now);
        prop_assert_eq!(pruned.digest(), two.pruned(now).digest());
        let kept: Vec<Revocation> = pruned.iter().collect();
        prop_assert!(kept.iter().all(|entry| entry.expires_at >= now));
        prop_assert_eq!(list(&kept).digest(), pruned.digest());
    }

    /// Lists that differ have different digests.
    #[test]
    fn an_entry_more_or_less_changes_the_digest(entries in vec(revocations(), 1..10)) {
        let whole = list(&entries);
        for entry in whole.iter() {
            let rest: Vec<Revocation> = whole.iter().filter(|other| *other != entry).collect();
            prop_assert_ne!(list(&rest).digest(), whole.digest());
        }
    }

    /// I-09: more entries never make a revoked token good again.
    #[test]
    fn adding_entries_never_unrevokes(entries in vec(revocations(), 0..10), more in vec(revocations(), 0..10)) {
        let setting = &verifier().setting;
        let claims = |client: &str, iat: u64| {
            let payload = setting.payload_for(client).with("jti", text("a.3")).with("iat", iat.to_string()).without("nbf");
            Claims::read(payload.to_json().as_bytes()).expect("claims")
        };
        let before = list(&entries);
        let after = more.iter().fold(before.clone(), |list, entry| list.with(entry.clone()));
        for client in ["c0", "c3", "c9"] {
            for age in [0, 10, 500, 999] {
                let claims = claims(client, NOW - age);
                prop_assert!(before.check(&claims).is_ok() || after.check(&claims).is_err());
            }
        }
    }

    /// I-21: what we issue, we accept, and it says what was meant.
    #[test]
    fn what_is_issued_is_read_back(
        id in "[a-z0-9][a-z0-9._-]{0,63}",
        jti in "[0-9a-f]{1,8}\\.[0-9a-f]{1,12}",
        scopes in proptest::collection::btree_set("[!#-)+-\\[\\]-~]{1,20}", 0..8),
        lifetime in 1_u64..3600,
        bound in 0..3,
    ) {
        let setting = &verifier().setting;
        let client_id = ClientId::parse(&id).expect("a client id");
        let claims = Claims {
            issuer: setting.issuer.as_str().to_owned(),
            subject: Subject { trust_domain: setting.trust_domain.clone(), client_id: client_id.clone() },
            audiences: vec![setting.audience.as_str().to_owned()],
            client_id,
            expires_at: setting.now.saturating_add(Duration::from_secs(lifetime)),
            issued_at: setting.now,
            not_before: Some(setting.now),
            token_id: TokenId::parse(&jti).expect("a token id"),
            scopes: scopes.iter().map(|scope| Scope::parse(scope).expect("a scope")).collect(),
            roles: Vec::new(),
            confirmation: match bound {
                0 => Confirmation::Unbound,
                1 => Confirmation::Certificate(setting.holder.thumbprint),
                _ => Confirmation::SpiffeId(setting.holder.spiffe_id.clone().expect("it has one")),
            },
        };
        for role in [Role::Active, Role::EdDsa] {
            let key = setting.key(role);
            let token = sign_token(&claims, key.key_id(), key.signer.as_ref()).expect("signed");
            let verified = verifier().decide(token.as_bytes()).expect("accepted");
            prop_assert_eq!(verified.claims(), &claims);
            prop_assert_eq!(verified.key_id(), key.key_id());
        }
    }
}

/// Any JSON value, of some depth.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f64>()
            .prop_filter("JSON has no infinity", |value| value.is_finite())
            .prop_map(|value| format!("{value:e}")),
        "\\PC{0,12}".prop_map(|value| text(&value)),
        Just(r#""\ud800""#.to_owned()),
        Just("1e999".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| format!("[{}]", values.join(","))),
            vec(("[a-c]{1}", inner), 0..4).prop_map(|members| {
                members
                    .into_iter()
                    .fold(Object::new(), |object, (name, value)| {
                        object.also(text(&name), value)
                    })
                    .to_json()
            }),
        ]
    })
}

/// The thumbprint and the client are values that other tests use; their text form is read back.
#[test]
fn a_thumbprint_is_read_back() {
    let thumbprint = CertificateThumbprint::new([0xf7; 32]);
    assert_eq!(
        CertificateThumbprint::parse(&thumbprint.to_string()),
        Ok(thumbprint)
    );
    assert!(CertificateThumbprint::parse("9_f39_f3").is_err());
}
