//! What verifiers and authorities do, when their time has come or when something has come to them.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::planted::{Bug, planted};
use countersign_core::trust::Update;
use countersign_core::verifier::{Ending, Event as Told, Ignored, Message};

use crate::authority::Mutation;
use crate::model::{Anchor, Receipt};
use crate::network::{Greeting, StreamId, Up, Way};
use crate::setting::first_publisher;
use crate::verifier::Wish;
use crate::world::{Event, World};

/// How long the opening of a stream is waited for.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);

impl World {
    pub(crate) fn live_stream(&self, verifier: usize) -> Option<StreamId> {
        let process = self.verifiers[verifier].process.as_ref()?;
        process.live.as_ref().map(|live| live.stream)
    }

    pub(crate) fn is_of(&self, verifier: usize, life: u64) -> bool {
        self.verifiers[verifier].life == life
    }

    /// Puts `event` off when the verifier has to be waited for.
    pub(crate) fn put_off(&mut self, verifier: usize, event: Event) -> Option<Event> {
        let until = self.verifier_busy_until(verifier);
        if until > self.now {
            self.at(until, event);
            return None;
        }
        Some(event)
    }

    pub(crate) fn connect(&mut self, verifier: usize, life: u64) {
        let event = self.put_off(verifier, Event::Connect { verifier, life });
        if event.is_none() || !self.is_of(verifier, life) || self.live_stream(verifier).is_some() {
            return;
        }
        self.counts.streams += 1;
        self.opened_in_calm[verifier] += 1;
        let stream = self.network.open(verifier);
        let wishes = self.verifiers[verifier].open(stream, self.now, &mut self.random);
        self.perform(verifier, wishes, Duration::ZERO, None);
        self.after(OPEN_PATIENCE, Event::OpenTimeout { verifier, stream });
    }

    pub(crate) fn open_timeout(&mut self, verifier: usize, stream: StreamId) {
        let event = self.put_off(verifier, Event::OpenTimeout { verifier, stream });
        let process = self.verifiers[verifier].process.as_ref();
        let live = process.and_then(|process| process.live.as_ref());
        let waits = live.is_some_and(|live| live.stream == stream && live.opened.is_none());
        if event.is_some() && waits {
            self.end_at_verifier(verifier, None);
        }
    }

    pub(crate) fn tick(&mut self, verifier: usize, stream: StreamId) {
        if self.put_off(verifier, Event::Tick { verifier, stream }).is_none()
            || self.live_stream(verifier) != Some(stream)
        {
            return;
        }
        let wishes = self.verifiers[verifier].tick(self.now, &mut self.random);
        let period = self.verifiers[verifier].period;
        self.after(period, Event::Tick { verifier, stream });
        self.perform(verifier, wishes, Duration::ZERO, None);
    }

    pub(crate) fn saved(&mut self, verifier: usize, life: u64) {
        let paused = self.verifiers[verifier].paused_until;
        if paused > self.now {
            self.at(paused, Event::Saved { verifier, life });
        } else if self.is_of(verifier, life) {
            let wishes = self.verifiers[verifier].saved(self.now, &mut self.random);
            self.perform(verifier, wishes, Duration::ZERO, None);
        }
    }

    /// Does what a verifier wants. `told` is the update that it was given.
    pub(crate) fn perform(
        &mut self,
        verifier: usize,
        wishes: Vec<Wish>,
        lease: Duration,
        told: Option<Arc<Update>>,
    ) {
        let mut ended: Option<Ending> = None;
        for wish in wishes {
            self.say(|world| format!("{}: {wish:?}", world.name(verifier)));
            match wish {
                Wish::Send(message) => {
                    if let Some(stream) = self.live_stream(verifier) {
                        let said = match message {
                            Message::Hello(hello) => {
                                let latest = self.verifiers[verifier].disk.latest().cloned();
                                let process = self.verifiers[verifier].process.as_ref();
                                let publishers = process.map_or(0, |process| process.publishers.durable());
                                Up::Hello(Greeting {
                                    hello,
                                    publishers,
                                    latest,
                                })
                            }
                            message @ (Message::Ack(_) | Message::Nack(_) | Message::Ping(_)) => {
                                Up::Said(message)
                            }
                        };
                        self.send_up(stream, said);
                    }
                }
                Wish::Saving(until) => {
                    let life = self.verifiers[verifier].life;
                    self.at(until, Event::Saved { verifier, life });
                }
                Wish::End(ending) => ended = Some(ending),
                Wish::Told(event) => self.told(verifier, event, told.as_ref()),
                Wish::Confirmed(at) => {
                    let known = &mut self.model.verifiers[verifier];
                    let error = Duration::ZERO;
                    // The answer to an earlier ping may come late; it makes nothing older.
                    if known.anchor.is_none_or(|anchor| anchor.at <= at) {
                        known.anchor = Some(Anchor {
                            at,
                            lease,
                            error,
                            lifetime: None,
                        });
                    }
                    known.excused &= known.epoch < self.model.recovered;
                    known.wall_error = Duration::ZERO;
                }
            }
        }
        self.check_state(verifier);
        if ended.is_some() {
            self.end_at_verifier(verifier, ended);
        }
    }

    pub(crate) fn told(&mut self, verifier: usize, event: Told, update: Option<&Arc<Update>>) {
        if event == Told::Installed {
            self.counts.installed += 1;
        }
        let unheard = [
            Ignored::PingUnknown,
            Ignored::Quarantined,
            Ignored::Sequence,
            Ignored::Time,
        ];
        let ignored = |why: &Ignored| !unheard.contains(why);
        let heard = event == Told::Confirmed || matches!(event, Told::Ignored(why) if ignored(&why));
        if let (true, Some(process)) = (heard, &mut self.verifiers[verifier].process) {
            process.heard = true;
        }
        if let (Told::Refused { refused, .. }, Some(update)) = (event, update)
            && refused.wants_snapshot()
        {
            self.check_heeded(verifier, update);
        }
    }

    /// A verifier gives up its stream.
    pub(crate) fn end_at_verifier(&mut self, verifier: usize, ending: Option<Ending>) {
        let Some(stream) = self.live_stream(verifier) else {
            return;
        };
        self.send_up(stream, Up::Closed);
        self.network.leave(stream, Way::Up);
        let pause = self.verifiers[verifier].ended(ending, self.now, &mut self.random);
        let life = self.verifiers[verifier].life;
        self.after(pause, Event::Connect { verifier, life });
    }

    pub(crate) fn start(&mut self, verifier: usize, life: u64) {
        if !self.is_of(verifier, life) || self.verifiers[verifier].process.is_some() {
            return;
        }
        let file = self.file_at_start(verifier);
        let right = self.authorities[0].clock.wall_millis(self.now);
        let (confirmed, goes_on) = self.verifiers[verifier].start(self.now, right, file.as_ref());
        let wall_error = self.wall_error(verifier);
        let known = &mut self.model.verifiers[verifier];
        known.wall_error = if goes_on { Duration::ZERO } else { wall_error };
        let youngest = |of_file: bool| {
            let kind = confirmed
                .iter()
                .filter(|confirmed| confirmed.age.lifetime.is_some() == of_file);
            let youngest = kind.min_by_key(|confirmed| confirmed.age.so_far);
            youngest.map(|confirmed| Anchor {
                at: confirmed.anchor,
                lease: Duration::ZERO,
                error: confirmed.error,
                lifetime: confirmed.age.lifetime,
            })
        };
        (known.anchor, known.file) = (youngest(false), youngest(true));
        if known.file.is_some() {
            self.counts.warm_starts += 1;
            // Files know of no quarantine.
            known.quarantine = None;
        }
        known.refused.clear();
        let (anchor, file) = (known.anchor, known.file);
        (known.epoch, known.digest) = Default::default();
        (known.publishers, known.generation) = ([first_publisher()].into(), 0);
        self.say(|world| {
            let disk = &world.verifiers[verifier].disk;
            format!("verifier {verifier} starts, {anchor:?}, {file:?}, {:?}", disk)
        });
        self.check_start(verifier);
        self.check_state(verifier);
        self.check_keys(verifier);
        self.after(Duration::ZERO, Event::Connect { verifier, life });
    }

    pub(crate) fn start_authority(&mut self, index: usize) {
        self.say(|_| format!("authority {index} starts"));
        let authority = &mut self.authorities[index];
        authority.start(self.now);
        let life = authority.life;
        self.check_kept(index);
        let authority = index;
        self.after(
            Duration::from_millis(100),
            Event::AuthorityTick { authority, life },
        );
    }

    pub(crate) fn authority_tick(&mut self, index: usize, life: u64) {
        let authority = &self.authorities[index];
        if authority.life != life {
            return;
        }
        let event = Event::AuthorityTick {
            authority: index,
            life,
        };
        if authority.paused_until > self.now {
            self.at(authority.paused_until, event);
            return;
        }
        for stream in authority.silent(self.now) {
            self.end_at_authority(index, stream, false);
        }
        let authority = &mut self.authorities[index];
        let next = authority
            .enrolment(self.now)
            .or_else(|| authority.rotation(self.now));
        if let Some(mutation) = next {
            self.mutate(index, mutation);
        }
        self.after(Duration::from_millis(700), event);
    }

    /// Begins to commit `mutation`.
    pub(crate) fn mutate(&mut self, index: usize, mutation: Mutation) -> bool {
        let authority = &mut self.authorities[index];
        let begun = authority.begin(mutation, self.now);
        if begun {
            let life = authority.life;
            self.note_pending(index);
            if planted(Bug::AnsweredBeforeCommitted)
                && let Some(fact) = self.memory.pending
            {
                self.model.facts[fact].acknowledged = true;
            }
            let takes = self.random.millis(0, 30);
            let authority = index;
            self.after(takes, Event::Committed { authority, life });
        }
        begun
    }

    pub(crate) fn committed(&mut self, index: usize, life: u64) {
        let authority = &mut self.authorities[index];
        if authority.life != life {
            return;
        }
        if authority.paused_until > self.now {
            let at = authority.paused_until;
            let authority = index;
            self.at(at, Event::Committed { authority, life });
            return;
        }
        let before = authority.stored.trust.clone();
        let Some((outcome, outbox, ended)) = authority.committed(self.now) else {
            return;
        };
        let epoch = outcome.books.trust.epoch();
        self.say(|_| format!("authority {index} is at {epoch}: {:?}", outcome.mutation));
        self.note_committed(index, &before, &outcome, true);
        for stream in ended {
            self.end_at_authority(index, stream, false);
        }
        self.send_all(outbox);
    }

    /// An operator asks how far something has come, and is promised by when it is everywhere.
    pub(crate) fn ask(&mut self, fact: usize) {
        if self.authorities[0].paused_until <= self.now {
            self.promise(fact);
        }
    }

    /// What the register promises of `fact` now is held to from now on, with all that was promised before.
    pub(crate) fn promise(&mut self, fact: usize) {
        let authority = &self.authorities[0];
        // Who has lost count of verifiers promises what does not hold.
        let is_void = self.model.broken.is_some() || self.model.facts[fact].void;
        let Some(process) = authority.process.as_ref().filter(|_| !is_void) else {
            return;
        };
        let elapsed = authority.clock.elapsed(self.now);
        let reach = process.register.reach(self.model.facts[fact].epoch, elapsed);
        let mut receipt = Receipt::new();
        for (class, end) in &reach.bounds {
            receipt.insert(class.clone(), authority.clock.true_time(self.now, *end));
        }
        let now = self.now;
        let files = reach.files_until.map(|end| authority.clock.true_time(now, end));
        let budgets = Arc::clone(&self.verifiers[0].budgets);
        for (class, budget) in budgets.iter().enumerate() {
            let by = receipt.get(&budget.class).copied().max(files).unwrap_or(now);
            let promised = self.model.facts[fact].receipt.get_or_insert_with(Receipt::new);
            let earlier = promised.entry(budget.class.clone()).or_insert(Duration::MAX);
            if by < *earlier {
                *earlier = by;
                self.at(by + Duration::from_micros(100), Event::Probe { fact, class });
            }
        }
    }
}
