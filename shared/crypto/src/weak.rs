//! Keys that must not be trusted though their form is right (assurance K04, K05).

/// Why a number is no good is not told apart: none of them is ever published by an honest authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weak;

/// The shortest and the longest RSA modulus, in bits. Under 2048 it can be factored; over 8192 a verification costs a
/// denial of service.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The smallest public exponent: smaller ones make padding mistakes exploitable.
const RSA_MIN_EXPONENT: u64 = 65_537;

/// The longest public exponent in bytes. Larger ones only make verification slow.
const RSA_MAX_EXPONENT_LENGTH: usize = 4;

/// Checks an RSA public key: size, parity, exponent, small factors, and the fingerprint of keys made by the flawed
/// generator of CVE-2017-15361 (ROCA). Numbers are big-endian without leading zeros.
pub(crate) fn check_rsa(modulus: &[u8], exponent: &[u8]) -> Result<(), Weak> {
    let size_is_safe = RSA_BITS.contains(&bits(modulus));
    if size_is_safe && is_odd(modulus) && exponent_is_safe(exponent) && has_no_pattern(modulus) {
        Ok(())
    } else {
        Err(Weak)
    }
}

fn bits(number: &[u8]) -> usize {
    let leading_zeros = number.first().map_or(0, |byte| byte.leading_zeros());
    (number.len() * 8).saturating_sub(usize::try_from(leading_zeros).unwrap_or(8))
}

fn is_odd(number: &[u8]) -> bool {
    number.last().is_some_and(|byte| byte & 1 == 1)
}

fn exponent_is_safe(exponent: &[u8]) -> bool {
    let value = exponent
        .iter()
        .fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
    exponent.len() <= RSA_MAX_EXPONENT_LENGTH && is_odd(exponent) && value >= RSA_MIN_EXPONENT
}

/// The odd primes that the flawed generator built its primes on.
const PRIMES: [u16; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103,
    107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Whether the modulus has none of the small primes as a factor and is not, modulo every one of them, a power of 65537.
/// The latter is how ROCA moduli are made; of random ones, fewer than one in a hundred million look so.
fn has_no_pattern(modulus: &[u8]) -> bool {
    let residues = || PRIMES.iter().map(|prime| (*prime, remainder(modulus, *prime)));
    let has_small_factor = residues().any(|(_, residue)| residue == 0);
    let is_roca = residues().all(|(prime, residue)| is_power_of_65537(residue, prime));
    !has_small_factor && !is_roca
}

fn remainder(number: &[u8], divisor: u16) -> u16 {
    let divisor = u32::from(divisor);
    let rest = number
        .iter()
        .fold(0_u32, |rest, byte| ((rest << 8) | u32::from(*byte)) % divisor);
    u16::try_from(rest).unwrap_or_default()
}

fn is_power_of_65537(residue: u16, prime: u16) -> bool {
    let generator = 65_537 % u32::from(prime);
    let mut power = 1_u32;
    for _ in 0..prime {
        if power == u32::from(residue) {
            return true;
        }
        power = power * generator % u32::from(prime);
    }
    false
}

/// Checks an Ed25519 public key (or the point R of a signature): the encoding is canonical and the point is not one of
/// the eight of small order, under which everybody's signature could be made to verify.
pub(crate) fn check_ed25519_point(encoded: &[u8; 32]) -> Result<(), Weak> {
    let mut y = *encoded;
    let [.., last] = &mut y;
    *last &= 0x7f;
    let canonical = y.iter().rev().lt(FIELD_PRIME.iter().rev());
    let small = SMALL_ORDER_Y.contains(&y);
    if canonical && !small { Ok(()) } else { Err(Weak) }
}

/// 2^255 - 19, little-endian.
const FIELD_PRIME: [u8; 32] = {
    let mut prime = [0xff; 32];
    prime[0] = 0xed;
    prime[31] = 0x7f;
    prime
};

/// The y coordinates of the eight points of small order, little-endian: 0 (order 4), 1 (order 1), -1 (order 2), and the
/// two of order 8. Encodings of the same beyond the prime are refused as not canonical.
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut minus_one = FIELD_PRIME;
        minus_one[0] = 0xec;
        minus_one
    },
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

#[cfg(test)]
mod tests;
