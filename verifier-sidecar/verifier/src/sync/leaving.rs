//! How a sidecar goes for good, so that nobody waits for it: it stops deciding, lets go of what is on disk, and only then takes
//! leave of the authority.
//!
//! INVARIANT (no leave before nothing is held): `Leave` is sent only after it is durable that the next start decides nothing
//! without the authority. A crash in between leaves the authority waiting for longer than it had to.

use std::time::Duration;

use countersign_proto::sync::v1::sync_request::Message;
use countersign_proto::sync::v1::{Leave, SyncRequest, SyncResponse};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::supervisor::send;
use crate::cache::TrustCache;
use crate::trust::TrustStore;

/// How long the authority may take to end the stream.
const PATIENCE: Duration = Duration::from_secs(2);

/// Decides nothing any more, and keeps nothing that a later start could decide on. False when that is not certain.
pub(super) async fn forget(trust: &TrustStore, cache: &TrustCache) -> bool {
    trust.let_go();
    let forgotten = cache.let_go(&trust.current().certificates()).await;
    if !forgotten {
        tracing::warn!("the trust on disk could not be let go of: the authority waits until its budgets end");
    }
    forgotten
}

/// Takes leave, and waits until the authority has heard it.
pub(super) async fn take_leave(outgoing: mpsc::Sender<SyncRequest>, mut responses: Streaming<SyncResponse>) {
    if send(&outgoing, Message::Leave(Leave {})).is_err() {
        return;
    }
    drop(outgoing);
    match tokio::time::timeout(PATIENCE, until_ended(&mut responses)).await {
        Ok(Ok(())) => tracing::info!("took leave of the authority: it does not wait for this verifier"),
        Ok(Err(_)) | Err(_) => tracing::warn!("it is not known whether the authority heard the leave"),
    }
}

async fn until_ended(responses: &mut Streaming<SyncResponse>) -> Result<(), Status> {
    // What was on its way has no effect any more.
    while let Some(_late) = responses.message().await? {}
    Ok(())
}
