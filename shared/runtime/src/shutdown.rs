//! Stopping in order: one request to stop, seen by every task, and a bound on how long the end may take.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The request to stop. Clones are one request; once made, it stays made.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

/// The work had not ended when its time was over, and was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not finished within the grace period of {within:?}")]
pub struct GraceExceeded {
    /// The grace period.
    pub within: Duration,
}

impl Shutdown {
    /// A request that nobody has made yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A request that SIGTERM and SIGINT make. Needs a tokio runtime.
    ///
    /// The signals are caught from the moment that this returns, so call it before saying that the process is ready.
    ///
    /// # Errors
    /// When the signals cannot be caught.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let (mut terminate, mut interrupt) = signals()?;
        let requested = shutdown.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                () = requested.requested() => return,
            };
            tracing::info!(signal = name, "stopping");
            requested.request();
        });
        Ok(shutdown)
    }

    /// Asks everybody to stop.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Whether stopping was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until stopping is asked for. Safe to cancel.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// The request as a token, for libraries and for child tokens.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs `work` to its end, but at most `grace` longer than the request to stop.
    ///
    /// # Errors
    /// [`GraceExceeded`], and `work` was dropped.
    pub async fn drain<T>(&self, grace: Duration, work: impl Future<Output = T>) -> Result<T, GraceExceeded> {
        let deadline = async {
            self.requested().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = deadline => Err(GraceExceeded { within: grace }),
        }
    }
}

fn signals() -> io::Result<(tokio::signal::unix::Signal, tokio::signal::unix::Signal)> {
    Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_termination_signal_asks_every_clone_to_stop() {
        let shutdown = Shutdown::on_signals().expect("signals");
        let clone = shutdown.clone();
        assert!(!clone.is_requested());
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
            .expect("kill");
        clone.requested().await;
        assert!(shutdown.is_requested() && shutdown.token().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn work_may_take_its_grace_and_no_longer() {
        let (hour, grace) = (Duration::from_secs(3_600), Duration::from_secs(5));
        let shutdown = Shutdown::new();
        let slow = tokio::time::sleep(hour);
        assert_eq!(shutdown.drain(grace, slow).await, Ok(()), "nobody asked to stop");
        shutdown.request();
        let in_time = tokio::time::sleep(Duration::from_secs(4));
        assert_eq!(shutdown.drain(grace, in_time).await, Ok(()));
        let hung = shutdown.drain(grace, std::future::pending::<()>()).await;
        assert_eq!(hung, Err(GraceExceeded { within: grace }));
    }
}
