//! The publishing keys of an authority, as in the product's ring: the set in force, which of them signs, and the links that lead
//! there; and what is signed with them.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::feed::{self, Begun, Frame};
use countersign_core::fleet::Gate;
use countersign_core::names::KeyId;
use countersign_core::planted::{Bug, planted};
use countersign_core::ports::Sha256 as _;
use countersign_core::publishers::{FIRST_GENERATION, Generation, Link, LinkDigest, MAX_LINKS};
use countersign_core::trust::{Change, Epoch, Heartbeat};

use super::plans::Outcome;
use super::{Authority, Books, Outbox, Process};
use crate::network::{Down, StreamId};
use crate::setting::{first_publisher, issuer};
use crate::toy::{Body, Signed, ToyHash, ToyKey};

/// A link that is kept.
#[derive(Clone, Debug)]
struct KeptLink {
    generation: Generation,
    /// The epoch that first named it.
    epoch: Epoch,
    signed: Signed,
}

/// The publishing keys.
#[derive(Clone, Debug)]
pub(crate) struct Publishing {
    /// The set in force, oldest first.
    keys: Vec<KeyId>,
    /// Who signs.
    pub(crate) signs: KeyId,
    links: Vec<KeptLink>,
}

impl Publishing {
    /// The set that every verifier has pinned.
    pub(super) fn new() -> Self {
        let first = first_publisher();
        Self {
            keys: vec![first.clone()],
            signs: first,
            links: Vec::new(),
        }
    }

    /// The links that are kept, oldest first, with the generations that they lead to.
    pub(crate) fn links(&self) -> impl Iterator<Item = (Generation, &Signed)> {
        self.links.iter().map(|link| (link.generation, &link.signed))
    }

    /// The set in force, oldest first.
    pub(crate) fn keys(&self) -> &[KeyId] {
        &self.keys
    }

    /// The generation in force.
    pub(super) fn generation(&self) -> Generation {
        self.links.last().map_or(FIRST_GENERATION, |link| link.generation)
    }

    /// The epoch that first named it.
    pub(crate) fn published_in(&self) -> Epoch {
        self.links.last().map_or(1, |link| link.epoch)
    }

    /// The key that is prepared and not yet told to sign. The one that led to a set of two signs until then.
    fn prepared(&self) -> Option<&KeyId> {
        let led_by = self.links.last().map(|link| &link.signed.by);
        let others = self.keys.iter().find(|key| **key != self.signs);
        others.filter(|_| led_by == Some(&self.signs))
    }

    /// The same with the set `keys` as the next generation, which `epoch` names.
    fn linked(&self, keys: Vec<KeyId>, epoch: Epoch, at: Duration) -> Self {
        let previous = self.links.last().and_then(|link| link.signed.as_link());
        let previous = previous.map(|link| link.digest);
        let generation = self.generation() + 1;
        let signed = Signed {
            body: Body::Link(Arc::new(link(generation, previous, &keys))),
            at,
            by: self.signs.clone(),
        };
        let dropped = (self.links.len() + 1).saturating_sub(MAX_LINKS);
        let kept = KeptLink {
            generation,
            epoch,
            signed,
        };
        Self {
            keys,
            signs: self.signs.clone(),
            links: self.links.iter().skip(dropped).cloned().chain([kept]).collect(),
        }
    }
}

/// The link to the set `keys`.
pub(crate) fn link(generation: Generation, previous: Option<LinkDigest>, keys: &[KeyId]) -> Link<()> {
    let number = generation.to_be_bytes();
    let names = keys.iter().map(|key| key.as_str().as_bytes());
    let before = previous.as_ref().map(<[u8; 32]>::as_slice);
    let parts: Vec<&[u8]> = [number.as_slice()]
        .into_iter()
        .chain(names)
        .chain(before)
        .collect();
    Link {
        issuer: issuer(),
        generation,
        previous,
        digest: ToyHash.sha256(&parts),
        keys: keys.iter().map(|key| (key.clone(), ())).collect(),
    }
}

/// What a stream is sent first: the links that its verifier lacks, and what leads to the current state.
pub(super) fn backlog(stream: StreamId, begun: Begun<Signed>) -> impl Iterator<Item = (StreamId, Down)> {
    let messages = begun.backlog.into_iter().enumerate();
    messages.map(move |(index, signed)| {
        let is_link = index < begun.links;
        let message = if is_link {
            Down::Link(signed)
        } else {
            Down::Update(signed)
        };
        (stream, message)
    })
}

impl Process {
    /// From now on everything is signed as `publishing` says. The links that streams are sent, before anything else.
    pub(super) fn lead(&mut self, publishing: &Publishing) -> Outbox {
        let mut outbox = Outbox::new();
        for (generation, link) in publishing.links() {
            let to = self.feed.introduce(generation, link.clone());
            let streams = self.members.iter().filter(|(_, member)| to.contains(&member.fed));
            outbox.extend(streams.map(|(stream, _)| (*stream, Down::Link(link.clone()))));
        }
        self.publisher = publishing.signs.clone();
        outbox
    }

    pub(super) fn make_snapshot(&mut self, now: Timestamp, at: Duration) {
        if let Some(trust) = self.feed.wanted_snapshot() {
            let update = feed::snapshot(&trust, now);
            let signed = Signed::update(Arc::new(update.clone()), at, self.publisher.clone());
            self.feed.keep_snapshot(Frame::new(&update, signed, 1000));
        }
    }

    /// `heartbeat`, signed now or before.
    pub(super) fn sign(&mut self, heartbeat: Heartbeat, at: Duration) -> Signed {
        let signed = self.heartbeat.as_ref();
        let same =
            signed.filter(|signed| signed.as_heartbeat() == Some(&heartbeat) && signed.by == self.publisher);
        let signed = same.cloned().unwrap_or_else(|| Signed {
            body: Body::Heartbeat(heartbeat),
            at,
            by: self.publisher.clone(),
        });
        self.heartbeat = Some(signed.clone());
        signed
    }
}

impl Authority {
    pub(super) fn prepare_publisher(
        &mut self,
        mut outcome: Outcome,
        before: &Books,
        now: Timestamp,
        at: Duration,
    ) -> Option<Outcome> {
        let publishing = &before.publishing;
        if publishing.keys.len() > 1 {
            return None;
        }
        self.keys_made += 1;
        let key = ToyKey::numbered(self.keys_made).key_id().clone();
        let replaces = planted(Bug::PublisherReplacedAtOnce);
        let kept = publishing.keys.iter().filter(|_| !replaces).cloned();
        let keys = kept.chain([key]).collect();
        outcome.books.publishing = publishing.linked(keys, before.next_epoch(), at);
        Some(outcome.changed(Change::default(), before, now))
    }

    pub(super) fn activate_publisher(
        &self,
        mut outcome: Outcome,
        before: &Books,
        forced: bool,
        at: Duration,
    ) -> Option<Outcome> {
        let key = before.publishing.prepared()?.clone();
        let register = &self.process.as_ref()?.register;
        let gate = register.gate(before.publishing.published_in(), self.clock.elapsed(at));
        let is_open = gate == Gate::Open || planted(Bug::PublisherGateSkipped);
        if !is_open && !forced {
            return None;
        }
        outcome.ungated_publisher = (!is_open).then(|| key.clone());
        outcome.books.publishing.signs = key;
        Some(outcome)
    }
}

/// Leads verifiers to the set with only the key that signs.
pub(super) fn retire_publisher(
    mut outcome: Outcome,
    before: &Books,
    now: Timestamp,
    at: Duration,
) -> Option<Outcome> {
    let publishing = &before.publishing;
    if publishing.keys.len() == 1 {
        return None;
    }
    let kept = vec![publishing.signs.clone()];
    outcome.books.publishing = publishing.linked(kept, before.next_epoch(), at);
    Some(outcome.changed(Change::default(), before, now))
}
