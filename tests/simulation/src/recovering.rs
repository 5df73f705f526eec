//! What follows when a store was put back, or copied: a verifier shows it, the authority stops, and an operator has it go on.
//! From then on everything holds again that held before.

use std::time::Duration;

use countersign_core::trust::Epoch;

use crate::authority::{Mutation, Outcome};
use crate::model::Scope;
use crate::toy::{Signed, Stated};
use crate::world::{Event, World};

impl World {
    /// A verifier shows the latest that it keeps. Whether its stream may begin: not before what it shows is written down.
    pub(crate) fn proof(&mut self, index: usize, latest: &Signed) -> bool {
        let authority = &self.authorities[index];
        if authority.process.is_none() {
            return true;
        }
        let (shown, trust) = (latest.stated(), &authority.stored.trust);
        let is_another = shown.epoch == trust.epoch() && shown.digest != *trust.digest();
        // Of an earlier epoch it may not know any more what it was.
        if authority.pending.is_none() && (shown.epoch > trust.epoch() || is_another) {
            self.model.shown[index] = self.model.shown[index].max(Some(shown.epoch));
        }
        match self.authorities[index].shown(latest) {
            None => true,
            Some(stop) => {
                self.mutate(index, stop);
                false
            }
        }
    }

    /// The authority has stopped, which it does for nothing but a good reason.
    pub(crate) fn note_stopped(&mut self, index: usize) {
        self.counts.stopped += 1;
        self.model.stopped[index] = true;
        let broken = self.model.broken.is_some();
        self.check(broken, "F30", |_| {
            format!("authority {index} stops, and nothing was put back")
        });
        let after = self.random.millis(1000, 40_000);
        self.after(after, Event::Recover);
    }

    /// An operator stops the other authority for good, if there is one, and has this one go on.
    pub(crate) fn recover(&mut self) {
        let has_stopped = self
            .authorities
            .iter()
            .any(crate::authority::Authority::is_stopped);
        let calm = self.plan.calm_from.is_some_and(|calm| self.now >= calm);
        if self.model.broken.is_none() || !(has_stopped || calm) {
            return;
        }
        let named = self.named();
        for index in (0..self.authorities.len()).rev() {
            self.stop_authority(index);
        }
        self.settle_pending();
        for link in &mut self.network.links {
            link.leads_to = 0;
        }
        self.authorities[0].paused_until = self.now;
        let before = self.authorities[0].stored.trust.clone();
        if let Some(outcome) = self.authorities[0].recover(named, self.now) {
            self.say(|world| format!("recovered: {:?}", world.authorities[0].highest()));
            self.counts.recovered += 1;
            self.note_published(&before, &outcome);
            self.note_recovered(&outcome);
        }
        let life = self.authorities[0].life;
        let after = self.random.millis(10, 3000);
        self.after(after, Event::StartAuthority { authority: 0, life });
    }

    /// What the operator names, where the store itself does not say what was shown, or to be sure: the highest of all that
    /// there is.
    fn named(&self) -> Option<Stated> {
        let calm = self.plan.calm_from.is_some_and(|calm| self.now >= calm);
        if self.authorities[0].is_stopped() && !calm {
            return None;
        }
        let authorities = self.authorities.iter().map(crate::authority::Authority::highest);
        let verifiers = self
            .verifiers
            .iter()
            .filter_map(|verifier| verifier.disk.latest());
        let kept = verifiers.map(Signed::stated);
        authorities.chain(kept).max_by_key(|stated| stated.epoch)
    }

    fn note_recovered(&mut self, outcome: &Outcome) {
        let epoch = outcome.books.trust.epoch();
        let passed = self.model.shown[0].is_none_or(|shown| shown < epoch);
        self.check(passed, "D17", |_| {
            format!("the authority goes on from {epoch}, and a verifier has shown a later one")
        });
        (self.model.shown, self.model.stopped) = ([None; 2], [false; 2]);
        self.memory.note_commit(self.now, epoch);
        self.memory.pending = None;
        // Of an earlier recovery that is not in this store, either, nobody may have come to tell. Whoever does stops it again.
        let published = self.model.published.keys();
        if published.filter(|(published, _)| *published >= epoch).count() > 1 {
            return;
        }
        let common = self.model.broken.take().unwrap_or_default();
        self.model.recovered = epoch;
        // What was taken back where nobody knows of it any more is taken back with everything else.
        for fact in self.model.facts.iter_mut().filter(|fact| fact.epoch > common) {
            (fact.void, fact.acknowledged) = (true, false);
        }
        self.model.signed.clear();
        for key_id in &outcome.ungated {
            self.model.ungated.insert(key_id.clone(), epoch);
        }
        for (verifier, known) in self.verifiers.iter().zip(&mut self.model.verifiers) {
            known.quarantine = None;
            // Who is not in these books goes on until its own budgets end, and no bound says when that is.
            known.excused |= !self.authorities[0].knows(&verifier.key);
        }
        let revoked = outcome.revoked.iter();
        let watermark =
            revoked.map(|everything| Scope::Tokens(everything.subject.clone(), everything.issued_before));
        let scopes: Vec<Scope> = watermark.chain([Scope::All]).collect();
        for scope in scopes {
            let fact = self.model.fact(scope, epoch);
            self.model.facts[fact].acknowledged = true;
            for after in [4, 9, 30] {
                self.after(Duration::from_secs(after), Event::Ask { fact });
            }
        }
    }

    /// Nothing is changed by an authority that was shown that it must not (D17).
    pub(crate) fn check_stopped(&mut self, index: usize, mutation: &Mutation, epoch: Option<Epoch>) {
        let harmless = matches!(mutation, Mutation::Stop(_) | Mutation::Enrol { .. });
        let shown = self.model.shown[index].is_some();
        self.check(harmless || !shown, "D17", |_| {
            format!("authority {index} was shown that its store is old, and publishes {epoch:?}")
        });
    }
}
