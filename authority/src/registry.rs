//! The registered clients in memory: by identifier, and by what authenticates them. A value, like the key ring.

use std::ops::Bound;
use std::sync::Arc;

use countersign_core::client::{Client, Registration};
use countersign_core::names::{CertificateThumbprint, ClientId};
use countersign_core::spiffe::SpiffeId;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

/// Every client, the deleted ones too: their identifiers stay taken. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    clients: RedBlackTreeMapSync<ClientId, Arc<Client>>,
    by_spiffe_id: HashTrieMapSync<SpiffeId, ClientId>,
    by_thumbprint: HashTrieMapSync<CertificateThumbprint, ClientId>,
}

impl Registry {
    /// The client `client_id`, also when it is deleted.
    #[must_use]
    pub fn find(&self, client_id: &str) -> Option<&Arc<Client>> {
        self.clients.get(client_id)
    }

    /// The client that this SPIFFE ID is registered for.
    #[must_use]
    pub fn by_spiffe_id(&self, spiffe_id: &SpiffeId) -> Option<&Arc<Client>> {
        self.clients.get(self.by_spiffe_id.get(spiffe_id)?)
    }

    /// The client that this certificate is registered for.
    #[must_use]
    pub fn by_thumbprint(&self, thumbprint: &CertificateThumbprint) -> Option<&Arc<Client>> {
        self.clients.get(self.by_thumbprint.get(thumbprint)?)
    }

    /// How many identifiers are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.size()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The clients after `after`, in the order of their identifiers, without those that are deleted.
    pub fn after(&self, after: Option<&ClientId>) -> impl Iterator<Item = &Arc<Client>> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        self.clients
            .range::<ClientId, _>((from, Bound::Unbounded))
            .map(|(_, client)| client)
            .filter(|client| !client.deleted)
    }

    /// Whether something in `registration` authenticates another client than `client_id`.
    #[must_use]
    pub fn is_taken(&self, registration: &Registration, client_id: &ClientId) -> bool {
        let other = |owner: Option<&ClientId>| owner.is_some_and(|owner| owner != client_id);
        registration
            .spiffe_ids
            .iter()
            .any(|id| other(self.by_spiffe_id.get(id)))
            || registration
                .thumbprints
                .iter()
                .any(|thumbprint| other(self.by_thumbprint.get(thumbprint)))
    }

    /// The registry with `client` in it, in place of what was there under its identifier.
    #[must_use]
    pub fn with(&self, client: Client) -> Self {
        let mut changed = self.clone();
        if let Some(before) = self.clients.get(&client.client_id) {
            for id in &before.registration.spiffe_ids {
                changed.by_spiffe_id.remove_mut(id);
            }
            for thumbprint in &before.registration.thumbprints {
                changed.by_thumbprint.remove_mut(thumbprint);
            }
        }
        for id in &client.registration.spiffe_ids {
            changed
                .by_spiffe_id
                .insert_mut(id.clone(), client.client_id.clone());
        }
        for thumbprint in &client.registration.thumbprints {
            changed
                .by_thumbprint
                .insert_mut(*thumbprint, client.client_id.clone());
        }
        changed
            .clients
            .insert_mut(client.client_id.clone(), Arc::new(client));
        changed
    }
}
