//! In a process of its own, because it uses up the process's file descriptors.

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use countersign_mtls::{Limits, PlainListener};
    use rustix::process::{Resource, Rlimit, setrlimit};
    use tokio::net::TcpStream;

    /// S21: a listener without a free descriptor waits for one, and goes on (RUSTSEC-2024-0376).
    #[tokio::test]
    async fn accepting_goes_on_after_the_descriptors_ran_out() {
        let limit = Rlimit {
            current: Some(64),
            maximum: Some(64),
        };
        setrlimit(Resource::Nofile, limit).expect("limit");
        let any_port = "127.0.0.1:0".parse().expect("address");
        let mut listener = PlainListener::bind_plain(any_port, Limits::default())
            .await
            .expect("bound");
        let stats = listener.stats();
        // A current-thread runtime: nothing is accepted before the next await that waits.
        let client = std::net::TcpStream::connect(listener.local_addr()).expect("in the backlog");
        let held: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let counted = async {
            while stats.accept_errors() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), counted)
            .await
            .expect("accepting fails");
        assert_eq!(stats.accepted(), 0);
        drop(held);
        let accepting = tokio::time::timeout(Duration::from_secs(10), listener.accept()).await;
        let (_first, peer) = accepting.expect("in time").expect("accepted");
        assert_eq!(peer.remote, client.local_addr().expect("address"));
        let _second = TcpStream::connect(listener.local_addr())
            .await
            .expect("connected");
        assert!(listener.accept().await.is_ok());
    }
}
