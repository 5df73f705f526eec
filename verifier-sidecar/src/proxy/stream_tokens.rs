//! The one method that the proxy serves itself: a caller presents a newer token for streams that are open
//! (`countersign.stream.v1`).
//!
//! What is asked is in the headers, and is judged before the body is looked at.

use countersign_core::requirements::MethodPath;
use countersign_core::{Rejection, bearer};
use countersign_proto::stream::v1::stream_token_service_server::{
    StreamTokenService, StreamTokenServiceServer,
};
use countersign_proto::stream::v1::{PresentRequest, PresentResponse};
use countersign_verifier::renewal::{NotTaken, StreamId, Taken};
use countersign_wire::status::{self, Failure};
use countersign_wire::{MAX_REQUEST_LENGTH, write_time};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt as _;

use super::respond::Refusal;
use super::service::Proxy;
use crate::refusal_log::Refused;
use crate::server::listener::Peer;

/// The method's path.
pub(crate) const PRESENT: &str = "/countersign.stream.v1.StreamTokenService/Present";

impl Proxy {
    /// Takes the token in the headers of `parts` for the streams that they name, and answers `method`, which is [`PRESENT`].
    pub(super) async fn present(
        &self,
        parts: Parts,
        body: Incoming,
        method: MethodPath<'_>,
        peer: &Peer,
    ) -> Result<Response<Body>, Refusal> {
        let taken = self.take(&parts, method, peer)?;
        let service = StreamTokenServiceServer::new(Presented(taken));
        let service = service.max_decoding_message_size(MAX_REQUEST_LENGTH);
        let answer = service.oneshot(Request::from_parts(parts, body)).await;
        Ok(answer.unwrap_or_else(|impossible| match impossible {}))
    }

    fn take(&self, parts: &Parts, method: MethodPath<'_>, peer: &Peer) -> Result<Taken, Refusal> {
        let id = StreamId::read(&parts.headers).and_then(|id| id.ok_or(Rejection::RequestMalformed));
        let id = id.map_err(|bad| self.malformed(bad.into(), peer))?;
        let fields = parts.headers.get_all(AUTHORIZATION);
        let token = bearer::from_authorization(fields.iter().map(HeaderValue::as_bytes));
        let now = self.verifier.trust().now().ok();
        let certificate = now.and_then(|now| peer.certificate(now));
        match self
            .renewals
            .present(&self.verifier, token, certificate.as_ref(), &id)
        {
            Ok(taken) => Ok(taken),
            Err(NotTaken::StreamUnknown) => Err(Failure::StreamUnknown.into()),
            Err(NotTaken::Denied(denied)) => {
                self.log.tell(&Refused {
                    denied: &denied,
                    method: Some(method),
                    remote: peer.remote,
                    epoch: self.verifier.trust().epoch(),
                });
                Err(denied.into())
            }
        }
    }
}

/// A token that was taken: all that is left is to say so.
#[derive(Clone, Copy, Debug)]
struct Presented(Taken);

#[tonic::async_trait]
impl StreamTokenService for Presented {
    async fn present(
        &self,
        _request: tonic::Request<PresentRequest>,
    ) -> Result<tonic::Response<PresentResponse>, Status> {
        let streams = u32::try_from(self.0.streams).map_err(|_many| status::failed(Failure::Internal))?;
        Ok(tonic::Response::new(PresentResponse {
            streams,
            expires_at: Some(write_time(self.0.expires_at)),
        }))
    }
}
