//! Which runtime serves a connection, where there are several: the one that has the fewest.
//!
//! Connections are few and live long, so chance would leave one runtime with most of them. Whoever accepts gives each to a runtime,
//! on which it stays.

use std::future::{Future as _, poll_fn};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

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
///
/// INVARIANT (none stops the others): what goes to a worker has room there before it goes, so that whoever accepts waits for none that
/// stands still as long as another has any. It does not cover who accepts: where that is a task of one of the workers and this one
/// stands still, nobody new comes in, and what the others have goes on.
#[derive(Debug)]
pub struct Spread<T>(Vec<Way<T>>);

/// The way to one worker.
#[derive(Debug)]
struct Way<T> {
    worker: Worker,
    queue: mpsc::Sender<T>,
}

impl<T> Way<T> {
    fn room(&self) -> Option<Room<T>> {
        let place = self.queue.clone().try_reserve_owned().ok()?;
        Some(Room {
            worker: self.worker.clone(),
            queue: self.queue.clone(),
            place,
        })
    }
}

/// Room at a worker for one connection, until it is filled or dropped.
#[derive(Debug)]
pub struct Room<T> {
    worker: Worker,
    queue: mpsc::Sender<T>,
    place: mpsc::OwnedPermit<T>,
}

impl<T> Room<T> {
    /// Whose it is.
    #[must_use]
    pub const fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Gives the worker `connection`. If it takes none any more, the connection ends.
    pub fn fill(self, connection: T) {
        // Nobody would take it out again.
        if !self.queue.is_closed() {
            self.place.send(connection);
        }
    }
}

impl<T> Spread<T> {
    /// The ways to `workers`, and their ends in the same order. At each there is room for so many that were not taken yet.
    #[must_use]
    pub fn over(workers: &[Worker], room: usize) -> (Self, Vec<mpsc::Receiver<T>>) {
        let way = |worker: &Worker| {
            let (queue, end) = mpsc::channel(room);
            let worker = worker.clone();
            (Way { worker, queue }, end)
        };
        let (ways, ends) = workers.iter().map(way).unzip();
        (Self(ways), ends)
    }

    /// Room at the worker that has the fewest connections of those that have room. Waits while none has. None when no end is left.
    pub async fn room(&self) -> Option<Room<T>> {
        loop {
            let taking = self.open().filter(|way| way.queue.capacity() > 0);
            match taking.min_by_key(|way| way.worker.connections()) {
                Some(way) => {
                    if let Some(room) = way.room() {
                        return Some(room);
                    }
                }
                None if self.open().next().is_none() => return None,
                None => self.any_room().await,
            }
        }
    }

    /// Whether no worker has room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.open().all(|way| way.queue.capacity() == 0)
    }

    /// When no end is left.
    pub async fn closed(&self) {
        for way in &self.0 {
            way.queue.closed().await;
        }
    }

    fn open(&self) -> impl Iterator<Item = &Way<T>> {
        self.0.iter().filter(|way| !way.queue.is_closed())
    }

    /// When one of those that are open has room, or is closed.
    async fn any_room(&self) {
        let mut each: Vec<_> = self.open().map(|way| Box::pin(way.queue.reserve())).collect();
        poll_fn(|cx| {
            let has_come = each.iter_mut().any(|one| one.as_mut().poll(cx).is_ready());
            if has_come { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
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
