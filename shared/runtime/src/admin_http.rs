//! The admin port: is the process alive, is it ready, what does it count. Plain HTTP/1.1, for loopback and probes.
//!
//! ```text
//!   GET /live  (/livez)    200 `ok`, whatever the outside world does
//!   GET /ready (/readyz)   200 `ok`, or 503 and one stable reason on each line
//!   GET /metrics           OpenMetrics text
//! ```
//!
//! Nothing can be changed through it. Paths are compared whole, so no spelling of one leads to another. Each request has a
//! connection of its own with a deadline, and connections have a cap: whoever can reach the port can use it up, but
//! nothing else.

mod answer;
mod lines;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use lines::StrictLines;

/// Connections at one time: a scraper, two probes, a person, and room for all of them to hang.
const MAX_CONNECTIONS: usize = 64;
/// From the first byte to the end of the headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole connection. Prometheus gives up after 10 s.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// All of a request's headers; the smallest that hyper allows.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// How long to wait after the socket itself failed, for instance for want of file descriptors.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Whether something is as it should be, and if not, why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    reasons: Vec<&'static str>,
}

impl Readiness {
    /// All is well.
    #[must_use]
    pub const fn ready() -> Self {
        Self { reasons: Vec::new() }
    }

    /// Ready unless `holds`; then `reason`, a stable `snake_case` name, is one more reason why not.
    #[must_use]
    pub fn unless(mut self, holds: bool, reason: &'static str) -> Self {
        if holds {
            self.reasons.push(reason);
        }
        self
    }

    /// Whether there is no reason why not.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    /// The reasons why not.
    #[must_use]
    pub fn reasons(&self) -> &[&'static str] {
        &self.reasons
    }
}

/// A question that the process answers about itself at any moment, without waiting.
pub type Probe = Arc<dyn Fn() -> Readiness + Send + Sync>;

/// What the admin port tells.
#[derive(Clone)]
pub struct AdminEndpoints {
    /// Whether the process works at all. Must not depend on other processes: an outage there would restart this one.
    pub live: Probe,
    /// Whether it can do its work now.
    pub ready: Probe,
    /// What it counts.
    pub metrics: Arc<Registry>,
}

impl AdminEndpoints {
    /// Endpoints of a process that is alive as long as it answers.
    #[must_use]
    pub fn new(ready: impl Fn() -> Readiness + Send + Sync + 'static, metrics: Arc<Registry>) -> Self {
        Self {
            live: Arc::new(Readiness::ready),
            ready: Arc::new(ready),
            metrics,
        }
    }
}

impl fmt::Debug for AdminEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminEndpoints").finish_non_exhaustive()
    }
}

/// Answers until `stop`, then drops the connections there are.
///
/// On a loopback address only loopback peers are answered, whatever routes lead there (H06).
///
/// # Errors
/// When the listener has no local address. Errors of single connections are not errors of this.
pub async fn serve(
    listener: TcpListener,
    endpoints: AdminEndpoints,
    stop: CancellationToken,
) -> io::Result<()> {
    let local = listener.local_addr()?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            // Nobody closes the semaphore.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let tcp = accept(&listener, local).await;
            let endpoints = endpoints.clone();
            connections.spawn(async move {
                let _place = place;
                // A hang or an error here is the peer's, who sees it.
                let _ended = tokio::time::timeout(CONNECTION_TIMEOUT, answer_one(tcp, endpoints)).await;
            });
            while connections.try_join_next().is_some() {}
        }
    };
    stop.run_until_cancelled(accepting).await;
    Ok(())
}

async fn accept(listener: &TcpListener, local: SocketAddr) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((tcp, remote)) if may_ask(local, remote) => return tcp,
            Ok(_) => tracing::warn!("a peer that is not local reached the admin port; refused"),
            Err(error) => {
                tracing::warn!(%error, "admin connections cannot be accepted; trying again");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

fn may_ask(local: SocketAddr, remote: SocketAddr) -> bool {
    !local.ip().to_canonical().is_loopback() || remote.ip().to_canonical().is_loopback()
}

async fn answer_one(tcp: TcpStream, endpoints: AdminEndpoints) -> hyper::Result<()> {
    let service = service_fn(|request| {
        let response = answer::answer(&endpoints, &request);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let (reading, writing) = tcp.into_split();
    let io = tokio::io::join(StrictLines::new(reading), writing);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service)
        .await
}

#[cfg(test)]
mod tests;
