//! The crate from outside: handshakes, reloads, limits and channels over real sockets on loopback.

mod channel;
mod handshake;
mod limits;
pub(crate) mod pki;
mod reload;
pub(crate) mod rig;
mod workers;
