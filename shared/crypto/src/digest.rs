//! SHA-256, random bytes and ready public keys for core's ports.

use std::sync::Arc;

use aws_lc_rs::{digest, rand};
use countersign_core::jwk::{Jwk, KeySetError};
use countersign_core::ports::{Entropy, EntropyFailed, KeyReader, PublicKey, Sha256};

use crate::verify;

/// aws-lc-rs behind core's ports [`Sha256`], [`Entropy`] and [`KeyReader`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AwsLc;

impl Sha256 for AwsLc {
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(part);
        }
        let mut sum = [0; 32];
        for (byte, computed) in sum.iter_mut().zip(context.finish().as_ref()) {
            *byte = *computed;
        }
        sum
    }
}

impl Entropy for AwsLc {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyFailed> {
        rand::fill(buffer).map_err(|_unspecified| EntropyFailed)
    }
}

impl KeyReader for AwsLc {
    fn public_key(&self, jwk: &Jwk) -> Result<Arc<dyn PublicKey>, KeySetError> {
        verify::public_key(jwk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4 example "abc", whole and in parts.
    #[test]
    fn parts_hash_as_their_concatenation() {
        let expected = [
            0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
            0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad,
        ];
        assert_eq!(AwsLc.sha256(&[b"abc"]), expected);
        assert_eq!(AwsLc.sha256(&[b"a", b"", b"bc"]), expected);
    }

    #[test]
    fn random_bytes_differ() {
        let (mut one, mut two) = ([0_u8; 32], [0_u8; 32]);
        AwsLc.fill(&mut one).expect("random source");
        AwsLc.fill(&mut two).expect("random source");
        assert_ne!(one, two);
    }
}
