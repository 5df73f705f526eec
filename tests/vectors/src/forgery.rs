//! Signatures that must not verify, and the one that must though it looks odd (the high-S twin).

mod ecdsa;
mod eddsa;
mod rsa;

use aws_lc_rs::hmac;
use countersign_core::jose::encode_segment;
use countersign_core::jwk::PublicNumbers;

pub use ecdsa::{boundary_pairs, der, high_s_twin, out_of_range};
pub use eddsa::{beyond_the_order, under_small_order_point};
pub use rsa::{pkcs1_forgeries, pss_signatures};

use crate::setting::TestKey;

/// Every form in which somebody may have taken a P-256 public key for an HMAC secret (T33).
///
/// # Panics
/// When `key` is no P-256 key.
#[must_use]
pub fn public_key_as_secret(key: &TestKey) -> Vec<(&'static str, Vec<u8>)> {
    let point = match key.jwk.numbers() {
        PublicNumbers::P256 { x, y } => Some([x.as_slice(), y].concat()),
        PublicNumbers::Ed25519 { .. } | PublicNumbers::Rsa { .. } => None,
    };
    let point = point.expect("a P-256 key");
    let spki = [SPKI_PREFIX, &[4], &point].concat();
    let pem = pem(&spki);
    let json = key.jwk.to_json();
    vec![
        ("PEM", pem.clone().into_bytes()),
        (
            "PEM without its last line break",
            pem.trim_end().as_bytes().to_vec(),
        ),
        ("PEM after a space", format!(" {pem}").into_bytes()),
        ("PEM after a line break", format!("\n{pem}").into_bytes()),
        ("DER", spki),
        ("JWK", json.clone().into_bytes()),
        (
            "JWK with spaces",
            json.replace(',', ", ").replace(':', ": ").into_bytes(),
        ),
        ("X and Y", point.clone()),
        ("X and Y in base64url", encode_segment(&point).into_bytes()),
        ("the kid", key.key_id().as_str().as_bytes().to_vec()),
        ("nothing", Vec::new()),
    ]
}

/// The DER of a P-256 public key up to the point.
const SPKI_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let (first, rest) = text.split_at_checked(64).expect("two lines");
    format!("-----BEGIN PUBLIC KEY-----\n{first}\n{rest}\n-----END PUBLIC KEY-----\n")
}

/// HMAC-SHA-256, as HS256 wants it.
#[must_use]
pub fn hs256(secret: &[u8], input: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, input.as_bytes()).as_ref().to_vec()
}
