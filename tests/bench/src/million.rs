//! A million single tokens revoked, drawn at random from all that were issued; and the same in an authority's store.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_authority::config::{Config, secret_key};
use countersign_authority::store::keys::{KEYS, KeyRecord};
use countersign_authority::store::meta::{HEAD, Head, IDENTITY, Identity};
use countersign_authority::store::record::Vault;
use countersign_authority::store::redb::RedbStore;
use countersign_authority::store::{Commit, Store, find, read_all, revocations};
use countersign_core::key_set::{KeySet, PublishedKey};
use countersign_core::names::TokenSerial;
use countersign_core::ports::KeyReader as _;
use countersign_core::revocation::{EXPIRY_STEP, RevocationList, RevokedTokens, Sequences};
use countersign_core::time::Timestamp;
use countersign_core::trust::TrustState;
use countersign_crypto::AwsLc;

use crate::Failure;
use crate::measure::Scale;

/// As many as are revoked.
pub(crate) const MILLION: u64 = 1_000_000;

/// At how many times entries end: at every step of an hour and a quarter, for as long as one is kept.
const ENDS: u64 = 15;

/// Tokens that were issued, of which some are revoked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issued {
    /// How many, in all shards.
    pub(crate) tokens: u64,
    /// One for each start of an authority.
    pub(crate) shards: u64,
}

/// A token, and whether it is revoked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    pub(crate) serial: TokenSerial,
    pub(crate) revoked: bool,
    /// Which of the ends its entry has.
    end: u64,
}

impl Issued {
    /// As many as `scale` asks for.
    pub(crate) fn scaled(self, scale: Scale) -> Self {
        Self {
            tokens: scale.of_many(self.tokens),
            ..self
        }
    }

    /// The numbers of a token.
    pub(crate) fn serial(self, number: u64) -> TokenSerial {
        let per_shard = self.tokens.div_ceil(self.shards);
        TokenSerial {
            // As an authority counts its starts: a number, and 32 random bits.
            shard: (number / per_shard + 1) << 32 | 0x5eed_0bad,
            sequence: number % per_shard,
        }
    }

    /// Every token, in the order of its numbers, exactly `revoked` of them revoked. The same ones every time.
    pub(crate) fn fates(self, revoked: u64) -> impl Iterator<Item = Fate> {
        let mut random = Random(self.tokens);
        let mut left = revoked;
        (0..self.tokens).map(move |number| {
            // Of those that are left, each is as likely as any other.
            let revoked = random.below(self.tokens - number) < left;
            left -= u64::from(revoked);
            Fate {
                serial: self.serial(number),
                revoked,
                end: if revoked { random.below(ENDS) } else { 0 },
            }
        })
    }

    /// The list of those that are revoked. Ends are mixed, as when tokens are revoked in no order over an hour, which packs worst.
    pub(crate) fn revocations(self, revoked: u64, now: Timestamp) -> RevocationList {
        let mut groups: BTreeMap<(u64, u64), Sequences> = BTreeMap::new();
        for fate in self.fates(revoked).filter(|fate| fate.revoked) {
            let group = groups.entry((fate.serial.shard, fate.end)).or_default();
            group.extend([fate.serial.sequence]);
        }
        let first = now.as_seconds() / EXPIRY_STEP.as_secs() + 1;
        let mut list = RevocationList::default();
        for ((shard, end), sequences) in groups {
            list.add_tokens(&RevokedTokens {
                expires_at: Timestamp::from_seconds((first + end) * EXPIRY_STEP.as_secs()),
                shard,
                sequences,
            });
        }
        list
    }
}

/// Not secret, and the same every time (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, or zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or_default()
    }
}

/// Puts `list` into the store of the authority that `config` describes, which does not run, as the next epoch after what is
/// there: sealed and stated as it does itself, but in one commit, where it would make a million.
pub(crate) async fn store(config: &Config, list: &RevocationList) -> Result<(), Failure> {
    let store = RedbStore::open(&config.store).await?;
    let identity = find(&store, IDENTITY).await?.ok_or("the store is empty")?;
    let identity = Identity::read(&identity.value)?;
    let envelope = secret_key::read(&config.key_encryption_key)?;
    let vault = Vault::new(Arc::new(envelope), identity.installation);
    let head = find(&store, HEAD).await?.ok_or("the store has no head")?;
    let head = Head::read(&head.value, &vault)?;
    let keys = Arc::new(published_keys(&store).await?);
    let state = TrustState::new(identity.issuer, head.epoch + 1, keys, list.clone(), &AwsLc);
    let mut commit = Commit::default();
    for (chunk, sequences) in list.chunks_changed_since(&RevocationList::default()) {
        let record = revocations::write_chunk(&chunk, &sequences, &vault)?;
        commit.put(revocations::chunk_name(&chunk), record);
    }
    let head = Head {
        epoch: state.epoch(),
        state_digest: *state.digest(),
        ..head
    };
    commit.put(HEAD.to_owned(), head.write(&vault)?);
    store.commit(commit).await?;
    Ok(())
}

async fn published_keys(store: &dyn Store) -> Result<KeySet, Failure> {
    let mut keys = Vec::new();
    for record in read_all(store, KEYS).await? {
        let record = KeyRecord::read(&record.name, &record.value)?;
        keys.push(PublishedKey {
            public_key: AwsLc.public_key(&record.jwk)?,
            jwk: record.jwk,
            times: record.times,
        });
    }
    Ok(KeySet::new(keys))
}
