//! gRPC calls below any client library: header values of any bytes, any number of them.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// One message without fields, framed.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// A connection.
#[derive(Debug)]
pub struct Connection {
    requests: SendRequest<Full<Bytes>>,
    authority: String,
}

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The gRPC code.
    pub code: Code,
    /// The reason in the status, as it stands in metrics. Empty when there is none.
    pub reason: String,
    /// The claim that the reason is about.
    pub claim: Option<String>,
}

impl Connection {
    /// Speaks HTTP/2 over `stream` to `authority`.
    ///
    /// # Panics
    /// When the other side does not.
    pub async fn over<S>(stream: S, authority: &str) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("the other side speaks HTTP/2");
        // Ends with the connection; why it ended, the calls on it tell.
        tokio::spawn(async move { drop(connection.await) });
        Self {
            requests,
            authority: authority.to_owned(),
        }
    }

    /// Calls `path` with one empty message and these `authorization` fields.
    ///
    /// # Panics
    /// When no response comes, or one that is no gRPC.
    pub async fn call(&self, path: &str, authorization: &[Vec<u8>]) -> Answer {
        let mut request = Request::post(format!("http://{}{path}", self.authority))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Full::new(Bytes::from_static(EMPTY_MESSAGE)))
            .expect("a request");
        for value in authorization {
            let value = HeaderValue::from_bytes(value).expect("bytes that HTTP/2 can carry");
            request.headers_mut().append(AUTHORIZATION, value);
        }
        let mut requests = self.requests.clone();
        requests.ready().await.expect("the connection is open");
        let response = requests.send_request(request).await.expect("a response");
        let (head, body) = response.into_parts();
        let trailers = body
            .collect()
            .await
            .expect("a whole response")
            .trailers()
            .cloned();
        answer(&head.headers, trailers.as_ref())
    }
}

fn answer(headers: &HeaderMap, trailers: Option<&HeaderMap>) -> Answer {
    let status = Status::from_header_map(headers)
        .or_else(|| Status::from_header_map(trailers?))
        .expect("a gRPC status");
    let info = status.get_details_error_info();
    let entry = |name: &str| info.as_ref().and_then(|info| info.metadata.get(name).cloned());
    Answer {
        code: status.code(),
        reason: entry("reason").unwrap_or_default(),
        claim: entry("claim"),
    }
}
