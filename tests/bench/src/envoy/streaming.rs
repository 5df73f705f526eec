//! One call that is answered with a million messages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use serde::Serialize;
use tokio::time::Instant;

use super::Run;
use super::peers::{BARE, NEAREST, OURS, ROUTER};
use super::results::{Figures, Holding};
use crate::Failure;
use crate::load::{bearer, grpc_status, request};
use crate::measure::{float, micros};
use crate::plain_http2::{EMPTY_MESSAGE, MESSAGE_BYTES, MESSAGES, STREAM_PATH, connect};
use crate::program::{Memory, Scheduled};

/// Who of the proxies takes part.
const PROXIES: [&str; 4] = [OURS, BARE, ROUTER, NEAREST];

/// Where there is no proxy.
const DIRECT: &str = "direct";

/// What was measured, by server.
#[derive(Debug, Default)]
pub(super) struct Streaming(BTreeMap<&'static str, Stream>);

#[derive(Debug, Default)]
struct Stream {
    what: &'static str,
    messages_per_second: Figures,
    cpu_us_per_message: Figures,
    cpu_share: Figures,
    waited_share: Figures,
    most: Memory,
}

/// What one server did.
#[derive(Debug, Serialize)]
pub(super) struct Streamed {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) messages_per_second: f64,
    pub(super) cpu_us_per_message: f64,
    pub(super) cpu_share: f64,
    pub(super) waited_share: f64,
    pub(super) resident_most: Holding,
}

impl Streaming {
    /// One answer of `count` messages from each of them, and from the service itself.
    pub(super) fn round(&mut self, run: &mut Run<'_>, count: u32) -> Result<(), Failure> {
        let token = run.stage.token.clone();
        let service = run.stage.service.address;
        let lasted = run.runtime.block_on(read(service, &token, count))?;
        let direct = self.0.entry(DIRECT).or_default();
        direct.what = "no proxy";
        direct.push(count, lasted, Scheduled::default());
        for peer in &mut run.stage.peers {
            if !PROXIES.contains(&peer.name) {
                continue;
            }
            peer.forget_most()?;
            let used = peer.scheduled()?;
            let lasted = run
                .runtime
                .block_on(read(peer.address, &token, count))
                .map_err(|error| format!("{}: {error}", peer.name))?;
            let used = peer.scheduled()?.since(used);
            let stream = self.0.entry(peer.name).or_default();
            stream.what = peer.what;
            stream.push(count, lasted, used);
            stream.most = stream.most.or(peer.most_now()?);
        }
        run.stage.peers.rotate_left(1);
        Ok(())
    }

    pub(super) fn streamed(&self) -> Vec<Streamed> {
        let of = |(name, stream): (&&'static str, &Stream)| Streamed {
            name,
            what: stream.what,
            messages_per_second: stream.messages_per_second.median(),
            cpu_us_per_message: stream.cpu_us_per_message.median(),
            cpu_share: stream.cpu_share.median(),
            waited_share: stream.waited_share.median(),
            resident_most: stream.most.into(),
        };
        self.0.iter().map(of).collect()
    }
}

impl Stream {
    fn push(&mut self, count: u32, lasted: Duration, used: Scheduled) {
        let share = |part: Duration| part.as_secs_f64() / lasted.as_secs_f64();
        self.messages_per_second.push(float(count) / lasted.as_secs_f64());
        self.cpu_us_per_message.push(micros(used.ran) / float(count));
        self.cpu_share.push(share(used.ran));
        self.waited_share.push(share(used.waited));
    }
}

/// Calls `address`, and reads the answer to its end.
async fn read(address: SocketAddr, token: &str, count: u32) -> Result<Duration, Failure> {
    let mut requests: SendRequest<Full<Bytes>> = connect(address).await?;
    let message = Bytes::from_static(EMPTY_MESSAGE);
    let mut request = request(address, STREAM_PATH, &bearer(token)?, message)?;
    request.headers_mut().insert(MESSAGES, count.into());
    let start = Instant::now();
    let response = requests.send_request(request).await?;
    let status = response.status();
    let mut body = response.into_body();
    let (mut bytes, mut ended) = (0, None);
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => bytes += data.len(),
            Err(last) => ended = last.trailers_ref().and_then(grpc_status),
        }
    }
    let lasted = start.elapsed();
    if status != StatusCode::OK || ended.as_deref() != Some("0") {
        return Err(format!("the stream ended with {status}, grpc-status {ended:?}").into());
    }
    if bytes != MESSAGE_BYTES * usize::try_from(count)? {
        return Err(format!("{bytes} bytes are not {count} messages").into());
    }
    Ok(lasted)
}
