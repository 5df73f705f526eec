//! It goes forward only, and tells its age.

use super::*;
use crate::staleness::{MAX_BUDGET, MAX_LEASE, StalenessBudget};
use crate::trust::UpdateRefused;

/// What is held once `state` is in force, and confirmed at the beginning.
pub(super) fn confirmed(state: TrustState) -> HeldTrust {
    let mut held = nothing();
    let id = StateId::of(&state);
    held.install(state, after(0)).expect("newer");
    let told = held.confirm(id.epoch, &id.digest, granted(0), after(0));
    assert_eq!(told, Confirmation::Confirmed);
    held
}

fn overdue(held: &HeldTrust, seconds: u64) -> Option<Duration> {
    held.in_force().expect("in force").overdue(after(seconds).elapsed)
}

fn age(held: &HeldTrust, seconds: u64) -> Option<Duration> {
    held.in_force().expect("in force").age(after(seconds).elapsed)
}

#[test]
fn without_a_state_there_is_nothing_to_decide_on() {
    let mut held = nothing();
    assert!(held.in_force().is_none());
    assert_eq!(held.id(), StateId::default());
    let told = held.confirm(1, &[0; 32], granted(0), after(0));
    assert_eq!(told, Confirmation::Cold);
}

/// I-15: that a signature is good does not say that nothing newer exists.
#[test]
fn a_state_that_was_never_confirmed_has_no_age() {
    let mut held = nothing();
    assert_eq!(held.install(state(1), after(0)), Ok(Offered::Installed));
    assert_eq!(held.install(state(1), after(0)), Ok(Offered::Confirmed));
    assert_eq!((age(&held, 0), overdue(&held, 0)), (None, None));
}

/// I-14, F15: age and lease count from when the ping was sent, not from when the answer came.
#[test]
fn a_lease_counts_from_the_ping() {
    let mut held = nothing();
    held.install(state(1), after(0)).expect("newer");
    let digest = *state(1).digest();
    held.confirm(1, &digest, granted(0), after(4));
    assert_eq!(age(&held, 4), Some(4 * SECOND));
    // A late answer to an earlier ping makes nothing older.
    let earlier = Grant {
        sent_at: 999 * SECOND,
        lease: 10 * SECOND,
    };
    held.confirm(1, &digest, earlier, after(4));
    assert_eq!(age(&held, 4), Some(4 * SECOND));
    assert_eq!(overdue(&held, 9), Some(Duration::ZERO));
    // At the very instant of its end it has ended.
    assert_eq!(overdue(&held, 10), Some(Duration::from_nanos(1)));
    assert_eq!(overdue(&held, 25), Some(15 * SECOND));
    let left = |seconds| {
        held.in_force()
            .expect("in force")
            .confirmations()
            .lease_left(after(seconds).elapsed)
    };
    assert_eq!(
        (left(4), left(10), left(11)),
        (6 * SECOND, Duration::ZERO, Duration::ZERO)
    );
}

/// Whatever an authority says, no lease lasts longer than the bound that verifiers are built with.
#[test]
fn an_endless_lease_is_not_believed() {
    let mut held = nothing();
    held.install(state(1), after(0)).expect("newer");
    let endless = Grant {
        lease: Duration::MAX,
        ..granted(0)
    };
    held.confirm(1, state(1).digest(), endless, after(0));
    let end = MAX_LEASE.as_secs();
    assert_eq!(overdue(&held, end - 1), Some(Duration::ZERO));
    assert_eq!(overdue(&held, end + 1), Some(SECOND));
}

/// A matching heartbeat without a lease confirms nothing: neither age nor lease counts anew. It is no error, either.
#[test]
fn nothing_granted_is_nothing_confirmed() {
    let nothing_granted = |seconds| Grant {
        lease: Duration::ZERO,
        ..granted(seconds)
    };
    let mut held = nothing();
    held.install(state(1), after(0)).expect("newer");
    let told = held.confirm(1, state(1).digest(), nothing_granted(0), after(0));
    assert_eq!(told, Confirmation::NotGranted);
    assert_eq!(overdue(&held, 0), None);
    let mut held = confirmed(state(1));
    held.confirm(1, state(1).digest(), nothing_granted(8), after(8));
    assert_eq!(
        (age(&held, 12), overdue(&held, 12)),
        (Some(12 * SECOND), Some(2 * SECOND))
    );
    assert_eq!(held.alarm(), None);
}

/// I-08: a state that contains the one before it needs no lease of its own, and gets no longer one.
#[test]
fn a_newer_state_keeps_the_lease_of_the_one_that_it_contains() {
    let mut held = confirmed(state(1));
    held.install(state(2), after(3)).expect("newer");
    assert_eq!(age(&held, 3), Some(3 * SECOND));
    assert_eq!(overdue(&held, 11), Some(SECOND));
}

/// F42: what was on disk has the age that the disk says, and no lease.
#[test]
fn a_restored_state_is_as_old_as_its_heartbeat_and_overdue() {
    for told in [Some(700 * SECOND), Some(Duration::ZERO), None] {
        let mut held = nothing();
        held.restore(state(1), told.map(Age::from), after(0))
            .expect("newer");
        assert_eq!(age(&held, 5), told.map(|age| age + 5 * SECOND));
        assert_eq!(overdue(&held, 5), age(&held, 5));
        assert_ne!(overdue(&held, 0), Some(Duration::ZERO));
    }
}

/// I-08: what came with a lifetime is decided on until that has ended, and not for an instant longer, whatever the budgets. A newer
/// state that nothing was granted for changes nothing about it; a grant does.
#[test]
fn a_lifetime_ends_every_budget() {
    let mut held = nothing();
    let found = Age {
        so_far: 50 * SECOND,
        lifetime: Some(60 * SECOND),
    };
    held.restore(state(1), [found], after(0)).expect("newer");
    let refuses_in = |held: &HeldTrust| {
        let trust = held.in_force().expect("in force");
        trust.refuses_in(&StalenessBudget::both(MAX_BUDGET), after(9).elapsed)
    };
    assert_eq!(
        (overdue(&held, 9), refuses_in(&held)),
        (Some(59 * SECOND), SECOND)
    );
    held.install(state(2), after(9)).expect("newer");
    assert_eq!((age(&held, 10), overdue(&held, 10)), (Some(60 * SECOND), None));
    let longest = StalenessBudget::both(MAX_BUDGET);
    assert!(longest.too_old(overdue(&held, 10)).is_some());
    let id = StateId::of(&state(2));
    held.confirm(id.epoch, &id.digest, granted(11), after(11));
    assert_eq!(overdue(&held, 20), Some(Duration::ZERO));
    assert!(overdue(&held, 100).is_some());
}

/// A file makes nothing older: what the authority told this verifier itself counts on when the file's lifetime has ended.
#[test]
fn a_file_is_counted_beside_what_was_told() {
    let mut held = nothing();
    let exported = Age {
        so_far: 10 * SECOND,
        lifetime: Some(60 * SECOND),
    };
    let told = Age::from(300 * SECOND);
    held.restore(state(1), [told, exported], after(0)).expect("newer");
    assert_eq!(overdue(&held, 49), Some(59 * SECOND));
    assert_eq!(overdue(&held, 50), Some(350 * SECOND));
    let trust = held.in_force().expect("in force");
    let left = |budget: u64| {
        trust.refuses_in(
            &StalenessBudget::both(Duration::from_secs(budget)),
            after(0).elapsed,
        )
    };
    assert_eq!([left(30), left(900)], [20 * SECOND, 600 * SECOND]);
}

/// K12, K13: neither an older epoch nor other content for the same one takes the place of what is in force.
#[test]
fn nothing_steps_back() {
    let mut held = confirmed(state(2));
    assert_eq!(held.install(state(1), after(1)), Err(UpdateRefused::Regressed));
    assert_eq!(held.alarm(), Some(TrustAlarm::Regressed));
    let fork = named_state(2, 9);
    assert_eq!(held.install(fork, after(1)), Err(UpdateRefused::Fork));
    assert_eq!(held.alarm(), Some(TrustAlarm::Fork));
    assert_eq!(held.id(), StateId::of(&state(2)));
}

/// K13: after a fork nothing is confirmed, so that the trust grows old; a later epoch ends it.
#[test]
fn a_fork_stops_confirmation_until_a_later_epoch() {
    let mut held = confirmed(state(1));
    let told = held.confirm(1, named_state(1, 9).digest(), granted(1), after(1));
    assert_eq!(told, Confirmation::Fork);
    let told = held.confirm(1, state(1).digest(), granted(900), after(900));
    assert_eq!(told, Confirmation::Fork);
    assert_eq!(age(&held, 900), Some(900 * SECOND));
    held.install(state(2), after(901)).expect("newer");
    assert_eq!(held.alarm(), None);
    let told = held.confirm(2, state(2).digest(), granted(902), after(902));
    assert_eq!(told, Confirmation::Confirmed);
}

/// D04, K13, I-07: the floor holds over a restart, for content as well as for the epoch.
#[test]
fn nothing_below_or_beside_the_floor_is_taken_over() {
    let mut held = nothing();
    let floor = StateId::of(&state(2));
    held.raise_floor(floor);
    held.raise_floor(StateId::default());
    assert_eq!(held.floor(), floor);
    assert_eq!(held.install(state(1), after(0)), Err(UpdateRefused::Regressed));
    let fork = named_state(2, 9);
    assert_eq!(held.install(fork.clone(), after(0)), Err(UpdateRefused::Fork));
    let considered = held.consider(&snapshot(&fork), after(0), &ToyHash);
    assert_eq!(considered.err(), Some(UpdateRefused::Fork));
    assert_eq!(held.install(state(2), after(0)), Ok(Offered::Installed));
}

/// An answer that was on its way while an update arrived is no sign of a restored authority; one to a later ping is.
#[test]
fn a_heartbeat_from_before_the_state_was_in_force_is_no_alarm() {
    let mut held = confirmed(state(1));
    held.install(state(2), after(1)).expect("newer");
    let told = held.confirm(1, state(1).digest(), granted(0), after(1));
    assert_eq!((told, held.alarm()), (Confirmation::Superseded, None));
    let told = held.confirm(1, state(1).digest(), granted(1), after(1));
    assert_eq!(
        (told, held.alarm()),
        (Confirmation::Regressed, Some(TrustAlarm::Regressed))
    );
    let told = held.confirm(9, state(1).digest(), granted(1), after(1));
    assert_eq!(told, Confirmation::Behind);
}

#[test]
fn trust_of_another_issuer_is_refused() {
    let other = UpdateRules {
        issuer: Issuer::parse("https://other.example.org").expect("valid"),
        ..rules()
    };
    let mut held = HeldTrust::new(other, VerifierClock::start(None, after(0)));
    assert_eq!(held.install(state(1), after(0)), Err(UpdateRefused::Issuer));
}
