//! The register: who may decide until when, and what waits for whom.

use super::verifier::drift;
use super::*;
use crate::names::ClassName;
use crate::staleness::StalenessBudget;

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(10);
const BEGAN: Duration = Duration::from_secs(1000);
const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn key(name: &str) -> VerifierKey {
    VerifierKey {
        spiffe_id: SpiffeId::parse(&format!("spiffe://test/{name}")).unwrap(),
        verifier_id: VerifierId::parse("a").unwrap(),
    }
}

fn class(name: &str) -> ClassName {
    ClassName::parse(name).unwrap()
}

fn budgets(classes: &[(&str, u64)]) -> Arc<[ClassBudget]> {
    let budget = |(name, seconds): &(&str, u64)| ClassBudget {
        class: class(name),
        budget: StalenessBudget::both(Duration::from_secs(*seconds)),
    };
    classes.iter().map(budget).collect()
}

struct Stage {
    register: Register,
    at: Duration,
}

impl Stage {
    fn new() -> Self {
        let limits = FleetLimits {
            streams_per_identity: 2,
            streams: 4,
        };
        Self {
            register: Register::new(limits, LEASE, BEGAN),
            at: BEGAN,
        }
    }

    fn join(&mut self, key: &VerifierKey, decides: bool) -> Result<StreamId, NotLetIn> {
        let introduction = Introduction {
            version: "1".to_owned(),
            instance_id: "i".to_owned(),
            budgets: budgets(&[("strict", 0), ("normal", 900)]),
            decides,
        };
        let let_in = self.register.join(key, introduction.clone(), self.at, NOW)?;
        if let_in.to_be_stored {
            self.register.stored(key, &introduction.budgets);
        }
        Ok(let_in.stream)
    }

    /// A verifier that holds `epoch` on disk and has a lease.
    fn settled(&mut self, name: &str, epoch: Epoch) -> (VerifierKey, StreamId) {
        let key = key(name);
        let stream = self.join(&key, false).unwrap();
        self.register.acknowledged(&key, stream, epoch, true, NOW);
        assert_eq!(self.grant(&key, stream, epoch), Some(LEASE));
        (key, stream)
    }

    fn grant(&mut self, key: &VerifierKey, stream: StreamId, current: Epoch) -> Option<Duration> {
        self.register.grant(key, stream, current, self.at)
    }

    fn reach(&self, epoch: Epoch) -> Reach {
        self.register.reach(epoch, self.at)
    }

    fn pass(&mut self, time: Duration) {
        self.at += time;
    }
}

/// The bound of a class whose verifiers were granted something at `granted`.
fn bound(granted: Duration, budget: u64) -> Duration {
    let length = LEASE + Duration::from_secs(budget);
    granted + length + drift(length)
}

/// I-08: a verifier that is cut off decides until its lease and the budget of the class have ended, and is named until then.
#[test]
fn an_epoch_is_bounded_by_what_was_granted_before_it() {
    let mut stage = Stage::new();
    let (near, near_stream) = stage.settled("near", 1);
    let (far, far_stream) = stage.settled("far", 1);
    let granted = stage.at;
    stage.register.closed(&far, far_stream);
    stage.pass(3 * SECOND);
    let reach = stage.reach(2);
    assert_eq!((reach.live, reach.in_force, reach.durable), (2, 0, 0));
    stage.register.acknowledged(&near, near_stream, 2, true, NOW);
    let reach = stage.reach(2);
    assert_eq!((reach.live, reach.in_force, reach.durable), (2, 1, 1));
    assert_eq!(reach.bounds[&class("strict")], bound(granted, 0));
    assert_eq!(reach.bounds[&class("normal")], bound(granted, 900));
    let laggards = stage.register.laggards(2, stage.at, 9);
    assert_eq!(laggards.len(), 1);
    assert_eq!((&laggards[0].key, laggards[0].connected), (&far, false));
    assert_eq!(laggards[0].until, bound(granted, 900));
    // The strict class ends first, then the verifier.
    stage.at = bound(granted, 0);
    assert!(!stage.reach(2).bounds.contains_key(&class("strict")));
    assert!(!stage.reach(2).is_complete());
    stage.grant(&near, near_stream, 2);
    stage.at = bound(granted, 900);
    assert!(stage.reach(2).is_complete());
}

/// A lease is for the epoch acknowledged: while the current one is not, nothing more is granted and the bound stands still.
#[test]
fn nothing_is_granted_for_an_epoch_that_is_not_acknowledged() {
    let mut stage = Stage::new();
    let (key, stream) = stage.settled("a", 1);
    let before = stage.reach(2);
    stage.pass(5 * SECOND);
    assert_eq!(stage.grant(&key, stream, 2), None);
    assert_eq!(stage.reach(2), before);
    stage.register.acknowledged(&key, stream, 2, true, NOW);
    assert_eq!(stage.grant(&key, stream, 2), Some(LEASE));
    assert!(stage.reach(2).is_complete());
}

/// A crash after a grant must not forget who has one.
#[test]
fn nothing_is_granted_to_who_is_not_stored() {
    let mut stage = Stage::new();
    let key = key("a");
    let introduction = |seconds| Introduction {
        version: String::new(),
        instance_id: String::new(),
        budgets: budgets(&[("normal", seconds)]),
        decides: true,
    };
    let let_in = stage
        .register
        .join(&key, introduction(60), stage.at, NOW)
        .unwrap();
    stage.register.acknowledged(&key, let_in.stream, 1, true, NOW);
    assert!(let_in.to_be_stored);
    assert_eq!(stage.grant(&key, let_in.stream, 1), None);
    stage.register.stored(&key, &budgets(&[("normal", 60)]));
    assert_eq!(stage.grant(&key, let_in.stream, 1), Some(LEASE));
    // With other budgets it has to be stored anew, and the earlier store counts for nothing.
    let again = stage
        .register
        .join(&key, introduction(600), stage.at, NOW)
        .unwrap();
    stage.register.acknowledged(&key, again.stream, 1, true, NOW);
    assert!(again.to_be_stored);
    stage.register.stored(&key, &budgets(&[("normal", 60)]));
    assert_eq!(stage.grant(&key, again.stream, 1), None);
    stage.register.stored(&key, &budgets(&[("normal", 600)]));
    assert_eq!(stage.grant(&key, again.stream, 1), Some(LEASE));
}

/// Known from the store, granted something right before the crash: that is the latest it can be.
#[test]
fn after_a_restart_everybody_may_hold_a_lease() {
    let mut stage = Stage::new();
    stage
        .register
        .restore(key("a"), budgets(&[("normal", 60)]), stage.at);
    let reach = stage.reach(1);
    assert_eq!((reach.live, reach.in_force), (1, 0));
    assert_eq!(reach.bounds[&class("normal")], bound(stage.at, 60));
    assert!(!stage.register.is_lacking(1), "it is not connected");
}

/// F11, I-01: a key signs when everybody who may decide holds it on disk, or has stopped.
#[test]
fn the_gate_opens_when_all_hold_the_epoch_or_have_stopped() {
    let mut stage = Stage::new();
    let (near, near_stream) = stage.settled("near", 1);
    let (far, far_stream) = stage.settled("far", 1);
    let granted = stage.at;
    stage.register.acknowledged(&near, near_stream, 2, false, NOW);
    stage.register.closed(&far, far_stream);
    let until = bound(granted, 900);
    let gate = stage.register.gate(2, stage.at);
    assert_eq!(
        gate,
        Gate::Waits { laggards: 2, until },
        "in memory is not enough"
    );
    stage.register.acknowledged(&near, near_stream, 2, true, NOW);
    let gate = stage.register.gate(2, stage.at);
    assert_eq!(gate, Gate::Waits { laggards: 1, until });
    stage.at = until;
    assert_eq!(stage.register.gate(2, stage.at), Gate::Open);
}

/// I-01: those without a disk that start from a trust file are new ones each time. Once they acknowledge an epoch, nothing waits for
/// what they were started from but the file.
#[test]
fn whoever_starts_from_a_trust_file_again_and_again_keeps_no_key_from_signing() {
    let mut stage = Stage::new();
    stage.at = bound(BEGAN, 900);
    let file = stage.at + 60 * SECOND;
    stage.register.exported(1, file);
    for number in 0..8 {
        let key = key(&format!("pod-{number}"));
        let stream = stage.join(&key, true).unwrap();
        stage.register.acknowledged(&key, stream, 1, false, NOW);
        let until = bound(stage.at, 900);
        let laggards = if stage.at < file { 2 } else { 1 };
        let gate = stage.register.gate(2, stage.at);
        assert_eq!(gate, Gate::Waits { laggards, until }, "it decides on epoch 1");
        stage.register.acknowledged(&key, stream, 2, false, NOW);
        stage.grant(&key, stream, 2);
        let gate = stage.register.gate(2, stage.at);
        assert_eq!(gate == Gate::Open, stage.at >= file);
        assert_eq!(stage.reach(2).is_complete(), stage.at >= file);
        stage.register.closed(&key, stream);
        stage.pass(10 * SECOND);
    }
}

/// F52, F30, I-08: one that the store does not know, because it was restored from a backup, has on its disk what it was granted before
/// this life began, and acknowledges without that disk.
#[test]
fn what_a_forgotten_verifier_was_granted_before_is_bounded_by_the_start() {
    let mut stage = Stage::new();
    stage.pass(60 * SECOND);
    let key = key("a");
    let stream = stage.join(&key, true).unwrap();
    stage.register.acknowledged(&key, stream, 2, false, NOW);
    stage.grant(&key, stream, 2);
    let until = bound(BEGAN, 900);
    assert_eq!(stage.reach(2).bounds[&class("normal")], until);
    let gate = stage.register.gate(2, stage.at);
    assert_eq!(gate, Gate::Waits { laggards: 1, until });
    stage.at = until;
    stage.grant(&key, stream, 2);
    assert_eq!(stage.register.gate(2, stage.at), Gate::Open);
}

/// One that has no disk at all comes back with nothing, and is not waited for to get one.
#[test]
fn who_never_had_a_disk_is_taken_at_its_word() {
    let mut stage = Stage::new();
    let key = key("a");
    let stream = stage.join(&key, false).unwrap();
    stage.register.acknowledged(&key, stream, 2, false, NOW);
    stage.grant(&key, stream, 2);
    assert_eq!(stage.register.gate(2, stage.at), Gate::Open);
    assert!(stage.reach(2).is_complete());
    assert_eq!(stage.reach(2).durable, 0);
}

/// F52, F54, I-08: with a disk that has failed, an epoch is in force and would not be after a crash: until what is on the disk is
/// too old to decide on. What is granted meanwhile does not put that off.
#[test]
fn what_is_on_a_disk_that_failed_is_bounded_too() {
    let mut stage = Stage::new();
    let (key, stream) = stage.settled("a", 1);
    let kept = stage.at;
    stage.pass(SECOND);
    stage.register.acknowledged(&key, stream, 2, false, NOW);
    assert_eq!(stage.grant(&key, stream, 2), Some(LEASE));
    let reach = stage.reach(2);
    assert_eq!((reach.live, reach.in_force, reach.durable), (1, 1, 0));
    assert_eq!(reach.bounds[&class("normal")], bound(kept, 900));
    assert!(!reach.is_complete());
    let laggards = stage.register.laggards(2, stage.at, 9);
    assert_eq!(
        (laggards[0].acknowledged, laggards[0].until),
        (2, bound(kept, 900))
    );
    stage.at = bound(kept, 900);
    stage.grant(&key, stream, 2);
    assert!(stage.reach(2).is_complete());
    assert_eq!(stage.register.gate(2, stage.at), Gate::Open);
}

/// I-08, I-01: whoever starts from a trust file is not known, so receipts and the gate count the file until it expires; one that
/// holds the epoch is not waited for.
#[test]
fn a_trust_file_counts_until_it_expires() {
    let mut stage = Stage::new();
    let (key, stream) = stage.settled("a", 1);
    let (first, second) = (stage.at + 60 * SECOND, stage.at + 90 * SECOND);
    stage.register.exported(1, first);
    stage.register.exported(1, first - SECOND);
    stage.register.exported(2, second);
    stage.register.acknowledged(&key, stream, 3, true, NOW);
    assert_eq!(stage.reach(1).files_until, None);
    for (epoch, laggards, until) in [(2, 1, first), (3, 2, second)] {
        let reach = stage.reach(epoch);
        assert_eq!((reach.in_force, reach.files_until), (1, Some(until)));
        assert!(reach.is_on_all_verifiers() && !reach.is_complete());
        assert!(stage.register.is_held(epoch, stage.at));
        let gate = stage.register.gate(epoch, stage.at);
        assert_eq!(gate, Gate::Waits { laggards, until });
    }
    stage.at = first;
    assert!(stage.reach(2).is_complete());
    assert_eq!(stage.register.gate(2, stage.at), Gate::Open);
    assert_eq!(stage.register.expired_files(stage.at, 9), [1]);
    // Exported again while the store struck it.
    stage.register.exported(1, second);
    stage.register.strike_files(1, stage.at);
    assert_eq!(stage.reach(2).files_until, Some(second));
    stage.at = second;
    for epoch in stage.register.expired_files(stage.at, 9) {
        stage.register.strike_files(epoch, stage.at);
    }
    assert!(stage.register.expired_files(stage.at, 9).is_empty());
    assert_eq!(stage.register.gate(3, stage.at), Gate::Open);
}

/// A clock that runs slow is slower by minutes after a week, and one that is behind stays behind.
#[test]
fn the_end_of_a_trust_file_leaves_room_for_the_clock_of_who_starts_from_it() {
    let week = Duration::from_secs(7 * 24 * 3600);
    let after = |lifetime: Duration| trust_file_until(NOW, lifetime).since(NOW);
    assert!(after(SECOND) >= Duration::from_secs(301));
    assert!(after(week) >= Duration::from_secs(300) + week / 2000);
}

/// F12: a newcomer decides nothing until it has acknowledged the current epoch, so nothing waits for it.
#[test]
fn a_newcomer_that_holds_nothing_is_not_live() {
    let mut stage = Stage::new();
    let stream = stage.join(&key("a"), false).unwrap();
    assert_eq!(stage.reach(2), Reach::default());
    assert_eq!(stage.register.gate(2, stage.at), Gate::Open);
    assert!(
        stage.register.is_lacking(2),
        "whoever waits a moment waits for it"
    );
    assert_eq!(stage.grant(&key("a"), stream, 2), None);
}

/// F30 at the verifier: its disk was restored from a backup, and what it held before counts for nothing.
#[test]
fn who_comes_back_with_less_holds_less() {
    let mut stage = Stage::new();
    let (key, stream) = stage.settled("a", 5);
    stage.register.closed(&key, stream);
    let stream = stage.join(&key, true).unwrap();
    stage.register.acknowledged(&key, stream, 3, true, NOW);
    assert_eq!(stage.reach(5).in_force, 0);
    assert!(matches!(
        stage.register.gate(5, stage.at),
        Gate::Waits { laggards: 1, .. }
    ));
}

/// Nobody comes twice: a new stream takes the place of the old one, and what that says late counts for nothing.
#[test]
fn a_second_stream_takes_the_place_of_the_first() {
    let mut stage = Stage::new();
    let (key, first) = stage.settled("a", 1);
    let introduction = Introduction {
        version: String::new(),
        instance_id: "j".to_owned(),
        budgets: budgets(&[("strict", 0), ("normal", 900)]),
        decides: true,
    };
    let second = stage.register.join(&key, introduction, stage.at, NOW).unwrap();
    assert_eq!(second.superseded, Some(first));
    stage.register.acknowledged(&key, first, 9, true, NOW);
    assert_eq!(stage.grant(&key, first, 1), None);
    stage.register.closed(&key, first);
    assert_eq!((stage.register.connected(), stage.register.len()), (1, 1));
    assert_eq!(stage.register.find(&key).unwrap().acknowledged, 0);
}

#[test]
fn quarantine_grants_nothing_and_what_was_granted_ends_by_itself() {
    let mut stage = Stage::new();
    let (key, stream) = stage.settled("a", 1);
    let granted = stage.at;
    stage.register.quarantine(key.spiffe_id.clone(), true);
    stage.pass(SECOND);
    assert_eq!(stage.grant(&key, stream, 1), None);
    assert_eq!(stage.reach(2).bounds[&class("normal")], bound(granted, 900));
    stage.at = bound(granted, 900);
    assert_eq!(stage.register.gate(2, stage.at), Gate::Open);
    stage.register.quarantine(key.spiffe_id.clone(), false);
    assert_eq!(stage.grant(&key, stream, 1), Some(LEASE));
}

#[test]
fn who_takes_leave_is_waited_for_no_more() {
    let mut stage = Stage::new();
    let (key, stream) = stage.settled("a", 1);
    stage.register.left(&key, stream);
    assert_eq!(stage.reach(2), Reach::default());
    assert_eq!(stage.register.ended(stage.at, 9), vec![key]);
}

#[test]
fn only_who_is_away_can_be_forgotten() {
    let mut stage = Stage::new();
    let (key, stream) = stage.settled("a", 1);
    assert!(!stage.register.forget(&key));
    assert!(stage.register.ended(stage.at + 10_000 * SECOND, 9).is_empty());
    stage.register.closed(&key, stream);
    assert!(stage.register.ended(stage.at, 9).is_empty());
    assert!(stage.register.forget(&key));
    assert!(!stage.register.forget(&key));
}

/// G46.
#[test]
fn the_limits_hold() {
    let mut stage = Stage::new();
    let replica = |id: &str| VerifierKey {
        verifier_id: VerifierId::parse(id).unwrap(),
        ..key("a")
    };
    for id in ["1", "2"] {
        stage.join(&replica(id), false).unwrap();
    }
    assert_eq!(stage.join(&replica("3"), false), Err(NotLetIn::Identity));
    stage.join(&replica("2"), false).unwrap();
    for name in ["b", "c"] {
        stage.join(&key(name), false).unwrap();
    }
    assert_eq!(stage.join(&key("d"), false), Err(NotLetIn::Full));
    assert_eq!(stage.register.connected(), 4);
}

/// G46: one identity that comes under ever new names, each of which is waited for, leaves room for the others, however much there is.
#[test]
fn one_identity_cannot_take_all_the_room() {
    for (streams, most) in [(6, 6), (500, 500), (1500, 1500)] {
        let mut stage = Stage::new();
        let limits = FleetLimits {
            streams_per_identity: 2,
            streams,
        };
        stage.register = Register::new(limits, LEASE, BEGAN);
        let ghost = |number: usize| VerifierKey {
            verifier_id: VerifierId::parse(&number.to_string()).unwrap(),
            ..key("a")
        };
        for number in 0..most {
            let stream = stage.join(&ghost(number), true).unwrap();
            stage.register.closed(&ghost(number), stream);
        }
        assert_eq!(stage.join(&ghost(most), true), Err(NotLetIn::Identity));
        stage.join(&ghost(1), true).unwrap();
        stage.join(&key("b"), true).unwrap();
    }
}

/// Longer budgets lengthen what was granted; shorter ones do not shorten it.
#[test]
fn ends_never_move_to_earlier_times() {
    let mut stage = Stage::new();
    let (key, _) = stage.settled("a", 1);
    let before = stage.register.find(&key).unwrap().end();
    let shorter = Introduction {
        version: String::new(),
        instance_id: String::new(),
        budgets: budgets(&[("normal", 1)]),
        decides: true,
    };
    stage.register.join(&key, shorter, stage.at, NOW).unwrap();
    assert_eq!(stage.register.find(&key).unwrap().end(), before);
}

#[test]
fn assumed_budgets_are_the_built_in_classes() {
    assert_eq!(assumed_budgets().len(), 3);
}
