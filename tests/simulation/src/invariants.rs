//! What must hold after every event, stated over what verifiers would answer; the numbers are those of the assurance catalogue.

use std::time::Duration;

use countersign_core::revocation::RevokedSubject;
use countersign_core::trust::Update;
use countersign_core::verifier::{MAX_CLOCK_DIFFERENCE, StateId};
use countersign_core::{Rejection, Timestamp};

use crate::authority::LEEWAY;
use crate::model::{Fact, Known, Published, Scope};
use crate::verifier::Look;
use crate::world::World;

/// For what lies between two readings, and for clocks that run apart.
const MARGIN: Duration = Duration::from_millis(2);

/// An invariant that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which, as in the catalogue.
    pub invariant: &'static str,
    /// When, in true time.
    pub at: Duration,
    /// What happened.
    pub what: String,
}

impl World {
    /// Takes note that `invariant` is broken, unless `holds`.
    pub(crate) fn check(&mut self, holds: bool, invariant: &'static str, what: impl FnOnce(&Self) -> String) {
        self.counts.checks += 1;
        if !holds && self.violation.is_none() {
            self.violation = Some(Violation {
                invariant,
                at: self.now,
                what: what(self),
            });
        }
    }

    /// A verdict that was made at `at`, on `look`.
    pub(crate) fn check_verdict(
        &mut self,
        verifier: usize,
        token: usize,
        class: usize,
        look: &Look,
        verdict: Result<(), Rejection>,
        at: Duration,
    ) {
        match verdict {
            Ok(()) => self.check_accepted(verifier, token, class, look, at),
            Err(rejection) => {
                let taken_back = matches!(
                    rejection,
                    Rejection::TokenRevoked | Rejection::ClientRevoked | Rejection::KeyRevoked
                );
                // Whose time nobody has confirmed may believe an authority that is far ahead.
                let knows = self.model.verifiers[verifier].heard || !self.model.leapt;
                // What may be refused for the certificate alone, for nothing else is in force here, may pass when its revocation is forgotten.
                let epoch = self.model.verifiers[verifier].epoch;
                let is_for_good = !self.model.is_over_revoked(token)
                    || self.model.facts_of(token).any(|fact| fact.epoch <= epoch);
                if taken_back && knows && is_for_good {
                    self.model.verifiers[verifier].refused.insert(token);
                }
                let good = self.is_good(verifier, token, class, look, at);
                self.check(!good, "I-04", |world| {
                    format!("{} refuses a good token: {rejection:?}", world.name(verifier))
                });
            }
        }
    }

    fn check_accepted(&mut self, verifier: usize, token: usize, class: usize, look: &Look, at: Duration) {
        let name = self.name(verifier);
        let what = |_: &Self| format!("{name} accepts token {token} in class {class}");
        let known = self.model.verifiers[verifier].clone();
        let shown = &self.model.tokens[token];
        let (forged, expires_at, issued_at) = (shown.forged, shown.claims.expires_at, shown.claims.issued_at);
        self.check(!forged, "I-20", what);
        let on_time = look.now.is_ok_and(|now| expires_at > now);
        self.check(on_time, "X13", what);
        self.check(!known.refused.contains(&token), "I-09", what);
        let over = self.model.tokens[token].over();
        let revoked_until = over.and_then(|over| known.certificates.get(&over));
        let is_kept = |until: &Timestamp| *until >= issued_at && look.now.is_ok_and(|now| *until > now);
        let is_over_revoked = revoked_until.is_some_and(is_kept);
        // Also after a recovery, by which all is forgotten that is held against tokens themselves.
        self.check(!is_over_revoked || self.model.leapt, "I-09", what);
        let id = (known.epoch, known.digest);
        let is_published = self.model.published.contains_key(&id);
        // Nothing that the authority said in this life, or before it and on disk, confirms what is in force.
        self.check(is_published && known.anchors().next().is_some(), "I-15", what);
        let fresh = self.is_fresh(verifier, class, at);
        self.check(fresh, "I-14", what);
        let right = self.is_time_right(&known, look, at);
        self.check(right, "I-17", what);
        // An authority far ahead forgets what verifiers must not, and tells newcomers nothing of it.
        if self.model.broken.is_none() && !self.model.leapt {
            self.check_promises(verifier, token, class, &known, at, &what);
        }
    }

    fn check_promises(
        &mut self,
        verifier: usize,
        token: usize,
        class: usize,
        known: &Known,
        at: Duration,
        what: &impl Fn(&Self) -> String,
    ) {
        let name = self.verifiers[verifier].classes[class].class.class.clone();
        let withdrawn = |fact: &Fact| fact.epoch <= known.epoch && matches!(fact.scope, Scope::Key(_));
        let withdrawn = self.model.facts_of(token).any(withdrawn);
        self.check(!withdrawn, "I-05", what);
        let in_force = self.model.facts_of(token).any(|fact| fact.epoch <= known.epoch);
        self.check(!in_force, "I-12", |world| {
            let facts: Vec<&Fact> = world.model.facts_of(token).collect();
            format!("{}, which is taken back: {facts:?}", what(world))
        });
        let longer_by = known.longer_by(self.model.steps);
        let is_late = |by: Option<&Duration>| by.is_some_and(|by| at > *by + longer_by);
        let mut receipts = self
            .model
            .facts_of(token)
            .filter_map(|fact| fact.receipt.as_ref());
        let late = receipts.any(|receipt| is_late(receipt.get(&name)));
        drop(receipts);
        // Of a directory that was put back nobody can know.
        self.check(!late || known.excused, "I-08", what);
        let quarantined = is_late(known.quarantine.as_ref().and_then(|receipt| receipt.get(&name)));
        self.check(!quarantined || known.excused, "I-08q", what);
    }

    /// Whether the last confirmation is younger than lease and budget, and than the lifetime of the file that it is of.
    fn is_fresh(&self, verifier: usize, class: usize, at: Duration) -> bool {
        let budget = self.verifiers[verifier].classes[class].class.budget.shortest();
        self.model.verifiers[verifier].anchors().any(|anchor| {
            let longest = anchor.lasts(budget);
            let error = anchor.error + longest / 2000 + MARGIN + self.model.steps;
            at.saturating_sub(anchor.at) <= longest + error
        })
    }

    /// Whether the verifier's time is as near to the authority's as clocks may be apart.
    fn is_time_right(&self, known: &Known, look: &Look, at: Duration) -> bool {
        // Nothing but the wall clock has said what time it is since the machine started.
        if !known.wall_error.is_zero() || self.model.leapt || self.model.broken.is_some() {
            return true;
        }
        let right = self.authorities[0].wall(at).as_seconds();
        let cap = (MAX_CLOCK_DIFFERENCE + self.model.steps).as_secs() + 1;
        look.now.is_ok_and(|now| now.as_seconds().abs_diff(right) <= cap)
    }

    /// Whether there is no reason whatsoever to refuse `token`.
    fn is_good(&self, verifier: usize, token: usize, class: usize, look: &Look, at: Duration) -> bool {
        let (known, shown) = (&self.model.verifiers[verifier], &self.model.tokens[token]);
        if self.model.broken.is_some() || self.model.leapt || known.excused || shown.forged {
            return false;
        }
        let Ok(now) = look.now else { return false };
        let valid = shown.claims.issued_at <= now.saturating_add(LEEWAY) && shown.claims.expires_at > now;
        let pending = self.pending_key(&shown.key_id);
        let heard = self.heard_by(known, now, at);
        let taken_back =
            self.model.facts_of(token).next().is_some() || self.model.is_over_held(token, known, heard);
        if !valid || pending || taken_back {
            return false;
        }
        self.may_hold(known, &shown.key_id) && self.is_live(verifier, class, at)
    }

    /// Whether a verifier that knows so much has been waited for before the key signed.
    fn may_hold(&self, known: &Known, key_id: &countersign_core::names::KeyId) -> bool {
        let ungated = self.model.ungated.get(key_id);
        ungated.is_none_or(|epoch| known.epoch >= *epoch)
    }

    /// Whether the verifier surely decides calls of the class.
    fn is_live(&self, verifier: usize, class: usize, at: Duration) -> bool {
        let known = &self.model.verifiers[verifier];
        let budget = self.verifiers[verifier].classes[class].class.budget.shortest();
        let mut anchors = known.anchors();
        // Across a start of the machine its age cannot be told exactly.
        known.wall_error.is_zero()
            && anchors.any(|anchor| {
                let longest = anchor.lasts(budget);
                // A file is of the authority's clock.
                let error = anchor
                    .lifetime
                    .map_or(Duration::ZERO, |_| anchor.error + self.model.steps);
                at.saturating_sub(anchor.at) + longest / 1000 + MARGIN + error < longest
            })
    }

    /// Whether the key is being withdrawn at this moment.
    fn pending_key(&self, key_id: &countersign_core::names::KeyId) -> bool {
        let pending = self.authorities[0].pending.as_ref();
        let ring = pending.map(|outcome| &outcome.books.ring);
        let key = ring.and_then(|ring| ring.iter().find(|key| key.jwk.key_id() == key_id));
        key.is_some_and(|key| key.times.compromised_at.is_some())
    }

    /// `verdict` is one of those that were to be had at one moment, with nothing remembered.
    pub(crate) fn check_same(
        &mut self,
        invariant: &'static str,
        verifier: usize,
        token: usize,
        verdict: Result<(), Rejection>,
        anew: &[Result<(), Rejection>],
    ) {
        let forged = self.model.tokens[token].forged;
        let same = anew.iter().any(|anew| anew.is_ok() == verdict.is_ok());
        self.check(same && !(forged && verdict.is_ok()), invariant, |world| {
            format!("{} says {verdict:?}, and {anew:?} anew", world.name(verifier))
        });
    }

    /// What a verifier has in force, after something happened to it: I-07, I-10, I-06, and that its time does not go back.
    pub(crate) fn check_state(&mut self, verifier: usize) {
        let at = self.now;
        let Some(process) = &self.verifiers[verifier].process else {
            return;
        };
        let now = process.held.now(self.verifiers[verifier].clock.elapsed(at));
        let (id, heard, told) = (process.held.id(), process.heard, process.told);
        // Once, when the authority is first heard, a wall clock that is far off is corrected.
        let first = heard && !self.model.verifiers[verifier].heard;
        self.model.verifiers[verifier].heard = heard;
        if let (Ok(now), false) = (now, first) {
            let name = self.name(verifier);
            self.check(now >= told, "I-17", |_| {
                format!("{name} goes back from {told} to {now}")
            });
        }
        if let (Ok(now), Some(process)) = (now, &mut self.verifiers[verifier].process) {
            process.told = now;
        }
        self.check_id(verifier, id);
        self.check_publishers(verifier);
        // What was sealed before may be in force again, and not be on disk.
        let disk = &self.verifiers[verifier].disk;
        if disk.sealed.state == id && !disk.damaged {
            self.note_on_disk(verifier, id);
        }
    }

    fn check_id(&mut self, verifier: usize, id: StateId) {
        let known = &self.model.verifiers[verifier];
        if (known.epoch, known.digest) == (id.epoch, id.digest) {
            return;
        }
        let before = known.epoch;
        let sealed = self.verifiers[verifier].disk.sealed.state.epoch;
        let forward = id.epoch > before && (id.epoch >= sealed || known.epoch != 0 || id.epoch == 0);
        let name = self.name(verifier);
        self.check(forward, "I-07", |_| {
            format!(
                "{name} goes from epoch {before} to {}, with {sealed} sealed",
                id.epoch
            )
        });
        let equal = self
            .model
            .published
            .get(&(id.epoch, id.digest))
            .is_some_and(|published| {
                let process = self.verifiers[verifier].process.as_ref();
                let trust = process.and_then(|process| process.held.in_force());
                trust.is_some_and(|trust| is_state(published, &trust.state))
            });
        self.check(equal, "I-10", |_| {
            format!("{name} has another state at epoch {}", id.epoch)
        });
        let known = &mut self.model.verifiers[verifier];
        (known.epoch, known.digest) = (id.epoch, id.digest);
        self.note_certificates(verifier, id);
    }

    /// What a start found: nothing below what was sealed, and nothing lost that was not damaged.
    pub(crate) fn check_start(&mut self, verifier: usize) {
        let process = self.verifiers[verifier].process.as_ref();
        let epoch = process.map_or(0, |process| process.held.epoch());
        let disk = &mut self.verifiers[verifier].disk;
        let (sealed, damaged) = (disk.sealed.state.epoch, disk.damaged);
        let lacks = disk.lacks(epoch != 0);
        disk.settle(epoch != 0);
        let name = self.name(verifier);
        let what = |_: &Self| format!("{name} starts at epoch {epoch}, with {sealed} sealed");
        self.check(epoch == 0 || epoch >= sealed, "I-07", what);
        // Where nobody knows what time it is, nobody can tell what is too long.
        let unsure = self.model.verifiers[verifier].wall_error > Duration::from_secs(5);
        let excused = damaged || unsure || self.model.leapt;
        self.check(excused || epoch >= sealed, "I-34", what);
        let known = &mut self.model.verifiers[verifier];
        known.heard = false;
        self.note_lacks(verifier, lacks);
    }

    /// Whether its clocks are so far off that it may decide for longer than it is waited for.
    pub(crate) fn is_unsure(&self, known: &Known) -> bool {
        !known.longer_by(self.model.steps).is_zero()
    }

    /// I-01: whoever decides holds every key that signed, unless it was not waited for.
    pub(crate) fn check_keys(&mut self, verifier: usize) {
        let known = &self.model.verifiers[verifier];
        let tolerant = self.verifiers[verifier].classes.len() - 1;
        let excused =
            self.model.broken.is_some() || self.model.leapt || known.excused || self.is_unsure(known);
        if excused || !self.verifiers[verifier].decides(tolerant, self.now) {
            return;
        }
        let now = self.authorities[0].wall(self.now);
        let process = self.verifiers[verifier].process.as_ref();
        let Some(trust) = process.and_then(|process| process.held.in_force()) else {
            return;
        };
        let keys = trust.state.keys();
        let lacks = self.model.signed.iter().find(|(key_id, until)| {
            let matters = **until > now && self.may_hold(known, key_id);
            matters && keys.find(key_id).is_none()
        });
        let lacks = lacks.map(|(key_id, _)| key_id.clone());
        self.check(lacks.is_none(), "I-01", |world| {
            format!("{} decides and does not hold {lacks:?}", world.name(verifier))
        });
    }

    /// A key is about to sign: it is in the books, and nobody has withdrawn it (I-02).
    pub(crate) fn check_signer(&mut self, authority: usize, key_id: &countersign_core::names::KeyId) {
        let books = &self.authorities[authority].stored;
        let good = books
            .find(key_id)
            .is_some_and(|key| key.times.compromised_at.is_none());
        self.check(good, "I-02", |_| format!("{key_id} signs"));
        let now = self.authorities[authority].wall(self.now);
        let retired = self.authorities[authority]
            .stored
            .find(key_id)
            .and_then(|key| key.times.retired_from);
        self.check(retired.is_none_or(|retired| retired > now), "I-03", |_| {
            format!("{key_id} signs, which was retired at {retired:?}")
        });
        self.check(self.model.shown[authority].is_none(), "D17", |_| {
            format!("authority {authority} was shown that its store is old, and signs")
        });
    }

    /// What an update that could not be taken over takes back is refused from now on.
    pub(crate) fn check_heeded(&mut self, verifier: usize, update: &Update) {
        let at = self.now;
        let Some(look) = self.verifiers[verifier].look(at) else {
            return;
        };
        let known = &self.model.verifiers[verifier];
        if update.epoch <= known.epoch || self.model.broken.is_some() {
            return;
        }
        let told: Vec<RevokedSubject> = update.revocations().iter().map(|entry| entry.subject).collect();
        let facts = self.model.facts.iter().enumerate();
        let heard = |fact: &Fact| match &fact.scope {
            Scope::Tokens(subject, _) => fact.epoch <= update.epoch && told.contains(subject),
            Scope::Key(_) | Scope::All => false,
        };
        let heard: Vec<usize> = facts
            .filter(|(_, fact)| !fact.void && heard(fact))
            .map(|(i, _)| i)
            .collect();
        let tokens = self.model.tokens.iter().enumerate().rev().take(30);
        let concerned = tokens.filter(|(_, token)| token.taken_back.iter().any(|fact| heard.contains(fact)));
        let concerned: Vec<usize> = concerned.map(|(index, _)| index).collect();
        let tolerant = self.verifiers[verifier].classes.len() - 1;
        for token in concerned {
            let verdict = self.verdict_anew(verifier, token, tolerant, &look);
            self.check(verdict.is_err(), "I-08h", |world| {
                format!(
                    "{} accepts token {token}, taken back by what it heard",
                    world.name(verifier)
                )
            });
        }
    }

    /// A core of the fleet gets well once faults stop: I-36 to I-39.
    pub(crate) fn check_recovered(&mut self) {
        if self.model.broken.is_some() || self.model.leapt {
            return;
        }
        let settled = self.now.saturating_sub(Duration::from_secs(60));
        let commits = self.memory.commits();
        let epoch = commits
            .iter()
            .rev()
            .find(|(at, _)| *at < settled)
            .map_or(0, |(_, epoch)| *epoch);
        for verifier in 0..self.verifiers.len() {
            let calm = self
                .plan
                .lasts
                .saturating_sub(self.plan.calm_from.unwrap_or_default());
            let most = calm.as_secs() / 4 + 10;
            let streams = self.opened_in_calm[verifier];
            self.check(streams <= most, "I-38", |world| {
                format!("{} opened {streams} streams", world.name(verifier))
            });
            let known = &self.model.verifiers[verifier];
            let quarantined = self.authorities[0]
                .stored
                .quarantined
                .contains(&self.verifiers[verifier].key.spiffe_id);
            let released = known.released.is_some_and(|released| released > settled);
            if known.lost || quarantined || released || self.verifiers[verifier].half_reads {
                continue;
            }
            let holds = known.epoch >= epoch;
            let heard = known.anchor.is_some_and(|anchor| anchor.at > settled);
            self.check(holds, "I-36", |world| {
                format!("{} does not get to {epoch}", world.name(verifier))
            });
            self.check(heard, "I-39", |world| {
                format!("{} does not get well", world.name(verifier))
            });
        }
        let rotates = self.rotates();
        self.check(rotates, "I-37", Self::why_no_rotation);
    }

    /// Whether no key signs for much longer than it should: all who are waited for have come, or ended.
    fn rotates(&self) -> bool {
        // A trust file is waited for longer than it is calm.
        let is_owed = self.plan.export_every.is_none();
        let Some(lifetime) = self.plan.key_lifetime.filter(|_| is_owed) else {
            return true;
        };
        let authority = &self.authorities[0];
        let now = authority.wall(self.now);
        let signing = authority
            .stored
            .signing(now)
            .and_then(|key_id| authority.stored.find(&key_id).cloned());
        let [_, longest] = self.plan.budgets;
        let waits = self.plan.lease + Duration::from_secs(longest + 60) + self.plan.max_lifetime;
        let since = signing.and_then(|key| key.times.active_from);
        since.is_some_and(|since| now.since(since) <= lifetime + waits)
    }

    fn why_no_rotation(&self) -> String {
        let authority = &self.authorities[0];
        let standby = authority
            .stored
            .ring
            .iter()
            .find(|key| key.times.active_from.is_none());
        let gate = standby.zip(authority.process.as_ref()).map(|(key, process)| {
            let elapsed = authority.clock.elapsed(self.now);
            let laggards = process.register.laggards(key.published_in, elapsed, 9);
            (process.register.gate(key.published_in, elapsed), laggards)
        });
        format!("no rotation was completed; the gate: {gate:?}")
    }

    pub(crate) fn name(&self, verifier: usize) -> String {
        let known = &self.model.verifiers[verifier];
        format!("verifier {verifier} at epoch {}", known.epoch)
    }
}

/// Whether `state` is what was published, key by key and revocation by revocation.
pub(crate) fn is_state(published: &Published, state: &countersign_core::trust::TrustState) -> bool {
    let entries = state.revocations().iter();
    let revocations = entries.map(|entry| (entry.subject, (entry.issued_before, entry.expires_at)));
    let keys = state.keys().keys().iter();
    let keys = keys.map(|key| (key.jwk.key_id().clone(), key.times));
    published.revocations == revocations.collect() && published.keys == keys.collect()
}
