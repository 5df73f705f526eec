//! Trust files, as in the product: written down as an epoch of their own, known to the register, and only then made; counted with by
//! the clock as it goes, and struck when they have ended by every time that the authority has.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::feed;
use countersign_core::fleet::{Register, trust_file_until};
use countersign_core::planted::{Bug, planted};
use countersign_core::trust::{Change, Epoch};

use super::plans::{Mutation, Outcome};
use super::{Authority, Books, Process};
use crate::clock::Clock;
use crate::toy::{Body, Signed};

/// What is given out for starts while the authority is away.
#[derive(Clone, Debug)]
pub(crate) struct TrustFile {
    pub(crate) links: Vec<Signed>,
    pub(crate) snapshot: Signed,
    pub(crate) heartbeat: Signed,
}

/// For how long the clock has to have gone steadily before a file is struck. The product waits a quarter of an hour, which is longer
/// than a run.
const STEADY: Duration = Duration::from_secs(60);

/// How far the wall clock may be off elapsed time.
const MOST_DRIFT: Duration = Duration::from_secs(5);

/// Since when the wall clock has gone as fast as time itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    wall: Duration,
    elapsed: Duration,
    since: Duration,
}

impl Steady {
    pub(super) fn from(clock: &Clock, at: Duration) -> Self {
        let elapsed = clock.elapsed(at);
        Self {
            wall: Duration::from_millis(clock.wall_millis(at)),
            elapsed,
            since: elapsed,
        }
    }

    fn is_long_enough(&mut self, clock: &Clock, at: Duration) -> bool {
        let now = Self::from(clock, at);
        let expected = self.wall + now.elapsed.saturating_sub(self.elapsed);
        if now.wall.abs_diff(expected) > MOST_DRIFT {
            *self = now;
        }
        now.elapsed.saturating_sub(self.since) >= STEADY
    }
}

/// Writes down that a file may be decided on until it has expired by whichever clock: as an epoch of its own, which the file has.
pub(super) fn export(
    mut outcome: Outcome,
    before: &Books,
    expires_at: Timestamp,
    lifetime: Duration,
    now: Timestamp,
) -> Outcome {
    let until = trust_file_until(expires_at, lifetime);
    outcome.books.exports.insert(before.next_epoch(), until);
    outcome.changed(Change::default(), before, now)
}

/// Elapsed time when the clock will say `time`; now, if it has.
fn elapsed_at(clock: &Clock, time: Timestamp, at: Duration) -> Duration {
    let now = Duration::from_millis(clock.wall_millis(at));
    let time = Duration::from_secs(time.as_seconds()) + Duration::from_millis(500);
    clock.elapsed(at) + time.saturating_sub(now)
}

impl Outcome {
    /// What is committed of files, the register is told of.
    pub(super) fn note_files(&self, register: &mut Register, clock: &Clock, at: Duration) {
        let epoch = self.books.trust.epoch();
        if let (Mutation::Export { .. }, Some(until)) = (&self.mutation, self.books.exports.get(&epoch)) {
            register.exported(epoch, elapsed_at(clock, *until, at));
        }
        for epoch in &self.struck {
            register.strike_files(*epoch, clock.elapsed(at));
        }
    }
}

impl Authority {
    /// The register hears of the files that may still be decided on, by the clock as it goes now.
    pub(super) fn recount(&self, register: &mut Register, at: Duration) {
        if planted(Bug::ExportsForgotten) {
            return;
        }
        for (epoch, until) in &self.stored.exports {
            register.exported(*epoch, elapsed_at(&self.clock, *until, at));
        }
    }

    /// The epochs of files that the store may be asked to strike.
    pub(super) fn expired_files(&self, process: &mut Process, at: Duration) -> Vec<Epoch> {
        self.recount(&mut process.register, at);
        if process.steady.is_long_enough(&self.clock, at) {
            process.register.expired_files(self.clock.elapsed(at), 100)
        } else {
            Vec::new()
        }
    }

    /// Those of `expired` that have ended by the wall clock, too.
    pub(super) fn struck(&self, mut expired: Vec<Epoch>, now: Timestamp, at: Duration) -> Vec<Epoch> {
        let now = now.min(self.wall(at));
        let ends = |epoch: &Epoch| self.stored.exports.get(epoch);
        expired.retain(|epoch| ends(epoch).is_none_or(|until| *until <= now));
        expired
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
