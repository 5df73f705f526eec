//! One stream's life: messages and ticks go in, what is to be done comes out.
//!
//! ```text
//! Hello, Ping ->
//!             <- update:  rules -> Save -> (saved) in force -> Ack, Ping ->
//!                                                 refused -> Nack ->
//!             <- pong:    issuer, sequence, clock -> epoch, digest -> confirmed -> Keep
//! tick:       Ping ->                                       no answer for three periods -> End
//! ```
//!
//! INVARIANT (acknowledged is in force): an epoch is acknowledged only after it was saved, if the disk works, and put in
//! force. A refused message changes nothing but what it takes back.

mod confirming;
mod effects;

use std::sync::Arc;
use std::time::Duration;

use super::pings::{Pings, Sent};
use super::rebuild::Rebuild;
use super::resync::Resync;
use super::{Ack, Considered, HeldTrust, Hello, Message, Moment, Nack, Ping, Received, StateId};
use crate::planted::{Bug, planted};
use crate::ports::Sha256;
use crate::revocation::RevocationList;
use crate::staleness::ClassBudget;
use crate::trust::{Descent, Epoch, TrustState, Update, UpdateContent, UpdateRefused};

pub use effects::{Accepted, Effect, Ending, Event, Ignored, Kept, Saved, SetAside, Signing};

/// Silence after which the stream is dead, in heartbeat periods.
const SILENT_PERIODS: u32 = 3;

/// The same while a snapshot is on its way, behind which answers queue.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(30);

/// How streams behave.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// How often a heartbeat is asked for. Three without an answer end the stream.
    pub heartbeat_period: Duration,
    /// A stream is opened anew after this long, so that new certificates and trust roots come into use.
    pub longest_session: Duration,
    /// What the authority is told of how long decisions go on here without it.
    pub budgets: Arc<[ClassBudget]>,
}

/// How a session begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beginning {
    /// Whether the state in force is on disk.
    pub durable: bool,
    /// Whether to ask for a snapshot though the state in force could be continued: the log on disk is full.
    pub replaces_log: bool,
    /// Before this elapsed time, the stream is not ended to ask for one.
    pub may_end_for_log_from: Duration,
}

/// One stream.
#[derive(Debug)]
pub struct Session<S> {
    settings: SessionSettings,
    sha256: Arc<dyn Sha256>,
    replaces_log: bool,
    may_end_for_log_from: Duration,
    /// Whether the state in force is on disk.
    durable: bool,
    began: Moment,
    pings: Pings,
    resync: Resync,
    rebuild: Option<Rebuild<S>>,
    /// The number of the last heartbeat, and the ping that it answered when it confirmed the state in force.
    last_heartbeat: Option<(u64, Option<Sent>)>,
    /// From this ping on, the authority has heard that the state in force is on disk when it answers.
    told_from: Option<u64>,
    behind: u32,
    kept_at: Option<Duration>,
    heard: bool,
    acknowledged: bool,
    confirmed: bool,
}

impl<S: Clone> Session<S> {
    /// A session that begins now.
    #[must_use]
    pub fn new(
        settings: SessionSettings,
        sha256: Arc<dyn Sha256>,
        beginning: Beginning,
        now: Moment,
    ) -> Self {
        Self {
            settings,
            sha256,
            replaces_log: beginning.replaces_log,
            may_end_for_log_from: beginning.may_end_for_log_from,
            durable: beginning.durable,
            began: now,
            pings: Pings::new(now),
            resync: Resync::new(),
            rebuild: None,
            last_heartbeat: None,
            told_from: None,
            behind: 0,
            kept_at: None,
            heard: false,
            acknowledged: false,
            confirmed: false,
        }
    }

    /// The first messages.
    pub fn begin(&mut self, trust: &HeldTrust, now: Moment) -> Vec<Effect<S>> {
        let in_force = if self.replaces_log {
            StateId::default()
        } else {
            trust.id()
        };
        let hello = Message::Hello(Hello {
            in_force,
            highest_epoch: trust.floor().epoch,
            budgets: Arc::clone(&self.settings.budgets),
        });
        vec![Effect::Send(hello), self.ping(trust, now)]
    }

    /// Whether the authority confirmed the state in force on this stream.
    #[must_use]
    pub const fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// How long the stream has been open.
    #[must_use]
    pub const fn age(&self, now: Moment) -> Duration {
        now.elapsed.saturating_sub(self.began.elapsed)
    }

    /// A heartbeat period has passed.
    pub fn tick(&mut self, trust: &mut HeldTrust, now: Moment) -> Vec<Effect<S>> {
        trust.expire(now);
        let set = trust.look_at_clock(now).map(Event::ClockSet);
        let mut effects: Vec<_> = set.map(Effect::Tell).into_iter().collect();
        effects.extend(told_dropped(trust));
        let mut patience = self.settings.heartbeat_period.saturating_mul(SILENT_PERIODS);
        if !self.heard || self.resync.is_pending() {
            patience = patience.max(SNAPSHOT_PATIENCE);
        }
        effects.push(if self.pings.silence(now) >= patience {
            Effect::End(Ending::NoAnswer)
        } else if self.age(now) >= self.settings.longest_session {
            Effect::End(Ending::Renewed)
        } else {
            self.ping(trust, now)
        });
        effects
    }

    /// An update came; or `received` says why it is none.
    pub fn update(
        &mut self,
        trust: &mut HeldTrust,
        now: Moment,
        signed: S,
        received: Result<Received, UpdateRefused>,
    ) -> Vec<Effect<S>> {
        self.heard = true;
        let received = match received {
            Ok(received) => received,
            Err(refused) => return self.refuse(trust, now, 0, refused),
        };
        let update = &received.update;
        if received.left_out > 0 {
            let mut effects = vec![set_aside(SetAside::Malformed, received.left_out)];
            effects.extend(self.refuse_update(trust, now, update, UpdateRefused::Revocation));
            return effects;
        }
        if update
            .publishers()
            .is_some_and(|named| named > received.publishers)
        {
            return self.refuse_update(trust, now, update, UpdateRefused::PublishersMissing);
        }
        match self.rebuild(trust, now, &signed, &received) {
            Ok(Some(effects)) => return effects,
            Ok(None) => {}
            Err(refused) => return self.refuse_update(trust, now, update, refused),
        }
        match trust.consider(update, now, self.sha256.as_ref()) {
            Ok(Considered::Advance(state)) => {
                let mut effects = vec![count_expired(trust, update, now)];
                if planted(Bug::AcknowledgedBeforeSaving) {
                    effects.push(acknowledge_unsaved(update));
                }
                effects.push(save(accept(signed, update, state, trust, now)));
                effects
            }
            Ok(Considered::InForce) => {
                vec![Effect::Tell(Event::Repeated), self.acknowledge(trust)]
            }
            Ok(Considered::Repeated) => vec![Effect::Tell(Event::Repeated)],
            Err(refused) => self.refuse_update(trust, now, update, refused),
        }
    }

    /// Refuses `update`, and heeds what it takes back where it is merely not understood, or does not follow on the state
    /// in force: the snapshot that is asked for may be long in coming, or no better.
    fn refuse_update(
        &mut self,
        trust: &mut HeldTrust,
        now: Moment,
        update: &Update,
        refused: UpdateRefused,
    ) -> Vec<Effect<S>> {
        let mut effects = Vec::new();
        if refused.wants_snapshot() || refused == UpdateRefused::PublishersMissing {
            trust.heed(update, now);
        }
        if refused == UpdateRefused::Revocation {
            let time = trust.clock().best(now.elapsed);
            let overlong = trust.rules().overlong(update.revocations(), time);
            effects.push(set_aside(SetAside::Overlong, overlong));
        }
        effects.extend(self.refuse(trust, now, update.epoch, refused));
        effects
    }

    /// Takes the update for a part of the way from a snapshot up to the state in force, or to the floor. Nothing when it is
    /// none, and to be considered for itself.
    fn rebuild(
        &mut self,
        trust: &HeldTrust,
        now: Moment,
        signed: &S,
        received: &Received,
    ) -> Result<Option<Vec<Effect<S>>>, UpdateRefused> {
        let update = &received.update;
        let target = trust.floor();
        let in_force = trust.epoch();
        let contradicts = StateId::stated_by(update).contradicts(&target);
        if update.epoch > target.epoch || contradicts || update.issuer != trust.rules().issuer {
            return Ok(None);
        }
        let sha256 = self.sha256.as_ref();
        let rebuild = match (&update.content, self.rebuild.take()) {
            (UpdateContent::Snapshot { .. }, _) => {
                let wanted = in_force == 0 || self.replaces_log || self.resync.is_pending();
                if !wanted || (update.epoch == target.epoch && in_force == 0) {
                    return Ok(None);
                }
                Rebuild::begin(signed.clone(), received, trust, now, sha256)?
            }
            (UpdateContent::Delta { .. }, Some(rebuild)) if update.epoch <= rebuild.epoch() => {
                self.rebuild = Some(rebuild);
                return Ok(Some(vec![Effect::Tell(Event::Repeated)]));
            }
            (UpdateContent::Delta { .. }, Some(rebuild)) => {
                rebuild.follow(signed.clone(), received, trust, now, sha256)?
            }
            (UpdateContent::Delta { .. }, None) => return Ok(None),
        };
        if rebuild.epoch() < target.epoch && !planted(Bug::RebuiltHalfway) {
            self.rebuild = Some(rebuild);
            return Ok(Some(Vec::new()));
        }
        let (signed, state) = rebuild.finish();
        let descent = Descent::by(update).at_once();
        Ok(Some(vec![save(Accepted {
            signed,
            leads_to: target,
            carried: trust.carried(&state, &descent, now),
            descent,
            state: (in_force != target.epoch).then_some(state),
        })]))
    }

    /// `accepted` was saved as well as could be.
    pub fn saved(
        &mut self,
        trust: &mut HeldTrust,
        now: Moment,
        accepted: Accepted<S>,
        saved: Saved,
    ) -> Vec<Effect<S>> {
        let mut event = Event::LogReplaced;
        if let Some(state) = accepted.state {
            if let Err(refused) = trust.advance(state, &accepted.descent, now) {
                return self.refuse(trust, now, accepted.leads_to.epoch, refused);
            }
            event = Event::Installed;
        }
        self.durable = saved.durable || planted(Bug::DurableThoughNotSaved);
        self.resync.succeeded();
        self.behind = 0;
        if let Signing::Snapshot(..) = accepted.signed {
            self.replaces_log = false;
            self.kept_at = None;
        }
        // A ping at once: what was put in force first has no age until it is confirmed.
        let mut effects = vec![
            Effect::Tell(event),
            self.acknowledge(trust),
            self.ping(trust, now),
        ];
        effects.extend(told_dropped(trust));
        effects.extend(self.new_log(trust, now, saved));
        effects
    }

    /// A heartbeat was saved as well as could be, or it was seen whether the epoch in force is on disk.
    pub fn kept(&mut self, trust: &HeldTrust, now: Moment, saved: Saved) -> Vec<Effect<S>> {
        let mut effects = Vec::new();
        // Everything before it in the queue to the disk is written, too.
        if saved.durable && !self.durable {
            self.durable = true;
            self.kept_at = None;
            effects.push(self.acknowledge(trust));
        }
        effects.extend(self.new_log(trust, now, saved));
        effects
    }

    /// Asks for a snapshot if the log on disk needs one: at once when nothing of it would verify any more, otherwise by a new
    /// stream.
    fn new_log(&mut self, trust: &HeldTrust, now: Moment, saved: Saved) -> Option<Effect<S>> {
        if saved.log_outdated {
            let asks = !self.replaces_log && self.resync.ask(now.elapsed);
            self.replaces_log |= asks;
            return asks.then(|| nack(trust, trust.epoch(), UpdateRefused::PublishersChanged, true));
        }
        let ends = saved.wants_snapshot && !self.replaces_log && now.elapsed >= self.may_end_for_log_from;
        ends.then_some(Effect::End(Ending::LogFull))
    }

    fn refuse(
        &mut self,
        trust: &HeldTrust,
        now: Moment,
        epoch: Epoch,
        refused: UpdateRefused,
    ) -> Vec<Effect<S>> {
        let mut effects = vec![Effect::Tell(Event::Refused { epoch, refused })];
        // While a snapshot is on its way, the deltas behind the gap say nothing new.
        if refused != UpdateRefused::Base || !self.resync.is_under_way(now.elapsed) {
            let resync = refused.wants_snapshot() && self.resync.ask(now.elapsed);
            effects.push(nack(trust, epoch, refused, resync));
        }
        effects
    }

    fn acknowledge(&mut self, trust: &HeldTrust) -> Effect<S> {
        self.acknowledged = true;
        self.told_from = self.durable.then(|| self.pings.next());
        Effect::Send(Message::Ack(Ack {
            in_force: trust.id(),
            durable: self.durable,
        }))
    }

    fn ping(&mut self, trust: &HeldTrust, now: Moment) -> Effect<S> {
        Effect::Send(Message::Ping(Ping {
            sequence: self.pings.send(now),
            in_force: trust.id(),
        }))
    }
}

/// What a bug acknowledges too early.
fn acknowledge_unsaved<S>(update: &Update) -> Effect<S> {
    Effect::Send(Message::Ack(Ack {
        in_force: StateId::stated_by(update),
        durable: true,
    }))
}

fn nack<S>(trust: &HeldTrust, epoch: Epoch, refused: UpdateRefused, resync: bool) -> Effect<S> {
    Effect::Send(Message::Nack(Nack {
        epoch,
        refused,
        in_force: trust.epoch(),
        resync,
    }))
}

fn accept<S>(signed: S, update: &Update, state: TrustState, trust: &HeldTrust, now: Moment) -> Accepted<S> {
    let descent = Descent::by(update);
    let (signed, carried) = match update.content {
        UpdateContent::Snapshot { .. } => {
            let carried = trust.carried(&state, &descent, now);
            (Signing::Snapshot(signed, Vec::new()), carried)
        }
        UpdateContent::Delta { .. } => (Signing::Delta(signed), RevocationList::default()),
    };
    Accepted {
        signed,
        leads_to: StateId::stated_by(update),
        descent,
        state: Some(state),
        carried,
    }
}

fn save<S>(accepted: Accepted<S>) -> Effect<S> {
    Effect::Save(Box::new(accepted))
}

/// Revocations whose tokens have expired on the way decide nothing any more. They stay in the list, which the digest is of,
/// until the authority drops them.
fn count_expired<S>(trust: &HeldTrust, update: &Update, now: Moment) -> Effect<S> {
    let time = trust.clock().best(now.elapsed);
    let expiries = update.revocations().expiries();
    let expired = expiries.filter(|(expires_at, _)| *expires_at < time);
    set_aside(SetAside::Expired, expired.map(|(_, count)| count).sum())
}

/// What nobody was told of yet that there was no room for.
fn told_dropped<S>(trust: &mut HeldTrust) -> Option<Effect<S>> {
    let dropped = trust.take_dropped();
    (dropped > 0).then(|| set_aside(SetAside::NoRoom, dropped))
}

const fn set_aside<S>(why: SetAside, count: usize) -> Effect<S> {
    Effect::Tell(Event::SetAside { why, count })
}
