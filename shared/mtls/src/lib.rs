//! Mutual TLS: rustls configurations from files, reloaded without a restart, and who the peer is.
//!
//! TLS 1.3 only, on aws-lc-rs with its post-quantum hybrid first. No tickets, no resumption and no early data: every
//! connection is a full handshake against the trust roots of that moment, so that a withdrawn root cannot be outlived by
//! a ticket. Private roots only. A peer is its SPIFFE ID (one URI in the leaf) or, without one, its certificate.
//!
//! ```text
//!   files -> Material -> ServerTls / ClientTls (the configuration in force, swapped whole by `watch`)
//!                           |            |
//!                     TlsListener     channel()
//!                  accept, handshake,   connect, check
//!                  limit, identify      the server's identity
//! ```
//!
//! What a peer may do is not decided here.

mod client;
mod connect;
mod error;
pub mod files;
mod identity;
mod listener;
mod provider;
mod server;
mod stats;
mod stream;
mod verifiers;
mod watch;

#[cfg(test)]
mod tests;

pub use client::{ChannelOptions, ClientTls, ExpectedServer};
pub use connect::ConnectError;
pub use error::TlsError;
pub use files::{FileError, FileProblem, TlsFiles};
pub use identity::{IdentityRefused, PeerIdentity};
pub use listener::{
    Limits, Listener, Moving, PlainListener, Room, Seat, Socket, Spread, TlsListener, Worker,
};
pub use provider::install_default as install_default_provider;
pub use server::{ClientCertificates, Protocols, ServerTls};
pub use stats::{HandshakeFailure, ListenerStats, RefusedCount};
pub use stream::{Accepted, Peer, PlainStream, TlsStream};
pub use watch::{DEFAULT_INTERVAL as DEFAULT_WATCH_INTERVAL, TlsHealth};
