//! Publishing keys change, and the sidecar starts again at every step of it.

use countersign_core::publishers::{LinkRefused, Offered};
use countersign_core::verifier::StateId;
use countersign_crypto::publishing::Context;

use super::*;

impl Desk {
    /// The process ends, and another one starts that pins what `publishers` does.
    async fn start_pinning(&mut self, publishers: Publishers) -> Opened {
        self.publishers = publishers;
        self.open().await
    }

    async fn restart(&mut self, before: Opened) -> Opened {
        assert!(before.cache.close().await);
        let publishers = self.authority.publishers();
        self.start_pinning(publishers).await
    }

    async fn save(&self, cache: &TrustCache, delta: &Signed) -> Saved {
        cache.save_delta(delta, self.reached(), &self.publishers).await
    }

    /// A sidecar that pins the first key, and has taken over the second, which signs now.
    async fn rotated() -> (Self, Opened) {
        let mut desk = Self::filled().await;
        let opened = desk.start().await;
        let (link, delta) = desk.authority.prepare_publisher();
        assert_eq!(desk.publishers.offer(&link), Ok(Offered::Adopted));
        assert!(desk.save(&opened.cache, &delta).await.durable);
        desk.authority.activate_publisher();
        (desk, opened)
    }

    /// The same, and the first key is retired, durably.
    pub(super) async fn retired() -> (Self, Opened) {
        let (mut desk, opened) = Self::rotated().await;
        let (link, _delta) = desk.authority.retire_publisher();
        assert_eq!(desk.publishers.offer(&link), Ok(Offered::Adopted));
        assert!(desk.save_snapshot(&opened.cache).await.durable);
        (desk, opened)
    }

    async fn start(&mut self) -> Opened {
        let publishers = self.authority.publishers();
        self.start_pinning(publishers).await
    }
}

/// A link is on disk with the epoch that names it, and a restart begins with both or with neither.
#[tokio::test]
async fn a_link_is_on_disk_with_the_epoch_that_names_it() {
    let mut desk = Desk::filled().await;
    let opened = desk.start().await;
    let (link, delta) = desk.authority.prepare_publisher();
    assert_eq!(desk.publishers.offer(&link), Ok(Offered::Adopted));
    assert_eq!((desk.publishers.generation(), desk.publishers.durable()), (2, 0));

    // A crash before the epoch is saved: neither is there, and the link is taken over again.
    let opened = desk.restart(opened).await;
    assert_eq!((trust(&opened).0.epoch(), desk.publishers.generation()), (4, 0));
    assert_eq!(desk.publishers.offer(&link), Ok(Offered::Adopted));
    assert!(desk.save(&opened.cache, &delta).await.durable);
    assert_eq!(desk.publishers.durable(), 2);

    let opened = desk.restart(opened).await;
    assert_eq!((trust(&opened).0.epoch(), desk.publishers.durable()), (5, 2));
    assert!(opened.cache.close().await);
}

/// What the second key signs is taken over after a restart, by a sidecar that still pins the first.
#[tokio::test]
async fn the_new_key_publishes_after_a_restart() {
    let (mut desk, opened) = Desk::rotated().await;
    assert!(desk.save_heartbeat(&opened.cache).await.durable);
    assert!(
        desk.save_revocation(&opened.cache, "by-the-new-key")
            .await
            .durable
    );
    let opened = desk.restart(opened).await;
    assert_eq!(trust(&opened).0.revocations().len(), 43);
    assert!(opened.cache.close().await);
}

/// K11: a link that drops a key waits for a snapshot, and until then the old set starts with the old log.
#[tokio::test]
async fn a_link_that_drops_a_key_goes_to_disk_with_a_snapshot() {
    let (mut desk, opened) = Desk::rotated().await;
    let (link, delta) = desk.authority.retire_publisher();
    assert_eq!(desk.publishers.offer(&link), Ok(Offered::Adopted));
    let saved = desk.save(&opened.cache, &delta).await;
    assert!(!saved.durable && saved.log_outdated && saved.wants_snapshot);
    let later = desk.save_revocation(&opened.cache, "later").await;
    assert!(!later.durable && later.log_outdated);

    // A crash in between.
    let opened = desk.restart(opened).await;
    assert_eq!((trust(&opened).0.epoch(), desk.publishers.durable()), (5, 2));
    assert_eq!(desk.publishers.offer(&link), Ok(Offered::Adopted));
    let saved = desk.save_snapshot(&opened.cache).await;
    assert!(saved.durable && !saved.log_outdated);
    assert!(desk.save_revocation(&opened.cache, "after").await.durable);

    let opened = desk.restart(opened).await;
    assert_eq!((trust(&opened).0.epoch(), desk.publishers.durable()), (8, 3));
    assert!(opened.cache.close().await);
}

/// The heartbeat that is on disk may be one that the dropped key signed, for the very epoch of the snapshot.
#[tokio::test]
async fn no_heartbeat_of_a_dropped_key_stays_on_disk() {
    let mut desk = Desk::filled().await;
    let opened = desk.start().await;
    let (link, delta) = desk.authority.prepare_publisher();
    assert_eq!(desk.publishers.offer(&link), Ok(Offered::Adopted));
    assert!(desk.save(&opened.cache, &delta).await.durable);
    assert!(desk.save_heartbeat(&opened.cache).await.durable);
    desk.authority.activate_publisher();
    let (link, _delta) = desk.authority.retire_publisher();
    assert_eq!(desk.publishers.offer(&link), Ok(Offered::Adopted));
    assert!(desk.save_snapshot(&opened.cache).await.durable);
    let opened = desk.restart(opened).await;
    assert_eq!(trust(&opened).1, None);
    assert!(opened.cache.close().await);
}

/// K11: what a retired key signs is not believed any more, by nobody and from nowhere.
#[tokio::test]
async fn a_retired_key_signs_nothing_any_more() {
    let (mut desk, opened) = Desk::retired().await;
    let forged = desk.authority.link(0, 0);
    assert_eq!(desk.publishers.offer(&forged), Err(LinkRefused::Signer));
    let opened = desk.restart(opened).await;
    assert_eq!(desk.publishers.offer(&forged), Err(LinkRefused::Signer));
    let update = desk.authority.snapshot();
    let by_the_old_key = desk.authority.sign_with(0, Context::Update, update.payload);
    assert_eq!(
        desk.publishers.update(&by_the_old_key).err(),
        Some(UpdateRefused::PublisherUnknown)
    );
    assert!(opened.cache.close().await);
    desk.tamper(&put(replay::SNAPSHOT, &by_the_old_key.encode_to_vec()));
    desk.publishers = desk.authority.publishers();
    assert_eq!(
        desk.unusable().await,
        Unusable::Refused(UpdateRefused::PublisherUnknown)
    );
}

/// K12: a database from before a rotation, beside the floor from after it, is not used, and nothing is believed until the
/// authority has sent the links again.
#[tokio::test]
async fn there_is_no_way_back_to_a_retired_key() {
    let mut desk = Desk::filled().await;
    let yesterday = desk.records();
    let opened = desk.start().await;
    let (prepared, delta) = desk.authority.prepare_publisher();
    assert_eq!(desk.publishers.offer(&prepared), Ok(Offered::Adopted));
    assert!(desk.save(&opened.cache, &delta).await.durable);
    desk.authority.activate_publisher();
    let (retired, _delta) = desk.authority.retire_publisher();
    assert_eq!(desk.publishers.offer(&retired), Ok(Offered::Adopted));
    assert!(desk.save_snapshot(&opened.cache).await.durable);
    assert!(opened.cache.close().await);

    let today = desk.records();
    let removed = today
        .keys()
        .filter(|name| !yesterday.contains_key(*name))
        .cloned();
    desk.tamper(&Change {
        put: yesterday
            .iter()
            .map(|(name, value)| (name.clone(), value.as_slice()))
            .collect(),
        remove: removed.collect(),
    });
    let opened = desk.start().await;
    assert!(
        matches!(opened.found, Found::Unusable(Unusable::PublishersBehind)),
        "{:?}",
        opened.found
    );
    let by_the_old_key = desk.authority.snapshot().payload;
    let by_the_old_key = desk.authority.sign_with(0, Context::Update, by_the_old_key);
    let refused = Some(UpdateRefused::PublisherUnknown);
    assert_eq!(desk.publishers.update(&by_the_old_key).err(), refused);
    assert_eq!(desk.publishers.offer(&prepared), Ok(Offered::Adopted));
    assert_eq!(desk.publishers.update(&by_the_old_key).err(), refused);
    assert_eq!(desk.publishers.offer(&retired), Ok(Offered::Adopted));
    assert!(desk.publishers.update(&desk.authority.snapshot()).is_ok());
    assert_eq!(desk.publishers.durable(), 0);
    assert!(desk.save_snapshot(&opened.cache).await.durable);
    let opened = desk.restart(opened).await;
    assert_eq!(trust(&opened).0.publishers(), 3);
    assert!(opened.cache.close().await);
}

/// A pin of today starts with the directory of one of yesterday; a pin of somebody else starts over.
#[tokio::test]
async fn another_pin_starts_over_from_there() {
    let (mut desk, opened) = Desk::retired().await;
    assert!(opened.cache.close().await);
    let of_now = desk.authority.publishers_of_now();
    let opened = desk.start_pinning(of_now).await;
    assert_eq!((trust(&opened).0.publishers(), desk.publishers.durable()), (3, 3));
    assert!(opened.cache.close().await);

    let stranger = ScriptedAuthority::new();
    let opened = desk.start_pinning(stranger.publishers()).await;
    let refused = Unusable::Refused(UpdateRefused::PublisherUnknown);
    assert!(
        matches!(opened.found, Found::Unusable(why) if why == refused),
        "{:?}",
        opened.found
    );
    assert!(!desk.publishers.lacks_links());
    assert!(desk.publishers.update(&stranger.snapshot()).is_ok());
    assert!(opened.cache.close().await);
}

/// D04: what is left of a record of links, or another one, is not used.
#[tokio::test]
async fn a_damaged_record_of_links_is_not_used() {
    let (mut desk, opened) = Desk::retired().await;
    assert!(opened.cache.close().await);
    let whole = desk.records()[replay::PUBLISHERS].clone();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (spoilt, expected) in [
        (&whole[..whole.len() - 1], Unusable::Malformed),
        (&flipped[..], Unusable::Publishers),
        (&[][..], Unusable::PublishersBehind),
    ] {
        desk.save_anew().await;
        desk.tamper(&put(replay::PUBLISHERS, spoilt));
        desk.publishers = desk.authority.publishers();
        let why = desk.unusable().await;
        assert!(
            why == expected || why == Unusable::Malformed,
            "{why:?} for {expected:?}"
        );
    }
}

impl Desk {
    /// Puts the present state and the links back, as a sidecar does that heard them anew.
    async fn save_anew(&mut self) {
        let opened = self.start().await;
        for link in self.authority.links.clone() {
            let _known = self.publishers.offer(&link);
        }
        assert!(self.save_snapshot(&opened.cache).await.durable);
        assert!(opened.cache.close().await);
    }
}

/// An epoch that names a set whose link is not on disk shows that the record of links was cut short.
#[tokio::test]
async fn a_state_under_a_set_that_is_not_on_disk_is_not_used() {
    let (mut desk, opened) = Desk::rotated().await;
    assert!(opened.cache.close().await);
    fs::remove_file(desk.path().join(floor::FILE)).unwrap();
    desk.tamper(&Change {
        put: vec![],
        remove: vec![replay::PUBLISHERS.to_owned()],
    });
    let state = StateId::of(&desk.authority.state);
    let sha256 = AwsLc;
    let lowest = floor::Floor {
        state,
        link: None,
        pin: *desk.publishers.pin(),
    };
    floor::write(&desk.path(), &desk.identity, lowest, &sha256).unwrap();
    desk.publishers = desk.authority.publishers();
    assert_eq!(
        desk.unusable().await,
        Unusable::Refused(UpdateRefused::PublishersMissing)
    );
}
