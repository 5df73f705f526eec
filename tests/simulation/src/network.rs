//! Streams between verifiers and authorities, as TCP makes them: what arrives does so in order; what is lost, is lost with
//! the rest of the stream; and what was under way on a stream that one side has given up still arrives at the other.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use countersign_core::publishers::Generation;
use countersign_core::verifier::{Hello, Message, Pong};

use crate::random::Random;
use crate::toy::Signed;

/// One stream among all of a run.
pub(crate) type StreamId = u64;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// To the authority.
    Up,
    /// To the verifier.
    Down,
}

/// How a stream begins.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    pub(crate) hello: Hello,
    /// The generation of the publisher set that the verifier has on disk.
    pub(crate) publishers: Generation,
    /// The latest that it keeps with the authority's signature.
    pub(crate) latest: Option<Signed>,
}

/// What goes to the authority.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Hello(Greeting),
    Said(Message),
    /// It takes leave.
    Leave,
    Closed,
}

/// What goes to the verifier.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Opened,
    Link(Signed),
    Update(Signed),
    Pong(Pong<Signed>),
    Closed(Closed),
}

/// Why a stream is closed from above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The authority never reached the state that the verifier holds.
    Disowned,
    /// Anything else.
    Ended,
}

/// What is under way.
#[derive(Debug)]
struct Lane<T> {
    under_way: VecDeque<(Duration, T)>,
    last: Duration,
}

impl<T> Lane<T> {
    const fn new() -> Self {
        Self {
            under_way: VecDeque::new(),
            last: Duration::ZERO,
        }
    }

    /// Sends `message`, which arrives at `ready`, but not before what was sent earlier.
    fn send(&mut self, ready: Duration, message: T) -> Duration {
        self.last = self.last.max(ready);
        self.under_way.push_back((self.last, message));
        self.last
    }

    fn receive(&mut self, now: Duration) -> Option<T> {
        let first = self.under_way.pop_front_if(|(ready, _)| *ready <= now);
        first.map(|(_, message)| message)
    }
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) verifier: usize,
    pub(crate) authority: usize,
    up: Lane<Up>,
    down: Lane<Down>,
    /// The verifier has given it up, and hears nothing on it any more.
    pub(crate) left_by_verifier: bool,
    /// The same of the authority.
    pub(crate) left_by_authority: bool,
}

/// The way between one verifier and the authorities.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// The shortest and the longest time that a message takes, in milliseconds.
    pub(crate) delay: (u64, u64),
    /// Until when nothing gets through upwards, and downwards.
    blocked: [Duration; 2],
    /// Which authority the next stream goes to.
    pub(crate) leads_to: usize,
}

impl Link {
    pub(crate) const fn new(delay: (u64, u64)) -> Self {
        Self {
            delay,
            blocked: [Duration::ZERO; 2],
            leads_to: 0,
        }
    }

    /// Until when nothing gets through.
    pub(crate) const fn blocked_until(&self, way: Way) -> Duration {
        match way {
            Way::Up => self.blocked[0],
            Way::Down => self.blocked[1],
        }
    }

    /// Lets nothing through until then.
    pub(crate) fn block(&mut self, way: Way, until: Duration) {
        let blocked = match way {
            Way::Up => &mut self.blocked[0],
            Way::Down => &mut self.blocked[1],
        };
        *blocked = until.max(*blocked);
    }

    /// Lets everything through again.
    pub(crate) const fn heal(&mut self) {
        self.blocked = [Duration::ZERO; 2];
    }
}

/// All streams.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) links: Vec<Link>,
    streams: BTreeMap<StreamId, Stream>,
    next: StreamId,
}

impl Network {
    pub(crate) const fn new(links: Vec<Link>) -> Self {
        Self {
            links,
            streams: BTreeMap::new(),
            next: 1,
        }
    }

    /// Opens a stream.
    pub(crate) fn open(&mut self, verifier: usize) -> StreamId {
        let id = self.next;
        self.next += 1;
        self.streams.insert(
            id,
            Stream {
                verifier,
                authority: self.links[verifier].leads_to,
                up: Lane::new(),
                down: Lane::new(),
                left_by_verifier: false,
                left_by_authority: false,
            },
        );
        id
    }

    pub(crate) fn get(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    /// The streams that one side at least has not given up.
    pub(crate) fn ids(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }

    fn delay(&self, verifier: usize, random: &mut Random) -> Duration {
        let (least, most) = self.links[verifier].delay;
        random.millis(least, most)
    }

    /// Sends upwards. When it arrives, if the stream is there.
    pub(crate) fn send_up(
        &mut self,
        id: StreamId,
        now: Duration,
        message: Up,
        random: &mut Random,
    ) -> Option<Duration> {
        let delay = self.delay(self.streams.get(&id)?.verifier, random);
        let stream = self.streams.get_mut(&id)?;
        Some(stream.up.send(now + delay, message))
    }

    /// Sends downwards. When it arrives, if the stream is there.
    pub(crate) fn send_down(
        &mut self,
        id: StreamId,
        now: Duration,
        message: Down,
        random: &mut Random,
    ) -> Option<Duration> {
        let delay = self.delay(self.streams.get(&id)?.verifier, random);
        let stream = self.streams.get_mut(&id)?;
        Some(stream.down.send(now + delay, message))
    }

    /// The next message upwards, which is there.
    pub(crate) fn receive_up(&mut self, id: StreamId, now: Duration) -> Option<Up> {
        self.streams.get_mut(&id)?.up.receive(now)
    }

    /// The next message downwards, which is there.
    pub(crate) fn receive_down(&mut self, id: StreamId, now: Duration) -> Option<Down> {
        self.streams.get_mut(&id)?.down.receive(now)
    }

    /// Loses what is under way, from some message on, both ways.
    pub(crate) fn cut(&mut self, id: StreamId, random: &mut Random) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let up = random.index(stream.up.under_way.len() + 1);
            stream.up.under_way.truncate(up);
            let down = random.index(stream.down.under_way.len() + 1);
            stream.down.under_way.truncate(down);
        }
    }

    /// One side has given the stream up. It is gone when both have.
    pub(crate) fn leave(&mut self, id: StreamId, way: Way) {
        if let Some(stream) = self.streams.get_mut(&id) {
            match way {
                Way::Up => stream.left_by_verifier = true,
                Way::Down => stream.left_by_authority = true,
            }
            if stream.left_by_verifier && stream.left_by_authority {
                self.streams.remove(&id);
            }
        }
    }
}

impl Stream {
    /// How much is under way.
    pub(crate) fn under_way(&self, way: Way) -> usize {
        match way {
            Way::Up => self.up.under_way.len(),
            Way::Down => self.down.under_way.len(),
        }
    }
}
