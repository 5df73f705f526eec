//! Public keys, checked and ready. Each verifies one algorithm; what a token's header says plays no part here.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use countersign_core::jose::{Algorithm, encode_segment};
use countersign_core::jwk::{Jwk, KeySetError, PublicNumbers};
use countersign_core::names::KeyId;
use countersign_core::ports::PublicKey;
use jsonwebtoken::DecodingKey;

use crate::weak::{self, Weak};

/// Checks the numbers of `jwk` and makes them ready.
pub(crate) fn public_key(jwk: &Jwk) -> Result<Arc<dyn PublicKey>, KeySetError> {
    let key_id = jwk.key_id().clone();
    let weak = |_: Weak| KeySetError::Weak;
    match jwk.numbers() {
        PublicNumbers::P256 { x, y } => {
            let key = es256_key(x, y).ok_or(KeySetError::Weak)?;
            Ok(Arc::new(Es256Key { key_id, key }))
        }
        PublicNumbers::Ed25519 { x } => {
            weak::check_ed25519_point(x).map_err(weak)?;
            let key = DecodingKey::from_ed_der(x);
            Ok(Arc::new(JoseKey::new(Algorithm::EdDsa, key_id, key)))
        }
        PublicNumbers::Rsa { modulus, exponent } => {
            weak::check_rsa(modulus, exponent).map_err(weak)?;
            let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
            Ok(Arc::new(JoseKey::new(Algorithm::Rs256, key_id, key)))
        }
    }
}

/// The point, if it is on the curve with both coordinates below the field's prime. The point at infinity has no such
/// encoding.
fn es256_key(x: &[u8; 32], y: &[u8; 32]) -> Option<ParsedPublicKey> {
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    p256::PublicKey::from_sec1_bytes(&point).ok()?;
    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).ok()
}

/// A P-256 key, parsed once: parsing costs a quarter of a verification.
struct Es256Key {
    key_id: KeyId,
    key: ParsedPublicKey,
}

impl PublicKey for Es256Key {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }
}

impl fmt::Debug for Es256Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Es256Key({})", self.key_id)
    }
}

/// A key that `jsonwebtoken` verifies with. Its signature check only: no header, no claims, no clock.
struct JoseKey {
    algorithm: Algorithm,
    key_id: KeyId,
    key: DecodingKey,
}

impl JoseKey {
    const fn new(algorithm: Algorithm, key_id: KeyId, key: DecodingKey) -> Self {
        Self {
            algorithm,
            key_id,
            key,
        }
    }
}

impl PublicKey for JoseKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm = match self.algorithm {
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDsa if has_small_order_point(signature) => return false,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        };
        let signature = encode_segment(signature);
        jsonwebtoken::crypto::verify(&signature, message, &self.key, algorithm).unwrap_or(false)
    }
}

impl fmt::Debug for JoseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoseKey({}, {})", self.algorithm.name(), self.key_id)
    }
}

/// Whether the point R of an Ed25519 signature is not canonical or of small order. Honest signers never make one, and
/// verifiers disagree about them.
fn has_small_order_point(signature: &[u8]) -> bool {
    signature
        .first_chunk::<32>()
        .is_none_or(|point| weak::check_ed25519_point(point).is_err())
}
