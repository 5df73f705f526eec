//! Which pings are on their way, and how long the authority has been silent.

use std::collections::VecDeque;
use std::time::Duration;

use super::Moment;

/// Pings that nobody answers are forgotten from this many on; the stream has ended long before.
const MOST: usize = 16;

/// A ping that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Its number.
    pub(super) sequence: u64,
    /// When.
    pub(super) at: Moment,
}

/// The pings of one stream.
#[derive(Debug)]
pub(super) struct Pings {
    next: u64,
    sent: VecDeque<Sent>,
    last_answer: Duration,
}

impl Pings {
    /// No ping yet; silence counts from `now`.
    pub(super) const fn new(now: Moment) -> Self {
        Self {
            next: 1,
            sent: VecDeque::new(),
            last_answer: now.elapsed,
        }
    }

    /// The number of the next ping.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Takes note of a ping, and gives its number.
    pub(super) fn send(&mut self, at: Moment) -> u64 {
        let sequence = self.next;
        self.next = self.next.saturating_add(1);
        if self.sent.len() == MOST {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { sequence, at });
        sequence
    }

    /// The ping that is answered. Each is answered once, and none after a later one.
    pub(super) fn answered(&mut self, sequence: u64, now: Moment) -> Option<Sent> {
        let index = self.sent.iter().position(|sent| sent.sequence == sequence)?;
        let sent = self.sent.drain(..=index).next_back();
        self.last_answer = now.elapsed;
        sent
    }

    /// How long ago the authority last answered.
    pub(super) const fn silence(&self, now: Moment) -> Duration {
        now.elapsed.saturating_sub(self.last_answer)
    }
}
