//! Who may publish trust to this verifier, and what they signed. Nothing signed is parsed before its signature is
//! verified, wherever it comes from: the stream or the disk.

use std::sync::Arc;

use countersign_core::ports::KeyReader;
use countersign_core::trust::{Update, UpdateRefused};
use countersign_crypto::publishing::{Context, PinnedKeys};
use countersign_proto::trust::v1::Signed;
use countersign_wire::trust::{Heartbeat, ReadInPart, read_heartbeat, read_update, read_update_in_part};

/// The pinned publishing keys, and what reads the keys that they publish.
#[derive(Clone, Debug)]
pub struct Publishers {
    pinned: PinnedKeys,
    reader: Arc<dyn KeyReader>,
}

impl Publishers {
    /// Trusts `pinned`; token keys are made ready by `reader`.
    #[must_use]
    pub const fn new(pinned: PinnedKeys, reader: Arc<dyn KeyReader>) -> Self {
        Self { pinned, reader }
    }

    /// What reads keys and computes digests.
    #[must_use]
    pub const fn reader(&self) -> &Arc<dyn KeyReader> {
        &self.reader
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

    fn verify(&self, context: Context, signed: &Signed) -> Result<(), UpdateRefused> {
        self.pinned
            .verify(&signed.key_id, context, &signed.payload, &signed.signature)
    }
}
