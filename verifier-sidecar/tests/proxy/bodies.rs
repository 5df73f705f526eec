//! What of a call is not in its headers: it passes as it comes, and what has no place in it does not.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::raw::{Outcome, call, preface, send_first, whole};
use crate::support::upstream::{DEAF, ENDLESS, FRAME, MURMUR, MUTE, POLITE, RawService, TRAILING};
use crate::support::{Setup, Sidecar, eventually, within};

/// What hyper's servers have under way by default: one call can take all that a connection has.
const USUAL: (u32, u32) = (1 << 20, 1 << 20);

/// A call takes a little of what its connection has.
const AMPLE: (u32, u32) = (1 << 16, 1 << 26);

/// What every server has.
const LEAST: (u32, u32) = (65_535, 65_535);

/// Calls at once that stand still.
const MANY: usize = 40;

/// A sidecar before a service with these windows.
async fn before((stream_window, connection_window): (u32, u32)) -> (Sidecar, RawService) {
    in_front(RawService::start(stream_window, connection_window).await).await
}

async fn in_front(service: RawService) -> (Sidecar, RawService) {
    let setup = Setup {
        upstream: Some(format!("http://{}", service.address)),
        ..Setup::default()
    };
    (Sidecar::with(setup).await, service)
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A connection to the sidecar.
#[derive(Clone)]
struct Caller {
    sender: http2::SendRequest<Body>,
    address: SocketAddr,
    token: String,
}

impl Caller {
    async fn connect(sidecar: &Sidecar) -> Self {
        let address = sidecar.plaintext();
        let stream = TcpStream::connect(address).await.expect("connected");
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            // However many it gives up, it goes on itself.
            .max_concurrent_reset_streams(10_000)
            .max_local_error_reset_streams(None)
            .initial_stream_window_size(1 << 16)
            .initial_connection_window_size(1 << 26)
            .handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        Self {
            sender,
            address,
            token: sidecar.token(),
        }
    }

    /// Begins a call. Its answer is for whoever waits for it.
    fn send(&self, path: &str, body: Body) -> JoinHandle<hyper::Result<Response<Incoming>>> {
        let request = call(self.address)
            .uri(format!("http://{}{path}", self.address))
            .header("authorization", format!("Bearer {}", self.token));
        let request = request.body(body).expect("a request");
        let mut sender = self.sender.clone();
        tokio::spawn(async move { sender.send_request(request).await })
    }

    async fn answer(&self, path: &str, body: Body) -> Response<Incoming> {
        let answer = within("an answer", self.send(path, body)).await;
        answer.expect("no panic").expect("an answer")
    }

    /// A call that is answered at once.
    async fn small_call(&self) {
        let body = Full::new(Bytes::from_static(b"small")).boxed_unsync();
        let answer = self.answer(POLITE, body).await;
        assert_eq!(answer.headers()["grpc-status"], "0");
        let body = within("a body", answer.into_body().collect()).await;
        assert_eq!(body.expect("a body").to_bytes(), "small");
    }
}

fn frames(frames: impl IntoIterator<Item = Frame<Bytes>, IntoIter: Send + 'static>) -> Body {
    StreamBody::new(stream::iter(frames.into_iter().map(Ok))).boxed_unsync()
}

/// A body without end, which counts what is taken of it.
fn endless(taken: &Arc<AtomicUsize>) -> Body {
    let taken = Arc::clone(taken);
    frames(std::iter::repeat_with(move || {
        taken.fetch_add(FRAME.len(), Ordering::Relaxed);
        Frame::data(Bytes::from_static(FRAME))
    }))
}

/// Waits until `moved` has not grown during so many small calls that whatever could move has moved. They go on all the
/// time, whatever else stands still.
async fn standstill(callers: &[Caller], moved: impl Fn() -> usize) -> usize {
    let mut before = 0;
    eventually("standstill", async || {
        for _ in 0..10 {
            for caller in callers {
                caller.small_call().await;
            }
        }
        let now = moved();
        std::mem::replace(&mut before, now) == now && now > 0
    })
    .await;
    before
}

/// G29, T08: data and harmless trailers pass; credentials and identities in trailers do not.
#[tokio::test]
async fn trailers_of_requests_carry_no_credentials() {
    let (sidecar, service) = before(USUAL).await;
    let mut trailers = HeaderMap::new();
    for name in [
        "authorization",
        "x-countersign-subject",
        "x-envoy-anything",
        "checksum",
    ] {
        trailers.insert(name, HeaderValue::from_static("Bearer x"));
    }
    let body = frames([
        Frame::data(Bytes::from_static(b"one ")),
        Frame::data(Bytes::from_static(b"two")),
        Frame::trailers(trailers),
    ]);
    let response = Caller::connect(&sidecar).await.answer(POLITE, body).await;
    assert_eq!(response.headers()["grpc-status"], "0");
    let received = service.received().pop().expect("a request");
    assert_eq!(received.body, "one two");
    let names: Vec<_> = received.trailers.expect("trailers").keys().cloned().collect();
    assert_eq!(names, ["checksum"]);
    assert_eq!(received.headers["x-countersign-client"], "orders");
}

/// Nothing is buffered: a service that does not read stops its callers after no more than the windows, and nobody else,
/// be it on a connection of theirs.
#[tokio::test]
async fn a_service_that_does_not_read_stops_only_whom_it_does_not_read() {
    let (sidecar, _service) = before(AMPLE).await;
    let deaf = Caller::connect(&sidecar).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let _calls: Vec<_> = (0..MANY).map(|_| deaf.send(DEAF, endless(&taken))).collect();
    let other = Caller::connect(&sidecar).await;
    let taken = standstill(&[deaf, other], || taken.load(Ordering::Relaxed)).await;
    assert!(taken < MANY * (1 << 20), "{taken} bytes were taken");
}

/// Also when the service grants one call all that it grants a connection.
#[tokio::test]
async fn a_call_that_takes_all_of_a_connection_stops_no_other_caller() {
    let (sidecar, _service) = before(USUAL).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let mut calls = Vec::new();
    for _ in 0..8 {
        let deaf = Caller::connect(&sidecar).await;
        calls.push(deaf.send(DEAF, endless(&taken)));
    }
    let other = Caller::connect(&sidecar).await;
    standstill(&[other], || taken.load(Ordering::Relaxed)).await;
}

/// Requests that are here as a whole take nothing of a connection that could be missed: they go over a few, whoever sends them, and
/// never over one that a stream may have taken all of.
#[tokio::test]
async fn requests_that_come_as_a_whole_share_a_few_connections() {
    let (sidecar, service) = before(USUAL).await;
    let mut callers = Vec::new();
    for _ in 0..MANY {
        let caller = Caller::connect(&sidecar).await;
        drop(caller.answer(POLITE, Empty::new().boxed_unsync()).await);
        callers.push(caller);
    }
    assert_eq!(service.connections(), 8);
    let taken = Arc::new(AtomicUsize::new(0));
    let mut calls = Vec::new();
    // More than there are connections for what is sent without end.
    for _ in 0..60 {
        let deaf = Caller::connect(&sidecar).await;
        calls.push(deaf.send(DEAF, endless(&taken)));
    }
    let mut before = 0;
    eventually("standstill", async || {
        for caller in &callers {
            drop(caller.answer(POLITE, Empty::new().boxed_unsync()).await);
        }
        let now = taken.load(Ordering::Relaxed);
        std::mem::replace(&mut before, now) == now && now > 0
    })
    .await;
}

/// Nor does any number of them stop one another: of those that the service leaves unread no more goes over a connection than it lets
/// through.
#[tokio::test]
async fn requests_that_come_as_a_whole_and_are_not_read_stop_nobody() {
    for bytes in [16 * 1024, 4 * 1024, 1024] {
        let (sidecar, service) = before(LEAST).await;
        let authorization = format!("Bearer {}", sidecar.token());
        let fields = |path| {
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "localhost"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("authorization", authorization.as_str()),
            ]
        };
        let mut deaf = Vec::new();
        for _ in 0..16 {
            let mut caller = TcpStream::connect(sidecar.plaintext()).await.expect("connected");
            // As much as they may send before they hear anything.
            let many = u32::try_from(60 * 1024 / bytes).expect("few");
            let unread = (0..many).flat_map(|n| whole(2 * n + 1, &fields(DEAF), &vec![0; bytes]));
            let unread: Vec<_> = preface().into_iter().chain(unread).collect();
            caller.write_all(&unread).await.expect("sent");
            deaf.push(caller);
        }
        for n in 0..80 {
            let small = whole(1, &fields(POLITE), b"small");
            let answered = within("an answer", send_first(sidecar.plaintext(), &small)).await;
            assert_eq!((answered, service.received().len()), (Outcome::Answered, n + 1));
        }
    }
}

/// A service may have few calls at once. Those that are open for long make no other wait behind them, while there are connections.
#[tokio::test]
async fn calls_beyond_what_a_connection_is_granted_go_over_another() {
    let service = RawService::granting(USUAL.0, USUAL.1, Some(5)).await;
    let (sidecar, service) = in_front(service).await;
    let caller = Caller::connect(&sidecar).await;
    let empty = || Empty::new().boxed_unsync();
    // What is granted is known with the first answer, and heeded once another call was dispatched.
    for _ in 0..2 {
        drop(caller.answer(POLITE, empty()).await);
    }
    let calls: Vec<_> = (0..5).map(|_| caller.send(DEAF, empty())).collect();
    for _ in 0..10 {
        drop(caller.answer(POLITE, empty()).await);
    }
    assert_eq!(service.connections(), 2);
    assert!(calls.iter().all(|call| !call.is_finished()));
}

/// And where there is no other, they wait.
#[tokio::test]
async fn calls_beyond_what_a_service_grants_wait() {
    let service = RawService::granting(USUAL.0, USUAL.1, Some(1)).await;
    let setup = Setup {
        upstream: Some(format!("http://{}", service.address)),
        more: format!("{}\n[limits]\nupstream_connections = 1\n", Setup::default().more),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let caller = Caller::connect(&sidecar).await;
    let empty = || Empty::new().boxed_unsync();
    for _ in 0..2 {
        drop(caller.answer(POLITE, empty()).await);
    }
    for answer in futures_util::future::join_all((0..10).map(|_| caller.answer(POLITE, empty()))).await {
        assert_eq!(answer.headers()["grpc-status"], "0");
    }
    assert_eq!(service.connections(), 1);
}

/// A server that takes 8 KiB of headers may end the connection for a request with many more: that goes over its caller's own.
#[tokio::test]
async fn large_heads_go_over_connections_of_their_callers() {
    let (sidecar, service) = before(USUAL).await;
    let caller = Caller::connect(&sidecar).await;
    for (bytes, connections) in [(100, 1), (2_560, 2), (100, 2)] {
        let request = call(caller.address)
            .uri(format!("http://{}{POLITE}", caller.address))
            .header("authorization", format!("Bearer {}", caller.token))
            .header("x-large", "x".repeat(bytes));
        let request = request.body(Empty::new().boxed_unsync()).expect("a request");
        let answer = within("an answer", caller.sender.clone().send_request(request)).await;
        assert_eq!(answer.expect("an answer").headers()["grpc-status"], "0");
        assert_eq!(service.connections(), connections);
    }
}

/// What comes for calls that their callers gave up ends nobody else's, though thousands of them went over the same connection; and no
/// service is made to end one for so many.
#[tokio::test]
async fn callers_that_go_away_end_nobody_elses_calls() {
    let (sidecar, service) = before(USUAL).await;
    let mut open = Vec::new();
    for _ in 0..8 {
        let other = Caller::connect(&sidecar).await;
        open.push(other.answer(ENDLESS, Empty::new().boxed_unsync()).await);
    }
    assert_eq!(service.connections(), 8);
    let leaving = Caller::connect(&sidecar).await;
    for _ in 0..60 {
        let answers = (0..MANY).map(|_| leaving.answer(ENDLESS, Empty::new().boxed_unsync()));
        drop(futures_util::future::join_all(answers).await);
    }
    still_come(open).await;
    // Each place was given another once, and that waits for the first one's call to end.
    let connections = service.connections();
    assert!((9..=16).contains(&connections), "{connections}");
}

/// Nor calls that they gave up before the service has looked at them, of which it suffers few.
#[tokio::test]
async fn callers_that_do_not_wait_end_nobody_elses_calls() {
    let (sidecar, _service) = before(USUAL).await;
    let mut open = Vec::new();
    for _ in 0..8 {
        let other = Caller::connect(&sidecar).await;
        open.push(other.answer(ENDLESS, Empty::new().boxed_unsync()).await);
    }
    for _ in 0..8 {
        let leaving = Caller::connect(&sidecar).await;
        for _ in 0..10 {
            let calls = (0..MANY).map(|_| leaving.send(DEAF, Empty::new().boxed_unsync()));
            let calls: Vec<_> = calls.collect();
            tokio::task::yield_now().await;
            for call in calls {
                call.abort();
            }
        }
    }
    still_come(open).await;
}

/// Calls that end as they should let their connection be.
#[tokio::test]
async fn calls_that_are_through_leave_the_connection() {
    let (sidecar, service) = before(USUAL).await;
    let caller = Caller::connect(&sidecar).await;
    // As one piece or not: one connection for either.
    for path in [POLITE, TRAILING, MUTE] {
        for _ in 0..150 {
            let body = Full::new(Bytes::from_static(b"small")).boxed_unsync();
            let answer = caller.answer(path, body).await;
            let body = within("a body", answer.into_body().collect()).await;
            body.expect("a whole one");
        }
        assert!(service.connections() <= 2, "{path}");
    }
}

/// Whether all of `answers` go on.
async fn still_come(answers: Vec<Response<Incoming>>) {
    for answer in answers {
        let mut body = answer.into_body();
        for _ in 0..100 {
            let frame = within("a frame", body.frame()).await;
            frame.expect("no end").expect("no error");
        }
    }
}

/// The same in the other direction: callers that do not read stop what is sent to them, and nothing else.
#[tokio::test]
async fn callers_that_do_not_read_stop_only_what_is_sent_to_them() {
    let (sidecar, service) = before(USUAL).await;
    let mut unread = Vec::new();
    let one = Caller::connect(&sidecar).await;
    for n in 0..MANY {
        let caller = if n % 2 == 0 {
            one.clone()
        } else {
            Caller::connect(&sidecar).await
        };
        unread.push(caller.answer(ENDLESS, Empty::new().boxed_unsync()).await);
    }
    let other = Caller::connect(&sidecar).await;
    let given = standstill(&[one, other], || service.given()).await;
    assert!(given < MANY * (1 << 20), "{given} bytes were given");
}

/// The same for the smallest messages, of which thousands are under way. The HTTP/2 layer takes many small frames that nobody reads for
/// an attack, and would end the connection to the service with the calls of everybody.
#[tokio::test]
async fn callers_that_do_not_read_small_messages_end_nobody_elses_calls() {
    let service = RawService::start(USUAL.0, USUAL.1).await;
    // Over which everything goes.
    let setup = Setup {
        upstream: Some(format!("http://{}", service.address)),
        more: format!("{}\n[limits]\nupstream_connections = 1\n", Setup::default().more),
        ..Setup::default()
    };
    let sidecar = Sidecar::with(setup).await;
    let one = Caller::connect(&sidecar).await;
    let mut unread = Vec::new();
    for _ in 0..8 {
        unread.push(one.answer(MURMUR, Empty::new().boxed_unsync()).await);
    }
    standstill(std::slice::from_ref(&one), || service.given()).await;
    assert_eq!(service.connections(), 1);
}

/// An answer without a status is none that a caller could take for good, and is counted so.
#[tokio::test]
async fn an_answer_without_a_status_counts_as_unknown() {
    let (sidecar, _service) = before(USUAL).await;
    let body = Empty::new().boxed_unsync();
    let answer = Caller::connect(&sidecar).await.answer(MUTE, body).await;
    assert!(answer.headers().get("grpc-status").is_none());
    let (_, metrics) = super::admin::get(&sidecar, "/metrics").await;
    let counted = "countersign_requests_total{method=\"/countersign.demo.v1.DemoService/*\",decision=\"allowed\",reason=\"token_verified\",code=\"UNKNOWN\"} 1";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
}
