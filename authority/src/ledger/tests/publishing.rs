//! Publishing keys follow one another, whatever happens in between.

use countersign_core::key_set::KeyState;
use countersign_core::ports::PublicKey;
use countersign_core::publishers::{LinkRefused, MAX_LINKS, Publishers};
use countersign_crypto::publishing::verifies;
use countersign_proto::sync::v1::hello::Proof;
use countersign_proto::trust::v1::Signed;
use countersign_wire::publishers::read_publishers;

use super::*;
use crate::fleet::Untold;
use crate::store::verifiers::Known;
use crate::store::{Commit, publishers};
use crate::test_util::{Published, introduction, verifier_key};

/// A verifier in this process that pins one set, and is told all that is published.
struct Verifier(Publishers<Arc<dyn PublicKey>, Signed>);

impl Verifier {
    fn pinning(bench: &Bench, jwks: &str) -> Self {
        let pinned = PinnedKeys::read(jwks.as_bytes(), &AwsLc).expect("a key set");
        Self(Publishers::new(bench.issuer.clone(), pinned.keys().clone()))
    }

    fn offer(&mut self, signed: &Signed) -> Result<(), LinkRefused> {
        let key = self.0.link_key(&signed.key_id).ok_or(LinkRefused::Signer)?;
        if !verifies(
            key.as_ref(),
            Context::Publishers,
            &signed.payload,
            &signed.signature,
        ) {
            return Err(LinkRefused::Signature);
        }
        let link = read_publishers(&signed.payload, &AwsLc)?;
        self.0.offer(link, &signed.key_id, signed.clone()).map(drop)
    }

    fn believes(&self, context: Context, signed: &Signed) -> bool {
        let key = self.0.key(&signed.key_id);
        key.is_some_and(|key| verifies(key.as_ref(), context, &signed.payload, &signed.signature))
    }

    /// Whether everything that a newcomer is told now is believed and may be taken over.
    async fn follows(&mut self, opened: &Opened) -> bool {
        let published = Published::by(opened).await;
        for link in &published.links {
            let _skipped = self.offer(link);
        }
        let generation = opened.ledger.books().trust.publishers();
        let updates = &published.updates;
        updates
            .iter()
            .all(|update| self.believes(Context::Update, update))
            && self.believes(Context::Heartbeat, &published.heartbeat)
            && self.0.holds(generation)
    }
}

fn states(opened: &Opened) -> Vec<KeyState> {
    let books = opened.ledger.books();
    let ring = &books.publishing;
    ring.keys().iter().map(|key| ring.state(key)).collect()
}

fn jwks(opened: &Opened) -> String {
    opened.ledger.books().publishing.to_jwks()
}

/// The process is killed, and another one opens the store as it was left.
async fn restarted(bench: &Bench, opened: Opened) -> Opened {
    drop(opened);
    bench.open().await
}

async fn rotate(ledger: &Ledger) {
    ledger.prepare_publishing_key().await.expect("prepares");
    ledger
        .activate_publishing_key(None, true)
        .await
        .expect("activates");
    ledger.retire_publishing_key().await.expect("retires");
}

/// D17: at every step, before and after a restart, every pin follows that was ever given out.
#[tokio::test]
async fn every_pin_follows_at_every_step_and_over_every_restart() {
    let bench = Bench::new();
    let mut opened = bench.open().await;
    let mut pins = vec![jwks(&opened)];
    for step in 0..6 {
        let ledger = &opened.ledger;
        match step % 3 {
            0 => drop(ledger.prepare_publishing_key().await.expect("prepares")),
            1 => drop(
                ledger
                    .activate_publishing_key(None, false)
                    .await
                    .expect("activates"),
            ),
            _ => drop(ledger.retire_publishing_key().await.expect("retires")),
        }
        pins.push(jwks(&opened));
        let before = states(&opened);
        for _ in 0..2 {
            for pin in &pins {
                let mut verifier = Verifier::pinning(&bench, pin);
                assert!(verifier.follows(&opened).await, "step {step}, {pin}");
            }
            opened = restarted(&bench, opened).await;
            assert_eq!(states(&opened), before, "step {step}");
        }
    }
    let books = opened.ledger.books();
    assert_eq!((books.trust.epoch(), books.trust.publishers()), (5, 5));
    assert_eq!(states(&opened), [KeyState::Active]);
}

/// K11: a stream that is open is sent each link before the epoch that names it, and nothing that the retired key signed after it.
#[tokio::test]
async fn an_open_stream_is_led_on_before_the_epoch_that_names_the_set() {
    let bench = Bench::new();
    let opened = bench.open().await;
    let mut verifier = Verifier::pinning(&bench, &jwks(&opened));
    let mut stream = opened
        .feed
        .join(&Held::default())
        .await
        .expect("joins")
        .subscription;
    rotate(&opened.ledger).await;
    opened
        .ledger
        .revoke_token_id(token("1.1"))
        .await
        .expect("revokes");
    let mut told = Vec::new();
    while told.last() != Some(&"update 4".to_owned()) {
        match said(&stream.next().await.expect("more").expect("goes on")) {
            Message::Publishers(link) => {
                assert_eq!(verifier.offer(&link), Ok(()));
                told.push(format!("link {}", verifier.0.generation()));
            }
            Message::Update(signed) => {
                assert!(verifier.believes(Context::Update, &signed), "after {told:?}");
                let update = read_update(&signed.payload, &AwsLc).expect("reads");
                assert!(update.publishers().is_none_or(|named| verifier.0.holds(named)));
                told.push(format!("update {}", update.epoch));
            }
            Message::Pong(_) => panic!("nobody asked"),
        }
    }
    let expected = ["update 1", "link 2", "update 2", "link 3", "update 3", "update 4"];
    assert_eq!(told, expected);
}

/// The new key signs nothing before every verifier that may decide holds it on disk, unless an operator says why.
#[tokio::test]
async fn activation_waits_for_who_does_not_hold_the_key() {
    let bench = Bench::new();
    let opened = bench.open().await;
    let ledger = &opened.ledger;
    let now = bench.clock.now();
    let (key, intro) = (verifier_key("sidecar"), introduction("one"));
    let budgets = Arc::clone(&intro.budgets);
    let member = bench.fleet.join(key.clone(), intro, now).expect("joins");
    let known = Known { key, budgets };
    let enrolled = ledger
        .enrol(Untold {
            known: vec![known],
            ..Untold::default()
        })
        .await;
    enrolled.expect("is taken down");
    bench.fleet.told(&bench.fleet.to_tell());
    member.acknowledged(1, true, now);
    assert!(member.grant().is_some(), "it may decide");
    let first = jwks(&opened);
    ledger.prepare_publishing_key().await.expect("prepares");
    let early = ledger.activate_publishing_key(None, false).await;
    assert_eq!(refused(early), Failure::VerifiersBehind);
    member.acknowledged(2, false, now);
    let in_memory = ledger.activate_publishing_key(None, false).await;
    assert_eq!(refused(in_memory), Failure::VerifiersBehind);
    assert_eq!(states(&opened), [KeyState::Active, KeyState::Prepared]);
    member.acknowledged(2, true, now);
    ledger
        .activate_publishing_key(None, false)
        .await
        .expect("activates");
    assert_eq!(states(&opened), [KeyState::Retired, KeyState::Active]);
    ledger.retire_publishing_key().await.expect("retires");
    assert_ne!(jwks(&opened), first);
    ledger.prepare_publishing_key().await.expect("prepares");
    ledger
        .activate_publishing_key(None, true)
        .await
        .expect("is forced");
}

#[tokio::test]
async fn a_key_that_is_not_wanted_is_dropped_before_it_signs() {
    let bench = Bench::new();
    let opened = bench.open().await;
    let ledger = &opened.ledger;
    assert_eq!(
        refused(ledger.retire_publishing_key().await),
        Failure::KeyNotRetirable
    );
    let nothing = ledger.activate_publishing_key(None, true).await;
    assert_eq!(refused(nothing), Failure::KeyNotPrepared);
    let first = jwks(&opened);
    ledger.prepare_publishing_key().await.expect("prepares");
    assert_eq!(
        refused(ledger.prepare_publishing_key().await),
        Failure::KeyAlreadyPrepared
    );
    let signing = ledger.books().publishing.publisher().key_id().clone();
    let active = ledger.activate_publishing_key(Some(signing), true).await;
    assert_eq!(refused(active), Failure::KeyNotPrepared);
    ledger.retire_publishing_key().await.expect("drops");
    assert_eq!(jwks(&opened), first);
    let opened = restarted(&bench, opened).await;
    assert!(Verifier::pinning(&bench, &first).follows(&opened).await);
    let kept = read_all(bench.store.as_ref(), "publishers/")
        .await
        .expect("reads");
    assert_eq!(kept.len(), 1, "the private half of a dropped key is gone");
}

/// D17: what a key signed that is retired still shows that the store was restored.
#[tokio::test]
async fn a_proof_by_a_retired_key_is_heard() {
    let bench = Bench::new();
    let opened = bench.open().await;
    rotate(&opened.ledger).await;
    let backup = bench.copied().await;
    for number in 1..=6 {
        let ledger = &opened.ledger;
        let token_id = token(&format!("1.{number}"));
        ledger.revoke_token_id(token_id).await.expect("revokes");
    }
    let later = Published::by(&opened).await;
    let restored = backup.open().await;
    rotate(&restored.ledger).await;
    assert_ne!(jwks(&restored), jwks(&opened));
    let verifier = verifier_key("sidecar");
    let stranger = Bench::new().open().await;
    let of_stranger = Published::by(&stranger).await.heartbeat;
    let unheard = restored
        .ledger
        .hear(&verifier, &Proof::Heartbeat(of_stranger))
        .await;
    unheard.expect("is ignored");
    assert!(restored.ledger.books().recovery.is_none());
    let heard = restored
        .ledger
        .hear(&verifier, &Proof::Heartbeat(later.heartbeat))
        .await;
    heard.expect("is written down");
    assert!(
        restored.ledger.books().recovery.is_some(),
        "an epoch that was never reached here"
    );
}

/// D10, D15: a link that was changed, brought back or taken away stops the start, and so does the loss of the key that signs.
#[tokio::test]
async fn links_cannot_be_changed_behind_the_back_of_the_authority() {
    let bench = Bench::new();
    let opened = bench.open().await;
    let before = jwks(&opened);
    rotate(&opened.ledger).await;
    drop(opened);
    let links = read_all(bench.store.as_ref(), publishers::LINKS)
        .await
        .expect("reads");
    assert_eq!(links.len(), 2);
    let epoch = String::from_utf8(links[1].value.clone()).expect("text");
    let epoch = epoch.replace("\"epoch\":3", "\"epoch\":2").into_bytes();
    assert_ne!(epoch, links[1].value);
    for (record, value) in [(&links[0], None), (&links[1], None), (&links[1], Some(epoch))] {
        put(&bench, &record.name, value).await;
        let error = open(bench.opening()).await.expect_err("is refused");
        assert!(matches!(error, StartError::PublishersMismatch), "{error:?}");
        put(&bench, &record.name, Some(record.value.clone())).await;
    }
    let opened = bench.open().await;
    assert!(Verifier::pinning(&bench, &before).follows(&opened).await);
    drop(opened);
    let signer = read_all(bench.store.as_ref(), "publishers/")
        .await
        .expect("reads")
        .remove(0);
    put(&bench, &signer.name, None).await;
    let error = open(bench.opening()).await.expect_err("is refused");
    assert!(matches!(error, StartError::NoPublisher), "{error:?}");
}

async fn put(bench: &Bench, name: &str, value: Option<Vec<u8>>) {
    let mut commit = Commit::default();
    match value {
        Some(value) => commit.put(name.to_owned(), value),
        None => commit.delete(name.to_owned()),
    }
    bench.store.commit(commit).await.expect("tampers");
}

/// Links are kept for so many rotations; who pins an older set is led nowhere, and whoever pins a kept one, here.
#[tokio::test]
async fn only_so_many_links_are_kept() {
    let bench = Bench::new();
    let opened = bench.open().await;
    let first = jwks(&opened);
    let mut pins = Vec::new();
    for _ in 0..MAX_LINKS / 2 + 2 {
        rotate(&opened.ledger).await;
        pins.push(jwks(&opened));
    }
    assert_eq!(opened.ledger.books().publishing.links().len(), MAX_LINKS);
    let opened = restarted(&bench, opened).await;
    assert!(!Verifier::pinning(&bench, &first).follows(&opened).await);
    assert!(Verifier::pinning(&bench, &pins[2]).follows(&opened).await);
    let records = read_all(bench.store.as_ref(), publishers::LINKS)
        .await
        .expect("reads");
    assert_eq!(records.len(), MAX_LINKS);
}

/// A verifier with a later set than was ever reached here has seen what this store does not know.
#[tokio::test]
async fn a_verifier_with_a_later_set_is_sent_away() {
    let bench = Bench::new();
    let opened = bench.open().await;
    let held = Held {
        publishers: 2,
        ..Held::default()
    };
    assert!(opened.feed.join(&held).await.is_err());
    assert_eq!(bench.alarms(Alarm::VerifierAhead), 1);
}
