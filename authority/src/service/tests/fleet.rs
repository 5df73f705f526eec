//! What operators are told of verifiers: all of them, also those who are away, and whether more may come back.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::names::TokenId;
use countersign_core::ports::Clock as _;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::fleet_service_client::FleetServiceClient;
use countersign_proto::admin::v1::{ListVerifiersRequest, ListVerifiersResponse};
use countersign_wire::write_time;
use tonic::Code;
use tonic::transport::Channel;

use super::stage::{Stage, eventually, refusal};
use crate::fleet::Membership;
use crate::test_util::{Bench, introduction, verifier_key};

/// A verifier with a stream open, at no epoch.
fn joined(bench: &Bench, name: &str) -> Membership {
    let now = Timestamp::from_seconds(crate::test_util::START);
    let joined = bench.fleet.join(verifier_key(name), introduction(name), now);
    joined.expect("joins")
}

async fn revoke(stage: &Stage, token: &str) {
    let token = TokenId::parse(token).expect("valid");
    stage.opened.ledger.revoke_token_id(token).await.expect("revokes");
}

async fn list(
    fleet: &mut FleetServiceClient<Channel>,
    lacking_epoch: u64,
    page_size: i32,
    page_token: String,
) -> ListVerifiersResponse {
    let request = ListVerifiersRequest {
        page_size,
        page_token,
        lacking_epoch,
    };
    fleet.list_verifiers(request).await.expect("lists").into_inner()
}

#[tokio::test]
async fn verifiers_are_listed_a_page_at_a_time() {
    let stage = Stage::new().await;
    let names = [
        "verifier/a",
        "verifier/b",
        "verifier/c",
        "verifier/d",
        "verifier/e",
    ];
    let members = names.map(|name| joined(&stage.bench, name));
    let mut fleet = stage.fleet().await;
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = list(&mut fleet, 0, 2, page_token).await;
        assert!(page.verifiers.len() <= 2 && page.total == 5);
        found.extend(page.verifiers.into_iter().map(|verifier| verifier.instance_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(found, names);
    for page_token in ["%", "AAAA", "MSAx"] {
        let request = ListVerifiersRequest {
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        let refused = refusal(fleet.list_verifiers(request).await);
        assert_eq!(refused.0, Code::InvalidArgument, "{page_token}");
    }
    drop(members);
}

/// A verifier with a lease for epoch 1.
async fn settled(stage: &Stage, name: &str) -> Membership {
    let member = joined(&stage.bench, name);
    member.acknowledged(1, true, stage.opened.ledger.timeline().now());
    eventually("the store knows it", || member.grant().is_some()).await;
    member
}

#[tokio::test]
async fn who_lacks_an_epoch_is_told_also_of_those_who_are_away() {
    let stage = Stage::new().await;
    let now = stage.opened.ledger.timeline().now();
    let there = settled(&stage, "verifier/a").await;
    drop(settled(&stage, "verifier/b").await);
    revoke(&stage, "1.1").await;
    there.acknowledged(2, true, now);
    let answer = list(&mut stage.fleet().await, 2, 0, String::new()).await;
    let [away] = answer.verifiers.as_slice() else {
        panic!("one: {answer:?}")
    };
    assert_eq!((away.instance_id.as_str(), away.connected), ("verifier/b", false));
    assert_eq!((answer.total, away.bounds.len()), (2, 3));
}

/// Whoever prepares a key and looks at the answer is not told that nobody has it, only because nobody was asked yet.
#[tokio::test]
async fn a_key_that_is_prepared_is_answered_with_those_who_hold_it() {
    let stage = Stage::new().await;
    let member = settled(&stage, "verifier/a").await;
    let ledger = stage.opened.ledger.clone();
    let now = ledger.timeline().now();
    let follows = tokio::spawn(async move {
        for epoch in [2, 3] {
            eventually("it is published", || ledger.books().trust.epoch() == epoch).await;
            member.acknowledged(epoch, true, now);
        }
        member
    });
    let mut keys = stage.keys().await;
    let prepared = keys.prepare_key(v1::PrepareKeyRequest::default()).await;
    let key = prepared.expect("prepared").into_inner().key.expect("a key");
    assert_eq!((key.acknowledged_by, key.verifiers), (1, 1));
    let mut keys = stage.publishing_keys().await;
    let prepared = keys
        .prepare_publishing_key(v1::PreparePublishingKeyRequest {})
        .await;
    let publishers = prepared.expect("prepared").into_inner().publishers.expect("keys");
    assert_eq!((publishers.acknowledged_by, publishers.verifiers), (1, 1));
    drop(follows);
}

fn watching(epoch: u64) -> v1::WatchEpochRequest {
    v1::WatchEpochRequest {
        epoch,
        tokens_end: None,
    }
}

/// What was revoked has its own end: nothing can be accepted wrongly after it, whatever budgets the verifiers have.
#[tokio::test]
async fn an_epoch_that_concerns_one_token_is_complete_when_that_has_ended() {
    let stage = Stage::new().await;
    let _far = settled(&stage, "verifier/far").await;
    revoke(&stage, "1.1").await;
    let ends = stage.bench.clock.now().saturating_add(Duration::from_secs(60));
    let mut fleet = stage.fleet().await;
    let mut watch = async |tokens_end: Timestamp| {
        let request = v1::WatchEpochRequest {
            tokens_end: Some(write_time(tokens_end)),
            ..watching(2)
        };
        let watched = fleet.watch_epoch(request).await.expect("watches");
        let first = watched.into_inner().message().await.expect("goes on");
        first.and_then(|watched| watched.reach).expect("is told")
    };
    let before = watch(ends).await;
    let latest = before
        .bounds
        .iter()
        .filter_map(|bound| bound.by)
        .max_by_key(|by| by.seconds);
    assert_eq!(latest, Some(write_time(ends)), "no bound is later");
    assert!(!before.complete);
    stage.bench.clock.advance(Duration::from_secs(60));
    let after = watch(ends).await;
    assert!(after.complete && after.bounds.is_empty(), "{after:?}");
    assert_eq!((after.live, after.in_force), (1, 0));
}

/// I-08: whoever watches sees an epoch come to every verifier, and the bound of those that it does not reach.
#[tokio::test]
async fn an_epoch_is_watched_until_it_is_in_force_everywhere() {
    let stage = Stage::new().await;
    let now = stage.opened.ledger.timeline().now();
    let (near, far) = (
        settled(&stage, "verifier/a").await,
        settled(&stage, "verifier/b").await,
    );
    revoke(&stage, "1.1").await;
    let mut fleet = stage.fleet().await;
    let mut watched = fleet
        .watch_epoch(watching(2))
        .await
        .expect("watches")
        .into_inner();
    let mut next = async || {
        watched
            .message()
            .await
            .expect("goes on")
            .map(|watched| watched.reach.expect("is told"))
    };
    let counts = |reach: &v1::EpochReach| (reach.live, reach.in_force, reach.laggards.len());
    assert_eq!(counts(&next().await.expect("the first")), (2, 0, 2));
    near.acknowledged(2, true, now);
    let reach = next().await.expect("a change");
    assert_eq!(counts(&reach), (2, 1, 1));
    assert_eq!(
        (reach.laggards[0].spiffe_id.as_str(), reach.bounds.len()),
        (far.key().spiffe_id.as_str(), 3)
    );
    drop(far);
    assert!(!next().await.expect("another").laggards[0].connected);
    // It hears of nothing, and stops by itself: the tolerant class a day after its lease.
    stage
        .bench
        .clock
        .advance(Duration::from_secs(24 * 3600 + 10 + 44));
    assert!(near.grant().is_some());
    assert_eq!(counts(&next().await.expect("the last")), (1, 1, 0));
    assert!(next().await.is_none(), "there is nothing more to tell");
    let refused = refusal(fleet.watch_epoch(watching(3)).await);
    assert_eq!(refused.0, Code::InvalidArgument);
}

#[tokio::test]
async fn a_verifier_in_quarantine_is_granted_nothing_also_after_a_restart() {
    let stage = Stage::new().await;
    let member = settled(&stage, "verifier/a").await;
    let mut fleet = stage.fleet().await;
    let spiffe_id = member.key().spiffe_id.as_str().to_owned();
    let quarantine = |reason: &str| v1::QuarantineVerifierRequest {
        spiffe_id: spiffe_id.clone(),
        reason: reason.to_owned(),
    };
    let refused = refusal(fleet.quarantine_verifier(quarantine("")).await);
    assert_eq!(refused.0, Code::InvalidArgument, "a reason is asked for");
    let bounds = fleet
        .quarantine_verifier(quarantine("odd"))
        .await
        .expect("does")
        .into_inner()
        .bounds;
    assert_eq!(bounds.len(), 3);
    assert!(member.grant().is_none() && member.is_quarantined());
    assert!(list(&mut fleet, 0, 0, String::new()).await.verifiers[0].quarantined);

    let release = || v1::ReleaseVerifierRequest {
        spiffe_id: spiffe_id.clone(),
    };
    fleet.release_verifier(release()).await.expect("releases");
    assert!(member.grant().is_some());
    let refused = refusal(fleet.release_verifier(release()).await);
    assert_eq!(refused, (Code::NotFound, "VERIFIER_UNKNOWN".to_owned()));

    fleet.quarantine_verifier(quarantine("odd")).await.expect("does");
    let again = Bench {
        fleet: Bench::over(Arc::clone(&stage.bench.store)).fleet,
        ..stage.bench.clone()
    };
    again.open().await;
    assert!(joined(&again, "verifier/a").is_quarantined());
}

#[tokio::test]
async fn a_verifier_that_is_gone_can_be_forgotten() {
    let stage = Stage::new().await;
    let member = settled(&stage, "verifier/a").await;
    let mut fleet = stage.fleet().await;
    let forget = |verifier_id: &str| v1::ForgetVerifierRequest {
        spiffe_id: verifier_key("verifier/a").spiffe_id.as_str().to_owned(),
        verifier_id: verifier_id.to_owned(),
        reason: "its node burnt".to_owned(),
    };
    let refused = refusal(fleet.forget_verifier(forget("1")).await);
    assert_eq!(
        refused,
        (Code::FailedPrecondition, "VERIFIER_CONNECTED".to_owned())
    );
    drop(member);
    let refused = refusal(fleet.forget_verifier(forget("2")).await);
    assert_eq!(refused, (Code::NotFound, "VERIFIER_UNKNOWN".to_owned()));
    fleet.forget_verifier(forget("1")).await.expect("forgets");
    assert_eq!(list(&mut fleet, 0, 0, String::new()).await.total, 0);
    assert_eq!(stage.opened.ledger.books().roster.known().count(), 0);
}

/// F11: an operator is told that verifiers are behind, and goes on with a reason.
#[tokio::test]
async fn a_key_that_a_verifier_lacks_is_activated_by_force_only() {
    let stage = Stage::new().await;
    let far = settled(&stage, "verifier/a").await;
    let mut keys = stage.keys().await;
    let prepared = keys
        .prepare_key(v1::PrepareKeyRequest::default())
        .await
        .expect("prepares")
        .into_inner();
    let key = prepared.key.expect("one");
    assert_eq!((key.published_in, key.acknowledged_by, key.verifiers), (2, 0, 1));
    let refused = refusal(keys.activate_key(v1::ActivateKeyRequest::default()).await);
    assert_eq!(refused, (Code::FailedPrecondition, "VERIFIERS_BEHIND".to_owned()));
    let now = stage.opened.ledger.timeline().now();
    far.acknowledged(2, false, now);
    let refused = refusal(keys.activate_key(v1::ActivateKeyRequest::default()).await);
    assert_eq!(refused.1, "VERIFIERS_BEHIND", "it had it on disk before");
    let forced = v1::ActivateKeyRequest {
        force_reason: "the node is off".to_owned(),
        ..v1::ActivateKeyRequest::default()
    };
    keys.activate_key(forced).await.expect("activates");
}
