//! Any text is a SPIFFE ID or is refused; what is one is written as it was read.
#![no_main]

use countersign_core::spiffe::SpiffeId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.to_string(), text);
        assert!(text.is_ascii());
    }
});
