//! The accept loop and the handshakes that it spawns.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Limits;
use super::log_budget::LogBudget;
use super::workers::{Moving, Room, Spread};
use crate::identity::PeerIdentity;
use crate::server::ServerTls;
use crate::stats::{HandshakeFailure, ListenerStats};
use crate::stream::{Accepted, Peer, Place};

/// How long to wait after the socket itself failed. Descriptors come back when connections end, not sooner by asking.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// How a connection becomes an [`Accepted`] one.
pub(super) trait Handshake: Send + Sync + 'static {
    type Io: Send + 'static;

    fn shake(
        &self,
        arrival: Arrival,
    ) -> impl Future<Output = Result<Accepted<Self::Io>, HandshakeFailure>> + Send;
}

/// A connection that was accepted and nothing more.
pub(super) struct Arrival<T = TcpStream> {
    tcp: T,
    remote: SocketAddr,
    limits: Limits,
    place: Place,
}

impl Arrival<Moving<TcpStream>> {
    /// The same, on its worker's runtime.
    fn arrive(self) -> Result<Arrival, HandshakeFailure> {
        let tcp = self.tcp.arrive();
        Ok(Arrival {
            tcp: tcp.map_err(|error| HandshakeFailure::of(&error))?,
            remote: self.remote,
            limits: self.limits,
            place: self.place,
        })
    }
}

pub(super) struct TlsHandshake(pub(super) Arc<ServerTls>);

impl Handshake for TlsHandshake {
    type Io = TlsStream<TcpStream>;

    async fn shake(&self, arrival: Arrival) -> Result<Accepted<Self::Io>, HandshakeFailure> {
        let accepting = TlsAcceptor::from(self.0.current()).accept(arrival.tcp);
        let finished = tokio::time::timeout(arrival.limits.handshake_timeout, accepting).await;
        let stream = finished
            .map_err(|_elapsed| HandshakeFailure::TimedOut)?
            .map_err(|error| HandshakeFailure::of(&error))?;
        let (_, session) = stream.get_ref();
        // rustls refuses other protocols, but a client may also offer none at all.
        if !self.0.protocols().include(session.alpn_protocol()) {
            return Err(HandshakeFailure::NoHttp2);
        }
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let identity = leaf
            .map(|leaf| PeerIdentity::from_der(leaf).map(Arc::new))
            .transpose();
        let identity = identity.map_err(|_refused| HandshakeFailure::IdentityRefused)?;
        let peer = Peer {
            remote: arrival.remote,
            identity,
        };
        let clock = Some(Arc::clone(self.0.clock()));
        Ok(Accepted::new(
            stream,
            peer,
            clock,
            arrival.limits.handshake_timeout,
            arrival.place,
        ))
    }
}

pub(super) struct NoHandshake;

impl Handshake for NoHandshake {
    type Io = TcpStream;

    async fn shake(&self, arrival: Arrival) -> Result<Accepted<Self::Io>, HandshakeFailure> {
        let peer = Peer {
            remote: arrival.remote,
            identity: None,
        };
        Ok(Accepted::new(
            arrival.tcp,
            peer,
            None,
            arrival.limits.handshake_timeout,
            arrival.place,
        ))
    }
}

pub(super) struct AcceptLoop<H: Handshake> {
    socket: TcpListener,
    limits: Limits,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    shaking: Arc<Shaking<H>>,
    workers: Spread<Accepted<H::Io>>,
}

/// What all handshake tasks share.
struct Shaking<H: Handshake> {
    handshake: H,
    stats: Arc<ListenerStats>,
    log: LogBudget,
}

impl<H: Handshake> AcceptLoop<H> {
    pub(super) fn new(
        socket: TcpListener,
        handshake: H,
        limits: Limits,
        stats: Arc<ListenerStats>,
        workers: Spread<Accepted<H::Io>>,
    ) -> Self {
        Self {
            socket,
            limits,
            connections: Arc::new(Semaphore::new(limits.connections)),
            handshakes: Arc::new(Semaphore::new(limits.handshakes)),
            shaking: Arc::new(Shaking {
                handshake,
                stats,
                log: LogBudget::new(),
            }),
            workers,
        }
    }

    /// Accepts until no listener is left. Unfinished handshakes are then dropped too.
    pub(super) async fn run(self) {
        let mut tasks = JoinSet::new();
        let accepting = async {
            loop {
                let place = self.take(&self.connections).await;
                let turn = self.take(&self.handshakes).await;
                let (tcp, remote) = self.accept().await;
                let Some(room) = self.room().await else {
                    return;
                };
                let worker = room.worker().clone();
                let arrival = Arrival {
                    tcp: Moving::to(&worker, tcp),
                    remote,
                    limits: self.limits,
                    place: (place, worker.seat()),
                };
                let shaking = Arc::clone(&self.shaking).shake(arrival, room, turn);
                tasks.spawn_on(shaking, worker.runtime());
                while tasks.try_join_next().is_some() {}
            }
        };
        tokio::select! {
            () = self.workers.closed() => {}
            () = accepting => {}
        }
    }

    async fn take(&self, limit: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        match Arc::clone(limit).try_acquire_owned() {
            Ok(permit) => return permit,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => self.tell_full(),
        }
        match Arc::clone(limit).acquire_owned().await {
            Ok(permit) => permit,
            // Nobody closes the semaphores.
            Err(_closed) => std::future::pending().await,
        }
    }

    async fn room(&self) -> Option<Room<Accepted<H::Io>>> {
        if self.workers.is_full() {
            self.tell_full();
        }
        self.workers.room().await
    }

    fn tell_full(&self) {
        self.shaking.stats.count_full();
        if let Some(left_out) = self.shaking.log.line() {
            tracing::warn!(left_out, "too many connections; further ones wait");
        }
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok((tcp, remote)) => {
                    // Small frames must not wait for acknowledgements (Nagle): 44 ms a call otherwise.
                    let _gone_already = tcp.set_nodelay(true);
                    return (tcp, remote);
                }
                Err(error) => self.wait_out(&error).await,
            }
        }
    }

    async fn wait_out(&self, error: &io::Error) {
        self.shaking.stats.count_accept_error();
        if is_of_one_connection(error) {
            return;
        }
        if let Some(left_out) = self.shaking.log.line() {
            tracing::error!(%error, left_out, "connections cannot be accepted; trying again");
        }
        tokio::time::sleep(PAUSE_AFTER_ERROR).await;
    }
}

impl<H: Handshake> Shaking<H> {
    async fn shake(
        self: Arc<Self>,
        arrival: Arrival<Moving<TcpStream>>,
        room: Room<Accepted<H::Io>>,
        _turn: OwnedSemaphorePermit,
    ) {
        let remote = arrival.remote;
        let shaken = match arrival.arrive() {
            Ok(arrival) => self.handshake.shake(arrival).await,
            Err(failure) => Err(failure),
        };
        match shaken {
            Ok(stream) => {
                self.stats.count_accepted();
                room.fill(stream);
            }
            Err(failure) => {
                self.stats.count_refused(failure);
                if let Some(left_out) = self.log.line() {
                    tracing::info!(%remote, reason = failure.reason(), left_out, "connection refused");
                }
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
