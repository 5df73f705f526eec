//! One run: what happens when, in true time, to whom.
//!
//! Everything that happens is an event in one queue, in the order of time and, at one time, of when it was put there. Whoever
//! stands still gets what comes when it goes on. After each event the invariants are checked for those it concerned.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use countersign_core::Timestamp;

use crate::authority::Authority;
use crate::invariants::Violation;
use crate::model::Model;
use crate::network::{Network, StreamId, Way};
use crate::plan::{Fault, Plan};
use crate::random::Random;
use crate::verifier::{Look, Verifier};

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    Deliver {
        stream: StreamId,
        way: Way,
    },
    Connect {
        verifier: usize,
        life: u64,
    },
    OpenTimeout {
        verifier: usize,
        stream: StreamId,
    },
    Tick {
        verifier: usize,
        stream: StreamId,
    },
    Saved {
        verifier: usize,
        life: u64,
    },
    Start {
        verifier: usize,
        life: u64,
    },
    AuthorityTick {
        authority: usize,
        life: u64,
    },
    Committed {
        authority: usize,
        life: u64,
    },
    StartAuthority {
        authority: usize,
        life: u64,
    },
    /// Its reader hears that another stream has taken its place.
    EndSuperseded {
        authority: usize,
        stream: StreamId,
    },
    Issue,
    Show,
    Judge(Box<Judging>),
    Operate,
    /// An operator looks after publishing keys, or somebody uses one that is none any more.
    Publish,
    /// An operator exports a trust file, or a verifier is replaced.
    Export,
    /// The file is made that was written down.
    MakeFile {
        life: u64,
        expires_at: Timestamp,
    },
    Fail(Fault, Duration),
    /// The wall clock of an authority is set back by so much.
    SetBack {
        authority: usize,
        millis: i64,
    },
    /// An operator asks once more how far a revocation has come.
    Ask {
        fact: usize,
    },
    /// An operator comes to recover what has stopped.
    Recover,
    /// Tokens are shown at the moment from which on nobody may accept them.
    Probe {
        fact: usize,
        class: usize,
    },
    Calm,
}

/// A decision that takes its time.
#[derive(Debug)]
pub(crate) struct Judging {
    pub(crate) verifier: usize,
    pub(crate) life: u64,
    pub(crate) token: usize,
    pub(crate) class: usize,
    pub(crate) look: Look,
    pub(crate) begun: Duration,
}

#[derive(Debug)]
struct Scheduled {
    at: Duration,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Events.
    pub events: u64,
    /// Checks of an invariant.
    pub checks: u64,
    /// Decisions, and those that let a token pass.
    pub decisions: u64,
    /// Tokens that were let pass.
    pub accepted: u64,
    /// Streams that were opened.
    pub streams: u64,
    /// States that were put in force.
    pub installed: u64,
    /// Keys that were activated.
    pub activated: u64,
    /// Publishing keys that were activated.
    pub publishers: u64,
    /// Links to publisher sets that verifiers followed.
    pub followed: u64,
    /// Links and updates that were signed by keys that publish no more, or never did.
    pub forged: u64,
    /// Trust files that were made.
    pub exported: u64,
    /// Starts from one, or with what one confirms.
    pub warm_starts: u64,
    /// Authorities that stopped because their store was shown to be old.
    pub stopped: u64,
    /// Times that an operator had one go on.
    pub recovered: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Fault, u64>,
}

/// One run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Duration,
    sequence: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    pub(crate) random: Random,
    /// For what concerns publishing keys: a run without those is the one that it was before there were any.
    pub(crate) publishing: Random,
    /// For what concerns trust files, likewise.
    pub(crate) exports: Random,
    pub(crate) plan: Plan,
    pub(crate) network: Network,
    pub(crate) authorities: Vec<Authority>,
    pub(crate) verifiers: Vec<Verifier>,
    pub(crate) model: Model,
    pub(crate) counts: Counts,
    /// A hash over all that happened.
    pub(crate) trace: u64,
    pub(crate) violation: Option<Violation>,
    /// What happened, for people, if somebody asked.
    pub(crate) log: Option<Vec<String>>,
    pub(crate) memory: crate::faults::Memory,
    /// Streams opened by each verifier since the calm began.
    pub(crate) opened_in_calm: Vec<u64>,
}

impl World {
    /// The world of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut publishing = Random::new(!seed);
        let mut exports = Random::new(seed.rotate_left(32) ^ !seed);
        let plan = Plan::draw(&mut random)
            .with_publishing(&mut publishing)
            .with_exports(&mut exports);
        let (authority, verifiers, links) = crate::setting::people(&plan, &mut random);
        let mut world = Self {
            now: Duration::ZERO,
            sequence: 0,
            queue: BinaryHeap::new(),
            random,
            publishing,
            exports,
            network: Network::new(links),
            opened_in_calm: vec![0; plan.verifiers],
            plan,
            authorities: vec![authority],
            model: Model::default(),
            verifiers,
            counts: Counts::default(),
            trace: seed,
            violation: None,
            log: None,
            memory: crate::faults::Memory::default(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.model
            .verifiers
            .resize_with(self.verifiers.len(), Default::default);
        self.note_first_state();
        self.start_authority(0);
        for verifier in 0..self.verifiers.len() {
            let after = self.random.millis(0, 5000);
            self.after(after, Event::Start { verifier, life: 0 });
        }
        self.after(Duration::from_secs(3), Event::Issue);
        self.after(Duration::from_secs(4), Event::Show);
        self.after(Duration::from_secs(8), Event::Operate);
        for (fault, every) in self.plan.faults.clone() {
            let after = self.random.about(every);
            self.after(after + Duration::from_secs(5), Event::Fail(fault, every));
        }
        if let Some(calm) = self.plan.calm_from {
            self.at(calm, Event::Calm);
        }
        if let Some(every) = self.plan.publish_every {
            self.after(every, Event::Publish);
        }
        if let Some(every) = self.plan.export_every {
            self.after(every, Event::Export);
        }
    }

    /// Goes on until the end, or until an invariant is broken.
    pub(crate) fn run(&mut self) {
        while self.violation.is_none() && self.step() {}
        if self.violation.is_none() && self.plan.calm_from.is_some() {
            self.check_recovered();
        }
    }

    fn step(&mut self) -> bool {
        let Some(Reverse(next)) = self.queue.pop() else {
            return false;
        };
        if next.at > self.plan.lasts {
            return false;
        }
        self.now = next.at;
        self.counts.events += 1;
        let nanos = u64::try_from(next.at.as_nanos()).unwrap_or(u64::MAX);
        self.mix(nanos ^ next.event.number().rotate_left(48));
        self.happen(next.event);
        true
    }

    /// Writes down what happened, if somebody asked.
    pub(crate) fn say(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.log.is_some() {
            let line = format!("{:>14.6} {}", self.now.as_secs_f64(), what(self));
            self.log.iter_mut().for_each(|log| log.push(line.clone()));
        }
    }

    /// Takes `value` into the hash of the run.
    pub(crate) const fn mix(&mut self, value: u64) {
        self.trace = (self.trace ^ value)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(23);
    }

    pub(crate) fn at(&mut self, at: Duration, event: Event) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.queue.push(Reverse(Scheduled { at, sequence, event }));
    }

    pub(crate) fn after(&mut self, after: Duration, event: Event) {
        self.at(self.now + after, event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { stream, way } => self.deliver(stream, way),
            Event::Connect { verifier, life } => self.connect(verifier, life),
            Event::OpenTimeout { verifier, stream } => self.open_timeout(verifier, stream),
            Event::Tick { verifier, stream } => self.tick(verifier, stream),
            Event::Saved { verifier, life } => self.saved(verifier, life),
            Event::Start { verifier, life } => self.start(verifier, life),
            Event::AuthorityTick { authority, life } => self.authority_tick(authority, life),
            Event::Committed { authority, life } => self.committed(authority, life),
            Event::StartAuthority { authority, life } => {
                if self.authorities[authority].life == life {
                    self.start_authority(authority);
                }
            }
            Event::EndSuperseded { authority, stream } => self.end_at_authority(authority, stream, false),
            Event::Issue => self.issue(),
            Event::Show => self.show(),
            Event::Judge(judging) => self.judge_late(*judging),
            Event::Operate => self.operate(),
            Event::Publish => self.publish(),
            Event::Export => self.export(),
            Event::MakeFile { life, expires_at } => self.make_file(life, expires_at),
            Event::Fail(fault, every) => self.fail(fault, every),
            Event::SetBack { authority, millis } => self.authorities[authority].clock.step(self.now, -millis),
            Event::Ask { fact } => self.ask(fact),
            Event::Recover => self.recover(),
            Event::Probe { fact, class } => self.probe(fact, class),
            Event::Calm => self.calm(),
        }
    }
}

impl Event {
    const fn number(&self) -> u64 {
        match self {
            Self::Deliver { stream, way } => 1 + *stream * 64 + if matches!(way, Way::Up) { 0 } else { 32 },
            Self::Connect { .. } => 2,
            Self::OpenTimeout { .. } => 3,
            Self::Tick { .. } => 4,
            Self::Saved { .. } => 5,
            Self::Start { .. } => 6,
            Self::AuthorityTick { .. } => 7,
            Self::Committed { .. } => 8,
            Self::StartAuthority { .. } => 9,
            Self::EndSuperseded { .. } => 10,
            Self::Issue => 11,
            Self::Show => 12,
            Self::Judge(_) => 13,
            Self::Operate => 14,
            Self::Fail(..) => 15,
            Self::SetBack { .. } => 16,
            Self::Ask { .. } => 17,
            Self::Probe { .. } => 18,
            Self::Calm => 19,
            Self::Recover => 20,
            Self::Publish => 21,
            Self::Export => 22,
            Self::MakeFile { .. } => 23,
        }
    }
}
