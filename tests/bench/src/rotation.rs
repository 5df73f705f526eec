//! Rotation under load: tokens are issued and verified without a pause while keys follow each other, sidecars are stopped for
//! seconds and killed, and the authority is killed. Not one verification of a good token may fail.

mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_proto::admin::v1::key_service_client::KeyServiceClient;
use countersign_proto::admin::v1::{ActivateKeyRequest, KeyState, ListKeysRequest, PrepareKeyRequest};
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Code;
use tonic::transport::Channel;

use crate::Failure;
use crate::installation::{Answer, Installation, PATIENCE, Sidecar, Special};
use crate::measure::{Samples, Scale, float, micros};
use crate::program::Program;
use crate::report::{Comparison, Measured};
use traffic::{Counts, Traffic};

/// A key stays published for as long as its last token may live, and there are at most 48, so that a hundred rotations within an
/// hour take more than one authority.
const INSTALLATIONS: u32 = 3;
const ROTATIONS: u32 = 34;

const SIDECARS: usize = 3;

/// How many verifications there are at least, in each installation.
const VERIFICATIONS: u64 = 350_000;

/// How long a laggard is stopped.
const STOPPED: Duration = Duration::from_secs(3);

/// How often is asked whether a key may sign, or does.
const LOOK: Duration = Duration::from_millis(20);

/// What happens during a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    None,
    /// A sidecar is stopped before the key is published, and goes on after a while.
    Laggard,
    /// A sidecar is killed when the key is published, and started again.
    SidecarKilled,
    /// The authority is killed when the key is published, and started again.
    AuthorityKilled,
}

impl Trouble {
    /// That of the rotation with this number.
    const fn of(rotation: u32) -> Self {
        match rotation % 10 {
            1 | 6 => Self::Laggard,
            3 | 8 => Self::SidecarKilled,
            5 => Self::AuthorityKilled,
            _ => Self::None,
        }
    }
}

/// What rotations came to.
#[derive(Debug, Default)]
struct Rotations {
    /// How long each took, from before the key is made to when it signs.
    took: BTreeMap<Trouble, Samples>,
    /// How long the key was not allowed to sign because of somebody who did not hold it.
    waited: Samples,
}

/// A million verifications over a hundred rotations.
pub(crate) fn rotation(scale: Scale) -> Result<Comparison, Failure> {
    let runtime = countersign_runtime::build(1)?;
    let mut rotations = Rotations::default();
    let counts = Arc::new(Counts::default());
    for number in 0..INSTALLATIONS {
        let enough = scale.of_many(VERIFICATIONS) * u64::from(number + 1);
        runtime.block_on(async {
            let mut installed = Installed::start(&counts).await?;
            for rotation in 0..scale.of(ROTATIONS).max(6) {
                installed.rotate(Trouble::of(rotation), &mut rotations).await?;
            }
            installed.end(enough).await
        })?;
    }
    let aimed_at = scale.of_many(VERIFICATIONS) * u64::from(INSTALLATIONS);
    Ok(comparison(rotations, &counts, aimed_at))
}

/// An installation that issues and verifies.
struct Installed {
    installation: Installation,
    authority: Program,
    sidecars: Vec<(Sidecar, Program)>,
    keys: KeyServiceClient<Channel>,
    traffic: Arc<Traffic>,
    running: JoinSet<Result<(), Failure>>,
    /// Whose turn it is to be in trouble.
    turn: usize,
}

impl Installed {
    async fn start(counts: &Arc<Counts>) -> Result<Self, Failure> {
        let installation = Installation::make(Special {
            keys: "activation_lead = \"1s\"",
        })
        .await?;
        let authority = installation.start_authority()?;
        installation.register().await?;
        let first = installation.token().await?;
        let mut sidecars = Vec::new();
        for number in 0..SIDECARS {
            let sidecar = installation.sidecar(&format!("number-{number}"))?;
            let process = sidecar.start()?;
            sidecar.decides(&first, Answer::Allowed).await?;
            sidecars.push((sidecar, process));
        }
        let traffic = Arc::new(Traffic::new(&first, SIDECARS, Arc::clone(counts)));
        let mut running = JoinSet::new();
        running.spawn(Arc::clone(&traffic).issue(installation.as_client()?));
        for (number, (sidecar, _)) in sidecars.iter().enumerate() {
            traffic.verify(number, sidecar, &mut running);
        }
        Ok(Self {
            keys: KeyServiceClient::new(installation.as_operator()?),
            installation,
            authority,
            sidecars,
            traffic,
            running,
            turn: 0,
        })
    }

    /// Ends when there were `enough` verifications.
    async fn end(mut self, enough: u64) -> Result<(), Failure> {
        while self.traffic.counts.verified() < enough {
            sleep(LOOK).await;
        }
        self.traffic.stop();
        while let Some(ended) = self.running.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn rotate(&mut self, trouble: Trouble, rotations: &mut Rotations) -> Result<(), Failure> {
        let victim = self.turn % SIDECARS;
        self.turn += usize::from(trouble != Trouble::None);
        let start = Instant::now();
        if trouble == Trouble::Laggard {
            self.victim(victim)?.1.signal(Signal::STOP)?;
        }
        let prepared = self.keys.prepare_key(PrepareKeyRequest::default()).await?;
        let kid = prepared.into_inner().key.ok_or("no key")?.kid;
        match trouble {
            Trouble::SidecarKilled => self.restart_sidecar(victim).await?,
            Trouble::AuthorityKilled => {
                self.traffic.authority_is_down(true);
                self.authority.kill()?;
                self.authority = self.installation.start_authority()?;
                self.keys = KeyServiceClient::new(self.installation.as_operator()?);
            }
            Trouble::None | Trouble::Laggard => {}
        }
        let mut keys = self.keys.clone();
        let goes_on = async {
            if trouble == Trouble::Laggard {
                sleep(STOPPED).await;
                self.sidecars
                    .get(victim)
                    .ok_or("no such sidecar")?
                    .1
                    .signal(Signal::CONT)?;
            }
            Ok::<_, Failure>(())
        };
        let (waited, woken) = tokio::join!(activated(&mut keys, &kid), goes_on);
        woken?;
        rotations.waited.push(waited?);
        self.traffic.authority_is_down(false);
        rotations.took.entry(trouble).or_default().push(start.elapsed());
        Ok(())
    }

    fn victim(&mut self, number: usize) -> Result<&mut (Sidecar, Program), Failure> {
        self.sidecars
            .get_mut(number)
            .ok_or_else(|| "no such sidecar".into())
    }

    async fn restart_sidecar(&mut self, number: usize) -> Result<(), Failure> {
        let (traffic, token) = (Arc::clone(&self.traffic), self.traffic.latest());
        let (sidecar, process) = self.victim(number)?;
        traffic.sidecar_is_down(number, true);
        process.kill()?;
        *process = sidecar.start()?;
        sidecar.decides(&token, Answer::Allowed).await?;
        traffic.sidecar_is_down(number, false);
        Ok(())
    }
}

/// Lets `kid` sign as soon as it may, and waits until it does. How long it was not allowed to.
async fn activated(keys: &mut KeyServiceClient<Channel>, kid: &str) -> Result<Duration, Failure> {
    let start = Instant::now();
    let request = ActivateKeyRequest {
        kid: kid.to_owned(),
        ..ActivateKeyRequest::default()
    };
    while let Err(status) = keys.activate_key(request.clone()).await {
        let may_come = matches!(status.code(), Code::FailedPrecondition | Code::Unavailable);
        if !may_come || start.elapsed() > PATIENCE {
            return Err(status.into());
        }
        sleep(LOOK).await;
    }
    let waited = start.elapsed();
    while !signs(keys, kid).await? {
        sleep(LOOK).await;
    }
    Ok(waited)
}

async fn signs(keys: &mut KeyServiceClient<Channel>, kid: &str) -> Result<bool, Failure> {
    let listed = keys.list_keys(ListKeysRequest {}).await?.into_inner().keys;
    Ok(listed
        .iter()
        .any(|key| key.kid == kid && key.state() == KeyState::Active))
}

fn comparison(mut rotations: Rotations, counts: &Counts, aimed_at: u64) -> Comparison {
    let number: usize = rotations.took.values().map(Samples::len).sum();
    let mut took = |trouble, per_mille| {
        let samples = rotations.took.entry(trouble).or_default();
        micros(samples.percentile(per_mille)) / 1000.0
    };
    let mut details = BTreeMap::from([
        ("rotations", float(number)),
        ("plain_p50_ms", took(Trouble::None, 500)),
        ("plain_worst_ms", took(Trouble::None, 1000)),
        ("laggard_p50_ms", took(Trouble::Laggard, 500)),
        ("sidecar_killed_p50_ms", took(Trouble::SidecarKilled, 500)),
        ("authority_killed_p50_ms", took(Trouble::AuthorityKilled, 500)),
        ("authority_killed_worst_ms", took(Trouble::AuthorityKilled, 1000)),
        (
            "gate_waited_p50_ms",
            micros(rotations.waited.percentile(500)) / 1000.0,
        ),
        (
            "gate_waited_worst_ms",
            micros(rotations.waited.percentile(1000)) / 1000.0,
        ),
    ]);
    details.extend(counts.details());
    let (failed, verified) = (float(counts.failed()), float(counts.verified()));
    Comparison {
        name: "rotation",
        floor: Measured {
            what: "verifications of good tokens".to_owned(),
            value: verified,
            unit: "verifications",
        },
        ours: Measured {
            what: format!(
                "those of them that failed over {number} rotations, with sidecars stopped and killed and the authority killed{}",
                counts.first_failure()
            ),
            value: failed,
            unit: "verifications",
        },
        ratio: failed / verified,
        target: "0 of 1000000 over 100 rotations",
        met: Some(counts.failed() == 0 && counts.verified() >= aimed_at),
        details,
    }
}
