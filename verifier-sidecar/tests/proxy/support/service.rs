//! The service behind the sidecar: the demo service, which remembers every request that reaches it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_mtls::{ClientCertificates, Limits, ServerTls, TlsListener};
use countersign_proto::demo::v1::demo_service_server::{DemoService, DemoServiceServer};
use countersign_proto::demo::v1::*;
use countersign_verifier::test_util::SetClock;
use http::HeaderMap;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::pki::Pki;

/// A request as it reached the service.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) authority: String,
    pub(crate) headers: HeaderMap,
}

/// A running service, on a runtime of its own, so that it can be killed with all its connections.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    runtime: Option<Runtime>,
}

impl Service {
    /// Starts a service on a port of its own.
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address")).await
    }

    /// Starts a service on `address`.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let runtime = runtime();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let record = Arc::clone(&seen);
        let bound = runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.expect("bound");
            let address = listener.local_addr().expect("an address");
            serve(TcpListenerStream::new(listener), record);
            address
        });
        Self {
            address: bound.await.expect("no panic"),
            seen,
            runtime: Some(runtime),
        }
    }

    /// Starts a service over TLS, as `name`. Whoever calls it shows a certificate.
    pub(crate) async fn start_tls(pki: &Pki, name: &str) -> Self {
        let clock = SetClock::new();
        let tls = ServerTls::load(&pki.files(name), ClientCertificates::Required, clock).expect("TLS");
        let runtime = runtime();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let record = Arc::clone(&seen);
        let bound = runtime.spawn(async move {
            let any = "127.0.0.1:0".parse().expect("an address");
            let listener = TlsListener::bind(any, tls, Limits::default())
                .await
                .expect("bound");
            let address = listener.local_addr();
            serve(listener, record);
            address
        });
        Self {
            address: bound.await.expect("no panic"),
            seen,
            runtime: Some(runtime),
        }
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }

    /// Kills the service, its connections too.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.expect("a runtime")
}

/// Serves the demo service on `incoming`.
pub(crate) fn serve<I, S, E>(incoming: I, seen: Arc<Mutex<Vec<Seen>>>) -> tokio::task::JoinHandle<()>
where
    I: Stream<Item = Result<S, E>> + Send + 'static,
    S: tokio::io::AsyncRead
        + tokio::io::AsyncWrite
        + tonic::transport::server::Connected
        + Unpin
        + Send
        + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let record = tower::util::MapRequestLayer::new(move |request: http::Request<_>| {
        seen.lock().expect("no panic").push(Seen {
            path: request.uri().path_and_query().expect("a path").to_string(),
            authority: request.uri().authority().expect("an authority").to_string(),
            headers: request.headers().clone(),
        });
        request
    });
    let serving = tonic::transport::Server::builder()
        .layer(record)
        .add_service(DemoServiceServer::new(Demo))
        .serve_with_incoming(incoming);
    tokio::spawn(async move { serving.await.expect("served") })
}

/// The same, for callers of gRPC-Web too.
pub(crate) fn serve_web(incoming: TcpListenerStream, seen: Arc<Mutex<Vec<Seen>>>) {
    let record = tower::util::MapRequestLayer::new(move |request: http::Request<_>| {
        seen.lock().expect("no panic").push(Seen {
            path: request.uri().path().to_owned(),
            authority: String::new(),
            headers: request.headers().clone(),
        });
        request
    });
    let serving = tonic::transport::Server::builder()
        .accept_http1(true)
        .layer(record)
        .layer(tonic_web::GrpcWebLayer::new())
        .add_service(DemoServiceServer::new(Demo))
        .serve_with_incoming(incoming);
    tokio::spawn(async move { serving.await.expect("served") });
}

struct Demo;

/// The reversed message tells that the service has seen it.
fn caller(headers: &tonic::metadata::MetadataMap) -> Caller {
    let text = |name| {
        let value = headers.get(name);
        value
            .map(|value| value.to_str().expect("text").to_owned())
            .unwrap_or_default()
    };
    Caller {
        subject: text("x-countersign-subject"),
        client_id: text("x-countersign-client"),
        scopes: text("x-countersign-scopes")
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        token_id: text("x-countersign-token-id"),
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl DemoService for Demo {
    /// Echoes; `fail` fails with details, `sleep` never answers, `metadata` answers with headers and trailers of its own.
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let caller = caller(request.metadata());
        let message = request.into_inner().message;
        match message.as_str() {
            "fail" => {
                use tonic_types::{ErrorDetails, StatusExt as _};
                let details = ErrorDetails::with_error_info(
                    "TEAPOT",
                    "test.example.com",
                    [("pot".to_owned(), "tea".to_owned())],
                );
                return Err(Status::with_error_details(
                    tonic::Code::DataLoss,
                    "as asked: 100% \u{fc}",
                    details,
                ));
            }
            "sleep" => std::future::pending().await,
            _ => {}
        }
        let mut response = Response::new(EchoResponse {
            message,
            caller: Some(caller),
        });
        response
            .metadata_mut()
            .insert("x-from-service", "yes".parse().expect("a value"));
        response.metadata_mut().insert_bin(
            "x-bytes-bin",
            tonic::metadata::MetadataValue::from_bytes(&[0, 1, 254, 255]),
        );
        Ok(response)
    }

    async fn collect(
        &self,
        request: Request<Streaming<CollectRequest>>,
    ) -> Result<Response<CollectResponse>, Status> {
        let mut parts = request.into_inner();
        let mut messages = Vec::new();
        while let Some(part) = parts.message().await? {
            messages.push(part.message);
        }
        Ok(Response::new(CollectResponse {
            count: u32::try_from(messages.len()).expect("few"),
            message: messages.join(" "),
        }))
    }

    type ExpandStream = Answers<ExpandResponse>;

    /// Answers `count` times; `for ever` goes on slowly.
    async fn expand(&self, request: Request<ExpandRequest>) -> Result<Response<Self::ExpandStream>, Status> {
        let ExpandRequest { message, count } = request.into_inner();
        if message == "for ever" {
            let answers = tokio_stream::iter(0..).map(move |index| {
                Ok(ExpandResponse {
                    message: message.clone(),
                    index,
                })
            });
            return Ok(Response::new(Box::pin(
                answers.throttle(Duration::from_millis(20)),
            )));
        }
        let answers = (0..count).map(move |index| {
            Ok(ExpandResponse {
                message: message.clone(),
                index,
            })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    type ChatStream = Answers<ChatResponse>;

    /// Answers each message; `fail` ends with an error after the answers so far.
    async fn chat(
        &self,
        request: Request<Streaming<ChatRequest>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        let mut index = 0;
        let answers = request.into_inner().map(move |message| {
            let message = message?.message;
            if message == "fail" {
                return Err(Status::out_of_range("as asked"));
            }
            index += 1;
            Ok(ChatResponse {
                message,
                index: index - 1,
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
