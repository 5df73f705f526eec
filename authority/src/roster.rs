//! What the store knows of verifiers: who may hold a lease, who is granted none, and until when somebody may decide on a trust
//! file. A value, like the registry of clients.

use countersign_core::Timestamp;
use countersign_core::fleet::VerifierKey;
use countersign_core::revocation::DigestSum;
use countersign_core::spiffe::SpiffeId;
use countersign_core::trust::Epoch;
use countersign_crypto::AwsLc;
use rpds::HashTrieMapSync;

use crate::store::Commit;
use crate::store::record::RecordError;
use crate::store::verifiers::{
    Export, Known, Quarantine, digest, export_name, known_name, quarantine_name, write_export, write_known,
    write_quarantine,
};

/// A change of the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RosterChange {
    /// A verifier may hold a lease.
    Known(Known),
    /// It holds none any more.
    Forgotten(VerifierKey),
    /// An identity is granted none.
    Quarantined(Quarantine),
    /// It is granted leases again.
    Released(SpiffeId),
    /// A trust file may be decided on.
    Exported(Export),
    /// Nobody decides on those of this epoch any more.
    Expired(Epoch),
}

/// A record as the store has it.
#[derive(Clone, Debug)]
struct Entry {
    bytes: Vec<u8>,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Known(Known),
    Quarantine(Quarantine),
    Export(Export),
}

/// Every record about verifiers. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    entries: HashTrieMapSync<String, Entry>,
    sum: DigestSum,
}

impl Roster {
    /// The verifiers that may hold a lease.
    pub fn known(&self) -> impl Iterator<Item = &Known> {
        self.entries.values().filter_map(|entry| match &entry.content {
            Content::Known(known) => Some(known),
            Content::Quarantine(_) | Content::Export(_) => None,
        })
    }

    /// The identities that are granted none.
    pub fn quarantined(&self) -> impl Iterator<Item = &Quarantine> {
        self.entries.values().filter_map(|entry| match &entry.content {
            Content::Quarantine(quarantine) => Some(quarantine),
            Content::Known(_) | Content::Export(_) => None,
        })
    }

    /// The trust files that somebody may decide on.
    pub fn exports(&self) -> impl Iterator<Item = &Export> {
        self.entries.values().filter_map(|entry| match &entry.content {
            Content::Export(export) => Some(export),
            Content::Known(_) | Content::Quarantine(_) => None,
        })
    }

    /// When nobody decides any more on the trust files of `epoch`.
    #[must_use]
    pub fn export_ends(&self, epoch: Epoch) -> Option<Timestamp> {
        match &self.entries.get(&export_name(epoch))?.content {
            Content::Export(export) => Some(export.until),
            Content::Known(_) | Content::Quarantine(_) => None,
        }
    }

    /// The digests of all records, summed up.
    #[must_use]
    pub const fn sum(&self) -> DigestSum {
        self.sum
    }

    /// Whether `change` would change nothing.
    #[must_use]
    pub fn has(&self, change: &RosterChange) -> bool {
        let entry = self.entries.get(&name(change)).map(|entry| &entry.content);
        match (change, entry) {
            (RosterChange::Known(wanted), Some(Content::Known(known))) => wanted == known,
            (RosterChange::Quarantined(_), Some(Content::Quarantine(_))) => true,
            (RosterChange::Exported(wanted), Some(Content::Export(export))) => wanted.until <= export.until,
            (RosterChange::Forgotten(_) | RosterChange::Released(_) | RosterChange::Expired(_), entry) => {
                entry.is_none()
            }
            (RosterChange::Known(_) | RosterChange::Quarantined(_) | RosterChange::Exported(_), _) => false,
        }
    }

    /// Makes `change`.
    ///
    /// # Errors
    /// [`RecordError::Unwritable`].
    pub fn change(&mut self, change: &RosterChange) -> Result<(), RecordError> {
        let name = name(change);
        match change {
            RosterChange::Known(known) => {
                let bytes = write_known(&name, known)?;
                self.enter(name, bytes, Content::Known(known.clone()));
            }
            RosterChange::Quarantined(quarantine) => {
                let bytes = write_quarantine(&name, quarantine)?;
                self.enter(name, bytes, Content::Quarantine(quarantine.clone()));
            }
            RosterChange::Exported(export) => {
                let bytes = write_export(&name, export)?;
                self.enter(name, bytes, Content::Export(*export));
            }
            RosterChange::Forgotten(_) | RosterChange::Released(_) | RosterChange::Expired(_) => {
                self.strike(&name);
            }
        }
        Ok(())
    }

    /// What `change`, which was made, is in the store.
    pub fn record(&self, change: &RosterChange, commit: &mut Commit) {
        let name = name(change);
        match self.entries.get(&name) {
            Some(entry) => commit.put(name, entry.bytes.clone()),
            None => commit.delete(name),
        }
    }

    /// Takes in a verifier's record that the store has.
    pub fn found_known(&mut self, name: String, bytes: Vec<u8>, known: Known) {
        self.enter(name, bytes, Content::Known(known));
    }

    /// Takes in a quarantine's record that the store has.
    pub fn found_quarantine(&mut self, name: String, bytes: Vec<u8>, quarantine: Quarantine) {
        self.enter(name, bytes, Content::Quarantine(quarantine));
    }

    /// Takes in a trust file's record that the store has.
    pub fn found_export(&mut self, name: String, bytes: Vec<u8>, export: Export) {
        self.enter(name, bytes, Content::Export(export));
    }

    fn enter(&mut self, name: String, bytes: Vec<u8>, content: Content) {
        self.strike(&name);
        self.sum.add(&digest(&name, &bytes, &AwsLc));
        self.entries.insert_mut(name, Entry { bytes, content });
    }

    fn strike(&mut self, name: &str) {
        if let Some(entry) = self.entries.get(name) {
            self.sum.subtract(&digest(name, &entry.bytes, &AwsLc));
            self.entries.remove_mut(name);
        }
    }
}

fn name(change: &RosterChange) -> String {
    match change {
        RosterChange::Known(known) => known_name(&known.key, &AwsLc),
        RosterChange::Forgotten(key) => known_name(key, &AwsLc),
        RosterChange::Quarantined(quarantine) => quarantine_name(&quarantine.spiffe_id, &AwsLc),
        RosterChange::Released(spiffe_id) => quarantine_name(spiffe_id, &AwsLc),
        RosterChange::Exported(export) => export_name(export.epoch),
        RosterChange::Expired(epoch) => export_name(*epoch),
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::fleet::assumed_budgets;
    use countersign_core::names::VerifierId;

    use super::*;

    #[test]
    fn a_roster_is_what_was_entered_and_not_struck() {
        let spiffe_id = SpiffeId::parse("spiffe://test/a").unwrap();
        let known = Known {
            key: VerifierKey {
                spiffe_id: spiffe_id.clone(),
                verifier_id: VerifierId::parse("1").unwrap(),
            },
            budgets: assumed_budgets(),
        };
        let quarantine = Quarantine {
            spiffe_id: spiffe_id.clone(),
            since: Timestamp::from_seconds(1),
        };
        let mut roster = Roster::default();
        let export = Export {
            epoch: 3,
            until: Timestamp::from_seconds(60),
        };
        for change in [
            RosterChange::Known(known.clone()),
            RosterChange::Quarantined(quarantine),
            RosterChange::Exported(export),
        ] {
            assert!(!roster.has(&change));
            roster.change(&change).unwrap();
            assert!(roster.has(&change));
        }
        let shorter = RosterChange::Known(Known {
            budgets: [].into(),
            ..known.clone()
        });
        assert!(!roster.has(&shorter), "other budgets are a change");
        roster.change(&shorter).unwrap();
        let until = |seconds| {
            RosterChange::Exported(Export {
                until: Timestamp::from_seconds(seconds),
                ..export
            })
        };
        assert!(roster.has(&until(59)), "an earlier end is no change");
        assert!(!roster.has(&until(61)));
        let counts = (roster.known().count(), roster.quarantined().count());
        assert_eq!((counts, roster.exports().count()), ((1, 1), 1));
        for change in [
            RosterChange::Forgotten(known.key),
            RosterChange::Released(spiffe_id),
            RosterChange::Expired(3),
        ] {
            assert!(!roster.has(&change));
            roster.change(&change).unwrap();
            assert!(roster.has(&change));
        }
        assert_eq!(roster.sum(), DigestSum::default());
    }
}
