//! Starts with a million revocations: of a sidecar that finds them on disk while the authority is away, and of the authority
//! that finds them in its store.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use countersign_core::ports::Clock as _;
use countersign_core::revocation::RevocationList;
use countersign_runtime::SystemClock;
use tokio::time::Instant;

use crate::Failure;
use crate::child::{self, Child};
use crate::installation::Answer;
use crate::measure::{Samples, Scale, float, micros};
use crate::million::MILLION;
use crate::million_revocations::{REVOKED, Running, SPARSE};
use crate::report::{Comparison, Measured};

/// Starts of each kind.
const STARTS: u32 = 30;

/// Both.
pub(crate) fn cold_start(scale: Scale) -> Result<Vec<Comparison>, Failure> {
    let list = SPARSE.scaled(scale);
    let list = list.revocations(scale.of_many(MILLION), SystemClock.now());
    let runtime = countersign_runtime::build(1)?;
    let none = runtime.block_on(Starts::of(&RevocationList::default(), scale))?;
    let with = runtime.block_on(Starts::of(&list, scale))?;
    Ok(with.comparisons(none))
}

/// How long starts took.
#[derive(Debug, Default)]
struct Starts {
    /// A process that reads the same bytes from disk.
    reading: Samples,
    /// A sidecar, until it has decided twice and was right.
    sidecar: Samples,
    /// The processor time that the sidecar used meanwhile.
    used: Samples,
    /// An authority, until it has issued a token.
    authority: Samples,
    /// What the sidecar has on disk.
    bytes: u64,
}

impl Starts {
    async fn of(list: &RevocationList, scale: Scale) -> Result<Self, Failure> {
        let mut running = Running::start(list).await?;
        let mut starts = Self::default();
        for _ in 0..scale.of(STARTS) {
            running.authority.kill()?;
            let start = Instant::now();
            running.authority = running.installation.start_authority()?;
            running.installation.token().await?;
            starts.authority.push(start.elapsed());
        }
        running.authority.kill()?;
        // The first start clears up after an end that was none of its own making.
        for is_counted in std::iter::once(false).chain((0..scale.of(STARTS)).map(|_| true)) {
            running.process.kill()?;
            let sidecar = starts.start_sidecar(&mut running).await?;
            let used = running.process.cpu()?;
            let reading = read(&running.sidecar.state)?;
            if is_counted {
                starts.used.push(used);
                starts.sidecar.push(sidecar);
                starts.reading.push(reading);
            }
        }
        starts.bytes = bytes_in(&running.sidecar.state)?;
        Ok(starts)
    }

    async fn start_sidecar(&self, running: &mut Running) -> Result<Duration, Failure> {
        let start = Instant::now();
        running.process = running.sidecar.start()?;
        let refused = Answer::Refused(REVOKED);
        running.sidecar.decides(&running.revoked, refused).await?;
        running.sidecar.decides(&running.good, Answer::Allowed).await?;
        Ok(start.elapsed())
    }

    fn comparisons(mut self, mut none: Self) -> Vec<Comparison> {
        let (floor, ours) = (self.reading.percentile(500), self.sidecar.percentile(500));
        let ratio = ours.as_secs_f64() / floor.as_secs_f64();
        let (bare, authority) = (none.authority.percentile(500), self.authority.percentile(500));
        vec![
            Comparison {
                name: "cold-start",
                floor: Measured {
                    what: "p50 from the start of a process to when it has read the same bytes from disk".to_owned(),
                    value: millis(floor),
                    unit: "ms",
                },
                ours: Measured {
                    what: "p50 from the start of a sidecar that was killed, with a million revocations on disk and the authority \
                           away, to when it has refused a revoked token and let a good one pass"
                        .to_owned(),
                    value: millis(ours),
                    unit: "ms",
                },
                ratio,
                target: "<= 150 ms",
                met: Some(ours <= Duration::from_millis(150)),
                details: BTreeMap::from([
                    ("starts", float(self.sidecar.len())),
                    ("fastest_ms", millis(self.sidecar.percentile(0))),
                    ("p90_ms", millis(self.sidecar.percentile(900))),
                    ("worst_ms", millis(self.sidecar.percentile(1000))),
                    ("cpu_p50_ms", millis(self.used.percentile(500))),
                    ("without_revocations_cpu_p50_ms", millis(none.used.percentile(500))),
                    ("without_revocations_p50_ms", millis(none.sidecar.percentile(500))),
                    ("on_disk_bytes", float(self.bytes)),
                ]),
            },
            Comparison {
                name: "authority-start",
                floor: Measured {
                    what: "p50 of the same with no revocations".to_owned(),
                    value: millis(bare),
                    unit: "ms",
                },
                ours: Measured {
                    what: "p50 from the start of an authority that was killed, with a million revocations in its store, to when it \
                           has issued a token"
                        .to_owned(),
                    value: millis(authority),
                    unit: "ms",
                },
                ratio: authority.as_secs_f64() / bare.as_secs_f64(),
                target: "none",
                met: None,
                details: BTreeMap::from([
                    ("p90_ms", millis(self.authority.percentile(900))),
                    ("worst_ms", millis(self.authority.percentile(1000))),
                ]),
            },
        ]
    }
}

fn millis(duration: Duration) -> f64 {
    micros(duration) / 1000.0
}

fn read(folder: &Path) -> Result<Duration, Failure> {
    let arguments = ["--folder".to_owned(), folder.display().to_string()];
    let start = Instant::now();
    let child = Child::start("reader", &arguments, None)?;
    let took = start.elapsed();
    drop(child);
    Ok(took)
}

/// In the process: reads every file in `folder`, and says so.
pub(crate) fn read_all(folder: &Path) -> Result<(), Failure> {
    let mut bytes = 0;
    visit(folder, &mut |file| {
        bytes += fs::read(file)?.len();
        Ok(())
    })?;
    std::hint::black_box(bytes);
    child::report(([127, 0, 0, 1], 0).into(), None)
}

fn bytes_in(folder: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    visit(folder, &mut |file| {
        bytes += fs::metadata(file)?.len();
        Ok(())
    })?;
    Ok(bytes)
}

fn visit(folder: &Path, see: &mut impl FnMut(&Path) -> Result<(), Failure>) -> Result<(), Failure> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            visit(&path, see)?;
        } else {
            see(&path)?;
        }
    }
    Ok(())
}
