//! `TokenService`: clients get tokens. Nothing is written to the store on this path.

mod release;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::claims::{Claims, Confirmation};
use countersign_core::client::Client;
use countersign_core::issuing::{self, Granted, IssueError, IssuingPolicy};
use countersign_core::names::{TokenId, TokenSerial};
use countersign_mtls::{Peer, PeerIdentity};
use countersign_proto::token::v1;
use countersign_proto::token::v1::token_service_server::TokenService;
use countersign_wire::status::{self, Failure};
use countersign_wire::token::{read_request, write_response};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::alarm::Alarm;
use crate::audit::{self, Actor, Event, Outcome};
use crate::authenticate::{self, Authenticated, Known, Presented};
use crate::authorize;
use crate::ledger::{Books, Ledger};
use crate::limits::Limits;
use crate::metrics::Metrics;
use release::Release;

/// Gives every token an identifier that no other has: the shard is this opening of the store, the sequence counts in it.
#[derive(Debug)]
pub struct TokenIds {
    shard: u64,
    next: AtomicU64,
}

impl TokenIds {
    /// The identifiers of this shard.
    #[must_use]
    pub const fn new(shard: u64) -> Self {
        Self {
            shard,
            next: AtomicU64::new(0),
        }
    }

    /// The next one.
    fn next(&self) -> TokenId {
        let serial = TokenSerial {
            shard: self.shard,
            sequence: self.next.fetch_add(1, Ordering::Relaxed),
        };
        serial.into()
    }
}

/// The service.
#[derive(Clone, Debug)]
pub struct Tokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ledger: Ledger,
    policy: IssuingPolicy,
    ids: TokenIds,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    release: Release,
}

/// Why no token was issued.
#[derive(Clone, Copy, Debug)]
struct NotIssued {
    error: IssueError,
    why: &'static str,
    retry_after: Option<Duration>,
}

impl NotIssued {
    const fn new(error: IssueError) -> Self {
        Self {
            error,
            why: "",
            retry_after: None,
        }
    }

    const fn because(error: IssueError, why: &'static str) -> Self {
        Self {
            error,
            why,
            retry_after: None,
        }
    }

    const fn wait(retry_after: Duration, why: &'static str) -> Self {
        Self {
            error: IssueError::RateLimited,
            why,
            retry_after: Some(retry_after),
        }
    }
}

impl From<authenticate::Refused> for NotIssued {
    fn from(refused: authenticate::Refused) -> Self {
        Self::because(refused.error, refused.why)
    }
}

impl From<IssueError> for NotIssued {
    fn from(error: IssueError) -> Self {
        Self::new(error)
    }
}

impl Tokens {
    /// Issues what `policy` allows, signed by the keys of `ledger`.
    #[must_use]
    pub fn new(
        ledger: Ledger,
        policy: IssuingPolicy,
        shard: u64,
        limits: Arc<Limits>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Arc::new(Inner {
            ledger,
            policy,
            ids: TokenIds::new(shard),
            limits,
            release: Release::new(Arc::clone(&metrics)),
            metrics,
        }))
    }

    /// The authority's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.ledger.timeline().now()
    }

    /// Whether a token can be signed now; the reason why not.
    ///
    /// # Errors
    /// A stable name for the readiness probe.
    pub fn is_ready(&self) -> Result<(), &'static str> {
        let now = self.0.ledger.timeline().can_sign();
        let now = now.map_err(|_behind| IssueError::ClockBehind.reason())?;
        let books = self.0.ledger.books();
        if books.recovery.is_some() {
            return Err(IssueError::RecoveryRequired.reason());
        }
        let signing = books.ring.signing(now);
        if signing.is_some_and(|key| key.signer.is_some()) {
            Ok(())
        } else {
            Err(IssueError::NoActiveKey.reason())
        }
    }
}

impl Inner {
    /// Issues a token, as soon as it would not be born revoked. Everything is decided anew when the client has changed
    /// meanwhile.
    async fn issue(
        &self,
        identity: &PeerIdentity,
        presented: &Presented,
        request: &v1::IssueTokenRequest,
    ) -> Result<(String, Granted), NotIssued> {
        let wanted = read_request(request);
        for attempt in 0..MAX_TRIES {
            // INVARIANT (no token slips through): the time is read first, and then whether the token is held.
            let now = self.now()?;
            let authenticated = self.authenticate(identity, presented)?;
            let client = &authenticated.client;
            if attempt == 0 {
                let allowed = self.limits.token(&client.client_id);
                allowed.map_err(|wait| NotIssued::wait(wait, "client_rate"))?;
            }
            let granted = issuing::grant(client, &wanted, &self.policy)?;
            let confirmation = issuing::confirmation(client, authenticated.certificate.as_ref())?;
            let claims = self.draft(client, &granted, confirmation, now);
            let books = self.ledger.settled(&claims).await;
            if books.recovery.is_some() {
                return Err(IssueError::RecoveryRequired.into());
            }
            let revocations = books.trust.revocations();
            if !is_current(&books, client) || revocations.holds_certificate(&identity.thumbprint) {
                continue;
            }
            if revocations.check(&claims).is_ok() {
                return Ok((self.release.token(&books.ring, &claims, now)?, granted));
            }
            self.until_next_second().await;
        }
        // The client's doing or its operator's, and no fault of the keys.
        Err(NotIssued::wait(Duration::from_secs(1), "revoked_until_later"))
    }

    fn authenticate(
        &self,
        identity: &PeerIdentity,
        presented: &Presented,
    ) -> Result<Authenticated, NotIssued> {
        self.limits
            .listened_to(&identity.thumbprint)
            .map_err(|wait| NotIssued::wait(wait, "too_many_failures"))?;
        let books = self.ledger.books();
        let known = Known {
            clients: &books.clients,
            revocations: books.trust.revocations(),
            hasher: self.ledger.hasher(),
            trust_domain: &self.policy.trust_domain,
        };
        known.authenticate(identity, presented).map_err(|refused| {
            self.limits.failed(&identity.thumbprint);
            if refused.why == "certificate_ambiguous" {
                Alarm::AmbiguousIdentity.raise(&self.metrics, &identity.thumbprint);
            }
            refused.into()
        })
    }

    fn now(&self) -> Result<Timestamp, NotIssued> {
        self.ledger.timeline().for_signing().map_err(|behind| {
            Alarm::ClockBehind.raise(&self.metrics, &behind);
            IssueError::ClockBehind.into()
        })
    }

    fn draft(
        &self,
        client: &Client,
        granted: &Granted,
        confirmation: Confirmation,
        now: Timestamp,
    ) -> Claims {
        let token_id = self.ids.next();
        issuing::draft(client, granted, confirmation, token_id, &self.policy, now)
    }

    async fn until_next_second(&self) {
        let millis = self.ledger.timeline().clock().now_millis() % 1000;
        tokio::time::sleep(Duration::from_millis(1001_u64.saturating_sub(millis))).await;
    }

    fn record(&self, actor: &Actor, subject: &str, reason: &'static str, note: &str) {
        let event = Event {
            actor,
            action: "issue_token",
            subject,
            outcome: Outcome::Refused(reason),
            note,
        };
        audit::record_refusal(&event, &self.limits, &self.metrics);
    }

    /// The certificate has expired since the connection was made.
    fn no_identity(&self, peer: Option<&Peer>, failure: Failure) -> Status {
        let actor = Actor::of(peer.and_then(|peer| peer.identity.as_deref()));
        self.record(&actor, "", failure.reason(), "");
        status::failed(failure)
    }

    fn report(&self, actor: &Actor, presented: &Presented, refused: &NotIssued) -> Status {
        let claimed = authenticate::claimed(presented);
        let subject = claimed.as_ref().map_or("", |client_id| client_id.as_str());
        self.record(actor, subject, refused.error.reason(), refused.why);
        status::not_issued(refused.error, refused.retry_after)
    }
}

/// A revocation covers the second that it was made in, and whoever asks within it waits for the next. More is needed only
/// when the same client is revoked or changed again and again.
const MAX_TRIES: u32 = 3;

/// Whether the client is still as it was when it was authenticated.
fn is_current(books: &Books, client: &Client) -> bool {
    let current = books.clients.find(client.client_id.as_str());
    current.is_some_and(|current| current.version == client.version)
}

#[tonic::async_trait]
impl TokenService for Tokens {
    async fn issue_token(
        &self,
        request: Request<v1::IssueTokenRequest>,
    ) -> Result<Response<v1::IssueTokenResponse>, Status> {
        let inner = &self.0;
        let started = inner.ledger.timeline().clock().elapsed();
        let (metadata, extensions, mut request) = request.into_parts();
        let now = inner.ledger.timeline().now();
        let peer = extensions.get::<Peer>();
        let identity = authorize::identity(peer, now).map_err(|failure| inner.no_identity(peer, failure))?;
        let presented = read_presented(&metadata, &mut request);
        let (shown, result) = match presented {
            Ok(presented) => {
                let result = inner.issue(identity, &presented, &request).await;
                (presented, result)
            }
            Err(refused) => {
                inner.limits.failed(&identity.thumbprint);
                (Presented::default(), Err(refused.into()))
            }
        };
        let outcome = result.as_ref().map(drop).map_err(|refused| refused.error);
        let took = inner.ledger.timeline().clock().elapsed().saturating_sub(started);
        inner.metrics.observe_issue(&request.grant_type, outcome, took);
        match result {
            Ok((token, granted)) => Ok(Response::new(write_response(token, &granted))),
            Err(refused) => {
                let actor = Actor::of(Some(identity));
                Err(inner.report(&actor, &shown, &refused))
            }
        }
    }
}

fn read_presented(
    metadata: &MetadataMap,
    request: &mut v1::IssueTokenRequest,
) -> Result<Presented, authenticate::Refused> {
    let authorization: Vec<&[u8]> = metadata
        .get_all("authorization")
        .iter()
        .map(tonic::metadata::MetadataValue::as_encoded_bytes)
        .collect();
    authenticate::read_presented(
        &authorization,
        std::mem::take(&mut request.client_id),
        std::mem::take(&mut request.client_secret),
    )
}
