//! The state directory of one verifier: what of it survives, and what a start makes of it.
//!
//! What is written when is as in the sidecar's journal: records first, flushed, then the floor in a file of its own. A crash in
//! between leaves some of it; a torn write leaves a record that cannot be read; a backup puts an older directory back.

mod found;
mod harm;
mod warm_start;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::names::KeyId;
use countersign_core::planted::{Bug, planted};
use countersign_core::publishers::{Generation, LinkId, LinkRefused, Publishers, Unsaved};
use countersign_core::revocation::RevocationList;
use countersign_core::trust::{Epoch, UpdateRules};
use countersign_core::verifier::{
    Accepted, ClockMark, Kept, Manifest, Replay, Saved, Signing, StateId, VerifierClock,
};

use crate::random::Random;
use crate::toy::{Signed, ToyHash};

pub(crate) use found::{Confirmed, Found, Starting, off};
pub(crate) use harm::Lacks;

/// From so many deltas on, a snapshot is asked for. Far fewer than in earnest, so that it happens.
const LOG_BOUND: usize = 24;

/// A heartbeat that was kept.
#[derive(Clone, Debug)]
struct Heard {
    signed: Signed,
    sent: ClockMark,
    /// From when on, in true time, what it confirms may count as confirmed.
    anchor: Duration,
    /// How far the clock was off by which `sent` was told.
    error: Duration,
}

/// What was made durable: the highest state, and the last link to a publisher set.
#[derive(Clone, Copy, Debug, Default)]
struct Floor {
    state: StateId,
    link: Option<LinkId>,
}

/// What the authority was told is durable: the highest state, and the highest generation of publisher sets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sealed {
    pub(crate) state: StateId,
    pub(crate) publishers: Generation,
}

/// What is in the directory.
#[derive(Clone, Debug, Default)]
struct Content {
    snapshot: Option<Signed>,
    deltas: BTreeMap<Epoch, Signed>,
    /// Certificates that are revoked though the snapshot does not say so.
    carried: RevocationList,
    heartbeat: Option<Heard>,
    /// The links that lead from the pinned publisher set to the one that signed.
    links: Vec<Signed>,
    floor: Option<Floor>,
    /// A record cannot be read.
    torn: bool,
    /// The one of what is carried cannot.
    carried_torn: bool,
    /// All but the floor and what is carried was let go of.
    let_go: bool,
}

impl Content {
    /// What holds whatever becomes of the rest.
    fn carried(&self) -> RevocationList {
        if self.carried_torn {
            RevocationList::default()
        } else {
            self.carried.clone()
        }
    }
}

/// What a save does, step by step.
#[derive(Debug)]
pub(crate) struct Writing {
    steps: Vec<Step>,
    /// The outcome when all of it is done.
    pub(crate) saved: Saved,
}

#[derive(Debug)]
enum Step {
    Snapshot(
        Signed,
        Vec<(Epoch, Signed)>,
        StateId,
        RevocationList,
        Option<Links>,
    ),
    Delta(Epoch, Signed, Option<Links>),
    Heartbeat(Box<Heard>),
    Floor(Floor),
}

/// Links to publisher sets that are not on disk yet.
pub(crate) type Links = Unsaved<Signed>;

/// The state directory of one verifier.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    content: Content,
    copies: Vec<(Content, Sealed)>,
    /// Nothing is written any more, until the next start.
    pub(crate) failed: bool,
    /// The highest state that has to be there at the next start, if anything is, and the publisher set that has to be known
    /// before anything else is believed.
    pub(crate) sealed: Sealed,
    /// Whether a start may find nothing though something was durable.
    pub(crate) damaged: bool,
    /// Whether what is carried may be lost, or older than it was.
    carried_damaged: bool,
    tip: Epoch,
    heartbeat_epoch: Epoch,
    /// The link on disk that leads to the publisher set there.
    link: Option<LinkId>,
    /// Whether what is in the log was signed by keys that publish no longer.
    outdated: bool,
}

impl Disk {
    /// The epoch at the end of the log.
    pub(crate) const fn tip(&self) -> Epoch {
        self.tip
    }

    /// The latest that is kept with the authority's signature: a heartbeat rather than the update that it confirms.
    pub(crate) fn latest(&self) -> Option<&Signed> {
        let content = &self.content;
        let snapshot = content.snapshot.iter();
        let kept = snapshot.chain(content.deltas.values().next_back());
        let heartbeat = content.heartbeat.iter().map(|heard| &heard.signed);
        kept.chain(heartbeat).max_by_key(|signed| signed.stated().epoch)
    }

    /// Whether the log is full.
    pub(crate) fn wants_snapshot(&self) -> bool {
        !self.failed && self.content.deltas.len() >= LOG_BOUND
    }

    /// How `accepted` will be saved, with links that are not on disk yet. Those that drop a key go with a snapshot only: that
    /// key may have signed what is in the log.
    pub(crate) fn write(&mut self, accepted: &Accepted<Signed>, links: Option<Links>) -> Writing {
        let to = accepted.leads_to;
        let links = links.filter(|links| Some(links.last) != self.link);
        let link = links.as_ref().map_or(self.link, |links| Some(links.last));
        let is_delta = matches!(accepted.signed, Signing::Delta(_));
        self.outdated |= is_delta && links.as_ref().is_some_and(|links| links.drops_keys);
        let first = match &accepted.signed {
            Signing::Snapshot(signed, deltas) => {
                let carried = accepted.carried.clone();
                Step::Snapshot(signed.clone(), deltas.clone(), to, carried, links)
            }
            Signing::Delta(signed) if self.follows(to.epoch) => Step::Delta(to.epoch, signed.clone(), links),
            Signing::Delta(_) => return self.nothing(),
        };
        if self.failed {
            return self.nothing();
        }
        let stays = planted(Bug::FloorNotRaised) && self.content.floor.is_some();
        let floor = Floor { state: to, link };
        let floor = (!stays).then_some(Step::Floor(floor));
        Writing {
            steps: [first].into_iter().chain(floor).collect(),
            saved: Saved {
                durable: true,
                wants_snapshot: self.content.deltas.len() + 1 >= LOG_BOUND,
                log_outdated: false,
            },
        }
    }

    /// How `kept` will be saved, which confirms from `anchor` on.
    pub(crate) fn keep(&self, kept: &Kept<Signed>, anchor: Duration) -> Writing {
        if self.failed || kept.epoch != self.tip {
            return self.nothing();
        }
        Writing {
            steps: vec![Step::Heartbeat(Box::new(Heard {
                signed: kept.signed.clone(),
                sent: kept.sent.clone(),
                anchor,
                error: Duration::ZERO,
            }))],
            saved: Saved {
                durable: true,
                wants_snapshot: self.wants_snapshot(),
                log_outdated: self.outdated,
            },
        }
    }

    /// Whether `epoch` is there.
    pub(crate) fn probe(&self, epoch: Epoch) -> Writing {
        if self.failed || epoch != self.tip {
            return self.nothing();
        }
        Writing {
            steps: Vec::new(),
            saved: Saved {
                durable: true,
                wants_snapshot: self.wants_snapshot(),
                log_outdated: self.outdated,
            },
        }
    }

    fn follows(&self, epoch: Epoch) -> bool {
        let has_room = self.content.deltas.len() < 2 * LOG_BOUND && !self.outdated;
        self.tip != 0 && self.tip + 1 == epoch && has_room
    }

    const fn nothing(&self) -> Writing {
        Writing {
            steps: Vec::new(),
            saved: Saved {
                durable: false,
                // A log with a gap wants to be replaced; a disk that failed wants nothing.
                wants_snapshot: !self.failed,
                log_outdated: self.outdated && !self.failed,
            },
        }
    }

    /// All of it is on disk.
    pub(crate) fn finish(&mut self, writing: Writing) {
        for step in writing.steps {
            self.take(step);
        }
    }

    /// The disk fails now, and with it what is being written.
    pub(crate) const fn fail(&mut self) {
        self.failed = true;
    }

    /// The power goes while `writing` is under way: some steps are on disk, and the one after them may be torn.
    pub(crate) fn crash(&mut self, writing: Option<Writing>, tears: bool, random: &mut Random) {
        let Some(writing) = writing else { return };
        let reached = random.index(writing.steps.len() + 1);
        let mut steps = writing.steps.into_iter();
        for step in steps.by_ref().take(reached) {
            self.take(step);
        }
        if let Some(step) = steps.next().filter(|_| tears)
            && random.chance(300)
        {
            let is_carried = matches!(step, Step::Snapshot(..));
            self.content.torn = true;
            self.content.carried_torn |= is_carried;
            self.damaged = true;
            self.carried_damaged |= is_carried;
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Snapshot(signed, deltas, to, carried, links) => {
                self.content.carried = carried;
                (self.content.carried_torn, self.content.let_go) = (false, false);
                self.content.snapshot = Some(signed);
                self.content.deltas = deltas.into_iter().collect();
                if self.heartbeat_epoch != to.epoch || links.is_some() {
                    self.content.heartbeat = None;
                }
                self.lead(links);
                self.outdated = false;
                self.content.torn = false;
                self.tip = to.epoch;
            }
            Step::Delta(epoch, signed, links) => {
                self.content.deltas.insert(epoch, signed);
                self.lead(links);
                self.tip = epoch;
            }
            Step::Heartbeat(heard) => {
                self.heartbeat_epoch = heard.signed.as_heartbeat().map_or(0, |heartbeat| heartbeat.epoch);
                self.content.heartbeat = Some(*heard);
            }
            Step::Floor(floor) => self.content.floor = Some(floor),
        }
    }

    fn lead(&mut self, links: Option<Links>) {
        if let Some(links) = links {
            self.link = Some(links.last);
            self.content.links = links.links;
        }
    }

    /// Opens the directory, and verifies what is in it. What cannot be used is set aside.
    pub(crate) fn open(
        &mut self,
        rules: &UpdateRules,
        publishers: &mut Publishers<(), Signed>,
        starting: &Starting,
    ) -> Found {
        self.failed = false;
        (self.link, self.outdated) = (None, false);
        let floor = self.content.floor;
        if let Some(link) = floor.and_then(|floor| floor.link) {
            publishers.require(link);
        }
        let found = self.read(rules, publishers, starting);
        match found {
            Ok(found) => {
                self.tip = 0;
                if let Some(state) = &found.trust {
                    // A crash between records and floor left it behind.
                    self.tip = state.epoch();
                    self.link = publishers.last_link();
                    publishers.saved(publishers.generation());
                    self.content.floor = Some(Floor {
                        state: StateId::of(state),
                        link: self.link,
                    });
                }
                let heartbeat = self.content.heartbeat.as_ref();
                let heartbeat = heartbeat.and_then(|heard| heard.signed.as_heartbeat());
                self.heartbeat_epoch = heartbeat.map_or(0, |heartbeat| heartbeat.epoch);
                found
            }
            Err(highest) => {
                let carried = self.content.carried();
                let carried = (!planted(Bug::CarriedSetAside)).then_some(carried);
                self.content = Content {
                    floor,
                    carried: carried.unwrap_or_default(),
                    ..Content::default()
                };
                (self.tip, self.heartbeat_epoch) = (0, 0);
                let floor = floor.map(|floor| floor.state);
                let known = floor.into_iter().chain(highest).max_by_key(|state| state.epoch);
                Found {
                    carried: self.content.carried.clone(),
                    floor: known,
                    unusable: true,
                    ..Found::default()
                }
            }
        }
    }

    fn read(
        &self,
        rules: &UpdateRules,
        publishers: &mut Publishers<(), Signed>,
        starting: &Starting,
    ) -> Result<Found, Option<StateId>> {
        let content = &self.content;
        let Some(snapshot) = &content.snapshot else {
            return if content.floor.is_none() || content.let_go {
                Ok(Found {
                    carried: content.carried(),
                    floor: content.floor.map(|floor| floor.state),
                    ..Found::default()
                })
            } else {
                Err(None)
            };
        };
        if content.torn {
            return Err(None);
        }
        follow_links(&content.links, publishers)?;
        let believed = |signed: &Signed| publishers.key(signed.by.as_str()).is_some();
        let heard = content.heartbeat.as_ref();
        if heard.is_some_and(|heard| !believed(&heard.signed)) {
            return Err(None);
        }
        let manifest = heard.and_then(|heard| {
            let heartbeat = heard.signed.as_heartbeat()?.clone();
            let sent = heard.sent.clone();
            Some(Manifest { heartbeat, sent })
        });
        let now = starting.now;
        let mut clock = VerifierClock::start(Some(Arc::clone(&starting.boot)), now);
        if let Some(heard) = heard {
            clock.resume(&heard.sent, now);
        }
        let time = clock.best(now.elapsed);
        let snapshot = snapshot.as_update().filter(|_| believed(snapshot)).ok_or(None)?;
        let mut replay =
            Replay::begin(rules, &ToyHash, time, manifest, snapshot).map_err(|rejected| rejected.highest)?;
        for (epoch, delta) in &content.deltas {
            let believed = delta.as_update().filter(|_| believed(delta));
            let delta = believed.ok_or_else(|| Some(replay.highest()))?;
            replay
                .follow(*epoch, delta)
                .map_err(|rejected| rejected.highest)?;
        }
        let restored = replay
            .finish(content.floor.map(|floor| floor.state))
            .map_err(|rejected| rejected.highest)?;
        if !publishers.holds(restored.state.publishers()) {
            return Err(None);
        }
        let manifest = restored.manifest.as_ref();
        let confirmed = heard
            .zip(manifest)
            .and_then(|(heard, manifest)| heard.confirmed(manifest, starting));
        Ok(Found {
            trust: Some(restored.state),
            carried: content.carried.clone(),
            confirmed: confirmed.into_iter().collect(),
            mark: heard.map(|heard| heard.sent.clone()),
            floor: content.floor.map(|floor| floor.state),
            unusable: false,
        })
    }
}

/// Goes from the pinned set to the one that was in force.
fn follow_links(links: &[Signed], publishers: &mut Publishers<(), Signed>) -> Result<(), Option<StateId>> {
    let followed = offer_links(links, publishers);
    if publishers.forget_astray() {
        Err(None)
    } else {
        followed
    }
}

fn offer_links(links: &[Signed], publishers: &mut Publishers<(), Signed>) -> Result<(), Option<StateId>> {
    for signed in links {
        let link = signed.as_link().ok_or(None)?;
        match publishers.offer(link.as_ref().clone(), signed.by.as_str(), signed.clone()) {
            Ok(_) | Err(LinkRefused::Signer) => {}
            Err(_) => return Err(None),
        }
    }
    Ok(())
}

/// The publishers that every verifier has pinned.
pub(crate) fn pinned(first: &KeyId) -> Publishers<(), Signed> {
    Publishers::new(crate::setting::issuer(), [(first.clone(), ())].into())
}
