//! The local API: asks for the decision that the proxy would make (`countersign.verify.v1`), with health and reflection.
//!
//! For services that are called in other ways than through the proxy. Issuer and audience are the sidecar's own; no
//! request chooses them.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Rejection;
use countersign_core::bearer;
use countersign_core::freshness::StalenessRules;
use countersign_core::names::{CertificateThumbprint, ClassName};
use countersign_core::requirements::MethodPath;
use countersign_core::staleness::ClassBudget;
use countersign_proto::verify::v1;
use countersign_proto::verify::v1::verify_response::Verdict;
use countersign_proto::verify::v1::verify_service_server::{VerifyService, VerifyServiceServer};
use countersign_wire::{MAX_REQUEST_LENGTH, encoding, reflection, status, verify};
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::ServiceExt as _;

use crate::refusal_log::{RefusalLog, Refused};
use crate::server::Serve;
use crate::server::listener::Peer;
use countersign_verifier::sync::SyncMetrics;
use countersign_verifier::trust::{TrustStatus, TrustStore};
use countersign_verifier::verifier::{Admission, Decision, Question, Verifier};

/// The API's handlers.
#[derive(Debug)]
pub(crate) struct VerifyApi {
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) sync: SyncMetrics,
    pub(crate) log: Arc<RefusalLog>,
}

/// The API as one listener serves it.
#[derive(Clone, Debug)]
pub(crate) struct ApiService(Routes);

impl ApiService {
    /// The API with health and reflection. The second value is told whether decisions are made.
    pub(crate) fn new(api: VerifyApi) -> Result<(Self, HealthReporter), reflection::Error> {
        let verify = VerifyServiceServer::new(api).max_decoding_message_size(MAX_REQUEST_LENGTH);
        let (reporter, health) = tonic_health::server::health_reporter();
        let routes = Routes::new(verify).add_service(health);
        let routes = reflection::add(routes, &[VerifyServiceServer::<VerifyApi>::NAME])?;
        Ok((Self(routes.prepare()), reporter))
    }
}

impl Serve for ApiService {
    type Body = Body;

    async fn call(&self, request: Request<Incoming>, _peer: Arc<Peer>) -> Response<Body> {
        if let Err(refused) = encoding::check(request.headers()) {
            return refused.into_http();
        }
        match self.0.clone().oneshot(request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(%error, "the local API failed");
                status::failed(status::Failure::Internal).into_http()
            }
        }
    }
}

/// How often health looks at the clock. Trust grows old by time passing, which nobody announces.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// A first confirmation comes within milliseconds of the trust, and within two heartbeats if the authority has to write down who asks.
const FAIR_CHANCE: Duration = Duration::from_secs(10);

/// Keeps gRPC health in step with the trust: serving while calls of the default class are decided. Tells in the log when the
/// trust begins to be too old for a class, and when it no longer is.
pub(crate) async fn report_health(reporter: HealthReporter, trust: Arc<TrustStore>) {
    let mut epochs = trust.changed();
    let mut told = None;
    let mut unconfirmed_since = None;
    loop {
        let status = trust.status();
        let never_confirmed = status.freshness.is_some() && status.age.is_none();
        let now = trust.clock().elapsed();
        unconfirmed_since = never_confirmed.then(|| unconfirmed_since.unwrap_or(now));
        let waited = unconfirmed_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let news = News::of(&status, trust.staleness(), waited);
        if told.as_ref() != Some(&news) {
            news.tell(&status);
            let serving = if status.decides() {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            reporter.set_service_status("", serving).await;
            reporter
                .set_service_status(VerifyServiceServer::<VerifyApi>::NAME, serving)
                .await;
            told = Some(news);
        }
        tokio::select! {
            changed = epochs.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(HEALTH_INTERVAL) => {}
        }
    }
}

/// What the log says of the trust in force, whenever it is something else than before.
#[derive(Clone, Debug, PartialEq, Eq)]
enum News {
    Cold,
    /// It is not known what time it is.
    ClockInDoubt,
    /// It was never confirmed, and there was hardly time for it.
    Awaited,
    /// It was never confirmed.
    NeverConfirmed,
    Confirmed,
    Unconfirmed,
    /// It is too old for these classes.
    Refusing(Vec<ClassName>),
}

impl News {
    /// What `status` is news of, where trust that was never confirmed has `waited` for it this long.
    fn of(status: &TrustStatus, staleness: &StalenessRules, waited: Duration) -> Self {
        let refused = |class: &&Arc<ClassBudget>| !status.decides_within(&class.budget);
        let refused: Vec<_> = staleness.classes.iter().filter(refused).collect();
        if status.freshness.is_none() {
            Self::Cold
        } else if !status.time_known {
            Self::ClockInDoubt
        } else if status.age.is_none() && waited < FAIR_CHANCE {
            Self::Awaited
        } else if status.age.is_none() {
            Self::NeverConfirmed
        } else if !refused.is_empty() {
            Self::Refusing(refused.iter().map(|class| class.class.clone()).collect())
        } else if status.age.is_some_and(|age| age >= staleness.warn_after) {
            Self::Unconfirmed
        } else {
            Self::Confirmed
        }
    }

    fn tell(&self, status: &TrustStatus) {
        let epoch = status.epoch;
        let age = status.age.map(tracing::field::debug);
        match self {
            Self::Cold => tracing::warn!("there is no trust yet: calls are refused"),
            Self::ClockInDoubt => {
                tracing::error!("the clock reads earlier than times seen here before: calls are refused");
            }
            Self::Awaited => {
                tracing::info!(
                    epoch,
                    "there is trust: calls are refused until the authority confirms it"
                );
            }
            Self::NeverConfirmed => tracing::error!(
                epoch,
                "the authority has not confirmed the trust in force: calls are refused"
            ),
            Self::Confirmed => {
                tracing::info!(epoch, age, "the trust in force is confirmed: calls are decided")
            }
            Self::Unconfirmed => {
                let refuses_in = status.refuses_in().map(tracing::field::debug);
                tracing::warn!(
                    epoch,
                    age,
                    refuses_in,
                    "the authority no longer confirms the trust in force"
                );
            }
            Self::Refusing(classes) => {
                let classes = classes
                    .iter()
                    .map(ClassName::as_str)
                    .collect::<Vec<_>>()
                    .join(" ");
                tracing::error!(
                    epoch,
                    age,
                    classes,
                    "the trust in force is too old: calls of these classes are refused"
                );
            }
        }
    }
}

#[tonic::async_trait]
impl VerifyService for VerifyApi {
    async fn verify(
        &self,
        request: tonic::Request<v1::VerifyRequest>,
    ) -> Result<tonic::Response<v1::VerifyResponse>, tonic::Status> {
        let request = request.into_inner();
        let peer_certificate = thumbprint(&request.peer_certificate_sha256)?;
        let token = token(&request)?;
        let method = method(&request.path);
        let decision = match method {
            // As the proxy does: the form comes before the token.
            Err(rejection) => {
                self.verifier.count_refused(rejection);
                Decision {
                    verdict: Err(rejection.into()),
                    epoch: self.verifier.trust().epoch(),
                }
            }
            Ok(method) => {
                let question = Question {
                    token,
                    method,
                    peer_certificate,
                };
                self.verifier.decide_patiently(&question).await
            }
        };
        if let Err(denied) = &decision.verdict {
            self.log.tell(&Refused {
                denied,
                method: method.ok().flatten(),
                remote: None,
                epoch: decision.epoch,
            });
        }
        Ok(tonic::Response::new(self.write(decision)))
    }

    async fn get_status(
        &self,
        _request: tonic::Request<v1::GetStatusRequest>,
    ) -> Result<tonic::Response<v1::GetStatusResponse>, tonic::Status> {
        let status = self.verifier.trust().status();
        let expected = self.verifier.expected();
        let classes = self.verifier.trust().staleness().classes.iter();
        Ok(tonic::Response::new(v1::GetStatusResponse {
            issuer: expected.issuer.as_str().to_owned(),
            audience: expected.audience.as_str().to_owned(),
            epoch: status.epoch,
            state_digest: if status.epoch == 0 {
                Vec::new()
            } else {
                status.digest.to_vec()
            },
            freshness: status.freshness_name().to_owned(),
            age_ms: status.age.map(verify::write_millis),
            refuses_in_ms: status.refuses_in().map(verify::write_millis),
            connected: self.sync.connected.get() != 0,
            keys: u32::try_from(status.keys).unwrap_or(u32::MAX),
            revocations: u64::try_from(status.revocations).unwrap_or(u64::MAX),
            classes: classes.map(|class| write_class(class, &status)).collect(),
        }))
    }
}

impl VerifyApi {
    fn write(&self, decision: Decision) -> v1::VerifyResponse {
        let verdict = match decision.verdict {
            Ok(Admission::Open) => Verdict::Allowed(v1::Allowed {
                open_method: true,
                ..v1::Allowed::default()
            }),
            Ok(Admission::Token(admitted)) => {
                let audience = self.verifier.expected().audience.as_str();
                Verdict::Allowed(verify::write_allowed(admitted.claims(), audience))
            }
            Err(denied) => Verdict::Refused(verify::write_refused(denied.rejection, denied.stale.as_ref())),
        };
        v1::VerifyResponse {
            verdict: Some(verdict),
            epoch: decision.epoch,
        }
    }
}

fn write_class(class: &ClassBudget, status: &TrustStatus) -> v1::ClassStatus {
    let millis = |budget: Duration| u64::try_from(budget.as_millis()).unwrap_or(u64::MAX);
    v1::ClassStatus {
        class: class.class.as_str().to_owned(),
        revocations_ms: millis(class.budget.revocations),
        keys_ms: millis(class.budget.keys),
        refuses_in_ms: status.refuses_within(&class.budget).map(verify::write_millis),
        decides: status.decides_within(&class.budget),
    }
}

/// The credential asked about, in one of its two forms.
fn token(request: &v1::VerifyRequest) -> Result<Result<&[u8], Rejection>, tonic::Status> {
    if request.token.is_empty() {
        let fields = request.authorization.iter().map(Vec::as_slice);
        return Ok(bearer::from_authorization(fields));
    }
    if request.authorization.is_empty() {
        return Ok(Ok(request.token.as_bytes()));
    }
    Err(status::invalid(
        "authorization",
        "is not to be given together with `token`",
    ))
}

fn method(path: &str) -> Result<Option<MethodPath<'_>>, Rejection> {
    if path.is_empty() {
        Ok(None)
    } else {
        MethodPath::parse(path).map(Some)
    }
}

fn thumbprint(sha256: &[u8]) -> Result<Option<CertificateThumbprint>, tonic::Status> {
    if sha256.is_empty() {
        return Ok(None);
    }
    let digest = sha256.try_into().map_err(|_length| {
        status::invalid(
            "peer_certificate_sha256",
            "is 32 bytes, or empty for no certificate",
        )
    })?;
    Ok(Some(CertificateThumbprint::new(digest)))
}

#[cfg(test)]
mod tests;
