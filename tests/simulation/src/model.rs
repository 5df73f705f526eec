//! What is true, in sets and maps: every token with what it is, every revocation with when it was made and what was promised
//! with it, every state that was published, every confirmation that was given.
//!
//! Nothing here is quick or clever, and nothing is taken from the machines but what they said to the outside.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::binding::PeerCertificate;
use countersign_core::claims::{Claims, Confirmation};
use countersign_core::jwk::Jwk;
use countersign_core::key_set::KeyTimes;
use countersign_core::names::{CertificateThumbprint, ClassName, KeyId};
use countersign_core::publishers::Generation;
use countersign_core::revocation::{EXPIRY_STEP, Revocation, RevokedSubject};
use countersign_core::trust::{Epoch, LINGERS, StateDigest};
use countersign_core::verifier::MAX_CLOCK_DIFFERENCE;

/// A token that was issued, or made to look like one.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// With which it is shown.
    pub(crate) certificate: Option<PeerCertificate>,
    pub(crate) claims: Claims,
    pub(crate) key_id: KeyId,
    /// Nobody signed it.
    pub(crate) forged: bool,
    /// Which facts take it back.
    pub(crate) taken_back: Vec<usize>,
}

impl Token {
    /// Whether it was issued by `issued_before` and is one of those that are taken back with `subject`: by what it says, or by
    /// what it is shown with.
    pub(crate) fn is_of(&self, subject: &RevokedSubject, issued_before: Timestamp) -> bool {
        let watermark = !matches!(subject, RevokedSubject::Token(_));
        (subject.concerns(&self.claims) || self.is_over(subject))
            && (!watermark || self.claims.issued_at <= issued_before)
    }

    /// Whether it is bound to a certificate that is revoked with `subject`, or to the SPIFFE ID in it. As long as that is remembered, it is
    /// refused, unless it was issued after the end of the entry.
    fn is_over(&self, subject: &RevokedSubject) -> bool {
        let over = self.over();
        matches!(subject, RevokedSubject::Certificate(revoked) if over == Some(*revoked))
    }

    /// The certificate that it is bound to, or in which the SPIFFE ID is that it is bound to.
    pub(crate) fn over(&self) -> Option<CertificateThumbprint> {
        let is_bound = matches!(
            self.claims.confirmation,
            Confirmation::Certificate(_) | Confirmation::SpiffeId(_)
        );
        let shown = self.certificate.as_ref().filter(|_| is_bound);
        shown.map(|shown| shown.thumbprint)
    }
}

/// What is taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Tokens(RevokedSubject, Timestamp),
    Key(KeyId),
    /// Every token that there was.
    All,
}

impl Scope {
    fn concerns(&self, token: &Token) -> bool {
        match self {
            Self::Key(key_id) => *key_id == token.key_id,
            Self::All => true,
            Self::Tokens(subject, issued_before) => token.is_of(subject, *issued_before),
        }
    }
}

/// By when a class refuses everywhere, as of some moment: nothing for a class that does so already. Times are true time.
pub(crate) type Receipt = BTreeMap<ClassName, Duration>;

/// Something was taken back.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    pub(crate) scope: Scope,
    pub(crate) epoch: Epoch,
    /// When it is forgotten, if it is a revocation.
    pub(crate) until: Timestamp,
    /// Whether its operator was told so.
    pub(crate) acknowledged: bool,
    /// Whether it turned out not to be.
    pub(crate) void: bool,
    /// What was promised last.
    pub(crate) receipt: Option<Receipt>,
}

/// A revocation as sets have it.
type Entry = (Timestamp, Timestamp);

/// A state that was published.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    pub(crate) revocations: BTreeMap<RevokedSubject, Entry>,
    pub(crate) keys: BTreeMap<KeyId, KeyTimes>,
}

/// What a verifier was told is current, as of then in true time, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) at: Duration,
    pub(crate) lease: Duration,
    /// By how much its age may be too small: clocks that were wrong across a start of the machine.
    pub(crate) error: Duration,
    /// How old it may become, if it is of a trust file.
    pub(crate) lifetime: Option<Duration>,
}

impl Anchor {
    /// For how long a class of this budget is decided.
    pub(crate) fn lasts(&self, budget: Duration) -> Duration {
        let lasts = self.lease + budget;
        self.lifetime.map_or(lasts, |lifetime| lasts.min(lifetime))
    }
}

/// What is known of one verifier.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) anchor: Option<Anchor>,
    /// The same of what a trust file says to whoever has it.
    pub(crate) file: Option<Anchor>,
    pub(crate) epoch: Epoch,
    pub(crate) digest: StateDigest,
    /// Tokens that it refused as taken back, in this life.
    pub(crate) refused: BTreeSet<usize>,
    /// Certificates of which it ever had in force that they are revoked, and until when.
    pub(crate) certificates: BTreeMap<CertificateThumbprint, Timestamp>,
    /// Those of them that it said to have on disk.
    pub(crate) on_disk: BTreeMap<CertificateThumbprint, Timestamp>,
    /// Those of these that it has there beside the state, which does not say so.
    pub(crate) beside: BTreeMap<CertificateThumbprint, Timestamp>,
    /// By when each class stops, for one in quarantine, in true time.
    pub(crate) quarantine: Option<Receipt>,
    /// When it was last let out of quarantine.
    pub(crate) released: Option<Duration>,
    /// Whether an older directory was put back, of which nothing can be known until the authority is heard.
    pub(crate) excused: bool,
    /// Whether the authority was heard in this life.
    pub(crate) heard: bool,
    /// It is never heard of again.
    pub(crate) lost: bool,
    /// How far its wall clock is wrong where nothing but that says what time it is.
    pub(crate) wall_error: Duration,
    /// The publisher set that it has in force, by the links that it followed, and its generation. Zero: what it has pinned.
    pub(crate) publishers: BTreeSet<KeyId>,
    pub(crate) generation: Generation,
}

impl Known {
    /// All that confirms what it has in force.
    pub(crate) fn anchors(&self) -> impl Iterator<Item = &Anchor> {
        self.anchor.iter().chain(&self.file)
    }

    /// By how much it may decide for longer than was promised: what its clocks are off by, where they tell an age. For those who
    /// start from a trust file, as much as clocks may be apart is in the promise. Authorities' clocks were set by `steps`.
    pub(crate) fn longer_by(&self, steps: Duration) -> Duration {
        let of_file = self.file.map_or(Duration::ZERO, |file| file.error + steps);
        let of_file = of_file.saturating_sub(MAX_CLOCK_DIFFERENCE);
        let told = self.anchor.map_or(Duration::ZERO, |_| self.wall_error);
        told.max(of_file)
    }
}

/// All that is true.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) tokens: Vec<Token>,
    pub(crate) facts: Vec<Fact>,
    pub(crate) published: BTreeMap<(Epoch, StateDigest), Published>,
    pub(crate) verifiers: Vec<Known>,
    /// Keys that signed without being waited for, and the epoch in which they were told to.
    pub(crate) ungated: BTreeMap<KeyId, Epoch>,
    /// The publishing keys that the authority has.
    pub(crate) publishers: BTreeSet<KeyId>,
    /// Publishing keys that signed without being waited for, and the epoch that named the set with them first.
    pub(crate) ungated_publishers: BTreeMap<KeyId, Epoch>,
    /// Publishing keys that were dropped, and may have fallen into the hands of somebody else.
    pub(crate) dropped_publishers: Vec<KeyId>,
    /// Keys that have signed something, and until when that may be good.
    pub(crate) signed: BTreeMap<KeyId, Timestamp>,
    /// Every key that was published, by its name.
    pub(crate) keys: BTreeMap<KeyId, Jwk>,
    /// By how much clocks of authorities were set, in all.
    pub(crate) steps: Duration,
    /// Whether the authority's clock was ever far off: then tokens may be refused that are good.
    pub(crate) leapt: bool,
    /// While there is more than one authority, or one that forgot something: the last epoch that all of them have. Nothing
    /// that was promised since holds.
    pub(crate) broken: Option<Epoch>,
    /// The epoch from which the authority went on when an operator recovered it last.
    pub(crate) recovered: Epoch,
    /// For each authority, the highest epoch that it was shown and cannot have published, so that it has to stop; and whether
    /// it has.
    pub(crate) shown: [Option<Epoch>; 2],
    pub(crate) stopped: [bool; 2],
}

impl Model {
    /// From `epoch` on there are others.
    pub(crate) fn breaks(&mut self, epoch: Epoch) {
        self.broken = Some(self.broken.map_or(epoch, |broken| broken.min(epoch)));
        for verifier in &mut self.verifiers {
            verifier.quarantine = None;
        }
    }

    pub(crate) fn token(&mut self, mut token: Token) -> usize {
        let facts = self.facts.iter().enumerate();
        let concerned = |fact: &Fact| fact.scope != Scope::All && fact.scope.concerns(&token);
        let facts = facts.filter(|(_, fact)| !fact.void && !token.forged && concerned(fact));
        token.taken_back = facts.map(|(index, _)| index).collect();
        self.tokens.push(token);
        self.tokens.len() - 1
    }

    pub(crate) fn fact(&mut self, scope: Scope, epoch: Epoch) -> usize {
        let index = self.facts.len();
        for token in self.tokens.iter_mut().filter(|token| scope.concerns(token)) {
            token.taken_back.push(index);
        }
        self.facts.push(Fact {
            scope,
            epoch,
            until: Timestamp::default(),
            acknowledged: false,
            void: false,
            receipt: None,
        });
        index
    }

    /// Whether the name of `key` is of no other; from now on it is of this one.
    pub(crate) fn names(&mut self, key: &Jwk) -> bool {
        let known = self.keys.entry(key.key_id().clone());
        known.or_insert_with(|| key.clone()) == key
    }

    /// The facts that take `token` back, or may do so.
    pub(crate) fn facts_of(&self, token: usize) -> impl Iterator<Item = &Fact> {
        let facts = self.tokens[token]
            .taken_back
            .iter()
            .map(|fact| &self.facts[*fact]);
        facts.filter(|fact| !fact.void)
    }

    /// Whether `token` is shown over a certificate that is revoked, and may be refused for it and for nothing else: also by who has
    /// heard of a revocation that its authority lost.
    pub(crate) fn is_over_revoked(&self, token: usize) -> bool {
        let token = &self.tokens[token];
        let over = |fact: &Fact| matches!(&fact.scope, Scope::Tokens(subject, _) if token.is_over(subject));
        self.facts.iter().any(over)
    }

    /// The same, as long as it may be by who has this in force, and heard the authority say that it is `time`, or later: whoever has an
    /// entry that has ended beside what is in force heeds it no more.
    pub(crate) fn is_over_held(&self, token: usize, known: &Known, time: Timestamp) -> bool {
        let token = &self.tokens[token];
        let is_kept =
            |fact: &Fact| fact.until.saturating_add(LINGERS) >= time && fact.until >= token.claims.issued_at;
        let over = |fact: &Fact| {
            is_kept(fact) && matches!(&fact.scope, Scope::Tokens(subject, _) if token.is_over(subject))
        };
        let in_force = self.published.get(&(known.epoch, known.digest));
        let in_force = in_force.into_iter().flat_map(|published| &published.revocations);
        let is_held = |(subject, entry): (&RevokedSubject, &Entry)| {
            token.is_over(subject) && entry.1 >= token.claims.issued_at
        };
        self.facts.iter().any(over) || in_force.into_iter().any(is_held)
    }

    /// The state after `before` with `revoked` added and what expired before `pruned` dropped, and what was dropped.
    pub(crate) fn publish(
        &mut self,
        before: (Epoch, StateDigest),
        after: (Epoch, StateDigest),
        keys: BTreeMap<KeyId, KeyTimes>,
        revoked: Option<&Revocation>,
        pruned: Option<Timestamp>,
    ) -> Vec<(RevokedSubject, Entry)> {
        let mut revocations = self
            .published
            .get(&before)
            .map(|state| state.revocations.clone())
            .unwrap_or_default();
        if let Some(revocation) = revoked {
            let (issued_before, expires_at) = normal(revocation);
            let held = revocations.entry(revocation.subject.clone()).or_default();
            *held = (held.0.max(issued_before), held.1.max(expires_at));
        }
        let mut dropped = Vec::new();
        if let Some(time) = pruned {
            let gone = |entry: &Entry| entry.1 < time;
            dropped.extend(
                revocations
                    .iter()
                    .filter(|(_, entry)| gone(entry))
                    .map(|(a, b)| (a.clone(), *b)),
            );
            revocations.retain(|_, entry| !gone(entry));
        }
        self.published.insert(after, Published { revocations, keys });
        dropped
    }
}

/// The entry as every list has it: a numbered token's end is rounded up, and it has no watermark.
fn normal(revocation: &Revocation) -> Entry {
    let RevokedSubject::Token(token_id) = &revocation.subject else {
        return (revocation.issued_before, revocation.expires_at);
    };
    let step = EXPIRY_STEP.as_secs();
    let rounded = revocation.expires_at.as_seconds().div_ceil(step) * step;
    let numbered = token_id.serial().is_some();
    let end = if numbered {
        rounded
    } else {
        revocation.expires_at.as_seconds()
    };
    (Timestamp::default(), Timestamp::from_seconds(end))
}
