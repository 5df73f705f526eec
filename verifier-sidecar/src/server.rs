//! Serves HTTP/2 on one listener, and HTTP/1.1 where the service takes it: the same limits for the proxy and the local API.
//!
//! A listener accepts until it is told to drain; every connection runs in its own task under `connection`'s watch. At
//! the cap of connections no more are accepted, and the kernel's queue holds the rest.

pub(crate) mod connection;
mod keepalive;
pub(crate) mod listener;

use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_core::ports::Clock;
pub(crate) use countersign_mtls::Protocols;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::ConnectionMetrics;
use connection::Connection;
pub use keepalive::Keepalive;
pub use listener::Disclosures;
use listener::{Listener, Peer};

/// What one listener grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Streams at once on one connection.
    pub streams: u32,
    /// How long a connection may be open without a call.
    pub idle: Duration,
    /// The age from which a connection is wound up, so that callers connect anew and show their certificate again.
    pub age: Duration,
    /// How long calls may go on once a connection is wound up.
    pub drain: Duration,
    /// How it is found out whether callers are still there.
    pub keepalive: Keepalive,
}

/// Answers requests.
pub(crate) trait Serve: Clone + Send + Sync + 'static {
    /// The body of answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// What callers may speak.
    fn protocols(&self) -> Protocols {
        Protocols::Http2
    }

    /// What serves the calls of one more connection, from `peer`.
    fn connected(&self, _peer: &Peer) -> Self {
        self.clone()
    }

    /// The answer to `request` from `peer`.
    fn call(
        &self,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// How long to let be after a failure to accept: descriptors may be short, and that passes (S21, F73).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// On which terms a listener serves.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// What it grants.
    pub(crate) limits: Limits,
    /// Counts connections.
    pub(crate) metrics: ConnectionMetrics,
    /// Tells when certificates end.
    pub(crate) clock: Arc<dyn Clock>,
    /// Called for when the process is about to stop.
    pub(crate) drain: CancellationToken,
}

/// Serves what `listener` accepts until it is to drain, then until the last connection has ended.
pub(crate) async fn serve<S: Serve>(mut listener: Listener, service: S, terms: Terms) {
    let connections = TaskTracker::new();
    let kind = listener.kind();
    let accepting = async {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(listener = kind, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let open = terms.metrics.opened(kind);
            let valid_for = peer
                .identity
                .as_ref()
                .map(|identity| identity.not_after.since(terms.clock.now()));
            let service = service.connected(&peer);
            let connection = Connection {
                peer: Arc::new(peer),
                limits: Limits {
                    age: spread(terms.limits.age),
                    ..terms.limits
                },
                valid_for,
                open,
                drain: terms.drain.clone(),
            };
            connections.spawn(connection.run(stream, service));
        }
    };
    terms.drain.run_until_cancelled(accepting).await;
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// `age`, up to a tenth more or less: connections that began together, after a restart, are not to end together.
fn spread(age: Duration) -> Duration {
    // Randomness enough for this, and the standard library has it.
    let random = RandomState::new().hash_one(());
    let permille = u32::try_from(random % 200).unwrap_or_default();
    age / 1000 * (900 + permille)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spread_around_the_one_configured() {
        let age = Duration::from_secs(1000);
        let ages: Vec<_> = (0..100).map(|_| spread(age)).collect();
        let around = Duration::from_secs(900)..Duration::from_secs(1100);
        assert!(ages.iter().all(|age| around.contains(age)), "{ages:?}");
        assert!(ages.iter().any(|one| *one != ages[0]), "{ages:?}");
    }
}
