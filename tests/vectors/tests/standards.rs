//! The examples of the standards: RFC 7515 A.3, RFC 7638 3.1, RFC 8037 A, RFC 6979 A.2.5.
#![expect(clippy::expect_used, reason = "helpers of tests")]

use std::sync::Arc;

use countersign_core::jose::{decode_segment, encode_segment};
use countersign_core::jwk::{Jwk, PublicNumbers};
use countersign_core::ports::{KeyReader as _, PublicKey, Signer as _};
use countersign_crypto::AwsLc;
use countersign_crypto::test_util::DeterministicSigner;

fn decode(text: &str) -> Vec<u8> {
    decode_segment(text.as_bytes()).expect("base64url")
}

fn number(text: &str) -> [u8; 32] {
    decode(text).try_into().expect("32 bytes")
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("ASCII");
        u8::from_str_radix(text, 16).expect("hexadecimal")
    };
    digits.chunks(2).map(pair).collect()
}

fn ready(numbers: PublicNumbers) -> (Jwk, Arc<dyn PublicKey>) {
    let jwk = Jwk::new(numbers, &AwsLc);
    let key = AwsLc.public_key(&jwk).expect("acceptable");
    (jwk, key)
}

/// The signature of a compact JWS under `key`.
fn verifies(key: &dyn PublicKey, jws: &str) -> bool {
    let (input, signature) = jws.rsplit_once('.').expect("a compact JWS");
    key.verifies(input.as_bytes(), &decode(signature))
}

/// RFC 7515, appendix A.3: an ES256 signature that others made.
#[test]
fn the_es256_example_of_rfc_7515_verifies() {
    let (_, key) = ready(PublicNumbers::P256 {
        x: number("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"),
        y: number("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
    });
    let jws = "eyJhbGciOiJFUzI1NiJ9\
               .eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ\
               .DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    assert!(verifies(key.as_ref(), jws));
    assert!(!verifies(key.as_ref(), &jws.replacen("eyJpc3", "eyJpc2", 1)));
}

/// RFC 8037, appendix A.4 and A.5: an Ed25519 signature, and A.3: the thumbprint of its key.
#[test]
fn the_ed25519_example_of_rfc_8037_verifies() {
    let (jwk, key) = ready(PublicNumbers::Ed25519 {
        x: number("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"),
    });
    assert_eq!(
        jwk.key_id().as_str(),
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    );
    let jws = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc\
               .hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert!(verifies(key.as_ref(), jws));
    assert!(!verifies(key.as_ref(), &jws.replacen("RXhh", "RXhi", 1)));
}

/// RFC 7638, section 3.1: the thumbprint of an RSA key; RFC 7515, appendix A.2 has a signature under another one.
#[test]
fn the_thumbprint_example_of_rfc_7638_is_ours() {
    let modulus = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_\
                   BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_\
                   FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-\
                   bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    let (jwk, _) = ready(PublicNumbers::Rsa {
        modulus: decode(modulus),
        exponent: decode("AQAB"),
    });
    assert_eq!(
        jwk.key_id().as_str(),
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    );
}

/// RFC 6979, appendix A.2.5, P-256 with SHA-256: the deterministic backend makes exactly these signatures, and aws-lc
/// verifies them.
#[test]
fn the_deterministic_backend_signs_as_rfc_6979_says() {
    let scalar = hex("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721");
    let signer = DeterministicSigner::from_scalar(&scalar.try_into().expect("32 bytes")).expect("a scalar");
    let (x, y) = (
        hex("60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6"),
        hex("7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299"),
    );
    let expected = PublicNumbers::P256 {
        x: x.try_into().expect("32 bytes"),
        y: y.try_into().expect("32 bytes"),
    };
    assert_eq!(signer.jwk().numbers(), &expected);
    let (_, key) = ready(expected);
    for (message, r, s) in [
        (
            "sample",
            "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716",
            "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
        ),
        (
            "test",
            "F1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367",
            "019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083",
        ),
    ] {
        let signature = signer.sign(message.as_bytes()).expect("signed");
        assert_eq!(signature, [hex(r), hex(s)].concat(), "{message}");
        assert!(key.verifies(message.as_bytes(), &signature), "{message}");
    }
}

/// RFC 7515, section 2: base64url without padding, and nothing else.
#[test]
fn base64url_is_read_strictly() {
    assert_eq!(encode_segment(&[3, 236, 255, 224, 193]), "A-z_4ME");
    assert_eq!(decode_segment(b"A-z_4ME"), Some(vec![3, 236, 255, 224, 193]));
    for bad in ["A-z_4ME=", "A+z/4ME", "A-z_4MF", "A", "A-z_4ME ", "A-z_\n4ME"] {
        assert_eq!(decode_segment(bad.as_bytes()), None, "{bad:?}");
    }
}
