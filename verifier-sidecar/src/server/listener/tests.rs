use std::future::Future as _;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Wake, Waker};
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

/// Looks for a file when it is woken.
struct Looks(PathBuf, Mutex<Vec<bool>>);

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        self.1.lock().expect("no panic").push(self.0.exists());
    }
}

/// Once nobody listens a successor may put its own file there: by then ours is gone.
#[test]
fn the_file_of_a_socket_goes_before_whoever_listens_hears_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("listener.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    let (queue, arrivals) = mpsc::channel(1);
    let socket = UnixSocket {
        arrivals,
        _file: Arc::new(SocketFile(path.clone())),
    };
    let looks = Arc::new(Looks(path, Mutex::default()));
    let waker = Waker::from(Arc::clone(&looks));
    let mut closed = pin!(queue.closed());
    assert!(
        closed
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    drop(socket);
    assert_eq!(*looks.1.lock().expect("no panic"), [false]);
}
