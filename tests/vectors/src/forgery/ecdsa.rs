//! ES256 signatures at and beyond their ranges (T57, T58, T60, T64).

use num_bigint::BigUint;

/// The order of P-256.
const ORDER: &[u8; 64] = b"ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

fn order() -> BigUint {
    BigUint::parse_bytes(ORDER, 16).expect("hexadecimal")
}

/// `number` in `length` bytes; its lowest ones when it is longer.
fn bytes(number: &BigUint, length: usize) -> Vec<u8> {
    let bytes = number.to_bytes_be();
    let zeros = length.saturating_sub(bytes.len());
    let skipped = bytes.len().saturating_sub(length);
    [vec![0; zeros], bytes.into_iter().skip(skipped).collect()].concat()
}

fn join(r: &BigUint, s: &BigUint) -> Vec<u8> {
    [bytes(r, 32), bytes(s, 32)].concat()
}

fn split(signature: &[u8]) -> (BigUint, BigUint) {
    let (r, s) = signature.split_at_checked(32).expect("an ES256 signature");
    (BigUint::from_bytes_be(r), BigUint::from_bytes_be(s))
}

/// The other signature of the same message: `(r, n - s)`.
#[must_use]
pub fn high_s_twin(signature: &[u8]) -> Vec<u8> {
    let (r, s) = split(signature);
    join(&r, &(order() - s))
}

/// Every `(r, s)` of 0, 1, n - 1 and n.
#[must_use]
pub fn boundary_pairs() -> Vec<(String, Vec<u8>)> {
    let one = BigUint::from(1_u8);
    let numbers = [
        ("0", BigUint::ZERO),
        ("1", one.clone()),
        ("n-1", order() - one),
        ("n", order()),
    ];
    let pairs = numbers.iter().flat_map(|r| numbers.iter().map(move |s| (r, s)));
    pairs
        .map(|((r_name, r), (s_name, s))| (format!("r = {r_name}, s = {s_name}"), join(r, s)))
        .collect()
}

/// A good signature with the order, or 2^256, added to `r` or `s`, cut to 64 bytes and not.
#[must_use]
pub fn out_of_range(signature: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let (r, s) = split(signature);
    let n = order();
    let all = (BigUint::from(1_u8) << 256) - 1_u8;
    let long = |r: &BigUint, s: &BigUint| [bytes(r, 33), bytes(s, 33)].concat();
    vec![
        ("r + n, cut", join(&(&r + &n), &s)),
        ("s + n, cut", join(&r, &(&s + &n))),
        ("r + n in 33 bytes", long(&(&r + &n), &s)),
        ("s + n in 33 bytes", long(&r, &(&s + &n))),
        ("r + 2^256", long(&(&r + &all + 1_u8), &s)),
        ("r and s in 33 bytes", long(&r, &s)),
        ("r = 2^256 - 1", join(&all, &s)),
        ("s = 2^256 - 1", join(&r, &all)),
        ("n - r", join(&(&n - &r), &s)),
        ("s and r", join(&s, &r)),
    ]
}

/// The signature in DER.
#[must_use]
pub fn der(signature: &[u8]) -> Vec<u8> {
    let (r, s) = split(signature);
    let body = [integer(&r), integer(&s)].concat();
    [vec![0x30, short(body.len())], body].concat()
}

fn integer(number: &BigUint) -> Vec<u8> {
    let mut bytes = number.to_bytes_be();
    if bytes.first().is_some_and(|byte| *byte >= 0x80) {
        bytes.insert(0, 0);
    }
    [vec![2, short(bytes.len())], bytes].concat()
}

fn short(length: usize) -> u8 {
    u8::try_from(length).expect("a short length")
}
