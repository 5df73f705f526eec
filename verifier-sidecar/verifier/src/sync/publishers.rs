//! Who may publish trust to this verifier, and what they signed. Nothing signed is parsed before its signature is
//! verified, wherever it comes from: the stream or the disk.
//!
//! Which keys these are is decided by [`machine::Publishers`], which all clones share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_core::names::Issuer;
use countersign_core::ports::{KeyReader, PublicKey};
use countersign_core::publishers::{
    self as machine, FIRST_GENERATION, Generation, LinkDigest, LinkId, LinkRefused, Offered, Unsaved,
};
use countersign_core::trust::{Update, UpdateRefused};
use countersign_crypto::publishing::{Context, PinnedKeys, verifies};
use countersign_proto::trust::v1::Signed;
use countersign_wire::publishers::read_publishers;
use countersign_wire::trust::{Heartbeat, ReadInPart, read_heartbeat, read_update, read_update_in_part};

/// The publishing keys that are believed, and what reads the keys that they publish. Clones share them.
#[derive(Clone, Debug)]
pub struct Publishers {
    machine: Arc<Mutex<machine::Publishers<Arc<dyn PublicKey>, Signed>>>,
    pin: LinkDigest,
    reader: Arc<dyn KeyReader>,
}

impl Publishers {
    /// Trusts `pinned` to publish for `issuer`, and whom they lead to; token keys are made ready by `reader`.
    #[must_use]
    pub fn new(issuer: Issuer, pinned: &PinnedKeys, reader: Arc<dyn KeyReader>) -> Self {
        let names: Vec<&[u8]> = pinned
            .key_ids()
            .map(|key_id| key_id.as_str().as_bytes())
            .collect();
        Self {
            pin: reader.sha256(&[&names.join(&b'\n')]),
            machine: Arc::new(Mutex::new(machine::Publishers::new(
                issuer,
                pinned.keys().clone(),
            ))),
            reader,
        }
    }

    /// What reads keys and computes digests.
    #[must_use]
    pub const fn reader(&self) -> &Arc<dyn KeyReader> {
        &self.reader
    }

    /// The digest of the names of the pinned keys.
    #[must_use]
    pub const fn pin(&self) -> &LinkDigest {
        &self.pin
    }

    /// The update that was signed.
    ///
    /// # Errors
    /// [`UpdateRefused`]: the signature first, then the form.
    pub fn update(&self, signed: &Signed) -> Result<Update, UpdateRefused> {
        self.verify(Context::Update, signed)?;
        read_update(&signed.payload, self.reader.as_ref())
    }

    /// What can be read of the update that was signed, when [`Publishers::update`] refuses one of its revocations.
    ///
    /// # Errors
    /// [`UpdateRefused`]: the signature first, then the form.
    pub fn update_in_part(&self, signed: &Signed) -> Result<ReadInPart, UpdateRefused> {
        self.verify(Context::Update, signed)?;
        read_update_in_part(&signed.payload, self.reader.as_ref())
    }

    /// The heartbeat that was signed.
    ///
    /// # Errors
    /// [`UpdateRefused`]: the signature first, then the form.
    pub fn heartbeat(&self, signed: &Signed) -> Result<Heartbeat, UpdateRefused> {
        self.verify(Context::Heartbeat, signed)?;
        read_heartbeat(&signed.payload)
    }

    /// Takes over the link that was signed, if it follows on the set in force.
    ///
    /// # Errors
    /// [`LinkRefused`]: the signature first, then the form.
    pub fn offer(&self, signed: &Signed) -> Result<Offered, LinkRefused> {
        let mut machine = self.lock();
        if machine.has_link(&self.reader.sha256(&[&signed.payload])) {
            return Ok(Offered::Repeated);
        }
        let key = machine.link_key(&signed.key_id).ok_or(LinkRefused::Signer)?;
        if !verifies(
            key.as_ref(),
            Context::Publishers,
            &signed.payload,
            &signed.signature,
        ) {
            return Err(LinkRefused::Signature);
        }
        let link = read_publishers(&signed.payload, self.reader.as_ref())?;
        machine.offer(link, &signed.key_id, signed.clone())
    }

    /// The generation in force.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.lock().generation()
    }

    /// [`machine::Publishers::last_link`].
    #[must_use]
    pub fn last_link(&self) -> Option<LinkId> {
        self.lock().last_link()
    }

    /// The generation that is on disk. Zero: none but the pinned one.
    #[must_use]
    pub fn durable(&self) -> Generation {
        self.lock().durable()
    }

    /// The highest generation that a state may name.
    #[must_use]
    pub fn highest(&self) -> Generation {
        self.generation().max(FIRST_GENERATION)
    }

    /// Every link that led from the pinned set to the one in force.
    #[must_use]
    pub fn links(&self) -> Vec<Signed> {
        self.lock().links().cloned().collect()
    }

    /// [`machine::Publishers::require`].
    pub fn require(&self, link: LinkId) {
        self.lock().require(link);
    }

    /// [`machine::Publishers::lacks_links`].
    #[must_use]
    pub fn lacks_links(&self) -> bool {
        self.lock().lacks_links()
    }

    /// [`machine::Publishers::forget_astray`].
    #[must_use]
    pub fn forget_astray(&self) -> bool {
        self.lock().forget_astray()
    }

    /// Whether the set in force lacks keys of the one on disk, which may have signed what is there.
    #[must_use]
    pub fn drops_keys(&self) -> bool {
        self.lock().drops_keys()
    }

    /// [`machine::Publishers::unsaved`].
    #[must_use]
    pub fn unsaved(&self) -> Option<Unsaved<Signed>> {
        self.lock().unsaved()
    }

    /// [`machine::Publishers::saved`].
    pub fn saved(&self, generation: Generation) {
        self.lock().saved(generation);
    }

    fn verify(&self, context: Context, signed: &Signed) -> Result<(), UpdateRefused> {
        let key = self.lock().key(&signed.key_id).cloned();
        let key = key.ok_or(UpdateRefused::PublisherUnknown)?;
        if verifies(key.as_ref(), context, &signed.payload, &signed.signature) {
            Ok(())
        } else {
            Err(UpdateRefused::Signature)
        }
    }

    fn lock(&self) -> MutexGuard<'_, machine::Publishers<Arc<dyn PublicKey>, Signed>> {
        // Nothing is left half done: a set is in force as a whole or not.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
