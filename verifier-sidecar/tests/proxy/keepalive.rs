//! Peers that are gone without a word.

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::raw::preface;
use crate::support::{METHODS, Setup, Sidecar, within};

const PING: u8 = 6;

/// A caller who does not answer is cut, and one who answers is not.
#[tokio::test]
async fn a_caller_who_does_not_answer_is_taken_for_gone() {
    let limits = "[limits]\nkeepalive = \"1s\"\nkeepalive_timeout = \"1s\"\n";
    let setup = Setup {
        more: format!("{METHODS}{limits}"),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let answering = TcpStream::connect(sidecar.plaintext()).await.expect("connected");
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake::<_, http_body_util::Empty<bytes::Bytes>>(TokioIo::new(answering))
        .await
        .expect("a connection");
    tokio::spawn(connection);

    let mut silent = TcpStream::connect(sidecar.plaintext()).await.expect("connected");
    silent.write_all(&preface()).await.expect("written");
    let mut frames = Vec::new();
    let end = within("the end", async {
        loop {
            let mut head = [0; 9];
            if let Err(end) = silent.read_exact(&mut head).await {
                return end;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).expect("small")];
            if let Err(end) = silent.read_exact(&mut payload).await {
                return end;
            }
            frames.push(head[3]);
        }
    });
    let end = end.await;
    assert_eq!(
        frames.iter().filter(|kind| **kind == PING).count(),
        1,
        "{end}: {frames:?}"
    );
    assert!(!sender.is_closed());
}
