//! The machines of the product in a world that is made to fail, with a model beside it that knows what is true.
//!
//! Authorities and verifiers here are production's: [`countersign_core::feed`], [`fleet`](countersign_core::fleet),
//! [`publishers`](countersign_core::publishers), [`rotation`](countersign_core::rotation),
//! [`verifier`](countersign_core::verifier) and [`verifying`](countersign_core::verifying), in thin shells. Time, network,
//! disks, clocks and chance are events in one queue, so a run is a function of its seed. What goes wrong is drawn from the seed,
//! too.
//!
//! ```text
//! plan -> world -> clients, operators, faults -> network -> verifiers -> verdicts
//!                                             -> authority               |
//!                      model: what is true   <--------------------------'  invariants
//! ```
//!
//! [`run`] is one seed. That the checks find something is itself checked: tests plant bugs, one at a time.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test library: a world that cannot be built must fail loudly"
)]

mod authority;
mod carrying;
mod clock;
mod disk;
mod doings;
mod exports;
mod faults;
mod invariants;
mod model;
mod network;
mod notes;
mod people;
mod plan;
mod publishing;
mod random;
mod recovering;
mod setting;
mod toy;
mod traffic;
mod verifier;
mod world;

use std::time::Duration;

pub use invariants::Violation;
pub use plan::Fault;
pub use world::Counts;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// The first invariant that was broken, if any.
    pub violation: Option<Violation>,
    /// What happened, counted.
    pub counts: Counts,
    /// A hash over all that happened: the same for the same seed.
    pub trace: u64,
    /// How long it lasted, in the time of its world.
    pub lasted: Duration,
}

/// Runs `seed` until its end, or until an invariant is broken.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let mut world = world::World::new(seed);
    world.run();
    outcome(seed, world)
}

/// The same, and what happened, line by line.
#[must_use]
pub fn tell(seed: u64) -> (Outcome, Vec<String>) {
    let mut world = world::World::new(seed);
    world.log = Some(Vec::new());
    world.run();
    let log = world.log.take().unwrap_or_default();
    (outcome(seed, world), log)
}

fn outcome(seed: u64, world: world::World) -> Outcome {
    Outcome {
        seed,
        violation: world.violation,
        counts: world.counts,
        trace: world.trace,
        lasted: world.now,
    }
}
