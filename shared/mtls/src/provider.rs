//! The one cryptography provider: aws-lc-rs, given explicitly to every configuration.
//!
//! rustls panics when it has to guess a process-wide provider and more than one is linked in, so nothing here lets it.

use std::sync::{Arc, LazyLock};

use countersign_core::ports::Clock;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

pub(crate) static VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The application protocol of gRPC, which is HTTP/2.
pub(crate) const ALPN: &[u8] = b"h2";

/// That of servers which take plain HTTP too.
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The provider of every configuration in this crate.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Makes the same provider the default of the process, for libraries that do not let it be given.
///
/// Call it first in `main`. Does nothing when there is a default already.
pub fn install_default() {
    // An error means that a default was there before: nothing is left to do.
    let _present = aws_lc_rs::default_provider().install_default();
}

/// Lets rustls judge validity periods by our clock, so that one clock decides everything.
#[derive(Debug)]
pub(crate) struct WallClock(pub(crate) Arc<dyn Clock>);

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since_1970 = std::time::Duration::from_secs(self.0.now().as_seconds());
        Some(UnixTime::since_unix_epoch(since_1970))
    }
}
