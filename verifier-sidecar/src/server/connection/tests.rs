use countersign_wire::status::{self, Failure};
use http_body_util::{BodyExt as _, Full};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::body::Body as AnyBody;

use super::*;
use crate::metrics::ConnectionMetrics;

#[derive(Clone)]
struct Nothing;

impl Serve for Nothing {
    type Body = AnyBody;

    async fn call(&self, _request: Request<Incoming>, _peer: Arc<Peer>) -> http::Response<AnyBody> {
        status::failed(Failure::MethodUnknown).into_http()
    }
}

/// Answers with this much, which is shared with every answer until that is over here.
#[derive(Clone)]
struct Much(Arc<[u8]>);

impl Serve for Much {
    type Body = AnyBody;

    async fn call(&self, _request: Request<Incoming>, _peer: Arc<Peer>) -> http::Response<AnyBody> {
        let answer = Bytes::copy_from_slice(&self.0);
        let kept = Arc::clone(&self.0);
        let body = Full::new(answer).map_frame(move |frame| {
            let _kept = &kept;
            frame
        });
        http::Response::new(AnyBody::new(body))
    }
}

const LIMITS: Limits = Limits {
    connections: 1,
    streams: 8,
    idle: Duration::from_secs(300),
    age: Duration::from_secs(1800),
    drain: Duration::from_secs(10),
};

/// Starts to serve one connection, and gives its other end.
async fn connect(service: impl Serve, drain: &CancellationToken) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let places = Arc::new(Semaphore::new(1));
    let stream = Stream::Unix {
        stream: ours,
        _place: places.acquire_owned().await.expect("open"),
    };
    let connection = Connection {
        peer: Arc::new(Peer {
            remote: None,
            identity: None,
        }),
        limits: LIMITS,
        valid_for: None,
        open: ConnectionMetrics::register(&mut Registry::default()).opened("unix"),
        drain: drain.clone(),
    };
    tokio::spawn(connection.run(stream, service));
    theirs
}

async fn time_until_closed(mut peer: UnixStream) -> Duration {
    let start = Instant::now();
    let mut sink = [0; 1024];
    while peer.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    start.elapsed()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// G25: whoever says nothing, or half of what is to be said, is hung up on.
#[tokio::test(start_paused = true)]
async fn silent_peers_are_hung_up_on() {
    let drain = CancellationToken::new();
    let seconds = Duration::from_secs;
    for (said, least, most) in [(&b""[..], 10, 11), (&PREFACE[..12], 10, 11), (PREFACE, 20, 25)] {
        let mut peer = connect(Nothing, &drain).await;
        peer.write_all(said).await.expect("sent");
        let time = time_until_closed(peer).await;
        assert!(
            (seconds(least)..seconds(most)).contains(&time),
            "{said:?}: {time:?}"
        );
    }
}

/// G25: a byte now and then is no preface.
#[tokio::test(start_paused = true)]
async fn peers_that_drip_are_hung_up_on() {
    let (reading, mut writing) = connect(Nothing, &CancellationToken::new()).await.into_split();
    tokio::spawn(async move {
        for byte in PREFACE {
            tokio::time::sleep(Duration::from_secs(3)).await;
            if writing.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    });
    let start = Instant::now();
    let mut reading = reading;
    let mut sink = [0; 64];
    while reading.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
}

/// F71: a connection without calls ends at once when the process is about to stop, also in the middle of its preface.
#[tokio::test(start_paused = true)]
async fn connections_without_calls_end_with_the_process() {
    for said in [&b""[..], &PREFACE[..12], PREFACE] {
        let drain = CancellationToken::new();
        let mut peer = connect(Nothing, &drain).await;
        peer.write_all(said).await.expect("sent");
        drain.cancel();
        let time = time_until_closed(peer).await;
        assert!(time <= Duration::from_secs(2), "{said:?}: {time:?}");
    }
}

/// F71: what a slow reader has not taken yet of calls that are over here is not cut off with the process's end.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_all_of_its_answers() {
    /// The largest window for each stream and for the connection, then as many calls as may be.
    const CALLS: u32 = 8;
    const WINDOWS: &[u8] = &[
        0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0,
    ];
    let answer: Arc<[u8]> = vec![0; 60_000].into();
    let drain = CancellationToken::new();
    let mut peer = connect(Much(Arc::clone(&answer)), &drain).await;
    peer.write_all(&[PREFACE, WINDOWS].concat()).await.expect("sent");
    for call in 0..CALLS {
        let [.., id] = (2 * call + 1).to_be_bytes();
        let request = [0, 0, 3, 1, 5, 0, 0, 0, id, 0x83, 0x86, 0x84];
        peer.write_all(&request).await.expect("sent");
    }
    // More than the socket takes, so the rest lies with HTTP/2; but only this test and the service have it now.
    while Arc::strong_count(&answer) > 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drain.cancel();
    tokio::time::sleep(LIMITS.drain / 2).await;
    let mut taken = Vec::new();
    peer.read_to_end(&mut taken).await.expect("read");
    assert_eq!(
        data_in(&taken),
        answer.len() * usize::try_from(CALLS).expect("few")
    );
}

/// The bytes of data in these frames.
fn data_in(mut frames: &[u8]) -> usize {
    let mut data = 0;
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).expect("small");
        data += if *kind == 0 { length } else { 0 };
        frames = rest.get(length..).unwrap_or_default();
    }
    data
}
