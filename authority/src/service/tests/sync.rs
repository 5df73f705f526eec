//! The trust stream, with verifiers that are honest, slow, confused and hostile.

use std::time::Duration;

use countersign_core::names::TokenId;
use countersign_crypto::AwsLc;
use countersign_proto::admin::v1 as admin;
use countersign_proto::admin::v1::revoke_request::Subject;
use countersign_proto::sync::v1;
use countersign_proto::sync::v1::sync_request::Message;
pub(super) use countersign_proto::sync::v1::sync_response::Message as Answer;
use countersign_wire::trust::{read_heartbeat, read_update};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::stage::{NOBODY, OPERATOR, ORDERS, Stage, VERIFIER, eventually, reason, refusal};
use crate::alarm::Alarm;
use crate::test_util::START;

/// A verifier's end of a stream.
pub(super) struct Verifier {
    requests: mpsc::Sender<v1::SyncRequest>,
    responses: Streaming<v1::SyncResponse>,
}

pub(super) fn message(message: Message) -> v1::SyncRequest {
    v1::SyncRequest {
        message: Some(message),
    }
}

pub(super) fn hello(epoch: u64, digest: &[u8]) -> v1::Hello {
    v1::Hello {
        instance_id: "i-1".to_owned(),
        version: "0.1.0".to_owned(),
        epoch,
        state_digest: digest.to_vec(),
        ..v1::Hello::default()
    }
}

pub(super) async fn open(
    stage: &Stage,
    spiffe_id: &str,
    first: Option<v1::SyncRequest>,
) -> Result<Verifier, Status> {
    let (requests, outgoing) = mpsc::channel(8);
    if let Some(first) = first {
        requests.send(first).await.expect("has room");
    }
    let outgoing = ReceiverStream::new(outgoing);
    let responses = stage.sync(spiffe_id).await.sync(outgoing).await?.into_inner();
    Ok(Verifier { requests, responses })
}

pub(super) async fn join(stage: &Stage, spiffe_id: &str) -> Verifier {
    let first = message(Message::Hello(hello(0, &[])));
    open(stage, spiffe_id, Some(first)).await.expect("opens")
}

impl Verifier {
    pub(super) async fn send(&self, sent: Message) {
        self.requests.send(message(sent)).await.expect("is open");
    }

    pub(super) async fn next(&mut self) -> Answer {
        let next = self.responses.message().await.expect("goes on");
        next.expect("goes on").message.expect("a message")
    }

    /// The lease that a ping is answered with. It may take the store a moment to know the verifier.
    pub(super) async fn lease(&mut self) -> u64 {
        loop {
            self.send(Message::Ping(v1::Ping::default())).await;
            let Answer::Pong(pong) = self.next().await else {
                panic!("a pong")
            };
            if pong.lease_ms > 0 {
                return pong.lease_ms;
            }
        }
    }

    /// The same of one that is sent an update first.
    pub(super) async fn lease_behind(&mut self) -> u64 {
        self.send(Message::Ping(v1::Ping::default())).await;
        self.update().await;
        let Answer::Pong(pong) = self.next().await else {
            panic!("a pong")
        };
        pong.lease_ms
    }

    /// The epoch of the next message, which is an update.
    pub(super) async fn update(&mut self) -> (u64, Vec<u8>) {
        let Answer::Update(signed) = self.next().await else {
            panic!("an update")
        };
        let update = read_update(&signed.payload, &AwsLc).expect("reads");
        (update.epoch, update.state_digest.to_vec())
    }

    pub(super) async fn acknowledge(&self, epoch: u64, state_digest: Vec<u8>) {
        let ack = v1::Ack {
            epoch,
            state_digest,
            durable: true,
        };
        self.send(Message::Ack(ack)).await;
    }

    /// How the stream ends.
    async fn end(&mut self) -> Option<Status> {
        loop {
            match self.responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }
}

async fn revoke(stage: &Stage, token: &str) {
    let token = TokenId::parse(token).expect("valid");
    stage.opened.ledger.revoke_token_id(token).await.expect("revokes");
}

#[tokio::test]
async fn a_verifier_is_told_everything_and_its_acknowledgement_is_known() {
    let stage = Stage::new().await;
    let mut verifier = join(&stage, VERIFIER).await;
    let (epoch, digest) = verifier.update().await;
    assert_eq!(epoch, 1);
    verifier.acknowledge(epoch, digest).await;
    revoke(&stage, "1.1").await;
    let (epoch, digest) = verifier.update().await;
    assert_eq!(epoch, 2);
    assert_eq!(stage.bench.fleet.lacking(2), 1);
    verifier.acknowledge(epoch, digest).await;
    eventually("the acknowledgement", || stage.bench.fleet.lacking(2) == 0).await;

    let ping = v1::Ping {
        sequence: 77,
        ..Default::default()
    };
    verifier.send(Message::Ping(ping)).await;
    let Answer::Pong(pong) = verifier.next().await else {
        panic!("a pong")
    };
    let heartbeat = read_heartbeat(&pong.heartbeat.expect("a heartbeat").payload).expect("reads");
    assert_eq!((pong.ping_sequence, heartbeat.epoch), (77, 2));
    assert_eq!(heartbeat.revocation_count, 1);

    let listed = stage
        .fleet()
        .await
        .list_verifiers(admin::ListVerifiersRequest::default())
        .await;
    let listed = listed.expect("lists").into_inner();
    let [found] = listed.verifiers.as_slice() else {
        panic!("one: {listed:?}")
    };
    assert_eq!(
        (found.spiffe_id.as_str(), found.instance_id.as_str()),
        (VERIFIER, "i-1")
    );
    assert!(found.connected && found.durable && found.acknowledged_epoch == 2);
    drop(verifier);
    eventually("the end", || stage.bench.fleet.connected() == 0).await;
}

/// The answer to `Revoke` waits for a moment, so that it can say that the verifiers have it; and it says by when those refuse
/// that do not.
#[tokio::test]
async fn a_revocation_says_how_many_verifiers_have_it() {
    let stage = Stage::new().await;
    let mut verifier = join(&stage, VERIFIER).await;
    let mut deaf = join(&stage, "spiffe://example.org/verifier/deaf").await;
    for verifier in [&mut verifier, &mut deaf] {
        let (epoch, digest) = verifier.update().await;
        verifier.acknowledge(epoch, digest).await;
        assert_eq!(verifier.lease().await, 10_000);
    }
    let following = tokio::spawn(async move {
        let (epoch, digest) = verifier.update().await;
        verifier.acknowledge(epoch, digest).await;
        verifier
    });
    let mut revocations = stage.revocations().await;
    let request = admin::RevokeRequest {
        subject: Some(Subject::TokenId("1.1".to_owned())),
        reason: String::new(),
    };
    let revoked = revocations.revoke(request).await.expect("revokes").into_inner();
    let reach = revoked.reach.expect("is told");
    assert_eq!((revoked.epoch, reach.live, reach.in_force), (2, 2, 1));
    let by = |class: &str| {
        let bound = reach.bounds.iter().find(|bound| bound.class == class);
        bound
            .and_then(|bound| bound.by)
            .map(|by| by.seconds - i64::try_from(START).expect("small"))
    };
    // A lease, and what clocks may be apart; a token ends before the tolerant class does.
    assert_eq!((by("strict"), by("normal")), (Some(11), Some(911)));
    assert_eq!(by("tolerant"), Some(3600 + 60));
    assert_eq!(reach.laggards[0].spiffe_id, "spiffe://example.org/verifier/deaf");
    assert_eq!(deaf.lease_behind().await, 0, "it has not acknowledged the epoch");
    following.await.expect("follows");
}

/// S11: a certificate of the right authority is not the role.
#[tokio::test]
async fn nobody_but_a_verifier_gets_a_stream() {
    let stage = Stage::new().await;
    for who in [ORDERS, OPERATOR, NOBODY, "spiffe://elsewhere.org/verifier/a"] {
        let first = message(Message::Hello(hello(0, &[])));
        let refused = refusal(open(&stage, who, Some(first)).await.map(drop));
        assert_eq!(
            refused,
            (Code::PermissionDenied, "NOT_A_VERIFIER".to_owned()),
            "{who}"
        );
    }
}

/// G45: what a stream may not begin with.
#[tokio::test]
async fn a_stream_begins_with_a_hello_of_the_right_form() {
    let stage = Stage::new().await;
    let digest = *stage.opened.ledger.books().trust.digest();
    let with = |change: fn(&mut v1::Hello)| {
        let mut hello = hello(0, &[]);
        change(&mut hello);
        message(Message::Hello(hello))
    };
    for (n, first) in [
        v1::SyncRequest { message: None },
        message(Message::Ping(v1::Ping::default())),
        message(Message::Ack(v1::Ack::default())),
        message(Message::Nack(v1::Nack::default())),
        with(|hello| hello.instance_id.clear()),
        with(|hello| hello.instance_id = "a\nb".to_owned()),
        with(|hello| hello.instance_id = "x".repeat(65)),
        with(|hello| hello.version = "\u{1b}[2J".to_owned()),
        message(Message::Hello(hello(1, &digest[..31]))),
        message(Message::Hello(hello(2, &digest))),
        message(Message::Hello(hello(u64::MAX, &digest))),
    ]
    .into_iter()
    .enumerate()
    {
        let who = format!("{VERIFIER}{n}");
        let refused = refusal(open(&stage, &who, Some(first.clone())).await.map(drop));
        assert_eq!(refused.0, Code::InvalidArgument, "{first:?}");
    }
    assert_eq!(stage.bench.alarms(Alarm::VerifierAhead), 2);
    assert_eq!(stage.bench.fleet.connected(), 0);
    // One that holds the current state is sent nothing, and counts as being there.
    let first = message(Message::Hello(hello(1, &digest)));
    let _verifier = open(&stage, VERIFIER, Some(first)).await.expect("opens");
    assert_eq!(stage.bench.fleet.lacking(1), 0);
}

/// G46: two streams for one identity, and not too many in a row.
#[tokio::test]
async fn one_identity_has_two_streams() {
    let stage = Stage::new().await;
    let request = |instance: &str| {
        Some(message(Message::Hello(v1::Hello {
            instance_id: instance.to_owned(),
            ..hello(0, &[])
        })))
    };
    let first = open(&stage, VERIFIER, request("1")).await.expect("opens");
    let _second = open(&stage, VERIFIER, request("2")).await.expect("opens");
    let refused = refusal(open(&stage, VERIFIER, request("3")).await.map(drop));
    assert_eq!(refused, (Code::ResourceExhausted, "TOO_MANY_STREAMS".to_owned()));
    drop(first);
    eventually("a free place", || stage.bench.fleet.connected() == 1).await;
    let mut opened = 0;
    while let Ok(verifier) = open(&stage, VERIFIER, request("3")).await {
        opened += 1;
        assert!(opened < 100, "is limited");
        drop(verifier);
        eventually("a free place", || stage.bench.fleet.connected() == 1).await;
    }
}

/// Nobody comes twice: of two streams of one verifier the second holds, and the first is told.
#[tokio::test]
async fn a_second_stream_of_one_verifier_takes_the_place_of_the_first() {
    let stage = Stage::new().await;
    let mut first = join(&stage, VERIFIER).await;
    first.update().await;
    let mut second = join(&stage, VERIFIER).await;
    let ended = first.end().await.expect("is ended");
    assert_eq!(
        (ended.code(), reason(&ended).as_str()),
        (Code::Aborted, "STREAM_SUPERSEDED")
    );
    second.update().await;
    assert_eq!(stage.bench.fleet.connected(), 1);
}

/// What a verifier declares of itself is checked; who takes leave is waited for no more.
#[tokio::test]
async fn a_verifier_declares_its_budgets_and_takes_leave() {
    let stage = Stage::new().await;
    let budget = |class: &str, millis| v1::ClassBudget {
        class: class.to_owned(),
        revocations_ms: millis,
        keys_ms: millis,
    };
    let with = |budgets| {
        message(Message::Hello(v1::Hello {
            budgets,
            ..hello(0, &[])
        }))
    };
    for (n, budgets) in [
        vec![budget("Strict", 0)],
        vec![budget("a", 0), budget("a", 0)],
        vec![budget("a", 7 * 24 * 3600 * 1000 + 1)],
        (0..17).map(|n| budget(&format!("c{n}"), 0)).collect(),
    ]
    .into_iter()
    .enumerate()
    {
        let refused = refusal(
            open(&stage, &format!("{VERIFIER}{n}"), Some(with(budgets)))
                .await
                .map(drop),
        );
        assert_eq!(refused.0, Code::InvalidArgument, "{n}");
    }
    let first = Some(with(vec![budget("batch", 3_600_000)]));
    let mut verifier = open(&stage, VERIFIER, first).await.expect("opens");
    let (epoch, digest) = verifier.update().await;
    verifier.acknowledge(epoch, digest).await;
    verifier.lease().await;
    let reach = stage.bench.fleet.reach(2);
    let classes: Vec<&str> = reach.bounds.keys().map(|class| class.as_str()).collect();
    assert_eq!((reach.live, classes), (1, vec!["batch"]));
    verifier.send(Message::Leave(v1::Leave {})).await;
    eventually("it is gone", || stage.bench.fleet.reach(2).live == 0).await;
}

/// Who still accepts tokens under which key, and of whom.
#[tokio::test]
async fn the_use_of_keys_is_told_and_listed() {
    let stage = Stage::new().await;
    let verifier = join(&stage, VERIFIER).await;
    let kid = stage.opened.ledger.books().ring.keys()[0]
        .key_id()
        .as_str()
        .to_owned();
    let used = |kid: &str| v1::KeyUse {
        kid: kid.to_owned(),
        tokens: 5,
        clients: vec!["orders".to_owned(), "no client\n".to_owned()],
    };
    let uses = vec![used(&kid), used("no key")];
    verifier.send(Message::KeyUses(v1::KeyUses { uses })).await;
    let usage = || stage.bench.fleet.page(0, None, 1).verifiers[0].usage.clone();
    eventually("it is known", || !usage().is_empty()).await;
    let listed = stage
        .fleet()
        .await
        .list_verifiers(admin::ListVerifiersRequest::default())
        .await;
    let listed = listed.expect("lists").into_inner();
    let [usage] = listed.verifiers[0].key_usage.as_slice() else {
        panic!("one: {listed:?}")
    };
    assert_eq!((usage.kid.as_str(), usage.tokens), (kid.as_str(), 5));
    assert_eq!(usage.clients, ["orders"]);
}

/// G47: an acknowledgement of what was never sent changes nothing and is alarmed; the stream goes on.
#[tokio::test]
async fn an_acknowledgement_of_what_was_not_sent_is_ignored() {
    let stage = Stage::new().await;
    let mut verifier = join(&stage, VERIFIER).await;
    let (epoch, digest) = verifier.update().await;
    verifier.acknowledge(99, digest.clone()).await;
    verifier.acknowledge(u64::MAX, vec![]).await;
    verifier.acknowledge(epoch, vec![9; 32]).await;
    eventually("the alarms", || stage.bench.alarms(Alarm::AckNotSent) == 3).await;
    assert_eq!(stage.bench.fleet.lacking(1), 1);
    verifier.acknowledge(epoch, digest).await;
    eventually("the right one", || stage.bench.fleet.lacking(1) == 0).await;
}

#[tokio::test]
async fn a_refusal_is_remembered_and_a_snapshot_sent_when_asked_for() {
    let stage = Stage::new().await;
    let mut verifier = join(&stage, VERIFIER).await;
    verifier.update().await;
    let nack = |reason: &str| v1::Nack {
        epoch: 1,
        reason: reason.to_owned(),
        in_force_epoch: 0,
        resync: true,
    };
    verifier.send(Message::Nack(nack("update_digest"))).await;
    assert_eq!(verifier.update().await.0, 1);
    let nacked = || stage.bench.fleet.page(0, None, 1).verifiers[0].verifier.last_nack;
    assert_eq!(nacked(), "update_digest");
    // H10: what is in no table is no label.
    verifier.send(Message::Nack(nack("\"}\nevil 1"))).await;
    assert_eq!(verifier.update().await.0, 1);
    assert_eq!(nacked(), "other");
    verifier.send(Message::Nack(nack("update_digest"))).await;
    verifier.send(Message::Nack(nack("update_digest"))).await;
    let ended = verifier.end().await.expect("is cut");
    assert_eq!(reason(&ended), "LIMIT_REACHED");
}

/// A publishing key that is replaced, as it should be from time to time, is nothing to look into.
#[tokio::test]
async fn a_verifier_that_replaces_its_log_has_refused_nothing() {
    let stage = Stage::new().await;
    let mut verifier = join(&stage, VERIFIER).await;
    let (epoch, _) = verifier.update().await;
    let replaces = v1::Nack {
        epoch,
        reason: "publishers_changed".to_owned(),
        in_force_epoch: epoch,
        resync: true,
    };
    verifier.send(Message::Nack(replaces)).await;
    assert_eq!(verifier.update().await.0, epoch, "a snapshot");
    let listed = stage.bench.fleet.page(0, None, 1).verifiers;
    assert_eq!(listed[0].verifier.last_nack, "");
    let mut registry = Registry::default();
    stage.bench.metrics.register(&mut registry);
    let mut shown = String::new();
    prometheus_client::encoding::text::encode(&mut shown, &registry).expect("encodes");
    assert!(
        !shown.contains("publishers_changed"),
        "nor is it counted as refused"
    );
}

#[tokio::test]
async fn a_second_hello_or_nothing_ends_the_stream() {
    let stage = Stage::new().await;
    for (n, second) in [
        message(Message::Hello(hello(0, &[]))),
        v1::SyncRequest { message: None },
    ]
    .into_iter()
    .enumerate()
    {
        let mut verifier = join(&stage, &format!("{VERIFIER}{n}")).await;
        verifier.requests.send(second).await.expect("is open");
        let ended = verifier.end().await.expect("is cut");
        assert_eq!(ended.code(), Code::ResourceExhausted);
    }
}

#[tokio::test]
async fn a_flood_of_pings_ends_the_stream() {
    let stage = Stage::new().await;
    let Verifier {
        requests,
        mut responses,
    } = join(&stage, VERIFIER).await;
    let flood = tokio::spawn(async move {
        while requests
            .send(message(Message::Ping(v1::Ping::default())))
            .await
            .is_ok()
        {}
    });
    let ended = loop {
        match responses.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("is cut with a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::ResourceExhausted);
    flood.await.expect("ends");
}

/// F71: streams are told to end when the authority drains, and nobody is let in any more.
#[tokio::test]
async fn draining_ends_streams_with_a_reason() {
    let stage = Stage::new().await;
    let mut verifier = join(&stage, VERIFIER).await;
    stage.opened.feed.drain();
    let ended = verifier.end().await.expect("is told");
    assert_eq!(
        (ended.code(), reason(&ended).as_str()),
        (Code::Unavailable, "DRAINING")
    );
    let first = message(Message::Hello(hello(0, &[])));
    let refused = refusal(open(&stage, VERIFIER, Some(first)).await.map(drop));
    assert_eq!(refused.1, "DRAINING");
}

/// G33: a stream that says nothing does not last.
#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_ended() {
    let stage = Stage::new().await;
    let mut verifier = join(&stage, VERIFIER).await;
    verifier.update().await;
    let waited = tokio::time::timeout(Duration::from_secs(120), verifier.end()).await;
    let ended = waited.expect("ends").expect("is told");
    assert_eq!(ended.code(), Code::ResourceExhausted);
}

/// S22: a stream is renewed in time, so that its certificate is verified anew.
#[tokio::test(start_paused = true)]
async fn a_stream_is_renewed_after_a_while() {
    let stage = Stage::new().await;
    let Verifier {
        requests,
        mut responses,
    } = join(&stage, VERIFIER).await;
    let pinging = tokio::spawn(async move {
        while requests
            .send(message(Message::Ping(v1::Ping::default())))
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
    });
    let started = tokio::time::Instant::now();
    let ended = loop {
        match responses.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("is told why"),
            Err(status) => break status,
        }
    };
    let age = started.elapsed();
    assert_eq!(reason(&ended), "DRAINING");
    assert!(
        age > Duration::from_secs(1600) && age <= Duration::from_secs(1801),
        "{age:?}"
    );
    pinging.await.expect("ends");
}
