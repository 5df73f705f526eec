//! Any bytes are claims or are refused; what are claims says the same when it is written and read once more.
#![no_main]

use countersign_core::claims::{Claims, Confirmation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let Ok(claims) = Claims::read(payload) else { return };
    if claims.confirmation == Confirmation::Unsupported {
        // It is never written: nobody could prove it.
        return;
    }
    let again = Claims::read(claims.to_json().as_bytes()).expect("what we write, we read");
    // `nbf` is written as `iat` when it is not set.
    let expected = Claims {
        not_before: claims.not_before.or(Some(claims.issued_at)),
        ..claims
    };
    assert_eq!(again, expected);
});
