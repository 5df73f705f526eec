//! One verifier: production's session and trust round a disk that fails, and the decisions that it makes.
//!
//! As in the sidecar, what is saved is waited for before anything else of the stream is read, and decisions go on meanwhile.

mod deciding;
mod ending;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::fleet::VerifierKey;
use countersign_core::names::KeyId;
use countersign_core::publishers::{FIRST_GENERATION, Generation, LinkRefused, Publishers};
use countersign_core::requirements::Requirements;
use countersign_core::staleness::ClassBudget;
use countersign_core::trust::{Epoch, UpdateRefused, UpdateRules};
use countersign_core::verifier::{
    Accepted, Ack, Beginning, Effect, Ending, Event, HeldTrust, Kept, Message, Received, Saved, Session,
    SessionSettings, VerifierClock,
};
use countersign_core::verifying::{AuthenticToken, Expectations};

use crate::authority::TrustFile;
use crate::clock::Clock;
use crate::disk::{self, Confirmed, Disk, Starting, Writing};
use crate::network::{Down, StreamId};
use crate::random::Random;
use crate::toy::{Signed, ToyHash};

pub(crate) use deciding::{Look, Shown};

/// How long a save is waited for.
const SAVE_PATIENCE: Duration = Duration::from_secs(2);

/// One verifier.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) key: VerifierKey,
    /// The publishing key that it has pinned.
    pub(crate) pinned: KeyId,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) process: Option<Process>,
    /// Counts starts and crashes.
    pub(crate) life: u64,
    pub(crate) paused_until: Duration,
    /// What each class asks for.
    pub(crate) classes: Vec<Requirements>,
    pub(crate) budgets: Arc<[ClassBudget]>,
    pub(crate) rules: UpdateRules,
    pub(crate) expected: Expectations,
    pub(crate) period: Duration,
    pub(crate) longest_session: Duration,
    /// How long the disk takes, in milliseconds.
    pub(crate) disk_millis: (u64, u64),
    /// Whether some revocations cannot be read here.
    pub(crate) half_reads: bool,
}

/// What is gone after a crash.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) held: HeldTrust,
    pub(crate) publishers: Publishers<(), Signed>,
    pub(crate) live: Option<Live>,
    pub(crate) saving: Option<Saving>,
    known: BTreeMap<String, AuthenticToken>,
    attempt: u32,
    wants_snapshot: bool,
    may_end_for_log_from: Duration,
    /// The highest epoch that was saved so that it survives.
    durable_epoch: Epoch,
    /// The latest time told, and whether the authority was heard since the start.
    pub(crate) told: Timestamp,
    pub(crate) heard: bool,
}

/// The open stream.
#[derive(Debug)]
pub(crate) struct Live {
    machine: Session<Signed>,
    pub(crate) stream: StreamId,
    pub(crate) opened: Option<Duration>,
    /// When the pings were sent, in true time and by this machine's clock.
    pings: BTreeMap<u64, (Duration, Duration)>,
}

/// What is being written, and what is to be done after it.
#[derive(Debug)]
pub(crate) struct Saving {
    pub(crate) writing: Writing,
    what: Saves,
    rest: VecDeque<Effect<Signed>>,
    pub(crate) until: Duration,
    slow: bool,
}

#[derive(Debug)]
enum Saves {
    /// With the generation of publisher sets that is on disk then.
    Trust(Box<Accepted<Signed>>, Option<Generation>),
    Heartbeat,
}

/// What a verifier wants done.
#[derive(Debug)]
pub(crate) enum Wish {
    Send(Message),
    /// Its save is done then.
    Saving(Duration),
    /// The stream is over.
    End(Ending),
    /// It told this.
    Told(Event),
    /// It confirmed, as of then in true time.
    Confirmed(Duration),
}

impl Verifier {
    /// Starts the process on what the disk has, and on `file`, if there is one. What the model has to know of it: what confirms what
    /// was found, and whether time was counted on.
    pub(crate) fn start(
        &mut self,
        at: Duration,
        right_millis: u64,
        file: Option<&TrustFile>,
    ) -> (Vec<Confirmed>, bool) {
        let now = self.clock.moment(at);
        let boot = self.clock.boot();
        let starting = Starting {
            boot: Arc::clone(&boot),
            now,
            right_millis,
        };
        let clock = VerifierClock::start(Some(Arc::clone(&boot)), now);
        let mut held = HeldTrust::new(self.rules.clone(), clock);
        let mut publishers = disk::pinned(&self.pinned);
        let mut found = self.disk.open(&self.rules, &mut publishers, &starting);
        if let Some(file) = file {
            self.disk
                .warm_start(&mut found, file, &self.rules, &mut publishers, &starting);
        }
        let goes_on = found.goes_on(&boot);
        if let Some(floor) = found.floor {
            held.raise_floor(floor);
        }
        if let Some(mark) = &found.mark {
            held.resume_clock(mark, now);
        }
        held.carry(&found.carried, now);
        let mut durable_epoch = 0;
        let mut confirmed = Vec::new();
        if let Some(state) = found.trust {
            let epoch = state.epoch();
            let ages = found.confirmed.iter().map(|confirmed| confirmed.age);
            if held.restore(state, ages, now).is_ok() {
                (durable_epoch, confirmed) = (epoch, found.confirmed);
            }
        }
        self.process = Some(Process {
            held,
            publishers,
            live: None,
            saving: None,
            known: BTreeMap::new(),
            attempt: 0,
            wants_snapshot: false,
            may_end_for_log_from: Duration::ZERO,
            durable_epoch,
            told: Timestamp::default(),
            heard: false,
        });
        (confirmed, goes_on)
    }

    /// Opens `stream`.
    pub(crate) fn open(&mut self, stream: StreamId, at: Duration, random: &mut Random) -> Vec<Wish> {
        let now = self.clock.moment(at);
        let Some(process) = &mut self.process else {
            return Vec::new();
        };
        let settings = SessionSettings {
            heartbeat_period: self.period,
            longest_session: self.longest_session,
            budgets: Arc::clone(&self.budgets),
        };
        let epoch = process.held.epoch();
        let beginning = Beginning {
            durable: epoch != 0 && process.durable_epoch == epoch,
            replaces_log: process.wants_snapshot || process.publishers.drops_keys(),
            may_end_for_log_from: process.may_end_for_log_from,
        };
        let mut machine = Session::new(settings, Arc::new(ToyHash), beginning, now);
        let effects = machine.begin(&process.held, now);
        process.live = Some(Live {
            machine,
            stream,
            opened: None,
            pings: BTreeMap::new(),
        });
        self.perform(effects.into(), at, None, random)
    }

    /// A heartbeat period has passed.
    pub(crate) fn tick(&mut self, at: Duration, random: &mut Random) -> Vec<Wish> {
        let now = self.clock.moment(at);
        let effects = self.with_session(|machine, held| machine.tick(held, now));
        self.perform(effects, at, None, random)
    }

    /// A message came.
    pub(crate) fn receive(&mut self, message: Down, at: Duration, random: &mut Random) -> Vec<Wish> {
        let now = self.clock.moment(at);
        match message {
            Down::Update(signed) => {
                let Some(received) = self.read(&signed) else {
                    return Vec::new();
                };
                let effects = self.with_session(|machine, held| machine.update(held, now, signed, received));
                self.perform(effects, at, None, random)
            }
            Down::Link(signed) => {
                self.follow(&signed);
                Vec::new()
            }
            Down::Pong(mut pong) => {
                if let Some((signed, read)) = &mut pong.heartbeat
                    && !self.believes(signed)
                {
                    *read = Err(UpdateRefused::PublisherUnknown);
                }
                let anchor = self.anchor(&pong);
                let effects = self.with_session(|machine, held| machine.pong(held, now, pong));
                self.perform(effects, at, anchor, random)
            }
            Down::Opened | Down::Closed(_) => Vec::new(),
        }
    }

    /// From when on what `pong` says may count as confirmed: when its ping was sent, and not later than its heartbeat was
    /// signed, but for the second that one is shared for. Nothing when it does not say that the state in force is current.
    fn anchor(&self, pong: &countersign_core::verifier::Pong<Signed>) -> Option<Duration> {
        let process = self.process.as_ref()?;
        let (sent, _) = process.live.as_ref()?.pings.get(&pong.ping_sequence)?;
        let (signed, _) = pong.heartbeat.as_ref()?;
        let heartbeat = signed.as_heartbeat()?;
        let id = process.held.id();
        let current = heartbeat.epoch == id.epoch && heartbeat.state_digest == id.digest;
        (current && !pong.lease.is_zero()).then(|| (*sent).min(signed.at + Duration::from_secs(1)))
    }

    /// Whether what is signed like this is believed.
    pub(crate) fn believes(&self, signed: &Signed) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| process.publishers.key(signed.by.as_str()).is_some())
    }

    /// A link came to the next publisher set.
    fn follow(&mut self, signed: &Signed) {
        if let (Some(process), Some(link)) = (&mut self.process, signed.as_link()) {
            let link = link.as_ref().clone();
            let offered = process.publishers.offer(link, signed.by.as_str(), signed.clone());
            if offered == Err(LinkRefused::Fork) {
                process.held.contradicted();
            }
        }
    }

    fn read(&self, signed: &Signed) -> Option<Result<Received, UpdateRefused>> {
        if !self.believes(signed) {
            return Some(Err(UpdateRefused::PublisherUnknown));
        }
        let update = signed.as_update()?.as_ref().clone();
        // A revocation of a kind that this version does not know.
        let left_out = usize::from(self.half_reads && update.revocations().others_len() > 0);
        let generation = self
            .process
            .as_ref()
            .map_or(0, |process| process.publishers.generation());
        Some(Ok(Received {
            update,
            left_out,
            length: 100,
            publishers: generation.max(FIRST_GENERATION),
        }))
    }

    fn with_session(
        &mut self,
        act: impl FnOnce(&mut Session<Signed>, &mut HeldTrust) -> Vec<Effect<Signed>>,
    ) -> VecDeque<Effect<Signed>> {
        let effects = self.process.as_mut().and_then(|process| {
            let live = process.live.as_mut()?;
            Some(act(&mut live.machine, &mut process.held))
        });
        effects.unwrap_or_default().into()
    }

    /// Does what the session asks for, until it has to be waited for.
    fn perform(
        &mut self,
        mut effects: VecDeque<Effect<Signed>>,
        at: Duration,
        anchor: Option<Duration>,
        random: &mut Random,
    ) -> Vec<Wish> {
        let mut wishes = Vec::new();
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send(message) => {
                    self.note(&message, at);
                    wishes.push(Wish::Send(message));
                }
                Effect::Save(accepted) => {
                    let links = self
                        .process
                        .as_ref()
                        .and_then(|process| process.publishers.unsaved());
                    let generation = links.as_ref().map(|links| links.last.generation);
                    let writing = self.disk.write(&accepted, links);
                    let what = Saves::Trust(accepted, generation);
                    wishes.push(self.save(writing, what, effects, at, random));
                    return wishes;
                }
                Effect::Keep(kept) => {
                    let writing = self.keep(&kept, anchor);
                    wishes.push(self.save(writing, Saves::Heartbeat, effects, at, random));
                    return wishes;
                }
                Effect::Probe(kept) => {
                    let writing = self.disk.probe(kept.epoch);
                    wishes.push(self.save(writing, Saves::Heartbeat, effects, at, random));
                    return wishes;
                }
                Effect::End(ending) => {
                    wishes.push(Wish::End(ending));
                    return wishes;
                }
                Effect::Tell(event) => {
                    wishes.push(Wish::Told(event));
                    if let (Event::Confirmed, Some(anchor)) = (event, anchor) {
                        wishes.push(Wish::Confirmed(anchor));
                    }
                }
            }
        }
        wishes
    }

    /// The answer that is kept may repeat an earlier one: what it says counts from when that one was asked for.
    fn keep(&self, kept: &Kept<Signed>, anchor: Option<Duration>) -> Writing {
        let live = self.process.as_ref().and_then(|process| process.live.as_ref());
        let asked = live.and_then(|live| {
            let mut pings = live.pings.values();
            pings.find(|(_, elapsed)| *elapsed == kept.sent.moment.elapsed)
        });
        // What confirms without a right to has no anchor: the model takes it for as old as can be.
        let anchor = anchor.zip(asked).map(|(anchor, (at, _))| anchor.min(*at));
        self.disk.keep(kept, anchor.unwrap_or_default())
    }

    fn note(&mut self, message: &Message, at: Duration) {
        let Some(process) = self.process.as_mut() else {
            return;
        };
        if let Message::Hello(_) = message {
            self.disk.seal_publishers(process.publishers.durable());
        }
        if let Message::Ack(Ack {
            in_force,
            durable: true,
        }) = message
        {
            let named = process.held.in_force().map(|trust| trust.state.publishers());
            self.disk.seal(*in_force, named.unwrap_or_default());
        }
        let live = process.live.as_mut();
        if let (Some(live), Message::Ping(ping)) = (live, message) {
            live.pings.insert(ping.sequence, (at, self.clock.elapsed(at)));
        }
    }

    fn save(
        &mut self,
        writing: Writing,
        what: Saves,
        rest: VecDeque<Effect<Signed>>,
        at: Duration,
        random: &mut Random,
    ) -> Wish {
        let (least, most) = self.disk_millis;
        let takes = random.millis(least, most);
        let until = at + takes.min(SAVE_PATIENCE);
        if let Some(process) = &mut self.process {
            process.saving = Some(Saving {
                writing,
                what,
                rest,
                until,
                slow: takes > SAVE_PATIENCE,
            });
        }
        Wish::Saving(until)
    }

    /// The save that was waited for is done, or waited for no longer.
    pub(crate) fn saved(&mut self, at: Duration, random: &mut Random) -> Vec<Wish> {
        let now = self.clock.moment(at);
        let Some(saving) = self.process.as_mut().and_then(|process| process.saving.take()) else {
            return Vec::new();
        };
        let mut saved = saving.writing.saved;
        if saving.slow || self.disk.failed {
            // It is written in its turn, or never: nobody knows.
            saved = Saved {
                durable: false,
                wants_snapshot: false,
                log_outdated: false,
            };
        }
        if saving.slow && random.chance(500) {
            self.disk.fail();
        } else if !self.disk.failed {
            self.disk.finish(saving.writing);
        }
        let tip = self.disk.tip();
        if let Some(process) = &mut self.process {
            process.wants_snapshot = saved.wants_snapshot;
            if saved.durable {
                process.durable_epoch = tip;
                if let Saves::Trust(_, Some(generation)) = &saving.what {
                    process.publishers.saved(*generation);
                }
            }
        }
        let mut rest = saving.rest;
        rest.extend(match saving.what {
            Saves::Trust(accepted, _) => {
                self.with_session(|machine, held| machine.saved(held, now, *accepted, saved))
            }
            Saves::Heartbeat => self.with_session(|machine, held| machine.kept(held, now, saved)),
        });
        self.perform(rest, at, None, random)
    }
}
