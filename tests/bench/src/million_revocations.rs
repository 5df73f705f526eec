//! A million single-token revocations: their bytes on the wire, what they take in a sidecar, and that they refuse those
//! tokens and no others.

use std::collections::{BTreeMap, HashSet};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::claims::{Claims, Confirmation, Subject};
use countersign_core::feed::snapshot;
use countersign_core::jose::Algorithm;
use countersign_core::key_set::KeySet;
use countersign_core::names::{ClientId, Issuer, TokenId, TokenSerial};
use countersign_core::ports::Clock as _;
use countersign_core::revocation::RevocationList;
use countersign_core::spiffe::TrustDomain;
use countersign_core::time::Timestamp;
use countersign_core::trust::TrustState;
use countersign_crypto::publishing::{Context, sign};
use countersign_crypto::{AwsLc, SigningKey};
use countersign_proto::admin::v1::RevokeRequest;
use countersign_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use countersign_proto::admin::v1::revoke_request::Subject as RevokedSubject;
use countersign_proto::trust::v1::Signed;
use countersign_runtime::SystemClock;
use countersign_wire::trust::write_update;
use prost::Message as _;
use tokio::time::sleep;

use crate::Failure;
use crate::fixture::{AUDIENCE, ISSUER, TRUST_DOMAIN};
use crate::installation::{Answer, Installation, Sidecar, Special};
use crate::measure::{Scale, cpu_time, float, nanos};
use crate::million::{self, Issued, MILLION, Random};
use crate::program::{Program, Resident};
use crate::report::{Comparison, Measured};

/// One in ten of the tokens that were issued is revoked.
const DENSE: Issued = Issued {
    tokens: 10_000_000,
    shards: 4,
};

/// One in a hundred, and a hundred million are not.
pub(crate) const SPARSE: Issued = Issued {
    tokens: 101_000_000,
    shards: 8,
};

/// Until a sidecar has confirmed, saved and cleared up what it was sent: more than two heartbeats.
const SETTLING: Duration = Duration::from_secs(5);

/// Tokens looked up in turns for the time of one check.
const TIMED: u64 = 1_000_000;

/// Everything about them.
pub(crate) fn million_revocations(scale: Scale) -> Result<Vec<Comparison>, Failure> {
    let revoked = scale.of_many(MILLION);
    let runtime = countersign_runtime::build(1)?;
    let none = runtime.block_on(held(&RevocationList::default()))?;
    let mut comparisons = Vec::new();
    for issued in [DENSE, SPARSE] {
        let issued = issued.scaled(scale);
        let list = issued.revocations(revoked, SystemClock.now());
        comparisons.push(on_the_wire(issued, &list)?);
        let with = runtime.block_on(held(&list))?;
        comparisons.push(resident(issued, &list, none, with));
    }
    comparisons.push(decided(SPARSE.scaled(scale), revoked)?);
    Ok(comparisons)
}

/// The signed snapshot, as a verifier receives and stores it, against the fewest bits that can tell which of the tokens are
/// revoked.
fn on_the_wire(issued: Issued, list: &RevocationList) -> Result<Comparison, Failure> {
    let keys = Arc::new(KeySet::new(Vec::new()));
    let state = TrustState::new(Issuer::parse(ISSUER)?, 1, keys, list.clone(), &AwsLc);
    let payload = write_update(&snapshot(&state, SystemClock.now()));
    let key = SigningKey::generate(Algorithm::EdDsa)?;
    let signed = Signed {
        signature: sign(&key, Context::Update, &payload)?.into(),
        key_id: key.key_id().to_string(),
        payload: payload.into(),
    };
    let ours = float(signed.encoded_len());
    let least = least_bytes(issued.tokens, list.len());
    Ok(Comparison {
        name: "revocations-on-the-wire",
        floor: Measured {
            what: "the fewest bytes that can tell which tokens are revoked, without when each entry ends"
                .to_owned(),
            value: least,
            unit: "bytes",
        },
        ours: Measured {
            what: format!("a signed snapshot with {}", described(issued, list)),
            value: ours,
            unit: "bytes",
        },
        ratio: ours / least,
        target: "<= 2500000 bytes",
        met: Some(ours <= 2.5e6),
        details: BTreeMap::from([("bytes_per_entry", ours / float(list.len()))]),
    })
}

/// The logarithm of the number of ways to choose `revoked` of `issued`, as near as makes no difference: the entropy of a coin
/// for each.
fn least_bytes(issued: u64, revoked: usize) -> f64 {
    let issued = float(issued);
    let share = float(revoked) / issued;
    let entropy = -share * share.log2() - (1.0 - share) * (1.0 - share).log2();
    issued * entropy / 8.0
}

fn described(issued: Issued, list: &RevocationList) -> String {
    format!(
        "{} of {} tokens of {} shards, ends mixed",
        list.len(),
        issued.tokens,
        issued.shards
    )
}

/// An authority that has `list` in its store, and a sidecar that has it from there.
pub(crate) struct Running {
    pub(crate) installation: Installation,
    pub(crate) authority: Program,
    pub(crate) sidecar: Sidecar,
    pub(crate) process: Program,
    /// A token that is good.
    pub(crate) good: String,
    /// One that is revoked.
    pub(crate) revoked: String,
}

impl Running {
    /// Starts both and waits until the sidecar decides, and has nothing left to do.
    pub(crate) async fn start(list: &RevocationList) -> Result<Self, Failure> {
        let installation = Installation::make(Special::default()).await?;
        million::store(&installation.authority_config()?, list).await?;
        let authority = installation.start_authority()?;
        installation.register().await?;
        let sidecar = installation.sidecar("one")?;
        let process = sidecar.start()?;
        let (good, revoked) = (installation.token().await?, installation.token().await?);
        sidecar.decides(&good, Answer::Allowed).await?;
        RevocationServiceClient::new(installation.as_operator()?)
            .revoke(RevokeRequest {
                subject: Some(RevokedSubject::Token(revoked.clone())),
                ..RevokeRequest::default()
            })
            .await?;
        sidecar.decides(&revoked, Answer::Refused(REVOKED)).await?;
        sleep(SETTLING).await;
        Ok(Self {
            installation,
            authority,
            sidecar,
            process,
            good,
            revoked,
        })
    }
}

/// How a sidecar refuses a single token that is revoked.
pub(crate) const REVOKED: &str = "token_revoked";

/// What a sidecar has in memory.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// After it was sent everything.
    sent: Resident,
    /// After it found everything on disk.
    found: Resident,
}

async fn held(list: &RevocationList) -> Result<Held, Failure> {
    let mut running = Running::start(list).await?;
    let sent = running.process.resident()?;
    running.authority.kill()?;
    running.process.kill()?;
    running.process = running.sidecar.start()?;
    let refused = Answer::Refused(REVOKED);
    running.sidecar.decides(&running.revoked, refused).await?;
    running.sidecar.decides(&running.good, Answer::Allowed).await?;
    sleep(SETTLING).await;
    let found = running.process.resident()?;
    Ok(Held { sent, found })
}

/// The sidecar's process with the list, against the same without. What the same tokens take in a hash set and in a sorted
/// array of numbers of 128 bits is beside it.
fn resident(issued: Issued, list: &RevocationList, none: Held, with: Held) -> Comparison {
    let more = |with: u64, none: u64| float(with) - float(none);
    let sent = more(with.sent.all, none.sent.all);
    let found = more(with.found.all, none.found.all);
    let ours = sent.max(found);
    let (set, sorted) = (peer_set(issued, list.len()), list.len());
    // A slot is the number and one byte; there are an eighth more slots than fit.
    let set_bytes = float(set.capacity()) * 8.0 / 7.0 * 17.0;
    Comparison {
        name: "revocations-resident",
        floor: Measured {
            what: "resident memory of the sidecar without revocations".to_owned(),
            value: float(none.sent.all),
            unit: "bytes",
        },
        ours: Measured {
            what: format!("what it takes more with {}", described(issued, list)),
            value: ours,
            unit: "bytes",
        },
        ratio: ours / float(none.sent.all),
        target: "<= 16000000 bytes more",
        met: Some(ours <= 16e6),
        details: BTreeMap::from([
            ("more_when_sent_bytes", sent),
            ("more_when_found_on_disk_bytes", found),
            (
                "more_anonymous_when_sent_bytes",
                more(with.sent.anonymous, none.sent.anonymous),
            ),
            (
                "more_anonymous_when_found_bytes",
                more(with.found.anonymous, none.found.anonymous),
            ),
            ("resident_when_sent_bytes", float(with.sent.all)),
            ("resident_when_found_bytes", float(with.found.all)),
            ("peer_hash_set_bytes", set_bytes),
            ("peer_sorted_array_bytes", float(sorted) * 16.0),
        ]),
    }
}

fn number(serial: TokenSerial) -> u128 {
    u128::from(serial.shard) << 64 | u128::from(serial.sequence)
}

fn peer_set(issued: Issued, revoked: usize) -> HashSet<u128> {
    let fates = issued.fates(revoked.try_into().unwrap_or_default());
    fates
        .filter(|fate| fate.revoked)
        .map(|fate| number(fate.serial))
        .collect()
}

/// Every token that was issued is checked as the sidecar checks it; and the time of one check, against a hash set.
fn decided(issued: Issued, revoked: u64) -> Result<Comparison, Failure> {
    let list = issued.revocations(revoked, SystemClock.now());
    let mut claims = claims()?;
    let (mut refused_wrongly, mut passed_wrongly, mut probes) = (0_u64, 0_u64, 0_u64);
    let took = cpu_time(|| {
        for fate in issued.fates(revoked) {
            claims.token_id = fate.serial.into();
            let refused = list.check(&claims).is_err();
            refused_wrongly += u64::from(refused && !fate.revoked);
            passed_wrongly += u64::from(!refused && fate.revoked);
            probes += u64::from(!fate.revoked);
        }
    });
    let set = peer_set(issued, list.len());
    let mut sorted: Vec<u128> = set.iter().copied().collect();
    sorted.sort_unstable();
    let mut asked = asked(issued);
    let in_set = each(&mut asked, |token| set.contains(&numbered(token)));
    let in_array = each(&mut asked, |token| sorted.binary_search(&numbered(token)).is_ok());
    let ours = each(&mut asked, |token| {
        std::mem::swap(&mut claims.token_id, token);
        list.check(&claims).is_err()
    });
    if ours.found != in_set.found || ours.found != in_array.found {
        return Err("the list, the set and the array do not hold the same".into());
    }
    Ok(Comparison {
        name: "revocations-decided",
        floor: Measured {
            what: "one look-up in a hash set of numbers".to_owned(),
            value: in_set.nanos,
            unit: "ns",
        },
        ours: Measured {
            what: format!(
                "one check of a token's claims against {}",
                described(issued, &list)
            ),
            value: ours.nanos,
            unit: "ns",
        },
        ratio: ours.nanos / in_set.nanos,
        target: "of a hundred million others none is refused, and every one that is revoked is",
        met: Some(refused_wrongly == 0 && passed_wrongly == 0),
        details: BTreeMap::from([
            ("others_probed", float(probes)),
            ("others_refused", float(refused_wrongly)),
            ("revoked_probed", float(list.len())),
            ("revoked_passed", float(passed_wrongly)),
            ("probing_all_cpu_s", took.as_secs_f64()),
            ("sorted_array_ns", in_array.nanos),
        ]),
    })
}

/// What looking up all the tokens asked about came to.
struct Looked {
    nanos: f64,
    found: usize,
}

fn each(asked: &mut [TokenId], mut look: impl FnMut(&mut TokenId) -> bool) -> Looked {
    let mut found = 0;
    let took = cpu_time(|| {
        found = asked
            .iter_mut()
            .map(|token| black_box(look(token)))
            .filter(|held| *held)
            .count()
    });
    Looked {
        nanos: nanos(took) / float(asked.len()),
        found,
    }
}

/// Tokens that were issued, in no order, so that little of what is looked up is in the processor's caches.
fn asked(issued: Issued) -> Vec<TokenId> {
    let mut random = Random(7);
    (0..TIMED)
        .map(|_| issued.serial(random.below(issued.tokens)).into())
        .collect()
}

fn numbered(token: &TokenId) -> u128 {
    token.serial().map_or(0, number)
}

fn claims() -> Result<Claims, Failure> {
    let client_id = ClientId::parse("billing")?;
    Ok(Claims {
        issuer: ISSUER.to_owned(),
        subject: Subject {
            trust_domain: TrustDomain::parse(TRUST_DOMAIN)?,
            client_id: client_id.clone(),
        },
        audiences: vec![AUDIENCE.to_owned()],
        client_id,
        expires_at: Timestamp::default(),
        issued_at: Timestamp::default(),
        not_before: None,
        token_id: TokenId::parse("0.0")?,
        scopes: Vec::new(),
        roles: Vec::new(),
        confirmation: Confirmation::Unbound,
    })
}
