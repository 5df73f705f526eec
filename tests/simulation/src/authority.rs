//! One authority: production's feed, register and rotation round a store that survives crashes.
//!
//! A mutation is planned, committed, and only then visible: in the books, on the streams, to its operator. A crash while it is
//! being committed leaves it made or not made, and nobody knows which before the next start.

mod exports;
mod plans;
mod publishing;
mod recovering;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::feed::{self, Feed, Frame, Held, Join, JoinRefused, Published, Resync};
use countersign_core::fleet::{FleetLimits, Introduction, Register, VerifierKey};
use countersign_core::jwk::Jwk;
use countersign_core::key_set::{KeySet, KeyTimes, PublishedKey};
use countersign_core::names::KeyId;
use countersign_core::rotation::{self, RotationPolicy};
use countersign_core::spiffe::SpiffeId;
use countersign_core::staleness::ClassBudget;
use countersign_core::trust::{Epoch, TrustState};
use countersign_core::verifier::{Ack, Message, Pong};

use crate::clock::Clock;
use crate::network::{Closed, Down, Greeting, StreamId};
use crate::toy::{Signed, Stated, ToyKey};

pub(crate) use exports::TrustFile;
pub(crate) use plans::{Mutation, Outcome};
pub(crate) use publishing::{Publishing, link};

/// A verifier that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// How far the clock may be behind a time that was given.
pub(crate) const LEEWAY: Duration = Duration::from_secs(5);

/// A key and the epoch that published it.
#[derive(Clone, Debug)]
pub(crate) struct RingKey {
    pub(crate) jwk: Jwk,
    pub(crate) times: KeyTimes,
    pub(crate) published_in: Epoch,
}

/// Everything that is in the store.
#[derive(Clone, Debug)]
pub(crate) struct Books {
    pub(crate) trust: TrustState,
    pub(crate) ring: Vec<RingKey>,
    pub(crate) publishing: Publishing,
    pub(crate) roster: BTreeMap<VerifierKey, Arc<[ClassBudget]>>,
    pub(crate) quarantined: BTreeSet<SpiffeId>,
    /// Until when trust files may be decided on, by epoch.
    pub(crate) exports: BTreeMap<Epoch, Timestamp>,
    committed_at: Timestamp,
    starts: u64,
    /// What showed that these are not the books that were last published from, until an operator has recovered them.
    pub(crate) recovery: Option<Stated>,
}

impl Books {
    /// The books of an authority that has never run.
    pub(crate) fn new(trust: TrustState) -> Self {
        Self {
            trust,
            ring: Vec::new(),
            publishing: Publishing::new(),
            roster: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            exports: BTreeMap::new(),
            committed_at: Timestamp::default(),
            starts: 0,
            recovery: None,
        }
    }

    /// The keys as they are published.
    fn key_set(&self) -> KeySet {
        let published = |key: &RingKey| PublishedKey {
            jwk: key.jwk.clone(),
            public_key: Arc::new(ToyKey::of(&key.jwk)),
            times: key.times,
        };
        KeySet::new(self.ring.iter().map(published).collect())
    }

    fn times(&self) -> Vec<(KeyId, KeyTimes)> {
        let times = |key: &RingKey| (key.jwk.key_id().clone(), key.times);
        self.ring.iter().map(times).collect()
    }

    pub(crate) fn find(&self, key_id: &KeyId) -> Option<&RingKey> {
        self.ring.iter().find(|key| key.jwk.key_id() == key_id)
    }

    /// The key that signs at `now`.
    pub(crate) fn signing(&self, now: Timestamp) -> Option<KeyId> {
        rotation::signing_key(&self.times(), now).cloned()
    }

    fn next_epoch(&self) -> Epoch {
        self.trust.epoch() + 1
    }
}

/// What is sent on streams.
pub(crate) type Outbox = Vec<(StreamId, Down)>;

/// A stream as the authority has it.
#[derive(Clone, Debug)]
struct Member {
    key: VerifierKey,
    /// Its numbers in the register, and in the feed.
    place: u64,
    fed: u64,
    heard_at: Duration,
    superseded: bool,
}

/// One authority.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) clock: Clock,
    /// What the store has for certain.
    pub(crate) stored: Books,
    /// What it is about to have.
    pub(crate) pending: Option<Outcome>,
    pub(crate) process: Option<Process>,
    pub(crate) life: u64,
    pub(crate) paused_until: Duration,
    pub(crate) lease: Duration,
    pub(crate) policy: RotationPolicy,
    pub(crate) max_lifetime: Duration,
    /// Makes the keys of this authority others than those of any other.
    pub(crate) keys_made: u64,
}

/// What is gone after a crash.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) feed: Feed<Signed>,
    pub(crate) register: Register,
    members: BTreeMap<StreamId, Member>,
    untold: BTreeMap<VerifierKey, Arc<[ClassBudget]>>,
    latest: Timestamp,
    heartbeat: Option<Signed>,
    /// The publishing key that signs.
    publisher: KeyId,
    steady: exports::Steady,
    /// Nobody is granted a lease.
    suspended: bool,
    pub(crate) tokens: u64,
}

impl Authority {
    /// Starts on what the store has.
    pub(crate) fn start(&mut self, at: Duration) {
        self.stored.starts += 1;
        let limits = FleetLimits {
            streams_per_identity: 16,
            streams: 1000,
        };
        let elapsed = self.clock.elapsed(at);
        let mut register = Register::new(limits, self.lease, elapsed);
        for (key, budgets) in &self.stored.roster {
            register.restore(key.clone(), Arc::clone(budgets), elapsed);
        }
        for spiffe_id in &self.stored.quarantined {
            register.quarantine(spiffe_id.clone(), true);
        }
        self.recount(&mut register, at);
        let mut feed = Feed::new(self.stored.trust.clone(), self.stored.starts << 42);
        for (generation, link) in self.stored.publishing.links() {
            let _no_streams = feed.introduce(generation, link.clone());
        }
        self.process = Some(Process {
            feed,
            register,
            members: BTreeMap::new(),
            untold: BTreeMap::new(),
            latest: self.stored.committed_at,
            heartbeat: None,
            publisher: self.stored.publishing.signs.clone(),
            steady: exports::Steady::from(&self.clock, at),
            suspended: self.stored.recovery.is_some(),
            tokens: 0,
        });
    }

    /// Stops without a word. The streams that it had.
    pub(crate) fn crash(&mut self) -> Vec<StreamId> {
        self.life += 1;
        let process = self.process.take();
        process.map_or_else(Vec::new, |process| process.members.into_keys().collect())
    }

    /// The time of what is done now: never before a time that was given earlier.
    pub(crate) fn now(&mut self, at: Duration) -> Timestamp {
        let wall = self.wall(at);
        let latest = self.process.as_mut().map(|process| &mut process.latest);
        latest.map_or(wall, |latest| {
            *latest = wall.max(*latest);
            *latest
        })
    }

    pub(crate) fn wall(&self, at: Duration) -> Timestamp {
        Timestamp::from_seconds(self.clock.wall_millis(at) / 1000)
    }

    /// Whether tokens are signed: not while the clock is behind.
    pub(crate) fn can_sign(&mut self, at: Duration) -> bool {
        self.stored.recovery.is_none() && self.now(at).since(self.wall(at)) <= LEEWAY
    }

    /// Plans `mutation`, and begins to commit it. False when there is nothing to do, or another is under way.
    pub(crate) fn begin(&mut self, mutation: Mutation, at: Duration) -> bool {
        if self.pending.is_some() || self.process.is_none() {
            return false;
        }
        let now = self.now(at);
        self.pending = self.plan(mutation, now, at);
        self.pending.is_some()
    }

    /// The store has what was pending. What it was, and what is to be sent.
    pub(crate) fn committed(&mut self, at: Duration) -> Option<(Outcome, Outbox, Vec<StreamId>)> {
        let mut outcome = self.pending.take()?;
        outcome.books.committed_at = self.now(at);
        self.stored = outcome.books.clone();
        let process = self.process.as_mut()?;
        process.suspended |= outcome.books.recovery.is_some();
        let (mut outbox, mut ended) = (process.lead(&outcome.books.publishing), Vec::new());
        if let Some((spiffe_id, on)) = &outcome.quarantine {
            process.register.quarantine(spiffe_id.clone(), *on);
        }
        for (key, budgets) in &outcome.known {
            process.register.stored(key, budgets);
            if process.untold.get(key) == Some(budgets) {
                process.untold.remove(key);
            }
        }
        for key in &outcome.gone {
            process.register.forget(key);
        }
        outcome.note_files(&mut process.register, &self.clock, at);
        if let Some(update) = &outcome.update {
            let signed = Signed::update(Arc::clone(update), at, process.publisher.clone());
            let frame = Frame::new(update, signed, 100);
            let published = process
                .feed
                .publish(update, outcome.books.trust.clone(), Some(frame));
            match published {
                Published::Sent { message, to, cut } => {
                    for (stream, member) in &process.members {
                        if to.contains(&member.fed) {
                            outbox.push((*stream, Down::Update(message.clone())));
                        }
                        if cut.contains(&member.fed) {
                            ended.push(*stream);
                        }
                    }
                }
                Published::Broken(_) => ended.extend(process.members.keys()),
            }
        }
        Some((outcome, outbox, ended))
    }

    /// The next step of rotation that is due.
    pub(crate) fn rotation(&mut self, at: Duration) -> Option<Mutation> {
        if self.stored.recovery.is_some() {
            return None;
        }
        let now = self.now(at);
        let step = rotation::next_step(&self.stored.times(), &self.policy, now)?;
        Some(match step {
            rotation::RotationStep::Prepare => Mutation::Prepare,
            rotation::RotationStep::Activate(key_id) => Mutation::Activate {
                key_id,
                forced: false,
            },
            rotation::RotationStep::Drop(key_id) => Mutation::Drop(key_id),
        })
    }

    /// Who has to be taken down in the store, or struck.
    pub(crate) fn enrolment(&mut self, at: Duration) -> Option<Mutation> {
        let mut process = self.process.take()?;
        let gone = process.register.ended(self.clock.elapsed(at), 100);
        for key in &gone {
            process.register.unstored(key);
        }
        let known = process.untold.clone();
        let expired = self.expired_files(&mut process, at);
        self.process = Some(process);
        let is_news = !known.is_empty() || !gone.is_empty() || !expired.is_empty();
        is_news.then_some(Mutation::Enrol { known, gone, expired })
    }

    /// Streams that have said nothing for too long.
    pub(crate) fn silent(&self, at: Duration) -> Vec<StreamId> {
        let members = self.process.iter().flat_map(|process| &process.members);
        let silent = members.filter(|(_, member)| at.saturating_sub(member.heard_at) > SILENCE);
        silent.map(|(stream, _)| *stream).collect()
    }
}

const fn closed_by(refused: JoinRefused) -> Closed {
    match refused {
        JoinRefused::Ahead | JoinRefused::SeenLater | JoinRefused::PublishersAhead => Closed::Disowned,
        JoinRefused::Draining => Closed::Ended,
    }
}

impl Process {
    /// What a stream's first message comes to. The stream that it takes the place of, too.
    pub(crate) fn join(
        &mut self,
        stream: StreamId,
        key: &VerifierKey,
        greeting: &Greeting,
        elapsed: Duration,
        now: Timestamp,
        at: Duration,
    ) -> Result<(Outbox, Option<StreamId>), Closed> {
        let hello = &greeting.hello;
        let introduction = Introduction {
            version: String::new(),
            instance_id: String::new(),
            budgets: Arc::clone(&hello.budgets),
            decides: hello.in_force.epoch != 0 || hello.highest_epoch != 0,
        };
        let let_in = self
            .register
            .join(key, introduction, elapsed, now)
            .map_err(|_full| Closed::Ended)?;
        let superseded = self
            .members
            .iter_mut()
            .find(|(_, member)| member.key == *key && Some(member.place) == let_in.superseded);
        let superseded = superseded.map(|(stream, member)| {
            member.superseded = true;
            *stream
        });
        if let_in.to_be_stored {
            self.untold.insert(key.clone(), Arc::clone(&hello.budgets));
        }
        let held = Held {
            epoch: hello.in_force.epoch,
            digest: hello.in_force.digest,
            highest_epoch: hello.highest_epoch,
            publishers: greeting.publishers,
        };
        let begun = match self.join_feed(&held, now, at) {
            Ok(begun) => begun,
            Err(refused) => {
                self.register.closed(key, let_in.stream);
                return Err(closed_by(refused));
            }
        };
        if begun.holds {
            self.register
                .acknowledged(key, let_in.stream, held.epoch, false, now);
        }
        self.members.insert(
            stream,
            Member {
                key: key.clone(),
                place: let_in.stream,
                fed: begun.stream,
                heard_at: at,
                superseded: false,
            },
        );
        let mut outbox = vec![(stream, Down::Opened)];
        outbox.extend(publishing::backlog(stream, begun));
        Ok((outbox, superseded))
    }

    fn join_feed(
        &mut self,
        held: &Held,
        now: Timestamp,
        at: Duration,
    ) -> Result<feed::Begun<Signed>, JoinRefused> {
        loop {
            match self.feed.join(held) {
                Join::Begun(begun) => return Ok(begun),
                Join::NeedsSnapshot => self.make_snapshot(now, at),
                Join::Refused(refused) => return Err(refused),
            }
        }
    }

    /// A message came on a stream. What is sent; nothing when the stream is to be closed.
    pub(crate) fn hear(
        &mut self,
        stream: StreamId,
        message: &Message,
        clock: &Clock,
        now: Timestamp,
        at: Duration,
    ) -> Option<Outbox> {
        let Some(member) = self.members.get_mut(&stream) else {
            return Some(Outbox::new());
        };
        member.heard_at = at;
        let member = member.clone();
        match message {
            Message::Hello(_) => None,
            Message::Ack(ack) => {
                self.acknowledged(&member, *ack, now);
                Some(Outbox::new())
            }
            Message::Nack(nack) => {
                let reason = nack.refused.reason();
                self.register.seen(&member.key, member.place, reason, now);
                if nack.resync {
                    self.resync(stream, &member, now, at)
                } else {
                    Some(Outbox::new())
                }
            }
            Message::Ping(ping) => {
                let pong = self.answer(&member, ping.sequence, clock, at);
                Some(vec![(stream, Down::Pong(pong))])
            }
        }
    }

    fn acknowledged(&mut self, member: &Member, ack: Ack, now: Timestamp) {
        let Ack { in_force, durable } = ack;
        let taken = self
            .feed
            .acknowledge(member.fed, in_force.epoch, &in_force.digest);
        if taken.is_ok() {
            self.register
                .acknowledged(&member.key, member.place, in_force.epoch, durable, now);
        }
    }

    fn resync(&mut self, stream: StreamId, member: &Member, now: Timestamp, at: Duration) -> Option<Outbox> {
        loop {
            match self.feed.resync(member.fed) {
                Resync::Backlog(backlog) => {
                    let updates = backlog.into_iter().map(|update| (stream, Down::Update(update)));
                    return Some(updates.collect());
                }
                Resync::NeedsSnapshot => self.make_snapshot(now, at),
                Resync::TooOften | Resync::TooSlow | Resync::Ended => return None,
            }
        }
    }

    fn answer(&mut self, member: &Member, ping_sequence: u64, clock: &Clock, at: Duration) -> Pong<Signed> {
        let quarantined = self.register.is_quarantined(&member.key.spiffe_id);
        let answer = self.feed.answer(member.fed, clock.wall_millis(at), quarantined);
        let current = self.feed.trust().epoch();
        let elapsed = clock.elapsed(at);
        let lease = (answer.may_grant && !self.suspended)
            .then(|| self.register.grant(&member.key, member.place, current, elapsed))
            .flatten();
        Pong {
            ping_sequence,
            heartbeat: answer.heartbeat.map(|heartbeat| {
                let signed = self.sign(heartbeat.clone(), at);
                (signed, Ok(heartbeat))
            }),
            lease: lease.unwrap_or_default(),
            quarantined,
        }
    }

    /// The stream is over; its verifier takes leave if `leaves`.
    pub(crate) fn end(&mut self, stream: StreamId, leaves: bool) {
        if let Some(member) = self.members.remove(&stream) {
            self.feed.end(member.fed);
            if leaves {
                self.register.left(&member.key, member.place);
            } else {
                self.register.closed(&member.key, member.place);
            }
        }
    }

    /// Whether it has the stream.
    pub(crate) fn has(&self, stream: StreamId) -> bool {
        self.members.contains_key(&stream)
    }
}
