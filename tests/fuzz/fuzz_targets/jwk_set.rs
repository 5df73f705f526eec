//! Any bytes are a JWK Set or are refused; what is one reads the same once more, and its keys are checked without a panic.
#![no_main]

use countersign_core::jwk::{read_set, write_set};
use countersign_core::ports::KeyReader as _;
use countersign_crypto::AwsLc;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(keys) = read_set(bytes, &AwsLc) else { return };
    let written = write_set(keys.iter());
    let again = read_set(written.as_bytes(), &AwsLc).expect("what we write, we read");
    assert_eq!(keys, again);
    for key in &keys {
        if let Ok(public_key) = AwsLc.public_key(key) {
            assert!(!public_key.verifies(bytes, &[0; 64]));
        }
    }
});
