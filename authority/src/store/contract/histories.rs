//! What the authority keeps the last of, in every store: drills, and the links from one set of publishing keys to the next. The
//! oldest is deleted in the commit that writes the newest, and they are read in the order of their numbers.

use countersign_core::drill::{Drill, DrillEnd, DrillOutcome};
use countersign_core::jose::Algorithm;
use countersign_core::publishers::{Generation, MAX_LINKS};
use countersign_proto::trust::v1::Signed;

use super::*;
use crate::drills::{Drills, MAX_DRILLS};
use crate::ledger::{Books, Ledger, NewDrill};
use crate::publishing::KeptLink;
use crate::store::drills::tests::drill;
use crate::store::{drills, publishers};
use crate::test_util::Bench;

/// So many more than are kept.
const MORE: u64 = 3;

async fn read_drills(store: &dyn Store) -> Drills {
    let mut read = Drills::default();
    let mut last = 0;
    for record in read_all(store, drills::PREFIX).await.expect("reads") {
        let drill = drills::read(&record.name, &record.value).expect("is a drill");
        assert!(drill.id > last, "{} comes after {last}", drill.id);
        last = drill.id;
        read.found(drill, record.value);
    }
    read
}

/// D10: a drill that runs is changed in its place, and one for which there is no room any more goes with the commit that needs its
/// place. The digests of those that are there add up to the sum of those that are meant.
pub(super) async fn the_last_drills_are_kept_and_read_in_their_order(store: &dyn Store) {
    let mut held = read_drills(store).await;
    let mut filling = Commit::default();
    while held.all().count() < MAX_DRILLS {
        let id = held.next_id();
        let after = held.with(drill(id)).expect("writes");
        after.record(&held, id, &mut filling);
        held = after;
    }
    store.commit(filling).await.expect("commits");
    for id in held.next_id()..held.next_id() + MORE {
        let running = Drill {
            end: None,
            ..drill(id)
        };
        for written in [running, drill(id)] {
            let after = held.with(written).expect("writes");
            let mut commit = Commit::default();
            after.record(&held, id, &mut commit);
            store.commit(commit).await.expect("commits");
            held = after;
            let read = read_drills(store).await;
            assert!(read.all().eq(held.all()), "drill {id}");
            assert_eq!((read.sum(), read.all().count()), (held.sum(), MAX_DRILLS));
            assert_eq!(read.running(), held.running());
        }
    }
}

async fn read_links(store: &dyn Store) -> Vec<KeptLink> {
    let records = read_all(store, publishers::LINKS).await.expect("reads");
    let links = records
        .iter()
        .map(|record| publishers::read(&record.name, &record.value));
    links.collect::<Result<_, _>>().expect("are links")
}

fn link(generation: Generation) -> KeptLink {
    KeptLink {
        generation,
        epoch: generation + 1,
        signed: Signed {
            payload: format!("the set {generation}").into_bytes().into(),
            signature: vec![7; 64].into(),
            key_id: "A".repeat(43),
        },
    }
}

fn put_link(commit: &mut Commit, link: &KeptLink) {
    let name = publishers::name(link.generation);
    commit.expect(&name, 0);
    commit.put(name, publishers::write(link).expect("writes"));
}

/// D10: a link for which there is no room any more goes with the commit that needs its place, and none is written twice.
pub(super) async fn the_last_links_are_kept_and_read_in_their_order(store: &dyn Store) {
    let mut kept = read_links(store).await;
    // Over 255, so that names in another order than their numbers would be seen.
    let mut next = kept.last().map_or(200, |link| link.generation + 1);
    let mut filling = Commit::default();
    while kept.len() < MAX_LINKS {
        put_link(&mut filling, &link(next));
        kept.push(link(next));
        next += 1;
    }
    store.commit(filling).await.expect("commits");
    for generation in next..next + MORE {
        let mut commit = Commit::default();
        put_link(&mut commit, &link(generation));
        commit.delete(publishers::name(kept.remove(0).generation));
        kept.push(link(generation));
        store.commit(commit.clone()).await.expect("commits");
        let read = read_links(store).await;
        let generations = |links: &[KeptLink]| links.iter().map(|link| link.generation).collect::<Vec<_>>();
        assert_eq!(generations(&read), generations(&kept));
        assert!(read == kept, "up to {generation}");
        let again = store.commit(commit).await;
        assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    }
}

async fn rehearse(ledger: &Ledger) {
    let new = NewDrill {
        started_by: "spiffe://example.org/operator/anna".to_owned(),
        reason: "quarterly".to_owned(),
    };
    let begun = ledger.begin_drill(new, Algorithm::Es256).await;
    let drill = begun.expect("begins").answer;
    ledger.withdraw_shadow(drill.id, None).await.expect("withdraws");
    let end = DrillEnd {
        outcome: DrillOutcome::Complete,
        at: ledger.timeline().now(),
        measured: None,
        aborted: None,
    };
    ledger.end_drill(drill.id, end).await.expect("ends");
}

async fn replace_publishing_key(ledger: &Ledger) {
    ledger.prepare_publishing_key().await.expect("prepares");
    let activated = ledger.activate_publishing_key(None, true).await;
    activated.expect("activates");
    ledger.retire_publishing_key().await.expect("retires");
}

/// D10, D17: what the ledger wrote of both is what the next process finds, which counts on from there.
pub(super) async fn the_next_process_finds_both_histories(place: &dyn Place) {
    let mut before: Option<Arc<Books>> = None;
    for round in 1..=3_u64 {
        let bench = Bench::over(place.open().await);
        let ledger = bench.open().await.ledger;
        let found = ledger.books();
        if let Some(before) = before {
            assert!(found.drills.all().eq(before.drills.all()));
            assert_eq!(found.publishing.links(), before.publishing.links());
            assert_eq!(found.publishing.to_jwks(), before.publishing.to_jwks());
        }
        rehearse(&ledger).await;
        replace_publishing_key(&ledger).await;
        let books = ledger.books();
        assert_eq!(books.drills.next_id(), round + 1);
        assert_eq!(books.publishing.generation(), 2 * round + 1);
        ledger.close().await;
        before = Some(books);
    }
}
