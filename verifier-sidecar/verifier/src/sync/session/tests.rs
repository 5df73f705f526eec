//! The stream, as an authority of the test drives it.

use countersign_core::Timestamp;
use countersign_core::names::VerifierId;
use countersign_core::ports::Clock as _;
use countersign_core::publishers::FIRST_GENERATION;
use countersign_core::revocation::RevocationList;
use countersign_core::trust::{Change, Epoch, MAX_EPOCH_STEP, UpdateContent};
use countersign_crypto::publishing::Context;
use countersign_proto::sync::v1::Pong;

use super::*;
use crate::sync::scripted::{
    LEASE, REFUSE_AFTER, START, ScriptedAuthority, TestClock, flipped, key_set, revocation, store,
};
use crate::trust::TrustAlarm;

mod disk;
mod heartbeats;
mod heeding;
mod lossy;
mod publishers;

const SECOND: Duration = Duration::from_secs(1);

/// A session, what it works on, and the disk under it.
struct Stage {
    clock: Arc<TestClock>,
    authority: ScriptedAuthority,
    trust: Arc<TrustStore>,
    metrics: SyncMetrics,
    session: Session,
    /// What the disk says to the next saves.
    disk: Saved,
    saved: Vec<(Epoch, usize)>,
    kept: Vec<Epoch>,
    ended: Option<Ended>,
}

const DURABLE: Saved = Saved {
    durable: true,
    wants_snapshot: false,
    log_outdated: false,
};

impl Stage {
    fn new() -> Self {
        let clock = TestClock::new();
        let trust = Arc::new(store(&clock));
        Self::with(clock, trust, ScriptedAuthority::new(), Beginning::default())
    }

    fn with(
        clock: Arc<TestClock>,
        trust: Arc<TrustStore>,
        authority: ScriptedAuthority,
        beginning: Beginning,
    ) -> Self {
        let metrics = SyncMetrics::default();
        let parts = Parts {
            settings: SyncSettings::new("instance".to_owned(), VerifierId::parse("one").unwrap()),
            trust: Arc::clone(&trust),
            publishers: authority.publishers(),
            metrics: metrics.clone(),
            leases: Arc::default(),
            proof: None,
        };
        Self {
            session: Session::new(parts, beginning),
            clock,
            authority,
            trust,
            metrics,
            disk: DURABLE,
            saved: Vec::new(),
            kept: Vec::new(),
            ended: None,
        }
    }

    /// A session that has its first snapshot in force and confirmed.
    fn in_force() -> Self {
        let mut stage = Self::new();
        let begun = stage.session.begin();
        stage.perform(begun);
        let snapshot = stage.authority.snapshot();
        stage.update(snapshot);
        stage.pong();
        stage
    }

    /// Does what the session asks for, and gives what it sends.
    fn perform(&mut self, effects: Vec<Effect>) -> Vec<Request> {
        let mut sent = Vec::new();
        let mut effects = std::collections::VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send(message) => sent.push(*message),
                Effect::Save(accepted) => {
                    let deltas = match &accepted.signed {
                        Signing::Snapshot(_, deltas) => deltas.len(),
                        Signing::Delta(_) => 1,
                    };
                    self.saved.push((accepted.leads_to.epoch, deltas));
                    effects.extend(self.session.saved(*accepted, self.disk));
                }
                Effect::Keep(kept) => {
                    self.kept.push(kept.epoch);
                    effects.extend(self.session.kept(self.disk));
                }
                Effect::Probe(_) => effects.extend(self.session.kept(self.disk)),
                Effect::End(ended) => self.ended = Some(ended),
            }
        }
        sent
    }

    fn update(&mut self, signed: Signed) -> Vec<Request> {
        let effects = self.session.receive(SyncResponse {
            message: Some(Response::Update(signed)),
        });
        self.perform(effects)
    }

    fn tick(&mut self) -> Vec<Request> {
        self.clock.advance(2 * SECOND);
        let effects = self.session.tick();
        self.perform(effects)
    }

    /// A tick, and the answer `heartbeat` to its ping.
    fn answer(&mut self, heartbeat: Signed) -> Vec<Request> {
        let sent = self.tick();
        let [Request::Ping(ping)] = &sent[..] else {
            panic!("no ping: {sent:?}")
        };
        self.answer_to(ping.sequence, heartbeat)
    }

    fn answer_to(&mut self, ping_sequence: u64, heartbeat: Signed) -> Vec<Request> {
        let effects = self.session.receive(SyncResponse {
            message: Some(Response::Pong(Pong {
                ping_sequence,
                heartbeat: Some(heartbeat),
                lease_ms: u64::try_from(LEASE.as_millis()).unwrap(),
                quarantined: false,
            })),
        });
        self.perform(effects)
    }

    /// A tick, and what the authority says at that moment.
    fn pong(&mut self) -> Vec<Request> {
        let now = self.clock.now_millis() + 2_000;
        let heartbeat = self.authority.heartbeat(now);
        self.answer(heartbeat)
    }

    fn refused(&self, reason: &'static str) -> u64 {
        self.metrics
            .updates_refused
            .get_or_create(&super::super::Reason { reason })
            .get()
    }

    fn ignored(&self, reason: &'static str) -> u64 {
        self.metrics
            .heartbeats_refused
            .get_or_create(&super::super::Reason { reason })
            .get()
    }

    fn age(&self) -> Option<Duration> {
        self.trust.status().age
    }

    /// The state in force is the authority's.
    fn is_current(&self) -> bool {
        self.trust.status().digest == *self.authority.state.digest()
    }
}

fn nacks(sent: &[Request]) -> Vec<(Epoch, &str, bool)> {
    sent.iter()
        .filter_map(|message| match message {
            Request::Nack(nack) => Some((nack.epoch, nack.reason.as_str(), nack.resync)),
            Request::Hello(_)
            | Request::Ack(_)
            | Request::Ping(_)
            | Request::KeyUses(_)
            | Request::Leave(_) => None,
        })
        .collect()
}

fn acks(sent: &[Request]) -> Vec<(Epoch, bool)> {
    sent.iter()
        .filter_map(|message| match message {
            Request::Ack(ack) => Some((ack.epoch, ack.durable)),
            Request::Hello(_)
            | Request::Nack(_)
            | Request::Ping(_)
            | Request::KeyUses(_)
            | Request::Leave(_) => None,
        })
        .collect()
}

#[test]
fn a_cold_session_asks_for_everything_and_decides_once_it_is_confirmed() {
    let mut stage = Stage::new();
    let begun = stage.session.begin();
    let sent = stage.perform(begun);
    let [Request::Hello(hello), Request::Ping(ping)] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!((hello.epoch, hello.state_digest.len(), ping.sequence), (0, 0, 1));
    assert_eq!((hello.verifier_id.as_str(), hello.highest_epoch), ("one", 0));
    let [budget] = &hello.budgets[..] else {
        panic!("{hello:?}")
    };
    let declared = (budget.class.as_str(), budget.revocations_ms, budget.keys_ms);
    assert_eq!(declared, ("normal", 900_000, 900_000));
    let snapshot = stage.authority.snapshot();
    let sent = stage.update(snapshot);
    assert_eq!(acks(&sent), [(1, true)]);
    assert_eq!(stage.saved, [(1, 0)]);
    assert!(!stage.trust.status().decides(), "in force, not confirmed");
    // The answer to the very first ping confirms: it counts from when that was sent.
    stage.clock.advance(SECOND);
    let heartbeat = stage.authority.heartbeat(START * 1000);
    stage.answer_to(1, heartbeat.clone());
    assert_eq!(stage.age(), Some(SECOND));
    assert!(stage.kept.is_empty());
    // The second was sent behind the acknowledgement.
    stage.answer_to(2, heartbeat);
    assert_eq!((stage.age(), &stage.kept[..]), (Some(SECOND), &[1][..]));
}

#[test]
fn a_warm_session_says_what_it_holds_and_acknowledges_it_once_the_authority_agrees() {
    let cold = Stage::in_force();
    let beginning = Beginning {
        durable: true,
        ..Beginning::default()
    };
    let mut stage = Stage::with(cold.clock, cold.trust, cold.authority, beginning);
    let begun = stage.session.begin();
    let sent = stage.perform(begun);
    let [Request::Hello(hello), Request::Ping(_)] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!(hello.epoch, 1);
    assert_eq!(hello.state_digest, stage.authority.state.digest());
    assert_eq!(acks(&stage.pong()), [(1, true)]);
    assert_eq!(acks(&stage.pong()), []);
    let delta = stage.authority.revoke("a");
    assert_eq!(acks(&stage.update(delta)), [(2, true)]);
    assert!(stage.is_current());
}

/// K12: an older epoch is refused and alarmed; the one in force stays.
#[test]
fn an_older_epoch_is_refused() {
    let mut stage = Stage::in_force();
    let fresh = ScriptedAuthority::new();
    let delta = stage.authority.publish(Change {
        key_set: Some(key_set("two")),
        ..Change::default()
    });
    stage.update(delta);
    let mut older = stage.authority.update(UpdateContent::Snapshot {
        key_set: Arc::clone(fresh.state.keys()),
        revocations: [revocation("another-history")].into(),
        publishers: FIRST_GENERATION,
    });
    older.epoch = 1;
    older.state_digest = [7; 32];
    let older = stage.authority.sign_update(&older);
    assert_eq!(nacks(&stage.update(older)), [(1, "epoch_regressed", false)]);
    assert_eq!(stage.trust.status().alarm, Some(TrustAlarm::Regressed));
    assert_eq!(stage.refused("epoch_regressed"), 1);
    assert!(stage.is_current());
}

/// K13: the same epoch with other content is refused, alarmed, and trust grows old until it is refused.
#[test]
fn a_fork_is_refused_and_ends_closed() {
    let mut stage = Stage::in_force();
    let mut forked = stage.authority.update(UpdateContent::Snapshot {
        key_set: key_set("two"),
        revocations: RevocationList::default(),
        publishers: FIRST_GENERATION,
    });
    forked.state_digest = [7; 32];
    let forked = stage.authority.sign_update(&forked);
    assert_eq!(nacks(&stage.update(forked)), [(1, "epoch_fork", false)]);
    assert_eq!(stage.trust.status().alarm, Some(TrustAlarm::Fork));
    while stage.trust.status().decides() {
        stage.pong();
    }
    assert!(stage.age().unwrap() >= REFUSE_AFTER);
    assert!(stage.ignored("epoch_fork") > 400);
    // A later epoch, which the authority reaches from our state, ends it.
    let delta = stage.authority.revoke("a");
    stage.update(delta);
    stage.pong();
    assert!(stage.trust.status().decides());
}

/// K14: a jump is refused and does not make what follows look old.
#[test]
fn a_jump_does_not_poison_the_floor() {
    let mut stage = Stage::in_force();
    for epoch in [2 + MAX_EPOCH_STEP, 1 << 63, u64::MAX] {
        let mut jump = stage.authority.update(UpdateContent::Snapshot {
            key_set: Arc::clone(stage.authority.state.keys()),
            revocations: RevocationList::default(),
            publishers: FIRST_GENERATION,
        });
        jump.epoch = epoch;
        let jump = stage.authority.sign_update(&jump);
        assert_eq!(nacks(&stage.update(jump)), [(epoch, "epoch_jump", false)]);
    }
    assert_eq!(stage.trust.floor().epoch, 1);
    let delta = stage.authority.revoke("a");
    assert_eq!(acks(&stage.update(delta)), [(2, true)]);
}

/// K18, K19: a gap asks for a snapshot, once; the deltas behind it say nothing new.
#[test]
fn a_gap_asks_for_one_snapshot() {
    let mut stage = Stage::in_force();
    stage.authority.revoke("lost");
    let after = stage.authority.revoke("a");
    assert_eq!(nacks(&stage.update(after)), [(3, "update_base", true)]);
    let after = stage.authority.revoke("b");
    assert_eq!(nacks(&stage.update(after)), []);
    assert_eq!(stage.trust.epoch(), 1);
    let snapshot = stage.authority.snapshot();
    assert_eq!(acks(&stage.update(snapshot)), [(4, true)]);
    assert!(stage.is_current());
    assert_eq!(stage.metrics.resyncs.get(), 1);
}

/// K19: twice is as once, and what was in force before is no step back.
#[test]
fn repeated_updates_change_nothing() {
    let mut stage = Stage::in_force();
    let first = stage.authority.revoke("a");
    let second = stage.authority.revoke("b");
    stage.update(first.clone());
    assert_eq!(acks(&stage.update(first.clone())), [(2, true)]);
    stage.update(second.clone());
    assert_eq!(stage.update(first), []);
    assert_eq!(acks(&stage.update(second)), [(3, true)]);
    assert_eq!(stage.trust.status().alarm, None);
    assert_eq!(stage.saved.len(), 3);
    assert_eq!(stage.metrics.updates_repeated.get(), 3);
}

/// A snapshot that does not mend the gap is asked for again after a wait that doubles.
#[test]
fn a_snapshot_that_does_not_help_is_not_asked_for_in_a_loop() {
    let mut stage = Stage::in_force();
    let mut wrong = stage.authority.update(UpdateContent::Snapshot {
        key_set: Arc::clone(stage.authority.state.keys()),
        revocations: RevocationList::default(),
        publishers: FIRST_GENERATION,
    });
    wrong.epoch = 5;
    let wrong = stage.authority.sign_update(&wrong);
    let mut asked = Vec::new();
    let begin = stage.clock.elapsed();
    for _ in 0..600 {
        let sent = stage.update(wrong.clone());
        assert_eq!(nacks(&sent).len(), 1);
        if nacks(&sent) == [(5, "update_digest", true)] {
            asked.push((stage.clock.elapsed() - begin).as_secs());
        }
        stage.clock.advance(SECOND);
    }
    assert_eq!(asked, [0, 2, 6, 14, 30, 62, 126, 254, 510]);
    assert_eq!(stage.trust.epoch(), 1);
}

/// K20: cut at any byte, or with any byte changed, an update is refused and nothing changes.
#[test]
fn a_damaged_update_is_refused_at_every_byte() {
    let mut stage = Stage::in_force();
    let delta = stage.authority.revoke("a");
    for length in 0..delta.payload.len() {
        let mut cut = delta.clone();
        cut.payload.truncate(length);
        assert_eq!(nacks(&stage.update(cut)), [(0, "update_signature", false)]);
        let mut changed = delta.clone();
        changed.payload = flipped(&delta.payload, length);
        assert_eq!(nacks(&stage.update(changed)), [(0, "update_signature", false)]);
    }
    for length in 0..delta.signature.len() {
        let mut cut = delta.clone();
        cut.signature.truncate(length);
        assert_eq!(nacks(&stage.update(cut)), [(0, "update_signature", false)]);
    }
    let mut unknown = delta.clone();
    unknown.key_id.push('x');
    assert_eq!(nacks(&stage.update(unknown)), [(0, "publisher_unknown", false)]);
    assert_eq!(stage.update(Signed::default()).len(), 1);
    assert_eq!(stage.trust.epoch(), 1);
    assert_eq!(acks(&stage.update(delta)), [(2, true)]);
}

/// K20: well signed, and still no update: cut before it was signed, empty, of another kind, of another issuer.
#[test]
fn a_signed_message_that_is_no_update_is_refused() {
    let mut stage = Stage::in_force();
    let delta = stage.authority.revoke("a");
    let mut reasons = std::collections::BTreeSet::new();
    for length in 0..delta.payload.len() {
        let cut = stage
            .authority
            .sign(Context::Update, delta.payload.slice(..length));
        let sent = stage.update(cut);
        assert_eq!(acks(&sent), [], "{length}");
        reasons.extend(nacks(&sent).iter().map(|(_, reason, _)| (*reason).to_owned()));
    }
    assert!(reasons.contains("update_malformed"), "{reasons:?}");
    let heartbeat = stage.authority.heartbeat(START * 1000);
    let as_update = stage.authority.sign(Context::Update, heartbeat.payload.clone());
    assert_eq!(acks(&stage.update(as_update)), []);
    assert_eq!(nacks(&stage.update(heartbeat)), [(0, "update_signature", false)]);
    let mut other = stage.authority.update(UpdateContent::Snapshot {
        key_set: Arc::clone(stage.authority.state.keys()),
        revocations: RevocationList::default(),
        publishers: FIRST_GENERATION,
    });
    other.issuer = countersign_core::names::Issuer::parse("https://other.example.com").unwrap();
    let other = stage.authority.sign_update(&other);
    assert_eq!(nacks(&stage.update(other)), [(2, "update_issuer", false)]);
    assert_eq!(stage.trust.epoch(), 1);
    assert_eq!(stage.trust.status().alarm, None);
}

/// K24: forgetting what can still matter is refused.
#[test]
fn an_update_that_would_un_revoke_is_refused() {
    let mut stage = Stage::in_force();
    let delta = stage.authority.revoke("a");
    stage.update(delta);
    let prune = stage.authority.publish(Change {
        prune_before: Some(Timestamp::from_seconds(START + 3601)),
        ..Change::default()
    });
    assert_eq!(nacks(&stage.update(prune)), [(3, "revocation_unrevoked", false)]);
    assert_eq!(stage.trust.status().revocations, 1);
}

/// F67: a message of a later protocol is passed over.
#[test]
fn an_unknown_message_is_counted_and_passed_over() {
    let mut stage = Stage::in_force();
    let effects = stage.session.receive(SyncResponse { message: None });
    assert_eq!(stage.perform(effects), []);
    assert_eq!(stage.refused("message_unknown"), 1);
}
