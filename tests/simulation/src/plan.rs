//! What goes wrong in a run: each seed turns some faults on and others off, at rates of its own (swarm testing).
//!
//! A run that has everything in it at once hides as much as it shows: with a partition in every second, no rotation ever
//! completes. So each kind is off in about half of the runs, and frequent in some.

use std::time::Duration;

use crate::random::Random;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Nothing gets through in one direction for a while.
    OneWay,
    /// Nothing gets through at all for a while.
    Partition,
    /// A stream breaks, and what was under way is lost.
    Cut,
    /// A verifier stands still and goes on.
    Pause,
    /// A verifier's process dies.
    Crash,
    /// A verifier's machine starts anew; its wall clock may be wrong then.
    Reboot,
    /// A verifier stops in good order.
    Leave,
    /// The wall clock of a verifier is set.
    WallStep,
    /// The disk of a verifier fails until its next start.
    DiskFails,
    /// A record, or the floor, or both are lost at a crash.
    DiskLoses,
    /// An older copy of the records is put back, the floor stays.
    RecordsPutBack,
    /// An older copy of all of it is put back.
    DirectoryPutBack,
    /// The authority stands still and goes on.
    AuthorityPause,
    /// The authority dies, also in the middle of a commit.
    AuthorityCrash,
    /// The authority is away for long.
    Outage,
    /// The authority's clock is set by some seconds.
    AuthorityStep,
    /// The authority's clock is set far ahead, and back.
    AuthorityLeap,
    /// The authority's store is put back to an older copy.
    StorePutBack,
    /// Another authority of the same name and keys runs on a copy of the store.
    Twin,
    /// Somebody on the way repeats old heartbeats.
    HeartbeatReplayed,
    /// Somebody on the way repeats old updates.
    UpdateReplayed,
    /// A verifier does not understand some revocations.
    HalfReads,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 22] = [
        Self::OneWay,
        Self::Partition,
        Self::Cut,
        Self::Pause,
        Self::Crash,
        Self::Reboot,
        Self::Leave,
        Self::WallStep,
        Self::DiskFails,
        Self::DiskLoses,
        Self::RecordsPutBack,
        Self::DirectoryPutBack,
        Self::AuthorityPause,
        Self::AuthorityCrash,
        Self::Outage,
        Self::AuthorityStep,
        Self::AuthorityLeap,
        Self::StorePutBack,
        Self::Twin,
        Self::HeartbeatReplayed,
        Self::UpdateReplayed,
        Self::HalfReads,
    ];

    /// How many runs of a thousand have it: less for those after which little can be promised.
    const fn in_runs(self) -> u64 {
        match self {
            Self::StorePutBack | Self::Twin | Self::AuthorityLeap => 60,
            Self::HalfReads | Self::DirectoryPutBack | Self::AuthorityStep => 150,
            Self::Reboot | Self::WallStep | Self::Outage | Self::UpdateReplayed | Self::HeartbeatReplayed => {
                300
            }
            Self::OneWay
            | Self::Partition
            | Self::Cut
            | Self::Pause
            | Self::Crash
            | Self::Leave
            | Self::DiskFails
            | Self::DiskLoses
            | Self::RecordsPutBack
            | Self::AuthorityPause
            | Self::AuthorityCrash => 450,
        }
    }
}

/// How a run goes.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) verifiers: usize,
    pub(crate) lasts: Duration,
    /// Faults that happen, and how often on average.
    pub(crate) faults: Vec<(Fault, Duration)>,
    /// When faults stop, in a run that is about getting well again.
    pub(crate) calm_from: Option<Duration>,
    pub(crate) lease: Duration,
    /// Budgets of the classes after `strict`, in seconds.
    pub(crate) budgets: [u64; 2],
    pub(crate) max_lifetime: Duration,
    pub(crate) period: Duration,
    pub(crate) delay: (u64, u64),
    pub(crate) disk_millis: (u64, u64),
    pub(crate) drift: i64,
    pub(crate) key_lifetime: Option<Duration>,
    pub(crate) issue_every: Duration,
    pub(crate) show_every: Duration,
    pub(crate) operate_every: Duration,
    /// How often publishing keys are looked after, in a run that is also about those.
    pub(crate) publish_every: Option<Duration>,
    /// How often trust files are exported and verifiers replaced, in a run that is also about those.
    pub(crate) export_every: Option<Duration>,
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn draw(random: &mut Random) -> Self {
        let is_calm = random.chance(250);
        let lasts = Duration::from_secs(random.within(150, 450));
        let mut faults = Vec::new();
        for fault in Fault::ALL {
            let every = Duration::from_secs(*random.pick(&[8, 20, 50, 120]));
            if random.chance(fault.in_runs()) && !(is_calm && fault.is_for_good()) {
                faults.push((fault, every));
            }
        }
        let disk_millis = *random.pick(&[(0, 1), (1, 30), (5, 600), (1, 2500)]);
        // Epochs come more slowly than the slowest disk takes them.
        let operators_rest = if disk_millis == (1, 2500) { 8000 } else { 2000 };
        Self {
            verifiers: usize::try_from(random.within(2, 5)).unwrap_or(2),
            lasts: if is_calm {
                lasts + Duration::from_secs(400)
            } else {
                lasts
            },
            faults,
            calm_from: is_calm.then_some(lasts),
            lease: Duration::from_secs(random.within(4, 12)),
            budgets: [random.within(5, 30), random.within(30, 90)],
            max_lifetime: Duration::from_secs(random.within(60, 150)),
            period: Duration::from_millis(*random.pick(&[1000, 2000, 3000])),
            delay: *random.pick(&[(1, 2), (1, 20), (5, 100), (20, 1500)]),
            disk_millis,
            drift: *random.pick(&[0, 50, 200]),
            key_lifetime: random
                .chance(800)
                .then(|| Duration::from_secs(random.within(20, 120))),
            issue_every: Duration::from_millis(random.within(400, 4000)),
            show_every: Duration::from_millis(random.within(150, 800)),
            operate_every: Duration::from_millis(random.within(operators_rest, 20_000)),
            publish_every: None,
            export_every: None,
        }
    }

    /// The same with publishing keys that are replaced, in half of the runs. Not where a store is put back or copied: to an
    /// authority whose links are others than those that verifiers followed, the way back is a new pin, which nobody hands out here.
    pub(crate) fn with_publishing(mut self, random: &mut Random) -> Self {
        // Not more links than an authority keeps, in the longest of runs.
        let every = Duration::from_secs(*random.pick(&[6, 12, 24]));
        let takes_part = random.chance(500) && !self.has(&[Fault::StorePutBack, Fault::Twin]);
        self.publish_every = takes_part.then_some(every);
        self
    }

    /// The same with trust files, in a third of the runs. Not where a store is put back or copied, or the authority's clock is set
    /// far ahead: what was exported then is in no store, or has a time that never was.
    pub(crate) fn with_exports(mut self, random: &mut Random) -> Self {
        let every = Duration::from_secs(*random.pick(&[4, 8, 16]));
        let unwanted = [Fault::StorePutBack, Fault::Twin, Fault::AuthorityLeap];
        let takes_part = random.chance(350) && !self.has(&unwanted);
        self.export_every = takes_part.then_some(every);
        self
    }

    fn has(&self, some: &[Fault]) -> bool {
        self.faults.iter().any(|(fault, _)| some.contains(fault))
    }
}

impl Fault {
    /// Whether what it does is not over when faults stop.
    const fn is_for_good(self) -> bool {
        matches!(self, Self::AuthorityLeap | Self::HalfReads | Self::AuthorityStep)
    }
}
