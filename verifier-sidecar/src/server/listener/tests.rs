use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::*;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn two_workers() -> [Worker; 2] {
    [(); 2].map(|()| Worker::new(Handle::current()))
}

/// What a worker that stands still has room for waits for it. Everything else is for the other.
#[tokio::test]
async fn a_worker_that_stands_still_stops_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("listener.sock");
    let mut sockets = UnixSocket::bind(&two_workers(), &path, 1024).expect("bound");
    let _still = sockets.pop().expect("the second worker's");
    let mut taking = sockets.pop().expect("the first worker's");
    // The same for each at first, and then some.
    let connections = 3 * QUEUE;
    let mut theirs = Vec::new();
    for _ in 0..connections {
        theirs.push(UnixStream::connect(&path).await.expect("connected"));
    }
    let mut taken = Vec::new();
    for _ in 0..connections - QUEUE {
        let next = timeout(PATIENCE, taking.accept()).await;
        taken.push(next.expect("it is not stopped").expect("accepted"));
    }
}
