//! Which keys tokens come under here, and of whom: so that an operator who retires a key can see who still uses it.
//!
//! A token that is held whole costs one addition to its key's counter; one that is read, whether new or known by its digest, takes a lock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_core::names::{ClientId, KeyId};
use countersign_proto::sync::v1;

/// The most clients that are named for a key: those whose tokens were new here last.
const MAX_CLIENTS: usize = 16;

/// The use of one key.
#[derive(Debug, Default)]
pub struct KeyUse {
    tokens: AtomicU64,
    clients: Mutex<VecDeque<ClientId>>,
}

impl KeyUse {
    /// A token under the key was accepted.
    pub fn count(&self) {
        self.tokens.fetch_add(1, Ordering::Relaxed);
    }

    fn by(&self, client_id: &ClientId) {
        let mut clients = lock(&self.clients);
        if clients.contains(client_id) {
            return;
        }
        if clients.len() == MAX_CLIENTS {
            clients.pop_front();
        }
        clients.push_back(client_id.clone());
    }
}

/// The use of every key. Keys are those of the authority's set, so there are few.
#[derive(Debug, Default)]
pub struct KeyUses(Mutex<BTreeMap<KeyId, Arc<KeyUse>>>);

impl KeyUses {
    /// The use of the key that a token of `client_id`, which is new here, came under.
    #[must_use]
    pub fn of(&self, key_id: &KeyId, client_id: &ClientId) -> Arc<KeyUse> {
        let key_use = Arc::clone(lock(&self.0).entry(key_id.clone()).or_default());
        key_use.by(client_id);
        key_use
    }

    /// What was used since this was asked last. A key that no token which is remembered here came under is forgotten.
    #[must_use]
    pub fn take(&self) -> Vec<v1::KeyUse> {
        let mut taken = Vec::new();
        lock(&self.0).retain(|key_id, key_use| {
            let tokens = key_use.tokens.swap(0, Ordering::Relaxed);
            if tokens > 0 {
                let clients = lock(&key_use.clients);
                taken.push(v1::KeyUse {
                    kid: key_id.as_str().to_owned(),
                    tokens,
                    clients: clients.iter().map(|client| client.as_str().to_owned()).collect(),
                });
            }
            tokens > 0 || Arc::strong_count(key_use) > 1
        });
        taken
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change leaves what is behind it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> ClientId {
        ClientId::parse(name).expect("valid")
    }

    #[test]
    fn what_was_used_is_told_once_and_by_key() {
        let uses = KeyUses::default();
        let [old, new] = [1, 2].map(|byte| KeyId::from_thumbprint(&[byte; 32]));
        let of_old = uses.of(&old, &client("a"));
        of_old.count();
        of_old.count();
        uses.of(&old, &client("b")).count();
        uses.of(&new, &client("a")).count();
        let told = uses.take();
        let found = |key_id: &KeyId| {
            told.iter()
                .find(|told| told.kid == key_id.as_str())
                .expect("told")
        };
        assert_eq!((found(&old).tokens, found(&new).tokens), (3, 1));
        assert_eq!(found(&old).clients, ["a", "b"]);
        assert!(uses.take().is_empty());
        of_old.count();
        assert_eq!(uses.take().len(), 1, "a token that is remembered is counted on");
        assert_eq!(
            lock(&uses.0).len(),
            1,
            "the key that nothing is left of is forgotten"
        );
    }

    #[test]
    fn the_clients_named_are_few_and_the_last() {
        let uses = KeyUses::default();
        let key_id = KeyId::from_thumbprint(&[1; 32]);
        for n in 0..20 {
            uses.of(&key_id, &client(&format!("c{n}"))).count();
        }
        let clients = &uses.take()[0].clients;
        assert_eq!((clients.len(), clients[0].as_str()), (MAX_CLIENTS, "c4"));
    }
}
