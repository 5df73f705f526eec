//! Taking over from a process that is still ending.
//!
//! A process that was killed holds its locks and ports until the last of its threads is gone, which can be a moment after
//! whoever started it saw it end. Its successor waits for them. What is held for longer is somebody else's.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

/// How long a process that was killed may take to let go: many times what closing its files takes, and still an answer
/// while whoever started a second one by mistake looks on.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is tried.
const POLL: Duration = Duration::from_millis(50);

/// An error that can mean that another process holds what is wanted.
pub trait Busy: std::error::Error {
    /// Whether it means that. Trying again is useless when it does not.
    fn is_busy(&self) -> bool;
}

impl Busy for io::Error {
    /// For sockets: their address is in use.
    fn is_busy(&self) -> bool {
        self.kind() == io::ErrorKind::AddrInUse
    }
}

/// Tries `attempt` until it gives something else than that `what` is held by another process, for [`PATIENCE`] at most.
/// That it waits is logged once.
///
/// # Errors
/// That of the last attempt.
pub async fn retry_while_busy<T, E: Busy>(
    what: impl Display,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut outcome = attempt().await;
    if !is_busy(&outcome) {
        return outcome;
    }
    tracing::warn!(%what, patience = ?PATIENCE, "held by another process; waiting for it to let go");
    let deadline = Instant::now() + PATIENCE;
    while is_busy(&outcome) && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        outcome = attempt().await;
    }
    outcome
}

fn is_busy<T>(outcome: &Result<T, impl Busy>) -> bool {
    outcome.as_ref().is_err_and(Busy::is_busy)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::telemetry::capture::Captured;

    fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(address)
    }

    fn holder() -> (TcpListener, std::net::SocketAddr) {
        let holder = bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = holder.local_addr().expect("bound");
        (holder, address)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_let_go_is_taken_and_the_wait_is_logged_once() {
        let (holder, address) = holder();
        let logs = Captured::default();
        let _capturing = tracing::subscriber::set_default(logs.subscriber());
        let started = Instant::now();
        let release = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(holder);
        };
        let (taken, ()) = tokio::join!(retry_while_busy(address, async || bind(address)), release);
        taken.expect("it is free by then");
        assert!(started.elapsed() < Duration::from_secs(3) + 2 * POLL);
        let text = logs.text();
        assert_eq!(text.matches("waiting for it to let go").count(), 1, "{text}");
        assert!(text.contains(&address.to_string()), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_never_let_go_is_refused_in_time() {
        let (_holder, address) = holder();
        // Whoever logs first decides whether anybody is asked about the line: not this test, for the one that reads it.
        let _capturing = tracing::subscriber::set_default(Captured::default().subscriber());
        let started = Instant::now();
        let refused = retry_while_busy(address, async || bind(address)).await;
        assert!(refused.expect_err("it is held").is_busy());
        let took = started.elapsed();
        assert!((PATIENCE..PATIENCE + 2 * POLL).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_free_or_wrong_is_not_waited_for() {
        let logs = Captured::default();
        let _capturing = tracing::subscriber::set_default(logs.subscriber());
        let started = Instant::now();
        let mut attempts = 0;
        let refused = retry_while_busy("x", async || {
            attempts += 1;
            Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied))
        });
        assert_eq!(
            refused.await.map_err(|error| error.kind()),
            Err(io::ErrorKind::PermissionDenied)
        );
        assert_eq!(attempts, 1);
        let free = retry_while_busy("x", async || bind(([127, 0, 0, 1], 0).into())).await;
        free.expect("a port");
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert_eq!(logs.text(), "");
    }
}
