//! One stream's life: messages become values, values become messages, and what happens is counted and logged.
//!
//! What is done when is decided by [`machine::Session`]; here its messages are read and verified before it sees them.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::publishers::{LinkRefused, Offered};
use countersign_core::staleness::ClassBudget;
use countersign_core::trust::UpdateRefused;
use countersign_core::verifier::{
    self as machine, Event, HeldTrust, Message, Received, Saved, SessionSettings, StateId,
};
use countersign_proto::sync::v1::hello::Proof;
use countersign_proto::sync::v1::sync_request::Message as Request;
use countersign_proto::sync::v1::sync_response::Message as Response;
use countersign_proto::sync::v1::{self, Ack, Hello, Nack, Ping, Pong, SyncResponse};
use countersign_proto::trust::v1::Signed;

use super::leases::Leases;
use super::metrics::SyncMetrics;
use super::repeats::Repeats;
use super::{Ended, Publishers, SyncSettings};
use crate::trust::TrustStore;

pub(super) use machine::Beginning;

/// What verified, to be saved and put in force.
pub(super) type Accepted = machine::Accepted<Signed>;

/// Updates as they were signed.
pub(super) type Signing = machine::Signing<Signed>;

/// A heartbeat to be kept for the next start.
pub(super) type Kept = machine::Kept<Signed>;

/// What the loop around the session has to do, in order.
#[derive(Debug)]
pub(super) enum Effect {
    /// Send this.
    Send(Box<Request>),
    /// Save this, then call [`Session::saved`].
    Save(Box<Accepted>),
    /// Save this, then call [`Session::kept`].
    Keep(Box<Kept>),
    /// See whether the epoch of this is on disk, then call [`Session::kept`].
    Probe(Box<Kept>),
    /// Close the stream.
    End(Ended),
}

/// What a session works with.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) settings: SyncSettings,
    pub(super) trust: Arc<TrustStore>,
    pub(super) publishers: Publishers,
    pub(super) metrics: SyncMetrics,
    pub(super) leases: Arc<Leases>,
    /// What shows the authority how far it had come.
    pub(super) proof: Option<Proof>,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Session {
    parts: Parts,
    machine: machine::Session<Signed>,
    refusals: Repeats,
    ignored: Repeats,
}

impl Session {
    /// A session that begins now.
    pub(super) fn new(parts: Parts, beginning: Beginning) -> Self {
        let settings = SessionSettings {
            heartbeat_period: parts.settings.heartbeat_period,
            longest_session: parts.settings.longest_session,
            budgets: parts.trust.staleness().budgets().into(),
        };
        let reader = Arc::clone(parts.publishers.reader());
        let machine = machine::Session::new(settings, reader, beginning, parts.trust.moment());
        Self {
            parts,
            machine,
            refusals: Repeats::default(),
            ignored: Repeats::default(),
        }
    }

    /// The first messages.
    pub(super) fn begin(&mut self) -> Vec<Effect> {
        let now = self.parts.trust.moment();
        let effects = self.machine.begin(&self.parts.trust.snapshot(), now);
        self.perform(effects)
    }

    /// Whether the authority confirmed the state in force on this stream.
    pub(super) const fn is_confirmed(&self) -> bool {
        self.machine.is_confirmed()
    }

    /// How long the stream has been open.
    pub(super) fn age(&self) -> Duration {
        self.machine.age(self.parts.trust.moment())
    }

    /// A heartbeat period has passed.
    pub(super) fn tick(&mut self) -> Vec<Effect> {
        let now = self.parts.trust.moment();
        let machine = &mut self.machine;
        let effects = self.parts.trust.write(|trust| machine.tick(trust, now));
        self.perform(effects)
    }

    /// A message came. Long work for a large update.
    pub(super) fn receive(&mut self, response: SyncResponse) -> Vec<Effect> {
        match response.message {
            Some(Response::Update(signed)) => self.update(signed),
            Some(Response::Pong(pong)) => self.pong(pong),
            // Of a later version of the protocol. If it mattered, the digest will tell.
            Some(Response::Publishers(signed)) => {
                self.link(&signed);
                Vec::new()
            }
            None => {
                SyncMetrics::count(&self.parts.metrics.updates_refused, "message_unknown");
                Vec::new()
            }
        }
    }

    fn update(&mut self, signed: Signed) -> Vec<Effect> {
        let received = self.parts.publishers.update_in_part(&signed);
        let received = received.map(|part| Received {
            update: part.update,
            left_out: part.left_out,
            length: signed.payload.len(),
            publishers: self.parts.publishers.highest(),
        });
        let now = self.parts.trust.moment();
        let machine = &mut self.machine;
        let effects = self
            .parts
            .trust
            .write(|trust| machine.update(trust, now, signed, received));
        self.perform(effects)
    }

    /// A link came to the next publisher set.
    fn link(&self, signed: &Signed) {
        let Parts {
            publishers,
            metrics,
            trust,
            ..
        } = &self.parts;
        match publishers.offer(signed) {
            Ok(Offered::Adopted) => {
                let generation = publishers.generation();
                metrics.publishers(generation, publishers.durable());
                tracing::info!(generation, "the authority publishes under other keys");
            }
            Ok(Offered::Repeated) => {}
            Err(refused) => {
                SyncMetrics::count(&metrics.links_refused, refused.reason());
                if refused == LinkRefused::Fork {
                    trust.write(HeldTrust::contradicted);
                }
                tell_link_refused(refused);
            }
        }
    }

    fn pong(&mut self, pong: Pong) -> Vec<Effect> {
        let lease = Duration::from_millis(pong.lease_ms);
        self.parts
            .leases
            .granted(lease, self.parts.settings.heartbeat_period);
        let publishers = &self.parts.publishers;
        let heartbeat = pong.heartbeat.map(|signed| {
            let read = publishers.heartbeat(&signed);
            (signed, read)
        });
        let pong = machine::Pong {
            ping_sequence: pong.ping_sequence,
            heartbeat,
            lease,
            quarantined: pong.quarantined,
        };
        let now = self.parts.trust.moment();
        let machine = &mut self.machine;
        let effects = self.parts.trust.write(|trust| machine.pong(trust, now, pong));
        self.perform(effects)
    }

    /// `accepted` was saved as well as could be.
    pub(super) fn saved(&mut self, accepted: Accepted, saved: Saved) -> Vec<Effect> {
        let now = self.parts.trust.moment();
        let machine = &mut self.machine;
        let effects = self
            .parts
            .trust
            .write(|trust| machine.saved(trust, now, accepted, saved));
        self.perform(effects)
    }

    /// A heartbeat was saved as well as could be.
    pub(super) fn kept(&mut self, saved: Saved) -> Vec<Effect> {
        let now = self.parts.trust.moment();
        let effects = self.machine.kept(&self.parts.trust.snapshot(), now, saved);
        self.perform(effects)
    }

    /// Counts and logs what there is to tell, and hands on the rest.
    fn perform(&mut self, effects: Vec<machine::Effect<Signed>>) -> Vec<Effect> {
        let mut left = Vec::with_capacity(effects.len());
        for effect in effects {
            left.push(match effect {
                machine::Effect::Send(message) => Effect::Send(Box::new(self.write(message))),
                machine::Effect::Save(accepted) => Effect::Save(accepted),
                machine::Effect::Keep(kept) => Effect::Keep(kept),
                machine::Effect::Probe(kept) => Effect::Probe(kept),
                machine::Effect::End(ending) => Effect::End(ending.into()),
                machine::Effect::Tell(event) => {
                    self.tell(event);
                    continue;
                }
            });
        }
        left
    }

    fn write(&self, message: Message) -> Request {
        match message {
            Message::Hello(hello) => Request::Hello(Hello {
                instance_id: self.parts.settings.instance_id.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                epoch: hello.in_force.epoch,
                state_digest: write_digest(hello.in_force),
                budgets: hello.budgets.iter().map(write_budget).collect(),
                highest_epoch: hello.highest_epoch,
                verifier_id: self.parts.settings.verifier_id.to_string(),
                proof: self.parts.proof.clone(),
                publishers_generation: self.parts.publishers.durable(),
            }),
            Message::Ack(ack) => Request::Ack(Ack {
                epoch: ack.in_force.epoch,
                state_digest: write_digest(ack.in_force),
                durable: ack.durable,
            }),
            Message::Nack(nack) => {
                if nack.resync {
                    self.parts.metrics.resyncs.inc();
                }
                Request::Nack(Nack {
                    epoch: nack.epoch,
                    reason: nack.refused.reason().to_owned(),
                    in_force_epoch: nack.in_force,
                    resync: nack.resync,
                })
            }
            Message::Ping(ping) => Request::Ping(Ping {
                sequence: ping.sequence,
                epoch: ping.in_force.epoch,
                state_digest: write_digest(ping.in_force),
            }),
        }
    }

    fn tell(&mut self, event: Event) {
        let metrics = &self.parts.metrics;
        match event {
            Event::Installed => {
                metrics.updates_installed.inc();
                self.refusals.recovered();
            }
            Event::LogReplaced => drop(self.refusals.recovered()),
            Event::Repeated => drop(metrics.updates_repeated.inc()),
            Event::Refused { epoch, refused } => self.tell_refused(epoch, refused),
            Event::SetAside { why, count } => {
                metrics.count_revocations(why.reason(), count);
                if why == machine::SetAside::NoRoom {
                    tracing::error!(
                        count,
                        "revocations beside the state in force are not heeded: trust.max_revocations leaves no room"
                    );
                }
            }
            Event::Confirmed => {
                metrics.heartbeats_accepted.inc();
                self.ignored.recovered();
            }
            Event::Ignored(why) => self.tell_ignored(why),
            Event::ClockSet(by_millis) => {
                metrics.clock_steps.inc();
                tracing::warn!(by_millis, "the wall clock was set; decisions do not go by it");
            }
        }
    }

    fn tell_refused(&mut self, epoch: u64, refused: UpdateRefused) {
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
    }

    fn tell_ignored(&mut self, why: machine::Ignored) {
        let reason = why.reason();
        SyncMetrics::count(&self.parts.metrics.heartbeats_refused, reason);
        if !why.happens() && self.ignored.is_news(reason) {
            tracing::warn!(
                reason,
                "a heartbeat confirms nothing; the trust in force grows old"
            );
        } else {
            tracing::debug!(reason, "a heartbeat confirms nothing");
        }
    }
}

/// A sidecar that pins a later set is offered the links before it, too.
fn tell_link_refused(refused: LinkRefused) {
    let reason = refused.reason();
    if refused == LinkRefused::Signer {
        tracing::debug!(reason, "a link to other publishing keys is skipped");
    } else {
        tracing::warn!(reason, "a link to other publishing keys is refused");
    }
}

fn write_budget(class: &ClassBudget) -> v1::ClassBudget {
    let millis = |budget: Duration| u64::try_from(budget.as_millis()).unwrap_or(u64::MAX);
    v1::ClassBudget {
        class: class.class.as_str().to_owned(),
        revocations_ms: millis(class.budget.revocations),
        keys_ms: millis(class.budget.keys),
    }
}

/// A digest as messages carry it: empty for none.
fn write_digest(state: StateId) -> Vec<u8> {
    if state.epoch == 0 {
        Vec::new()
    } else {
        state.digest.to_vec()
    }
}

#[cfg(test)]
mod tests;
