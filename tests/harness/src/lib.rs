//! What the integration tests stand on: a sidecar in this process whose trust the test decides ([`sidecar`]), raw gRPC
//! calls that can say what no client says ([`raw`]), and whole development environments of real processes ([`dev`]).
//!
//! Nothing here is a double: sockets, TLS, signatures, stores and the demo service are the real ones, in a folder of their
//! own and on ports that the system chose.
#![expect(
    clippy::expect_used,
    reason = "a test library: what cannot be set up must fail loudly"
)]

pub mod dev;
pub mod raw;
pub mod sidecar;

use std::time::Duration;

/// How long anything that has to happen may take before a test fails. Far above what it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds` does, for at most [`PATIENCE`].
///
/// # Panics
/// When it does not, with `what`.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect(what);
}
