//! What a sidecar serves beside it: on a unix socket, or on loopback without TLS.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::failure::{Exit, Failure};

/// What is served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local {
    /// What people call it.
    pub(crate) name: &'static str,
    /// Where the sidecar's configuration has it.
    pub(crate) section: &'static str,
}

impl Local {
    /// Connects to `address`: `unix:///PATH` or `HOST:PORT`.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn connect(self, address: &str, timeout: Duration) -> Result<Channel, Failure> {
        let uri = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let wrong = |error: tonic::transport::Error| {
            let next = format!(
                "write the {}'s address as `unix:///PATH` or `127.0.0.1:PORT`",
                self.name
            );
            Failure::usage(format!("`{address}` is no address: {error}")).next(next)
        };
        let endpoint = Endpoint::from_shared(uri)
            .map_err(wrong)?
            .connect_timeout(timeout);
        endpoint.connect().await.map_err(|error| {
            let mut failure = Failure::because(&format!("the {} cannot be reached", self.name), &error);
            failure.exit = Exit::Unavailable;
            failure.next(format!(
                "see whether the sidecar runs, and `[{}]` in its configuration",
                self.section
            ))
        })
    }
}
