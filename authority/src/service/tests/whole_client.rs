//! A client with very many tokens is taken back.

use std::time::Duration;

use countersign_core::claims::Claims;
use countersign_core::names::TokenSerial;
use countersign_core::staleness::StalenessBudget;
use countersign_core::trust::{Applied, TrustState, UpdateRules};
use countersign_core::verifying::{TrustView, authenticate};
use countersign_core::{Rejection, Timestamp};
use countersign_crypto::AwsLc;
use countersign_proto::admin::v1 as admin;
use countersign_proto::admin::v1::revoke_request::Subject;
use countersign_wire::trust::read_update;

use super::stage::{Stage, ask};
use super::sync::{Answer, Verifier, join};
use crate::store::{read_all, revocations};
use crate::test_util::{Bench, START, client_id, registration};

/// So many live tokens.
const TOKENS: u64 = 100_000;

/// More than a delta takes for one client, and far less than for its tokens.
const FEW_BYTES: usize = 512;

/// What a token says that a new client is really issued.
async fn issued(stage: &Stage, client: &str) -> Claims {
    let registration = registration(Some(client));
    let created = stage
        .opened
        .ledger
        .create_client(client_id(client), registration, false);
    created.await.expect("creates");
    let spiffe_id = format!("spiffe://example.org/{client}");
    let issued = stage.tokens(&spiffe_id).await.issue_token(ask()).await;
    let token = issued.expect("issues").into_inner().access_token;
    let books = stage.opened.ledger.books();
    let view = Ok(TrustView::current(&books.trust));
    let (_, authentic) = authenticate(token.as_bytes(), view, &StalenessBudget::STRICT).expect("is ours");
    authentic.claims().clone()
}

/// The live tokens of the client: as `one`, each with its own `jti`, issued in any of the last fifteen minutes' seconds.
fn live(one: &Claims) -> impl Iterator<Item = Claims> {
    let serial = one.token_id.serial().expect("two numbers");
    let issued_at = move |n: u64| one.issued_at.saturating_sub(Duration::from_secs(n % 900));
    (0..TOKENS).map(move |n| Claims {
        token_id: TokenSerial {
            sequence: n,
            ..serial
        }
        .into(),
        issued_at: issued_at(n),
        expires_at: issued_at(n).saturating_add(Duration::from_secs(900)),
        ..one.clone()
    })
}

/// A verifier that takes over what it is told.
struct Holder {
    stream: Verifier,
    held: Option<TrustState>,
}

impl Holder {
    async fn join(stage: &Stage, name: &str) -> Self {
        let mut holder = Self {
            stream: join(stage, &format!("spiffe://example.org/verifier/{name}")).await,
            held: None,
        };
        let current = stage.opened.ledger.books().trust.epoch();
        while holder.held.as_ref().map(TrustState::epoch) != Some(current) {
            holder.follow().await;
        }
        holder.stream.lease().await;
        holder
    }

    /// Takes over the next update. Its length.
    async fn follow(&mut self) -> usize {
        let Answer::Update(signed) = self.stream.next().await else {
            panic!("an update")
        };
        let update = read_update(&signed.payload, &AwsLc).expect("reads");
        let rules = UpdateRules {
            issuer: update.issuer.clone(),
            max_revocations: 1000,
            max_revocation_life: Bench::policy().revocation_life,
            leeway: Duration::from_secs(5),
        };
        let now = Timestamp::from_seconds(START + 60);
        let applied = rules.apply(self.held.as_ref(), 0, &update, now, &AwsLc);
        let Ok(Applied::Advanced(next)) = applied else {
            panic!("is not taken over: {applied:?}")
        };
        self.stream
            .acknowledge(next.epoch(), next.digest().to_vec())
            .await;
        self.held = Some(next);
        signed.payload.len()
    }

    fn check(&self, claims: &Claims) -> Result<(), Rejection> {
        self.held.as_ref().expect("holds").revocations().check(claims)
    }

    /// It holds one record, by which every token of the client is refused, and nothing else.
    fn refuses_all(&self, revoked: &Claims, other: &Claims) {
        let held = self.held.as_ref().expect("holds");
        assert_eq!(held.revocations().len(), 1);
        for claims in live(revoked) {
            assert_eq!(self.check(&claims), Err(Rejection::ClientRevoked), "{claims:?}");
        }
        assert!(live(other).all(|claims| self.check(&claims).is_ok()));
        let next_second = Claims {
            issued_at: revoked.issued_at.saturating_add(Duration::from_secs(1)),
            ..revoked.clone()
        };
        assert_eq!(self.check(&next_second), Ok(()), "it may have more");
    }
}

async fn revoke(stage: &Stage, client: &str) -> admin::RevokeResponse {
    let request = admin::RevokeRequest {
        subject: Some(Subject::ClientId(client.to_owned())),
        reason: "a test".to_owned(),
    };
    let revoked = stage.revocations().await.revoke(request).await;
    revoked.expect("revokes").into_inner()
}

/// F36, I-08, I-12: one record and one epoch, whose update is as short as for one token. Who is connected refuses every one of them
/// when it is answered, who is not by the bound; who comes later holds the same; and a second time takes the place of the first.
#[tokio::test(start_paused = true)]
async fn a_client_with_very_many_tokens_is_revoked_everywhere_by_one_record() {
    let stage = Stage::new().await;
    let (orders, billing) = (issued(&stage, "orders").await, issued(&stage, "billing").await);
    let mut connected = [Holder::join(&stage, "a").await, Holder::join(&stage, "b").await];
    let mut deaf = Holder::join(&stage, "deaf").await;
    for epoch in [2, 3] {
        let following = connected.map(|mut holder| {
            tokio::spawn(async move {
                assert!(holder.follow().await < FEW_BYTES);
                holder
            })
        });
        let revoked = revoke(&stage, "orders").await;
        let reach = revoked.reach.expect("is told");
        assert_eq!((revoked.epoch, revoked.already), (epoch, false));
        assert_eq!((reach.live, reach.in_force), (3, 2));
        let normal = reach.bounds.iter().find(|bound| bound.class == "normal");
        let by = normal.and_then(|bound| bound.by).expect("one is deaf").seconds;
        assert_eq!(by, i64::try_from(START + 911).expect("small"));
        let [a, b] = following;
        connected = [a.await.expect("follows"), b.await.expect("follows")];
        let records = read_all(stage.bench.store.as_ref(), revocations::PREFIX).await;
        assert_eq!(records.expect("reads").len(), 1);
        let revoked_now = Claims {
            issued_at: stage.opened.ledger.timeline().now(),
            ..orders.clone()
        };
        for holder in &connected {
            holder.refuses_all(&revoked_now, &billing);
        }
        stage.bench.clock.advance(Duration::from_secs(10));
    }
    assert_eq!(
        deaf.check(&orders),
        Ok(()),
        "it has not heard, and ends by the bound"
    );
    deaf.follow().await;
    assert_eq!(deaf.check(&orders), Err(Rejection::ClientRevoked));
    let newcomer = Holder::join(&stage, "c").await;
    deaf.follow().await;
    for holder in [newcomer, deaf] {
        assert_eq!(
            holder.held.map(|held| *held.digest()),
            connected[0].held.as_ref().map(|held| *held.digest())
        );
    }
}
