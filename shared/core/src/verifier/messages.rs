//! What verifier and authority say to each other, as values.

use std::sync::Arc;
use std::time::Duration;

use super::StateId;
use crate::publishers::Generation;
use crate::staleness::ClassBudget;
use crate::trust::{Epoch, Heartbeat, Update, UpdateRefused};

/// From the verifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first message.
    Hello(Hello),
    /// A state is in force here.
    Ack(Ack),
    /// An update is refused.
    Nack(Nack),
    /// Asks for a heartbeat.
    Ping(Ping),
}

/// Opens a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What is in force here. Epoch zero: nothing, or nothing that is to be continued.
    pub in_force: StateId,
    /// The highest epoch that was ever in force here, also before a restart.
    pub highest_epoch: Epoch,
    /// How long this verifier decides on after a lease has ended, for each class of methods.
    pub budgets: Arc<[ClassBudget]>,
}

/// Acknowledges a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// What is in force here.
    pub in_force: StateId,
    /// Whether it survives a crash.
    pub durable: bool,
}

/// Refuses an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The epoch that the update leads to; zero when it cannot be read.
    pub epoch: Epoch,
    /// Why.
    pub refused: UpdateRefused,
    /// The epoch that stays in force.
    pub in_force: Epoch,
    /// Whether to be sent a snapshot.
    pub resync: bool,
}

/// Asks for a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Comes back in the answer.
    pub sequence: u64,
    /// What is in force here.
    pub in_force: StateId,
}

/// An update that came, its signature verified.
#[derive(Clone, Debug)]
pub struct Received {
    /// What could be read of it.
    pub update: Update,
    /// How many revocations in it are none. Unless zero, the state stated is not to be had from it.
    pub left_out: usize,
    /// How many bytes were signed.
    pub length: usize,
    /// The highest generation of publisher sets that it may name: the one whose link is held here.
    pub publishers: Generation,
}

/// The answer to a ping.
#[derive(Clone, Debug)]
pub struct Pong<S> {
    /// The ping that it answers.
    pub ping_sequence: u64,
    /// The heartbeat as it was signed, and what it says if that could be read and its signature is good. Nothing when there
    /// was none.
    pub heartbeat: Option<(S, Result<Heartbeat, UpdateRefused>)>,
    /// How long the state that the heartbeat names counts as current from when the ping was sent. Zero: nothing is granted.
    pub lease: Duration,
    /// An operator has put this verifier in quarantine.
    pub quarantined: bool,
}
