//! RSA signatures that sloppy verifiers take (T62), and PSS ones under a PKCS#1 v1.5 key (T37, T63).

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, RsaPssSaltLength,
};
use num_bigint::BigUint;

use crate::setting::rsa_key;

/// `DigestInfo` of SHA-256 up to the digest (RFC 8017, section 9.2).
const DIGEST_INFO: &[u8] = &[
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
    0x04, 0x20,
];

/// The same without the NULL parameters.
const WITHOUT_NULL: &[u8] = &[
    0x30, 0x2f, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x04, 0x20,
];

/// The same with a length in BER's long form.
const LONG_LENGTH: &[u8] = &[
    0x30, 0x81, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];

/// The same for SHA-1, with 32 bytes to follow all the same.
const OTHER_HASH: &[u8] = &[
    0x30, 0x2d, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x20,
];

/// Signatures over `input` by the RSA test key whose encoded message is not exactly that of RFC 8017, and right ones in
/// another length.
#[must_use]
pub fn pkcs1_forgeries(input: &str) -> Vec<(&'static str, Vec<u8>)> {
    let (modulus, _) = numbers();
    let length = modulus.to_bytes_be().len();
    let hash = digest::digest(&digest::SHA256, input.as_bytes());
    let hash = hash.as_ref();
    let block = |kind: u8, fill: u8, zeros: usize, info: &[u8], garbage: usize| {
        let used = 3 + zeros + info.len() + hash.len() + garbage;
        let padding = vec![fill; length.saturating_sub(used)];
        [
            vec![0; zeros],
            vec![0, kind],
            padding,
            vec![0],
            info.to_vec(),
            hash.to_vec(),
            vec![0xab; garbage],
        ]
        .concat()
    };
    let right = raw(&block(1, 0xff, 0, DIGEST_INFO, 0));
    let plus_modulus = (BigUint::from_bytes_be(&right) + &modulus).to_bytes_be();
    vec![
        (
            "without NULL parameters",
            raw(&block(1, 0xff, 0, WITHOUT_NULL, 0)),
        ),
        ("a BER length", raw(&block(1, 0xff, 0, LONG_LENGTH, 0))),
        ("another hash's name", raw(&block(1, 0xff, 0, OTHER_HASH, 0))),
        (
            "garbage after the hash",
            raw(&block(1, 0xff, 0, DIGEST_INFO, length - 3 - 8 - 51)),
        ),
        (
            "one byte of garbage after the hash",
            raw(&block(1, 0xff, 0, DIGEST_INFO, 1)),
        ),
        (
            "padding shorter by a byte",
            raw(&block(1, 0xff, 1, DIGEST_INFO, 0)),
        ),
        ("padding of another byte", raw(&block(1, 0xfe, 0, DIGEST_INFO, 0))),
        ("padding of zeros", raw(&block(1, 0x00, 0, DIGEST_INFO, 0))),
        ("block type 2", raw(&block(2, 0xff, 0, DIGEST_INFO, 0))),
        ("block type 0", raw(&block(0, 0xff, 0, DIGEST_INFO, 0))),
        ("the bare hash", raw(hash)),
        ("a leading zero byte", [&[0], right.as_slice()].concat()),
        ("plus the modulus", plus_modulus),
        ("one byte short", right.iter().take(length - 1).copied().collect()),
        ("one byte long", [right.as_slice(), &[0]].concat()),
        ("zero", vec![0; length]),
        ("one", BigUint::from(1_u8).to_bytes_be()),
        ("the modulus", modulus.to_bytes_be()),
    ]
}

/// The right PKCS#1 v1.5 signature by the same raw operation: proof that the forgeries fail for their encoding alone.
#[cfg(test)]
fn right(input: &str) -> Vec<u8> {
    let (modulus, _) = numbers();
    let hash = digest::digest(&digest::SHA256, input.as_bytes());
    let padding = vec![0xff; modulus.to_bytes_be().len() - 3 - DIGEST_INFO.len() - 32];
    raw(&[&[0, 1], padding.as_slice(), &[0], DIGEST_INFO, hash.as_ref()].concat())
}

const NO_SALT: RsaPssSaltLength = RsaPssSaltLength::Custom(0);
const LONGEST_SALT: RsaPssSaltLength = RsaPssSaltLength::Max;

/// PSS signatures over `input` by the RSA test key, by the hash.
#[must_use]
pub fn pss_signatures(input: &str) -> Vec<(&'static str, Vec<u8>)> {
    let pkcs8 = rsa_key().to_pkcs8().expect("written");
    let pair = RsaKeyPair::from_pkcs8(&pkcs8).expect("read");
    let sign = |encoding: &'static dyn RsaEncoding| {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), input.as_bytes(), &mut signature)
            .expect("signed");
        signature
    };
    vec![
        ("SHA-256", sign(&RSA_PSS_SHA256)),
        ("SHA-384", sign(&RSA_PSS_SHA384)),
        ("SHA-512", sign(&RSA_PSS_SHA512)),
        (
            "SHA-256, no salt",
            sign(&const { RSA_PSS_SHA256.with_pss_salt_length(NO_SALT) }),
        ),
        (
            "SHA-256, longest salt",
            sign(&const { RSA_PSS_SHA256.with_pss_salt_length(LONGEST_SALT) }),
        ),
    ]
}

/// `block` under the private operation, in the modulus's length.
fn raw(block: &[u8]) -> Vec<u8> {
    let (modulus, private_exponent) = numbers();
    let signature = BigUint::from_bytes_be(block)
        .modpow(&private_exponent, &modulus)
        .to_bytes_be();
    let zeros = modulus.to_bytes_be().len() - signature.len();
    [vec![0; zeros], signature].concat()
}

/// The modulus and the private exponent of the RSA test key.
fn numbers() -> (BigUint, BigUint) {
    let pkcs8 = rsa_key().to_pkcs8().expect("written");
    // PrivateKeyInfo { version, algorithm, OCTET STRING { RSAPrivateKey { version, n, e, d, .. } } }
    let (_, info, _) = element(&pkcs8);
    let (_, _, rest) = element(info);
    let (_, _, rest) = element(rest);
    let (_, octets, _) = element(rest);
    let (_, key, _) = element(octets);
    let (_, _, rest) = element(key);
    let (_, modulus, rest) = element(rest);
    let (_, _, rest) = element(rest);
    let (_, private_exponent, _) = element(rest);
    (
        BigUint::from_bytes_be(modulus),
        BigUint::from_bytes_be(private_exponent),
    )
}

/// The first DER element: its tag, its content, what comes after it.
fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let (tag, rest) = der.split_first().expect("a tag");
    let (first, rest) = rest.split_first().expect("a length");
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (length, rest) = rest
            .split_at_checked(usize::from(first & 0x7f))
            .expect("a length");
        let length = length
            .iter()
            .fold(0, |length, byte| (length << 8) | usize::from(*byte));
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length).expect("a whole element");
    (*tag, content, rest)
}

#[cfg(test)]
mod tests {
    use countersign_core::ports::Signer as _;

    use super::*;

    #[test]
    fn the_raw_operation_is_the_library_s() {
        assert_eq!(right("input"), rsa_key().sign(b"input").expect("signed"));
    }
}
