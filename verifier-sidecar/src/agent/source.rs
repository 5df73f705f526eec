//! Where tokens come from: the authority, which knows the client by the certificate of the connection (RFC 8705, section 2).

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use countersign_core::binding::PeerCertificate;
use countersign_core::issuing::CLIENT_CREDENTIALS;
use countersign_core::names::{Audience, Scope};
use countersign_mtls::{ChannelOptions, ClientTls, TlsError};
use countersign_proto::token::v1::IssueTokenRequest;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use countersign_wire::status::{Failure, NoToken, read_no_token};
use tonic::transport::Channel;

use super::TokenKey;
use super::token::Token;

/// Why no token came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotFetched {
    /// Why.
    pub(crate) why: NoToken,
    /// When the authority wants to be asked again, if it says so.
    pub(crate) retry_after: Option<Duration>,
}

impl From<Failure> for NotFetched {
    fn from(failure: Failure) -> Self {
        Self {
            why: NoToken::Failed(failure),
            retry_after: None,
        }
    }
}

/// Gives tokens.
#[tonic::async_trait]
pub(crate) trait TokenSource: Debug + Send + Sync {
    /// A new token for `key`.
    async fn fetch(&self, key: &TokenKey) -> Result<Token, NotFetched>;

    /// Our certificate, to which tokens that come now are bound, or to the SPIFFE ID in it.
    fn certificate(&self) -> PeerCertificate;
}

/// How long the authority has for an answer. One that is revoked this second gets its token in the next.
const PATIENCE: Duration = Duration::from_secs(10);

/// The authority over mutual TLS.
#[derive(Debug)]
pub(crate) struct AuthoritySource {
    tls: Arc<ClientTls>,
    uri: String,
    /// Requests that are under way together share a connection. Between them there is none: they are minutes apart, and for
    /// the authority each idle connection of a fleet is memory.
    open: Mutex<Weak<Connection>>,
}

#[derive(Debug)]
struct Connection {
    channel: Channel,
    certificate: PeerCertificate,
}

impl AuthoritySource {
    /// The authority at `uri`.
    pub(crate) fn new(tls: Arc<ClientTls>, uri: String) -> Self {
        Self {
            tls,
            uri,
            open: Mutex::default(),
        }
    }

    fn connection(&self) -> Result<Arc<Connection>, TlsError> {
        let certificate = self.tls.certificate();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // What comes over a connection is bound to the certificate that it was made with.
        let usable = open.upgrade().filter(|open| open.certificate == certificate);
        if let Some(connection) = usable {
            return Ok(connection);
        }
        let channel = self.tls.channel(&self.uri, ChannelOptions::default())?;
        let connection = Arc::new(Connection { channel, certificate });
        *open = Arc::downgrade(&connection);
        Ok(connection)
    }
}

#[tonic::async_trait]
impl TokenSource for AuthoritySource {
    async fn fetch(&self, key: &TokenKey) -> Result<Token, NotFetched> {
        let connection = self.connection().map_err(|error| {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "the authority's address cannot be used");
            Failure::Internal
        })?;
        let mut request = tonic::Request::new(IssueTokenRequest {
            grant_type: CLIENT_CREDENTIALS.to_owned(),
            audience: key.audience.as_ref().map_or("", Audience::as_str).to_owned(),
            scopes: key.scopes.iter().map(Scope::as_str).map(str::to_owned).collect(),
            ..IssueTokenRequest::default()
        });
        request.set_timeout(PATIENCE);
        let mut client = TokenServiceClient::new(connection.channel.clone());
        let answer = tokio::time::timeout(PATIENCE, client.issue_token(request)).await;
        let answer = answer.map_err(|_elapsed| Failure::AuthorityUnreachable)?;
        let response = answer.map_err(|status| {
            let error: &dyn std::error::Error = &status;
            tracing::debug!(error, "the authority issued no token");
            let (why, retry_after) = read_no_token(&status);
            NotFetched { why, retry_after }
        })?;
        Token::read(response.get_ref()).ok_or_else(|| Failure::TokenUnusable.into())
    }

    fn certificate(&self) -> PeerCertificate {
        self.tls.certificate()
    }
}
