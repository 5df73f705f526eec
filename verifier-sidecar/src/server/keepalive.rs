//! How it is found out whether the other end of a connection is still there.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How often the other end is asked, and how soon it has to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// How often it is asked.
    pub every: Duration,
    /// How soon it has to answer.
    pub patience: Duration,
}

impl Keepalive {
    /// Has the system ask, below HTTP/2: servers of gRPC hang up on clients whose PINGs come more often than every five minutes, unless
    /// they are told otherwise. What was sent and is not acknowledged in time counts as not answered, too.
    pub(crate) fn by_system(self, socket: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(socket);
        let asking = TcpKeepalive::new()
            .with_time(self.every)
            .with_interval(self.patience);
        socket.set_tcp_keepalive(&asking)?;
        socket.set_tcp_user_timeout(Some(self.every.saturating_add(self.patience)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_system_asks_as_often_as_it_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let stream = TcpStream::connect(address).await.expect("connected");
        let keepalive = Keepalive {
            every: Duration::from_secs(7),
            patience: Duration::from_secs(3),
        };
        keepalive.by_system(&stream).expect("set");
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("read"));
        assert_eq!(socket.tcp_keepalive_time().expect("read"), keepalive.every);
        assert_eq!(socket.tcp_keepalive_interval().expect("read"), keepalive.patience);
        let longest = socket.tcp_user_timeout().expect("read");
        assert_eq!(longest, Some(Duration::from_secs(10)));
    }
}
