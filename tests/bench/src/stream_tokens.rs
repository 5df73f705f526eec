//! A newer token for a stream that is open, presented beside it, against opening the stream anew.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio::time::Instant;

use crate::Failure;
use crate::child::Child;
use crate::load::{bearer, call, request};
use crate::measure::{Samples, Scale, micros, rate};
use crate::plain_http2::{EMPTY_MESSAGE, HELD_PATH, connect};
use crate::report::{Comparison, Measured};

const PRESENT: &str = "/countersign.stream.v1.StreamTokenService/Present";
const STREAM_ID: HeaderName = HeaderName::from_static("x-countersign-stream-id");

/// Open at any time, on one connection.
const STREAMS: u32 = 100;

/// One caller of one sidecar, and its open streams.
#[derive(Debug)]
struct Caller {
    sidecar: Child,
    service: Child,
    token: HeaderValue,
    requests: SendRequest<Full<Bytes>>,
    open: Vec<Response<Incoming>>,
}

/// What one of the two ways cost.
#[derive(Debug, Default)]
struct Way {
    streams: u32,
    used: Duration,
    latency: Samples,
    calls_to_service: u64,
}

impl Way {
    fn per_cpu_second(&self) -> f64 {
        rate(self.streams, self.used)
    }

    fn cpu_us(&self) -> f64 {
        1e6 / self.per_cpu_second()
    }

    fn calls_for_each(&self) -> f64 {
        crate::measure::float(self.calls_to_service) / f64::from(self.streams)
    }
}

/// Both ways, in rounds that take turns.
pub(crate) fn stream_tokens(scale: Scale) -> Result<Comparison, Failure> {
    let runtime = countersign_runtime::build(1)?;
    let mut caller = runtime.block_on(Caller::new())?;
    let (mut presented, mut reopened) = (Way::default(), Way::default());
    for _ in 0..5 {
        let count = scale.of(5_000).max(STREAMS);
        runtime.block_on(caller.measure(&mut reopened, count, Caller::reopen))?;
        runtime.block_on(caller.measure(&mut presented, count, Caller::present))?;
    }
    Ok(comparison(&mut presented, &mut reopened))
}

impl Caller {
    async fn new() -> Result<Self, Failure> {
        let service = Child::start("upstream", &[], None)?;
        let behind = ["--upstream".to_owned(), service.address.to_string()];
        let sidecar = Child::start("sidecar", &behind, None)?;
        let token = sidecar.token.as_deref().ok_or("the sidecar gives no token")?;
        let mut caller = Self {
            token: bearer(token)?,
            requests: connect(sidecar.address).await?,
            open: Vec::new(),
            sidecar,
            service,
        };
        for number in 0..STREAMS {
            let stream = caller.opened(number).await?;
            caller.open.push(stream);
        }
        Ok(caller)
    }

    async fn measure(
        &mut self,
        way: &mut Way,
        count: u32,
        give: impl AsyncFn(&mut Self, u32) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (used, calls) = (self.sidecar.cpu()?, self.service.calls()?);
        for number in 0..count {
            let start = Instant::now();
            give(self, number % STREAMS).await?;
            way.latency.push(start.elapsed());
        }
        way.streams += count;
        way.used += self.sidecar.cpu()?.saturating_sub(used);
        way.calls_to_service += self.service.calls()?.saturating_sub(calls);
        Ok(())
    }

    /// Presents the token for a stream.
    async fn present(&mut self, number: u32) -> Result<(), Failure> {
        let request = self.request(PRESENT, number)?;
        call(&mut self.requests, request).await
    }

    /// Ends a stream, and opens it again with the token.
    async fn reopen(&mut self, number: u32) -> Result<(), Failure> {
        let again = self.opened(number).await?;
        let place = self.open.get_mut(usize::try_from(number)?);
        // What is dropped is cancelled.
        *place.ok_or("there is no such stream")? = again;
        Ok(())
    }

    /// A stream that the service has answered, and keeps open.
    async fn opened(&mut self, number: u32) -> Result<Response<Incoming>, Failure> {
        let request = self.request(HELD_PATH, number)?;
        self.requests.ready().await?;
        let response = self.requests.send_request(request).await?;
        let refused = response.headers().get("grpc-status");
        match (response.status(), refused) {
            (StatusCode::OK, None) => Ok(response),
            (status, refused) => Err(format!("no stream: {status}, grpc-status {refused:?}").into()),
        }
    }

    fn request(&self, path: &str, number: u32) -> Result<Request<Full<Bytes>>, Failure> {
        let message = Bytes::from_static(EMPTY_MESSAGE);
        let mut request = request(self.sidecar.address, path, &self.token, message)?;
        let name = HeaderValue::try_from(format!("feed-{number}"))?;
        request.headers_mut().insert(STREAM_ID, name);
        Ok(request)
    }
}

fn comparison(presented: &mut Way, reopened: &mut Way) -> Comparison {
    Comparison {
        name: "stream-tokens",
        floor: Measured {
            what: "streams that are opened anew, per CPU-second of the sidecar".to_owned(),
            value: reopened.per_cpu_second(),
            unit: "streams/CPU-s",
        },
        ours: Measured {
            what: "streams for which a token is presented, per CPU-second of the sidecar".to_owned(),
            value: presented.per_cpu_second(),
            unit: "streams/CPU-s",
        },
        ratio: presented.per_cpu_second() / reopened.per_cpu_second(),
        target: "none yet",
        met: None,
        details: BTreeMap::from([
            ("presented_cpu_us", presented.cpu_us()),
            ("reopened_cpu_us", reopened.cpu_us()),
            ("presented_p50_us", micros(presented.latency.percentile(500))),
            ("reopened_p50_us", micros(reopened.latency.percentile(500))),
            ("presented_calls_to_the_service", presented.calls_for_each()),
            ("reopened_calls_to_the_service", reopened.calls_for_each()),
        ]),
    }
}
