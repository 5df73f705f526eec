//! One stream's life, without I/O: messages and ticks go in, what is to be done comes out.
//!
//! ```text
//! Hello, Ping ->
//!             <- update:  signature -> form -> rules -> Save -> (saved) in force -> Ack, Ping ->
//!                                                 refused -> Nack ->
//!             <- pong:    signature -> issuer, sequence, clock -> epoch, digest -> confirmed -> Keep
//! tick:       Ping ->                                       no answer for three periods -> End
//! ```
//!
//! INVARIANT (acknowledged is in force): an epoch is acknowledged only after it was saved, if the disk works, and put in
//! force. A refused message changes nothing.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::trust::{Applied, Epoch, TrustState, Update, UpdateContent, UpdateRefused};
use countersign_proto::sync::v1::sync_request::Message as Request;
use countersign_proto::sync::v1::sync_response::Message as Response;
use countersign_proto::sync::v1::{Ack, Hello, Nack, Ping, Pong, SyncResponse};
use countersign_proto::trust::v1::Signed;

use super::metrics::SyncMetrics;
use super::pings::{Pings, Sent};
use super::repeats::Repeats;
use super::resync::Resync;
use super::{Ended, MAX_CLOCK_DIFFERENCE, Publishers, SyncSettings};
use crate::cache::Saved;
use crate::trust::{Confirmation, Considered, Floor, TrustStore};

/// What the loop around the session has to do, in order.
#[derive(Debug)]
pub(super) enum Effect {
    /// Send this.
    Send(Request),
    /// Save this, then call [`Session::saved`].
    Save(Box<Accepted>),
    /// Save this, then call [`Session::kept`].
    Keep(Box<Kept>),
    /// Close the stream.
    End(Ended),
}

/// An update that verified, to be saved and put in force.
#[derive(Debug)]
pub(super) struct Accepted {
    /// As it was signed.
    pub(super) signed: Signed,
    /// Whether it is a snapshot.
    pub(super) snapshot: bool,
    /// The state that it leads to.
    pub(super) leads_to: Floor,
    /// That state; nothing when it is in force already, and only the log is to be shortened.
    state: Option<TrustState>,
}

/// A heartbeat that confirmed the state in force, to be kept for the next start.
#[derive(Debug)]
pub(super) struct Kept {
    /// As it was signed.
    pub(super) signed: Signed,
    /// The epoch that it states.
    pub(super) epoch: Epoch,
    /// When the ping was sent that it answers, by the wall clock.
    pub(super) sent_at_millis: u64,
}

/// What a session works with.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) settings: SyncSettings,
    pub(super) trust: Arc<TrustStore>,
    pub(super) publishers: Publishers,
    pub(super) metrics: SyncMetrics,
}

/// A heartbeat is written to disk at most this often, so that an idle stream hardly touches the disk. A restart looks
/// older by up to this much.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// Silence after which the stream is dead, in heartbeat periods.
const SILENT_PERIODS: u32 = 3;

/// The same while a snapshot is on its way, behind which answers queue.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(30);

/// Heartbeats in a row that state a later epoch before the update to it counts as lost. One may have overtaken it.
const BEHIND: u32 = 2;

/// How a session begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beginning {
    /// Whether the state in force is on disk.
    pub(super) durable: bool,
    /// Whether to ask for a snapshot though the state in force could be continued: the log on disk is full.
    pub(super) replaces_log: bool,
    /// Before this, the stream is not ended to ask for one.
    pub(super) may_end_for_log_from: Duration,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Session {
    parts: Parts,
    replaces_log: bool,
    may_end_for_log_from: Duration,
    began: Duration,
    pings: Pings,
    resync: Resync,
    sequence: Option<u64>,
    behind: u32,
    kept_at: Option<Duration>,
    acknowledged: Option<(Epoch, bool)>,
    heard: bool,
    confirmed: bool,
    refusals: Repeats,
}

impl Session {
    /// A session that begins now.
    pub(super) fn new(parts: Parts, beginning: Beginning) -> Self {
        let began = parts.trust.clock().elapsed();
        let epoch = parts.trust.epoch();
        Self {
            parts,
            replaces_log: beginning.replaces_log,
            may_end_for_log_from: beginning.may_end_for_log_from,
            began,
            pings: Pings::new(began),
            resync: Resync::new(),
            sequence: None,
            behind: 0,
            kept_at: None,
            acknowledged: (epoch != 0).then_some((epoch, beginning.durable)),
            heard: false,
            confirmed: false,
            refusals: Repeats::default(),
        }
    }

    /// The first messages. What is in force already is acknowledged, so that the authority knows whether it is durable.
    pub(super) fn begin(&mut self) -> Vec<Effect> {
        let in_force = if self.replaces_log {
            Floor::default()
        } else {
            self.in_force()
        };
        let hello = Hello {
            instance_id: self.parts.settings.instance_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: in_force.epoch,
            state_digest: wire_digest(in_force),
        };
        let mut effects = vec![Effect::Send(Request::Hello(hello))];
        if self.acknowledged.is_some() {
            effects.push(self.acknowledge(self.is_durable()));
        }
        effects.push(self.ping());
        effects
    }

    fn is_durable(&self) -> bool {
        self.acknowledged.is_some_and(|(_, durable)| durable)
    }

    /// Whether the authority confirmed the state in force on this stream.
    pub(super) const fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// How long the stream has been open.
    pub(super) fn age(&self) -> Duration {
        self.now().saturating_sub(self.began)
    }

    /// A heartbeat period has passed.
    pub(super) fn tick(&mut self) -> Vec<Effect> {
        let period = self.parts.settings.heartbeat_period;
        let mut patience = period.saturating_mul(SILENT_PERIODS);
        if !self.heard || self.resync.is_pending() {
            patience = patience.max(SNAPSHOT_PATIENCE);
        }
        if self.pings.silence(self.now()) >= patience {
            vec![Effect::End(Ended::NoAnswer)]
        } else if self.age() >= self.parts.settings.longest_session {
            vec![Effect::End(Ended::Renewed)]
        } else {
            vec![self.ping()]
        }
    }

    /// A message came.
    pub(super) fn receive(&mut self, response: SyncResponse) -> Vec<Effect> {
        match response.message {
            Some(Response::Update(signed)) => {
                self.heard = true;
                self.update(signed)
            }
            Some(Response::Pong(pong)) => self.pong(pong),
            // Of a later version of the protocol. If it mattered, the digest will tell.
            None => {
                SyncMetrics::count(&self.parts.metrics.updates_refused, "message_unknown");
                Vec::new()
            }
        }
    }

    fn update(&mut self, signed: Signed) -> Vec<Effect> {
        let update = match self.parts.publishers.update(&signed) {
            Ok(update) => update,
            Err(refused) => return self.refuse(0, refused),
        };
        let reader = self.parts.publishers.reader();
        match self.parts.trust.consider(&update, reader) {
            Ok(Considered::Advance(state)) => vec![Effect::Save(accepted(signed, &update, Some(state)))],
            Ok(Considered::InForce) if self.replaces_log && is_snapshot(&update) => {
                self.replace_log(signed, &update)
            }
            Ok(Considered::InForce) => {
                self.parts.metrics.updates_repeated.inc();
                vec![self.acknowledge(self.is_durable())]
            }
            Ok(Considered::Repeated) => {
                self.parts.metrics.updates_repeated.inc();
                Vec::new()
            }
            Err(refused) => self.refuse(update.epoch, refused),
        }
    }

    /// A snapshot of the very state that is in force is worth saving, if its content is what it says.
    fn replace_log(&mut self, signed: Signed, update: &Update) -> Vec<Effect> {
        let now = self.parts.trust.clock().now();
        let reader = self.parts.publishers.reader();
        match self.parts.trust.rules().apply(None, 0, update, now, reader) {
            Ok(Applied::Advanced(_) | Applied::Confirmed) => {
                vec![Effect::Save(accepted(signed, update, None))]
            }
            Err(refused) => self.refuse(update.epoch, refused),
        }
    }

    /// `accepted` was saved as well as could be.
    pub(super) fn saved(&mut self, accepted: Accepted, saved: Saved) -> Vec<Effect> {
        if let Some(state) = accepted.state {
            if let Err(refused) = self.parts.trust.install(state) {
                return self.refuse(accepted.leads_to.epoch, refused);
            }
            self.parts.metrics.updates_installed.inc();
        }
        self.resync.succeeded();
        self.behind = 0;
        self.refusals.recovered();
        if accepted.snapshot {
            self.replaces_log = false;
            self.kept_at = None;
        }
        // A ping at once: what was put in force first has no age until it is confirmed.
        let mut effects = vec![self.acknowledge(saved.durable), self.ping()];
        effects.extend(self.log_is_full(saved));
        effects
    }

    /// A heartbeat was saved as well as could be.
    pub(super) fn kept(&mut self, saved: Saved) -> Vec<Effect> {
        // Everything before it in the queue to the disk is written, too.
        let epoch = self.parts.trust.epoch();
        let mut effects = Vec::new();
        if saved.durable && self.acknowledged == Some((epoch, false)) {
            effects.push(self.acknowledge(true));
        }
        effects.extend(self.log_is_full(saved));
        effects
    }

    fn log_is_full(&self, saved: Saved) -> Option<Effect> {
        let ends = saved.wants_snapshot && !self.replaces_log && self.now() >= self.may_end_for_log_from;
        ends.then_some(Effect::End(Ended::LogFull))
    }

    fn pong(&mut self, pong: Pong) -> Vec<Effect> {
        let now = self.now();
        let Some(sent) = self.pings.answered(pong.ping_sequence, now) else {
            self.ignore("ping_unknown");
            return Vec::new();
        };
        match pong.heartbeat {
            Some(signed) => self.heartbeat(signed, sent),
            None => {
                self.ignore(UpdateRefused::Malformed.reason());
                Vec::new()
            }
        }
    }

    fn heartbeat(&mut self, signed: Signed, sent: Sent) -> Vec<Effect> {
        let epoch = match self.judge(&signed, sent) {
            Ok(epoch) => epoch,
            Err(Ignored::Behind(epoch)) => return self.fell_behind(epoch),
            Err(Ignored::For(reason)) => {
                self.ignore(reason);
                return Vec::new();
            }
        };
        self.parts.metrics.heartbeats_accepted.inc();
        self.heard = true;
        self.confirmed = true;
        self.behind = 0;
        let now = self.now();
        if self
            .kept_at
            .is_some_and(|kept| now.saturating_sub(kept) < KEEP_EVERY)
        {
            return Vec::new();
        }
        self.kept_at = Some(now);
        vec![Effect::Keep(Box::new(Kept {
            signed,
            epoch,
            sent_at_millis: sent.at_millis,
        }))]
    }

    /// The epoch that the heartbeat confirms.
    fn judge(&mut self, signed: &Signed, sent: Sent) -> Result<Epoch, Ignored> {
        let trust = &self.parts.trust;
        let heartbeat = self
            .parts
            .publishers
            .heartbeat(signed)
            .map_err(|refused| Ignored::For(refused.reason()))?;
        if heartbeat.issuer != *trust.issuer() {
            return Err(Ignored::For(UpdateRefused::Issuer.reason()));
        }
        if self.sequence.is_some_and(|last| heartbeat.sequence <= last) {
            return Err(Ignored::For("heartbeat_sequence"));
        }
        self.sequence = Some(heartbeat.sequence);
        let apart = heartbeat
            .authority_time_millis
            .abs_diff(trust.clock().now_millis());
        if Duration::from_millis(apart) > MAX_CLOCK_DIFFERENCE {
            return Err(Ignored::For("heartbeat_time"));
        }
        let status = trust.status();
        let counts = u64::try_from(status.revocations).is_ok_and(|count| count == heartbeat.revocation_count);
        if status.epoch == heartbeat.epoch && status.digest == heartbeat.state_digest && !counts {
            return Err(Ignored::For("heartbeat_count"));
        }
        match trust.confirm(heartbeat.epoch, &heartbeat.state_digest, sent.at) {
            Confirmation::Confirmed => Ok(heartbeat.epoch),
            Confirmation::Behind | Confirmation::Cold => Err(Ignored::Behind(heartbeat.epoch)),
            Confirmation::Superseded => Err(Ignored::For("heartbeat_superseded")),
            Confirmation::Regressed => Err(Ignored::For(UpdateRefused::Regressed.reason())),
            Confirmation::Fork => Err(Ignored::For(UpdateRefused::Fork.reason())),
        }
    }

    /// The authority is at a later epoch than what it sent here.
    fn fell_behind(&mut self, epoch: Epoch) -> Vec<Effect> {
        self.ignore("heartbeat_ahead");
        self.behind = self.behind.saturating_add(1);
        let resync = self.behind >= BEHIND && self.resync.ask(self.now());
        if resync {
            vec![self.nack(epoch, UpdateRefused::Base, true)]
        } else {
            Vec::new()
        }
    }

    fn refuse(&mut self, epoch: Epoch, refused: UpdateRefused) -> Vec<Effect> {
        let reason = refused.reason();
        SyncMetrics::count(&self.parts.metrics.updates_refused, reason);
        if self.refusals.is_news(reason) {
            tracing::warn!(
                reason,
                epoch,
                "an update of the trust is refused; the last good one stays in force"
            );
        } else {
            tracing::debug!(reason, epoch, "an update of the trust is refused");
        }
        // While a snapshot is on its way, the deltas behind the gap say nothing new.
        if refused == UpdateRefused::Base && self.resync.is_under_way(self.now()) {
            return Vec::new();
        }
        let resync = refused.wants_snapshot() && self.resync.ask(self.now());
        vec![self.nack(epoch, refused, resync)]
    }

    fn ignore(&mut self, reason: &'static str) {
        SyncMetrics::count(&self.parts.metrics.heartbeats_refused, reason);
        tracing::debug!(reason, "a heartbeat confirms nothing");
    }

    fn nack(&self, epoch: Epoch, refused: UpdateRefused, resync: bool) -> Effect {
        if resync {
            self.parts.metrics.resyncs.inc();
        }
        Effect::Send(Request::Nack(Nack {
            epoch,
            reason: refused.reason().to_owned(),
            in_force_epoch: self.parts.trust.epoch(),
            resync,
        }))
    }

    fn acknowledge(&mut self, durable: bool) -> Effect {
        let in_force = self.in_force();
        self.acknowledged = Some((in_force.epoch, durable));
        Effect::Send(Request::Ack(Ack {
            epoch: in_force.epoch,
            state_digest: wire_digest(in_force),
            durable,
        }))
    }

    fn ping(&mut self) -> Effect {
        let in_force = self.in_force();
        let at_millis = self.parts.trust.clock().now_millis();
        let sequence = self.pings.send(self.now(), at_millis);
        Effect::Send(Request::Ping(Ping {
            sequence,
            epoch: in_force.epoch,
            state_digest: wire_digest(in_force),
        }))
    }

    fn in_force(&self) -> Floor {
        let current = self.parts.trust.current();
        current.in_force().map_or_else(Floor::default, |trust| Floor {
            epoch: trust.state.epoch(),
            digest: *trust.state.digest(),
        })
    }

    fn now(&self) -> Duration {
        self.parts.trust.clock().elapsed()
    }
}

/// Why a heartbeat confirms nothing.
enum Ignored {
    /// For this reason.
    For(&'static str),
    /// The authority is at this later epoch.
    Behind(Epoch),
}

fn accepted(signed: Signed, update: &Update, state: Option<TrustState>) -> Box<Accepted> {
    Box::new(Accepted {
        signed,
        snapshot: is_snapshot(update),
        leads_to: Floor {
            epoch: update.epoch,
            digest: update.state_digest,
        },
        state,
    })
}

const fn is_snapshot(update: &Update) -> bool {
    matches!(update.content, UpdateContent::Snapshot { .. })
}

/// A digest as messages carry it: empty for none.
fn wire_digest(floor: Floor) -> Vec<u8> {
    if floor.epoch == 0 {
        Vec::new()
    } else {
        floor.digest.to_vec()
    }
}

#[cfg(test)]
mod tests;
