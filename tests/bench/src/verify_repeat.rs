//! Verification of tokens that come again, by the sidecar's own verifier.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::ports::Clock;
use countersign_core::requirements::{MethodPath, MethodTable};
use countersign_core::trust::UpdateRules;
use countersign_runtime::SystemClock;
use countersign_verifier::metrics::DecisionMetrics;
use countersign_verifier::token_cache::TokenCache;
use countersign_verifier::trust::TrustStore;
use countersign_verifier::verifier::{Question, Verifier};
use prometheus_client::registry::Registry;

use crate::Failure;
use crate::fixture::Fixture;
use crate::measure::{Samples, Scale, nanos, time};
use crate::report::{Comparison, Measured};

/// Tokens in use at one time.
const TOKENS: u32 = 64;

/// Calls timed together, where the clock itself must not count.
const BATCH: u32 = 1_000;

/// A token that was seen before: look-up, expiry, revocation, audience, scopes, metrics. The floor is what no such memory
/// can do without: one hash over the token, one comparison with what is kept, one reading of the clock.
pub(crate) fn repeat(scale: Scale) -> Result<Comparison, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let fixture = Fixture::new(clock.now())?;
    let tokens: Vec<String> = (0..TOKENS)
        .map(|number| fixture.token(number, clock.now()))
        .collect::<Result<_, _>>()?;
    let verifier = verifier(&fixture, &clock)?;
    let path = MethodPath::parse("/bench.v1.Orders/Get")?;
    let decide = |token: &String| {
        let question = Question {
            token: Ok(token.as_bytes()),
            method: Some(path),
            peer_certificate: None,
        };
        verifier.decide(black_box(&question)).verdict.is_ok()
    };
    // The first time each is new, the second time it is known.
    if !tokens.iter().all(decide) || !tokens.iter().all(decide) {
        return Err("a good token was refused".into());
    }
    let kept = tokens.clone();
    let hasher = RandomState::new();
    let look = |token: &String, kept: &String| {
        let hash = hasher.hash_one(black_box(token.as_bytes()));
        let same = token == black_box(kept);
        black_box((hash, clock.now()));
        same
    };

    let mut timings = Timings::default();
    for _ in 0..scale.of(500) {
        let batch = || tokens.iter().zip(&kept).cycle().zip(0..BATCH);
        timings.floor.push(time(|| {
            black_box(batch().filter(|((token, kept), _)| look(token, kept)).count());
        }));
        timings.ours.push(time(|| {
            black_box(batch().filter(|((token, _), _)| decide(token)).count());
        }));
        for ((token, _), _) in batch() {
            timings.single.push(time(|| {
                black_box(decide(token));
            }));
            timings.nothing.push(time(|| ()));
        }
    }
    Ok(timings.comparison())
}

#[derive(Debug, Default)]
struct Timings {
    /// Batches of the floor.
    floor: Samples,
    /// Batches of ours.
    ours: Samples,
    /// Single calls, with two readings of the clock.
    single: Samples,
    /// Two readings of the clock.
    nothing: Samples,
}

impl Timings {
    fn comparison(mut self) -> Comparison {
        let floor = self.floor.percentile(500) / BATCH;
        let ours = self.ours.percentile(500) / BATCH;
        let p50 = self.single.percentile(500);
        Comparison {
            name: "verify-repeat",
            floor: Measured {
                what: "hash the token, compare it with the one kept, read the wall clock".to_owned(),
                value: nanos(floor),
                unit: "ns",
            },
            ours: Measured {
                what: "sidecar Verifier::decide, median of batches of 1000".to_owned(),
                value: nanos(ours),
                unit: "ns",
            },
            ratio: floor.as_secs_f64() / ours.as_secs_f64(),
            target: "p50 <= 1000 ns, aim 400 ns",
            met: Some(p50 <= Duration::from_micros(1)),
            details: BTreeMap::from([
                ("single_p50_ns", nanos(p50)),
                ("single_p99_ns", nanos(self.single.percentile(990))),
                ("single_p999_ns", nanos(self.single.percentile(999))),
                ("two_clock_readings_p50_ns", nanos(self.nothing.percentile(500))),
            ]),
        }
    }
}

fn verifier(fixture: &Fixture, clock: &Arc<dyn Clock>) -> Result<Verifier, Failure> {
    let hour = Duration::from_secs(3_600);
    let rules = UpdateRules {
        issuer: fixture.expected.issuer.clone(),
        max_revocations: 10_000,
        max_revocation_life: 3 * hour,
        leeway: fixture.expected.leeway,
    };
    let trust = TrustStore::new(rules, Arc::default(), Arc::clone(clock));
    trust.install_cached(fixture.state.clone(), Some(Duration::ZERO.into()))?;
    Ok(Verifier::new(
        Arc::new(trust),
        fixture.expected.clone(),
        MethodTable::new(fixture.requirements.clone()),
        TokenCache::new(4 << 20),
        DecisionMetrics::register(&mut Registry::default()),
    ))
}
