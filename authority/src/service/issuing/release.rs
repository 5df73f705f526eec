//! A token is signed, and read again before anybody gets it (I-21): what is wrong with it must not be found by a verifier.
//!
//! Of every token, the strict parser that verifiers use reads back the key's name, its algorithm, and the very claims that
//! were granted. The signature is verified for the first token that a key signs, for every [`EVERY`]th after it, and for each
//! one while they fail: verifying costs about as much as everything else about a token together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_core::bearer::MAX_TOKEN_LENGTH;
use countersign_core::claims::Claims;
use countersign_core::issuing::{IssueError, sign_token};
use countersign_core::jose::CompactJws;
use countersign_core::key_set::PublishedKey;
use countersign_core::names::KeyId;
use countersign_core::ports::SigningFailed;
use countersign_core::{Rejection, Timestamp};

use super::NotIssued;
use crate::alarm::Alarm;
use crate::keyring::KeyRing;
use crate::metrics::Metrics;

/// One signature in this many is verified.
const EVERY: u32 = 128;

/// Where tokens are signed and checked.
#[derive(Debug)]
pub(super) struct Release {
    metrics: Arc<Metrics>,
    proven: Mutex<Option<Proven>>,
}

/// A key that was found to sign well, and how many tokens it has signed since.
#[derive(Debug)]
struct Proven {
    key_id: KeyId,
    unverified: u32,
}

impl Release {
    pub(super) const fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            proven: Mutex::new(None),
        }
    }

    /// The token that says `claims`, signed by the key of `ring` that is active at `now`.
    pub(super) fn token(&self, ring: &KeyRing, claims: &Claims, now: Timestamp) -> Result<String, NotIssued> {
        let key = ring.signing(now);
        let Some((key, signer)) = key.and_then(|key| Some((key, key.signer.as_ref()?))) else {
            Alarm::NoSigningKey.raise(&self.metrics, &now);
            return Err(IssueError::NoActiveKey.into());
        };
        let token = sign_token(claims, key.key_id(), signer.as_ref());
        let token = token.map_err(|SigningFailed| IssueError::SigningFailed)?;
        if token.len() > MAX_TOKEN_LENGTH {
            // No verifier would look at it.
            return Err(NotIssued::because(IssueError::InvalidScope, "token_too_large"));
        }
        self.check(&token, claims, &key.published).map_err(|found| {
            Alarm::TokenUnsound.raise(&self.metrics, &found);
            NotIssued::because(IssueError::SigningFailed, Alarm::TokenUnsound.reason())
        })?;
        Ok(token)
    }

    fn check(&self, token: &str, claims: &Claims, key: &PublishedKey) -> Result<(), Rejection> {
        let jws = CompactJws::parse(token.as_bytes())?;
        if jws.key_id != *key.jwk.key_id() {
            return Err(Rejection::KidUnknown);
        }
        if jws.algorithm != key.public_key.algorithm() {
            return Err(Rejection::AlgNotAllowed);
        }
        if self.is_due(&jws.key_id) {
            let verifies = key.public_key.verifies(jws.signing_input, &jws.signature);
            *self.lock() = verifies.then_some(Proven {
                key_id: jws.key_id,
                unverified: 0,
            });
            if !verifies {
                return Err(Rejection::SigInvalid);
            }
        }
        if Claims::read(&jws.payload)? != *claims {
            return Err(Rejection::TokenMalformed);
        }
        Ok(())
    }

    /// Whether the signature of the token at hand has to be verified.
    fn is_due(&self, key_id: &KeyId) -> bool {
        match self.lock().as_mut() {
            Some(proven) if proven.key_id == *key_id => {
                proven.unverified += 1;
                proven.unverified >= EVERY
            }
            Some(_) | None => true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Proven>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use countersign_core::claims::{Confirmation, Subject};
    use countersign_core::jose::Algorithm;
    use countersign_core::key_set::KeyTimes;
    use countersign_core::names::{Scope, TokenId};
    use countersign_core::ports::KeyReader as _;
    use countersign_core::spiffe::TrustDomain;
    use countersign_crypto::{AwsLc, SigningKey};

    use super::*;
    use crate::keyring::RingKey;
    use crate::test_util::{START, client_id};

    const NOW: Timestamp = Timestamp::from_seconds(START);

    fn claims() -> Claims {
        Claims {
            issuer: "https://auth.example.org".to_owned(),
            subject: Subject {
                trust_domain: TrustDomain::parse("example.org").expect("valid"),
                client_id: client_id("orders"),
            },
            audiences: vec!["shop".to_owned()],
            client_id: client_id("orders"),
            expires_at: NOW.saturating_add(Duration::from_secs(900)),
            issued_at: NOW,
            not_before: Some(NOW),
            token_id: TokenId::parse("1.0").expect("valid"),
            scopes: vec![Scope::parse("read").expect("valid")],
            roles: Vec::new(),
            confirmation: Confirmation::Unbound,
        }
    }

    /// A ring whose one key is published as `public` and signs with `private`.
    fn ring(public: &SigningKey, private: SigningKey) -> KeyRing {
        let jwk = public.jwk().clone();
        KeyRing::new(vec![RingKey {
            published: PublishedKey {
                public_key: AwsLc.public_key(&jwk).expect("a key"),
                jwk,
                times: KeyTimes {
                    prepared_at: NOW,
                    active_from: Some(NOW),
                    ..KeyTimes::default()
                },
            },
            published_in: 1,
            signer: Some(Arc::new(private)),
            shadow: false,
        }])
    }

    /// The same key twice: it does not clone.
    fn twins(algorithm: Algorithm) -> (SigningKey, SigningKey) {
        let key = SigningKey::generate(algorithm).expect("generates");
        let twin = SigningKey::from_pkcs8(algorithm, &key.to_pkcs8().expect("writes")).expect("reads");
        (key, twin)
    }

    fn good() -> KeyRing {
        let (public, private) = twins(Algorithm::Es256);
        ring(&public, private)
    }

    /// Published as one key, signed by another: a fault of the store, of memory or of ours.
    fn bad() -> KeyRing {
        let other = SigningKey::generate(Algorithm::Es256).expect("generates");
        ring(&twins(Algorithm::Es256).0, other)
    }

    fn release() -> Release {
        Release::new(Arc::new(Metrics::default()))
    }

    /// I-21: the first token of a key is verified, so a key that signs wrongly releases none; nor does it after others.
    #[test]
    fn a_key_that_signs_wrongly_releases_nothing() {
        let (release, good, bad) = (release(), good(), bad());
        release.token(&good, &claims(), NOW).expect("is released");
        for tries in 1..=3 {
            let refused = release.token(&bad, &claims(), NOW).expect_err("is refused");
            assert_eq!(
                (refused.error, refused.why),
                (IssueError::SigningFailed, "token_unsound")
            );
            assert_eq!(release.metrics.alarms(Alarm::TokenUnsound), tries);
        }
        release.token(&good, &claims(), NOW).expect("is released");
    }

    /// I-21: a key that begins to sign wrongly is found out before it has signed many.
    #[test]
    fn a_key_that_goes_bad_is_found_out() {
        let release = release();
        let (public, private) = twins(Algorithm::Es256);
        let good = ring(&public, private);
        let gone_bad = ring(
            &public,
            SigningKey::generate(Algorithm::Es256).expect("generates"),
        );
        release.token(&good, &claims(), NOW).expect("is released");
        let released = (0..2 * EVERY).take_while(|_| release.token(&gone_bad, &claims(), NOW).is_ok());
        assert_eq!(released.count(), usize::try_from(EVERY - 1).expect("small"));
        release
            .token(&gone_bad, &claims(), NOW)
            .expect_err("is refused from now on");
        assert_eq!(release.metrics.alarms(Alarm::TokenUnsound), 2);
    }

    /// I-21: what a verifier would refuse or understand otherwise, whatever the reason, for a key that is long proven.
    #[test]
    fn a_token_that_is_not_what_was_granted_is_not_released() {
        let (release, good) = (release(), good());
        release.token(&good, &claims(), NOW).expect("is released");
        let malformed = Claims {
            audiences: Vec::new(),
            ..claims()
        };
        let contradictory = Claims {
            expires_at: NOW,
            ..claims()
        };
        let of_another = Claims {
            client_id: client_id("billing"),
            ..claims()
        };
        for claims in [malformed, contradictory, of_another] {
            let refused = release.token(&good, &claims, NOW).expect_err("is refused");
            assert_eq!(
                (refused.error, refused.why),
                (IssueError::SigningFailed, "token_unsound")
            );
        }
        let token = release.token(&good, &claims(), NOW).expect("is released");
        let key = &good.keys()[0].published;
        let later = Claims {
            expires_at: NOW.saturating_add(Duration::from_secs(901)),
            ..claims()
        };
        assert_eq!(release.check(&token, &later, key), Err(Rejection::TokenMalformed));
        let another = &bad();
        let another = &another.keys()[0].published;
        assert_eq!(
            release.check(&token, &claims(), another),
            Err(Rejection::KidUnknown)
        );
        assert_eq!(
            release.check(&token.replacen('.', "", 1), &claims(), key),
            Err(Rejection::TokenMalformed)
        );
        assert_eq!(release.check(&token, &claims(), key), Ok(()));
    }
}
