//! Trust files: operators, who export them, and put them where verifiers start; and verifiers that are replaced by ones that
//! nobody knows, which have nothing but such a file.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::names::VerifierId;
use countersign_core::planted::{Bug, planted};

use crate::authority::{Mutation, Outcome, TrustFile};
use crate::disk::Disk;
use crate::network::Way;
use crate::world::{Event, World};

impl World {
    /// An operator exports a file, or a verifier is replaced.
    pub(crate) fn export(&mut self) {
        let Some(every) = self.plan.export_every else {
            return;
        };
        if self.plan.calm_from.is_some_and(|calm| self.now >= calm) {
            return;
        }
        let again = self.exports.about(every) + Duration::from_millis(1);
        self.after(again, Event::Export);
        if self.exports.chance(400) {
            self.replace();
            return;
        }
        let lifetime = Duration::from_secs(*self.exports.pick(&[5, 15, 40, 120]));
        let authority = &mut self.authorities[0];
        if authority.paused_until > self.now || authority.process.is_none() {
            return;
        }
        let expires_at = authority.now(self.now).saturating_add(lifetime);
        if !self.mutate(0, Mutation::Export { expires_at, lifetime }) {
            return;
        }
        if planted(Bug::FileMadeFirst) {
            self.give_out(expires_at);
        }
        // While it is being written down. More often while there is no other, which would be waited for in its place.
        let is_first = self.authorities[0].stored.exports.is_empty();
        if self.exports.chance(if is_first { 900 } else { 150 }) {
            self.crash_authority(10, 3000);
        }
    }

    /// A mutation was committed: what it says of a file is written down, and the file is made.
    pub(crate) fn note_exported(&mut self, outcome: &Outcome) {
        if let Mutation::Export { expires_at, .. } = outcome.mutation
            && !planted(Bug::FileMadeFirst)
        {
            let longest = *self.exports.pick(&[30, 3000]);
            let takes = self.exports.millis(0, longest);
            let life = self.authorities[0].life;
            self.after(takes, Event::MakeFile { life, expires_at });
        }
    }

    pub(crate) fn make_file(&mut self, life: u64, expires_at: Timestamp) {
        let authority = &self.authorities[0];
        if authority.life != life {
            return;
        }
        if authority.paused_until > self.now {
            self.at(authority.paused_until, Event::MakeFile { life, expires_at });
        } else if self.exports.chance(100) {
            self.crash_authority(10, 3000);
        } else {
            self.give_out(expires_at);
        }
    }

    fn give_out(&mut self, expires_at: Timestamp) {
        if let Some(file) = self.authorities[0].make_file(expires_at, self.now) {
            self.say(|_| format!("a trust file: {:?}", file.heartbeat));
            self.counts.exported += 1;
            self.memory.files.push(file);
        }
    }

    /// A machine is gone, and with it all that its verifier had. Another one of the same name stands in for it.
    fn replace(&mut self) {
        let verifier = self.exports.index(self.verifiers.len());
        let silently = self.exports.chance(500);
        self.crash(verifier, silently);
        let number = self.exports.next();
        let replaced = &mut self.verifiers[verifier];
        replaced.disk = Disk::default();
        replaced.key.verifier_id = VerifierId::parse(&format!("v{number}")).expect("an id");
        let known = &mut self.model.verifiers[verifier];
        known.excused = false;
        known.on_disk.clear();
        self.say(|_| format!("verifier {verifier} is replaced"));
    }

    /// The file that lies where a verifier starts, which may be cut off then.
    pub(crate) fn file_at_start(&mut self, verifier: usize) -> Option<TrustFile> {
        self.plan.export_every?;
        if self.memory.files.is_empty() || self.exports.chance(250) {
            return None;
        }
        let calm = self.plan.calm_from.unwrap_or(Duration::MAX);
        if self.exports.chance(800) {
            let until = self.now + self.exports.millis(1000, 60_000);
            for way in [Way::Up, Way::Down] {
                self.network.links[verifier].block(way, until.min(calm));
            }
        }
        let older = self.exports.chance(250);
        let files = &self.memory.files;
        if older {
            Some(self.exports.pick(files).clone())
        } else {
            files.last().cloned()
        }
    }
}
