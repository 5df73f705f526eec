//! What is done to the state directory from outside, and what of it the authority counts on.

use countersign_core::publishers::{FIRST_GENERATION, Generation};
use countersign_core::revocation::RevocationList;
use countersign_core::verifier::StateId;

use super::{Content, Disk, Sealed};
use crate::random::Random;

/// What a start may lack, for the model, that the authority was told is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lacks {
    /// Nothing.
    Nothing,
    /// All but what is carried beside the state.
    State,
    /// Anything.
    Anything,
}

impl Disk {
    /// Somebody makes a copy of the directory.
    pub(crate) fn copy(&mut self) {
        self.copies.push((self.content.clone(), self.sealed));
    }

    /// Somebody puts a copy back: of all, or of the records only. What was sealed since then is gone with all of it.
    pub(crate) fn put_back(&mut self, all: bool, random: &mut Random) -> bool {
        if self.copies.is_empty() {
            return false;
        }
        let (content, sealed) = random.pick(&self.copies).clone();
        (self.damaged, self.carried_damaged) = (true, true);
        if all {
            (self.content, self.sealed) = (content, sealed);
        } else {
            let floor = self.content.floor;
            self.content = Content { floor, ..content };
        }
        true
    }

    /// The floor, or the records, or both are lost.
    pub(crate) fn lose(&mut self, floor: bool, records: bool) {
        self.damaged = true;
        if floor {
            self.content.floor = None;
        }
        if records {
            self.carried_damaged = true;
            let floor = self.content.floor;
            self.content = Content {
                floor,
                ..Content::default()
            };
        }
    }

    /// Everything is let go of but the floor and which certificates are revoked. Not when the disk fails.
    pub(crate) fn let_go(&mut self, carried: RevocationList) -> bool {
        if self.failed {
            return false;
        }
        // Nobody waits for this one any more.
        self.copies.clear();
        self.content = Content {
            floor: self.content.floor,
            carried,
            let_go: true,
            ..Content::default()
        };
        (self.tip, self.heartbeat_epoch) = (0, 0);
        (self.damaged, self.carried_damaged) = (true, false);
        true
    }

    /// What the next start may lack.
    pub(crate) const fn lacks(&self, found: bool) -> Lacks {
        if self.carried_damaged {
            Lacks::Anything
        } else if self.content.let_go || (found && !self.damaged) {
            Lacks::Nothing
        } else {
            Lacks::State
        }
    }

    /// A start has seen what is left.
    pub(crate) const fn settle(&mut self, found: bool) {
        if self.content.floor.is_none() {
            self.sealed = Sealed {
                state: StateId {
                    epoch: 0,
                    digest: [0; 32],
                },
                publishers: 0,
            };
        }
        self.damaged = !found;
        self.carried_damaged = false;
    }

    /// The authority is told that `state` is on disk, and with it the publisher set of the generation that it names.
    pub(crate) const fn seal(&mut self, state: StateId, publishers: Generation) {
        if state.epoch > self.sealed.state.epoch {
            self.sealed.state = state;
        }
        self.seal_publishers(publishers);
        self.damaged = false;
    }

    /// The authority is told that the publisher set of `generation` is on disk.
    pub(crate) const fn seal_publishers(&mut self, generation: Generation) {
        if generation > FIRST_GENERATION && generation > self.sealed.publishers {
            self.sealed.publishers = generation;
        }
    }
}
