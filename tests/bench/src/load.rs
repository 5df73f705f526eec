//! Calls, as many as a server takes, over plain HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Failure;
use crate::measure::Samples;
use crate::plain_http2::{EMPTY_MESSAGE, connect};

/// The method called.
pub(crate) const PATH: &str = "/bench.v1.Orders/Get";

/// Connections, and calls at one time on each, when it is about throughput.
const CONNECTIONS: usize = 2;
const STREAMS: usize = 32;

/// Whom to call, and with which token.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
}

impl Target {
    fn request(&self) -> Result<Request<Full<Bytes>>, Failure> {
        let token = bearer(&self.token)?;
        request(self.address, PATH, &token, Bytes::from_static(EMPTY_MESSAGE))
    }

    /// One call after the other, and how long each took.
    pub(crate) async fn one_by_one(&self, calls: u32) -> Result<Samples, Failure> {
        let mut requests = connect(self.address).await?;
        let mut samples = Samples::default();
        for _ in 0..calls {
            let start = Instant::now();
            call(&mut requests, self.request()?).await?;
            samples.push(start.elapsed());
        }
        Ok(samples)
    }

    /// As many calls as go in `lasting`, and how many that were.
    pub(crate) async fn many(&self, lasting: Duration) -> Result<u32, Failure> {
        let end = Instant::now() + lasting;
        let mut callers = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let requests = connect(self.address).await?;
            for _ in 0..STREAMS {
                let (target, mut requests) = (self.clone(), requests.clone());
                callers.spawn(async move {
                    let mut calls = 0_u32;
                    while Instant::now() < end {
                        call(&mut requests, target.request()?).await?;
                        calls += 1;
                    }
                    Ok::<_, Failure>(calls)
                });
            }
        }
        let mut calls = 0;
        while let Some(caller) = callers.join_next().await {
            calls += caller??;
        }
        Ok(calls)
    }
}

/// How calls come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Its name in tables.
    pub(crate) name: &'static str,
    /// Connections.
    pub(crate) connections: u32,
    /// Calls at one time on each.
    pub(crate) streams: u32,
    /// Bytes in the message of a call.
    pub(crate) message: usize,
    /// Calls in a round.
    pub(crate) calls: u32,
}

/// What came of a load.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From the first call's start to the last one's end.
    pub(crate) lasted: Duration,
    /// How long each took.
    pub(crate) latency: Samples,
}

/// Which token a call has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tokens<'a> {
    /// Each a token of its own, in turn.
    InTurn(&'a [String]),
    /// One that is drawn for it: the same for the same call of every round, whoever is called.
    Drawn(&'a [String]),
}

impl Tokens<'_> {
    fn headers(self) -> Result<Vec<HeaderValue>, Failure> {
        let (Self::InTurn(tokens) | Self::Drawn(tokens)) = self;
        tokens.iter().map(|token| bearer(token)).collect()
    }
}

/// Calls `address` as `load` says.
pub(crate) async fn call_with(
    load: Load,
    address: SocketAddr,
    tokens: Tokens<'_>,
) -> Result<Outcome, Failure> {
    let crowd = Arc::new(Crowd {
        address,
        message: framed(load.message)?,
        drawn: matches!(tokens, Tokens::Drawn(_)),
        tokens: tokens.headers()?,
        calls: load.calls,
        begun: AtomicU32::default(),
    });
    let mut callers = JoinSet::new();
    let mut connections = Vec::new();
    for _ in 0..load.connections {
        connections.push(connect(address).await?);
    }
    let start = Instant::now();
    for requests in connections {
        for _ in 0..load.streams {
            callers.spawn(Arc::clone(&crowd).call(requests.clone()));
        }
    }
    let mut latency = Samples::default();
    while let Some(caller) = callers.join_next().await {
        latency.extend(caller??);
    }
    Ok(Outcome {
        lasted: start.elapsed(),
        latency,
    })
}

/// What the callers of one load share.
#[derive(Debug)]
struct Crowd {
    address: SocketAddr,
    message: Bytes,
    tokens: Vec<HeaderValue>,
    drawn: bool,
    calls: u32,
    begun: AtomicU32,
}

impl Crowd {
    /// One call after the other, until all are made, and how long each took.
    async fn call(self: Arc<Self>, mut requests: SendRequest<Full<Bytes>>) -> Result<Samples, Failure> {
        let mut samples = Samples::default();
        loop {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            if number >= self.calls {
                return Ok(samples);
            }
            let start = Instant::now();
            let request = request(self.address, PATH, self.token(number)?, self.message.clone())?;
            call(&mut requests, request).await?;
            samples.push(start.elapsed());
        }
    }

    fn token(&self, number: u32) -> Result<&HeaderValue, Failure> {
        let number = if self.drawn {
            scattered(number)
        } else {
            number.into()
        };
        let index = usize::try_from(number)?.checked_rem(self.tokens.len());
        index
            .and_then(|index| self.tokens.get(index))
            .ok_or_else(|| "there is no token".into())
    }
}

/// A number that looks as if it were drawn, from one that counts (the finalizer of SplitMix64).
fn scattered(number: u32) -> u64 {
    let mixed = u64::from(number)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) >> 1
}

/// A message of so many bytes, framed as gRPC does.
pub(crate) fn framed(message: usize) -> Result<Bytes, Failure> {
    frame(&vec![b'x'; message])
}

/// `message`, framed as gRPC does.
pub(crate) fn frame(message: &[u8]) -> Result<Bytes, Failure> {
    let length = u32::try_from(message.len())?.to_be_bytes();
    Ok([&[0], length.as_slice(), message].concat().into())
}

/// What `authorization` says of a token.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    Ok(HeaderValue::try_from(format!("Bearer {token}"))?)
}

/// A gRPC call of `path`.
pub(crate) fn request(
    address: SocketAddr,
    path: &str,
    token: &HeaderValue,
    message: Bytes,
) -> Result<Request<Full<Bytes>>, Failure> {
    Ok(Request::post(format!("http://{address}{path}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(AUTHORIZATION, token)
        .body(Full::new(message))?)
}

/// One call. Anything but OK is a failure: a bench of refusals would be fast and worthless.
pub(crate) async fn call(
    requests: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<(), Failure> {
    requests.ready().await?;
    let response = requests.send_request(request).await?;
    let status = response.status();
    let in_headers = grpc_status(response.headers());
    let collected = response.into_body().collect().await?;
    let in_trailers = collected.trailers().and_then(grpc_status);
    match in_trailers.or(in_headers).as_deref() {
        Some("0") if status == StatusCode::OK => Ok(()),
        other => Err(format!("a call ended with {status}, grpc-status {other:?}").into()),
    }
}

/// `grpc-status`, where it is.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<String> {
    let status = headers.get("grpc-status")?;
    status.to_str().ok().map(str::to_owned)
}
