//! The trust as a file: what a verifier would be sent, to operators only, one at a time.

use std::time::Duration;

use bytes::Bytes;
use countersign_core::Timestamp;
use countersign_core::fleet::trust_file_until;
use countersign_core::names::TokenId;
use countersign_core::ports::Clock as _;
use countersign_core::trust::UpdateContent;
use countersign_core::verifier::MAX_CLOCK_DIFFERENCE;
use countersign_crypto::AwsLc;
use countersign_crypto::publishing::{Context, PinnedKeys};
use countersign_proto::admin::v1::revoke_request::Subject;
use countersign_proto::admin::v1::{
    ActivateKeyRequest, ExportTrustRequest, PrepareKeyRequest, QuarantineVerifierRequest, RevokeRequest,
};
use countersign_proto::trust::v1::{Signed, TrustFile};
use countersign_wire::read_time;
use countersign_wire::trust::{read_heartbeat, read_update};
use countersign_wire::trust_file::read_trust_file;
use futures_util::StreamExt as _;
use tonic::{Code, Status};

use super::recovering::{prove, required, restored};
use super::stage::{Stage, refusal};
use crate::service::trust::pieces;
use crate::test_util::Logs;

const HOUR: Duration = Duration::from_secs(3600);

fn usual() -> ExportTrustRequest {
    ExportTrustRequest { lifetime: None }
}

fn lasting(seconds: i64) -> ExportTrustRequest {
    ExportTrustRequest {
        lifetime: Some(prost_types::Duration { seconds, nanos: 0 }),
    }
}

async fn export(stage: &Stage) -> Result<TrustFile, Status> {
    exported(stage, usual()).await
}

async fn exported(stage: &Stage, request: ExportTrustRequest) -> Result<TrustFile, Status> {
    let mut exports = stage.exports().await;
    let mut pieces = exports.export_trust(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.message().await? {
        bytes.extend(piece.piece);
    }
    Ok(read_trust_file(&bytes.into()).expect("a trust file"))
}

fn verified(stage: &Stage, context: Context, signed: &Signed) {
    let jwks = stage.opened.publishing_keys.as_bytes();
    let pinned = PinnedKeys::read(jwks, &AwsLc).expect("publishing keys");
    let good = pinned.verify(&signed.key_id, context, &signed.payload, &signed.signature);
    assert_eq!(good, Ok(()));
}

/// K12: the snapshot is of the current epoch and the heartbeat states exactly that, both signed as for a stream.
#[tokio::test]
async fn a_file_holds_the_current_state_and_a_heartbeat_for_it() {
    let logs = Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    for round in 0..2 {
        let token = TokenId::parse(&format!("1.{round}")).expect("valid");
        stage.opened.ledger.revoke_token_id(token).await.expect("revokes");
        let file = export(&stage).await.expect("is given out");
        let (snapshot, heartbeat) = (file.snapshot.expect("there"), file.heartbeat.expect("there"));
        verified(&stage, Context::Update, &snapshot);
        verified(&stage, Context::Heartbeat, &heartbeat);
        assert!(file.publishers.is_empty() && file.deltas.is_empty());

        let trust = stage.opened.ledger.books().trust.clone();
        let update = read_update(&snapshot.payload, &AwsLc).expect("an update");
        assert_eq!(
            (update.epoch, update.state_digest),
            (trust.epoch(), *trust.digest())
        );
        assert!(matches!(update.content, UpdateContent::Snapshot { .. }));
        let heartbeat = read_heartbeat(&heartbeat.payload).expect("a heartbeat");
        assert_eq!(
            (heartbeat.epoch, heartbeat.state_digest),
            (trust.epoch(), *trust.digest())
        );
        assert_eq!(heartbeat.revocation_count, round + 1);
        assert_eq!(heartbeat.lifetime(), Some(HOUR));
    }
    let text = logs.text();
    let audited = |line: &&str| line.contains("\"audit\"") && line.contains("export_trust");
    let audited: Vec<_> = text.lines().filter(audited).collect();
    assert_eq!(audited.len(), 2, "{text}");
    assert!(audited[1].contains("epoch 5"), "{}", audited[1]);
}

fn of_audience() -> RevokeRequest {
    RevokeRequest {
        subject: Some(Subject::Audience("billing".to_owned())),
        reason: "a test".to_owned(),
    }
}

/// When a file that is exported now has expired by every clock, and the authority counts with it no more.
fn told_end(stage: &Stage, lifetime: Duration) -> Timestamp {
    let until = trust_file_until(stage.bench.clock.now().saturating_add(lifetime), lifetime);
    until.saturating_add(Duration::from_secs(1))
}

/// I-08: nobody knows who starts from a file, so every receipt after it names when that has stopped, with the clock of whoever does
/// behind by as much as is believed; also after a restart, and no longer than tokens live.
#[tokio::test]
async fn receipts_count_on_whoever_starts_from_a_file() {
    let stage = Stage::new().await;
    exported(&stage, lasting(7200)).await.expect("is given out");
    let until = told_end(&stage, 2 * HOUR);
    let revoked = stage.revocations().await.revoke(of_audience()).await;
    let reach = revoked.expect("revokes").into_inner().reach.expect("a receipt");
    assert_eq!((reach.live, reach.complete), (0, false));
    let told = reach.trust_files_until.as_ref().and_then(read_time);
    let tokens_end = reach.tokens_end.as_ref().and_then(read_time).expect("known");
    assert_eq!(
        told,
        Some(until.min(tokens_end.saturating_add(MAX_CLOCK_DIFFERENCE)))
    );
    assert!(reach.bounds.is_empty());

    let watched = |stage: &Stage, epoch| stage.bench.fleet.reach(epoch).files_until;
    let ends = watched(&stage, 3).expect("counted");
    assert_eq!(stage.bench.fleet.time_of(ends), until);
    assert_eq!(watched(&stage, 2), None, "the file has that epoch");
    let restarted = stage.bench.copied().await;
    restarted.open().await;
    let ends = restarted.fleet.reach(3).files_until.expect("counted");
    assert_eq!(restarted.fleet.time_of(ends), until);

    restarted.clock.advance(until.since(restarted.clock.now()));
    assert!(restarted.fleet.reach(3).is_complete());
    assert_eq!(restarted.fleet.to_tell().expired, [2]);
}

/// A file that was given out while the store hears of another that has expired stays on record.
#[tokio::test]
async fn the_store_strikes_only_what_has_expired() {
    let stage = Stage::new().await;
    exported(&stage, lasting(60)).await.expect("is given out");
    stage.bench.clock.advance(HOUR);
    let untold = stage.bench.fleet.to_tell();
    assert_eq!(untold.expired, [2]);
    exported(&stage, lasting(3600)).await.expect("is given out");
    stage.opened.ledger.enrol(untold.clone()).await.expect("stores");
    stage.bench.fleet.told(&untold);
    let kept = || stage.opened.ledger.books().roster.exports().count();
    assert_eq!((kept(), stage.bench.fleet.to_tell().expired.len()), (1, 0));
    assert!(stage.bench.fleet.reach(4).files_until.is_some());

    stage.bench.clock.advance(3 * HOUR);
    let untold = stage.bench.fleet.to_tell();
    stage.opened.ledger.enrol(untold).await.expect("stores");
    assert_eq!(kept(), 0);
}

/// I-01: a key that a file lacks does not sign before the file has expired, unless an operator says so.
#[tokio::test]
async fn a_key_waits_for_files_without_it() {
    let stage = Stage::new().await;
    exported(&stage, lasting(60)).await.expect("is given out");
    let first_ends = told_end(&stage, Duration::from_secs(60));
    let mut keys = stage.keys().await;
    keys.prepare_key(PrepareKeyRequest::default())
        .await
        .expect("prepares");
    let refused = refusal(keys.activate_key(ActivateKeyRequest::default()).await);
    assert_eq!(refused, (Code::FailedPrecondition, "VERIFIERS_BEHIND".to_owned()));
    // A file with the key is no hindrance.
    exported(&stage, lasting(3600)).await.expect("is given out");
    stage
        .bench
        .clock
        .advance(first_ends.since(stage.bench.clock.now()));
    keys.activate_key(ActivateKeyRequest::default())
        .await
        .expect("activates");
}

/// Quarantine takes back no file, so its answer says until when one of these verifiers may start from one.
#[tokio::test]
async fn the_answer_to_a_quarantine_names_the_end_of_files() {
    let stage = Stage::new().await;
    let mut fleet = stage.fleet().await;
    let mut answered = async || {
        let request = QuarantineVerifierRequest {
            spiffe_id: "spiffe://example.org/sidecar/a".to_owned(),
            reason: "a test".to_owned(),
        };
        let answer = fleet.quarantine_verifier(request).await.expect("takes");
        answer.into_inner().trust_files_until.as_ref().and_then(read_time)
    };
    assert_eq!(answered().await, None);
    exported(&stage, lasting(3600)).await.expect("is given out");
    let until = told_end(&stage, HOUR);
    assert_eq!(answered().await, Some(until));
}

#[tokio::test]
async fn a_lifetime_is_a_minute_to_a_week() {
    let stage = Stage::new().await;
    for lifetime in [59, 7 * 24 * 3600 + 1, -1, 0] {
        let refused = exported(&stage, lasting(lifetime)).await.expect_err("is refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{lifetime}");
    }
    assert_eq!(stage.bench.fleet.files_until(), None);
}

#[tokio::test]
async fn a_file_that_could_not_be_written_down_is_not_given_out() {
    let stage = Stage::new().await;
    stage.opened.ledger.close().await;
    assert!(export(&stage).await.is_err());
    assert_eq!(stage.bench.fleet.files_until(), None);
}

/// D17, F30: what an authority that is behind itself signs must start nobody.
#[tokio::test]
async fn an_authority_that_is_not_recovered_gives_out_no_file() {
    let (stage, later) = restored().await;
    prove(&stage, later).await;
    assert_eq!(refusal(export(&stage).await), required());
}

#[tokio::test]
async fn one_file_is_given_out_at_a_time() {
    let stage = Stage::new().await;
    let exports = stage.giver.clone();
    let (exported, turn) = exports.clone().export(&usual()).await.expect("is given out");
    let giving = pieces(exported.file, turn);
    let refused = refusal(exports.clone().export(&usual()).await.map(drop));
    assert_eq!(refused, (Code::ResourceExhausted, "TOO_MANY_STREAMS".to_owned()));
    drop(giving);
    drop(exports.export(&usual()).await.expect("is given out"));
}

/// However large it is, it comes in small messages, and a caller that does not take them is cut.
#[tokio::test(start_paused = true)]
async fn a_file_comes_in_pieces_and_not_for_ever() {
    let turn = || async {
        let turns = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
        turns.acquire_owned().await.expect("is free")
    };
    let file: Bytes = (0..150_000_u32)
        .map(|n| n.to_le_bytes()[0])
        .collect::<Vec<_>>()
        .into();
    let given: Vec<_> = pieces(file.clone(), turn().await).collect().await;
    let given: Vec<_> = given
        .into_iter()
        .map(|piece| piece.expect("a piece").piece)
        .collect();
    assert!(given.iter().all(|piece| piece.len() <= 64 * 1024));
    assert_eq!((given.len(), given.concat()), (3, file.to_vec()));

    let mut slow = Box::pin(pieces(file, turn().await));
    slow.next().await.expect("one").expect("a piece");
    tokio::time::advance(Duration::from_secs(301)).await;
    assert_eq!(refusal(slow.next().await.expect("one")).0, Code::DeadlineExceeded);
    assert!(slow.next().await.is_none());
}
