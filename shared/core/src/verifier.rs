//! What a verifier holds, and how it comes by it, as machines: values in, values out.
//!
//! ```text
//! records on disk -> Replay --.
//!                              v
//! authority ----> Session -> HeldTrust -> decisions
//! ```
//!
//! - [`HeldTrust`] is what decisions are made on: the trust in force, how it was confirmed, what time it is
//!   ([`VerifierClock`]), and what of the past must not be forgotten. It only ever moves forward.
//! - [`Session`] is one stream's life: messages and ticks go in, what is to be done comes out.
//! - [`Replay`] is the way from records back to a state, every step of it verified.
//!
//! Nobody here reads a clock, a disk or a message's signature: whoever runs the machines says what time it is, does what
//! they ask for, and reads and verifies what comes before they see it. What was signed is carried along as it is, as an `S`.

mod clock;
mod confirmations;
mod held;
mod in_force;
mod messages;
mod pings;
mod rebuild;
mod replay;
mod resync;
mod session;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::trust::{Epoch, StateDigest, TrustState, Update};

pub use clock::{BootId, ClockInDoubt, ClockMark, TimeStated, TooFar, VerifierClock};
pub use confirmations::{Age, Confirmations};
pub use held::{Confirmation, Considered, Grant, HeldTrust, Offered, TrustAlarm};
pub use in_force::InForce;
pub use messages::{Ack, Hello, Message, Nack, Ping, Pong, Received};
pub use replay::{Manifest, Rejected, Replay, Restored, Unsound};
pub use session::{
    Accepted, Beginning, Effect, Ending, Event, Ignored, Kept, Saved, Session, SessionSettings, SetAside,
    Signing,
};

/// How far the authority's clock and this one may be apart. A statement from farther away is ignored: its clock or ours is
/// wrong, and one that is replayed is old. Kerberos has lived well with the same bound.
pub const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(5 * 60);

/// How often a heartbeat is asked for, unless configured otherwise.
pub const HEARTBEAT_PERIOD: Duration = Duration::from_secs(2);

/// From this many deltas after a snapshot on, another snapshot is asked for.
pub const MAX_LOGGED_DELTAS: usize = 1024;

/// The same, in bytes.
pub const MAX_LOGGED_BYTES: usize = 16 * 1024 * 1024;

/// What the clocks of this machine say at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Time since an arbitrary start. Never steps, and goes on while the machine is suspended.
    pub elapsed: Duration,
    /// Wall time, in milliseconds since 1970. May be wrong, and may step.
    pub wall_millis: u64,
}

/// Which state: its epoch and its digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateId {
    /// The epoch. Zero: there is no state.
    pub epoch: Epoch,
    /// The digest of the state at that epoch.
    pub digest: StateDigest,
}

impl StateId {
    /// Which one `state` is.
    #[must_use]
    pub const fn of(state: &TrustState) -> Self {
        Self {
            epoch: state.epoch(),
            digest: *state.digest(),
        }
    }

    /// Which one `update` says that it leads to.
    #[must_use]
    pub const fn stated_by(update: &Update) -> Self {
        Self {
            epoch: update.epoch,
            digest: update.state_digest,
        }
    }

    /// Whether the two are of one epoch and differ.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        self.epoch != 0 && self.epoch == other.epoch && self.digest != other.digest
    }
}
