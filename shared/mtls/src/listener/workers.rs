//! Which runtime serves a connection, where there are several: the one that has the fewest.
//!
//! Connections are few and live long, so chance would leave one runtime with most of them. Whoever accepts gives each to a runtime,
//! on which it stays.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// A runtime that serves connections. Clones are the same, and count the same connections.
#[derive(Clone, Debug)]
pub struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Worker {
    /// One that has no connections yet.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            connections: Arc::default(),
        }
    }

    /// Its runtime.
    #[must_use]
    pub const fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Connections that it has, those in their handshake included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts one more connection, until what is returned is dropped.
    #[must_use]
    pub fn seat(&self) -> Seat {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Seat(Arc::clone(&self.connections))
    }

    fn is_here(&self) -> bool {
        Handle::try_current().is_ok_and(|here| here.id() == self.runtime.id())
    }
}

/// One connection of a worker.
#[derive(Debug)]
pub struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The ways of what one socket accepts to the workers.
#[derive(Debug)]
pub struct Spread<T>(Vec<Way<T>>);

/// The way to one worker.
#[derive(Debug)]
pub struct Way<T> {
    /// Who serves what goes this way.
    pub worker: Worker,
    /// Where it goes.
    pub queue: mpsc::Sender<T>,
}

impl<T> Spread<T> {
    /// The ways to `workers`, and their ends in the same order. So many wait at the end of each at most.
    #[must_use]
    pub fn over(workers: &[Worker], waiting: usize) -> (Self, Vec<mpsc::Receiver<T>>) {
        let way = |worker: &Worker| {
            let (queue, end) = mpsc::channel(waiting);
            let worker = worker.clone();
            (Way { worker, queue }, end)
        };
        let (ways, ends) = workers.iter().map(way).unzip();
        (Self(ways), ends)
    }

    /// The way to the worker that has the fewest connections. None when no end is left.
    #[must_use]
    pub fn fewest(&self) -> Option<&Way<T>> {
        let open = self.0.iter().filter(|way| !way.queue.is_closed());
        open.min_by_key(|way| way.worker.connections())
    }

    /// When no end is left.
    pub async fn closed(&self) {
        for way in &self.0 {
            way.queue.closed().await;
        }
    }
}

/// An accepted socket on its way to the worker that serves it. A socket belongs to one runtime, which tells when there is
/// something to read.
#[derive(Debug)]
pub enum Moving<S: Socket> {
    /// It belongs to that worker's.
    Here(S),
    /// It belongs to none, if it could be taken from the one it came to.
    Elsewhere(io::Result<S::OfNone>),
}

impl<S: Socket> Moving<S> {
    /// Sends `socket`, which belongs to the runtime that this is called on, to `worker`.
    pub fn to(worker: &Worker, socket: S) -> Self {
        if worker.is_here() {
            Self::Here(socket)
        } else {
            Self::Elsewhere(socket.leave())
        }
    }

    /// The socket. To be called on the worker's runtime.
    ///
    /// # Errors
    /// When the runtime that it came to cannot give it up, or this one cannot take it.
    pub fn arrive(self) -> io::Result<S> {
        match self {
            Self::Here(socket) => Ok(socket),
            Self::Elsewhere(socket) => S::join(socket?),
        }
    }
}

/// A socket that can go from one runtime to another.
pub trait Socket: Sized {
    /// Itself between runtimes.
    type OfNone: Send + std::fmt::Debug;

    /// Leaves its runtime.
    ///
    /// # Errors
    /// The system's.
    fn leave(self) -> io::Result<Self::OfNone>;

    /// Joins the runtime that this is called on.
    ///
    /// # Errors
    /// The system's.
    fn join(socket: Self::OfNone) -> io::Result<Self>;
}

impl Socket for TcpStream {
    type OfNone = std::net::TcpStream;

    fn leave(self) -> io::Result<Self::OfNone> {
        self.into_std()
    }

    fn join(socket: Self::OfNone) -> io::Result<Self> {
        Self::from_std(socket)
    }
}

impl Socket for UnixStream {
    type OfNone = std::os::unix::net::UnixStream;

    fn leave(self) -> io::Result<Self::OfNone> {
        self.into_std()
    }

    fn join(socket: Self::OfNone) -> io::Result<Self> {
        Self::from_std(socket)
    }
}
