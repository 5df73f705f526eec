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

mod confirming;

use std::sync::Arc;
use std::time::Duration;

use countersign_core::trust::{Epoch, TrustState, Update, UpdateContent, UpdateRefused};
use countersign_proto::sync::v1::sync_request::Message as Request;
use countersign_proto::sync::v1::sync_response::Message as Response;
use countersign_proto::sync::v1::{Ack, Hello, Nack, Ping, SyncResponse};
use countersign_proto::trust::v1::Signed;
use countersign_wire::trust::ReadInPart;

use super::metrics::SyncMetrics;
use super::pings::Pings;
use super::rebuild::Rebuild;
use super::repeats::Repeats;
use super::resync::Resync;
use super::{Ended, Publishers, SyncSettings};
use crate::cache::Saved;
use crate::trust::{Considered, Floor, TrustStore};

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

/// What verified, to be saved and put in force.
#[derive(Debug)]
pub(super) struct Accepted {
    /// As it was signed.
    pub(super) signed: Signing,
    /// The state that it leads to.
    pub(super) leads_to: Floor,
    /// That state; nothing when it is in force already, and only the log is to be replaced.
    state: Option<TrustState>,
}

/// Updates as they were signed.
#[derive(Debug)]
pub(super) enum Signing {
    /// A change of the state in force.
    Delta(Signed),
    /// A snapshot, and the deltas that follow on it.
    Snapshot(Signed, Vec<(Epoch, Signed)>),
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

/// Silence after which the stream is dead, in heartbeat periods.
const SILENT_PERIODS: u32 = 3;

/// The same while a snapshot is on its way, behind which answers queue.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(30);

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
    /// Whether the state in force is on disk.
    durable: bool,
    began: Duration,
    pings: Pings,
    resync: Resync,
    rebuild: Option<Rebuild>,
    /// The number of the last heartbeat, and whether it confirmed the state in force.
    last_heartbeat: Option<(u64, bool)>,
    behind: u32,
    kept_at: Option<Duration>,
    heard: bool,
    acknowledged: bool,
    confirmed: bool,
    refusals: Repeats,
    ignored: Repeats,
}

impl Session {
    /// A session that begins now.
    pub(super) fn new(parts: Parts, beginning: Beginning) -> Self {
        let began = parts.trust.clock().elapsed();
        Self {
            parts,
            replaces_log: beginning.replaces_log,
            may_end_for_log_from: beginning.may_end_for_log_from,
            durable: beginning.durable,
            began,
            pings: Pings::new(began),
            resync: Resync::new(),
            rebuild: None,
            last_heartbeat: None,
            behind: 0,
            kept_at: None,
            heard: false,
            acknowledged: false,
            confirmed: false,
            refusals: Repeats::default(),
            ignored: Repeats::default(),
        }
    }

    /// The first messages.
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
            ..Hello::default()
        };
        vec![Effect::Send(Request::Hello(hello)), self.ping()]
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
            Err(UpdateRefused::Revocation) => return self.update_in_part(&signed),
            Err(refused) => return self.refuse(0, refused),
        };
        match self.rebuild(&signed, &update) {
            Ok(Some(effects)) => return effects,
            Ok(None) => {}
            Err(refused) => return self.refuse_update(&update, refused),
        }
        let reader = self.parts.publishers.reader();
        match self.parts.trust.consider(&update, reader) {
            Ok(Considered::Advance(state)) => {
                self.count_expired(&update);
                vec![save(accept(signed, &update, Some(state)))]
            }
            Ok(Considered::InForce) => {
                self.parts.metrics.updates_repeated.inc();
                vec![self.acknowledge()]
            }
            Ok(Considered::Repeated) => {
                self.parts.metrics.updates_repeated.inc();
                Vec::new()
            }
            Err(refused) => self.refuse_update(&update, refused),
        }
    }

    /// An update with revocations that are none. The state stated is not to be had from it.
    fn update_in_part(&mut self, signed: &Signed) -> Vec<Effect> {
        match self.parts.publishers.update_in_part(signed) {
            Ok(ReadInPart { update, left_out }) => {
                self.parts.metrics.count_revocations("malformed", left_out);
                self.refuse_update(&update, UpdateRefused::Revocation)
            }
            Err(refused) => self.refuse(0, refused),
        }
    }

    /// Refuses `update`, and heeds what it takes back where it is merely not understood, or does not follow on the state
    /// in force: the snapshot that is asked for may be long in coming, or no better.
    fn refuse_update(&mut self, update: &Update, refused: UpdateRefused) -> Vec<Effect> {
        let trust = &self.parts.trust;
        if refused.wants_snapshot() {
            trust.heed(update);
        }
        if refused == UpdateRefused::Revocation {
            let overlong = trust.rules().overlong(update.revocations(), trust.clock().now());
            self.parts.metrics.count_revocations("overlong", overlong);
        }
        self.refuse(update.epoch, refused)
    }

    /// Revocations whose tokens have expired on the way decide nothing any more. They stay in the list, which the digest
    /// is of, until the authority drops them.
    fn count_expired(&self, update: &Update) {
        let now = self.parts.trust.clock().now();
        let expired = update.revocations().iter().filter(|entry| entry.expires_at < now);
        self.parts.metrics.count_revocations("expired", expired.count());
    }

    /// Takes `update` for a part of the way from a snapshot up to the state in force, or to the floor. Nothing when it is
    /// none, and to be considered for itself.
    fn rebuild(&mut self, signed: &Signed, update: &Update) -> Result<Option<Vec<Effect>>, UpdateRefused> {
        let trust = &self.parts.trust;
        let target = trust.floor();
        let in_force = trust.epoch();
        let contradicts = update.epoch == target.epoch && update.state_digest != target.digest;
        if update.epoch > target.epoch || contradicts || update.issuer != *trust.issuer() {
            return Ok(None);
        }
        let rebuild = match (&update.content, self.rebuild.take()) {
            (UpdateContent::Snapshot { .. }, _) => {
                let wanted = in_force == 0 || self.replaces_log || self.resync.is_pending();
                if !wanted || (update.epoch == target.epoch && in_force == 0) {
                    return Ok(None);
                }
                Rebuild::begin(signed, update, trust, self.parts.publishers.reader())?
            }
            (UpdateContent::Delta { .. }, Some(rebuild)) if update.epoch <= rebuild.epoch() => {
                self.parts.metrics.updates_repeated.inc();
                rebuild
            }
            (UpdateContent::Delta { .. }, Some(rebuild)) => {
                rebuild.follow(signed, update, trust, self.parts.publishers.reader())?
            }
            (UpdateContent::Delta { .. }, None) => return Ok(None),
        };
        if rebuild.epoch() < target.epoch {
            self.rebuild = Some(rebuild);
            return Ok(Some(Vec::new()));
        }
        let (signed, state) = rebuild.finish();
        Ok(Some(vec![save(Accepted {
            signed,
            leads_to: target,
            state: (in_force != target.epoch).then_some(state),
        })]))
    }

    /// `accepted` was saved as well as could be.
    pub(super) fn saved(&mut self, accepted: Accepted, saved: Saved) -> Vec<Effect> {
        if let Some(state) = accepted.state {
            if let Err(refused) = self.parts.trust.install(state) {
                return self.refuse(accepted.leads_to.epoch, refused);
            }
            self.parts.metrics.updates_installed.inc();
        }
        self.durable = saved.durable;
        self.resync.succeeded();
        self.behind = 0;
        self.refusals.recovered();
        if let Signing::Snapshot(..) = accepted.signed {
            self.replaces_log = false;
            self.kept_at = None;
        }
        // A ping at once: what was put in force first has no age until it is confirmed.
        let mut effects = vec![self.acknowledge(), self.ping()];
        effects.extend(self.log_is_full(saved));
        effects
    }

    /// A heartbeat was saved as well as could be.
    pub(super) fn kept(&mut self, saved: Saved) -> Vec<Effect> {
        let mut effects = Vec::new();
        // Everything before it in the queue to the disk is written, too.
        if saved.durable && !self.durable {
            self.durable = true;
            effects.push(self.acknowledge());
        }
        effects.extend(self.log_is_full(saved));
        effects
    }

    fn log_is_full(&self, saved: Saved) -> Option<Effect> {
        let ends = saved.wants_snapshot && !self.replaces_log && self.now() >= self.may_end_for_log_from;
        ends.then_some(Effect::End(Ended::LogFull))
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

    fn acknowledge(&mut self) -> Effect {
        let in_force = self.in_force();
        self.acknowledged = true;
        Effect::Send(Request::Ack(Ack {
            epoch: in_force.epoch,
            state_digest: wire_digest(in_force),
            durable: self.durable,
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

fn accept(signed: Signed, update: &Update, state: Option<TrustState>) -> Accepted {
    Accepted {
        signed: match update.content {
            UpdateContent::Snapshot { .. } => Signing::Snapshot(signed, Vec::new()),
            UpdateContent::Delta { .. } => Signing::Delta(signed),
        },
        leads_to: Floor {
            epoch: update.epoch,
            digest: update.state_digest,
        },
        state,
    }
}

fn save(accepted: Accepted) -> Effect {
    Effect::Save(Box::new(accepted))
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
