use countersign_mtls::Worker;
use countersign_wire::status::{self, Failure};
use http_body_util::{BodyExt as _, Full};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::body::Body as AnyBody;

use super::*;
use crate::metrics::ConnectionMetrics;
use crate::server::Keepalive;

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

/// The same for callers of HTTP/1.1 too.
#[derive(Clone)]
struct Any<S>(S);

impl<S: Serve> Serve for Any<S> {
    type Body = S::Body;

    fn protocols(&self) -> Protocols {
        Protocols::Any
    }

    async fn call(&self, request: Request<Incoming>, peer: Arc<Peer>) -> http::Response<S::Body> {
        self.0.call(request, peer).await
    }
}

/// Answers when it is let.
#[derive(Clone)]
struct Slow(Arc<Semaphore>);

impl Serve for Slow {
    type Body = AnyBody;

    async fn call(&self, _request: Request<Incoming>, _peer: Arc<Peer>) -> http::Response<AnyBody> {
        self.0.acquire().await.expect("open").forget();
        http::Response::new(AnyBody::empty())
    }
}

const LIMITS: Limits = Limits {
    connections: 1,
    streams: 8,
    idle: Duration::from_secs(300),
    age: Duration::from_secs(1800),
    drain: Duration::from_secs(10),
    keepalive: Keepalive {
        every: Duration::from_secs(30),
        patience: Duration::from_secs(10),
    },
};

/// Starts to serve one connection, and gives its other end.
async fn connect(service: impl Serve, drain: &CancellationToken) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let places = Arc::new(Semaphore::new(1));
    let worker = Worker::new(Handle::current());
    let stream = Stream::Unix {
        stream: ours,
        _place: (places.acquire_owned().await.expect("open"), worker.seat()),
    };
    let connection = Connection {
        peer: Arc::new(Peer {
            listener: "plaintext",
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

/// One that serves HTTP/1.1 too, or does not.
async fn connect_for(with_http1: bool, drain: &CancellationToken) -> UnixStream {
    if with_http1 {
        connect(Any(Nothing), drain).await
    } else {
        connect(Nothing, drain).await
    }
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
        for with_http1 in [false, true] {
            let mut peer = connect_for(with_http1, &drain).await;
            peer.write_all(said).await.expect("sent");
            let time = time_until_closed(peer).await;
            assert!(
                (seconds(least)..seconds(most)).contains(&time),
                "{said:?}: {time:?}"
            );
        }
    }
    let mut peer = connect(Any(Nothing), &drain).await;
    peer.write_all(&GET[..GET.len() - 1]).await.expect("sent");
    let time = time_until_closed(peer).await;
    assert!((seconds(10)..seconds(11)).contains(&time), "{time:?}");
}

/// G25: a byte now and then is no preface.
#[tokio::test(start_paused = true)]
async fn peers_that_drip_are_hung_up_on() {
    let drain = CancellationToken::new();
    for (with_http1, said) in [(false, PREFACE), (true, PREFACE), (true, GET)] {
        let peer = connect_for(with_http1, &drain).await;
        let (mut reading, mut writing) = peer.into_split();
        tokio::spawn(async move {
            for byte in said {
                tokio::time::sleep(Duration::from_secs(3)).await;
                if writing.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        });
        let start = Instant::now();
        let mut sink = [0; 64];
        while reading.read(&mut sink).await.is_ok_and(|read| read > 0) {}
        assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
    }
}

/// F71: a connection without calls ends at once when the process is about to stop, also in the middle of its preface.
#[tokio::test(start_paused = true)]
async fn connections_without_calls_end_with_the_process() {
    for said in [&b""[..], &PREFACE[..12], PREFACE, &GET[..GET.len() - 1]] {
        let drain = CancellationToken::new();
        for with_http1 in [false, true] {
            let mut peer = connect_for(with_http1, &drain).await;
            peer.write_all(said).await.expect("sent");
            drain.cancel();
            let time = time_until_closed(peer).await;
            assert!(time <= Duration::from_secs(2), "{said:?}: {time:?}");
        }
    }
}

const GET: &[u8] = b"GET /orders HTTP/1.1\r\nhost: orders\r\n\r\n";

/// What comes until nothing has come for a second.
async fn answer(peer: &mut UnixStream) -> String {
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read) = tokio::time::timeout(Duration::from_secs(1), peer.read(&mut piece)).await {
        let Ok(read @ 1..) = read else { break };
        all.extend_from_slice(&piece[..read]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// One listener serves both; who is not to be served HTTP/1.1 is hung up on (G28).
#[tokio::test(start_paused = true)]
async fn the_first_bytes_say_which_protocol_is_spoken() {
    let drain = CancellationToken::new();
    let mut peer = connect(Any(Nothing), &drain).await;
    for _ in 0..3 {
        peer.write_all(GET).await.expect("sent");
        let told = answer(&mut peer).await;
        assert!(told.starts_with("HTTP/1.1 200 OK\r\n"), "{told}");
        assert!(told.contains("grpc-status: 12\r\n"), "{told}");
    }
    for mut peer in [
        connect(Any(Nothing), &drain).await,
        connect(Nothing, &drain).await,
    ] {
        peer.write_all(PREFACE).await.expect("sent");
        peer.write_all(&[0, 0, 3, 1, 5, 0, 0, 0, 1, 0x83, 0x86, 0x84])
            .await
            .expect("sent");
        let mut frames = vec![0; 9];
        peer.read_exact(&mut frames).await.expect("settings");
        assert_eq!(frames[3], 4);
    }
    let mut peer = connect(Nothing, &drain).await;
    peer.write_all(GET).await.expect("sent");
    let told = answer(&mut peer).await;
    assert!(!told.contains("HTTP/1.1"), "{told}");
}

/// G28: what is no request is answered as such, and nothing after it is read.
#[tokio::test(start_paused = true)]
async fn what_is_ambiguous_ends_the_connection() {
    let drain = CancellationToken::new();
    let long = [&GET[..GET.len() - 2], b"x: ", &[b'y'; 20_000], b"\r\n\r\n"].concat();
    let many: Vec<u8> = (0..200)
        .flat_map(|n| format!("x-{n}: y\r\n").into_bytes())
        .collect();
    let many = [&GET[..GET.len() - 2], &many, b"\r\n"].concat();
    for (bad, status) in [
        (
            &b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"[..],
            400,
        ),
        (b"POST / HTTP/1.1\r\nhost: a\ncontent-length: 4\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 400),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            400,
        ),
        (&long, 431),
        (&many, 431),
    ] {
        let mut alone = connect(Any(Nothing), &drain).await;
        alone.write_all(bad).await.expect("sent");
        let told = answer(&mut alone).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{told}");
        let mut peer = connect(Any(Nothing), &drain).await;
        peer.write_all(GET).await.expect("sent");
        peer.write_all(bad).await.expect("sent");
        // The rest is for nobody, and may find nobody.
        let _unheard = peer.write_all(GET).await;
        let told = answer(&mut peer).await;
        let answers: Vec<_> = told.lines().filter(|line| line.starts_with("HTTP/1.1")).collect();
        assert_eq!(answers.len(), 2, "{told}");
        assert!(answers[1].starts_with(&format!("HTTP/1.1 {status} ")), "{told}");
        assert!(
            told.ends_with("connection: close\r\ncontent-length: 0\r\n\r\n"),
            "{told}"
        );
        assert_eq!(peer.read(&mut [0; 8]).await.unwrap_or_default(), 0, "closed");
    }
}

/// F71, G25: at its age, and with the process, a connection ends between two requests; one under way is answered first, and told.
#[tokio::test(start_paused = true)]
async fn connections_of_http1_are_wound_up() {
    let drain = CancellationToken::new();
    let mut idle = connect(Any(Nothing), &drain).await;
    idle.write_all(GET).await.expect("sent");
    assert!(answer(&mut idle).await.contains("200 OK"));
    let time = time_until_closed(idle).await;
    let around = LIMITS.idle - Duration::from_secs(2)..LIMITS.idle + Duration::from_secs(2);
    assert!(around.contains(&time), "{time:?}");

    let places = Arc::new(Semaphore::new(0));
    let mut peer = connect(Any(Slow(Arc::clone(&places))), &drain).await;
    peer.write_all(GET).await.expect("sent");
    assert_eq!(answer(&mut peer).await, "");
    drain.cancel();
    assert_eq!(answer(&mut peer).await, "");
    places.add_permits(1);
    let told = answer(&mut peer).await;
    assert!(told.starts_with("HTTP/1.1 200 OK\r\n"), "{told}");
    assert!(told.contains("connection: close\r\n"), "{told}");
    assert_eq!(peer.read(&mut [0; 8]).await.expect("the end"), 0);
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
