//! Signing keys: what they sign verifies under their public half, and they survive being written and read.

use countersign_core::ports::KeyReader as _;

use super::*;

#[test]
fn a_key_signs_what_its_public_half_verifies_before_and_after_pkcs8() {
    for algorithm in Algorithm::ALL {
        let key = SigningKey::generate(algorithm).expect("generated");
        let read = SigningKey::from_pkcs8(algorithm, &key.to_pkcs8().expect("written")).expect("read");
        assert_eq!(read.jwk(), key.jwk());
        assert_eq!(key.algorithm(), algorithm);
        let public_key = AwsLc.public_key(key.jwk()).expect("acceptable");
        assert_eq!(public_key.algorithm(), algorithm);
        let signature = read.sign(b"message").expect("signed");
        assert!(public_key.verifies(b"message", &signature), "{algorithm:?}");
        assert!(!public_key.verifies(b"massage", &signature), "{algorithm:?}");
        assert!(!public_key.verifies(b"message", &[]), "{algorithm:?}");
        if algorithm != Algorithm::Rs256 {
            assert_eq!(signature.len(), 64);
        }
    }
}

#[test]
fn a_key_of_one_algorithm_is_not_read_as_another() {
    for written in Algorithm::ALL {
        let pkcs8 = SigningKey::generate(written)
            .expect("generated")
            .to_pkcs8()
            .expect("written");
        for read in Algorithm::ALL {
            let key = SigningKey::from_pkcs8(read, &pkcs8);
            assert_eq!(key.is_ok(), read == written, "{written:?} read as {read:?}");
        }
        assert_eq!(
            SigningKey::from_pkcs8(written, &pkcs8[..pkcs8.len() - 1]).err(),
            Some(KeyError::Malformed)
        );
        assert_eq!(
            SigningKey::from_pkcs8(written, b"").err(),
            Some(KeyError::Malformed)
        );
    }
}

#[test]
fn debug_shows_the_public_name_only() {
    let key = SigningKey::generate(Algorithm::Es256).expect("generated");
    let expected = format!("SigningKey {{ algorithm: Es256, kid: \"{}\", .. }}", key.key_id());
    assert_eq!(format!("{key:?}"), expected);
}
