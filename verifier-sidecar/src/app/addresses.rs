//! Where a sidecar listens.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The addresses of one sidecar, with the ports that the system chose for port 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Where callers connect, in the order of the configuration.
    pub listeners: Vec<SocketAddr>,
    /// The local API over TCP.
    pub verify_grpc: Option<SocketAddr>,
    /// The local API's socket.
    pub verify_unix: Option<PathBuf>,
    /// The token agent over TCP.
    pub agent_grpc: Option<SocketAddr>,
    /// The token agent's socket.
    pub agent_unix: Option<PathBuf>,
    /// Where Envoy asks over TCP.
    pub ext_authz_grpc: Option<SocketAddr>,
    /// The socket at which Envoy asks.
    pub ext_authz_unix: Option<PathBuf>,
    /// Where the app makes its calls out, in the order of the configuration; unix sockets are none of them.
    pub outbound: Vec<SocketAddr>,
    /// The admin port.
    pub admin: SocketAddr,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("listeners")?;
        for address in &self.listeners {
            write!(f, " {address}")?;
        }
        if let Some(address) = self.verify_grpc {
            write!(f, ", verify {address}")?;
        }
        if let Some(path) = &self.verify_unix {
            write!(f, ", verify unix://{}", path.display())?;
        }
        if let Some(address) = self.agent_grpc {
            write!(f, ", agent {address}")?;
        }
        if let Some(path) = &self.agent_unix {
            write!(f, ", agent unix://{}", path.display())?;
        }
        if let Some(address) = self.ext_authz_grpc {
            write!(f, ", ext_authz {address}")?;
        }
        if let Some(path) = &self.ext_authz_unix {
            write!(f, ", ext_authz unix://{}", path.display())?;
        }
        for address in &self.outbound {
            write!(f, ", outbound {address}")?;
        }
        write!(f, ", admin {}", self.admin)
    }
}
