//! Tokens as an authority issues them, and the trust that they are verified under.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::claims::{Claims, Confirmation, Subject};
use countersign_core::issuing::sign_token;
use countersign_core::jose::Algorithm;
use countersign_core::key_set::{KeySet, KeyTimes, PublishedKey};
use countersign_core::names::{Audience, ClientId, Issuer, Scope, TokenId};
use countersign_core::ports::KeyReader as _;
use countersign_core::requirements::Requirements;
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_core::spiffe::TrustDomain;
use countersign_core::time::Timestamp;
use countersign_core::trust::TrustState;
use countersign_core::verifying::Expectations;
use countersign_crypto::{AwsLc, SigningKey};

use crate::Failure;

/// `iss`.
pub(crate) const ISSUER: &str = "https://authority.bench.example";
/// The trust domain.
pub(crate) const TRUST_DOMAIN: &str = "bench.example";
/// `aud`.
pub(crate) const AUDIENCE: &str = "orders.bench.example";

/// The scope that the methods ask for.
pub(crate) const SCOPE: &str = "orders.read";

/// When the tokens are issued.
pub(crate) const ISSUED_AT: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// How long they live.
const LIFETIME: Duration = Duration::from_secs(900);

/// An issuer with one key, and a verifier's view of it.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) key: SigningKey,
    pub(crate) state: TrustState,
    pub(crate) expected: Expectations,
    pub(crate) requirements: Requirements,
}

impl Fixture {
    /// With a thousand revocations in force, as in a busy week; none of them concerns the tokens made here.
    pub(crate) fn new(issued_at: Timestamp) -> Result<Self, Failure> {
        let key = SigningKey::generate(Algorithm::Es256)?;
        let published = PublishedKey {
            public_key: AwsLc.public_key(key.jwk())?,
            jwk: key.jwk().clone(),
            times: KeyTimes {
                prepared_at: issued_at.saturating_sub(LIFETIME),
                active_from: Some(issued_at.saturating_sub(LIFETIME)),
                ..KeyTimes::default()
            },
        };
        let issuer = Issuer::parse(ISSUER)?;
        let mut revocations = RevocationList::default();
        for number in 0..1_000 {
            let revocation = Revocation {
                subject: RevokedSubject::Token(TokenId::parse(&format!("1.{number:x}"))?),
                issued_before: Timestamp::default(),
                expires_at: issued_at.saturating_add(4 * LIFETIME),
            };
            revocations = revocations.with(revocation);
        }
        let keys = Arc::new(KeySet::new(vec![published]));
        Ok(Self {
            key,
            state: TrustState::new(issuer.clone(), 1_001, keys, revocations, &AwsLc),
            expected: Expectations {
                issuer,
                trust_domain: TrustDomain::parse(TRUST_DOMAIN)?,
                audience: Audience::parse(AUDIENCE)?,
                max_lifetime: Duration::from_secs(3_600),
                leeway: Duration::from_secs(5),
                several_audiences: false,
            },
            requirements: Requirements {
                scopes: vec![Scope::parse(SCOPE)?],
                ..Requirements::default()
            },
        })
    }

    /// A token like those of the authority: two scopes, not bound.
    pub(crate) fn token(&self, number: u32, issued_at: Timestamp) -> Result<String, Failure> {
        let client_id = ClientId::parse("billing")?;
        let claims = Claims {
            issuer: ISSUER.to_owned(),
            subject: Subject {
                trust_domain: TrustDomain::parse(TRUST_DOMAIN)?,
                client_id: client_id.clone(),
            },
            audiences: vec![AUDIENCE.to_owned()],
            client_id,
            expires_at: issued_at.saturating_add(LIFETIME),
            issued_at,
            not_before: Some(issued_at),
            token_id: TokenId::parse(&format!("2a.{number:x}"))?,
            scopes: vec![Scope::parse(SCOPE)?, Scope::parse("orders.write")?],
            roles: Vec::new(),
            confirmation: Confirmation::Unbound,
        };
        Ok(sign_token(&claims, self.key.key_id(), &self.key)?)
    }
}
