//! K20 to K22 on the bytes: what is published is believed as a whole, signed, or not at all.
#![expect(clippy::expect_used, reason = "helpers of tests")]

use countersign_core::Timestamp;
use countersign_core::jose::Algorithm;
use countersign_core::jwk::write_set;
use countersign_core::revocation::Sequences;
use countersign_core::trust::{Applied, UpdateRefused, UpdateRules};
use countersign_crypto::publishing::{Context, PinnedKeys, sign};
use countersign_crypto::{AwsLc, SigningKey};
use countersign_proto::trust::v1;
use countersign_vectors::Setting;
use countersign_wire::MAX_REVOCATIONS;
use countersign_wire::trust::{
    Heartbeat, read_heartbeat, read_update, read_update_in_part, write_heartbeat, write_update,
};
use prost::Message as _;

struct Publisher {
    key: SigningKey,
    pinned: PinnedKeys,
}

impl Publisher {
    fn new() -> Self {
        let key = SigningKey::generate(Algorithm::EdDsa).expect("generated");
        let pinned = PinnedKeys::read(write_set([key.jwk()]).as_bytes(), &AwsLc).expect("pinned");
        Self { key, pinned }
    }

    fn verify(&self, context: Context, payload: &[u8], signature: &[u8]) -> Result<(), UpdateRefused> {
        self.pinned
            .verify(self.key.key_id().as_str(), context, payload, signature)
    }
}

fn setting() -> Setting {
    Setting::at(Timestamp::from_seconds(1_800_000_000))
}

fn rules() -> UpdateRules {
    let setting = setting();
    UpdateRules {
        issuer: setting.issuer.clone(),
        max_revocations: 10,
        max_revocation_life: setting.max_lifetime,
        leeway: setting.leeway,
    }
}

/// What a setting publishes arrives as it was, and gives the state that the authority has.
#[test]
fn a_published_snapshot_arrives_whole() {
    let setting = setting();
    let update = read_update(&write_update(&setting.snapshot(7)), &AwsLc).expect("read");
    match rules().apply(None, 0, &update, setting.now, &AwsLc) {
        Ok(Applied::Advanced(state)) => assert_eq!(state.digest(), setting.trust_state_at(7).digest()),
        other => panic!("not advanced: {other:?}"),
    }
}

/// K20: cut at any byte, or with any byte changed, it is no longer what was signed; and were it signed so, it would not be
/// taken over.
#[test]
fn a_snapshot_that_is_cut_or_changed_is_refused() {
    let publisher = Publisher::new();
    let payload = write_update(&setting().snapshot(7));
    let signature = sign(&publisher.key, Context::Update, &payload).expect("signed");
    assert_eq!(publisher.verify(Context::Update, &payload, &signature), Ok(()));
    let rules = rules();
    let applied = |bytes: &[u8]| {
        let update = read_update(bytes, &AwsLc)?;
        rules.apply(None, 0, &update, setting().now, &AwsLc)
    };
    assert!(applied(&payload).is_ok());
    for index in 0..payload.len() {
        let cut = &payload[..index];
        let mut changed = payload.clone();
        changed[index] ^= 0x04;
        for bytes in [cut, &changed] {
            let verdict = publisher.verify(Context::Update, bytes, &signature);
            assert_eq!(verdict, Err(UpdateRefused::Signature), "{index}");
        }
        if index % 16 == 0 {
            assert!(applied(cut).is_err(), "{index}");
        }
    }
    let doubled = payload.repeat(2);
    assert_eq!(
        publisher.verify(Context::Update, &doubled, &signature),
        Err(UpdateRefused::Signature)
    );
}

/// K21: a heartbeat is believed under its own signature only.
#[test]
fn a_heartbeat_that_is_changed_is_refused() {
    let setting = setting();
    let publisher = Publisher::new();
    let heartbeat = Heartbeat {
        issuer: setting.issuer.clone(),
        epoch: 7,
        state_digest: *setting.trust_state_at(7).digest(),
        authority_time_millis: setting.now.as_seconds() * 1000,
        sequence: 12,
        revocation_count: 3,
        expires_at_millis: None,
    };
    let payload = write_heartbeat(&heartbeat);
    assert_eq!(read_heartbeat(&payload), Ok(heartbeat.clone()));
    let signature = sign(&publisher.key, Context::Heartbeat, &payload).expect("signed");
    assert_eq!(publisher.verify(Context::Heartbeat, &payload, &signature), Ok(()));
    assert_eq!(
        publisher.verify(Context::Update, &payload, &signature),
        Err(UpdateRefused::Signature)
    );
    let other = Publisher::new();
    assert_eq!(
        other.verify(Context::Heartbeat, &payload, &signature),
        Err(UpdateRefused::Signature)
    );
    for index in 0..payload.len() {
        let mut changed = payload.clone();
        changed[index] ^= 1;
        assert!(
            publisher
                .verify(Context::Heartbeat, &changed, &signature)
                .is_err(),
            "{index}"
        );
    }
    for index in 0..signature.len() {
        let mut changed = signature.clone();
        changed[index] ^= 1;
        assert!(
            publisher.verify(Context::Heartbeat, &payload, &changed).is_err(),
            "{index}"
        );
    }
}

/// K22: an entry that is no revocation refuses the update, and with it the state that it would give.
#[test]
fn a_malformed_revocation_refuses_the_update() {
    use v1::revocation::Subject;
    let good = v1::Revocation {
        subject: Some(Subject::TokenId("of-another-form".to_owned())),
        issued_before: 0,
        expires_at: 1_800_000_060,
    };
    let payload = |entry: v1::Revocation| {
        let payload = write_update(&setting().snapshot(7));
        let mut update = v1::EpochUpdate::decode(payload.as_slice()).expect("decoded");
        if let Some(v1::epoch_update::Content::Snapshot(snapshot)) = &mut update.content {
            snapshot.revocations.push(entry);
        }
        update.encode_to_vec()
    };
    let with = |entry: v1::Revocation| read_update(&payload(entry), &AwsLc).map(|_| ());
    assert_eq!(with(good.clone()), Ok(()));
    // Whoever is named twice makes two lists of one.
    let twice = || {
        let payload = payload(good.clone());
        let mut update = v1::EpochUpdate::decode(payload.as_slice()).expect("decoded");
        if let Some(v1::epoch_update::Content::Snapshot(snapshot)) = &mut update.content {
            snapshot.revocations.push(good.clone());
        }
        read_update(&update.encode_to_vec(), &AwsLc).map(|_| ())
    };
    assert_eq!(twice(), Err(UpdateRefused::Revocation));
    let malformed = |edit: &dyn Fn(&mut v1::Revocation)| {
        let mut entry = good.clone();
        edit(&mut entry);
        entry
    };
    let edits: [&dyn Fn(&mut v1::Revocation); 14] = [
        &|entry| entry.subject = None,
        // Its place is among the tokens with numbers.
        &|entry| entry.subject = Some(Subject::TokenId("a.1".to_owned())),
        &|entry| entry.subject = Some(Subject::SubjectName("client:a".to_owned())),
        &|entry| entry.subject = Some(Subject::Audience("*".to_owned())),
        &|entry| entry.subject = Some(Subject::CertificateThumbprint(vec![1; 31])),
        &|entry| entry.subject = Some(Subject::CertificateThumbprint(vec![1; 32])),
        &|entry| entry.subject = Some(Subject::TokenId(String::new())),
        &|entry| entry.subject = Some(Subject::TokenId("a/b\n".to_owned())),
        &|entry| entry.subject = Some(Subject::TokenId("a".repeat(65))),
        &|entry| entry.subject = Some(Subject::ClientId("*".to_owned())),
        &|entry| entry.subject = Some(Subject::ClientId("billing".to_owned())),
        &|entry| entry.issued_before = 1_800_000_000,
        &|entry| entry.expires_at = 0,
        &|entry| entry.expires_at = -1,
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        assert_eq!(
            with(malformed(edit)),
            Err(UpdateRefused::Revocation),
            "edit {number}"
        );
        // What it takes back besides can be read.
        let part = read_update_in_part(&payload(malformed(edit)), &AwsLc).expect("read");
        assert_eq!(part.left_out, 1, "edit {number}");
        let kept = setting().trust_state_at(7).revocations().len();
        assert_eq!(part.update.revocations().len(), kept);
    }
}

/// K22: a set of tokens that is not of its form is left out, and the update with it refused.
#[test]
fn a_malformed_set_of_tokens_refuses_the_update() {
    let good = v1::RevokedTokens {
        expires_at: 1_800_000_300,
        shard: 9,
        sequences: Sequences::from_iter([1, 2, 3]).write(),
    };
    let payload = |sets: &[v1::RevokedTokens]| {
        let payload = write_update(&setting().snapshot(7));
        let mut update = v1::EpochUpdate::decode(payload.as_slice()).expect("decoded");
        if let Some(v1::epoch_update::Content::Snapshot(snapshot)) = &mut update.content {
            snapshot.revoked_tokens.extend_from_slice(sets);
        }
        update.encode_to_vec()
    };
    let with = |sets: &[v1::RevokedTokens]| read_update(&payload(sets), &AwsLc).map(|_| ());
    let left_out =
        |sets: &[v1::RevokedTokens]| read_update_in_part(&payload(sets), &AwsLc).map(|part| part.left_out);
    assert_eq!(with(std::slice::from_ref(&good)), Ok(()));
    let edits: [&dyn Fn(&mut v1::RevokedTokens); 7] = [
        &|set| set.expires_at += 1,
        &|set| set.expires_at = 0,
        &|set| set.expires_at = -300,
        &|set| set.sequences.clear(),
        &|set| set.sequences = Sequences::default().write(),
        &|set| set.sequences.push(0),
        &|set| set.sequences.truncate(set.sequences.len() - 1),
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        let mut set = good.clone();
        edit(&mut set);
        assert_eq!(
            with(&[set.clone()]),
            Err(UpdateRefused::Revocation),
            "edit {number}"
        );
        assert_eq!(left_out(&[set]), Ok(1), "edit {number}");
    }
    let elsewhere = v1::RevokedTokens {
        expires_at: 1_800_000_600,
        ..good.clone()
    };
    assert_eq!(
        left_out(&[good.clone(), good.clone()]),
        Ok(1),
        "the same set twice"
    );
    assert_eq!(
        left_out(&[good, elsewhere]),
        Ok(3),
        "the same tokens until two times"
    );
}

/// K09: what stands for more tokens than anybody keeps is refused by its count, before it is gone through.
#[test]
fn a_bomb_of_tokens_is_refused_before_it_is_expanded() {
    let set = |count: u64| v1::RevokedTokens {
        expires_at: 1_800_000_300,
        shard: 9,
        sequences: Sequences::from_iter(0..count).write(),
    };
    let payload = |set: v1::RevokedTokens| {
        let payload = write_update(&setting().snapshot(7));
        let mut update = v1::EpochUpdate::decode(payload.as_slice()).expect("decoded");
        if let Some(v1::epoch_update::Content::Snapshot(snapshot)) = &mut update.content {
            snapshot.revocations.clear();
            snapshot.revoked_tokens = vec![set];
        }
        update.encode_to_vec()
    };
    let most = u64::try_from(MAX_REVOCATIONS).expect("fits");
    let read =
        |count: u64| read_update(&payload(set(count)), &AwsLc).map(|update| update.revocations().len());
    assert_eq!(read(most), Ok(MAX_REVOCATIONS));
    assert_eq!(read(most + 1), Err(UpdateRefused::TooLarge));
}
