//! A start from a trust file, as the sidecar does it: the file is verified by what verifies the records on disk, against the same
//! floor; it is used where it leads further than the disk does, and is then kept.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::feed::snapshot;
use countersign_core::publishers::Publishers;
use countersign_core::revocation::RevocationList;
use countersign_core::trust::{Epoch, TrustState, UpdateRules};
use countersign_core::verifier::{ClockMark, Manifest, Replay, StateId, VerifierClock};

use super::{Confirmed, Disk, Floor, Found, Heard, Sealed, Starting, Step, follow_links, off};
use crate::authority::TrustFile;
use crate::toy::{Signed, ToyHash};

/// What a file verified to.
struct Import {
    state: TrustState,
    manifest: Manifest,
    heard: Heard,
}

impl Disk {
    /// What `file` adds to what was `found`.
    pub(crate) fn warm_start(
        &mut self,
        found: &mut Found,
        file: &TrustFile,
        rules: &UpdateRules,
        publishers: &mut Publishers<(), Signed>,
        starting: &Starting,
    ) {
        let is_new = !found.unusable && found.trust.is_none() && self.content.floor.is_none();
        let floor = match self.content.floor {
            Some(_) => found.floor,
            // Where nothing is missing, everything is new.
            None => is_new.then(StateId::default),
        };
        let Some(import) = verify(file, floor, found, rules, publishers, starting) else {
            return;
        };
        let confirmed = import.heard.confirmed(&import.manifest, starting);
        let epoch = import.state.epoch();
        let held = found.trust.as_ref().map_or(0, TrustState::epoch);
        let age =
            |confirmed: Option<&Confirmed>| confirmed.map_or(Duration::MAX, |confirmed| confirmed.age.so_far);
        let is_younger = age(confirmed.as_ref()) < age(found.confirmed.first());
        if epoch == held && is_younger {
            found.confirmed.extend(confirmed);
        } else if epoch > held && follows(&import.state, found, rules, starting) {
            if is_new && self.damaged {
                self.sealed = Sealed::default();
            }
            found.mark = Some(import.manifest.sent);
            found.confirmed.extend(confirmed);
            if let Some(held) = &found.trust {
                found.carried.merge(&held.revocations().about_certificates());
            }
            let to = StateId::of(&import.state);
            self.import(file, to, found.carried.clone(), import.heard, publishers);
            found.trust = Some(import.state);
        }
    }

    /// Keeps what `file` led to, like what comes from the authority.
    fn import(
        &mut self,
        file: &TrustFile,
        to: StateId,
        carried: RevocationList,
        heard: Heard,
        publishers: &mut Publishers<(), Signed>,
    ) {
        let links = publishers.unsaved();
        let deltas: Vec<(Epoch, Signed)> = Vec::new();
        self.take(Step::Snapshot(file.snapshot.clone(), deltas, to, carried, links));
        publishers.saved(publishers.generation());
        self.take(Step::Floor(Floor {
            state: to,
            link: self.link,
        }));
        self.take(Step::Heartbeat(Box::new(heard)));
    }
}

fn verify(
    file: &TrustFile,
    floor: Option<StateId>,
    found: &Found,
    rules: &UpdateRules,
    publishers: &mut Publishers<(), Signed>,
    starting: &Starting,
) -> Option<Import> {
    follow_links(&file.links, publishers).ok()?;
    let believed = |signed: &Signed| publishers.key(signed.by.as_str()).is_some();
    let both = believed(&file.snapshot) && believed(&file.heartbeat);
    let heartbeat = file.heartbeat.as_heartbeat().filter(|_| both)?.clone();
    let stated = heartbeat.epoch;
    let (sent, error) = taken_at(heartbeat.authority_time_millis, found, starting);
    let manifest = Manifest {
        heartbeat,
        sent: sent.clone(),
    };
    let mut clock = VerifierClock::start(Some(Arc::clone(&starting.boot)), starting.now);
    clock.resume(&sent, starting.now);
    let time = clock.best(starting.now.elapsed);
    let snapshot = file.snapshot.as_update()?;
    let replay = Replay::begin(rules, &ToyHash, time, Some(manifest.clone()), snapshot).ok()?;
    let state = replay.finish(floor).ok()?.state;
    let is_whole = publishers.holds(state.publishers()) && state.epoch() == stated;
    is_whole.then(|| Import {
        state,
        manifest,
        heard: Heard {
            signed: file.heartbeat.clone(),
            sent,
            anchor: file.heartbeat.at,
            error,
        },
    })
}

fn clock(found: &Found, starting: &Starting) -> VerifierClock {
    let mut clock = VerifierClock::start(Some(Arc::clone(&starting.boot)), starting.now);
    if let Some(mark) = &found.mark {
        clock.resume(mark, starting.now);
    }
    clock
}

/// Where the clocks stand as the file is taken, and how far that may be off.
fn taken_at(authority_millis: u64, found: &Found, starting: &Starting) -> (ClockMark, Duration) {
    let now = starting.now;
    let mark = clock(found, starting).taken(authority_millis, found.mark.as_ref(), now);
    let time_millis = match mark.boot {
        Some(_) => mark.earliest(None, Duration::ZERO),
        None => now.wall_millis,
    };
    (mark, off(time_millis, starting.right_millis))
}

/// Whether a later state has what the one on disk takes back.
fn follows(state: &TrustState, found: &Found, rules: &UpdateRules, starting: &Starting) -> bool {
    let Some(held) = &found.trust else { return true };
    let time = clock(found, starting).best(starting.now.elapsed);
    let update = snapshot(state, time);
    rules
        .apply(Some(held), held.epoch(), &update, time, &ToyHash)
        .is_ok()
}
