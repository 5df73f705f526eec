//! Any text is a method path or is refused; what is one is its two names and nothing else.
#![no_main]

use countersign_core::requirements::MethodPath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(path) = MethodPath::parse(text) {
        assert_eq!(path.as_str(), text);
        assert_eq!(format!("/{}/{}", path.service(), path.method()), text);
        assert_eq!(text.matches('/').count(), 2);
    }
});
