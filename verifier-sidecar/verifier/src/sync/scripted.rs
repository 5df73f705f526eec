//! An authority for tests: it signs as the real one does, and says what the test tells it to say.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use countersign_core::Timestamp;
use countersign_core::key_set::{KeySet, KeyTimes, PublishedKey};
use countersign_core::names::{Issuer, TokenId};
use countersign_core::ports::{Clock, KeyReader as _, Sha256 as _};
use countersign_core::publishers::{FIRST_GENERATION, Generation};
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_core::trust::{Change, TrustState, Update, UpdateContent, UpdateRules};
use countersign_core::verifier::Grant;
use countersign_crypto::publishing::{self, Context, PinnedKeys};
use countersign_crypto::test_util::DeterministicSigner;
use countersign_crypto::{AwsLc, SigningKey};
use countersign_proto::trust::v1::Signed;
use countersign_wire::publishers::write_publishers;
use countersign_wire::trust::{Heartbeat, write_heartbeat, write_update};

use super::Publishers;
use crate::trust::TrustStore;

/// When tests begin.
pub(crate) const START: u64 = 1_800_000_000;

pub(crate) const ISSUER: &str = "https://auth.example.com";

/// `bytes` with the lowest bit of one of them turned over.
pub(crate) fn flipped(bytes: &[u8], index: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[index] ^= 1;
    bytes.into()
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub(crate) struct TestClock(Mutex<(u64, Duration)>, Mutex<Option<Arc<str>>>);

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(
            Mutex::new((START * 1000, Duration::from_secs(100))),
            Mutex::default(),
        ))
    }

    /// The machine is started, and the start is called `boot`; elapsed time is what it was, which says nothing.
    pub(crate) fn start_machine(&self, boot: &str) {
        *self.1.lock().unwrap() = Some(boot.into());
    }

    /// Time passes.
    pub(crate) fn advance(&self, duration: Duration) {
        let mut now = self.0.lock().unwrap();
        now.0 += u64::try_from(duration.as_millis()).unwrap();
        now.1 += duration;
    }

    /// Somebody sets the wall clock.
    pub(crate) fn set_millis(&self, millis: u64) {
        self.0.lock().unwrap().0 = millis;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(self.now_millis() / 1000)
    }

    fn now_millis(&self) -> u64 {
        self.0.lock().unwrap().0
    }

    fn elapsed(&self) -> Duration {
        self.0.lock().unwrap().1
    }

    fn boot(&self) -> Option<Arc<str>> {
        self.1.lock().unwrap().clone()
    }
}

pub(crate) fn rules() -> UpdateRules {
    UpdateRules {
        issuer: Issuer::parse(ISSUER).unwrap(),
        max_revocations: 1_000_000,
        max_revocation_life: Duration::from_secs(2 * 3600),
        leeway: Duration::from_secs(5),
    }
}

/// How long the leases of tests last.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// What the answer to a ping sent at `sent_at` grants.
pub(crate) const fn granted(sent_at: Duration) -> Grant {
    Grant {
        sent_at,
        lease: LEASE,
    }
}

/// How long after the end of a lease the default class is decided.
pub(crate) const REFUSE_AFTER: Duration = Duration::from_secs(900);

pub(crate) fn store(clock: &Arc<TestClock>) -> TrustStore {
    let clock: Arc<TestClock> = Arc::clone(clock);
    TrustStore::new(rules(), Arc::default(), clock)
}

/// A revocation of the token with this `jti`, which matters for an hour.
pub(crate) fn revocation(token_id: &str) -> Revocation {
    Revocation {
        subject: RevokedSubject::Token(TokenId::parse(token_id).unwrap()),
        issued_before: Timestamp::default(),
        expires_at: Timestamp::from_seconds(START + 3600),
    }
}

/// What the test speaks through.
#[derive(Debug)]
pub(crate) struct ScriptedAuthority {
    /// The publishing keys that it ever had, oldest first.
    keys: Vec<SigningKey>,
    /// Which of them signs.
    signs: usize,
    /// The links that it published.
    pub(crate) links: Vec<Signed>,
    pub(crate) state: TrustState,
    pub(crate) sequence: u64,
}

impl ScriptedAuthority {
    /// An authority at epoch 1, with one active token key.
    pub(crate) fn new() -> Self {
        let issuer = Issuer::parse(ISSUER).unwrap();
        Self {
            keys: vec![SigningKey::generate(publishing::ALGORITHM).unwrap()],
            signs: 0,
            links: Vec::new(),
            state: TrustState::new(issuer, 1, key_set("one"), RevocationList::default(), &AwsLc),
            sequence: 0,
        }
    }

    /// What a verifier pins that knows the first key.
    pub(crate) fn publishers(&self) -> Publishers {
        self.publishers_pinning(&self.keys[..1])
    }

    /// What a verifier pins that knows the key which signs now.
    pub(crate) fn publishers_of_now(&self) -> Publishers {
        self.publishers_pinning(&self.keys[self.signs..=self.signs])
    }

    fn publishers_pinning(&self, keys: &[SigningKey]) -> Publishers {
        let issuer = Issuer::parse(ISSUER).unwrap();
        Publishers::new(issuer, &pinned(keys), Arc::new(AwsLc))
    }

    /// The first key, as it is pinned.
    pub(crate) fn pinned(&self) -> PinnedKeys {
        pinned(&self.keys[..1])
    }

    pub(crate) fn sign(&self, context: Context, payload: impl Into<Bytes>) -> Signed {
        self.sign_with(self.signs, context, payload)
    }

    /// What the publishing key number `key` signs, in force or not.
    pub(crate) fn sign_with(&self, key: usize, context: Context, payload: impl Into<Bytes>) -> Signed {
        let (key, payload) = (&self.keys[key], payload.into());
        Signed {
            signature: publishing::sign(key, context, &payload).unwrap().into(),
            key_id: key.key_id().to_string(),
            payload,
        }
    }

    /// The link to the keys from number `from` on, as the next generation, signed by number `signer`.
    pub(crate) fn link(&self, from: usize, signer: usize) -> Signed {
        let previous = self.links.last();
        let previous = previous.map(|link| AwsLc.sha256(&[&link.payload]));
        let payload = write_publishers(
            self.state.issuer(),
            self.next_generation(),
            self.keys[from..].iter().map(|key| key.jwk().clone()),
            previous.as_ref(),
        );
        self.sign_with(signer, Context::Publishers, payload)
    }

    fn next_generation(&self) -> Generation {
        FIRST_GENERATION + 1 + u64::try_from(self.links.len()).unwrap()
    }

    /// Adds a publishing key: the link, and the delta that names it.
    pub(crate) fn prepare_publisher(&mut self) -> (Signed, Signed) {
        self.keys
            .push(SigningKey::generate(publishing::ALGORITHM).unwrap());
        self.publish_link(self.link(self.signs, self.signs))
    }

    /// Lets the key that was added sign.
    pub(crate) fn activate_publisher(&mut self) {
        self.signs += 1;
    }

    /// Lets this key sign, also one that was dropped.
    pub(crate) fn let_sign(&mut self, key: usize) {
        self.signs = key;
    }

    /// Drops every publishing key but the one that signs: the link, and the delta that names it.
    pub(crate) fn retire_publisher(&mut self) -> (Signed, Signed) {
        self.publish_link(self.link(self.signs, self.signs))
    }

    fn publish_link(&mut self, link: Signed) -> (Signed, Signed) {
        let generation = self.next_generation();
        self.links.push(link.clone());
        let delta = self.publish(Change {
            publishers: Some(generation),
            ..Change::default()
        });
        (link, delta)
    }

    pub(crate) fn sign_update(&self, update: &Update) -> Signed {
        self.sign(Context::Update, write_update(update))
    }

    /// The update that leads to the present state, with this content.
    pub(crate) fn update(&self, content: UpdateContent) -> Update {
        Update {
            issuer: self.state.issuer().clone(),
            epoch: self.state.epoch(),
            state_digest: *self.state.digest(),
            published_at: Timestamp::from_seconds(START),
            content,
        }
    }

    /// The present state, whole.
    pub(crate) fn snapshot(&self) -> Signed {
        self.sign_update(&self.update(UpdateContent::Snapshot {
            key_set: Arc::clone(self.state.keys()),
            revocations: self.state.revocations().clone(),
            publishers: self.state.publishers(),
        }))
    }

    /// Makes `change`, and signs the delta.
    pub(crate) fn publish(&mut self, change: Change) -> Signed {
        let base = self.state.clone();
        self.state = base.next(&change, &AwsLc);
        self.sign_update(&self.update(UpdateContent::Delta {
            base_epoch: base.epoch(),
            base_digest: *base.digest(),
            change,
        }))
    }

    /// Revokes a token, and signs the delta.
    pub(crate) fn revoke(&mut self, token_id: &str) -> Signed {
        self.publish(Change {
            revoked: [revocation(token_id)].into(),
            ..Change::default()
        })
    }

    /// Revokes many tokens at once, `prefix`0 and on.
    pub(crate) fn revoke_many(&mut self, prefix: &str, count: usize) -> Signed {
        self.publish(Change {
            revoked: (0..count).map(|n| revocation(&format!("{prefix}{n}"))).collect(),
            ..Change::default()
        })
    }

    /// What it says about the present state at `now_millis`.
    pub(crate) fn statement(&mut self, now_millis: u64) -> Heartbeat {
        self.sequence += 1;
        Heartbeat {
            issuer: self.state.issuer().clone(),
            epoch: self.state.epoch(),
            state_digest: *self.state.digest(),
            authority_time_millis: now_millis,
            sequence: self.sequence,
            revocation_count: u64::try_from(self.state.revocations().len()).unwrap(),
            expires_at_millis: None,
        }
    }

    /// The same in a trust file that may be decided on for `lifetime`.
    pub(crate) fn exported(&mut self, now_millis: u64, lifetime: Duration) -> Signed {
        let lifetime = u64::try_from(lifetime.as_millis()).unwrap();
        let statement = Heartbeat {
            expires_at_millis: Some(now_millis + lifetime),
            ..self.statement(now_millis)
        };
        self.sign_heartbeat(&statement)
    }

    pub(crate) fn sign_heartbeat(&self, heartbeat: &Heartbeat) -> Signed {
        self.sign(Context::Heartbeat, write_heartbeat(heartbeat))
    }

    pub(crate) fn heartbeat(&mut self, now_millis: u64) -> Signed {
        let statement = self.statement(now_millis);
        self.sign_heartbeat(&statement)
    }
}

/// A set of one active key.
pub(crate) fn key_set(seed: &str) -> Arc<KeySet> {
    let jwk = DeterministicSigner::from_seed(seed).unwrap().jwk().clone();
    let prepared_at = Timestamp::from_seconds(START - 100);
    Arc::new(KeySet::new(vec![PublishedKey {
        public_key: AwsLc.public_key(&jwk).unwrap(),
        jwk,
        times: KeyTimes {
            prepared_at,
            active_from: Some(prepared_at),
            ..KeyTimes::default()
        },
    }]))
}

fn pinned(keys: &[SigningKey]) -> PinnedKeys {
    let jwks = countersign_core::jwk::write_set(keys.iter().map(SigningKey::jwk));
    PinnedKeys::read(jwks.as_bytes(), &AwsLc).unwrap()
}
