//! Calls: to the authority as an operator and as a client, and through a sidecar.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use countersign_core::ports::Clock as _;
use countersign_mtls::{ChannelOptions, ClientTls, ExpectedServer, TlsFiles};
use countersign_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use countersign_proto::admin::v1::revoke_request::Subject;
use countersign_proto::admin::v1::{EpochReach, RevokeRequest};
use countersign_proto::demo::v1::demo_service_client::DemoServiceClient;
use countersign_proto::demo::v1::{CollectRequest, EchoRequest, ExpandRequest};
use countersign_proto::token::v1::IssueTokenRequest;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use countersign_runtime::SystemClock;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

/// How long a call may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the authority is, and who asks.
#[derive(Debug, Args)]
pub(crate) struct AuthorityArguments {
    /// Its address, `host:port`.
    #[arg(long)]
    authority: String,
    /// The folder with the certificates of a development environment.
    #[arg(long)]
    pki: PathBuf,
    /// The client that gets tokens.
    #[arg(long)]
    client: String,
    /// The file with its secret.
    #[arg(long)]
    secret_file: PathBuf,
    /// What the tokens are for.
    #[arg(long)]
    audience: String,
}

/// A connection to the authority.
#[derive(Debug)]
pub(crate) struct Authority {
    tokens: TokenServiceClient<Channel>,
    revocations: RevocationServiceClient<Channel>,
    request: IssueTokenRequest,
}

impl AuthorityArguments {
    /// Connects when it is first used.
    pub(crate) fn open(&self) -> Authority {
        let secret = std::fs::read_to_string(&self.secret_file).expect("a secret");
        Authority {
            tokens: TokenServiceClient::new(self.channel("billing")),
            revocations: RevocationServiceClient::new(self.channel("operator")),
            request: IssueTokenRequest {
                grant_type: "client_credentials".to_owned(),
                audience: self.audience.clone(),
                client_id: self.client.clone(),
                client_secret: secret.trim_end().to_owned(),
                ..IssueTokenRequest::default()
            },
        }
    }

    fn channel(&self, who: &str) -> Channel {
        to_authority(&self.authority, &self.pki, who)
    }
}

/// The way to the authority at `address`, under a certificate of the folder `pki`.
pub(crate) fn to_authority(address: &str, pki: &Path, who: &str) -> Channel {
    let files = TlsFiles {
        certificate: pki.join(format!("{who}.pem")),
        private_key: pki.join(format!("{who}-key.pem")),
        trust_roots: pki.join("ca.pem"),
    };
    let tls =
        ClientTls::load(&files, ExpectedServer::default(), Arc::new(SystemClock)).expect("usable files");
    let uri = format!("https://{address}");
    tls.channel(&uri, ChannelOptions::default()).expect("an address")
}

impl Authority {
    /// A new token.
    pub(crate) async fn token(&mut self) -> String {
        let answer = self.tokens.issue_token(self.request.clone()).await;
        answer.expect("a token").into_inner().access_token
    }

    /// Revokes a token. Answers how far that has come.
    pub(crate) async fn revoke(&mut self, token: &str) -> EpochReach {
        let request = RevokeRequest {
            subject: Some(Subject::Token(token.to_owned())),
            reason: "a test".to_owned(),
        };
        let answer = self.revocations.revoke(request).await.expect("revoked");
        answer.into_inner().reach.expect("a receipt")
    }
}

/// The latest time in a receipt, in milliseconds since 1970. Nothing when it is in force everywhere.
pub(crate) fn latest_bound(reach: &EpochReach) -> Option<u64> {
    let times = reach.bounds.iter().filter_map(|bound| bound.by.as_ref());
    times
        .map(|by| {
            let seconds = u64::try_from(by.seconds).expect("after 1970");
            let nanos = u64::try_from(by.nanos).expect("no debt");
            seconds * 1000 + nanos / 1_000_000
        })
        .max()
}

/// Milliseconds since 1970.
pub(crate) fn now_millis() -> u64 {
    SystemClock.now_millis()
}

/// Methods of the demo service.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Method {
    Echo,
    Collect,
    Expand,
}

/// What a call came to: the code and, of a refusal, the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: Code,
    pub(crate) reason: String,
}

impl Answer {
    /// Of a call that ended with `status`.
    pub(crate) fn refused(status: &Status) -> Self {
        let info = status.get_details_error_info();
        Self {
            code: status.code(),
            reason: info.map(|info| info.reason).unwrap_or_default(),
        }
    }

    /// Of a call that is through.
    pub(crate) const fn through() -> Self {
        Self {
            code: Code::Ok,
            reason: String::new(),
        }
    }

    /// Whether it is through.
    pub(crate) fn is_through(&self) -> bool {
        self.code == Code::Ok
    }
}

/// A sidecar's plaintext listener, to be connected with when it is first called.
pub(crate) fn sidecar(address: SocketAddr) -> DemoServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    DemoServiceClient::new(endpoint.connect_lazy())
}

/// `message` with a token.
pub(crate) fn bearing<M>(message: M, token: &str) -> Request<M> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {token}").parse().expect("a header");
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// A call through a sidecar's plaintext listener, over a connection of its own.
///
/// # Panics
/// When no answer comes.
pub(crate) async fn call(address: SocketAddr, method: Method, token: &str) -> Answer {
    let mut client = sidecar(address);
    let answer = async {
        match method {
            Method::Echo => {
                let message = EchoRequest::default();
                client.echo(bearing(message, token)).await.map(drop)
            }
            Method::Collect => {
                let parts = tokio_stream::once(CollectRequest::default());
                client.collect(bearing(parts, token)).await.map(drop)
            }
            Method::Expand => {
                let message = ExpandRequest::default();
                client.expand(bearing(message, token)).await.map(drop)
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer
        .expect("an answer in time")
        .err()
        .map_or_else(Answer::through, |status| Answer::refused(&status))
}
