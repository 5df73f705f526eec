use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::rig::{Stranger, echo, eventually, server};
use crate::{Limits, PlainListener, PlainStream, TlsListener, Worker};

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Workers: this runtime, and two more.
struct Several {
    workers: Vec<Worker>,
    others: Vec<Runtime>,
}

impl Several {
    fn start() -> Self {
        let runtime = |_| {
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.expect("a runtime")
        };
        let others: Vec<_> = (0..2).map(runtime).collect();
        let all = [Handle::current()];
        let all = all
            .into_iter()
            .chain(others.iter().map(|one| one.handle().clone()));
        Self {
            workers: all.map(Worker::new).collect(),
            others,
        }
    }

    fn connections(&self) -> Vec<usize> {
        self.workers.iter().map(Worker::connections).collect()
    }
}

impl Drop for Several {
    fn drop(&mut self) {
        for runtime in self.others.drain(..) {
            runtime.shutdown_background();
        }
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

async fn listen(several: &Several, limits: Limits) -> Vec<PlainListener> {
    let listeners = PlainListener::bind_plain_for(&several.workers, any_port(), limits).await;
    listeners.expect("bound")
}

/// A connection that `listener` got, and its other end.
async fn connect(listener: &mut PlainListener) -> (TcpStream, PlainStream) {
    let theirs = TcpStream::connect(listener.local_addr())
        .await
        .expect("connected");
    let accepting = timeout(PATIENCE, listener.accept()).await;
    let (ours, _) = accepting.expect("for this worker").expect("accepted");
    (theirs, ours)
}

#[tokio::test]
async fn connections_go_to_the_worker_that_has_the_fewest() {
    let several = Several::start();
    let mut listeners = listen(&several, Limits::default()).await;
    let stats = listeners[0].stats();
    let mut held = Vec::new();
    for _ in 0..2 {
        for listener in &mut listeners {
            held.push(connect(listener).await);
        }
    }
    assert_eq!(several.connections(), [2, 2, 2]);
    assert_eq!(stats.accepted(), 6);
    // Both of the second worker's.
    for index in [4, 1] {
        drop(held.remove(index));
    }
    assert_eq!(several.connections(), [2, 0, 2]);
    for _ in 0..2 {
        held.push(connect(&mut listeners[1]).await);
    }
    assert_eq!(several.connections(), [2, 2, 2]);
    drop(held);
    assert_eq!(several.connections(), [0, 0, 0]);
}

/// Who waits for what comes on it, wherever it is read: without its worker's runtime nobody hears of that.
#[tokio::test]
async fn a_connection_belongs_to_its_workers_runtime() {
    let mut several = Several::start();
    let mut listeners = listen(&several, Limits::default()).await;
    let mut held = Vec::new();
    for listener in &mut listeners {
        held.push(connect(listener).await);
    }
    let gone = several.others.remove(0);
    let ending = tokio::task::spawn_blocking(move || gone.shutdown_timeout(PATIENCE));
    ending.await.expect("no panic");
    let mut read = Vec::new();
    for (theirs, ours) in &mut held {
        theirs.write_all(b"x").await.expect("sent");
        read.push(ours.read_exact(&mut [0; 1]).await.is_ok());
    }
    assert_eq!(read, [true, false, true]);
}

/// What another listener has given a worker counts as well.
#[tokio::test]
async fn workers_are_shared_by_listeners() {
    let several = Several::start();
    let mut one = listen(&several, Limits::default()).await;
    let mut other = listen(&several, Limits::default()).await;
    let first = connect(&mut one[0]).await;
    let second = connect(&mut other[1]).await;
    let third = connect(&mut one[2]).await;
    assert_eq!(several.connections(), [1, 1, 1]);
    drop((first, second, third));
}

#[tokio::test]
async fn the_limit_is_that_of_all_workers_together() {
    let several = Several::start();
    let limits = Limits {
        connections: 4,
        ..Limits::default()
    };
    let mut listeners = listen(&several, limits).await;
    let stats = listeners[0].stats();
    let mut held = Vec::new();
    for index in [0, 1, 2, 0] {
        held.push(connect(&mut listeners[index]).await);
    }
    let _outside = TcpStream::connect(listeners[0].local_addr())
        .await
        .expect("in the backlog");
    eventually("full", || stats.full() == 1).await;
    assert_eq!((stats.accepted(), several.connections()), (4, vec![2, 1, 1]));
    // The third worker's: it has the fewest then.
    drop(held.remove(2));
    listeners[2].accept().await.expect("accepted");
    assert_eq!(stats.accepted(), 5);
}

#[tokio::test]
async fn handshakes_are_made_by_the_worker() {
    let server = server().await;
    let several = Several::start();
    let tls = Arc::clone(&server.tls);
    let listeners = TlsListener::bind_for(&several.workers, any_port(), tls, Limits::default()).await;
    let mut listeners = listeners.expect("bound");
    let client = Stranger::new(&server.root, Some(&server.root.workload("orders")));
    let mut held = Vec::new();
    for (listener, worker) in listeners.iter_mut().zip(&several.workers) {
        let mut theirs = client.connect(listener.local_addr()).await.expect("connected");
        let (mut ours, peer) = listener.accept().await.expect("accepted");
        assert!(peer.identity.is_some());
        let served = worker.runtime().spawn(async move {
            echo(&mut theirs, &mut ours).await.expect("alive");
            (theirs, ours)
        });
        held.push(served.await.expect("served"));
    }
    assert_eq!(several.connections(), [1, 1, 1]);
}

/// One whose runtime stands still has its share of the handshakes, and no more: the others go on.
#[tokio::test]
async fn a_worker_that_stands_still_stops_no_other() {
    let several = Several::start();
    let limits = Limits {
        handshakes: 6,
        ..Limits::default()
    };
    let mut listeners = listen(&several, limits).await;
    let address = listeners[0].local_addr();
    let (go_on, still) = std::sync::mpsc::channel::<()>();
    several.workers[1].runtime().spawn(async move { still.recv() });
    // Two of them are for it, which is its share.
    let mut theirs = Vec::new();
    for _ in 0..60 {
        theirs.push(TcpStream::connect(address).await.expect("connected"));
    }
    let (given, mut taken) = mpsc::channel(60);
    for mut listener in [listeners.remove(2), listeners.remove(0)] {
        let given = given.clone();
        tokio::spawn(async move {
            while let Ok(accepted) = listener.accept().await {
                given.send(accepted).await.expect("they are counted");
            }
        });
    }
    let mut ours = Vec::new();
    for _ in 0..58 {
        let next = timeout(PATIENCE, taken.recv()).await;
        ours.push(next.expect("it is not stopped"));
    }
    assert_eq!(several.connections()[1], 2);
    drop(go_on);
}

/// A worker that takes no more leaves the others theirs.
#[tokio::test]
async fn the_socket_is_closed_with_the_last_listener() {
    let several = Several::start();
    let mut listeners = listen(&several, Limits::default()).await;
    let address = listeners[0].local_addr();
    drop(listeners.remove(0));
    let second = connect(&mut listeners[0]).await;
    let third = connect(&mut listeners[1]).await;
    assert_eq!(several.connections(), [0, 1, 1]);
    drop((second, third, listeners));
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("closed");
}
