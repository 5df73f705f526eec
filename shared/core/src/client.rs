//! A registered client: how it authenticates, and what it may ask for.

use std::collections::BTreeSet;

use crate::binding::TokenBinding;
use crate::names::{Audience, CertificateThumbprint, ClientId, InvalidName, Scope};
use crate::spiffe::{SpiffeId, SpiffeIdError};
use crate::text::is_shown;
use crate::time::Timestamp;

/// The most grants, identities of each kind, or scopes in one grant.
pub const MAX_ENTRIES: usize = 128;

/// The longest description, in bytes.
pub const MAX_DESCRIPTION: usize = 256;

/// The most secrets that are valid at one time: the one in use and its successor.
pub const MAX_SECRETS: usize = 2;

/// One audience and the scopes that may be asked for with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The audience.
    pub audience: Audience,
    /// What may be granted.
    pub scopes: Vec<Scope>,
    /// What is granted when a request names none. A subset of `scopes`.
    pub default_scopes: Vec<Scope>,
}

/// What an operator registers about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// For people.
    pub description: String,
    /// What it may ask for; each audience once, at least one.
    pub grants: Vec<Grant>,
    /// SPIFFE IDs that authenticate it.
    pub spiffe_ids: Vec<SpiffeId>,
    /// Certificates that authenticate it.
    pub thumbprints: Vec<CertificateThumbprint>,
    /// What its tokens are bound to.
    pub binding: TokenBinding,
}

/// A client's secret, without its value: a keyed hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRecord {
    /// Identifies the secret to operators.
    pub secret_id: String,
    /// HMAC-SHA-256 of the secret under a key that is not stored beside it.
    pub hash: [u8; 32],
    /// When it was made.
    pub created_at: Timestamp,
}

/// A client as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its identifier.
    pub client_id: ClientId,
    /// What was registered.
    pub registration: Registration,
    /// Its secrets: at most [`MAX_SECRETS`].
    pub secrets: Vec<SecretRecord>,
    /// Whether it is stopped.
    pub disabled: bool,
    /// Whether it is deleted. The identifier stays taken, so that it never names somebody else.
    pub deleted: bool,
    /// Changes with every update.
    pub version: u64,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// A registration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRegistration {
    /// A name in it is not of its form.
    #[error("`{field}`: {source}")]
    Name {
        /// The field.
        field: &'static str,
        /// What the form is.
        source: InvalidName,
    },
    /// A SPIFFE ID in it is none.
    #[error("`spiffe_ids`: {0}")]
    SpiffeId(SpiffeIdError),
    /// More entries than are kept.
    #[error("`{0}` has more than 128 entries")]
    TooMany(&'static str),
    /// An entry stands twice.
    #[error("`{0}` names the same twice")]
    Twice(&'static str),
    /// Nothing is granted.
    #[error("`grants` is empty: name at least one audience")]
    NoGrant,
    /// Tokens are to be bound to a SPIFFE ID, and there is none that they could be bound to.
    #[error("`token_binding` is to a SPIFFE ID, and `spiffe_ids` names none")]
    NoSpiffeId,
    /// A default scope is not among the scopes.
    #[error("a default scope is not among the scopes of its grant")]
    DefaultScope,
    /// The description is over its length, or not all of it is shown.
    #[error("`description` is at most 256 bytes without control or formatting characters")]
    Description,
}

impl Registration {
    /// Checks what the types do not: numbers, repetitions, subsets.
    ///
    /// # Errors
    /// [`InvalidRegistration`].
    pub fn check(&self) -> Result<(), InvalidRegistration> {
        if self.description.len() > MAX_DESCRIPTION || !self.description.chars().all(is_shown) {
            return Err(InvalidRegistration::Description);
        }
        if self.grants.is_empty() {
            return Err(InvalidRegistration::NoGrant);
        }
        distinct("grants", self.grants.iter().map(|grant| &grant.audience))?;
        distinct("spiffe_ids", self.spiffe_ids.iter())?;
        distinct("certificate_thumbprints", self.thumbprints.iter())?;
        if self.binding == TokenBinding::SpiffeId && self.spiffe_ids.is_empty() {
            return Err(InvalidRegistration::NoSpiffeId);
        }
        for grant in &self.grants {
            distinct("scopes", grant.scopes.iter())?;
            distinct("default_scopes", grant.default_scopes.iter())?;
            if !grant
                .default_scopes
                .iter()
                .all(|scope| grant.scopes.contains(scope))
            {
                return Err(InvalidRegistration::DefaultScope);
            }
        }
        Ok(())
    }

    /// The grant for `audience`.
    #[must_use]
    pub fn grant(&self, audience: &str) -> Option<&Grant> {
        self.grants
            .iter()
            .find(|grant| grant.audience.as_str() == audience)
    }
}

fn distinct<T: Ord>(
    field: &'static str,
    entries: impl ExactSizeIterator<Item = T>,
) -> Result<(), InvalidRegistration> {
    let count = entries.len();
    if count > MAX_ENTRIES {
        return Err(InvalidRegistration::TooMany(field));
    }
    if entries.collect::<BTreeSet<T>>().len() == count {
        Ok(())
    } else {
        Err(InvalidRegistration::Twice(field))
    }
}
