//! The list against a map that does the same in the plainest way, over random histories (I-09, I-10, I-11, I-12).

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What is held for each subject: the watermark and the end.
type Model = BTreeMap<RevokedSubject, (Timestamp, Timestamp)>;

fn model_of(list: &RevocationList) -> Model {
    let entries = list.iter();
    entries
        .map(|entry| (entry.subject, (entry.issued_before, entry.expires_at)))
        .collect()
}

fn add(model: &mut Model, revocation: &Revocation) {
    let is_token = matches!(revocation.subject, RevokedSubject::Token(_));
    let is_numbered = revocation.subject.serial().is_some();
    let ends = revocation.expires_at.as_seconds();
    let ends = if is_numbered {
        ends.div_ceil(300) * 300
    } else {
        ends
    };
    let watermark = if is_token {
        0
    } else {
        revocation.issued_before.as_seconds()
    };
    let held = model.entry(revocation.subject.clone()).or_default();
    held.0 = held.0.max(Timestamp::from_seconds(watermark));
    held.1 = held.1.max(Timestamp::from_seconds(ends));
}

fn refuses(model: &Model, claims: &Claims) -> bool {
    model.iter().any(|(subject, (watermark, _))| {
        let concerned = match subject {
            RevokedSubject::Token(token_id) => return *token_id == claims.token_id,
            RevokedSubject::Client(client_id) => *client_id == claims.client_id,
            RevokedSubject::Subject(subject) => *subject == claims.subject,
            RevokedSubject::Audience(audience) => claims.audiences.contains(&audience.as_str().to_owned()),
            RevokedSubject::Certificate(thumbprint) => {
                claims.confirmation == Confirmation::Certificate(*thumbprint)
            }
            RevokedSubject::Everything => true,
        };
        assert_eq!(concerned, subject.concerns(claims));
        concerned && claims.issued_at <= *watermark
    })
}

/// Numbers at the edges of chunks, of the halves that bitmaps are made of, and of all.
fn serials() -> impl Strategy<Value = TokenSerial> {
    let edges = vec![0, 1 << 16, 1 << 20, 1 << 32, 5 << 20];
    let sequence = (prop::sample::select(edges), 0_u64..6)
        .prop_map(|(edge, offset): (u64, u64)| edge.wrapping_add(offset).wrapping_sub(3));
    let shard = prop::sample::select(vec![0, 1, u64::MAX]);
    (shard, sequence).prop_map(|(shard, sequence)| TokenSerial { shard, sequence })
}

fn subjects() -> impl Strategy<Value = RevokedSubject> {
    prop_oneof![
        6 => serials().prop_map(|serial| RevokedSubject::Token(serial.into())),
        1 => prop::sample::select(vec!["01.1", "1.01", "A.1", "1", "1.1.1", "."]).prop_map(token),
        1 => (0..3).prop_map(|n| client(&format!("c{n}"))),
        1 => (0..3).prop_map(|n| subject(&format!("client:td/c{n}"))),
        1 => (0..3).prop_map(|n| audience(&format!("a{n}"))),
        1 => (0_u8..3).prop_map(certificate),
        1 => Just(RevokedSubject::Everything),
    ]
}

fn revocations() -> impl Strategy<Value = Revocation> {
    (subjects(), 0_i64..10, 0_i64..2000)
        .prop_map(|(subject, watermark, ends)| entry(subject, watermark, ends))
}

/// What happens to a list.
#[derive(Clone, Debug)]
enum Event {
    Add(Revocation),
    Merge(Vec<Revocation>),
    Prune(i64),
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => revocations().prop_map(Event::Add),
        2 => vec(revocations(), 0..12).prop_map(Event::Merge),
        1 => (0_i64..2000).prop_map(Event::Prune),
    ]
}

fn happen(list: &mut RevocationList, model: &mut Model, event: &Event) {
    match event {
        Event::Add(revocation) => {
            list.add(revocation.clone());
            add(model, revocation);
        }
        Event::Merge(revocations) => {
            list.merge(&revocations.iter().cloned().collect());
            revocations.iter().for_each(|revocation| add(model, revocation));
        }
        Event::Prune(time) => {
            *list = list.pruned(after(*time));
            model.retain(|_, (_, ends)| *ends >= after(*time));
        }
    }
}

fn claims() -> impl Strategy<Value = Claims> {
    let token_id = prop_oneof![
        serials().prop_map(TokenId::from),
        Just(TokenId::parse("01.1").expect("a token id"))
    ];
    (token_id, 0..4, 0..4, 0_u8..4, 0_i64..12).prop_map(|(token_id, name, audience, certificate, issued)| {
        let mut claims = super::claims(&format!("c{name}"), token_id.as_str(), issued);
        claims.audiences = vec![format!("a{audience}")];
        claims.confirmation = Confirmation::Certificate(CertificateThumbprint::new([certificate; 32]));
        claims
    })
}

/// The same entries, put in backwards.
fn made_anew(list: &RevocationList) -> RevocationList {
    let mut entries: Vec<_> = list.iter().collect();
    entries.reverse();
    entries.into_iter().collect()
}

/// The same entries by way of what is sent to verifiers.
fn sent(list: &RevocationList) -> RevocationList {
    let mut received: RevocationList = list.others().collect();
    for tokens in list.tokens() {
        let sequences = Sequences::read(&tokens.sequences.write()).expect("what we write, we read");
        received.add_tokens(&RevokedTokens { sequences, ..tokens });
    }
    received
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_list_holds_what_the_model_holds(
        history in vec(events(), 0..25),
        tokens in vec(claims(), 20),
    ) {
        let (mut list, mut model) = (RevocationList::default(), Model::new());
        let mut stored: BTreeMap<ChunkName, Sequences> = BTreeMap::new();
        for event in &history {
            let before = list.clone();
            happen(&mut list, &mut model, event);
            stored.extend(list.chunks_changed_since(&before));
        }
        prop_assert_eq!(&model_of(&list), &model);
        prop_assert_eq!(list.len(), model.len());
        prop_assert_eq!(list.expiries().map(|(_, count)| count).sum::<usize>(), model.len());
        for (subject, (watermark, ends)) in &model {
            let found = list.find(subject).map(|entry| (entry.issued_before, entry.expires_at));
            prop_assert_eq!(found, Some((*watermark, *ends)));
        }
        for claims in &tokens {
            prop_assert_eq!(list.check(claims).is_err(), refuses(&model, claims), "{:?}", claims);
        }
        // I-10: equal lists have equal digests, however they came about.
        prop_assert_eq!(made_anew(&list).digest(), list.digest());
        let received = sent(&list);
        prop_assert_eq!(model_of(&received), model);
        prop_assert_eq!(received.digest(), list.digest());
        // What was stored on the way is what is held.
        let mut read: RevocationList = list.others().collect();
        for (name, sequences) in stored {
            read.add_tokens(&RevokedTokens { expires_at: name.expires_at, shard: name.shard, sequences });
        }
        prop_assert_eq!(read.digest(), list.digest());
        prop_assert_eq!(read.len(), list.len());
    }

    /// I-12: the strictest entry wins in any order of arrival; and what is beyond a list is what it does not cover.
    #[test]
    fn merging_is_the_same_in_any_order(
        one in vec(revocations(), 0..30),
        other in vec(revocations(), 0..30),
    ) {
        let (one, other): (RevocationList, RevocationList) = (one.into_iter().collect(), other.into_iter().collect());
        let (mut forth, mut back) = (one.clone(), other.clone());
        forth.merge(&other);
        back.merge(&one);
        prop_assert_eq!(model_of(&forth), model_of(&back));
        prop_assert_eq!(forth.digest(), back.digest());
        for entry in one.iter().chain(other.iter()) {
            prop_assert!(forth.covers(&entry));
        }
        let beyond = one.beyond(&other);
        let uncovered = one.iter().filter(|entry| !other.covers(entry));
        prop_assert_eq!(model_of(&beyond), model_of(&uncovered.collect()));
        prop_assert!(one.beyond(&forth).is_empty());
        prop_assert!(forth.beyond(&forth).is_empty());
    }

    /// A list is gone through page by page, from whatever entry on, and each entry comes once.
    #[test]
    fn pages_are_the_whole_list(held in vec(revocations(), 0..40), size in 1_usize..7) {
        let list: RevocationList = held.into_iter().collect();
        let mut paged: Vec<Revocation> = Vec::new();
        loop {
            let last = paged.last().map(|entry| entry.subject.clone());
            let page: Vec<_> = list.after(last.as_ref()).take(size).collect();
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        prop_assert_eq!(paged, list.iter().collect::<Vec<_>>());
    }

    /// What is capped is held for no longer, and nothing is lost.
    #[test]
    fn capping_shortens_and_drops_nothing(held in vec(revocations(), 0..40), latest in 0_i64..2000) {
        let list: RevocationList = held.into_iter().collect();
        let capped = list.capped(after(latest));
        prop_assert_eq!(capped.len(), list.len());
        for entry in capped.iter() {
            let before = list.find(&entry.subject).expect("from there");
            let cap = if entry.subject.serial().is_some() { (latest + 299) / 300 * 300 } else { latest };
            prop_assert_eq!(entry.expires_at, before.expires_at.min(after(cap)));
            prop_assert_eq!(entry.issued_before, before.issued_before);
        }
    }
}

/// The numbers that the edges above are about.
#[test]
fn a_list_keeps_the_largest_numbers_apart() {
    let serial = |sequence| TokenSerial {
        shard: u64::MAX,
        sequence,
    };
    let all = [0, 1, (1 << 20) - 1, 1 << 20, u64::MAX - 1, u64::MAX];
    let list: RevocationList = all
        .iter()
        .map(|sequence| entry(RevokedSubject::Token(serial(*sequence).into()), 0, 600))
        .collect();
    let kept: Vec<_> = list.iter().map(|entry| entry.subject).collect();
    let expected = all.map(|sequence| RevokedSubject::Token(serial(sequence).into()));
    assert_eq!(kept, expected);
}

/// F35: one more entry copies the chunk that it is in and shares all others.
#[test]
fn one_more_entry_copies_one_chunk() {
    let list: RevocationList = (0..100_u64)
        .map(|n| TokenSerial {
            shard: 1,
            sequence: n << 20,
        })
        .map(|serial| entry(RevokedSubject::Token(serial.into()), 0, 600))
        .collect();
    let more = list.with(entry(token("1.500001"), 0, 600));
    assert_eq!(more.len(), 101);
    assert_eq!(more.tokens.chunks_shared_with(&list.tokens), 99);
    assert_eq!(more.chunks_changed_since(&list).len(), 1);
}
