//! What the cases are made for: a verifier's clock, issuer, audience, keys and revocations.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::binding::PeerCertificate;
use countersign_core::jose::Algorithm;
use countersign_core::jwk::Jwk;
use countersign_core::key_set::{KeySet, KeyTimes, PublishedKey};
use countersign_core::names::{Audience, ClientId, Issuer, KeyId, Scope, TokenId};
use countersign_core::ports::{KeyReader as _, Signer};
use countersign_core::publishers::FIRST_GENERATION;
use countersign_core::revocation::{Revocation, RevokedSubject};
use countersign_core::spiffe::{SpiffeId, TrustDomain};
use countersign_core::trust::{Epoch, TrustState, Update, UpdateContent};
use countersign_core::verifying::{Expectations, TrustView};
use countersign_crypto::test_util::DeterministicSigner;
use countersign_crypto::{AwsLc, SigningKey};

use crate::workshop::{Object, header, sign, text};

/// What a key is to the verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// ES256, signing.
    Active,
    /// Another one, signing too.
    Second,
    /// `EdDSA`, signing.
    EdDsa,
    /// RS256, signing.
    Rsa,
    /// ES256, retired a minute ago: its tokens are still good.
    Retired,
    /// ES256, retired so long ago that all its tokens have expired, and still in the verifier's set.
    Gone,
    /// ES256, published and not told to sign.
    Prepared,
    /// ES256, told to sign an hour from now.
    Announced,
    /// ES256, compromised.
    Compromised,
    /// ES256, of another authority: not in the set.
    Stranger,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 10] = [
        Self::Active,
        Self::Second,
        Self::EdDsa,
        Self::Rsa,
        Self::Retired,
        Self::Gone,
        Self::Prepared,
        Self::Announced,
        Self::Compromised,
        Self::Stranger,
    ];

    const fn seed(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Second => "second",
            Self::EdDsa => "eddsa",
            Self::Rsa => "rsa",
            Self::Retired => "retired",
            Self::Gone => "gone",
            Self::Prepared => "prepared",
            Self::Announced => "announced",
            Self::Compromised => "compromised",
            Self::Stranger => "stranger",
        }
    }
}

/// A key with its private half.
#[derive(Clone, Debug)]
pub struct TestKey {
    /// Signs.
    pub signer: Arc<dyn Signer>,
    /// The public half.
    pub jwk: Jwk,
}

impl TestKey {
    /// The deterministic ES256 key of `seed`.
    #[must_use]
    pub fn from_seed(seed: &str) -> Self {
        let signer = DeterministicSigner::from_seed(seed).expect("a scalar");
        Self {
            jwk: signer.jwk().clone(),
            signer: Arc::new(signer),
        }
    }

    /// The `kid`.
    #[must_use]
    pub const fn key_id(&self) -> &KeyId {
        self.jwk.key_id()
    }
}

impl From<Arc<SigningKey>> for TestKey {
    fn from(key: Arc<SigningKey>) -> Self {
        Self {
            jwk: key.jwk().clone(),
            signer: key,
        }
    }
}

/// The Ed25519 key of every setting in this process. Forgeries need its private numbers.
pub(crate) fn eddsa_key() -> &'static Arc<SigningKey> {
    static KEY: OnceLock<Arc<SigningKey>> = OnceLock::new();
    KEY.get_or_init(|| Arc::new(SigningKey::generate(Algorithm::EdDsa).expect("generated")))
}

/// The RSA key of every setting in this process: RSA keys take long to make.
pub(crate) fn rsa_key() -> &'static Arc<SigningKey> {
    static KEY: OnceLock<Arc<SigningKey>> = OnceLock::new();
    KEY.get_or_init(|| Arc::new(SigningKey::generate(Algorithm::Rs256).expect("generated")))
}

/// The client whose tokens from before [`Setting::client_watermark`] are revoked.
pub const WATERMARKED_CLIENT: &str = "watermarked";

/// The `jti` that is revoked.
pub const REVOKED_TOKEN: &str = "dead.beef";

fn certificate(byte: u8) -> PeerCertificate {
    PeerCertificate {
        spiffe_id: Some(SpiffeId::parse("spiffe://prod.example.com/holder").expect("a SPIFFE ID")),
        ..PeerCertificate::from([byte; 32])
    }
}

/// A verifier as the cases see it. Change its fields before making cases.
#[derive(Clone)]
pub struct Setting {
    /// The issuer trusted.
    pub issuer: Issuer,
    /// The trust domain of subjects.
    pub trust_domain: TrustDomain,
    /// The audience that the verifier stands for.
    pub audience: Audience,
    /// The client whose tokens are presented.
    pub client_id: ClientId,
    /// The scope of [`crate::Method::Scoped`].
    pub scope: Scope,
    /// The certificate of the peer that has one, with a SPIFFE ID.
    pub holder: PeerCertificate,
    /// The one that it has next, with the same SPIFFE ID.
    pub renewed: PeerCertificate,
    /// The one that it had before, with the same SPIFFE ID, which is revoked.
    pub revoked: PeerCertificate,
    /// The verifier's clock.
    pub now: Timestamp,
    /// Its leeway.
    pub leeway: Duration,
    /// The longest lifetime that it accepts.
    pub max_lifetime: Duration,
    keys: Vec<(Role, TestKey)>,
}

impl Setting {
    /// A verifier of `orders.example` at `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        let key = |role: Role| match role {
            Role::EdDsa => Arc::clone(eddsa_key()).into(),
            Role::Rsa => Arc::clone(rsa_key()).into(),
            Role::Active
            | Role::Second
            | Role::Retired
            | Role::Gone
            | Role::Prepared
            | Role::Announced
            | Role::Compromised
            | Role::Stranger => TestKey::from_seed(role.seed()),
        };
        Self {
            issuer: Issuer::parse("https://auth.example.com").expect("an issuer"),
            trust_domain: TrustDomain::parse("prod.example.com").expect("a trust domain"),
            audience: Audience::parse("orders.example").expect("an audience"),
            client_id: ClientId::parse("billing").expect("a client id"),
            scope: Scope::parse("orders.read").expect("a scope"),
            holder: certificate(0x5a),
            renewed: certificate(0x5b),
            revoked: certificate(0x59),
            now,
            leeway: Duration::from_secs(5),
            max_lifetime: Duration::from_secs(3600),
            keys: Role::ALL.map(|role| (role, key(role))).into(),
        }
    }

    /// The key in `role`.
    #[must_use]
    pub fn key(&self, role: Role) -> &TestKey {
        let (_, key) = self
            .keys
            .iter()
            .find(|(other, _)| *other == role)
            .expect("every role has a key");
        key
    }

    /// `seconds` from now; into the past when negative.
    #[must_use]
    pub fn after(&self, seconds: i64) -> Timestamp {
        let distance = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 {
            self.now.saturating_sub(distance)
        } else {
            self.now.saturating_add(distance)
        }
    }

    /// Tokens of [`WATERMARKED_CLIENT`] from then or before are revoked.
    #[must_use]
    pub fn client_watermark(&self) -> Timestamp {
        self.after(-100)
    }

    /// All tokens from then or before are revoked.
    #[must_use]
    pub fn general_watermark(&self) -> Timestamp {
        self.after(-1800)
    }

    /// The times of the key in `role`; none when it is not published.
    #[must_use]
    pub fn key_times(&self, role: Role) -> Option<KeyTimes> {
        let day = 86_400;
        let active = KeyTimes {
            prepared_at: self.after(-2 * day),
            accepted_from: None,
            active_from: Some(self.after(-day)),
            retired_from: None,
            compromised_at: None,
        };
        match role {
            Role::Active | Role::Second | Role::EdDsa | Role::Rsa => Some(active),
            Role::Retired => Some(KeyTimes {
                retired_from: Some(self.after(-60)),
                ..active
            }),
            Role::Gone => Some(KeyTimes {
                retired_from: Some(
                    self.now
                        .saturating_sub(self.max_lifetime)
                        .saturating_sub(self.leeway),
                ),
                ..active
            }),
            Role::Prepared => Some(KeyTimes {
                active_from: None,
                ..active
            }),
            Role::Announced => Some(KeyTimes {
                active_from: Some(self.after(3600)),
                ..active
            }),
            Role::Compromised => Some(KeyTimes {
                compromised_at: Some(self.after(-60)),
                ..active
            }),
            Role::Stranger => None,
        }
    }

    /// The keys that the verifier must hold.
    #[must_use]
    pub fn key_set(&self) -> KeySet {
        let published = self.keys.iter().filter_map(|(role, key)| {
            let times = self.key_times(*role)?;
            Some(PublishedKey {
                jwk: key.jwk.clone(),
                public_key: AwsLc.public_key(&key.jwk).expect("an acceptable key"),
                times,
            })
        });
        KeySet::new(published.collect())
    }

    /// The revocations that the verifier must hold.
    #[must_use]
    pub fn revocations(&self) -> Vec<Revocation> {
        let entry = |subject, issued_before| Revocation {
            subject,
            issued_before,
            expires_at: self.now.saturating_add(self.max_lifetime),
        };
        vec![
            entry(
                RevokedSubject::Token(TokenId::parse(REVOKED_TOKEN).expect("a token id")),
                Timestamp::default(),
            ),
            entry(
                RevokedSubject::Client(ClientId::parse(WATERMARKED_CLIENT).expect("a client id")),
                self.client_watermark(),
            ),
            entry(RevokedSubject::Everything, self.general_watermark()),
            entry(
                RevokedSubject::Certificate(self.revoked.thumbprint),
                self.general_watermark(),
            ),
        ]
    }

    /// The trust that the verifier must hold, at epoch 1.
    #[must_use]
    pub fn trust_state(&self) -> TrustState {
        self.trust_state_at(1)
    }

    /// The same at another epoch.
    #[must_use]
    pub fn trust_state_at(&self, epoch: Epoch) -> TrustState {
        let list = self.revocations().into_iter().collect();
        TrustState::new(self.issuer.clone(), epoch, Arc::new(self.key_set()), list, &AwsLc)
    }

    /// The update that gives a verifier this trust.
    #[must_use]
    pub fn snapshot(&self, epoch: Epoch) -> Update {
        let state = self.trust_state_at(epoch);
        Update {
            issuer: self.issuer.clone(),
            epoch,
            state_digest: *state.digest(),
            published_at: self.now,
            content: UpdateContent::Snapshot {
                key_set: Arc::new(self.key_set()),
                revocations: self.revocations().into_iter().collect(),
                publishers: FIRST_GENERATION,
            },
        }
    }

    /// `state` as fresh trust.
    #[must_use]
    pub const fn view<'a>(&self, state: &'a TrustState) -> TrustView<'a> {
        TrustView::current(state)
    }

    /// What the verifier accepts.
    #[must_use]
    pub fn expectations(&self) -> Expectations {
        Expectations {
            issuer: self.issuer.clone(),
            trust_domain: self.trust_domain.clone(),
            audience: self.audience.clone(),
            max_lifetime: self.max_lifetime,
            leeway: self.leeway,
            several_audiences: false,
        }
    }

    /// The header of a token under the key in `role`.
    #[must_use]
    pub fn header(&self, role: Role) -> Object {
        let key = self.key(role);
        header(key.signer.algorithm().name(), key.key_id().as_str())
    }

    /// The payload of a good token: issued ten seconds ago, good for ten minutes.
    #[must_use]
    pub fn payload(&self) -> Object {
        self.payload_for(self.client_id.as_str())
    }

    /// The same for another client.
    #[must_use]
    pub fn payload_for(&self, client_id: &str) -> Object {
        Object::new()
            .with("iss", text(self.issuer.as_str()))
            .with("sub", text(&format!("client:{}/{client_id}", self.trust_domain)))
            .with("aud", text(self.audience.as_str()))
            .with("client_id", text(client_id))
            .with("exp", self.after(600).to_string())
            .with("iat", self.after(-10).to_string())
            .with("nbf", self.after(-10).to_string())
            .with("jti", text("5e7.1f"))
            .with("scope", text(self.scope.as_str()))
    }

    /// A token under the key in `role`, with its usual header.
    #[must_use]
    pub fn token(&self, role: Role, payload: &Object) -> String {
        self.token_with(role, &self.header(role), payload)
    }

    /// A token signed by the key in `role`, whatever its header says.
    #[must_use]
    pub fn token_with(&self, role: Role, header: &Object, payload: &Object) -> String {
        sign(
            header.to_json().as_bytes(),
            payload.to_json().as_bytes(),
            self.key(role).signer.as_ref(),
        )
    }

    /// A good token.
    #[must_use]
    pub fn good_token(&self) -> String {
        self.token(Role::Active, &self.payload())
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}
