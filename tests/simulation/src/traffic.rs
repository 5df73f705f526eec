//! What comes on streams, and to whom: after as long as the way takes, and when whoever it is for can take it.

use std::time::Duration;

use countersign_core::verifier::Message;

use crate::authority::Outbox;
use crate::network::{Closed, Down, Greeting, StreamId, Up, Way};
use crate::world::{Event, World};

impl World {
    pub(crate) fn send_up(&mut self, stream: StreamId, message: Up) {
        let ready = self.network.send_up(stream, self.now, message, &mut self.random);
        if let Some(ready) = ready {
            let way = Way::Up;
            self.at(ready, Event::Deliver { stream, way });
        }
    }

    pub(crate) fn send_down(&mut self, stream: StreamId, message: Down) {
        let ready = self
            .network
            .send_down(stream, self.now, message, &mut self.random);
        if let Some(ready) = ready {
            let way = Way::Down;
            self.at(ready, Event::Deliver { stream, way });
        }
    }

    /// Delivers once more what waits in `stream`.
    pub(crate) fn pump(&mut self, stream: StreamId, way: Way) {
        let waiting = self.network.get(stream).map_or(0, |stream| stream.under_way(way));
        for _ in 0..waiting {
            self.after(Duration::from_secs(2), Event::Deliver { stream, way });
        }
    }

    pub(crate) fn send_all(&mut self, outbox: Outbox) {
        for (stream, message) in outbox {
            self.send_down(stream, message);
        }
    }

    /// Until when `stream` has to wait in this direction: for the way, or for the one at the end of it.
    pub(crate) fn waits_until(&self, stream: StreamId, way: Way) -> Option<Duration> {
        let stream = self.network.get(stream)?;
        let blocked = self.network.links[stream.verifier].blocked_until(way);
        let receiver = match way {
            Way::Up => self.authorities[stream.authority].paused_until,
            Way::Down => self.verifier_busy_until(stream.verifier),
        };
        Some(blocked.max(receiver)).filter(|until| *until > self.now)
    }

    pub(crate) fn verifier_busy_until(&self, verifier: usize) -> Duration {
        let verifier = &self.verifiers[verifier];
        let saving = verifier
            .process
            .as_ref()
            .and_then(|process| process.saving.as_ref());
        // A save is over only when it is, however late that is.
        let saving = saving.map_or(Duration::ZERO, |saving| {
            saving.until.max(self.now + Duration::from_micros(1))
        });
        saving.max(verifier.paused_until)
    }

    pub(crate) fn deliver(&mut self, stream: StreamId, way: Way) {
        if let Some(until) = self.waits_until(stream, way) {
            if until < Duration::MAX {
                self.at(until, Event::Deliver { stream, way });
            }
            return;
        }
        match way {
            Way::Up => self.deliver_up(stream),
            Way::Down => self.deliver_down(stream),
        }
    }

    pub(crate) fn deliver_up(&mut self, stream: StreamId) {
        let Some(message) = self.network.receive_up(stream, self.now) else {
            return;
        };
        let Some(ends) = self.network.get(stream) else {
            return;
        };
        let (authority, verifier, left) = (ends.authority, ends.verifier, ends.left_by_authority);
        if left {
            return;
        }
        match message {
            Up::Hello(greeting) => {
                let latest = greeting.latest.as_ref();
                let is_heard = latest.is_none_or(|latest| self.proof(authority, latest));
                if is_heard {
                    self.hello(authority, verifier, stream, &greeting);
                } else {
                    // It will come again.
                    self.end_at_authority(authority, stream, false);
                }
            }
            Up::Said(message) => self.hear(authority, stream, &message),
            Up::Leave => self.end_at_authority(authority, stream, true),
            Up::Closed => self.end_at_authority(authority, stream, false),
        }
    }

    pub(crate) fn hello(&mut self, index: usize, verifier: usize, stream: StreamId, greeting: &Greeting) {
        let at = self.now;
        let key = self.verifiers[verifier].key.clone();
        let authority = &mut self.authorities[index];
        let (now, elapsed) = (authority.now(at), authority.clock.elapsed(at));
        let joined = match authority.process.as_mut() {
            Some(process) => process.join(stream, &key, greeting, elapsed, now, at),
            None => Err(Closed::Ended),
        };
        match joined {
            Ok((outbox, superseded)) => {
                self.send_all(outbox);
                if let Some(superseded) = superseded {
                    let after = self.random.millis(0, 20);
                    let authority = index;
                    let stream = superseded;
                    self.after(after, Event::EndSuperseded { authority, stream });
                }
            }
            Err(closed) => {
                self.send_down(stream, Down::Closed(closed));
                self.network.leave(stream, Way::Down);
            }
        }
    }

    pub(crate) fn hear(&mut self, index: usize, stream: StreamId, message: &Message) {
        let at = self.now;
        let authority = &mut self.authorities[index];
        let now = authority.now(at);
        let clock = authority.clock.clone();
        let heard = authority
            .process
            .as_mut()
            .map(|process| process.hear(stream, message, &clock, now, at));
        match heard {
            Some(Some(outbox)) => {
                let grants = |down: &Down| matches!(down, Down::Pong(pong) if !pong.lease.is_zero());
                let granted = outbox.iter().any(|(_, down)| grants(down));
                self.check(!(granted && self.model.stopped[index]), "D17", |_| {
                    format!("authority {index} has stopped, and grants a lease")
                });
                let outbox = self.tamper(outbox);
                self.send_all(outbox);
            }
            Some(None) => self.end_at_authority(index, stream, false),
            None => {}
        }
    }

    /// The authority gives up a stream.
    pub(crate) fn end_at_authority(&mut self, index: usize, stream: StreamId, leaves: bool) {
        let process = self.authorities[index].process.as_mut();
        if let Some(process) = process.filter(|process| process.has(stream)) {
            process.end(stream, leaves);
        }
        self.send_down(stream, Down::Closed(Closed::Ended));
        self.network.leave(stream, Way::Down);
    }

    pub(crate) fn deliver_down(&mut self, stream: StreamId) {
        let Some(message) = self.network.receive_down(stream, self.now) else {
            return;
        };
        let Some(ends) = self.network.get(stream) else {
            return;
        };
        let (verifier, left) = (ends.verifier, ends.left_by_verifier);
        if left || self.live_stream(verifier) != Some(stream) {
            return;
        }
        let at = self.now;
        match message {
            Down::Opened => {
                let period = self.verifiers[verifier].period;
                let process = self.verifiers[verifier].process.as_mut();
                if let Some(live) = process.and_then(|process| process.live.as_mut()) {
                    live.opened = Some(at);
                }
                self.after(period, Event::Tick { verifier, stream });
            }
            Down::Closed(closed) => {
                let process = self.verifiers[verifier].process.as_mut();
                if let (Some(process), Closed::Disowned) = (process, closed) {
                    process.held.disowned();
                }
                self.end_at_verifier(verifier, None);
            }
            message @ (Down::Link(_) | Down::Update(_) | Down::Pong(_)) => {
                let belief = self.believed(verifier, &message);
                let lease = match &message {
                    Down::Pong(pong) => pong.lease,
                    Down::Link(_) | Down::Update(_) | Down::Opened | Down::Closed(_) => Duration::ZERO,
                };
                let told = match &message {
                    Down::Update(signed) => signed.as_update().cloned(),
                    Down::Link(_) | Down::Pong(_) | Down::Opened | Down::Closed(_) => None,
                };
                let wishes = self.verifiers[verifier].receive(message, at, &mut self.random);
                self.check_believed(verifier, belief, &wishes);
                self.perform(verifier, wishes, lease, told);
            }
        }
    }
}
