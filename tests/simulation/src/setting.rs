//! Who takes part in a run, and what all of them know from the start.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::fleet::VerifierKey;
use countersign_core::key_set::KeySet;
use countersign_core::names::{Audience, ClassName, Issuer, KeyId, VerifierId};
use countersign_core::requirements::Requirements;
use countersign_core::revocation::RevocationList;
use countersign_core::rotation::RotationPolicy;
use countersign_core::spiffe::{SpiffeId, TrustDomain};
use countersign_core::staleness::{ClassBudget, StalenessBudget};
use countersign_core::trust::{TrustState, UpdateRules};
use countersign_core::verifying::Expectations;

use crate::authority::{Authority, Books, LEEWAY};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::network::Link;
use crate::plan::Plan;
use crate::random::Random;
use crate::toy::{ToyHash, ToyKey};
use crate::verifier::Verifier;

/// The names of clients.
pub(crate) const CLIENTS: [&str; 3] = ["orders", "stock", "mail"];

pub(crate) fn issuer() -> Issuer {
    Issuer::parse("https://authority.example").expect("an issuer")
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

pub(crate) fn audience() -> Audience {
    Audience::parse("service").expect("an audience")
}

/// The publishing key that every verifier has pinned.
pub(crate) fn first_publisher() -> KeyId {
    ToyKey::numbered(0).key_id().clone()
}

fn budgets(plan: &Plan) -> Arc<[ClassBudget]> {
    let class = |(name, seconds): (&str, u64)| ClassBudget {
        class: ClassName::parse(name).expect("a class"),
        budget: StalenessBudget::both(Duration::from_secs(seconds)),
    };
    let [normal, tolerant] = plan.budgets;
    [("strict", 0), ("normal", normal), ("tolerant", tolerant)]
        .map(class)
        .into()
}

/// The authority, the verifiers, and the ways between them.
pub(crate) fn people(plan: &Plan, random: &mut Random) -> (Authority, Vec<Verifier>, Vec<Link>) {
    let authority = authority(plan, random);
    let verifiers = (0..plan.verifiers).map(|index| verifier(plan, index, random));
    let verifiers = verifiers.collect();
    let links = (0..plan.verifiers).map(|_| Link::new(plan.delay)).collect();
    (authority, verifiers, links)
}

fn drift(plan: &Plan, random: &mut Random) -> i64 {
    let most = u64::try_from(plan.drift).unwrap_or_default();
    i64::try_from(random.within(0, 2 * most)).unwrap_or_default() - plan.drift
}

fn authority(plan: &Plan, random: &mut Random) -> Authority {
    let nothing = TrustState::new(
        issuer(),
        1,
        Arc::new(KeySet::default()),
        RevocationList::default(),
        &ToyHash,
    );
    Authority {
        clock: Clock::new(drift(plan, random), 0),
        stored: Books::new(nothing),
        pending: None,
        process: None,
        life: 0,
        paused_until: Duration::ZERO,
        lease: plan.lease,
        policy: RotationPolicy {
            lifetime: plan.key_lifetime,
            propagation: Duration::from_secs(5),
            retention: plan.max_lifetime + LEEWAY,
        },
        max_lifetime: plan.max_lifetime,
        keys_made: 0,
    }
}

fn verifier(plan: &Plan, index: usize, random: &mut Random) -> Verifier {
    let budgets = budgets(plan);
    let requirements = |class: &ClassBudget| Requirements {
        scopes: Vec::new(),
        bound: false,
        class: Arc::new(class.clone()),
    };
    // Right to a second, or wrong by minutes until the authority is heard.
    let ahead = if random.chance(700) {
        random.within(0, 1000)
    } else {
        random.within(0, 200_000)
    };
    let ahead = i64::try_from(ahead).unwrap_or_default();
    let ahead = if random.chance(500) { ahead } else { -ahead };
    Verifier {
        key: VerifierKey {
            spiffe_id: SpiffeId::parse(&format!("spiffe://example.org/verifier-{index}")).expect("an id"),
            verifier_id: VerifierId::parse("one").expect("an id"),
        },
        pinned: first_publisher(),
        clock: Clock::new(drift(plan, random), ahead),
        disk: Disk::default(),
        process: None,
        life: 0,
        paused_until: Duration::ZERO,
        classes: budgets.iter().map(requirements).collect(),
        budgets,
        rules: UpdateRules {
            issuer: issuer(),
            max_revocations: 10_000,
            max_revocation_life: Duration::from_secs(1000),
            leeway: LEEWAY,
        },
        expected: Expectations {
            issuer: issuer(),
            trust_domain: trust_domain(),
            audience: audience(),
            max_lifetime: plan.max_lifetime,
            leeway: LEEWAY,
            several_audiences: false,
        },
        period: plan.period,
        longest_session: Duration::from_secs(random.within(40, 400)),
        disk_millis: plan.disk_millis,
        half_reads: false,
    }
}
