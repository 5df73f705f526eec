//! What operators take back.

use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::names::TokenId;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::revoke_request::Subject;
use countersign_wire::write_time;
use tonic::Code;

use super::stage::{ORDERS, Stage, ask, refusal};
use crate::test_util::{Bench, Logs, START, client_id, registration};

fn revoke(subject: Subject) -> v1::RevokeRequest {
    v1::RevokeRequest {
        subject: Some(subject),
        reason: "a test".to_owned(),
    }
}

/// What `Revoke` says about a token: ours, expired, another's, garbage.
#[tokio::test]
async fn a_token_is_revoked_by_showing_it() {
    let logs = Logs::default();
    let _capturing = logs.capture();
    let stage = Stage::new().await;
    let ledger = &stage.opened.ledger;
    ledger
        .create_client(client_id("orders"), registration(Some("orders")), false)
        .await
        .expect("creates");
    let issued = stage.tokens(ORDERS).await.issue_token(ask()).await;
    let token = issued.expect("issues").into_inner().access_token;
    let mut revocations = stage.revocations().await;

    let mut by_token = async |token: &str| revocations.revoke(revoke(Subject::Token(token.to_owned()))).await;
    let done = by_token(&token).await.expect("revokes").into_inner();
    assert_eq!(
        (done.epoch, done.token_id.as_str(), done.already),
        (2, format!("{:x}.0", stage.opened.shard).as_str(), false)
    );
    assert_eq!(done.reach.map(|reach| (reach.live, reach.in_force)), Some((0, 0)));
    let again = by_token(&token).await.expect("is done").into_inner();
    assert_eq!((again.epoch, again.already), (2, true));

    let (signed, _) = token.rsplit_once('.').expect("three parts");
    let tampered = format!("{signed}.{}", "A".repeat(86));
    let other = Stage::new().await;
    let ledger = &other.opened.ledger;
    ledger
        .create_client(client_id("orders"), registration(Some("orders")), false)
        .await
        .expect("creates");
    let foreign = other.tokens(ORDERS).await.issue_token(ask()).await;
    let foreign = foreign.expect("issues").into_inner().access_token;
    for bad in [tampered.as_str(), "garbage", "a.b.c", &foreign] {
        let refused = refusal(by_token(bad).await);
        assert_eq!(refused, (Code::InvalidArgument, "TOKEN_NOT_OURS".to_owned()));
    }
    for bad in ["", &"x".repeat(9000)] {
        assert_eq!(refusal(by_token(bad).await).0, Code::InvalidArgument);
    }

    // One that has expired needs no revocation.
    let issued = stage.tokens(ORDERS).await.issue_token(ask()).await;
    let expired = issued.expect("issues").into_inner().access_token;
    stage.bench.clock.advance(Duration::from_secs(901));
    let done = by_token(&expired).await.expect("is done").into_inner();
    assert_eq!(
        (done.epoch, done.already, done.token_id.as_str()),
        (2, true, format!("{:x}.1", stage.opened.shard).as_str())
    );
    assert_eq!(done.expires_at, None);

    // Everything under a compromised key is refused already.
    let kid = stage.opened.ledger.books().ring.keys()[0].key_id().clone();
    let compromised = stage
        .revocations()
        .await
        .revoke(revoke(Subject::KeyId(kid.as_str().to_owned())))
        .await;
    assert!(!compromised.expect("revokes").into_inner().already);
    let done = by_token(&expired).await.expect("is done").into_inner();
    assert!(done.already && done.token_id.is_empty());
    assert!(!logs.text().contains(&token), "H11");
}

#[tokio::test]
async fn revocations_name_a_subject_of_the_right_form() {
    let stage = Stage::new().await;
    let mut revocations = stage.revocations().await;
    let at = |seconds: i64| Subject::IssuedBefore(prost_types::Timestamp { seconds, nanos: 0 });
    let now = i64::try_from(START).expect("fits");
    for subject in [
        Subject::TokenId(String::new()),
        Subject::TokenId("a b".to_owned()),
        Subject::TokenId("nope".to_owned()),
        Subject::TokenId("2C.B".to_owned()),
        Subject::TokenId("2c.0b".to_owned()),
        Subject::TokenId("2c.b.1".to_owned()),
        Subject::TokenId("11112222333344445.1".to_owned()),
        Subject::ClientId("*".to_owned()),
        Subject::KeyId("x".to_owned()),
        Subject::SubjectName("orders".to_owned()),
        Subject::SubjectName("client:example.org/*".to_owned()),
        Subject::Audience("*".to_owned()),
        Subject::Audience(String::new()),
        Subject::CertificateThumbprint(vec![1; 31]),
        at(now + 1),
        at(-1),
        at(0),
    ] {
        let refused = refusal(revocations.revoke(revoke(subject.clone())).await);
        assert_eq!(refused.0, Code::InvalidArgument, "{subject:?}");
    }
    let missing = refusal(revocations.revoke(v1::RevokeRequest::default()).await);
    assert_eq!(missing.0, Code::InvalidArgument);
    let unknown = revoke(Subject::ClientId("nobody".to_owned()));
    let unknown = refusal(revocations.revoke(unknown).await);
    assert_eq!(unknown, (Code::NotFound, "CLIENT_UNKNOWN".to_owned()));
    let everything = revocations.revoke(revoke(at(now))).await.expect("revokes");
    assert_eq!(everything.into_inner().epoch, 2);
}

#[tokio::test]
async fn revocations_are_listed_a_page_at_a_time() {
    let stage = Stage::new().await;
    for n in 0..5 {
        let token = TokenId::parse(&format!("1.{n}")).expect("valid");
        stage.opened.ledger.revoke_token_id(token).await.expect("revokes");
    }
    let now = stage.opened.ledger.timeline().now();
    stage.opened.ledger.revoke_everything(now).await.expect("revokes");
    let mut revocations = stage.revocations().await;
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListRevocationsRequest {
            page_size: 2,
            page_token,
        };
        let page = revocations
            .list_revocations(request)
            .await
            .expect("lists")
            .into_inner();
        assert_eq!(page.total, 6);
        found.extend(page.revocations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(found.len(), 6);
    let everything = found
        .iter()
        .filter(|record| record.issued_before.is_some())
        .count();
    assert_eq!(everything, 1);
    for page_token in ["%", "/", "\u{e9}"] {
        let request = v1::ListRevocationsRequest {
            page_size: 2,
            page_token: page_token.to_owned(),
        };
        let refused = refusal(revocations.list_revocations(request).await);
        assert_eq!(refused.0, Code::InvalidArgument, "{page_token}");
    }
}

/// Each of the other kinds is revoked by its own name, and listed as that.
#[tokio::test]
async fn subjects_audiences_and_certificates_are_revoked_and_listed() {
    use v1::revocation_record::Subject as Listed;
    let stage = Stage::new().await;
    let mut revocations = stage.revocations().await;
    let subject = "client:example.org/orders".to_owned();
    for wanted in [
        Subject::SubjectName(subject.clone()),
        Subject::Audience("inventory".to_owned()),
        Subject::CertificateThumbprint(vec![7; 32]),
    ] {
        let done = revocations.revoke(revoke(wanted.clone())).await.expect("revokes");
        assert!(!done.into_inner().already, "{wanted:?}");
        let again = revocations.revoke(revoke(wanted.clone())).await.expect("is done");
        assert!(again.into_inner().already, "{wanted:?}");
    }
    let listed = revocations
        .list_revocations(v1::ListRevocationsRequest::default())
        .await
        .expect("lists")
        .into_inner();
    let named: Vec<_> = listed
        .revocations
        .into_iter()
        .map(|record| (record.subject, record.issued_before.is_some()))
        .collect();
    let expected = [
        Listed::SubjectName(subject),
        Listed::Audience("inventory".to_owned()),
        Listed::CertificateThumbprint(vec![7; 32]),
    ];
    assert_eq!(named, expected.map(|subject| (Some(subject), true)));
}

/// A single token's entry ends at a multiple of 300 seconds.
const ROUNDED_UP: Duration = Duration::from_secs(300 - (START + 4505) % 300);

/// Whoever revokes is told how long the entry is kept, as it is listed: a certificate may be good for longer, and then has to be revoked
/// again. There is nothing to tell of a key, nor of a token that had expired.
#[tokio::test]
async fn the_receipt_says_until_when_the_entry_is_kept() {
    let stage = Stage::new().await;
    let (policy, now) = (Bench::policy(), Timestamp::from_seconds(START));
    let mut revocations = stage.revocations().await;
    let mut ends = async |subject| {
        let revoked = revocations.revoke(revoke(subject)).await.expect("revokes");
        revoked.into_inner().expires_at
    };
    let after = |life| Some(write_time(now.saturating_add(life)));
    let certificate = || Subject::CertificateThumbprint(vec![7; 32]);
    let kept = ends(certificate()).await;
    assert_eq!(kept, after(policy.certificate_life));
    assert_eq!(kept, after(Duration::from_secs(24 * 3600)));
    assert_eq!(ends(certificate()).await, kept, "already");
    let audience = Subject::Audience("billing".to_owned());
    assert_eq!(ends(audience).await, after(policy.revocation_life));
    let everything = Subject::IssuedBefore(write_time(now));
    assert_eq!(ends(everything).await, after(policy.revocation_life));
    let token = ends(Subject::TokenId("1.1".to_owned())).await;
    assert_eq!(token, after(policy.revocation_life + ROUNDED_UP));
    let kid = stage.opened.ledger.books().ring.keys()[0].key_id().clone();
    assert_eq!(ends(Subject::KeyId(kid.as_str().to_owned())).await, None);

    let listed = revocations.list_revocations(v1::ListRevocationsRequest::default());
    let listed = listed.await.expect("lists").into_inner().revocations;
    let listed: Vec<_> = listed.iter().map(|record| record.expires_at).collect();
    let [of_token, of_audience, of_certificate, of_everything] = listed[..] else {
        panic!("{listed:?}")
    };
    assert_eq!((of_token, of_certificate), (token, kept));
    assert_eq!(of_audience, of_everything);
}

/// I-08: whoever has a key signs new tokens under it, so that no token's end bounds how long verifiers that have not heard accept them.
/// Whoever has a certificate presents tokens over it that are bound to its SPIFFE ID, the next ones too.
#[tokio::test]
async fn the_receipt_for_a_key_or_a_certificate_is_not_bounded_by_the_life_of_tokens() {
    let stage = Stage::new().await;
    let signing = || {
        let books = stage.opened.ledger.books();
        let key = books.ring.signing(stage.opened.ledger.timeline().now());
        key.expect("signs").key_id().as_str().to_owned()
    };
    let compromise = v1::CompromiseKeyRequest {
        kid: signing(),
        reason: "a test".to_owned(),
    };
    let withdrawn = stage.keys().await.compromise_key(compromise).await;
    let reach = withdrawn.expect("withdraws").into_inner().reach;
    assert_eq!(reach.expect("a receipt").tokens_end, None);
    let mut revocations = stage.revocations().await;
    for (subject, ends) in [
        (Subject::KeyId(signing()), false),
        (Subject::CertificateThumbprint(vec![7; 32]), false),
        (Subject::Audience("billing".to_owned()), true),
    ] {
        let revoked = revocations.revoke(revoke(subject)).await.expect("revokes");
        let reach = revoked.into_inner().reach.expect("a receipt");
        assert_eq!(reach.tokens_end.is_some(), ends);
    }
}
