//! `SyncService`: the stream that verifiers get their trust on.
//!
//! What is sent is the feed's; here the verifier is let in, and what it says is judged. Everything that it can send is
//! bounded: how often it comes, how much it says, how long it may say nothing.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use countersign_core::feed::{Held, JoinRefused};
use countersign_core::fleet::{Introduction, VerifierKey, assumed_budgets};
use countersign_core::jwk::KeySetError;
use countersign_core::names::{ClassName, ClientId, KeyId, VerifierId};
use countersign_core::staleness::{ClassBudget, MAX_BUDGET, MAX_CLASSES, StalenessBudget};
use countersign_core::trust::UpdateRefused;
use countersign_mtls::Peer;
use countersign_proto::sync::v1;
use countersign_proto::sync::v1::hello;
use countersign_proto::sync::v1::sync_request::Message;
use countersign_proto::sync::v1::sync_service_server::SERVICE_NAME;
use countersign_runtime::ErrorChain;
use countersign_runtime::backoff::Jitter;
use countersign_wire::framing;
use countersign_wire::status::{self, Failure};
use countersign_wire::trust::read_digest;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Status, Streaming};
use tower::Service;

use crate::audit::{self, Actor, Event, Outcome};
use crate::authorize::Roles;
use crate::feed::{Ended, Feed, Handle, NotJoined, Subscription};
use crate::fleet::{Fleet, Membership};
use crate::ledger::Ledger;
use crate::limits::{Limits, Meter, Rate};
use crate::metrics::Metrics;
use crate::timeline::Timeline;

/// How long a stream may say nothing. Verifiers ping every two seconds.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a newcomer's stream waits for the store to know it.
const KNOWN_WAIT: Duration = Duration::from_millis(500);

/// How much a stream may say: an acknowledgement for each epoch, in a storm of revocations.
const MESSAGES: Rate = Rate::new(1000, 5000);

/// The most keys, and clients of a key, whose use is told of at once.
const MAX_USES: usize = 64;
const MAX_USERS: usize = 16;

/// The one method.
const SYNC: &str = "/countersign.sync.v1.SyncService/Sync";

/// The longest instance id, and the longest version.
const MAX_TEXT: usize = 64;

/// The service.
#[derive(Clone, Debug)]
pub struct Streams(Arc<StreamParts>);

/// What the service is made of.
#[derive(Debug)]
pub struct StreamParts {
    /// Who is a verifier.
    pub roles: Arc<Roles>,
    /// What they are told.
    pub feed: Feed,
    /// Where they are remembered.
    pub fleet: Fleet,
    /// Has to know when they prove that it is not what was published from.
    pub ledger: Ledger,
    /// How often they may come.
    pub limits: Arc<Limits>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub timeline: Arc<Timeline>,
    /// When a stream is renewed, so that its certificate is verified anew.
    pub age: Duration,
}

impl Streams {
    /// The service of these parts.
    #[must_use]
    pub fn new(parts: StreamParts) -> Self {
        Self(Arc::new(parts))
    }
}

/// What opens a stream, checked.
struct Opening {
    verifier_id: VerifierId,
    introduction: Introduction,
    held: Held,
    proof: Option<hello::Proof>,
}

fn read_hello(message: Option<Message>) -> Result<Opening, Status> {
    let Some(Message::Hello(hello)) = message else {
        return Err(status::invalid("message", "is not `hello`, which comes first"));
    };
    let is_text = |text: &str| text.len() <= MAX_TEXT && text.bytes().all(|byte| byte.is_ascii_graphic());
    if hello.instance_id.is_empty() || !is_text(&hello.instance_id) {
        return Err(status::invalid(
            "hello.instance_id",
            "is 1 to 64 visible ASCII characters",
        ));
    }
    if !is_text(&hello.version) {
        return Err(status::invalid(
            "hello.version",
            "is at most 64 visible ASCII characters",
        ));
    }
    let digest = match hello.epoch {
        0 => [0; 32],
        _ => read_digest(&hello.state_digest)
            .map_err(|_length| status::invalid("hello.state_digest", "is 32 bytes"))?,
    };
    let verifier_id = match hello.verifier_id.as_str() {
        "" => &hello.instance_id,
        verifier_id => verifier_id,
    };
    Ok(Opening {
        verifier_id: VerifierId::parse(verifier_id)
            .map_err(|invalid| status::invalid("hello.verifier_id", invalid.expected))?,
        introduction: Introduction {
            budgets: read_budgets(&hello.budgets)?,
            instance_id: hello.instance_id,
            version: hello.version,
            // One whose log on disk is full says that it holds nothing, to be sent a snapshot, and goes on deciding.
            decides: hello.epoch != 0 || hello.highest_epoch != 0,
        },
        held: Held {
            epoch: hello.epoch,
            digest,
            highest_epoch: hello.highest_epoch,
            publishers: hello.publishers_generation,
        },
        proof: hello.proof,
    })
}

fn read_budgets(budgets: &[v1::ClassBudget]) -> Result<Arc<[ClassBudget]>, Status> {
    if budgets.is_empty() {
        return Ok(assumed_budgets());
    }
    if budgets.len() > MAX_CLASSES {
        return Err(status::invalid("hello.budgets", "are more than 16"));
    }
    let mut seen = BTreeSet::new();
    let read = |wire: &v1::ClassBudget| {
        let class = ClassName::parse(&wire.class)
            .map_err(|invalid| status::invalid("hello.budgets.class", invalid.expected))?;
        if !seen.insert(class.clone()) {
            return Err(status::invalid("hello.budgets.class", "is there twice"));
        }
        let budget = StalenessBudget {
            revocations: Duration::from_millis(wire.revocations_ms),
            keys: Duration::from_millis(wire.keys_ms),
        };
        // Whoever decides for longer cannot be waited for.
        if budget.shortest() > MAX_BUDGET {
            return Err(status::invalid("hello.budgets", "are over 7 days"));
        }
        Ok(ClassBudget { class, budget })
    };
    budgets.iter().map(read).collect()
}

fn read_uses(uses: v1::KeyUses) -> impl Iterator<Item = (KeyId, u64, Vec<ClientId>)> {
    uses.uses.into_iter().take(MAX_USES).filter_map(|key| {
        let clients = key.clients.iter().take(MAX_USERS);
        let clients = clients
            .filter_map(|client| ClientId::parse(client).ok())
            .collect();
        Some((KeyId::parse(&key.kid).ok()?, key.tokens, clients))
    })
}

impl StreamParts {
    async fn open(
        self: &Arc<Self>,
        peer: Option<&Peer>,
        mut requests: Streaming<v1::SyncRequest>,
    ) -> Result<Outgoing, Status> {
        let now = self.timeline.now();
        let spiffe_id = self.roles.verifier(peer, now).map_err(status::failed)?;
        self.limits
            .stream(spiffe_id)
            .map_err(|_wait| status::failed(Failure::TooManyStreams))?;
        let first = requests.message().await?.and_then(|request| request.message);
        let hello = read_hello(first)?;
        let key = VerifierKey {
            spiffe_id: spiffe_id.clone(),
            verifier_id: hello.verifier_id,
        };
        if let Some(proof) = &hello.proof
            && let Err(error) = self.ledger.hear(&key, proof).await
        {
            tracing::error!(error = %ErrorChain(&error), "what a verifier proves was not stored");
        }
        let membership = self
            .fleet
            .join(key, hello.introduction, now)
            .map_err(status::failed)?;
        // A newcomer is granted nothing before the store knows it. That takes milliseconds, and its next ping seconds.
        let _in_time = tokio::time::timeout(KNOWN_WAIT, membership.known()).await;
        let joined = self.feed.join(&hello.held).await.map_err(not_joined)?;
        if joined.holds {
            membership.acknowledged(hello.held.epoch, false, now);
        }
        let reader = Reader {
            parts: Arc::clone(self),
            meter: Meter::new(MESSAGES, Arc::clone(self.timeline.clock())),
            handle: joined.subscription.handle(),
            membership,
        };
        tokio::spawn(reader.run(requests));
        Ok(Outgoing(joined.subscription))
    }
}

fn not_joined(refused: NotJoined) -> Status {
    let never_reached = "is one that was never reached here";
    match refused {
        NotJoined::Refused(JoinRefused::Ahead) => status::invalid("hello.epoch", never_reached),
        NotJoined::Refused(JoinRefused::SeenLater) => status::invalid("hello.highest_epoch", never_reached),
        NotJoined::Refused(JoinRefused::PublishersAhead) => {
            status::invalid("hello.publishers_generation", never_reached)
        }
        NotJoined::Refused(JoinRefused::Draining) => status::failed(Failure::Draining),
        NotJoined::Unpublished => status::failed(Failure::Internal),
    }
}

/// Reads what a verifier says until its stream ends.
struct Reader {
    parts: Arc<StreamParts>,
    meter: Meter,
    handle: Handle,
    membership: Membership,
}

impl Reader {
    async fn run(mut self, mut requests: Streaming<v1::SyncRequest>) {
        let age = self.parts.age;
        // Not all at the same moment that came at the same moment.
        let age = age.saturating_sub(Jitter::unpredictable().up_to(age / 10));
        let renewal = Instant::now() + age;
        let ended = loop {
            let next = tokio::select! {
                biased;
                () = self.handle.ended() => return,
                () = self.membership.superseded() => break Ended::Superseded,
                () = tokio::time::sleep_until(renewal) => break Ended::Aged,
                next = tokio::time::timeout(SILENCE, requests.message()) => next,
            };
            match next {
                Err(_elapsed) => break Ended::Silent,
                // It ended its half, or it went away, or it sent what is no message.
                Ok(Ok(None) | Err(_)) => break Ended::ByVerifier,
                Ok(Ok(Some(request))) => {
                    if let Err(ended) = self.hear(request).await {
                        break ended;
                    }
                }
            }
        };
        self.handle.end(ended);
    }

    async fn hear(&mut self, request: v1::SyncRequest) -> Result<(), Ended> {
        if !self.meter.allows() {
            return Err(Ended::Misbehaved);
        }
        let now = self.parts.timeline.now();
        match request.message {
            Some(Message::Ack(ack)) => {
                // What was never sent is ignored, and alarmed by the feed (G47).
                if self.handle.acknowledge(ack.epoch, &ack.state_digest).is_ok() {
                    self.membership.acknowledged(ack.epoch, ack.durable, now);
                }
                Ok(())
            }
            Some(Message::Ping(ping)) => {
                self.membership.seen(now);
                let member = &self.membership;
                self.handle
                    .answer(ping.sequence, member.is_quarantined(), || member.grant());
                Ok(())
            }
            Some(Message::Nack(nack)) => self.refused(&nack).await,
            Some(Message::KeyUses(uses)) => {
                for (key_id, tokens, clients) in read_uses(uses) {
                    self.membership.used(key_id, tokens, clients, now);
                }
                Ok(())
            }
            Some(Message::Leave(_)) => {
                self.membership.left();
                Err(Ended::ByVerifier)
            }
            Some(Message::Hello(_)) | None => Err(Ended::Misbehaved),
        }
    }

    async fn refused(&mut self, nack: &v1::Nack) -> Result<(), Ended> {
        let parts = &self.parts;
        let reason = known_reason(&nack.reason);
        let (verifier, now) = (self.membership.key(), parts.timeline.now());
        if reason == UpdateRefused::PublishersChanged.reason() {
            // The update is in force there. It goes with every change of the publishing keys.
            self.membership.seen(now);
            tracing::info!(%verifier, epoch = nack.epoch, reason, "a verifier replaces what is on its disk");
        } else {
            parts.metrics.count_nack(reason);
            self.membership.refused(reason, now);
            tracing::warn!(
                %verifier,
                epoch = nack.epoch,
                in_force = nack.in_force_epoch,
                reason,
                "a verifier refused an update"
            );
        }
        if nack.resync {
            self.handle.resync().await.map_err(|_failed| Ended::Unpublished)?;
        }
        Ok(())
    }
}

/// The reason of a `Nack`, if it is one of the table: it becomes a metric label.
fn known_reason(reason: &str) -> &'static str {
    let update = UpdateRefused::ALL.iter().map(|refused| refused.reason());
    let key_set = KeySetError::ALL.iter().map(|error| error.reason());
    update
        .chain(key_set)
        .find(|known| *known == reason)
        .unwrap_or("other")
}

/// The messages for one verifier, with the status at the end.
#[derive(Debug)]
pub struct Outgoing(Subscription);

impl futures_util::Stream for Outgoing {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context).map(|next| match next {
            Some(Ok(message)) => Some(Ok(message)),
            Some(Err(ended)) => ended.failure().map(|failure| Err(status::failed(failure))),
            None => None,
        })
    }
}

impl Streams {
    async fn sync(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let peer = parts.extensions.get::<Peer>();
        let opened = self.0.open(peer, framing::requests(body)).await;
        if let Err(refused) = &opened {
            let actor = Actor::of(peer.and_then(|peer| peer.identity.as_deref()));
            let event = Event {
                actor: &actor,
                action: "open_stream",
                subject: "",
                outcome: Outcome::Refused(super::reason(refused)),
                note: "",
            };
            audit::record_refusal(&event, &self.0.limits, &self.0.metrics);
        }
        opened.map(framing::response)
    }
}

/// The service as HTTP calls it. The generated one would encode what is sent anew for every stream.
impl Service<http::Request<Body>> for Streams {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let streams = self.clone();
        Box::pin(async move {
            let answer = match request.uri().path() {
                SYNC => streams.sync(request).await,
                _ => Err(status::failed(Failure::MethodUnknown)),
            };
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

impl NamedService for Streams {
    const NAME: &'static str = SERVICE_NAME;
}
