//! Any bytes are a token or are refused; and of what our parser takes, another JWT library reads the same header.
#![no_main]

use countersign_core::jose::CompactJws;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|token: &[u8]| {
    let Ok(jws) = CompactJws::parse(token) else { return };
    assert!(token.starts_with(jws.signing_input));
    assert_eq!(token[jws.signing_input.len()], b'.');
    let header = jsonwebtoken::decode_header(token).expect("the other library reads the header too");
    assert_eq!(
        format!("{:?}", header.alg).to_uppercase(),
        jws.algorithm.name().to_uppercase()
    );
    assert_eq!(header.kid.as_deref(), Some(jws.key_id.as_str()));
});
