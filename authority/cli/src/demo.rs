//! A gRPC service to try things on, as it would run behind a sidecar: plaintext HTTP/2 on loopback, no authentication of its
//! own. It shows what the sidecar says of the caller.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use countersign_proto::demo::v1;
use countersign_proto::demo::v1::demo_service_server::{DemoService, DemoServiceServer};
use countersign_runtime::busy::retry_while_busy;
use countersign_runtime::trace_context::ServerLayer;
use countersign_wire::{reflection, status};
use futures_util::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// The service's name.
pub const SERVICE: &str = "countersign.demo.v1.DemoService";

/// Its unary method.
pub const METHOD: &str = "Echo";

/// The most answers of one call, as the contract says.
const MOST_ANSWERS: u32 = 1_000_000;

/// The most parts that are collected.
const MOST_PARTS: u32 = 10_000;

/// The longest text that is collected, in bytes.
const LONGEST_TEXT: usize = 64 * 1024;

/// What one call may have under way.
const STREAMS_PER_CONNECTION: u32 = 1024;

/// The service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demo;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl DemoService for Demo {
    async fn echo(&self, request: Request<v1::EchoRequest>) -> Result<Response<v1::EchoResponse>, Status> {
        let caller = Some(caller(request.metadata()));
        tracing::info!(traceparent = traceparent(request.metadata()), "echo");
        let message = request.into_inner().message;
        Ok(Response::new(v1::EchoResponse { message, caller }))
    }

    async fn collect(
        &self,
        request: Request<Streaming<v1::CollectRequest>>,
    ) -> Result<Response<v1::CollectResponse>, Status> {
        let mut parts = request.into_inner();
        let mut collected = v1::CollectResponse::default();
        while let Some(part) = parts.message().await? {
            if collected.count == MOST_PARTS || collected.message.len() + part.message.len() > LONGEST_TEXT {
                return Err(status::invalid("message", "more is sent than is collected"));
            }
            if collected.count > 0 {
                collected.message.push(' ');
            }
            collected.message.push_str(&part.message);
            collected.count += 1;
        }
        Ok(Response::new(collected))
    }

    type ExpandStream = Answers<v1::ExpandResponse>;

    async fn expand(
        &self,
        request: Request<v1::ExpandRequest>,
    ) -> Result<Response<Self::ExpandStream>, Status> {
        let v1::ExpandRequest { message, count } = request.into_inner();
        if count > MOST_ANSWERS {
            return Err(status::invalid("count", "at most 1000000 answers are given"));
        }
        let answers = (0..count).map(move |index| {
            Ok(v1::ExpandResponse {
                message: message.clone(),
                index,
            })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    type ChatStream = Answers<v1::ChatResponse>;

    async fn chat(
        &self,
        request: Request<Streaming<v1::ChatRequest>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        let answers = request.into_inner().zip(futures_util::stream::iter(0..)).map(
            |(message, index): (Result<v1::ChatRequest, Status>, u32)| {
                message.map(|v1::ChatRequest { message }| v1::ChatResponse { message, index })
            },
        );
        Ok(Response::new(Box::pin(answers)))
    }
}

/// What the sidecar says of the caller.
fn caller(metadata: &MetadataMap) -> v1::Caller {
    let field = |name: &str| {
        metadata
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    v1::Caller {
        subject: field("x-countersign-subject").to_owned(),
        client_id: field("x-countersign-client").to_owned(),
        scopes: field("x-countersign-scopes")
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect(),
        token_id: field("x-countersign-token-id").to_owned(),
    }
}

fn traceparent(metadata: &MetadataMap) -> Option<&str> {
    metadata.get("traceparent").and_then(|value| value.to_str().ok())
}

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// It is for loopback only, because it authenticates nobody.
    #[error("`{0}` is not a loopback address: the demo service authenticates nobody")]
    NotLoopback(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen on `{0}`")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// Reflection cannot be offered.
    #[error("reflection cannot be offered")]
    Reflection(#[from] reflection::Error),
    /// Serving failed.
    #[error("the server failed")]
    Serve(#[from] tonic::transport::Error),
}

/// Listens on `address`, which a predecessor may still be letting go of.
///
/// # Errors
/// [`DemoError::NotLoopback`], [`DemoError::Listen`].
pub async fn listen(address: SocketAddr) -> Result<TcpListener, DemoError> {
    if !address.ip().is_loopback() {
        return Err(DemoError::NotLoopback(address));
    }
    let binding = retry_while_busy(address, async || TcpListener::bind(address).await);
    binding.await.map_err(|error| DemoError::Listen(address, error))
}

/// Serves until `shutdown`, then until the calls that are open have ended.
///
/// # Errors
/// [`DemoError`].
pub async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<(), DemoError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<DemoServiceServer<Demo>>().await;
    let routes = Routes::new(DemoServiceServer::new(Demo)).add_service(health);
    let routes = reflection::add(routes, &[SERVICE])?;
    let incoming = TcpListenerStream::new(listener).map(|accepted| {
        accepted.inspect(|stream| {
            // Without it a call waits for the peer's delayed acknowledgement; a stream that cannot is slow, not wrong.
            let _slow = stream.set_nodelay(true);
        })
    });
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .layer(ServerLayer)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, shutdown)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
