//! Panics are logged with their place and counted; what they say is withheld unless it is part of the program.
//!
//! The text of a panic may be formatted from anything, a token included. A text that is a literal in the program cannot.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Panics of this process so far, those that were caught included.
#[must_use]
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Logs panics in place of printing them. Call it once, after telemetry was set up.
pub fn install() {
    std::panic::set_hook(Box::new(report));
}

fn report(panic: &PanicHookInfo<'_>) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let text = panic
        .payload()
        .downcast_ref::<&'static str>()
        .copied()
        .unwrap_or("(withheld)");
    // Only when asked for by RUST_BACKTRACE; it names functions, not values.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(place, thread = thread.name(), text, backtrace, "panic");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::capture::Captured;

    /// H11: a panic's text can hold a token; its place cannot.
    #[test]
    fn a_panic_is_logged_with_its_place_and_without_formatted_text() {
        install();
        let logs = Captured::default();
        let before = count();
        tracing::subscriber::with_default(logs.subscriber(), || {
            let secret = "eyJhbGciOi.canary";
            let formatted = std::panic::catch_unwind(|| panic!("cannot read {secret}"));
            let literal = std::panic::catch_unwind(|| panic!("a literal text"));
            assert!(formatted.is_err() && literal.is_err());
        });
        // Other tests of this process report their panics as usual.
        drop(std::panic::take_hook());
        let text = logs.text();
        assert!(!text.contains("canary"), "{text}");
        assert!(
            text.contains("panics.rs") && text.contains("a literal text"),
            "{text}"
        );
        assert!(count() >= before + 2);
    }
}
