//! Ed25519 signatures that sloppy verifiers take (T61).

use aws_lc_rs::digest;
use num_bigint::BigUint;

use crate::setting::eddsa_key;

/// The order of the base point.
fn order() -> BigUint {
    let tail = BigUint::parse_bytes(b"27742317777372353535851937790883648493", 10).expect("decimal");
    (BigUint::from(1_u8) << 252) + tail
}

fn little_endian(number: &BigUint) -> Vec<u8> {
    let mut bytes = number.to_bytes_le();
    bytes.resize(32, 0);
    bytes
}

/// A good signature `(R, S)` as `(R, S + L)`: the same point, another number.
#[must_use]
pub fn beyond_the_order(signature: &[u8]) -> Vec<u8> {
    let (point, scalar) = signature.split_at_checked(32).expect("an Ed25519 signature");
    let scalar = BigUint::from_bytes_le(scalar) + order();
    [point.to_vec(), little_endian(&scalar)].concat()
}

/// Signatures by the Ed25519 test key whose point R is the neutral element, in its canonical encoding and in others. They
/// satisfy the verification equation: whoever holds the key can make them, and then deny having signed.
#[must_use]
pub fn under_small_order_point(input: &str) -> Vec<(&'static str, Vec<u8>)> {
    let neutral = little_endian(&BigUint::from(1_u8));
    let prime: BigUint = (BigUint::from(1_u8) << 255) - 19_u8;
    let beyond = little_endian(&(prime + 1_u8));
    let mut signed = neutral.clone();
    if let Some(last) = signed.last_mut() {
        *last |= 0x80;
    }
    vec![
        ("R is the neutral element", with_point(neutral, input)),
        (
            "R is the neutral element, beyond the prime",
            with_point(beyond, input),
        ),
        ("R is the neutral element, with a sign", with_point(signed, input)),
    ]
}

fn with_point(point: Vec<u8>, input: &str) -> Vec<u8> {
    let key = eddsa_key();
    let pkcs8 = key.to_pkcs8().expect("written");
    // PKCS#8 version 1 of an Ed25519 key ends with the seed.
    let seed = pkcs8.last_chunk::<32>().expect("a seed");
    let public = match key.jwk().numbers() {
        countersign_core::jwk::PublicNumbers::Ed25519 { x } => Some(*x),
        countersign_core::jwk::PublicNumbers::P256 { .. }
        | countersign_core::jwk::PublicNumbers::Rsa { .. } => None,
    };
    let public = public.expect("an Ed25519 key");
    let challenge = sha512(&[&point, &public, input.as_bytes()]);
    let scalar = BigUint::from_bytes_le(&challenge) * secret_scalar(seed) % order();
    [point, little_endian(&scalar)].concat()
}

/// RFC 8032, section 5.1.5.
fn secret_scalar(seed: &[u8; 32]) -> BigUint {
    let mut half: Vec<u8> = sha512(&[seed]).into_iter().take(32).collect();
    if let [first, .., last] = half.as_mut_slice() {
        *first &= 0xf8;
        *last = (*last & 0x7f) | 0x40;
    }
    BigUint::from_bytes_le(&half)
}

fn sha512(parts: &[&[u8]]) -> Vec<u8> {
    digest::digest(&digest::SHA512, &parts.concat()).as_ref().to_vec()
}
