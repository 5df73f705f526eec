//! Asks an admin port whether its process is ready.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(2);

/// The longest answer that is read. `/ready` says a few lines.
const LONGEST: u64 = 64 * 1024;

/// What a process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It serves.
    Ready,
    /// It runs and does not serve; with what it says.
    NotReady(String),
    /// It does not answer.
    Unreachable(String),
}

/// Asks `address` (`host:port`) for `/ready`.
pub(crate) async fn readiness(address: &str) -> Readiness {
    match tokio::time::timeout(LIMIT, get(address, "/ready")).await {
        Ok(Ok((200, _))) => Readiness::Ready,
        Ok(Ok((status, body))) => Readiness::NotReady(said(status, &body)),
        Ok(Err(error)) => Readiness::Unreachable(error.to_string()),
        Err(_elapsed) => Readiness::Unreachable("it does not answer".to_owned()),
    }
}

fn said(status: u16, body: &str) -> String {
    match body.trim().lines().next() {
        Some(line) => line.to_owned(),
        None => format!("status {status}"),
    }
}

async fn get(address: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_there_is_told_from_not_ready() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a listener");
        let address = listener.local_addr().expect("an address").to_string();
        let asked = tokio::spawn({
            let address = address.clone();
            async move { readiness(&address).await }
        });
        let (mut stream, _) = listener.accept().await.expect("a question");
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\ncold\n";
        stream.write_all(answer).await.expect("answered");
        drop(stream);
        assert_eq!(
            asked.await.expect("asked"),
            Readiness::NotReady("cold".to_owned())
        );
        drop(listener);
        assert!(matches!(readiness(&address).await, Readiness::Unreachable(_)));
    }

    #[test]
    fn only_http_is_read() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\nx"), Some((200, "x".to_owned())));
        for wrong in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
