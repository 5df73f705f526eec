//! Requests that no gRPC library sends: any method, any headers, and frames made by hand.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::ECHO;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    /// The gRPC status, wherever it is.
    pub(crate) fn grpc_status(&self) -> Option<i32> {
        let trailer = self
            .trailers
            .as_ref()
            .and_then(|trailers| trailers.get("grpc-status"));
        let status = self.headers.get("grpc-status").or(trailer)?;
        status.to_str().ok()?.parse().ok()
    }

    /// The stable reason in the error details.
    pub(crate) fn reason(&self) -> String {
        let status = tonic::Status::from_header_map(&self.headers).expect("a status");
        super::reason(&status)
    }
}

/// A request that is as it should be, apart from the token that it lacks.
pub(crate) fn call(address: SocketAddr) -> http::request::Builder {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}{ECHO}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// One message in its envelope.
pub(crate) fn envelope(message: &impl prost::Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("short");
    [&[0][..], &length.to_be_bytes(), &message].concat().into()
}

/// Sends `request` over a connection of its own.
pub(crate) async fn send(
    address: SocketAddr,
    request: http::request::Builder,
    body: Bytes,
) -> Result<Answer, hyper::Error> {
    let stream = TcpStream::connect(address).await.expect("connected");
    send_over(stream, request, body).await
}

/// Sends `request` over `stream`.
pub(crate) async fn send_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::request::Builder,
    body: Bytes,
) -> Result<Answer, hyper::Error> {
    let request = request.body(Full::new(body)).expect("a request");
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (parts, body) = Response::into_parts(response);
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    connection.abort();
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body: collected.to_bytes(),
        trailers,
    })
}

/// Sends `request` with `body`, of which it does not say how long it is, and gives what is answered.
pub(crate) async fn send_streamed(
    address: SocketAddr,
    request: http::request::Builder,
    body: &'static str,
) -> String {
    let stream = TcpStream::connect(address).await.expect("connected");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("begun");
    tokio::spawn(connection);
    let pieces = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(
        body.as_bytes(),
    )))]);
    let request = request.body(StreamBody::new(pieces)).expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let whole = response.into_body().collect().await.expect("to its end");
    String::from_utf8(whole.to_bytes().into()).expect("text")
}

/// What a hand-made request led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A header block on the stream.
    Answered,
    /// The stream was reset.
    Reset,
    /// The connection was ended.
    Closed,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The beginning of a connection.
pub(crate) fn preface() -> Vec<u8> {
    [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(SETTINGS, 0, 0, &[]),
    ]
    .concat()
}

/// A header list, each field a literal without indexing (RFC 7541, section 6.2.2).
fn header_block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            write_length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

fn write_length(block: &mut Vec<u8>, length: usize) {
    if let Ok(short) = u8::try_from(length)
        && short < 127
    {
        block.push(short);
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).expect("small") | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).expect("small"));
}

/// The fields of a good call without a token.
pub(crate) const GOOD: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":path", ECHO),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
];

/// A request of which all is there at once.
pub(crate) fn whole(stream: u32, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let headers = frame(HEADERS, 0x4, stream, &header_block(fields));
    [headers, frame(DATA, 0x1, stream, body)].concat()
}

/// Sends a request of exactly these fields, whatever they are.
pub(crate) async fn send_fields(address: SocketAddr, fields: &[(&str, &str)]) -> Outcome {
    let request = frame(HEADERS, 0x4 | 0x1, 1, &header_block(fields));
    send_first(address, &request).await
}

/// Sends the frames of the first request of a connection.
pub(crate) async fn send_first(address: SocketAddr, request: &[u8]) -> Outcome {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream
        .write_all(&[&preface(), request].concat())
        .await
        .expect("written");
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return Outcome::Closed;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("small")];
        if stream.read_exact(&mut payload).await.is_err() {
            return Outcome::Closed;
        }
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match (head[3], id) {
            (HEADERS, 1) => return Outcome::Answered,
            (RST_STREAM, 1) => return Outcome::Reset,
            (GOAWAY, _) => return Outcome::Closed,
            _ => {}
        }
    }
}
