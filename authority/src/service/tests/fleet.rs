//! What operators are told of verifiers: all of them, also those who are away, and whether more may come back.

use std::time::Duration;

use countersign_proto::admin::v1::fleet_service_client::FleetServiceClient;
use countersign_proto::admin::v1::{ListVerifiersRequest, ListVerifiersResponse};
use tonic::Code;
use tonic::transport::Channel;

use super::stage::{Setting, Stage, refusal};
use crate::fleet::Membership;
use crate::test_util::{Bench, spiffe_id};

/// A verifier with a stream open, at no epoch.
fn joined(bench: &Bench, name: &str) -> Membership {
    let now = countersign_core::Timestamp::from_seconds(crate::test_util::START);
    let joined = bench
        .fleet
        .join(&spiffe_id(name), name.to_owned(), "1".to_owned(), now);
    joined.expect("joins")
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

#[tokio::test]
async fn who_lacks_an_epoch_is_told_also_of_those_who_are_away() {
    let stage = Stage::new().await;
    let now = stage.opened.ledger.timeline().now();
    let there = joined(&stage.bench, "verifier/a");
    there.acknowledged(1, true, now);
    drop(joined(&stage.bench, "verifier/b"));
    let answer = list(&mut stage.fleet().await, 1, 0, String::new()).await;
    let [away] = answer.verifiers.as_slice() else {
        panic!("one: {answer:?}")
    };
    assert_eq!((away.instance_id.as_str(), away.connected), ("verifier/b", false));
    assert_eq!(answer.total, 2);
}

/// After a restart nobody is known; what is said of the fleet then is not the whole of it.
#[tokio::test]
async fn the_fleet_gathers_after_a_restart_and_not_after_the_first_start() {
    let bench = Bench::new();
    let with = |bench: &Bench| Setting {
        bench: bench.clone(),
        ..Setting::default()
    };
    let first = Stage::with(with(&bench)).await;
    assert!(
        !list(&mut first.fleet().await, 0, 0, String::new())
            .await
            .gathering
    );
    drop(first);
    let second = Stage::with(with(&bench)).await;
    let mut fleet = second.fleet().await;
    assert!(list(&mut fleet, 0, 0, String::new()).await.gathering);
    bench.clock.advance(Duration::from_secs(29));
    assert!(list(&mut fleet, 0, 0, String::new()).await.gathering);
    bench.clock.advance(Duration::from_secs(1));
    assert!(!list(&mut fleet, 0, 0, String::new()).await.gathering);
}
