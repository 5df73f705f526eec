//! What becomes of clients.

use countersign_core::Timestamp;
use countersign_core::binding::TokenBinding;
use countersign_core::client::{Client, MAX_SECRETS, Registration, SecretRecord};
use countersign_core::names::ClientId;
use countersign_core::ports::Entropy as _;
use countersign_core::revocation::RevokedSubject;
use countersign_crypto::{AwsLc, ClientSecret, SecretHasher};
use countersign_wire::status::Failure;

use super::revocation_plans::until;
use super::{Books, Done, Hold, Ledger, LedgerError, LedgerPolicy, Plan};

/// A secret that was just made: what is kept of it, and the secret itself, to be shown once.
#[derive(Clone, Debug)]
pub struct NewSecret {
    /// Its identifier.
    pub secret_id: String,
    /// The secret.
    pub secret: ClientSecret,
    hash: [u8; 32],
}

impl NewSecret {
    fn generate(hasher: &SecretHasher) -> Result<Self, LedgerError> {
        let secret = hasher.generate()?;
        let mut id = [0; 8];
        AwsLc.fill(&mut id)?;
        Ok(Self {
            secret_id: format!("{:016x}", u64::from_be_bytes(id)),
            hash: hasher.hash(secret.expose().as_bytes()),
            secret,
        })
    }

    fn record(&self, now: Timestamp) -> SecretRecord {
        SecretRecord {
            secret_id: self.secret_id.clone(),
            hash: self.hash,
            created_at: now,
        }
    }
}

/// The client as it is now. Whoever is deleted is unknown.
fn existing(books: &Books, client_id: &ClientId) -> Result<Client, LedgerError> {
    books
        .clients
        .find(client_id.as_str())
        .filter(|client| !client.deleted)
        .map(|client| client.as_ref().clone())
        .ok_or(LedgerError::Refused(Failure::ClientUnknown))
}

/// The client after one more update.
fn updated(mut client: Client) -> Client {
    client.version = client.version.saturating_add(1);
    client
}

impl Ledger {
    /// Registers a client, with a first secret if asked for.
    ///
    /// # Errors
    /// [`LedgerError`]: `ClientExists`, `IdentityTaken`, `LimitReached`, or the store's.
    pub async fn create_client(
        &self,
        client_id: ClientId,
        registration: Registration,
        with_secret: bool,
    ) -> Result<Done<(Client, Option<NewSecret>)>, LedgerError> {
        let secret = with_secret
            .then(|| NewSecret::generate(self.hasher()))
            .transpose()?;
        let policy = self.policy().clone();
        self.write(Hold::Nobody, move |books, now| {
            plan_creation(books, &policy, client_id, registration, secret, now)
        })
        .await
    }

    /// Replaces what was registered.
    ///
    /// # Errors
    /// [`LedgerError`]: `ClientUnknown`, `VersionMoved`, `IdentityTaken`, or the store's.
    pub async fn update_client(
        &self,
        client_id: ClientId,
        version: u64,
        registration: Registration,
    ) -> Result<Done<Client>, LedgerError> {
        self.write(Hold::Nobody, move |books, _now| {
            let mut client = existing(books, &client_id)?;
            if client.version != version {
                return Err(LedgerError::Refused(Failure::VersionMoved));
            }
            if books.clients.is_taken(&registration, &client_id) {
                return Err(LedgerError::Refused(Failure::IdentityTaken));
            }
            client.registration = registration;
            let client = updated(client);
            Ok(Plan::client(client.clone(), client))
        })
        .await
    }

    /// Stops a client and revokes its tokens. Doing it twice revokes twice, which harms nobody.
    ///
    /// # Errors
    /// [`LedgerError`]: `ClientUnknown`, `LimitReached`, or the store's.
    pub async fn disable_client(&self, client_id: ClientId) -> Result<Done<()>, LedgerError> {
        let life = self.policy().revocation_life;
        let hold = Hold::Tokens(RevokedSubject::Client(client_id.clone()));
        self.write(hold, move |books, now| {
            let mut client = existing(books, &client_id)?;
            client.disabled = true;
            let subject = RevokedSubject::Client(client_id);
            Ok(Plan::client(updated(client), ()).and_revoke(until(now, subject, life)))
        })
        .await
    }

    /// Lets a stopped client ask for tokens again.
    ///
    /// # Errors
    /// [`LedgerError`]: `ClientUnknown`, or the store's.
    pub async fn enable_client(&self, client_id: ClientId) -> Result<Done<()>, LedgerError> {
        self.write(Hold::Nobody, move |books, _now| {
            let mut client = existing(books, &client_id)?;
            if !client.disabled {
                return Ok(Plan::nothing(()));
            }
            client.disabled = false;
            Ok(Plan::client(updated(client), ()))
        })
        .await
    }

    /// Removes a client and revokes its tokens. What remains is its identifier, which is not given out again.
    ///
    /// # Errors
    /// [`LedgerError`]: `ClientUnknown`, `LimitReached`, or the store's.
    pub async fn delete_client(&self, client_id: ClientId) -> Result<Done<()>, LedgerError> {
        let life = self.policy().revocation_life;
        let hold = Hold::Tokens(RevokedSubject::Client(client_id.clone()));
        self.write(hold, move |books, now| {
            let client = existing(books, &client_id)?;
            let tombstone = Client {
                registration: Registration {
                    description: String::new(),
                    grants: Vec::new(),
                    spiffe_ids: Vec::new(),
                    thumbprints: Vec::new(),
                    binding: TokenBinding::default(),
                },
                secrets: Vec::new(),
                disabled: true,
                deleted: true,
                ..updated(client)
            };
            let subject = RevokedSubject::Client(client_id);
            Ok(Plan::client(tombstone, ()).and_revoke(until(now, subject, life)))
        })
        .await
    }

    /// Makes one more secret.
    ///
    /// # Errors
    /// [`LedgerError`]: `ClientUnknown`, `TooManySecrets`, or the store's.
    pub async fn add_secret(&self, client_id: ClientId) -> Result<Done<(NewSecret, Timestamp)>, LedgerError> {
        let secret = NewSecret::generate(self.hasher())?;
        self.write(Hold::Nobody, move |books, now| {
            let mut client = existing(books, &client_id)?;
            if client.secrets.len() >= MAX_SECRETS {
                return Err(LedgerError::Refused(Failure::TooManySecrets));
            }
            client.secrets.push(secret.record(now));
            Ok(Plan::client(updated(client), (secret, now)))
        })
        .await
    }

    /// Ends a secret. Tokens that were issued for it stay valid.
    ///
    /// # Errors
    /// [`LedgerError`]: `ClientUnknown`, `SecretUnknown`, or the store's.
    pub async fn retire_secret(
        &self,
        client_id: ClientId,
        secret_id: String,
    ) -> Result<Done<()>, LedgerError> {
        self.write(Hold::Nobody, move |books, _now| {
            let mut client = existing(books, &client_id)?;
            let before = client.secrets.len();
            client.secrets.retain(|secret| secret.secret_id != secret_id);
            if client.secrets.len() == before {
                return Err(LedgerError::Refused(Failure::SecretUnknown));
            }
            Ok(Plan::client(updated(client), ()))
        })
        .await
    }
}

fn plan_creation(
    books: &Books,
    policy: &LedgerPolicy,
    client_id: ClientId,
    registration: Registration,
    secret: Option<NewSecret>,
    now: Timestamp,
) -> Result<Plan<(Client, Option<NewSecret>)>, LedgerError> {
    if books.clients.find(client_id.as_str()).is_some() {
        return Err(LedgerError::Refused(Failure::ClientExists));
    }
    if books.clients.is_taken(&registration, &client_id) {
        return Err(LedgerError::Refused(Failure::IdentityTaken));
    }
    if books.clients.len() >= policy.max_clients {
        return Err(LedgerError::Refused(Failure::LimitReached));
    }
    let client = Client {
        client_id,
        registration,
        secrets: secret.iter().map(|secret| secret.record(now)).collect(),
        disabled: false,
        deleted: false,
        version: 1,
        created_at: now,
    };
    Ok(Plan::client(client.clone(), (client, secret)))
}
