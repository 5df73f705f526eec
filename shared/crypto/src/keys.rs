//! Private keys that sign. They are parsed once and kept by aws-lc, and cannot be printed.

use std::fmt;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use countersign_core::jose::Algorithm;
use countersign_core::jwk::{Jwk, KeySetError, PublicNumbers};
use countersign_core::names::KeyId;
use countersign_core::ports::{Signer, SigningFailed};
use p256::elliptic_curve::Generate as _;
use zeroize::Zeroizing;

use crate::digest::AwsLc;
use crate::verify;

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The random source or the library failed.
    #[error("the key could not be generated")]
    Generation,
    /// The bytes are no PKCS#8 private key of the algorithm.
    #[error("the bytes are no PKCS#8 private key of this algorithm")]
    Malformed,
    /// The key is not one that verifiers accept.
    #[error("the key is not one that verifiers accept: {0}")]
    Refused(KeySetError),
    /// The key could not be written as PKCS#8.
    #[error("the key could not be written")]
    Encoding,
}

enum KeyPair {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(RsaKeyPair),
}

/// A private key. `Debug` shows its algorithm and `kid` only.
pub struct SigningKey {
    pair: KeyPair,
    jwk: Jwk,
}

impl SigningKey {
    /// A new key. RSA keys have 3072 bits.
    ///
    /// # Errors
    /// [`KeyError::Generation`].
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let failed = |_unspecified| KeyError::Generation;
        let pair = match algorithm {
            Algorithm::Es256 => KeyPair::Es256(generate_p256()?),
            Algorithm::EdDsa => KeyPair::EdDsa(Ed25519KeyPair::generate().map_err(failed)?),
            Algorithm::Rs256 => KeyPair::Rs256(RsaKeyPair::generate(KeySize::Rsa3072).map_err(failed)?),
        };
        Self::checked(pair)
    }

    /// Reads what [`SigningKey::to_pkcs8`] wrote.
    ///
    /// # Errors
    /// [`KeyError::Malformed`], [`KeyError::Refused`].
    pub fn from_pkcs8(algorithm: Algorithm, pkcs8: &[u8]) -> Result<Self, KeyError> {
        let malformed = |_rejected| KeyError::Malformed;
        let pair = match algorithm {
            Algorithm::Es256 => KeyPair::Es256(
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(malformed)?,
            ),
            Algorithm::EdDsa => KeyPair::EdDsa(Ed25519KeyPair::from_pkcs8(pkcs8).map_err(malformed)?),
            Algorithm::Rs256 => KeyPair::Rs256(RsaKeyPair::from_pkcs8(pkcs8).map_err(malformed)?),
        };
        Self::checked(pair)
    }

    /// The key as unencrypted PKCS#8 version 1, for sealing.
    ///
    /// # Errors
    /// [`KeyError::Encoding`].
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let failed = |_unspecified| KeyError::Encoding;
        let copy = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        match &self.pair {
            KeyPair::Es256(pair) => pair.to_pkcs8v1().map(|der| copy(der.as_ref())).map_err(failed),
            KeyPair::EdDsa(pair) => pair.to_pkcs8v1().map(|der| copy(der.as_ref())).map_err(failed),
            KeyPair::Rs256(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                Ok(copy(der.as_ref()))
            }
        }
    }

    /// The public half.
    #[must_use]
    pub const fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// The `kid`.
    #[must_use]
    pub const fn key_id(&self) -> &KeyId {
        self.jwk.key_id()
    }

    /// The key of `pair`, if every verifier will take its public half.
    fn checked(pair: KeyPair) -> Result<Self, KeyError> {
        let jwk = Jwk::new(public_numbers(&pair)?, &AwsLc);
        verify::public_key(&jwk).map_err(KeyError::Refused)?;
        Ok(Self { pair, jwk })
    }
}

fn generate_p256() -> Result<EcdsaKeyPair, KeyError> {
    let secret = p256::SecretKey::try_generate().map_err(|_failed| KeyError::Generation)?;
    let scalar = Zeroizing::new(secret.to_bytes());
    let public = secret.public_key().to_sec1_bytes();
    EcdsaKeyPair::from_private_key_and_public_key(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        scalar.as_slice(),
        &uncompressed(&public)?,
    )
    .map_err(|_rejected| KeyError::Generation)
}

/// A P-256 point as aws-lc writes and reads it: 04, x, y.
fn uncompressed(sec1: &[u8]) -> Result<Vec<u8>, KeyError> {
    use p256::elliptic_curve::sec1::ToSec1Point as _;
    let point = p256::PublicKey::from_sec1_bytes(sec1).map_err(|_no_point| KeyError::Malformed)?;
    Ok(point.to_sec1_point(false).as_bytes().to_vec())
}

fn public_numbers(pair: &KeyPair) -> Result<PublicNumbers, KeyError> {
    match pair {
        KeyPair::Es256(pair) => p256_numbers(pair.public_key().as_ref()),
        KeyPair::EdDsa(pair) => {
            let x = pair.public_key().as_ref().try_into();
            Ok(PublicNumbers::Ed25519 {
                x: x.map_err(|_length| KeyError::Malformed)?,
            })
        }
        KeyPair::Rs256(pair) => {
            let RsaPublicKeyComponents { n, e } = pair.public_key().into();
            Ok(PublicNumbers::Rsa {
                modulus: n,
                exponent: e,
            })
        }
    }
}

/// The coordinates of a point in SEC 1 form.
pub(crate) fn p256_numbers(sec1: &[u8]) -> Result<PublicNumbers, KeyError> {
    let point = uncompressed(sec1)?;
    let coordinates = point
        .split_first()
        .and_then(|(_, rest)| rest.split_at_checked(32));
    let (x, y) = coordinates.ok_or(KeyError::Malformed)?;
    match (x.try_into(), y.try_into()) {
        (Ok(x), Ok(y)) => Ok(PublicNumbers::P256 { x, y }),
        _ => Err(KeyError::Malformed),
    }
}

impl Signer for SigningKey {
    fn algorithm(&self) -> Algorithm {
        self.jwk.algorithm()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningFailed> {
        let random = SystemRandom::new();
        let failed = |_unspecified| SigningFailed;
        match &self.pair {
            KeyPair::Es256(pair) => pair
                .sign(&random, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(failed),
            KeyPair::EdDsa(pair) => pair
                .try_sign(message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(failed),
            KeyPair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.jwk.algorithm())
            .field("kid", &self.jwk.key_id().as_str())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
