//! What the answers to pings confirm.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::trust::{Epoch, UpdateRefused};
use countersign_proto::sync::v1::Pong;
use countersign_proto::trust::v1::Signed;
use countersign_wire::trust::Heartbeat;

use super::{Effect, Kept, Session};
use crate::sync::MAX_CLOCK_DIFFERENCE;
use crate::sync::metrics::SyncMetrics;
use crate::sync::pings::Sent;
use crate::trust::{Confirmation, TrustStore};

/// A heartbeat is written to disk at most this often, so that an idle stream hardly touches the disk. A restart looks
/// older by up to this much.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// Heartbeats in a row that state a later epoch before the update to it counts as lost. One may have overtaken it.
const BEHIND: u32 = 2;

/// Why a heartbeat confirms nothing.
enum Ignored {
    /// For this reason.
    For(&'static str),
    /// It has confirmed the state before.
    Repeated,
    /// The authority is at this later epoch.
    Behind(Epoch),
}

impl Session {
    /// An answer came.
    pub(super) fn pong(&mut self, pong: Pong) -> Vec<Effect> {
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
            Err(Ignored::Repeated) => return Vec::new(),
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
        self.ignored.recovered();
        let mut effects = Vec::new();
        // What was in force before the stream began: the authority knows it now, so it can be acknowledged.
        if !self.acknowledged {
            effects.push(self.acknowledge());
        }
        let now = self.now();
        if self
            .kept_at
            .is_none_or(|kept| now.saturating_sub(kept) >= KEEP_EVERY)
        {
            self.kept_at = Some(now);
            effects.push(Effect::Keep(Box::new(Kept {
                signed,
                epoch,
                sent_at_millis: sent.at_millis,
            })));
        }
        effects
    }

    /// The epoch that the heartbeat confirms.
    fn judge(&mut self, signed: &Signed, sent: Sent) -> Result<Epoch, Ignored> {
        let trust = Arc::clone(&self.parts.trust);
        let heartbeat = self
            .parts
            .publishers
            .heartbeat(signed)
            .map_err(|refused| Ignored::For(refused.reason()))?;
        if heartbeat.issuer != *trust.issuer() {
            return Err(Ignored::For(UpdateRefused::Issuer.reason()));
        }
        match self.last_heartbeat {
            Some((last, _)) if heartbeat.sequence < last => return Err(Ignored::For("heartbeat_sequence")),
            // The authority answers pings of one second with one heartbeat. What it confirmed it cannot confirm later
            // than that, or whoever repeats it could keep this verifier from growing old.
            Some((last, true)) if heartbeat.sequence == last => return Err(Ignored::Repeated),
            Some(_) | None => self.last_heartbeat = Some((heartbeat.sequence, false)),
        }
        let apart = heartbeat
            .authority_time_millis
            .abs_diff(trust.clock().now_millis());
        if Duration::from_millis(apart) > MAX_CLOCK_DIFFERENCE {
            return Err(Ignored::For("heartbeat_time"));
        }
        if counts_otherwise(&trust, &heartbeat) {
            return Err(Ignored::For("heartbeat_count"));
        }
        match trust.confirm(heartbeat.epoch, &heartbeat.state_digest, sent.at) {
            Confirmation::Confirmed => {
                self.last_heartbeat = Some((heartbeat.sequence, true));
                Ok(heartbeat.epoch)
            }
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

    fn ignore(&mut self, reason: &'static str) {
        SyncMetrics::count(&self.parts.metrics.heartbeats_refused, reason);
        let happens = ["heartbeat_ahead", "heartbeat_superseded"].contains(&reason);
        if !happens && self.ignored.is_news(reason) {
            tracing::warn!(
                reason,
                "a heartbeat confirms nothing; the trust in force grows old"
            );
        } else {
            tracing::debug!(reason, "a heartbeat confirms nothing");
        }
    }
}

/// Whether the heartbeat is about the state in force and states another number of revocations.
fn counts_otherwise(trust: &TrustStore, heartbeat: &Heartbeat) -> bool {
    trust.current().in_force().is_some_and(|trust| {
        let count = u64::try_from(trust.state.revocations().len()).unwrap_or(u64::MAX);
        trust.state.epoch() == heartbeat.epoch
            && *trust.state.digest() == heartbeat.state_digest
            && count != heartbeat.revocation_count
    })
}
