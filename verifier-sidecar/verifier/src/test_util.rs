//! Values for tests: a clock that stands still, an issuer with a key, and a verifier that trusts it.
//!
//! Everything that is signed is signed for real.

#![expect(clippy::unwrap_used, reason = "for tests, which fail where they are wrong")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::claims::{Claims, Confirmation, Subject};
use countersign_core::jose::{access_token_header, encode_segment};
use countersign_core::key_set::{KeySet, KeyTimes, PublishedKey};
use countersign_core::names::{Audience, CertificateThumbprint, ClientId, Issuer, Scope, TokenId};
use countersign_core::ports::{Clock, KeyReader as _, Signer as _};
use countersign_core::requirements::MethodTable;
use countersign_core::revocation::{Revocation, RevokedSubject};
use countersign_core::spiffe::{SpiffeId, TrustDomain};
use countersign_core::trust::{Epoch, TrustState, UpdateRules};
use countersign_core::verifier::Grant;
use countersign_core::verifying::Expectations;
use countersign_crypto::AwsLc;
use countersign_crypto::test_util::DeterministicSigner;
use prometheus_client::registry::Registry;

use crate::metrics::DecisionMetrics;
use crate::token_cache::TokenCache;
use crate::trust::TrustStore;
use crate::verifier::Verifier;

/// When tests begin.
pub const START: u64 = 1_800_000_000;

/// The issuer of tests.
pub const ISSUER: &str = "https://auth.example.com";

/// The trust domain of tests.
pub const TRUST_DOMAIN: &str = "test.example.com";

/// The audience that verifiers of tests stand for.
pub const AUDIENCE: &str = "demo";

/// The scope that tokens of tests have.
pub const SCOPE: &str = "demo.call";

/// From this age on, trust is warned of in tests.
pub const WARN_AFTER: Duration = Duration::from_secs(60);

/// How long after the end of a lease the default class is decided in tests.
pub const REFUSE_AFTER: Duration = Duration::from_secs(900);

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct SetClock(Mutex<(u64, Duration)>);

impl SetClock {
    /// A clock at [`START`].
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((START * 1000, Duration::from_secs(100)))))
    }

    /// Lets time pass.
    pub fn advance(&self, duration: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.0 += u64::try_from(duration.as_millis()).unwrap();
        now.1 += duration;
    }

    fn read(&self) -> (u64, Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(self.read().0 / 1000)
    }

    fn now_millis(&self) -> u64 {
        self.read().0
    }

    fn elapsed(&self) -> Duration {
        self.read().1
    }
}

/// An issuer with one key that signs since [`START`].
#[derive(Clone, Debug)]
pub struct TestIssuer {
    signer: DeterministicSigner,
    /// The life of its key.
    pub key_times: KeyTimes,
}

impl TestIssuer {
    /// The issuer whose key belongs to `seed`.
    #[must_use]
    pub fn new(seed: &str) -> Self {
        Self {
            signer: DeterministicSigner::from_seed(seed).unwrap(),
            key_times: KeyTimes {
                prepared_at: Timestamp::from_seconds(START - 3600),
                active_from: Some(Timestamp::from_seconds(START - 3600)),
                ..KeyTimes::default()
            },
        }
    }

    /// Its key as it is published.
    #[must_use]
    pub fn published_key(&self) -> PublishedKey {
        let jwk = self.signer.jwk().clone();
        PublishedKey {
            public_key: AwsLc.public_key(&jwk).unwrap(),
            jwk,
            times: self.key_times,
        }
    }

    /// Trust in its key at `epoch`, with `revoked` taken back.
    #[must_use]
    pub fn state(&self, epoch: Epoch, revoked: impl IntoIterator<Item = Revocation>) -> TrustState {
        trust_state(epoch, vec![self.published_key()], revoked)
    }

    /// A token that says this.
    #[must_use]
    pub fn token(&self, claims: &Claims) -> String {
        self.sign(&serde_json::to_vec(claims).unwrap())
    }

    /// A token with this payload.
    #[must_use]
    pub fn sign(&self, payload: &[u8]) -> String {
        let header = access_token_header(self.signer.algorithm(), self.signer.key_id());
        let input = format!(
            "{}.{}",
            encode_segment(header.as_bytes()),
            encode_segment(payload)
        );
        let signature = self.signer.sign(input.as_bytes()).unwrap();
        format!("{input}.{}", encode_segment(&signature))
    }
}

/// Trust in `keys` at `epoch`, with `revoked` taken back.
#[must_use]
pub fn trust_state(
    epoch: Epoch,
    keys: Vec<PublishedKey>,
    revoked: impl IntoIterator<Item = Revocation>,
) -> TrustState {
    let revoked = revoked.into_iter().collect();
    TrustState::new(issuer(), epoch, Arc::new(KeySet::new(keys)), revoked, &AwsLc)
}

/// [`ISSUER`].
#[must_use]
pub fn issuer() -> Issuer {
    Issuer::parse(ISSUER).unwrap()
}

/// The claims of a good token: for 15 minutes from [`START`], with [`SCOPE`], bound to nothing.
#[must_use]
pub fn claims(token_id: &str) -> Claims {
    let client_id = ClientId::parse("orders").unwrap();
    Claims {
        issuer: ISSUER.to_owned(),
        subject: Subject {
            trust_domain: TrustDomain::parse(TRUST_DOMAIN).unwrap(),
            client_id: client_id.clone(),
        },
        audiences: vec![AUDIENCE.to_owned()],
        client_id,
        expires_at: Timestamp::from_seconds(START + 900),
        issued_at: Timestamp::from_seconds(START),
        not_before: Some(Timestamp::from_seconds(START)),
        token_id: TokenId::parse(token_id).unwrap(),
        scopes: vec![Scope::parse(SCOPE).unwrap()],
        roles: Vec::new(),
        confirmation: Confirmation::Unbound,
    }
}

/// The same, bound to a certificate.
#[must_use]
pub fn bound_claims(token_id: &str, certificate: CertificateThumbprint) -> Claims {
    Claims {
        confirmation: Confirmation::Certificate(certificate),
        ..claims(token_id)
    }
}

/// The same, bound to a SPIFFE ID.
#[must_use]
pub fn claims_bound_to(token_id: &str, spiffe_id: SpiffeId) -> Claims {
    Claims {
        confirmation: Confirmation::SpiffeId(spiffe_id),
        ..claims(token_id)
    }
}

/// The revocation of one token.
#[must_use]
pub fn revoke_token(token_id: &str) -> Revocation {
    Revocation {
        subject: RevokedSubject::Token(TokenId::parse(token_id).unwrap()),
        issued_before: Timestamp::default(),
        expires_at: Timestamp::from_seconds(START + 3600),
    }
}

/// The revocation of what a client was issued up to and including `issued_before`.
#[must_use]
pub fn revoke_client(client_id: &str, issued_before: u64) -> Revocation {
    Revocation {
        subject: RevokedSubject::Client(ClientId::parse(client_id).unwrap()),
        issued_before: Timestamp::from_seconds(issued_before),
        expires_at: Timestamp::from_seconds(START + 7200),
    }
}

/// What verifiers of tests accept.
#[must_use]
pub fn expectations() -> Expectations {
    Expectations {
        issuer: issuer(),
        trust_domain: TrustDomain::parse(TRUST_DOMAIN).unwrap(),
        audience: Audience::parse(AUDIENCE).unwrap(),
        max_lifetime: Duration::from_secs(3600),
        leeway: Duration::from_secs(5),
        several_audiences: false,
    }
}

/// A store with nothing in force.
#[must_use]
pub fn empty_store(clock: Arc<dyn Clock>) -> Arc<TrustStore> {
    let rules = UpdateRules {
        issuer: issuer(),
        max_revocations: 1_000_000,
        max_revocation_life: Duration::from_secs(90_000),
        leeway: Duration::from_secs(5),
    };
    Arc::new(TrustStore::new(rules, Arc::default(), clock))
}

/// Puts `state` in `store`, confirmed at this moment, without a lease.
pub fn trust(store: &TrustStore, state: TrustState) {
    store.install_cached(state, Some(Duration::ZERO.into())).unwrap();
}

/// The authority confirms what `store` has in force, and grants a lease of this length from this moment on.
pub fn confirm(store: &TrustStore, lease: Duration) {
    let status = store.status();
    let grant = Grant {
        sent_at: store.clock().elapsed(),
        lease,
    };
    store.confirm(status.epoch, &status.digest, grant);
}

/// A verifier on `store`, with a memory for tokens of so many bytes.
#[must_use]
pub fn verifier(store: &Arc<TrustStore>, methods: MethodTable, cache_bytes: u64) -> Verifier {
    let tokens = TokenCache::new(cache_bytes);
    verifier_with(store, methods, tokens, &mut Registry::default())
}

/// A verifier on `store` that remembers in `tokens`. `registry` shows what it counts.
#[must_use]
pub fn verifier_with(
    store: &Arc<TrustStore>,
    methods: MethodTable,
    tokens: TokenCache,
    registry: &mut Registry,
) -> Verifier {
    let metrics = DecisionMetrics::register(registry);
    Verifier::new(Arc::clone(store), expectations(), methods, tokens, metrics)
}
