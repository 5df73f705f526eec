//! K04, K05 and T61: keys of the right form that must not be trusted.

use super::*;

/// A modulus of `length` bytes, odd, with its top bit set, that is not divisible by a small prime.
fn modulus(length: usize) -> Vec<u8> {
    let mut modulus: Vec<u8> = (0..length)
        .map(|index| u8::try_from(index * 89 % 251).expect("small"))
        .collect();
    modulus[0] |= 0x80;
    modulus[length - 1] |= 1;
    while !has_no_pattern(&modulus) {
        modulus[length - 2] = modulus[length - 2].wrapping_add(1);
    }
    modulus
}

const F4: [u8; 3] = [1, 0, 1];

#[test]
fn an_rsa_key_has_2048_to_8192_bits() {
    assert_eq!(check_rsa(&modulus(256), &F4), Ok(()));
    assert_eq!(check_rsa(&modulus(1024), &F4), Ok(()));
    for length in [0, 128, 255, 1025] {
        let modulus = if length == 0 { Vec::new() } else { modulus(length) };
        assert_eq!(check_rsa(&modulus, &F4), Err(Weak), "{length}");
    }
    let mut short_by_a_bit = modulus(256);
    short_by_a_bit[0] = 0x7f;
    assert_eq!(check_rsa(&short_by_a_bit, &F4), Err(Weak));
}

#[test]
fn an_rsa_modulus_is_odd_and_without_small_factors() {
    let mut even = modulus(256);
    even[255] &= 0xfe;
    assert_eq!(check_rsa(&even, &F4), Err(Weak));
    let mut composite = modulus(256);
    while remainder(&composite, 3) != 0 {
        composite[254] = composite[254].wrapping_add(1);
    }
    assert_eq!(check_rsa(&composite, &F4), Err(Weak));
}

#[test]
fn an_rsa_exponent_is_odd_and_neither_small_nor_huge() {
    let modulus = modulus(256);
    for exponent in [
        [1].as_slice(),
        &[3],
        &[17],
        &[0xff, 0xff],
        &[1, 0, 0],
        &[1, 0, 2],
        &[1, 0, 0, 0, 1],
        &[],
    ] {
        assert_eq!(check_rsa(&modulus, exponent), Err(Weak), "{exponent:?}");
    }
    assert_eq!(check_rsa(&modulus, &[0xff, 0xff, 0xff, 0xff]), Ok(()));
}

/// A modulus with the flaw of CVE-2017-15361: the product of the small primes, times anything, plus a power of 65537.
#[test]
fn a_roca_modulus_is_refused() {
    let mut primorial = vec![1_u8];
    for prime in PRIMES {
        multiply(&mut primorial, prime);
    }
    // k * primorial + 65537^3 is, modulo each prime, a power of 65537.
    let mut flawed = primorial.clone();
    flawed.extend(std::iter::repeat_n(0, 256 - primorial.len()));
    add(&mut flawed, &65_537_u64.pow(3).to_be_bytes());
    if flawed[255] & 1 == 0 {
        add(&mut flawed, &primorial);
    }
    assert!(
        PRIMES
            .iter()
            .all(|prime| is_power_of_65537(remainder(&flawed, *prime), *prime))
    );
    assert_eq!(check_rsa(&flawed, &F4), Err(Weak));
}

fn multiply(number: &mut Vec<u8>, factor: u16) {
    let mut carry = 0_u32;
    for byte in number.iter_mut().rev() {
        let product = u32::from(*byte) * u32::from(factor) + carry;
        *byte = product.to_le_bytes()[0];
        carry = product >> 8;
    }
    while carry > 0 {
        number.insert(0, carry.to_le_bytes()[0]);
        carry >>= 8;
    }
}

fn add(number: &mut [u8], summand: &[u8]) {
    let mut carry = 0_u16;
    let padded = summand.iter().rev().copied().chain(std::iter::repeat(0));
    for (byte, other) in number.iter_mut().rev().zip(padded) {
        let sum = u16::from(*byte) + u16::from(other) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
}

#[test]
fn ed25519_points_of_small_order_or_beyond_the_prime_are_refused() {
    let sign = |mut point: [u8; 32]| {
        point[31] |= 0x80;
        point
    };
    for small in SMALL_ORDER_Y {
        assert_eq!(check_ed25519_point(&small), Err(Weak));
        assert_eq!(check_ed25519_point(&sign(small)), Err(Weak));
    }
    for beyond in 0xed..=0xff_u8 {
        let mut point = FIELD_PRIME;
        point[0] = beyond;
        assert_eq!(check_ed25519_point(&point), Err(Weak), "{beyond:#x}");
        assert_eq!(check_ed25519_point(&sign(point)), Err(Weak), "{beyond:#x}");
    }
    // The base point.
    let mut base = [0x66; 32];
    base[0] = 0x58;
    assert_eq!(check_ed25519_point(&base), Ok(()));
}
