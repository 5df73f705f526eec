//! Envoy's questions (`envoy.service.auth.v3`) to the sidecar, against the same to a tonic server that decides nothing.

use countersign_proto::envoy::config::core::v3::{Address, HeaderMap, HeaderValue, SocketAddress};
use countersign_proto::envoy::config::core::v3::{address, socket_address};
use countersign_proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use countersign_proto::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use countersign_proto::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use countersign_proto::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use prost::Message as _;
use serde::Serialize;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};

use super::h2load::Asked;
use super::results::{Rounds, Served};
use super::{FULL, Run, scaled};
use crate::child::Child;
use crate::load::{PATH, frame};
use crate::program::scheduled;
use crate::{Failure, cores};

/// The method that Envoy calls.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// One question, again and again, to both.
#[derive(Debug)]
pub(super) struct Questions {
    nobody: Child,
    ours: Rounds,
    theirs: Rounds,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Answered {
    pub(super) ours: Served,
    /// A tonic server of the same rpc, which answers the same to everything.
    pub(super) nothing_decided: Served,
    /// Ours by the other one.
    pub(super) calls_per_cpu_second: f64,
    pub(super) calls_per_second: f64,
}

impl Questions {
    /// Starts who decides nothing.
    pub(super) fn start(run: &Run<'_>) -> Result<Self, Failure> {
        let questions = Self {
            nobody: Child::start_on(cores::SERVER, "no-check", &[])?,
            ours: Rounds::default(),
            theirs: Rounds::default(),
        };
        questions.judged(run)?;
        Ok(questions)
    }

    /// One load on each.
    pub(super) fn round(&mut self, run: &Run<'_>) -> Result<(), Failure> {
        let load = scaled(FULL, run.scale);
        let answerer = &run.stage.answerer;
        let body = frame(&question(&run.stage.token).encode_to_vec())?;
        for (process, address, rounds) in [
            (self.nobody.id(), self.nobody.address, &mut self.theirs),
            (answerer.process, answerer.ext_authz, &mut self.ours),
        ] {
            let used = scheduled(process)?;
            let asked = Asked {
                address,
                path: CHECK,
                token: None,
                body: &body,
            };
            let outcome = run.h2load.call(load, asked)?;
            rounds.push(outcome, scheduled(process)?.since(used));
        }
        // h2load does not read answers.
        self.judged(run)
    }

    /// Sees that ours allows what is asked, and denies the same with another signature.
    fn judged(&self, run: &Run<'_>) -> Result<(), Failure> {
        let token = &run.stage.token;
        let forged: String = token.chars().rev().collect();
        run.runtime.block_on(async {
            let uri = format!("http://{}", run.stage.answerer.ext_authz);
            let channel = Endpoint::from_shared(uri)?.connect().await?;
            let mut client = AuthorizationClient::new(channel);
            for (token, good) in [(token, true), (&forged, false)] {
                let answer = client.check(question(token)).await?.into_inner();
                if answer.status.is_some_and(|status| status.code == 0) != good {
                    return Err(format!("ext_authz does not answer {good} to a token that is {good}").into());
                }
            }
            Ok(())
        })
    }

    pub(super) fn answered(&self) -> Answered {
        let [ours, nothing_decided] = [&self.ours, &self.theirs].map(Rounds::served);
        Answered {
            calls_per_cpu_second: nothing_decided.cpu_us_per_call / ours.cpu_us_per_call,
            calls_per_second: ours.calls_per_second / nothing_decided.calls_per_second,
            ours,
            nothing_decided,
        }
    }
}

/// As Envoy asks about a call of ours with `encode_raw_headers`.
fn question(token: &str) -> CheckRequest {
    let authorization = format!("Bearer {token}");
    let headers = [
        (":authority", "orders.bench.example"),
        (":path", PATH),
        (":method", "POST"),
        (":scheme", "http"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "h2load nghttp2"),
        ("authorization", &authorization),
        ("x-forwarded-proto", "http"),
    ];
    let headers = headers.map(|(name, value)| HeaderValue {
        key: name.to_owned(),
        value: String::new(),
        raw_value: value.as_bytes().to_vec().into(),
    });
    let http = HttpRequest {
        method: "POST".to_owned(),
        path: PATH.to_owned(),
        host: "orders.bench.example".to_owned(),
        header_map: Some(HeaderMap {
            headers: headers.to_vec(),
        }),
        ..HttpRequest::default()
    };
    let address = SocketAddress {
        address: "127.0.0.1".to_owned(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(40_000)),
    };
    let source = Peer {
        address: Some(Address {
            address: Some(address::Address::SocketAddress(address)),
        }),
        ..Peer::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(source),
            request: Some(Request { http: Some(http) }),
        }),
    }
}

/// Allows everything.
struct Nothing;

#[tonic::async_trait]
impl Authorization for Nothing {
    async fn check(
        &self,
        _request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        Ok(tonic::Response::new(CheckResponse::default()))
    }
}

/// In the child: the floor, until the parent has gone.
pub(crate) async fn serve_nothing(listener: TcpListener) -> Result<(), Failure> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .add_service(AuthorizationServer::new(Nothing))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
