//! Connections to the services behind the sidecar, and to those that they call out to: HTTP/2 without TLS over loopback or a unix
//! socket, or with TLS to wherever they are.
//!
//! Calls share a connection until it has as many as servers commonly grant, then the next one is opened; so a service
//! full of long streams does not make short calls wait. Nor does a caller who does not read his answers: each call has its
//! own part of the connection's window. A service may let one call take all of *its* window, and stop reading that call;
//! therefore each caller's connection begins at another of ours, in turn, and only those that share one wait with it. Small requests
//! that are here as a whole are most, and go over a few connections of their own, for what shares a connection leaves together, and
//! each has memory of its own. Over one of these goes no more at a time than any service lets through unread, so that nothing waits,
//! and nothing that a service may end the connection for: that would end what others have under way there.
//!
//! A connection that is gone is replaced by the next call that needs it. Many calls in want of one connection make one
//! attempt, and all hear what came of it.
//!
//! A request that came as HTTP/1.1 goes on as HTTP/1.1, over connections of its own (`http1`).

mod connection;
mod http1;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countersign_mtls::ClientTls;
use http::uri::Scheme;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use tokio::net::{TcpStream, UnixStream};

use super::body::RequestBody;
use crate::server::Keepalive;
pub(crate) use connection::InFlight;
use connection::{Connection, HEADER_LIST, SEND_BUFFER, Seat, Slot, handshake};
use http1::Pool;

/// Where the service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// Any of these addresses, tried in order. All are loopback.
    Tcp(Vec<SocketAddr>),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addresses) => match addresses.first() {
                Some(address) => write!(f, "http://{address}"),
                None => f.write_str("http://"),
            },
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) enum Dial {
    /// On this machine.
    Plaintext(UpstreamAddress),
    /// Over a network, with our certificate.
    Tls {
        /// An `https` address.
        uri: String,
        /// Our certificate, and whom to expect.
        tls: Arc<ClientTls>,
        /// How it is found out whether it is still there.
        keepalive: Keepalive,
    },
}

impl Dial {
    /// How long a connection may take to come about.
    const fn patience(&self) -> Duration {
        match self {
            Self::Plaintext(_) => CONNECT_TIME,
            Self::Tls { .. } => REMOTE_CONNECT_TIME,
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        match self {
            Self::Plaintext(UpstreamAddress::Unix(path)) => handshake(UnixStream::connect(path).await?).await,
            Self::Plaintext(UpstreamAddress::Tcp(addresses)) => handshake(tcp(addresses).await?).await,
            Self::Tls { uri, tls, keepalive } => {
                let stream = tls.connect(uri, REMOTE_CONNECT_TIME).await;
                let stream = stream.map_err(io::Error::other)?;
                keepalive.by_system(stream.get_ref().0)?;
                handshake(stream).await
            }
        }
    }

    async fn connect_http1(&self) -> io::Result<http1::Sender> {
        match self {
            Self::Plaintext(UpstreamAddress::Unix(path)) => {
                http1::handshake(UnixStream::connect(path).await?).await
            }
            Self::Plaintext(UpstreamAddress::Tcp(addresses)) => http1::handshake(tcp(addresses).await?).await,
            Self::Tls { uri, tls, keepalive } => {
                let stream = tls.connect_http1(uri, REMOTE_CONNECT_TIME).await;
                let stream = stream.map_err(io::Error::other)?;
                keepalive.by_system(stream.get_ref().0)?;
                http1::handshake(stream).await
            }
        }
    }
}

async fn tcp(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addresses).await?;
    // With Nagle's algorithm a small call waits 40 ms.
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl fmt::Display for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plaintext(address) => address.fmt(f),
            Self::Tls { uri, .. } => f.write_str(uri),
        }
    }
}

/// Connections for small requests that are here as a whole, where there are at least twice as many.
const SHARED: usize = 8;

/// The most bytes of a small request.
const SMALL: u32 = 4 * 1024;

/// The most bytes of its names and values. Servers that take 8 KiB of them end the connection if there are many more, and a byte may take
/// four when it is compressed (RFC 7541, appendix B).
const SMALL_HEAD: usize = 2_560;

/// How often a request that has certainly not left is sent once more.
const REPEATS: usize = 3;

/// How long a connection may take to come about. The service is on this machine.
const CONNECT_TIME: Duration = Duration::from_secs(1);

/// The same for a name, a connection and a TLS handshake over a network.
const REMOTE_CONNECT_TIME: Duration = Duration::from_secs(5);

/// Why the service did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// There is no connection to be had.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The last attempt failed a moment ago.
    #[error("could not connect a moment ago")]
    JustFailed,
    /// As many calls are under way as may be.
    #[error("too many calls are under way")]
    Full,
    /// The connection broke before the answer.
    #[error("the call was broken off")]
    Broken(#[source] hyper::Error),
}

/// The service behind the sidecar.
#[derive(Debug)]
pub(crate) struct Upstream {
    name: Arc<str>,
    dial: Dial,
    /// For small requests that are here as a whole, if there are enough.
    shared: Box<[Slot]>,
    /// For all others, and for what those have no room for.
    slots: Box<[Slot]>,
    next_lane: AtomicUsize,
    http1: Pool,
}

/// Where one caller's calls look for a connection first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane(usize);

impl Upstream {
    /// The service that is connected to in this way, over at most so many connections. None is opened before the first call.
    pub(crate) fn dialling(dial: Dial, connections: usize) -> Self {
        let shared = if connections < 2 * SHARED { 0 } else { SHARED };
        let slots = |many: usize| (0..many).map(|_| Slot::default()).collect();
        Self {
            name: dial.to_string().into(),
            dial,
            shared: slots(shared),
            slots: slots(connections.saturating_sub(shared).max(1)),
            next_lane: AtomicUsize::new(0),
            http1: Pool::default(),
        }
    }

    /// The scheme of what is asked of it.
    pub(crate) fn scheme(&self) -> Scheme {
        match self.dial {
            Dial::Plaintext(_) => Scheme::HTTP,
            Dial::Tls { .. } => Scheme::HTTPS,
        }
    }

    /// Where it is, for people.
    pub(crate) const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The lane of the next caller.
    pub(crate) fn lane(&self) -> Lane {
        Lane(self.next_lane.fetch_add(1, Ordering::Relaxed))
    }

    /// Passes `request` on, by the protocol of its version. The call counts as under way until the second value is dropped.
    pub(crate) async fn call(
        &self,
        lane: Lane,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, InFlight), UpstreamError> {
        if request.version() == Version::HTTP_11 {
            let response = self.http1.call(&self.dial, request).await?;
            return Ok((response, InFlight::default()));
        }
        let whole = request.body_mut().body.whole().await;
        let small = whole.and_then(|bytes| u32::try_from(bytes).ok().filter(|bytes| *bytes <= SMALL));
        let small = small.filter(|_| head(&request) <= SMALL_HEAD);
        let mut repeats = 0..REPEATS;
        loop {
            let (mut sender, mut in_flight) = self.connection(lane, small).await?;
            match sender.try_send_request(request).await {
                Ok(response) => {
                    in_flight.answered();
                    return Ok((response, in_flight));
                }
                Err(mut failed) => match (failed.take_message(), repeats.next()) {
                    // The connection was closing. Nothing of the request has left, so it may go over another.
                    (Some(unsent), Some(_)) => {
                        in_flight.answered();
                        request = unsent;
                    }
                    (Some(_) | None, _) => return Err(UpstreamError::Broken(failed.into_error())),
                },
            }
        }
    }

    /// A connection with a place for one more call, which is one of so many bytes if it is `small`.
    async fn connection(
        &self,
        lane: Lane,
        small: Option<u32>,
    ) -> Result<(http2::SendRequest<RequestBody>, InFlight), UpstreamError> {
        let mut failed = None;
        for (slot, seat) in self.places(lane, small) {
            let found = match slot.open_connection() {
                Some(connection) => connection,
                // Those that are there may have a place.
                None if failed.is_some() => continue,
                None => match slot.connect(&self.dial).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        failed = Some(error);
                        continue;
                    }
                },
            };
            if let Some(in_flight) = found.reserve(seat) {
                return Ok((found.sender.clone(), in_flight));
            }
        }
        Err(failed.unwrap_or(UpstreamError::Full))
    }

    /// Where to look for one, in order, and for which seat.
    fn places(&self, lane: Lane, small: Option<u32>) -> impl Iterator<Item = (&Slot, Seat)> {
        let shared = small.map(|bytes| {
            lane.through(&self.shared)
                .map(move |slot| (slot, Seat::Small(bytes)))
        });
        let own = |seat| lane.through(&self.slots).map(move |slot| (slot, seat));
        shared
            .into_iter()
            .flatten()
            .chain(own(Seat::Granted))
            .chain(own(Seat::Waiting))
    }
}

/// The bytes of what a request says before its body.
fn head(request: &Request<RequestBody>) -> usize {
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| name.as_str().len().saturating_add(value.len()));
    let uri = request.uri();
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    fields.fold(target.saturating_add(authority), usize::saturating_add)
}

impl Lane {
    /// All of `slots`, from that of this lane.
    fn through(self, slots: &[Slot]) -> impl Iterator<Item = &Slot> {
        let first = self.0.checked_rem(slots.len()).unwrap_or(0);
        let (before, from) = slots.split_at(first);
        from.iter().chain(before)
    }
}

#[cfg(test)]
mod tests;
