//! A bad network: a relay for TCP connections that drops, stalls, delays and cuts them, as it is told.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is wrong with the network now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    Clean,
    /// Every connection is dropped, and new ones as soon as they are made.
    Away,
    /// What goes to the authority does not arrive; the connections stay open.
    StallUp,
    /// What comes from the authority does not arrive; the connections stay open.
    StallDown,
    /// Everything takes so much longer in each direction.
    Delay(Duration),
    /// Every connection is reset after so many bytes from the authority, in the middle of whatever that is.
    CutAfter(usize),
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Fault {
    const fn stalls(self, way: Way) -> bool {
        matches!(
            (self, way),
            (Self::StallUp, Way::Up) | (Self::StallDown, Way::Down)
        )
    }
}

/// A relay that runs as long as this is kept.
#[derive(Debug)]
pub(crate) struct Relay {
    faults: watch::Sender<Fault>,
}

impl Relay {
    /// Relays what connects to `listen` to `authority`, over a clean network.
    pub(crate) async fn start(listen: SocketAddr, authority: SocketAddr) -> Self {
        let (faults, fault) = watch::channel(Fault::Clean);
        let listener = TcpListener::bind(listen).await.expect("the port is free");
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.expect("connections can be had");
                tokio::spawn(relay(near, authority, fault.clone()));
            }
        });
        Self { faults }
    }

    /// From now on the network is like this.
    pub(crate) fn set(&self, fault: Fault) {
        self.faults.send_replace(fault);
    }
}

/// Why a connection is not relayed any longer.
#[derive(Debug, PartialEq, Eq)]
enum Broken {
    /// One side has ended it, or the network is away.
    Closed,
    /// In the middle of a record.
    Reset,
}

impl From<std::io::Error> for Broken {
    fn from(_error: std::io::Error) -> Self {
        Self::Closed
    }
}

async fn relay(mut near: TcpStream, authority: SocketAddr, fault: watch::Receiver<Fault>) {
    let Ok(mut far) = TcpStream::connect(authority).await else {
        return;
    };
    let broken = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        tokio::select! {
            broken = pump(near_read, far_write, Way::Up, fault.clone()) => broken,
            broken = pump(far_read, near_write, Way::Down, fault.clone()) => broken,
            Closed = until_away(fault) => Closed,
        }
    };
    if broken == Broken::Reset {
        near.set_zero_linger().expect("the socket is ours");
        far.set_zero_linger().expect("the socket is ours");
    }
}

use Broken::Closed;

async fn until_away(mut fault: watch::Receiver<Fault>) -> Broken {
    // The sender lives as long as the relay.
    drop(fault.wait_for(|fault| *fault == Fault::Away).await);
    Closed
}

/// Carries bytes one way until something breaks.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    way: Way,
    mut fault: watch::Receiver<Fault>,
) -> Broken {
    let mut buffer = vec![0; 16 * 1024];
    let mut left = None;
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return Closed;
        };
        let now = match fault.wait_for(|fault| !fault.stalls(way)).await {
            Ok(fault) => *fault,
            Err(_closed) => return Closed,
        };
        let mut bytes = buffer.get(..length).expect("what was read");
        match now {
            Fault::Delay(time) => tokio::time::sleep(time).await,
            Fault::CutAfter(most) if way == Way::Down => {
                let may = left.unwrap_or(most);
                bytes = bytes.get(..may).unwrap_or(bytes);
                left = Some(may - bytes.len());
            }
            Fault::CutAfter(_) | Fault::Clean | Fault::Away | Fault::StallUp | Fault::StallDown => {
                left = None
            }
        }
        if to.write_all(bytes).await.is_err() {
            return Closed;
        }
        if left == Some(0) {
            return Broken::Reset;
        }
    }
}
