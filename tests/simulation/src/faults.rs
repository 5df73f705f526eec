//! What goes wrong, when its time has come.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use countersign_core::trust::Epoch;

use crate::authority::{Books, Mutation, Outbox, TrustFile};
use crate::clock::Clock;
use crate::disk::{Disk, off};
use crate::network::{Down, StreamId, Up, Way};
use crate::plan::Fault;
use crate::random::Random;
use crate::toy::Signed;
use crate::world::{Event, World};

/// What those who put back, copy and repeat have kept.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    updates: Vec<Signed>,
    /// What was said on each stream.
    heartbeats: BTreeMap<StreamId, VecDeque<Signed>>,
    stores: Vec<Books>,
    /// Until when heartbeats are replaced by old ones.
    replays_until: Duration,
    /// Which epochs were committed when.
    commits: Vec<(Duration, Epoch)>,
    /// Trust files that were made, oldest first.
    pub(crate) files: Vec<TrustFile>,
    /// What is being committed takes this back.
    pub(crate) pending: Option<usize>,
}

impl Memory {
    /// An update was published.
    pub(crate) fn note_update(&mut self, update: Signed) {
        self.updates.push(update);
    }

    pub(crate) fn note_commit(&mut self, at: Duration, epoch: Epoch) {
        self.commits.push((at, epoch));
    }

    pub(crate) fn commits(&self) -> &[(Duration, Epoch)] {
        &self.commits
    }
}

impl World {
    /// `fault` happens now, and again after a while.
    pub(crate) fn fail(&mut self, fault: Fault, every: Duration) {
        if self.plan.calm_from.is_some_and(|calm| self.now >= calm) {
            return;
        }
        if self.inject(fault) {
            *self.counts.faults.entry(fault).or_default() += 1;
        }
        let again = self.random.about(every) + Duration::from_millis(10);
        self.after(again, Event::Fail(fault, every));
    }

    fn inject(&mut self, fault: Fault) -> bool {
        let verifier = self.random.index(self.verifiers.len());
        self.say(|_| format!("fault: {fault:?}, verifier {verifier}"));
        match fault {
            Fault::OneWay => {
                let way = *self.random.pick(&[Way::Up, Way::Down]);
                self.block(verifier, &[way])
            }
            Fault::Partition => self.block(verifier, &[Way::Up, Way::Down]),
            Fault::Cut => self.cut(verifier),
            Fault::Pause => {
                let until = self.now + self.a_while();
                let paused = &mut self.verifiers[verifier].paused_until;
                *paused = until.max(*paused);
                true
            }
            Fault::Crash => self.crash(verifier, false),
            Fault::Reboot => self.reboot(verifier),
            Fault::Leave => self.leave(verifier),
            Fault::WallStep => {
                let step = self.step_millis();
                self.verifiers[verifier].clock.step(self.now, step);
                true
            }
            Fault::DiskFails => {
                self.verifiers[verifier].disk.fail();
                true
            }
            Fault::DiskLoses => self.damage(verifier, lose),
            Fault::RecordsPutBack => self.damage(verifier, |disk, random| disk.put_back(false, random)),
            Fault::DirectoryPutBack => self.put_directory_back(verifier),
            Fault::HalfReads => {
                self.verifiers[verifier].half_reads ^= true;
                true
            }
            Fault::UpdateReplayed => self.replay_update(verifier),
            Fault::HeartbeatReplayed => {
                self.memory.replays_until = self.now + self.a_while();
                true
            }
            Fault::AuthorityPause => {
                let until = self.now + self.a_while();
                let paused = &mut self.authorities[0].paused_until;
                *paused = until.max(*paused);
                true
            }
            Fault::AuthorityCrash => self.crash_authority(10, 3000),
            Fault::Outage => self.crash_authority(20_000, 200_000),
            Fault::AuthorityStep => self.step_authority(),
            Fault::AuthorityLeap => self.leap(),
            Fault::StorePutBack => self.put_store_back(),
            Fault::Twin => self.twin(),
        }
    }

    fn block(&mut self, verifier: usize, ways: &[Way]) -> bool {
        let until = self.now + self.a_while();
        for way in ways {
            self.network.links[verifier].block(*way, until);
        }
        true
    }

    /// As short as a hiccup, or longer than every budget.
    fn a_while(&mut self) -> Duration {
        let mean = *self.random.pick(&[1, 5, 20, 60]);
        let long = self.random.about(Duration::from_secs(mean));
        // When it is calm, nobody stands still any more.
        let calm = self.plan.calm_from.unwrap_or(Duration::MAX);
        long.min(calm.saturating_sub(self.now))
    }

    fn step_millis(&mut self) -> i64 {
        let most = *self.random.pick(&[2_000, 60_000, 290_000, 3_600_000]);
        let step = i64::try_from(self.random.within(0, most)).unwrap_or_default();
        if self.random.chance(600) { -step } else { step }
    }

    fn cut(&mut self, verifier: usize) -> bool {
        let Some(stream) = self.live_stream(verifier) else {
            return false;
        };
        self.network.cut(stream, &mut self.random);
        self.send_down(stream, Down::Closed(crate::network::Closed::Ended));
        self.send_up(stream, Up::Closed);
        true
    }

    /// The process dies, with the machine if `silently`: then nobody says so.
    pub(crate) fn crash(&mut self, verifier: usize, silently: bool) -> bool {
        if self.verifiers[verifier].process.is_none() {
            return false;
        }
        let tears = self
            .plan
            .faults
            .iter()
            .any(|(fault, _)| *fault == Fault::DiskLoses);
        let stream = self.verifiers[verifier].crash(tears, &mut self.random);
        if let Some(stream) = stream {
            if !silently {
                self.network.cut(stream, &mut self.random);
                self.send_up(stream, Up::Closed);
            }
            self.network.leave(stream, Way::Up);
        }
        self.start_again(verifier);
        true
    }

    fn start_again(&mut self, verifier: usize) {
        let life = self.verifiers[verifier].life;
        let after = if self.random.chance(700) {
            self.random.millis(10, 1000)
        } else {
            self.a_while()
        };
        self.after(after, Event::Start { verifier, life });
    }

    fn reboot(&mut self, verifier: usize) -> bool {
        if !self.crash(verifier, true) {
            return false;
        }
        self.verifiers[verifier].clock.reboot(self.now);
        if self.random.chance(300) {
            let step = self.step_millis();
            self.verifiers[verifier].clock.step(self.now, step);
        }
        true
    }

    fn leave(&mut self, verifier: usize) -> bool {
        let saves = |process: &crate::verifier::Process| process.saving.is_some();
        let process = self.verifiers[verifier].process.as_ref();
        let Some(stream) = self.live_stream(verifier) else {
            return false;
        };
        if process.is_none_or(saves) || self.verifiers[verifier].paused_until > self.now {
            return false;
        }
        if self.verifiers[verifier].leave() {
            self.note_let_go(verifier);
            self.send_up(stream, Up::Leave);
        } else {
            self.send_up(stream, Up::Closed);
        }
        let stream = self.verifiers[verifier].crash(false, &mut self.random);
        if let Some(stream) = stream {
            self.network.leave(stream, Way::Up);
        }
        self.start_again(verifier);
        true
    }

    /// The process dies, and its disk is not what it was.
    fn damage(&mut self, verifier: usize, damage: impl FnOnce(&mut Disk, &mut Random) -> bool) -> bool {
        self.verifiers[verifier].disk.copy();
        self.crash(verifier, false) && damage(&mut self.verifiers[verifier].disk, &mut self.random)
    }

    fn put_directory_back(&mut self, verifier: usize) -> bool {
        let put_back = self.damage(verifier, |disk, random| disk.put_back(true, random));
        self.model.verifiers[verifier].excused |= put_back;
        put_back
    }

    fn replay_update(&mut self, verifier: usize) -> bool {
        let (Some(stream), false) = (self.live_stream(verifier), self.memory.updates.is_empty()) else {
            return false;
        };
        let update = self.random.pick(&self.memory.updates).clone();
        self.send_down(stream, Down::Update(update));
        true
    }

    /// Answers to pings as they leave, with heartbeats in them that are older than the last on the same stream,
    /// while somebody on the way does that.
    pub(crate) fn tamper(&mut self, mut outbox: Outbox) -> Outbox {
        let replays = self.memory.replays_until > self.now;
        for (stream, message) in &mut outbox {
            let Down::Pong(pong) = message else { continue };
            // Nobody signs a lease: where there are two authorities, one may grant what the other would not.
            if self.model.broken.is_some() && pong.lease.is_zero() && self.random.chance(200) {
                pong.lease = self.plan.lease;
            }
            let said = self.memory.heartbeats.entry(*stream).or_default();
            // What is not signed is taken from the answer as it was.
            if replays && !pong.lease.is_zero() && said.len() > 1 && self.random.chance(500) {
                let old = said[self.random.index(said.len() - 1)].clone();
                if let Some(heartbeat) = old.as_heartbeat().cloned() {
                    pong.heartbeat = Some((old, Ok(heartbeat)));
                }
            } else if let Some((signed, _)) = &pong.heartbeat {
                let is_next = said.back().and_then(Signed::as_heartbeat) != signed.as_heartbeat();
                if !is_next {
                    continue;
                }
                if said.len() == 8 {
                    said.pop_front();
                }
                said.push_back(signed.clone());
            }
        }
        outbox
    }

    /// By so little that tokens are still signed, and verifiers follow.
    fn step_authority(&mut self) -> bool {
        let millis = i64::try_from(self.random.within(0, 8000)).unwrap_or_default() - 4000;
        self.authorities[0].clock.step(self.now, millis);
        self.model.steps += Duration::from_millis(millis.unsigned_abs());
        true
    }

    /// Far ahead, farther than verifiers believe, and back after a while.
    fn leap(&mut self) -> bool {
        let millis = i64::try_from(self.random.within(310_000, 900_000)).unwrap_or_default();
        self.authorities[0].clock.step(self.now, millis);
        self.model.leapt = true;
        self.mutate(0, Mutation::Prune);
        let after = self.a_while();
        self.after(after, Event::SetBack { authority: 0, millis });
        true
    }

    /// The authority dies, and starts after so many milliseconds.
    pub(crate) fn crash_authority(&mut self, least: u64, most: u64) -> bool {
        let copy = self.authorities[0].stored.clone();
        self.memory.stores.push(copy);
        if self.authorities[0].process.is_none() {
            return false;
        }
        self.stop_authority(0);
        self.settle_pending();
        let life = self.authorities[0].life;
        let after = self.random.millis(least, most);
        self.after(after, Event::StartAuthority { authority: 0, life });
        true
    }

    pub(crate) fn stop_authority(&mut self, index: usize) {
        for stream in self.authorities[index].crash() {
            self.network.cut(stream, &mut self.random);
            self.send_down(stream, Down::Closed(crate::network::Closed::Ended));
            self.network.leave(stream, Way::Down);
        }
    }

    /// What was being committed was, or was not.
    pub(crate) fn settle_pending(&mut self) {
        let Some(outcome) = self.authorities[0].pending.take() else {
            return;
        };
        let before = self.authorities[0].stored.trust.clone();
        if self.random.chance(500) {
            self.authorities[0].stored = outcome.books.clone();
            self.note_committed(0, &before, &outcome, false);
        } else {
            self.note_void();
            if matches!(outcome.mutation, Mutation::Stop(_)) {
                self.model.shown[0] = None;
            }
        }
    }

    fn put_store_back(&mut self) -> bool {
        let Some(copy) =
            (!self.memory.stores.is_empty()).then(|| self.random.pick(&self.memory.stores).clone())
        else {
            self.memory.stores.push(self.authorities[0].stored.clone());
            return false;
        };
        let crashed = self.crash_authority(10, 3000);
        self.model.breaks(copy.trust.epoch());
        (self.model.shown[0], self.model.stopped[0]) = (None, false);
        self.authorities[0].stored = copy;
        crashed
    }

    fn twin(&mut self) -> bool {
        if self.authorities.get(1).is_none_or(|twin| twin.process.is_none()) {
            self.settle_pending();
            self.model.breaks(self.authorities[0].stored.trust.epoch());
            let former = self.authorities.get(1);
            let twin = self.authorities[0].twin(Clock::new(0, 0), former);
            self.authorities.truncate(1);
            self.authorities.push(twin);
            (self.model.shown[1], self.model.stopped[1]) = (None, false);
            self.start_authority(1);
        }
        for link in &mut self.network.links {
            link.leads_to = self.random.index(2);
        }
        true
    }

    /// How far the wall clock of `verifier` is from the authority's.
    pub(crate) fn wall_error(&self, verifier: usize) -> Duration {
        let wall = self.verifiers[verifier].clock.wall_millis(self.now);
        off(wall, self.authorities[0].clock.wall_millis(self.now))
    }

    /// Faults stop. One of the verifiers may stay away for good, and another hear nothing.
    pub(crate) fn calm(&mut self) {
        if self.model.broken.is_some() {
            self.recover();
        }
        for link in &mut self.network.links {
            link.heal();
        }
        self.opened_in_calm.fill(0);
        for stream in self.network.ids() {
            for way in [Way::Up, Way::Down] {
                self.pump(stream, way);
            }
        }
        if self.random.chance(500) {
            let way = *self.random.pick(&[Way::Up, Way::Down]);
            self.network.links[0].block(way, Duration::MAX);
            self.model.verifiers[0].lost = true;
        }
    }
}

/// The floor, or the records, or both are gone; or the floor, and the records are older.
fn lose(disk: &mut Disk, random: &mut Random) -> bool {
    let (floor, older, records) = *random.pick(&[
        (true, false, false),
        (true, true, false),
        (false, false, true),
        (true, false, true),
    ]);
    disk.lose(floor, records);
    if older {
        disk.put_back(false, random);
    }
    true
}
