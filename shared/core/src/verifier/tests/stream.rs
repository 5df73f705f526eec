//! Leases and the clock on a stream, from an authority that signs nothing.

use super::*;
use crate::staleness::ClassBudget;
use crate::trust::Heartbeat;

/// What was signed: nothing but its number.
type Signed = u32;

const SAVED: Saved = Saved {
    durable: true,
    wants_snapshot: false,
    log_outdated: false,
};

struct Stage {
    held: HeldTrust,
    session: Session<Signed>,
    seconds: u64,
    beats: u64,
}

impl Stage {
    fn new() -> Self {
        Self::beginning(Beginning::default())
    }

    fn beginning(beginning: Beginning) -> Self {
        let settings = SessionSettings {
            heartbeat_period: HEARTBEAT_PERIOD,
            longest_session: Duration::from_secs(3600),
            budgets: Arc::new([ClassBudget::strict(), ClassBudget::normal()]),
        };
        Self {
            held: nothing(),
            session: Session::new(settings, Arc::new(ToyHash), beginning, after(0)),
            seconds: 0,
            beats: 0,
        }
    }

    /// A stage on which `state(1)` was in force, and on disk, before the stream began.
    fn warm() -> Self {
        Self::warmed(true)
    }

    fn warmed(durable: bool) -> Self {
        let mut stage = Self::beginning(Beginning {
            durable,
            ..Beginning::default()
        });
        stage.held.install(state(1), after(0)).expect("newer");
        let begun = stage.session.begin(&stage.held, after(0));
        assert_eq!(begun.len(), 2);
        stage
    }

    /// Two seconds pass. The number of the ping that is sent.
    fn tick(&mut self) -> u64 {
        self.seconds += 2;
        let effects = self.session.tick(&mut self.held, after(self.seconds));
        pings(&effects)[0]
    }

    /// The statement that `state` is current, at this moment.
    fn heartbeat(&mut self, state: &TrustState) -> Heartbeat {
        self.beats += 1;
        Heartbeat::of(state, after(self.seconds).wall_millis, self.beats)
    }

    fn answer(&mut self, ping_sequence: u64, heartbeat: Heartbeat, lease: Duration) -> Vec<Effect<Signed>> {
        let pong = Pong {
            ping_sequence,
            heartbeat: Some((7, Ok(heartbeat))),
            lease,
            quarantined: false,
        };
        self.session.pong(&mut self.held, after(self.seconds), pong)
    }

    /// The state of `epoch` came, and is saved.
    fn save(&mut self, epoch: Epoch) -> Vec<Effect<Signed>> {
        let now = after(self.seconds);
        let received = Received {
            update: snapshot(&state(epoch)),
            left_out: 0,
            length: 100,
            publishers: 1,
        };
        let effects = self.session.update(&mut self.held, now, 7, Ok(received));
        let accepted = effects.into_iter().find_map(|effect| match effect {
            Effect::Save(accepted) => Some(accepted),
            Effect::Send(_) | Effect::Keep(_) | Effect::Probe(_) | Effect::End(_) | Effect::Tell(_) => None,
        });
        let accepted = accepted.expect("newer");
        self.session.saved(&mut self.held, now, *accepted, SAVED)
    }

    fn overdue(&self) -> Option<Duration> {
        let trust = self.held.in_force().expect("in force");
        trust.overdue(after(self.seconds).elapsed)
    }
}

fn pings(effects: &[Effect<Signed>]) -> Vec<u64> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send(Message::Ping(ping)) => Some(ping.sequence),
            Effect::Send(_)
            | Effect::Save(_)
            | Effect::Keep(_)
            | Effect::Probe(_)
            | Effect::End(_)
            | Effect::Tell(_) => None,
        })
        .collect()
}

fn acks(effects: &[Effect<Signed>]) -> Vec<Epoch> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send(Message::Ack(ack)) => Some(ack.in_force.epoch),
            Effect::Send(_)
            | Effect::Save(_)
            | Effect::Keep(_)
            | Effect::Probe(_)
            | Effect::End(_)
            | Effect::Tell(_) => None,
        })
        .collect()
}

fn is_kept(effects: &[Effect<Signed>]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Keep(_)))
}

fn tells(effects: &[Effect<Signed>], event: Event) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, Effect::Tell(told) if *told == event))
}

const LEASE: Duration = Duration::from_secs(10);

#[test]
fn a_greeting_says_what_the_authority_has_to_count_on() {
    let mut stage = Stage::new();
    stage.held.raise_floor(StateId::of(&state(9)));
    let begun = stage.session.begin(&stage.held, after(0));
    let Effect::Send(Message::Hello(hello)) = &begun[0] else {
        panic!("{begun:?}")
    };
    assert_eq!((hello.in_force, hello.highest_epoch), (StateId::default(), 9));
    assert_eq!(hello.budgets.len(), 2);
}

/// What was in force before the stream is granted nothing until it is acknowledged, which is done at once.
#[test]
fn what_is_not_acknowledged_is_and_asks_again() {
    let mut stage = Stage::warm();
    let heartbeat = stage.heartbeat(&state(1));
    let effects = stage.answer(1, heartbeat.clone(), Duration::ZERO);
    assert!(tells(&effects, Event::Ignored(Ignored::NotGranted)));
    assert_eq!((acks(&effects), pings(&effects)), (vec![1], vec![2]));
    assert_eq!(
        (stage.overdue(), is_kept(&effects), stage.session.is_confirmed()),
        (None, false, false)
    );
    // One heartbeat for all pings of a second; the second answer grants something.
    let effects = stage.answer(2, heartbeat, LEASE);
    assert!(tells(&effects, Event::Confirmed) && is_kept(&effects));
    assert_eq!((stage.overdue(), acks(&effects)), (Some(Duration::ZERO), vec![]));
    assert!(stage.session.is_confirmed());
}

/// Only once: an authority that grants nothing is not asked in a loop, and nothing is younger for it.
#[test]
fn an_authority_that_grants_nothing_is_asked_every_period() {
    let mut stage = Stage::warm();
    for round in 0..100 {
        let ping = stage.tick();
        let heartbeat = stage.heartbeat(&state(1));
        let effects = stage.answer(ping, heartbeat, Duration::ZERO);
        assert_eq!(pings(&effects).len(), usize::from(round == 0));
        assert_eq!(stage.overdue(), None);
    }
}

/// In quarantine nothing is confirmed, and the trust grows old; nothing else is wrong.
#[test]
fn in_quarantine_trust_grows_old() {
    let mut stage = Stage::warm();
    let heartbeat = stage.heartbeat(&state(1));
    stage.answer(1, heartbeat, LEASE);
    let (ping, heartbeat) = (stage.tick(), stage.heartbeat(&state(1)));
    let pong = Pong {
        ping_sequence: ping,
        heartbeat: Some((7, Ok(heartbeat))),
        lease: LEASE,
        quarantined: true,
    };
    let effects = stage.session.pong(&mut stage.held, after(stage.seconds), pong);
    assert!(tells(&effects, Event::Ignored(Ignored::Quarantined)));
    assert_eq!((effects.len(), stage.held.alarm()), (1, None));
    stage.seconds = 13;
    assert_eq!(stage.overdue(), Some(3 * SECOND));
}

/// X10: an older heartbeat says nothing about the time either.
#[test]
fn a_repeated_heartbeat_does_not_hold_up_time() {
    let mut stage = Stage::warm();
    let old = stage.heartbeat(&state(1));
    stage.answer(1, old.clone(), LEASE);
    for _ in 0..60 {
        let (ping, heartbeat) = (stage.tick(), stage.heartbeat(&state(1)));
        stage.answer(ping, heartbeat, LEASE);
        let ping = stage.tick();
        let effects = stage.answer(ping, old.clone(), LEASE);
        assert!(tells(&effects, Event::Ignored(Ignored::Sequence)));
        let now = stage.held.now(after(stage.seconds).elapsed).expect("known");
        assert_eq!(now.as_seconds(), NOW.as_seconds() + stage.seconds);
    }
}

/// X02: a wall clock that is set is told, once.
#[test]
fn a_set_wall_clock_is_told() {
    let mut stage = Stage::warm();
    stage.tick();
    let mut now = after(4);
    now.wall_millis += 600_000;
    let effects = stage.session.tick(&mut stage.held, now);
    assert!(tells(&effects, Event::ClockSet(600_000)));
    assert_eq!(
        stage.held.now(now.elapsed).map(|time| time.as_seconds()),
        Ok(NOW.as_seconds() + 4)
    );
}

/// A heartbeat is kept with where the clocks stood when its ping was sent.
#[test]
fn a_kept_heartbeat_knows_when_it_was_asked_for() {
    let mut stage = Stage::warm();
    stage.seconds = 3;
    let heartbeat = stage.heartbeat(&state(1));
    let effects = stage.answer(1, heartbeat.clone(), LEASE);
    assert_eq!(
        (is_kept(&effects), acks(&effects), pings(&effects)),
        (false, vec![1], vec![2])
    );
    // The next answer says the same, and was not asked for later: the authority states it once in a second.
    stage.seconds = 4;
    let effects = stage.answer(2, heartbeat.clone(), LEASE);
    let kept = effects.iter().find_map(|effect| match effect {
        Effect::Keep(kept) => Some(kept),
        Effect::Send(_) | Effect::Save(_) | Effect::Probe(_) | Effect::End(_) | Effect::Tell(_) => None,
    });
    let sent = &kept.expect("kept").sent;
    assert_eq!((sent.moment, sent.time_millis), (after(0), after(0).wall_millis));
    let manifest = |boot: Option<&str>| Manifest {
        heartbeat: heartbeat.clone(),
        sent: ClockMark {
            boot: boot.map(Into::into),
            ..sent.clone()
        },
    };
    // F42: exact on the running machine, whatever the wall clock says; by the wall clock after a reboot.
    let mut later = after(100);
    later.wall_millis += 3_600_000;
    let age =
        |manifest: &Manifest, boot: &str, now| manifest.age(Some(&boot.into()), now).map(|age| age.so_far);
    assert_eq!(age(&manifest(Some("one")), "one", later), Some(100 * SECOND));
    assert_eq!(age(&manifest(Some("one")), "two", later), Some(3700 * SECOND));
    assert_eq!(age(&manifest(None), "one", later), Some(3700 * SECOND));
    let mut set_back = after(100);
    set_back.wall_millis -= 3_600_000;
    assert_eq!(age(&manifest(Some("one")), "two", set_back), None);
}

/// F52, I-08: what confirms an epoch goes to disk only once the authority is told that the epoch is there. A save that was given up may
/// have landed late, which is asked for, and told.
#[test]
fn what_confirms_an_epoch_is_kept_after_the_epoch_is() {
    let mut stage = Stage::warmed(false);
    let heartbeat = stage.heartbeat(&state(1));
    let effects = stage.answer(1, heartbeat, LEASE);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Probe(kept) if kept.epoch == 1))
    );
    assert!(!is_kept(&effects));
    let told = stage.session.kept(&stage.held, after(stage.seconds), SAVED);
    assert_eq!(acks(&told), [1]);
    let ping = stage.tick();
    let heartbeat = stage.heartbeat(&state(1));
    assert!(is_kept(&stage.answer(ping, heartbeat, LEASE)));
}

/// I-08, I-01: what was said to the authority may be lost with the stream. It counts on this disk from its first answer to a ping
/// behind that, and only such an answer is kept.
#[test]
fn what_confirms_an_epoch_is_kept_after_the_authority_heard_of_it() {
    let mut stage = Stage::warm();
    let in_flight = stage.tick();
    let heartbeat = stage.heartbeat(&state(1));
    let effects = stage.answer(1, heartbeat, LEASE);
    assert_eq!((acks(&effects), is_kept(&effects)), (vec![1], false));
    let behind = pings(&effects)[0];
    let heartbeat = stage.heartbeat(&state(1));
    assert!(!is_kept(&stage.answer(in_flight, heartbeat, LEASE)));
    let heartbeat = stage.heartbeat(&state(1));
    assert!(is_kept(&stage.answer(behind, heartbeat, LEASE)));

    // The same for every epoch that follows.
    let in_flight = stage.tick();
    let effects = stage.save(2);
    let behind = pings(&effects)[0];
    stage.seconds += 20;
    let heartbeat = stage.heartbeat(&state(2));
    assert!(!is_kept(&stage.answer(in_flight, heartbeat, LEASE)));
    // What confirmed the epoch before, and is repeated, confirms nothing of this one.
    let heartbeat = stage.heartbeat(&state(2));
    assert!(is_kept(&stage.answer(behind, heartbeat, LEASE)));
}
