//! Any text is a length of time or is refused; what is one is what another reader of such lengths says.
#![no_main]

use countersign_runtime::config::{MAX_DURATION, parse_duration};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(duration) = parse_duration(text) else {
        return;
    };
    assert!(duration <= MAX_DURATION);
    assert!(
        text.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    );
    assert_eq!(humantime::parse_duration(text), Ok(duration));
});
