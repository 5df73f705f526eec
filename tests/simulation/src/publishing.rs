//! Publishing keys: operators, who replace them; somebody who has one that was dropped; and what must hold of those who believe
//! them. The catalogue has no numbers for it.
//!
//! - `P-1`: a verifier follows no link that the set which it had in force did not sign.
//! - `P-2`: it takes nothing over that a key signed which is not in its set.
//! - `P-3`: its generation never sinks; after a start with less than was durable it believes nothing but links.
//! - `P-4`: a publishing key signs only while every verifier that decides holds it, also one that has just started from its disk,
//!   unless it was forced. So no verifier that decides loses the authority: what is signed with that key is believed.

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_core::feed;
use countersign_core::names::KeyId;
use countersign_core::trust::{Change, Update, UpdateContent};
use countersign_core::verifier::Event as Told;

use crate::authority::{Mutation, Outcome, link};
use crate::network::Down;
use crate::setting::first_publisher;
use crate::toy::{Body, Signed, ToyHash, ToyKey};
use crate::verifier::Wish;
use crate::world::{Event, World};

/// Whether a verifier should take over what came, by the keys in the set that it has in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belief {
    /// Links are looked at where they are followed.
    Open,
    Believed,
    Outside,
}

impl World {
    /// An operator takes the next step with the publishing keys, or somebody uses one that is none any more.
    pub(crate) fn publish(&mut self) {
        let Some(every) = self.plan.publish_every else {
            return;
        };
        let again = self.publishing.about(every);
        self.after(again, Event::Publish);
        let mutation = match self.publishing.below(100) {
            0..30 => Mutation::PreparePublisher,
            30..65 => Mutation::ActivatePublisher {
                forced: self.publishing.chance(100),
            },
            65..85 => Mutation::RetirePublisher,
            _ => return self.forge_publication(),
        };
        if self.authorities[0].paused_until <= self.now {
            self.mutate(0, mutation);
        }
    }

    /// Sends a verifier a link or an update, signed by a key that its set does not have: one that was dropped, or never in any.
    fn forge_publication(&mut self) {
        let verifier = self.publishing.index(self.verifiers.len());
        let stolen = self.model.dropped_publishers.last().cloned();
        let by = stolen.unwrap_or_else(|| ToyKey::numbered(u64::MAX).key_id().clone());
        let process = self.verifiers[verifier].process.as_ref();
        let publishers = process.map(|process| &process.publishers);
        let publishers = publishers.filter(|publishers| publishers.link_key(by.as_str()).is_none());
        let (Some(stream), Some(publishers)) = (self.live_stream(verifier), publishers) else {
            return;
        };
        let body = if self.publishing.chance(500) {
            let last = publishers.links().last().and_then(Signed::as_link);
            let next = link(
                publishers.generation().max(1) + 1,
                last.map(|link| link.digest),
                std::slice::from_ref(&by),
            );
            Body::Link(Arc::new(next))
        } else {
            Body::Update(Arc::new(self.forged_update()))
        };
        let signed = Signed {
            at: self.now,
            by,
            body,
        };
        self.say(|_| format!("forged for verifier {verifier}: {signed:?}"));
        self.counts.forged += 1;
        self.send_down(
            stream,
            match signed.body {
                Body::Link(_) => Down::Link(signed),
                Body::Update(_) | Body::Heartbeat(_) => Down::Update(signed),
            },
        );
    }

    /// What would follow on the authority's state, were it the authority's.
    fn forged_update(&mut self) -> Update {
        let (trust, now) = (
            &self.authorities[0].stored.trust,
            self.authorities[0].wall(self.now),
        );
        let change = Change::default();
        let next = trust.next(&change, &ToyHash);
        if self.publishing.chance(300) {
            return feed::snapshot(&next, now);
        }
        Update {
            issuer: trust.issuer().clone(),
            epoch: next.epoch(),
            state_digest: *next.digest(),
            published_at: now,
            content: UpdateContent::Delta {
                base_epoch: trust.epoch(),
                base_digest: *trust.digest(),
                change,
            },
        }
    }

    /// Publishing keys may have changed.
    pub(crate) fn note_publishing(&mut self, outcome: &Outcome) {
        let publishing = &outcome.books.publishing;
        let before = self.model.publishers.iter();
        let gone = before.filter(|key| !publishing.keys().contains(key)).cloned();
        self.model.dropped_publishers.extend(gone);
        self.model.publishers = publishing.keys().iter().cloned().collect();
        if !matches!(outcome.mutation, Mutation::ActivatePublisher { .. }) {
            return;
        }
        self.counts.publishers += 1;
        if let Some(key) = &outcome.ungated_publisher {
            let epoch = publishing.published_in();
            self.model.ungated_publishers.insert(key.clone(), epoch);
        }
        for verifier in 0..self.verifiers.len() {
            self.check_holds_publisher(verifier);
        }
        // What a verifier has on disk shows when it starts from there.
        let calm = self.plan.calm_from.is_some_and(|calm| self.now >= calm);
        if self.publishing.chance(200) && !calm {
            let verifier = self.publishing.index(self.verifiers.len());
            self.crash(verifier, false);
        }
    }

    /// Whether a verifier should take over `message`, and whether it had to be able to (P-4).
    pub(crate) fn believed(&mut self, verifier: usize, message: &Down) -> Belief {
        let signed = match message {
            Down::Update(signed) => signed,
            Down::Pong(pong) => match &pong.heartbeat {
                Some((signed, _)) => signed,
                None => return Belief::Open,
            },
            Down::Link(_) | Down::Opened | Down::Closed(_) => return Belief::Open,
        };
        let known = &self.model.verifiers[verifier];
        let belief = if known.publishers.contains(&signed.by) {
            Belief::Believed
        } else {
            Belief::Outside
        };
        if signed.by == self.authorities[0].stored.publishing.signs && self.has_to_hold(verifier) {
            let believed = self.verifiers[verifier].believes(signed);
            self.check(believed, "P-4", |world| {
                format!("{} does not believe {}", world.name(verifier), signed.by)
            });
        }
        belief
    }

    /// What came was taken over only if it was to be believed (P-2).
    pub(crate) fn check_believed(&mut self, verifier: usize, belief: Belief, wishes: &[Wish]) {
        let takes = |wish: &Wish| match wish {
            Wish::Saving(_) | Wish::Confirmed(_) => true,
            Wish::Told(event) => matches!(event, Told::Installed | Told::Repeated | Told::Confirmed),
            Wish::Send(_) | Wish::End(_) => false,
        };
        let taken = belief == Belief::Outside && wishes.iter().any(takes);
        self.check(!taken, "P-2", |world| {
            format!(
                "{} takes over what a key outside its set signed",
                world.name(verifier)
            )
        });
    }

    /// The publisher set of a verifier, after something happened to it: P-1, P-3, P-4.
    pub(crate) fn check_publishers(&mut self, verifier: usize) {
        let Some(process) = &self.verifiers[verifier].process else {
            return;
        };
        let generation = process.publishers.generation();
        if generation != self.model.verifiers[verifier].generation {
            self.check_links(verifier);
        }
        let sealed = self.verifiers[verifier].disk.sealed.publishers;
        if generation < sealed {
            let process = self.verifiers[verifier].process.as_ref();
            let believes =
                |key: &KeyId| process.is_some_and(|process| process.publishers.key(key.as_str()).is_some());
            let believes = self.model.verifiers[verifier].publishers.iter().any(believes);
            self.check(!believes, "P-3", |world| {
                let name = world.name(verifier);
                format!("{name} is at generation {generation} and believes, with {sealed} sealed")
            });
        }
        self.check_holds_publisher(verifier);
    }

    /// Goes the way that the verifier went from its pinned set.
    fn check_links(&mut self, verifier: usize) {
        let Some(process) = &self.verifiers[verifier].process else {
            return;
        };
        let (mut set, mut generation) = (BTreeSet::from([first_publisher()]), 0);
        let mut follows = true;
        for signed in process.publishers.links() {
            let Some(link) = signed.as_link() else { continue };
            follows &= set.contains(&signed.by) && link.generation > generation;
            generation = link.generation;
            set = link.keys.keys().cloned().collect();
        }
        let before = self.model.verifiers[verifier].generation;
        self.check(follows, "P-1", |world| {
            let name = world.name(verifier);
            format!("{name} follows a link to generation {generation} that its set did not sign")
        });
        self.check(generation > before, "P-3", |world| {
            format!(
                "{} goes from generation {before} to {generation}",
                world.name(verifier)
            )
        });
        self.counts.followed += 1;
        let known = &mut self.model.verifiers[verifier];
        (known.publishers, known.generation) = (set, generation);
    }

    /// A verifier that decides holds the publishing key that signs (P-4).
    fn check_holds_publisher(&mut self, verifier: usize) {
        if self.plan.publish_every.is_none() || !self.has_to_hold(verifier) {
            return;
        }
        let signs = &self.authorities[0].stored.publishing.signs;
        let holds = self.model.verifiers[verifier].publishers.contains(signs);
        self.check(holds, "P-4", |world| {
            let signs = &world.authorities[0].stored.publishing.signs;
            format!("{} decides and does not hold {signs}", world.name(verifier))
        });
    }

    /// Whether the verifier decides, and was waited for before the publishing key signed.
    fn has_to_hold(&self, verifier: usize) -> bool {
        let known = &self.model.verifiers[verifier];
        let excused =
            self.model.broken.is_some() || self.model.leapt || known.excused || self.is_unsure(known);
        let signs = &self.authorities[0].stored.publishing.signs;
        let ungated = self.model.ungated_publishers.get(signs);
        let waited_for = ungated.is_none_or(|epoch| known.epoch >= *epoch);
        let tolerant = self.verifiers[verifier].classes.len() - 1;
        !excused && waited_for && self.verifiers[verifier].decides(tolerant, self.now)
    }
}
