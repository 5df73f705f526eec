//! Links to other publishing keys, as they come on a stream.

use super::*;

impl Stage {
    fn link(&mut self, signed: &Signed) {
        let effects = self.session.receive(SyncResponse {
            message: Some(Response::Publishers(signed.clone())),
        });
        assert!(
            self.perform(effects).is_empty(),
            "a link is answered with nothing"
        );
    }

    fn links_refused(&self, reason: &'static str) -> u64 {
        let refused = &self.metrics.links_refused;
        refused
            .get_or_create(&super::super::super::Reason { reason })
            .get()
    }
}

fn nacks(sent: &[Request]) -> Vec<(&str, bool)> {
    let mut nacks = Vec::new();
    for request in sent {
        if let Request::Nack(nack) = request {
            nacks.push((nack.reason.as_str(), nack.resync));
        }
    }
    nacks
}

/// An epoch is taken over only where the link to the set that it names is held; what it takes back is heeded.
#[test]
fn an_epoch_is_acknowledged_only_with_the_link_that_it_names() {
    let mut stage = Stage::in_force();
    let (link, delta) = stage.authority.prepare_publisher();
    let sent = stage.update(delta.clone());
    assert_eq!(nacks(&sent), [("publishers_missing", false)]);
    assert_eq!(acks(&sent), []);
    assert_eq!(stage.trust.epoch(), 1);
    stage.link(&link);
    assert_eq!(acks(&stage.update(delta)), [(2, true)]);
    stage.authority.activate_publisher();
    let by_the_new_key = stage.authority.revoke("a");
    assert_eq!(acks(&stage.update(by_the_new_key)), [(3, true)]);
}

/// A verifier that has followed to a second publishing key, and holds the link that drops the first; and the update that names it.
fn after_retirement() -> (Stage, Signed) {
    let mut stage = Stage::in_force();
    let (link, delta) = stage.authority.prepare_publisher();
    stage.link(&link);
    stage.update(delta);
    stage.authority.activate_publisher();
    let (link, delta) = stage.authority.retire_publisher();
    stage.link(&link);
    (stage, delta)
}

/// K11: when a key is dropped, what comes is in force at once, and a new log is asked for, once.
#[test]
fn a_dropped_key_asks_for_a_new_log_on_the_same_stream() {
    let (mut stage, delta) = after_retirement();
    stage.disk = Saved {
        durable: false,
        wants_snapshot: true,
        log_outdated: true,
    };
    let sent = stage.update(delta);
    assert_eq!(acks(&sent), [(3, false)]);
    assert_eq!(nacks(&sent), [("publishers_changed", true)]);
    let later = stage.authority.revoke("a");
    let sent = stage.update(later);
    assert_eq!((acks(&sent), nacks(&sent)), (vec![(4, false)], vec![]));
    assert_eq!(stage.ended, None, "the stream goes on");

    stage.disk = DURABLE;
    let snapshot = stage.authority.snapshot();
    assert_eq!(acks(&stage.update(snapshot)), [(4, true)]);
}

/// K11: after its retirement nothing that the old key signs is taken for the authority's.
#[test]
fn a_retired_key_moves_nothing() {
    let (mut stage, delta) = after_retirement();
    stage.update(delta);
    let forged = stage.authority.link(0, 0);
    stage.link(&forged);
    assert_eq!(stage.links_refused("link_signer"), 1);
    let by_the_old_key = stage.authority.revoke("a").payload;
    let by_the_old_key = stage.authority.sign_with(0, Context::Update, by_the_old_key);
    assert_eq!(
        nacks(&stage.update(by_the_old_key)),
        [("publisher_unknown", false)]
    );
    assert_eq!(stage.trust.epoch(), 3);
}

/// K13: two sets for one generation are alarmed, and nothing is confirmed until a later epoch.
#[test]
fn a_twin_is_alarmed() {
    let mut stage = Stage::in_force();
    let mut twin = ScriptedAuthority::new();
    std::mem::swap(&mut twin, &mut stage.authority);
    let (first, delta) = twin.prepare_publisher();
    stage.link(&first);
    stage.update(delta);
    twin.links.clear();
    let other = twin.link(0, 0);
    assert_eq!(other.payload, first.payload, "the same set is no twin");
    stage.link(&other);
    assert_eq!(stage.trust.status().alarm, None);
    let other = twin.link(1, 0);
    stage.link(&other);
    assert_eq!(stage.links_refused("link_fork"), 1);
    assert_eq!(stage.trust.status().alarm, Some(TrustAlarm::Fork));
}

#[test]
fn a_link_that_was_changed_on_the_way_is_refused() {
    let mut stage = Stage::in_force();
    let (link, _delta) = stage.authority.prepare_publisher();
    let changed = Signed {
        payload: flipped(&link.payload, 40),
        ..link.clone()
    };
    stage.link(&changed);
    assert_eq!(stage.links_refused("link_signature"), 1);
    let as_update = stage.authority.sign_with(0, Context::Update, link.payload);
    stage.link(&as_update);
    assert_eq!(stage.links_refused("link_signature"), 2);
    let garbage = stage.authority.sign_with(0, Context::Publishers, &b"garbage"[..]);
    stage.link(&garbage);
    assert_eq!(stage.links_refused("link_malformed"), 1);
    assert_eq!(stage.metrics.publishers_in_force.get(), 0);
}
