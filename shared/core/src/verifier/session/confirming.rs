//! What the answers to pings confirm.

use std::time::Duration;

use super::super::pings::Sent;
use super::super::{Confirmation, Grant, HeldTrust, Moment, Pong, TimeStated, TooFar};
use super::{Effect, Event, Ignored, Kept, Session, nack};
use crate::planted::{Bug, planted};
use crate::trust::{Heartbeat, UpdateRefused};

/// A heartbeat is written to disk at most this often, so that an idle stream hardly touches the disk. A restart looks
/// older by up to this much.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// Heartbeats in a row that state a later epoch before the update to it counts as lost. One may have overtaken it.
const BEHIND: u32 = 2;

/// What a heartbeat is good for.
enum Judged {
    /// It confirms the state in force.
    Confirms,
    /// It has confirmed the state before, in answer to this ping.
    Repeats(Sent),
    /// It confirms nothing.
    Ignored(Ignored),
}

impl<S: Clone> Session<S> {
    /// An answer came.
    pub fn pong(&mut self, trust: &mut HeldTrust, now: Moment, pong: Pong<S>) -> Vec<Effect<S>> {
        let Some(sent) = self.pings.answered(pong.ping_sequence, now) else {
            return ignore(Ignored::PingUnknown);
        };
        if pong.quarantined {
            return ignore(Ignored::Quarantined);
        }
        let (signed, heartbeat) = match pong.heartbeat {
            Some((signed, Ok(heartbeat))) => (signed, heartbeat),
            Some((_, Err(refused))) => return ignore(Ignored::Refused(refused)),
            None => return ignore(Ignored::Refused(UpdateRefused::Malformed)),
        };
        let grant = Grant {
            sent_at: if planted(Bug::AgeFromReceipt) {
                now.elapsed
            } else {
                sent.at.elapsed
            },
            lease: pong.lease,
        };
        match self.judge(trust, now, &heartbeat, (grant, sent)) {
            Judged::Confirms => self.confirmed(trust, now, signed, &heartbeat, sent),
            // Whom nothing is granted any more is not counted on either.
            Judged::Repeats(_) if pong.lease.is_zero() => Vec::new(),
            Judged::Repeats(first) => self
                .keep(trust, now, signed, &heartbeat, (first, sent))
                .into_iter()
                .collect(),
            Judged::Ignored(Ignored::Ahead) => self.fell_behind(trust, now, &heartbeat),
            Judged::Ignored(Ignored::NotGranted) => self.not_granted(trust, now),
            Judged::Ignored(why) => ignore(why),
        }
    }

    fn judge(
        &mut self,
        trust: &mut HeldTrust,
        now: Moment,
        heartbeat: &Heartbeat,
        (grant, sent): (Grant, Sent),
    ) -> Judged {
        if heartbeat.issuer != trust.rules().issuer {
            return Judged::Ignored(Ignored::Refused(UpdateRefused::Issuer));
        }
        match self.last_heartbeat {
            Some(_) if planted(Bug::OldHeartbeatConfirms) => {}
            Some((last, _)) if heartbeat.sequence < last => return Judged::Ignored(Ignored::Sequence),
            // The authority answers pings of one second with one heartbeat. What it confirmed it cannot confirm later
            // than that, or whoever repeats it could keep this verifier from growing old.
            Some((last, Some(first))) if heartbeat.sequence == last => return Judged::Repeats(first),
            Some(_) | None => self.last_heartbeat = Some((heartbeat.sequence, None)),
        }
        let stated = TimeStated {
            authority_millis: heartbeat.authority_time_millis,
            sent_at: grant.sent_at,
        };
        if let Err(TooFar) = trust.hear_time(stated, now) {
            return Judged::Ignored(Ignored::Time);
        }
        if counts_otherwise(trust, heartbeat) {
            return Judged::Ignored(Ignored::Count);
        }
        match trust.confirm(heartbeat.epoch, &heartbeat.state_digest, grant, now) {
            Confirmation::Confirmed => {
                self.last_heartbeat = Some((heartbeat.sequence, Some(sent)));
                Judged::Confirms
            }
            Confirmation::NotGranted => Judged::Ignored(Ignored::NotGranted),
            Confirmation::Behind | Confirmation::Cold => Judged::Ignored(Ignored::Ahead),
            Confirmation::Superseded => Judged::Ignored(Ignored::Superseded),
            Confirmation::Regressed => Judged::Ignored(Ignored::Refused(UpdateRefused::Regressed)),
            Confirmation::Fork => Judged::Ignored(Ignored::Refused(UpdateRefused::Fork)),
        }
    }

    fn confirmed(
        &mut self,
        trust: &HeldTrust,
        now: Moment,
        signed: S,
        heartbeat: &Heartbeat,
        sent: Sent,
    ) -> Vec<Effect<S>> {
        self.heard = true;
        self.confirmed = true;
        self.behind = 0;
        let mut effects = vec![Effect::Tell(Event::Confirmed)];
        if !self.acknowledged {
            // The answer to the ping can be kept.
            effects.extend([self.acknowledge(trust), self.ping(trust, now)]);
        }
        effects.extend(self.keep(trust, now, signed, heartbeat, (sent, sent)));
        effects
    }

    /// Keeps the heartbeat, which confirmed the state in force when it answered the `first` of two pings, and answers the other now.
    ///
    /// What confirms an epoch is kept once the authority has heard that the epoch is: it counts on nothing else there, and
    /// what was sent to it may be lost with the stream (I-08). Its answer to a later ping says that it was not.
    fn keep(
        &mut self,
        trust: &HeldTrust,
        now: Moment,
        signed: S,
        heartbeat: &Heartbeat,
        (first, answered): (Sent, Sent),
    ) -> Option<Effect<S>> {
        let is_due = |kept: Duration| now.elapsed.saturating_sub(kept) >= KEEP_EVERY;
        let is_heard = match self.told_from {
            Some(from) => answered.sequence >= from,
            None => !self.durable,
        };
        if !is_heard || !self.kept_at.is_none_or(is_due) || heartbeat.epoch != trust.epoch() {
            return None;
        }
        self.kept_at = Some(now.elapsed);
        let kept = Box::new(Kept {
            signed,
            epoch: heartbeat.epoch,
            sent: trust.clock().mark(first.at, now),
        });
        Some(if self.durable {
            Effect::Keep(kept)
        } else {
            Effect::Probe(kept)
        })
    }

    /// The authority is where this verifier is, and does not know it. What was in force before the stream began can be
    /// acknowledged now; the answer to the next ping can grant something.
    fn not_granted(&mut self, trust: &HeldTrust, now: Moment) -> Vec<Effect<S>> {
        self.heard = true;
        self.behind = 0;
        let mut effects = ignore(Ignored::NotGranted);
        if !self.acknowledged {
            effects.extend([self.acknowledge(trust), self.ping(trust, now)]);
        }
        effects
    }

    /// The authority is at a later epoch than what it sent here.
    fn fell_behind(&mut self, trust: &HeldTrust, now: Moment, heartbeat: &Heartbeat) -> Vec<Effect<S>> {
        let mut effects = ignore(Ignored::Ahead);
        self.behind = self.behind.saturating_add(1);
        if self.behind >= BEHIND && self.resync.ask(now.elapsed) {
            effects.push(nack(trust, heartbeat.epoch, UpdateRefused::Base, true));
        }
        effects
    }
}

fn ignore<S>(why: Ignored) -> Vec<Effect<S>> {
    vec![Effect::Tell(Event::Ignored(why))]
}

/// Whether the heartbeat is about the state in force and states another number of revocations.
fn counts_otherwise(trust: &HeldTrust, heartbeat: &Heartbeat) -> bool {
    trust.in_force().is_some_and(|trust| {
        let count = u64::try_from(trust.state.revocations().len()).unwrap_or(u64::MAX);
        trust.state.epoch() == heartbeat.epoch
            && *trust.state.digest() == heartbeat.state_digest
            && count != heartbeat.revocation_count
    })
}
