//! What goes on being heeded beside the state in force, past a recovery and past a restart.

use super::held::confirmed;
use super::*;
use crate::names::{CertificateThumbprint, ClientId};
use crate::revocation::{Revocation, RevokedSubject};
use crate::time::Timestamp;
use crate::trust::{Ahead, Change, Descent};

/// What is revoked: a certificate, and a client with everything that it was issued until now.
fn revocations() -> (CertificateThumbprint, RevocationList) {
    let thumbprint = CertificateThumbprint::new([7; 32]);
    let until = |seconds| NOW.saturating_add(Duration::from_secs(seconds));
    let revocation = |subject| Revocation {
        subject,
        issued_before: NOW,
        expires_at: until(3600),
    };
    let client = ClientId::parse("orders").expect("valid");
    let both = [
        revocation(RevokedSubject::Certificate(thumbprint)),
        revocation(RevokedSubject::Client(client)),
    ];
    (thumbprint, both.into())
}

/// The state of `epoch` with the key that is called `name` and these revocations.
fn revoking(epoch: Epoch, name: u8, revocations: &RevocationList) -> TrustState {
    let keys = Arc::clone(named_state(epoch, name).keys());
    TrustState::new(issuer(), epoch, keys, revocations.clone(), &ToyHash)
}

fn refuses(held: &HeldTrust, thumbprint: &CertificateThumbprint) -> bool {
    let view = held.in_force().expect("in force").view(after(0).elapsed);
    view.state.revocations().holds_certificate(thumbprint)
}

/// I-09: a recovered authority has given up every key, so that what was held against tokens matters no more. A certificate that was
/// revoked proves its SPIFFE ID to tokens that are issued from then on no more than before, also after a restart, until the entry has
/// expired or the authority has it again.
#[test]
fn a_revoked_certificate_stays_so_past_a_recovery() {
    let (thumbprint, both) = revocations();
    let mut held = confirmed(revoking(1, 1, &both));
    let recovered = revoking(1000, 2, &RevocationList::default());
    let carried = held.carried(&recovered, &Descent::default(), after(1));
    assert_eq!(carried.len(), 1, "the certificate, and not the client");
    held.install(recovered.clone(), after(1)).expect("newer");
    assert!(refuses(&held, &thumbprint));
    let client = RevokedSubject::Client(ClientId::parse("orders").expect("valid"));
    let view = held.in_force().expect("in force").view(after(0).elapsed);
    assert_eq!(view.state.revocations().find(&client), None);
    assert_eq!(
        held.id(),
        StateId::of(&recovered),
        "its digest is that of the authority"
    );

    let mut restarted = nothing();
    restarted.carry(&carried, after(2));
    restarted.restore(recovered, [], after(2)).expect("newer");
    assert!(refuses(&restarted, &thumbprint));
    // Revoked again, it is in the state, and nothing is carried beside that.
    let again = revoking(1001, 2, &both);
    assert!(
        restarted
            .carried(&again, &Descent::default(), after(3))
            .is_empty()
    );
    restarted.install(again, after(3)).expect("newer");
    assert!(refuses(&restarted, &thumbprint));
    assert!(restarted.certificates().is_empty());
}

/// What the authority says `seconds` after the beginning.
fn stated(seconds: u64) -> TimeStated {
    TimeStated {
        authority_millis: after(seconds).wall_millis,
        sent_at: after(seconds).elapsed,
    }
}

/// What is held once a certificate that was revoked until an hour after the beginning is carried past a recovery.
fn carrying() -> (CertificateThumbprint, HeldTrust) {
    let (thumbprint, both) = revocations();
    let mut held = confirmed(revoking(1, 1, &both));
    held.install(revoking(1000, 2, &RevocationList::default()), after(1))
        .expect("newer");
    (thumbprint, held)
}

/// I-04: an entry that was carried along ends a minute after it would have ended, as soon as the authority has said that it is so late.
#[test]
fn what_is_carried_ends() {
    let (thumbprint, mut held) = carrying();
    let changes = held.changes();
    held.hear_time(stated(3660), after(3660)).expect("near");
    assert!(refuses(&held, &thumbprint));
    assert_eq!(held.changes(), changes);
    held.hear_time(stated(3661), after(3661)).expect("near");
    assert!(!refuses(&held, &thumbprint));
    assert!(held.certificates().is_empty());
    assert!(
        held.changes() > changes,
        "decisions that are remembered are made anew"
    );
}

/// And once it has said what time it is, whether anything comes or not.
#[test]
fn what_is_carried_ends_in_silence() {
    let (thumbprint, mut held) = carrying();
    let mut session = session();
    session.tick(&mut held, after(3661));
    assert!(refuses(&held, &thumbprint), "nobody has said that it is so late");
    let (thumbprint, mut held) = carrying();
    held.hear_time(stated(2), after(2)).expect("near");
    session.tick(&mut held, after(3660));
    assert!(refuses(&held, &thumbprint));
    session.tick(&mut held, after(3661));
    assert!(!refuses(&held, &thumbprint));
}

/// Until the authority has said what time it is, it is no later than when it published the last update, nor than the wall clock says. Both
/// may be wrong by any amount.
#[test]
fn what_is_carried_ends_by_when_an_update_was_published() {
    for (published_at, wall, refused) in [
        (3600, 100_000, true),
        (3661, 100_000, false),
        (100_000, 3600, true),
        (100_000, 3661, false),
        (100_000, 0, true),
    ] {
        let (thumbprint, mut held) = carrying();
        let base = held.in_force().expect("in force").state.clone();
        for (next, update) in [
            delta(&base, adding([certificate(8, 9000)])),
            (revoking(2000, 2, &RevocationList::default()), snapshot(&base)),
        ] {
            let mut held = held.clone();
            let update = Update {
                published_at: NOW.saturating_add(Duration::from_secs(published_at)),
                ..update
            };
            held.advance(next, &Descent::by(&update), after(wall))
                .expect("newer");
            assert_eq!(refuses(&held, &thumbprint), refused, "{published_at} {wall}");
        }
        // Of what was found on disk nobody knows when that was.
        held.restore(revoking(2000, 2, &RevocationList::default()), [], after(wall))
            .expect("newer");
        assert!(refuses(&held, &thumbprint));
    }
}

/// Until when the certificate that is called `name` is held to be revoked by more than the state in force.
fn until(held: &HeldTrust, name: u8) -> Option<Timestamp> {
    let subject = RevokedSubject::Certificate(CertificateThumbprint::new([name; 32]));
    let entry = held.certificates().find(&subject);
    entry.map(|entry| entry.expires_at)
}

/// By a wall clock that is behind, what was written down claims to matter for longer than anything may. It is not cut short for that, and
/// what really claims too much is once the authority has said what time it is. So it is with what an update takes back.
#[test]
fn a_wall_clock_that_is_behind_ends_nothing_early() {
    let behind = |seconds| Moment {
        wall_millis: 1000 * seconds,
        ..after(seconds)
    };
    let mut held = HeldTrust::new(rules(), VerifierClock::start(None, behind(0)));
    let written = [certificate(7, 3600), certificate(8, 1_000_000)];
    held.carry(&written.into(), behind(0));
    held.restore(state(1), [], behind(0)).expect("newer");
    let (missed, _) = delta(&state(1), Change::default());
    let (_, update) = delta(
        &missed,
        adding([certificate(9, 3600), certificate(10, 1_000_000)]),
    );
    held.heed(&update, behind(1));
    let ends = |held: &HeldTrust| [7, 8, 9, 10].map(|name| until(held, name));
    let at = |seconds| Some(NOW.saturating_add(Duration::from_secs(seconds)));
    assert_eq!(ends(&held), [at(3600), at(1_000_000), at(3600), at(7205)]);
    held.hear_time(stated(2), behind(2)).expect("the first");
    assert_eq!(ends(&held), [at(3600), at(7207), at(3600), at(7205)]);
    held.hear_time(stated(3), behind(3)).expect("near");
    assert_eq!(until(&held, 8), at(7207), "once");
    // Whoever knows what time it is cuts short at once.
    held.carry(&[certificate(11, 1_000_000)].into(), behind(3));
    assert_eq!(until(&held, 11), at(7208));
    assert!(refuses(&held, &CertificateThumbprint::new([11; 32])));
}

/// With what the state in force holds there are never more than a state may have: those stay that end last, and the rest is counted.
#[test]
fn there_is_room_for_as_much_as_a_state_may_have() {
    let few = UpdateRules {
        max_revocations: 5,
        ..rules()
    };
    let all: RevocationList = [20, 40, 10, 30]
        .map(|name| certificate(name, 60 * u64::from(name)))
        .into();
    let recovered = revoking(1000, 2, &[1, 2, 3].map(|name| certificate(name, 3600)).into());
    let held_of = |held: &HeldTrust| [10, 20, 30, 40].map(|name| until(held, name).is_some());
    let mut held = HeldTrust::new(few.clone(), VerifierClock::start(None, after(0)));
    held.install(revoking(1, 1, &all), after(0)).expect("newer");
    let carried = held.carried(&recovered, &Descent::default(), after(1));
    assert_eq!(carried.len(), 2);
    held.install(recovered.clone(), after(1)).expect("newer");
    assert_eq!(held_of(&held), [false, false, true, true]);
    assert_eq!(held.take_dropped(), 2);
    // Also when a change takes up the room.
    let (next, update) = delta(&recovered, adding([certificate(4, 3600)]));
    held.advance(next, &Descent::by(&update), after(2))
        .expect("newer");
    assert_eq!(held_of(&held), [false, false, false, true]);
    assert_eq!(held.take_dropped(), 1);
    assert!(!refuses(&held, &CertificateThumbprint::new([30; 32])));
    assert!(refuses(&held, &CertificateThumbprint::new([40; 32])));

    // And after a restart, whatever was written down.
    let mut restarted = HeldTrust::new(few, VerifierClock::start(None, after(0)));
    let mut written = all.clone();
    written.extend((50..60).map(|name| certificate(name, 1)));
    restarted.carry(&written, after(3));
    assert_eq!((restarted.certificates().len(), restarted.take_dropped()), (5, 9));
    restarted.restore(recovered, [], after(3)).expect("newer");
    assert_eq!(held_of(&restarted), [false, false, true, true]);
    assert_eq!((restarted.certificates().len(), restarted.take_dropped()), (2, 3));
}

/// Nor is more heeded of what cannot be taken over.
#[test]
fn what_is_heeded_has_no_more_room() {
    let few = UpdateRules {
        max_revocations: 1,
        ..rules()
    };
    let mut held = HeldTrust::new(few, VerifierClock::start(None, after(0)));
    held.install(state(1), after(0)).expect("newer");
    let (missed, _) = delta(&state(1), Change::default());
    let (_, update) = delta(&missed, adding([8, 9, 10].map(|name| certificate(name, 3600))));
    held.heed(&update, after(1));
    assert_eq!((held.certificates().len(), held.take_dropped()), (1, 2));
}

/// It is told how many there was no room for.
#[test]
fn what_there_is_no_room_for_is_told() {
    let few = UpdateRules {
        max_revocations: 1,
        ..rules()
    };
    let mut held = HeldTrust::new(few, VerifierClock::start(None, after(0)));
    held.carry(&[certificate(7, 3600)].into(), after(0));
    held.install(state(1), after(0)).expect("newer");
    let mut session = session();
    let (_, update) = delta(&state(1), adding([certificate(8, 3600)]));
    let accepted = accepted(&mut session, &mut held, update);
    let saved = Saved {
        durable: true,
        wants_snapshot: false,
        log_outdated: false,
    };
    let effects = session.saved(&mut held, after(1), accepted, saved);
    assert_eq!(no_room(&effects), [1]);
    // What there was no room for at the start is told as soon as there is a stream.
    held.carry(&[certificate(9, 3600)].into(), after(1));
    assert_eq!(no_room(&session.tick(&mut held, after(2))), [1]);
    assert!(no_room(&session.tick(&mut held, after(4))).is_empty());
}

fn no_room(effects: &[Effect<()>]) -> Vec<usize> {
    let counts = effects.iter().filter_map(|effect| {
        let Effect::Tell(Event::SetAside {
            why: SetAside::NoRoom,
            count,
        }) = effect
        else {
            return None;
        };
        Some(*count)
    });
    counts.collect()
}

/// Whoever lets go of everything still knows which certificates are revoked when there is something to decide on again.
#[test]
fn a_revoked_certificate_stays_so_after_everything_was_let_go_of() {
    let (thumbprint, both) = revocations();
    let mut held = confirmed(revoking(1, 1, &both));
    held.let_go();
    assert_eq!(held.certificates().len(), 1);
    held.install(revoking(1000, 2, &RevocationList::default()), after(1))
        .expect("newer");
    assert!(refuses(&held, &thumbprint));
}

/// The revocation of the certificate that is called `name`, until so many seconds after the beginning.
fn certificate(name: u8, until: u64) -> Revocation {
    Revocation {
        subject: RevokedSubject::Certificate(CertificateThumbprint::new([name; 32])),
        issued_before: NOW,
        expires_at: NOW.saturating_add(Duration::from_secs(until)),
    }
}

/// The update that makes the next state out of `base` by `change`, and that state.
fn delta(base: &TrustState, change: Change) -> (TrustState, Update) {
    let next = base.next(&change, &ToyHash);
    let update = Update {
        issuer: issuer(),
        epoch: next.epoch(),
        state_digest: *next.digest(),
        published_at: NOW,
        content: UpdateContent::Delta {
            base_epoch: base.epoch(),
            base_digest: *base.digest(),
            change,
        },
    };
    (next, update)
}

fn adding(revocations: impl Into<RevocationList>) -> Change {
    Change {
        revoked: revocations.into(),
        ..Change::default()
    }
}

/// A change comes with every revocation, and says itself what it adds and drops: neither what is carried nor what is in force is gone
/// through for it. So nothing that it leaves out is found here, unless it says that it drops something which has not expired.
#[test]
fn a_change_is_looked_at_and_nothing_else() {
    let mut ahead = Ahead::default();
    ahead.carry(&[certificate(7, 3600)].into());
    let before = revoking(1, 1, &[certificate(8, 3600)].into());
    let without = revoking(2, 1, &[certificate(9, 3600)].into());
    let (_, adds) = delta(&before, adding([certificate(9, 3600)]));
    let past = ahead.past(Some(&before), &without, &Descent::by(&adds), NOW);
    assert!(past.shares_with(&ahead));
    let (_, drops) = delta(
        &before,
        Change {
            prune_before: Some(NOW.saturating_add(SECOND)),
            ..Change::default()
        },
    );
    let past = ahead.past(Some(&before), &without, &Descent::by(&drops), NOW);
    assert_eq!(past.certificates().len(), 2);
    // Of what follows on another state nobody knows what it leaves out.
    let (_, other) = delta(&without, adding([certificate(9, 3600)]));
    let past = ahead.past(Some(&before), &without, &Descent::by(&other), NOW);
    assert_eq!(past.certificates().len(), 2);
}

/// What is carried is heeded past every change after it, beside what that revokes, until the authority has it again.
#[test]
fn what_is_carried_stays_past_changes() {
    let (thumbprint, both) = revocations();
    let mut held = confirmed(revoking(1, 1, &both));
    let recovered = revoking(1000, 2, &RevocationList::default());
    held.install(recovered.clone(), after(1)).expect("newer");
    let (next, other) = delta(&recovered, adding([certificate(8, 3600)]));
    held.advance(next.clone(), &Descent::by(&other), after(2))
        .expect("newer");
    assert_eq!(held.certificates().len(), 1);
    assert!(refuses(&held, &thumbprint));
    assert!(refuses(&held, &CertificateThumbprint::new([8; 32])));
    assert_eq!(held.id(), StateId::of(&next));
    let (last, again) = delta(&next, adding([certificate(7, 3600)]));
    held.advance(last, &Descent::by(&again), after(3)).expect("newer");
    assert!(held.certificates().is_empty());
    assert!(refuses(&held, &thumbprint));
}

fn session() -> Session<()> {
    let settings = SessionSettings {
        heartbeat_period: HEARTBEAT_PERIOD,
        longest_session: Duration::from_secs(3600),
        budgets: Arc::new([]),
    };
    Session::new(settings, Arc::new(ToyHash), Beginning::default(), after(0))
}

/// What is to be saved of `update`.
fn accepted(session: &mut Session<()>, held: &mut HeldTrust, update: Update) -> Accepted<()> {
    let received = Received {
        update,
        left_out: 0,
        length: 100,
        publishers: 1,
    };
    let effects = session.update(held, after(1), (), Ok(received));
    let accepted = effects.into_iter().find_map(|effect| match effect {
        Effect::Save(accepted) => Some(*accepted),
        Effect::Send(_) | Effect::Keep(_) | Effect::Probe(_) | Effect::End(_) | Effect::Tell(_) => None,
    });
    accepted.expect("newer")
}

/// What is carried is written down beside a snapshot. Beside a delta it stays as it was written, and nobody works it out.
#[test]
fn nothing_is_written_down_beside_a_delta() {
    let (_, both) = revocations();
    let mut held = confirmed(revoking(1, 1, &both));
    let younger = KeyTimes {
        prepared_at: NOW,
        ..KeyTimes::default()
    };
    let keys = Arc::new(key_set(&jwk(2), younger));
    let recovered = TrustState::new(issuer(), 1000, keys, RevocationList::default(), &ToyHash);
    let mut session = session();
    let mut carried = |held: &mut HeldTrust, update| accepted(&mut session, held, update).carried.len();
    assert_eq!(carried(&mut held, snapshot(&recovered)), 1);
    held.install(recovered.clone(), after(1)).expect("newer");
    let (_, update) = delta(&recovered, adding([certificate(8, 3600)]));
    assert_eq!(carried(&mut held, update), 0);
}
