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
            broken = until_away(fault) => broken,
        }
    };
    if broken == Broken::Reset {
        near.set_zero_linger().expect("the socket is ours");
        far.set_zero_linger().expect("the socket is ours");
    }
}

async fn until_away(mut fault: watch::Receiver<Fault>) -> Broken {
    // The sender lives as long as the relay.
    drop(fault.wait_for(|fault| *fault == Fault::Away).await);
    Broken::Closed
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
            return Broken::Closed;
        };
        let now = match fault.wait_for(|fault| !fault.stalls(way)).await {
            Ok(fault) => *fault,
            Err(_closed) => return Broken::Closed,
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
            return Broken::Closed;
        }
        if left == Some(0) {
            return Broken::Reset;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// A connection through a relay: its near end, its far end, and the relay.
    async fn connected() -> (TcpStream, TcpStream, Relay) {
        let authority = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let far = authority.local_addr().expect("bound");
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let near = free.local_addr().expect("bound");
        drop(free);
        let relay = Relay::start(near, far).await;
        let (near, far) = tokio::join!(TcpStream::connect(near), authority.accept());
        (near.expect("connected"), far.expect("connected").0, relay)
    }

    async fn passes(from: &mut TcpStream, to: &mut TcpStream) -> bool {
        from.write_all(b"x").await.expect("it is open");
        let arriving = tokio::time::timeout(Duration::from_millis(200), to.read_u8());
        arriving.await.is_ok_and(|read| read.is_ok())
    }

    #[tokio::test]
    async fn a_stall_holds_one_direction_and_lets_it_go_afterwards() {
        let (mut near, mut far, relay) = connected().await;
        assert!(passes(&mut near, &mut far).await);
        relay.set(Fault::StallUp);
        assert!(!passes(&mut near, &mut far).await);
        assert!(passes(&mut far, &mut near).await, "the other one goes on");
        relay.set(Fault::Clean);
        assert_eq!(far.read_u8().await.expect("what was held"), b'x');
        relay.set(Fault::StallDown);
        assert!(!passes(&mut far, &mut near).await);
        assert!(passes(&mut near, &mut far).await);
    }

    #[tokio::test]
    async fn a_cut_passes_so_many_bytes_and_resets_both_sides() {
        let (mut near, mut far, relay) = connected().await;
        relay.set(Fault::CutAfter(3));
        far.write_all(b"record").await.expect("it is open");
        let mut read = Vec::new();
        let error = near.read_to_end(&mut read).await.expect_err("it is reset");
        assert_eq!(
            (read.as_slice(), error.kind()),
            (&b"rec"[..], ErrorKind::ConnectionReset)
        );
        let error = far.read_u8().await.expect_err("it is reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_network_that_is_away_ends_what_is_open() {
        let (mut near, mut far, relay) = connected().await;
        assert!(passes(&mut near, &mut far).await);
        relay.set(Fault::Away);
        let error = near.read_u8().await.expect_err("it has ended");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}
