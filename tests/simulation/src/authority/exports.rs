//! Trust files, as in the product: written down, known to the register, and only then made.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::feed;
use countersign_core::fleet::Register;
use countersign_core::planted::{Bug, planted};
use countersign_core::verifier::MAX_CLOCK_DIFFERENCE;

use super::Authority;
use super::plans::{Mutation, Outcome};
use crate::clock::Clock;
use crate::toy::{Body, Signed};

/// What is given out for starts while the authority is away.
#[derive(Clone, Debug)]
pub(crate) struct TrustFile {
    pub(crate) links: Vec<Signed>,
    pub(crate) snapshot: Signed,
    pub(crate) heartbeat: Signed,
}

/// Writes down that a file of this epoch or later may be decided on until it expires, by whichever clock.
pub(super) fn export(mut outcome: Outcome, expires_at: Timestamp) -> Outcome {
    let until = expires_at.saturating_add(MAX_CLOCK_DIFFERENCE);
    let epoch = outcome.books.trust.epoch();
    let latest = outcome.books.exports.entry(epoch).or_default();
    *latest = until.max(*latest);
    outcome
}

/// Elapsed time when the clock will say `time`; now, if it has.
fn elapsed_at(clock: &Clock, time: Timestamp, at: Duration) -> Duration {
    let now = Duration::from_millis(clock.wall_millis(at));
    clock.elapsed(at) + Duration::from_secs(time.as_seconds()).saturating_sub(now)
}

impl Outcome {
    /// What is committed of files, the register is told of.
    pub(super) fn note_files(&self, register: &mut Register, clock: &Clock, at: Duration) {
        let epoch = self.books.trust.epoch();
        if let (Mutation::Export { .. }, Some(until)) = (&self.mutation, self.books.exports.get(&epoch)) {
            register.exported(epoch, elapsed_at(clock, *until, at));
        }
        if let Mutation::Enrol { expired, .. } = &self.mutation {
            for epoch in expired {
                register.strike_files(*epoch, clock.elapsed(at));
            }
        }
    }
}

impl Authority {
    /// The register hears of the files that may still be decided on.
    pub(super) fn restore_exports(&self, register: &mut Register, at: Duration) {
        if planted(Bug::ExportsForgotten) {
            return;
        }
        for (epoch, until) in &self.stored.exports {
            register.exported(*epoch, elapsed_at(&self.clock, *until, at));
        }
    }

    /// A file of the current state.
    pub(crate) fn make_file(&mut self, expires_at: Timestamp, at: Duration) -> Option<TrustFile> {
        let (now, now_millis) = (self.now(at), self.clock.wall_millis(at));
        let process = self.process.as_mut()?;
        let by = process.publisher.clone();
        let snapshot = Arc::new(feed::snapshot(process.feed.trust(), now));
        let heartbeat = process.feed.exported(now_millis, expires_at.as_seconds() * 1000);
        let links = self.stored.publishing.links();
        Some(TrustFile {
            links: links.map(|(_, link)| link.clone()).collect(),
            snapshot: Signed::update(snapshot, at, by.clone()),
            heartbeat: Signed {
                body: Body::Heartbeat(heartbeat),
                at,
                by,
            },
        })
    }
}
