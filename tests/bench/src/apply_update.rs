//! Verification while a million revocations come into force in one delta (K23).

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use countersign_core::jose::Algorithm;
use countersign_core::jwk::write_set;
use countersign_core::names::TokenId;
use countersign_core::ports::Clock;
use countersign_core::requirements::{MethodPath, MethodTable};
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_core::time::Timestamp;
use countersign_core::trust::{Change, Update, UpdateContent, UpdateRules};
use countersign_crypto::publishing::{Context, PinnedKeys, sign};
use countersign_crypto::{AwsLc, SigningKey};
use countersign_proto::trust::v1::Signed;
use countersign_runtime::SystemClock;
use countersign_verifier::metrics::DecisionMetrics;
use countersign_verifier::sync::Publishers;
use countersign_verifier::token_cache::TokenCache;
use countersign_verifier::trust::{Considered, TrustStore};
use countersign_verifier::verifier::{Question, Verifier};
use countersign_wire::trust::write_update;
use prometheus_client::registry::Registry;

use crate::Failure;
use crate::fixture::Fixture;
use crate::measure::{Samples, Scale, micros, nanos, time};
use crate::report::{Comparison, Measured};

/// Revocations in the delta.
const REVOCATIONS: u32 = 1_000_000;

/// How often it is applied, each time to a verifier of its own.
const ROUNDS: usize = 3;

/// Tokens in use at one time.
const TOKENS: u32 = 64;

/// The decision about a known token, once while nothing happens, once while another thread verifies, applies and puts in
/// force a delta with a million revocations, as the stream's loop does. Every decision is timed by itself.
pub(crate) fn apply_update(scale: Scale) -> Result<Comparison, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let fixture = Fixture::new(clock.now())?;
    let tokens: Vec<String> = (0..TOKENS)
        .map(|number| fixture.token(number, clock.now()))
        .collect::<Result<_, _>>()?;
    let delta = Delta::make(&fixture, clock.now(), scale.of(REVOCATIONS))?;
    let mut timings = Timings {
        bytes: delta.signed.payload.len(),
        ..Timings::default()
    };
    for _ in 0..ROUNDS {
        round(&fixture, &clock, &tokens, &delta, &mut timings)?;
    }
    Ok(timings.comparison())
}

fn round(
    fixture: &Fixture,
    clock: &Arc<dyn Clock>,
    tokens: &[String],
    delta: &Delta,
    timings: &mut Timings,
) -> Result<(), Failure> {
    let (trust, verifier) = verifier(fixture, clock)?;
    let path = MethodPath::parse("/bench.v1.Orders/Get")?;
    let decide = |token: &String| {
        let question = Question {
            token: Ok(token.as_bytes()),
            method: Some(path),
            peer_certificate: None,
        };
        verifier.decide(black_box(&question)).verdict.is_ok()
    };
    if !tokens.iter().all(decide) {
        return Err("a good token was refused".into());
    }
    let idle = decisions_during(tokens, decide, || std::thread::sleep(IDLE))?;
    let mut applied = Ok(Duration::ZERO);
    let during = decisions_during(tokens, decide, || applied = delta.apply(&trust))?;
    timings.idle.extend(idle);
    timings.during.extend(during);
    timings.applying.push(applied?);
    Ok(())
}

/// How long each decision takes that another thread makes about `tokens` while `work` is done on this one.
fn decisions_during(
    tokens: &[String],
    decide: impl Fn(&String) -> bool + Sync,
    work: impl FnOnce(),
) -> Result<Samples, Failure> {
    let done = AtomicBool::new(false);
    let deciding = || {
        let mut samples = Samples::default();
        for token in tokens.iter().cycle() {
            samples.push(time(|| {
                black_box(decide(token));
            }));
            if done.load(Ordering::Relaxed) {
                break;
            }
        }
        samples
    };
    std::thread::scope(|scope| {
        let deciding = scope.spawn(deciding);
        work();
        done.store(true, Ordering::Relaxed);
        deciding
            .join()
            .map_err(|_panic| "the deciding thread panicked".into())
    })
}

/// How long decisions are timed while nothing happens.
const IDLE: Duration = Duration::from_secs(2);

/// A signed delta, and who verifies it.
struct Delta {
    signed: Signed,
    publishers: Publishers,
}

impl Delta {
    fn make(fixture: &Fixture, now: Timestamp, count: u32) -> Result<Self, Failure> {
        let expires_at = now.saturating_add(Duration::from_secs(3_600));
        let revoked: RevocationList = (0..count)
            .map(|number| {
                Ok(Revocation {
                    subject: RevokedSubject::Token(TokenId::parse(&format!("3.{number:x}"))?),
                    issued_before: Timestamp::default(),
                    expires_at,
                })
            })
            .collect::<Result<_, Failure>>()?;
        let change = Change {
            revoked,
            ..Change::default()
        };
        let next = fixture.state.next(&change, &AwsLc);
        let payload = write_update(&Update {
            issuer: next.issuer().clone(),
            epoch: next.epoch(),
            state_digest: *next.digest(),
            published_at: now,
            content: UpdateContent::Delta {
                base_epoch: fixture.state.epoch(),
                base_digest: *fixture.state.digest(),
                change,
            },
        });
        let key = SigningKey::generate(Algorithm::EdDsa)?;
        let pinned = PinnedKeys::read(write_set([key.jwk()]).as_bytes(), &AwsLc)?;
        Ok(Self {
            signed: Signed {
                signature: sign(&key, Context::Update, &payload)?.into(),
                key_id: key.key_id().to_string(),
                payload: payload.into(),
            },
            publishers: Publishers::new(fixture.state.issuer().clone(), &pinned, Arc::new(AwsLc)),
        })
    }

    /// What the stream's loop does with it, from the bytes to the last of what it replaces. How long that takes.
    fn apply(&self, trust: &TrustStore) -> Result<Duration, Failure> {
        let mut outcome = Ok(());
        let took = time(|| outcome = self.put_in_force(trust));
        outcome.map(|()| took)
    }

    fn put_in_force(&self, trust: &TrustStore) -> Result<(), Failure> {
        let update = self.publishers.update(&self.signed)?;
        match trust.consider(&update, &AwsLc)? {
            Considered::Advance(next) => {
                trust.install(next)?;
                Ok(())
            }
            Considered::InForce | Considered::Repeated => Err("the delta was known".into()),
        }
    }
}

fn verifier(fixture: &Fixture, clock: &Arc<dyn Clock>) -> Result<(Arc<TrustStore>, Verifier), Failure> {
    let hour = Duration::from_secs(3_600);
    let rules = UpdateRules {
        issuer: fixture.expected.issuer.clone(),
        max_revocations: 2_000_000,
        max_revocation_life: 3 * hour,
        leeway: fixture.expected.leeway,
    };
    let trust = Arc::new(TrustStore::new(rules, Arc::default(), Arc::clone(clock)));
    trust.install_cached(fixture.state.clone(), Some(Duration::ZERO.into()))?;
    let verifier = Verifier::new(
        Arc::clone(&trust),
        fixture.expected.clone(),
        MethodTable::new(fixture.requirements.clone()),
        TokenCache::new(4 << 20),
        DecisionMetrics::register(&mut Registry::default()),
    );
    Ok((trust, verifier))
}

#[derive(Debug, Default)]
struct Timings {
    idle: Samples,
    during: Samples,
    applying: Samples,
    bytes: usize,
}

impl Timings {
    fn comparison(mut self) -> Comparison {
        let (idle, during) = (self.idle.percentile(990), self.during.percentile(990));
        let ratio = during.as_secs_f64() / idle.as_secs_f64();
        let mebibytes =
            u32::try_from(self.bytes / 1024).map_or(f64::MAX, |kibibytes| f64::from(kibibytes) / 1024.0);
        Comparison {
            name: "apply-update",
            floor: Measured {
                what: "p99 of one decision about a known token while nothing happens".to_owned(),
                value: nanos(idle),
                unit: "ns",
            },
            ours: Measured {
                what:
                    "the same while a delta with a million revocations is verified, applied and put in force"
                        .to_owned(),
                value: nanos(during),
                unit: "ns",
            },
            ratio,
            target: "< 2",
            met: Some(ratio < 2.0),
            details: BTreeMap::from([
                ("idle_p50_ns", nanos(self.idle.percentile(500))),
                ("during_p50_ns", nanos(self.during.percentile(500))),
                ("idle_p999_us", micros(self.idle.percentile(999))),
                ("during_p999_us", micros(self.during.percentile(999))),
                ("during_worst_us", micros(self.during.percentile(1000))),
                ("applying_ms", micros(self.applying.percentile(500)) / 1000.0),
                ("delta_mib", mebibytes),
            ]),
        }
    }
}
