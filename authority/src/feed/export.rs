//! The trust as a file: what a verifier would be sent at this moment, whole.

use std::time::Duration;

use bytes::Bytes;
use countersign_core::Timestamp;
use countersign_core::feed::snapshot;
use countersign_core::ports::SigningFailed;
use countersign_core::trust::Epoch;
use countersign_proto::trust::v1::TrustFile;
use countersign_wire::trust_file::write_trust_file;

use super::Feed;

/// A trust file.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The epoch that it leads to.
    pub epoch: Epoch,
    /// Its bytes.
    pub file: Bytes,
}

impl Feed {
    /// The current state, with a heartbeat that names exactly it and expires after `lifetime`, and not after `latest`: that it may
    /// be decided on until then is already written down.
    ///
    /// # Errors
    /// [`SigningFailed`].
    pub async fn export(&self, lifetime: Duration, latest: Timestamp) -> Result<Exported, SigningFailed> {
        let _one_at_a_time = self.0.making.lock().await;
        let feed = self.clone();
        // As long a work as making a snapshot.
        let made = tokio::task::spawn_blocking(move || feed.make_file(lifetime, latest));
        made.await.unwrap_or(Err(SigningFailed))
    }

    fn make_file(&self, lifetime: Duration, latest: Timestamp) -> Result<Exported, SigningFailed> {
        let (trust, heartbeat, publishing) = {
            let mut state = self.lock();
            let now_millis = self.0.clock.now_millis();
            let latest = Duration::from_secs(latest.as_seconds());
            let expires_at = lifetime
                .saturating_add(Duration::from_millis(now_millis))
                .min(latest);
            let expires_at_millis = u64::try_from(expires_at.as_millis()).unwrap_or(u64::MAX);
            let heartbeat = state.machine.exported(now_millis, expires_at_millis);
            let signed = self.sign_heartbeat(state.publishing.publisher(), &heartbeat)?;
            (state.machine.trust().clone(), signed, state.publishing.clone())
        };
        let snapshot = self.signed_update(publishing.publisher(), &snapshot(&trust, self.0.clock.now()))?;
        let file = TrustFile {
            publishers: publishing
                .links()
                .iter()
                .map(|link| link.signed.clone())
                .collect(),
            snapshot: Some(snapshot),
            deltas: Vec::new(),
            heartbeat: Some(heartbeat),
        };
        Ok(Exported {
            epoch: trust.epoch(),
            file: write_trust_file(&file).into(),
        })
    }
}
