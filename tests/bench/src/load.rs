//! Calls, as many as a server takes, over plain HTTP/2.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE};
use http::{HeaderMap, Request, StatusCode};
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
        Ok(Request::post(format!("http://{}{PATH}", self.address))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .body(Full::new(Bytes::from_static(EMPTY_MESSAGE)))?)
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

/// One call. Anything but OK is a failure: a bench of refusals would be fast and worthless.
async fn call(requests: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Result<(), Failure> {
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

fn grpc_status(headers: &HeaderMap) -> Option<String> {
    let status = headers.get("grpc-status")?;
    status.to_str().ok().map(str::to_owned)
}
