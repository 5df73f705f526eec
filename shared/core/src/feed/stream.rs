//! One verifier's stream: how it begins, what may be acknowledged on it, what a ping is answered with, when it is too slow.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Feed, Frame, MAX_DELTAS, StreamId};
use crate::publishers::Generation;
use crate::trust::{Epoch, Heartbeat, StateDigest};

/// Updates that a verifier may have been sent and not acknowledged: all deltas that are kept and a snapshot, and as many again.
pub(super) const MAX_UNACKNOWLEDGED: usize = 2 * MAX_DELTAS;

/// How often a stream may ask for a snapshot after it refused an update. Whoever needs more has another problem.
pub const MAX_RESYNCS: u32 = 3;

/// How long a message may wait for a verifier to take it.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Whether a verifier is too slow that lets a message wait for `waiting` (F78). Its stream is to be ended.
#[must_use]
pub fn is_too_slow(waiting: Duration) -> bool {
    waiting > MAX_WAIT
}

/// What a verifier says that it has when its stream begins. By default, nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The epoch in force. Zero: none.
    pub epoch: Epoch,
    /// The digest of the state at that epoch.
    pub digest: StateDigest,
    /// The highest epoch that it ever had in force.
    pub highest_epoch: Epoch,
    /// The generation of the publisher set that it has on disk. Zero: what it has pinned.
    pub publishers: Generation,
}

/// What a verifier's state says of this authority's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing against it: it is the current one, an earlier one, or none.
    Consistent,
    /// It is another one at an epoch whose state is known here: somebody else publishes in this name, or did.
    Fork,
    /// It is a later one: what is here was restored from a backup, or what is there is not ours (G45).
    Ahead,
    /// It is not, but the verifier has had a later one in force: what is here was restored from a backup.
    SeenLater,
}

/// What becomes of a verifier that wants a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Join<S> {
    /// Its stream has begun.
    Begun(Begun<S>),
    /// It needs a snapshot, and there is none: [`Feed::keep_snapshot`], and again.
    NeedsSnapshot,
    /// It is not let in.
    Refused(JoinRefused),
}

/// A stream that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun<S> {
    /// Which.
    pub stream: StreamId,
    /// Whether the verifier's state is one of ours. It then counts as acknowledged.
    pub holds: bool,
    /// The links that it lacks, and what leads from that state to the current one; a snapshot first if it is none of ours.
    /// The first `links` messages are links.
    pub backlog: Vec<S>,
    /// How many links there are.
    pub links: usize,
}

/// Why a verifier is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRefused {
    /// [`Standing::Ahead`].
    Ahead,
    /// [`Standing::SeenLater`]. It would refuse whatever it was sent.
    SeenLater,
    /// It has a publisher set on disk that was never reached here. It would believe nothing that it was sent.
    PublishersAhead,
    /// The authority is about to stop.
    Draining,
}

/// An acknowledgement that is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckRefused {
    /// This stream was not sent that epoch, or not with that digest (G47).
    NotSent,
    /// The stream has ended.
    Ended,
}

/// What becomes of a verifier that wants a snapshot after it refused an update.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Resync<S> {
    /// It is sent a snapshot and the deltas since.
    Backlog(Vec<S>),
    /// There is none: [`Feed::keep_snapshot`], and again.
    NeedsSnapshot,
    /// It has asked too often, and its stream has ended.
    TooOften,
    /// It has acknowledged nothing for too long, and its stream has ended.
    TooSlow,
    /// Its stream had ended.
    Ended,
}

/// What a ping is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Answer {
    /// What is true at this moment, to be signed. The same until it is no longer true or a second has gone by: its time errs on
    /// the old side. `None` in quarantine.
    pub heartbeat: Option<Heartbeat>,
    /// Whether a lease may be granted with it, if the register of verifiers agrees: the current epoch was acknowledged on this
    /// very stream.
    pub may_grant: bool,
}

/// One open stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    /// What it was sent and has not acknowledged, oldest first; and before it, what it last acknowledged.
    sent: VecDeque<(Epoch, StateDigest)>,
    /// The highest epoch acknowledged. Verifiers do not step back.
    acknowledged: Epoch,
    resyncs: u32,
}

impl Stream {
    /// False when it has been sent as much as it may be without an acknowledgement.
    pub(super) fn send<S>(&mut self, frame: &Frame<S>) -> bool {
        self.sent.push_back((frame.epoch, frame.digest));
        self.sent.len() <= MAX_UNACKNOWLEDGED
    }
}

impl<S: Clone> Feed<S> {
    /// What a verifier that has `held` tells of this authority.
    #[must_use]
    pub fn standing(&self, held: &Held) -> Standing {
        let current = self.trust.epoch();
        if held.epoch > current {
            Standing::Ahead
        } else if held.highest_epoch > current {
            Standing::SeenLater
        } else if self
            .digest_at(held.epoch)
            .is_some_and(|digest| *digest != held.digest)
        {
            Standing::Fork
        } else {
            Standing::Consistent
        }
    }

    /// Begins a stream with a verifier that has `held`.
    pub fn join(&mut self, held: &Held) -> Join<S> {
        if self.draining {
            return Join::Refused(JoinRefused::Draining);
        }
        if held.publishers > self.trust.publishers() {
            return Join::Refused(JoinRefused::PublishersAhead);
        }
        match self.standing(held) {
            Standing::Ahead => return Join::Refused(JoinRefused::Ahead),
            Standing::SeenLater => return Join::Refused(JoinRefused::SeenLater),
            // The digest of a fork is not ours, so it is sent a snapshot. At the current epoch its verifier refuses that.
            Standing::Consistent | Standing::Fork => {}
        }
        let deltas = self.deltas_after(held.epoch, &held.digest);
        let backlog: Option<Vec<_>> = deltas.map(|deltas| deltas.cloned().collect());
        let holds = backlog.is_some();
        let Some(backlog) = backlog.or_else(|| self.snapshot_backlog()) else {
            return Join::NeedsSnapshot;
        };
        let mut stream = Stream::default();
        if holds {
            stream.sent.push_back((held.epoch, held.digest));
            stream.acknowledged = held.epoch;
        }
        for frame in &backlog {
            let has_room = stream.send(frame);
            debug_assert!(has_room, "a stream may be sent every delta that is kept");
        }
        let id = self.next_stream;
        self.next_stream += 1;
        self.streams.insert(id, stream);
        let lacking = self.links.iter().filter(|(link, _)| *link > held.publishers);
        let links: Vec<S> = lacking.map(|(_, link)| link.clone()).collect();
        Join::Begun(Begun {
            stream: id,
            holds,
            links: links.len(),
            backlog: links.into_iter().chain(messages(backlog)).collect(),
        })
    }

    /// The verifier says that it has `epoch` in force.
    ///
    /// # Errors
    /// [`AckRefused`].
    pub fn acknowledge(&mut self, stream: StreamId, epoch: Epoch, digest: &[u8]) -> Result<(), AckRefused> {
        let stream = self.streams.get_mut(&stream).ok_or(AckRefused::Ended)?;
        let position = stream
            .sent
            .iter()
            .position(|(sent, known)| *sent == epoch && known.as_slice() == digest)
            .ok_or(AckRefused::NotSent)?;
        // The one acknowledged stays, so that saying it again is no offence.
        stream.sent.drain(..position);
        stream.acknowledged = stream.acknowledged.max(epoch);
        Ok(())
    }

    /// The verifier wants a snapshot.
    pub fn resync(&mut self, stream: StreamId) -> Resync<S> {
        let backlog = self.snapshot_backlog();
        let Some(asking) = self.streams.get_mut(&stream) else {
            return Resync::Ended;
        };
        if asking.resyncs >= MAX_RESYNCS {
            self.end(stream);
            return Resync::TooOften;
        }
        let Some(backlog) = backlog else {
            return Resync::NeedsSnapshot;
        };
        asking.resyncs += 1;
        if backlog.iter().all(|frame| asking.send(frame)) {
            return Resync::Backlog(messages(backlog));
        }
        // What follows on what was left out would be refused.
        self.end(stream);
        Resync::TooSlow
    }

    /// The answer to a ping on a stream of a verifier that is in quarantine or not.
    pub fn answer(&mut self, stream: StreamId, now_millis: u64, quarantined: bool) -> Answer {
        if quarantined {
            return Answer {
                heartbeat: None,
                may_grant: false,
            };
        }
        let heartbeat = self.heartbeat(now_millis);
        let stream = self.streams.get(&stream);
        Answer {
            may_grant: stream.is_some_and(|stream| stream.acknowledged == heartbeat.epoch),
            heartbeat: Some(heartbeat),
        }
    }

    /// The heartbeat of this second and state.
    pub fn heartbeat(&mut self, now_millis: u64) -> Heartbeat {
        let is_of_this_second =
            |heartbeat: &Heartbeat| heartbeat.authority_time_millis / 1000 == now_millis / 1000;
        if let Some(heartbeat) = self.heartbeat.clone().filter(is_of_this_second) {
            return heartbeat;
        }
        self.sequence += 1;
        let heartbeat = Heartbeat::of(&self.trust, now_millis, self.sequence);
        self.heartbeat = Some(heartbeat.clone());
        heartbeat
    }

    /// The heartbeat of a trust file, on which nobody decides from `expires_at_millis` on.
    pub fn exported(&mut self, now_millis: u64, expires_at_millis: u64) -> Heartbeat {
        self.sequence += 1;
        Heartbeat {
            expires_at_millis: Some(expires_at_millis),
            ..Heartbeat::of(&self.trust, now_millis, self.sequence)
        }
    }
}

fn messages<S>(frames: Vec<Frame<S>>) -> Vec<S> {
    frames.into_iter().map(|frame| frame.message).collect()
}
