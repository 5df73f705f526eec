//! Stores that are not the one that was last published from: backups, copies, and what forgers say of them.

use std::time::Duration;

use countersign_core::Rejection;
use countersign_core::issuing::sign_token;
use countersign_core::recovery::RECOVERY_STEP;
use countersign_core::staleness::StalenessBudget;
use countersign_core::trust::MAX_EPOCH_STEP;
use countersign_core::verifier::{Considered, HeldTrust, Moment, VerifierClock};
use countersign_core::verifying::{TrustView, authenticate};
use countersign_proto::sync::v1::hello::Proof;
use countersign_proto::trust::v1::Signed;

use super::super::recovering::recover;
use super::*;
use crate::fleet::{Membership, Untold};
use crate::store::verifiers::Known;
use crate::test_util::{Logs, Published, introduction, spiffe_id, verifier_key};

/// A verifier in this process, as sidecars run it.
struct Verifier {
    trust: HeldTrust,
    pinned: PinnedKeys,
    bench: Bench,
}

impl Verifier {
    fn new(bench: &Bench, opened: &Opened) -> Self {
        let rules = UpdateRules {
            issuer: bench.issuer.clone(),
            max_revocations: 1000,
            max_revocation_life: Duration::from_secs(3600 + 5 + 900),
            leeway: Duration::from_secs(5),
        };
        let pinned = PinnedKeys::read(opened.publishing_keys.as_bytes(), &AwsLc).expect("reads");
        let now = moment(bench);
        Self {
            trust: HeldTrust::new(rules, VerifierClock::start(None, now)),
            pinned,
            bench: bench.clone(),
        }
    }

    /// Takes over all that is published, or says why not.
    fn follow(&mut self, published: &Published) -> Result<(), &'static str> {
        published.updates.iter().try_for_each(|signed| self.take(signed))
    }

    fn take(&mut self, signed: &Signed) -> Result<(), &'static str> {
        let Signed {
            payload,
            signature,
            key_id,
        } = signed;
        let verified = self.pinned.verify(key_id, Context::Update, payload, signature);
        verified.map_err(|refused| refused.reason())?;
        let update = read_update(payload, &AwsLc).map_err(|refused| refused.reason())?;
        let now = moment(&self.bench);
        match self.trust.consider(&update, now, &AwsLc) {
            Ok(Considered::Advance(state)) => {
                let installed = self.trust.install(state, now);
                installed.map(drop).map_err(|refused| refused.reason())
            }
            Ok(Considered::InForce | Considered::Repeated) => Ok(()),
            Err(refused) => Err(refused.reason()),
        }
    }

    /// What it says of a token, as far as keys and revocations go.
    fn judge(&self, token: &str) -> Result<(), Rejection> {
        let state = &self.trust.in_force().expect("in force").state;
        let view = TrustView {
            state,
            overdue: Some(Duration::ZERO),
        };
        let budget = StalenessBudget {
            revocations: Duration::from_secs(60),
            keys: Duration::from_secs(60),
        };
        let (_, token) = authenticate(token.as_bytes(), Ok(view), &budget)?;
        state.revocations().check(token.claims())
    }
}

fn moment(bench: &Bench) -> Moment {
    Moment {
        elapsed: bench.clock.elapsed(),
        wall_millis: bench.clock.now_millis(),
    }
}

/// A token that the authority would sign now.
fn issue(bench: &Bench, opened: &Opened, token_id: &str) -> String {
    let books = opened.ledger.books();
    let now = bench.clock.now();
    let key = books.ring.signing(now).expect("signs");
    let mut claims = claims(token_id, now.as_seconds() + 900);
    claims.issued_at = now;
    let signer = key.signer.as_ref().expect("has its private half");
    sign_token(&claims, key.key_id(), signer.as_ref()).expect("signs")
}

/// A store that was restored from a backup, and what verifiers hold of the time after the backup.
struct Restored {
    bench: Bench,
    opened: Opened,
    later: Published,
    verifier: Verifier,
    /// Issued before the backup, and revoked after it.
    revoked: String,
    /// Issued after the backup.
    after: String,
}

impl Restored {
    async fn new() -> Self {
        let lost = Bench::new();
        let opened = lost.open().await;
        let revoked = issue(&lost, &opened, "1.1");
        let bench = lost.copied().await;
        lost.clock.advance(Duration::from_secs(60));
        opened
            .ledger
            .revoke_token_id(token("1.1"))
            .await
            .expect("revokes");
        opened
            .ledger
            .prepare_key(Algorithm::Es256)
            .await
            .expect("prepares");
        let after = issue(&lost, &opened, "1.2");
        let later = Published::by(&opened).await;
        let mut verifier = Verifier::new(&lost, &opened);
        assert_eq!(verifier.follow(&later), Ok(()));
        assert_eq!(verifier.judge(&revoked), Err(Rejection::TokenRevoked));
        assert_eq!(verifier.judge(&after), Ok(()));
        lost.clock.advance(Duration::from_secs(60));
        Self {
            opened: bench.open().await,
            bench,
            later,
            verifier,
            revoked,
            after,
        }
    }

    async fn hear(&self, proof: Proof) -> Result<(), LedgerError> {
        hear(&self.opened, proof).await
    }

    async fn reopen(&mut self) {
        self.opened.ledger.close().await;
        // Another process has another fleet.
        self.bench = Bench {
            store: Arc::clone(&self.bench.store),
            ..self.bench.copied().await
        };
        self.opened = self.bench.open().await;
    }

    fn required(&self) -> Option<u64> {
        let books = self.opened.ledger.books();
        books.recovery.as_ref().map(|recovery| recovery.epoch)
    }

    async fn revision(&self) -> u64 {
        self.bench.store.revision().await.expect("reads")
    }

    /// A member that may be granted a lease if anybody may.
    async fn member(&self) -> Membership {
        let key = verifier_key("sidecar");
        let intro = introduction("i");
        let budgets = Arc::clone(&intro.budgets);
        let now = self.bench.clock.now();
        let member = self.bench.fleet.join(key.clone(), intro, now).expect("joins");
        let known = Known { key, budgets };
        self.opened
            .ledger
            .enrol(Untold {
                known: vec![known],
                ..Untold::default()
            })
            .await
            .expect("is taken down");
        self.bench.fleet.told(&self.bench.fleet.to_tell());
        member.acknowledged(self.opened.ledger.books().trust.epoch(), true, now);
        member
    }
}

async fn hear(opened: &Opened, proof: Proof) -> Result<(), LedgerError> {
    opened.ledger.hear(&verifier_key("sidecar"), &proof).await
}

async fn refuses_every_change(ledger: &Ledger, now: Timestamp) {
    let id = client_id("orders");
    let name = spiffe_id("sidecar");
    let key = ledger.books().ring.keys()[0].key_id().clone();
    let answers = [
        refused(ledger.create_client(id.clone(), registration(None), false).await),
        refused(ledger.revoke_client(id).await),
        refused(ledger.revoke_token_id(token("1.1")).await),
        refused(ledger.revoke_everything(now).await),
        refused(ledger.prune(10).await),
        refused(ledger.prepare_key(Algorithm::Es256).await),
        refused(ledger.activate_key(None, in_turn(2)).await),
        refused(ledger.retire_key(key.clone()).await),
        refused(ledger.drop_key(key.clone(), Duration::ZERO).await),
        refused(ledger.compromise_key(key, Algorithm::Es256).await),
        refused(ledger.quarantine(name.clone()).await),
        refused(ledger.release(name).await),
    ];
    assert_eq!(answers, [Failure::RecoveryRequired; 12]);
}

#[test]
fn what_was_shown_is_told_with_a_time_that_people_read() {
    let recovery = store::meta::Recovery {
        epoch: 3,
        signed_at: START,
        shown_by: "a verifier".to_owned(),
    };
    let told = recovery.to_string();
    assert!(
        told.contains("epoch 3, signed at 2023-11-14T22:13:20Z,"),
        "{told}"
    );
}

/// D17, F30: a later epoch, by a heartbeat or by an update, is the end of signing and changing, and stays so.
#[tokio::test]
async fn a_later_epoch_that_was_signed_stops_everything_also_after_a_restart() {
    for which in [0, 1] {
        let mut restored = Restored::new().await;
        let member = restored.member().await;
        assert!(member.grant().is_some());
        let proof = match which {
            0 => Proof::Heartbeat(restored.later.heartbeat.clone()),
            _ => Proof::Update(restored.later.update()),
        };
        restored.hear(proof.clone()).await.expect("is written down");
        assert_eq!(restored.required(), Some(3));
        assert_eq!(restored.bench.alarms(Alarm::RecoveryRequired), 1);
        let revision = restored.revision().await;
        restored.hear(proof).await.expect("is known");
        assert_eq!(restored.revision().await, revision, "said again, it is no news");
        assert_eq!(
            restored.bench.alarms(Alarm::RecoveryRequired),
            1,
            "nor is it loud"
        );
        assert!(member.grant().is_none());

        restored.reopen().await;
        assert_eq!(restored.required(), Some(3));
        assert_eq!(
            restored.bench.alarms(Alarm::RecoveryRequired),
            1,
            "said at every start"
        );
        let ledger = &restored.opened.ledger;
        let epoch = ledger.books().trust.epoch();
        assert!(restored.member().await.grant().is_none(), "but it is taken down");
        ledger.timeline().for_signing().expect("could sign");
        restored.bench.clock.advance(Duration::from_secs(120));
        ledger.timeline().for_signing().expect("could sign");
        ledger.keep_time().await.expect("keeps the time");
        refuses_every_change(ledger, restored.bench.clock.now()).await;
        assert_eq!(ledger.books().trust.epoch(), epoch);
    }
}

/// What nobody may be stopped by: `later`, which is true, changed or taken for what it is not, and what a `foreign` authority signed.
fn forgeries(later: &Published, foreign: &Published, ours: &Published) -> Vec<Proof> {
    let changed = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[40] ^= 1;
        bytes.into()
    };
    let payload = |signed: Signed| Signed {
        payload: changed(&signed.payload),
        ..signed
    };
    let signature = |signed: Signed| Signed {
        signature: changed(&signed.signature),
        ..signed
    };
    vec![
        Proof::Heartbeat(Signed::default()),
        Proof::Heartbeat(payload(later.heartbeat.clone())),
        Proof::Heartbeat(signature(later.heartbeat.clone())),
        Proof::Update(payload(later.update())),
        Proof::Heartbeat(later.update()),
        Proof::Update(later.heartbeat.clone()),
        Proof::Heartbeat(foreign.heartbeat.clone()),
        Proof::Update(foreign.update()),
        Proof::Heartbeat(Signed {
            key_id: ours.update().key_id,
            ..foreign.heartbeat.clone()
        }),
    ]
}

/// G45, I-41: whoever merely says so, forges, or repeats what is old, stops nobody.
#[tokio::test]
async fn what_no_key_of_ours_signed_and_what_is_ours_stops_nobody() {
    let restored = Restored::new().await;
    let opened = &restored.opened;
    let earlier = Published::by(opened).await;
    opened
        .ledger
        .revoke_token_id(token("1.7"))
        .await
        .expect("revokes");
    opened
        .ledger
        .revoke_token_id(token("1.8"))
        .await
        .expect("revokes");
    opened
        .ledger
        .revoke_token_id(token("1.9"))
        .await
        .expect("revokes");
    let current = Published::by(opened).await;
    let foreign = Bench::new();
    let other = foreign.open().await;
    for name in ["1.1", "1.2", "1.3", "1.4"] {
        other.ledger.revoke_token_id(token(name)).await.expect("revokes");
    }
    let foreign = Published::by(&other).await;
    let revision = restored.revision().await;

    let forged = forgeries(&restored.later, &foreign, &earlier);
    let count = u64::try_from(forged.len()).expect("few");
    for proof in forged {
        restored.hear(proof).await.expect("nothing to write");
    }
    assert_eq!(restored.bench.alarms(Alarm::ProofRefused), count);
    for ours in [earlier, current] {
        restored
            .hear(Proof::Heartbeat(ours.heartbeat.clone()))
            .await
            .expect("is ours");
        restored
            .hear(Proof::Update(ours.update()))
            .await
            .expect("is ours");
    }
    assert_eq!(restored.required(), None);
    assert_eq!(restored.revision().await, revision);
    assert_eq!(restored.bench.alarms(Alarm::RecoveryRequired), 0);
}

/// I-07, I-09, I-39: one step ends it. A verifier that holds what the backup lacks takes it over, and no token of before is accepted
/// again, whether it was revoked or not.
#[tokio::test]
async fn a_recovery_goes_on_above_everything_and_accepts_no_token_of_before() {
    let mut restored = Restored::new().await;
    let before = issue(&restored.bench, &restored.opened, "2.1");
    let stale = Published::by(&restored.opened).await;
    let mut verifier = std::mem::replace(
        &mut restored.verifier,
        Verifier::new(&restored.bench, &restored.opened),
    );
    assert_eq!(verifier.follow(&stale), Err("epoch_regressed"));
    restored
        .hear(Proof::Heartbeat(restored.later.heartbeat.clone()))
        .await
        .expect("is written down");
    restored.opened.ledger.close().await;

    let logs = Logs::default();
    let captured = logs.capture();
    let recovered = recover(&restored.bench.opening(), None).await.expect("recovers");
    drop(captured);
    let audited = logs
        .text()
        .lines()
        .filter(|line| line.contains("\"recover\""))
        .count();
    assert_eq!(audited, 1, "{}", logs.text());
    assert!(
        logs.text().contains("issued until 2023-11-14T22:15:20Z"),
        "{}",
        logs.text()
    );
    assert_eq!((recovered.found, recovered.epoch), (1, 3 + RECOVERY_STEP));
    assert_eq!(recovered.withdrawn.len(), 1);

    restored.reopen().await;
    assert_eq!(restored.required(), None);
    assert!(restored.member().await.grant().is_some());
    let published = Published::by(&restored.opened).await;
    assert_eq!(verifier.follow(&published), Ok(()));
    assert_eq!(verifier.trust.epoch(), 3 + RECOVERY_STEP);
    assert_eq!(verifier.judge(&restored.revoked), Err(Rejection::KeyRevoked));
    assert_eq!(verifier.judge(&before), Err(Rejection::KeyRevoked));
    // Under the key that was made after the backup, or the one that signed then.
    assert!(verifier.judge(&restored.after).is_err());
    restored.bench.clock.advance(Duration::from_secs(1));
    let next = issue(&restored.bench, &restored.opened, "3.1");
    assert_eq!(verifier.judge(&next), Ok(()));
    // A verifier that holds nothing takes it, too, and what was published before is none of its future.
    let cold = &mut restored.verifier;
    assert_eq!(cold.follow(&published), Ok(()));
    for earlier in [&restored.later, &stale] {
        assert_eq!(cold.follow(earlier), Err("epoch_regressed"));
    }
    // And the authority goes on as ever: what verifiers held before says nothing new.
    let (old, ledger) = (restored.later.heartbeat.clone(), &restored.opened.ledger);
    hear(&restored.opened, Proof::Heartbeat(old))
        .await
        .expect("is old");
    let revoked = ledger.revoke_token_id(token("3.1")).await.expect("revokes");
    assert_eq!(revoked.books.trust.epoch(), 4 + RECOVERY_STEP);
    assert_eq!(verifier.follow(&Published::by(&restored.opened).await), Ok(()));
    assert_eq!(verifier.judge(&next), Err(Rejection::TokenRevoked));
}

/// I-39, K14: it works once, and not at all where nothing has to be recovered or verifiers would not follow.
#[tokio::test]
async fn a_recovery_that_is_not_required_changes_nothing_unless_an_epoch_is_named() {
    let restored = Restored::new().await;
    restored.opened.ledger.close().await;
    let opening = restored.bench.opening();
    let revision = restored.revision().await;
    let not_required = recover(&opening, None).await.expect_err("is refused");
    assert!(not_required.to_string().starts_with("recovery_not_required"));
    for above in [MAX_EPOCH_STEP - RECOVERY_STEP + 1, u64::MAX] {
        let too_far = recover(&opening, Some(above)).await.expect_err("is refused");
        assert!(too_far.to_string().starts_with("epoch_jump"), "{above}");
    }
    assert_eq!(restored.revision().await, revision);
    let recovered = recover(&opening, Some(70)).await.expect("recovers");
    assert_eq!((recovered.epoch, recovered.shown), (70 + RECOVERY_STEP, None));
    recover(&opening, None).await.expect_err("once");
    // The farthest that a verifier which holds nothing believes.
    let farthest = MAX_EPOCH_STEP - RECOVERY_STEP;
    let recovered = recover(&opening, Some(farthest)).await.expect("recovers");
    assert_eq!(recovered.epoch, MAX_EPOCH_STEP);
    let opened = restored.bench.open().await;
    let mut cold = Verifier::new(&restored.bench, &opened);
    assert_eq!(cold.follow(&Published::by(&opened).await), Ok(()));
}

/// K13: two authorities of one name. Each that hears of the other's state stops, and one that is recovered stops the other.
#[tokio::test]
async fn twins_stop_as_soon_as_one_hears_of_the_other() {
    let bench = Bench::new();
    bench.open().await.ledger.close().await;
    let copy = bench.copied().await;
    let (one, other) = (bench.open().await, copy.open().await);
    one.ledger.revoke_token_id(token("1.1")).await.expect("revokes");
    other.ledger.revoke_token_id(token("1.2")).await.expect("revokes");
    let same_epoch = Published::by(&one).await;
    let beside = Published::by(&other).await;
    one.ledger.revoke_token_id(token("1.3")).await.expect("revokes");
    let required = |opened: &Opened| opened.ledger.books().recovery.is_some();
    hear(&other, Proof::Update(same_epoch.update()))
        .await
        .expect("hears");
    assert!(required(&other), "another state at the current epoch");
    hear(&one, Proof::Heartbeat(beside.heartbeat))
        .await
        .expect("hears");
    assert!(required(&one), "another state at an epoch that is past");

    one.ledger.close().await;
    recover(&bench.opening(), None).await.expect("recovers");
    let third = bench.copied().await;
    third.clock.advance(Duration::from_secs(60));
    let recovered = bench.open().await;
    other.ledger.close().await;
    let other = copy.open().await;
    hear(
        &other,
        Proof::Heartbeat(Published::by(&recovered).await.heartbeat),
    )
    .await
    .expect("hears");
    let known = other.ledger.books().recovery.clone().expect("is required");
    assert_eq!(known.epoch, 3 + RECOVERY_STEP, "the highest counts");
}

/// A store that fails: nobody is told that it is written down, nobody gets a token while that is not known, and it is tried again.
#[tokio::test]
async fn what_cannot_be_written_down_is_heard_again() {
    let restored = Restored::new().await;
    restored.opened.ledger.close().await;
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&restored.bench.store)));
    let bench = Bench {
        store: Arc::<FaultyStore>::clone(&faulty),
        ..restored.bench.clone()
    };
    let opened = bench.open().await;
    let proof = || Proof::Heartbeat(restored.later.heartbeat.clone());
    faulty.fail_commit(0, Fault::Before);
    let failed = hear(&opened, proof()).await.expect_err("fails");
    assert_eq!(failed.failure(), Failure::StoreUnavailable);
    assert!(opened.ledger.books().recovery.is_none());
    faulty.fail_commit(0, Fault::After);
    faulty.fail_reads(true);
    hear(&opened, proof()).await.expect_err("nobody knows");
    let hold = opened.ledger.books().hold.clone();
    assert_eq!(hold, Hold::Tokens(RevokedSubject::Everything));
    faulty.fail_reads(false);
    hear(&opened, proof()).await.expect("is written down");
    let books = opened.ledger.books();
    assert_eq!((books.recovery.is_some(), &books.hold), (true, &Hold::Nobody));
}
