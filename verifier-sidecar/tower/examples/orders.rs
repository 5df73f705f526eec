//! A service that verifies its callers itself: `DemoService.Echo` behind the layer.
//!
//! ```sh
//! cargo run --release -p countersign-tower --example orders -- DEV_FOLDER 127.0.0.1:8443 127.0.0.1:50051
//! ```
//!
//! `DEV_FOLDER` holds what `countersign dev` made, and the first address is where its authority is; `docs/embedding.md` goes through it.

use std::error::Error;
use std::path::PathBuf;
use std::pin::Pin;

use countersign_proto::demo::v1::demo_service_server::{DemoService, DemoServiceServer};
use countersign_proto::demo::v1::{
    Caller, ChatRequest, ChatResponse, CollectRequest, CollectResponse, EchoRequest, EchoResponse,
    ExpandRequest, ExpandResponse,
};
use countersign_tower::{Embedded, Methods, Requirement, VerifiedToken};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// Answers.
#[derive(Debug)]
struct Orders;

/// Who called, as the layer left it in the request.
fn caller<T>(request: &Request<T>) -> Option<Caller> {
    let claims = request.extensions().get::<VerifiedToken>()?.claims();
    Some(Caller {
        subject: claims.subject.to_string(),
        client_id: claims.client_id.to_string(),
        scopes: claims.scopes.iter().map(ToString::to_string).collect(),
        token_id: claims.token_id.to_string(),
    })
}

#[tonic::async_trait]
impl DemoService for Orders {
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let caller = caller(&request);
        let message = request.into_inner().message;
        Ok(Response::new(EchoResponse { message, caller }))
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
            count: u32::try_from(messages.len()).unwrap_or(u32::MAX),
            message: messages.join(" "),
        }))
    }

    type ExpandStream = Pin<Box<dyn Stream<Item = Result<ExpandResponse, Status>> + Send>>;

    async fn expand(&self, request: Request<ExpandRequest>) -> Result<Response<Self::ExpandStream>, Status> {
        let request = request.into_inner();
        let message = request.message;
        let answers = (0..request.count.min(1_000_000)).map(move |index| {
            Ok(ExpandResponse {
                message: message.clone(),
                index,
            })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    type ChatStream = Pin<Box<dyn Stream<Item = Result<ChatResponse, Status>> + Send>>;

    async fn chat(
        &self,
        request: Request<Streaming<ChatRequest>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        let mut index = 0;
        let answers = request.into_inner().map(move |message| {
            let message = message?.message;
            let answer = ChatResponse { message, index };
            index += 1;
            Ok(answer)
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, authority, address] = &arguments[..] else {
        return Err("orders DEV_FOLDER AUTHORITY ADDRESS".into());
    };
    let folder = PathBuf::from(folder);
    let pki = folder.join("pki");
    let methods = Methods::default().open("/grpc.health.v1.Health/*").protect(
        "/countersign.demo.v1.DemoService/*",
        Requirement::scope("demo.call"),
    );
    let countersign = Embedded::builder()
        .issuer("https://dev.countersign.test")
        .trust_domain("dev.countersign.test")
        .audience("demo")
        .authority(
            format!("https://{authority}"),
            "spiffe://dev.countersign.test/countersign/authority",
        )
        .certificate(
            pki.join("sidecar.pem"),
            pki.join("sidecar-key.pem"),
            pki.join("ca.pem"),
        )
        .publishing_keys(folder.join("publishing-keys.json"))
        .state_dir(folder.join("orders-trust"))
        .methods(methods)
        .start()
        .await?;

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<DemoServiceServer<Orders>>().await;
    tonic::transport::Server::builder()
        .layer(countersign.layer().disclose_reasons())
        .add_service(DemoServiceServer::new(Orders))
        .add_service(health_service)
        .serve_with_shutdown(address.parse()?, async {
            // Without a signal there is nothing to wait for but the end.
            let _signal = tokio::signal::ctrl_c().await;
        })
        .await?;
    countersign.stop().await;
    Ok(())
}
