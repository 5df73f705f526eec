//! `PublishingKeyService`: operators move the keys that publish trust through their life.

use countersign_core::key_set::KeyState;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::publishing_key_service_server::PublishingKeyService;
use countersign_wire::admin::{read_key_id, write_key_state};
use tonic::{Request, Response, Status};

use super::keys::about;
use super::reach::count;
use super::{Action, Desk, Ended, check_reason, ledger_status};
use crate::fleet::Fleet;
use crate::ledger::Books;

/// The service.
#[derive(Clone, Debug)]
pub struct PublishingKeys {
    /// Where operators are served.
    pub desk: Desk,
    /// The verifiers.
    pub fleet: Fleet,
}

impl PublishingKeys {
    fn view(&self, books: &Books) -> Option<v1::PublisherSetView> {
        let ring = &books.publishing;
        let reach = self.fleet.reach(ring.published_in());
        let keys = ring.keys().iter().map(|key| v1::PublishingKey {
            kid: key.key_id().as_str().to_owned(),
            state: write_key_state(ring.state(key)).into(),
            jwk: key.jwk.to_json(),
        });
        Some(v1::PublisherSetView {
            generation: ring.generation(),
            keys: keys.collect(),
            published_in: ring.published_in(),
            acknowledged_by: count(reach.durable),
            verifiers: count(reach.live),
            epoch: books.trust.epoch(),
        })
    }

    async fn prepare(self) -> Result<v1::PreparePublishingKeyResponse, Status> {
        let done = self.desk.ledger.prepare_publishing_key().await;
        let done = done.map_err(ledger_status)?;
        // The answer says who holds it, and an activation may follow at once.
        self.fleet.reach_soon(done.books.publishing.published_in()).await;
        Ok(v1::PreparePublishingKeyResponse {
            publishers: self.view(&done.books),
        })
    }

    async fn activate(
        self,
        request: v1::ActivatePublishingKeyRequest,
    ) -> Result<v1::ActivatePublishingKeyResponse, Status> {
        let key_id = match request.kid.as_str() {
            "" => None,
            kid => Some(read_key_id(kid)?),
        };
        check_reason(&request.force_reason)?;
        let forced = !request.force_reason.is_empty();
        let done = self.desk.ledger.activate_publishing_key(key_id, forced).await;
        let done = done.map_err(ledger_status)?;
        Ok(v1::ActivatePublishingKeyResponse {
            publishers: self.view(&done.books),
        })
    }

    async fn retire(self) -> Result<v1::RetirePublishingKeyResponse, Status> {
        let done = self.desk.ledger.retire_publishing_key().await;
        let done = done.map_err(ledger_status)?;
        Ok(v1::RetirePublishingKeyResponse {
            publishers: self.view(&done.books),
        })
    }
}

/// The key of `publishers` that is in `state`, for the audit trail.
fn named(publishers: Option<&v1::PublisherSetView>, state: KeyState) -> String {
    let state = write_key_state(state);
    let keys = publishers.into_iter().flat_map(|publishers| &publishers.keys);
    let key = keys.into_iter().find(|key| key.state() == state);
    key.map_or_else(String::new, |key| key.kid.clone())
}

#[tonic::async_trait]
impl PublishingKeyService for PublishingKeys {
    async fn list_publishing_keys(
        &self,
        request: Request<v1::ListPublishingKeysRequest>,
    ) -> Result<Response<v1::ListPublishingKeysResponse>, Status> {
        let action = |_: &v1::ListPublishingKeysRequest| Action::new("list_publishing_keys", "");
        let keys = self.clone();
        let work = |_| async move {
            Ok(v1::ListPublishingKeysResponse {
                publishers: keys.view(&keys.desk.ledger.books()),
            })
        };
        self.desk.serve(request, action, work).await
    }

    async fn prepare_publishing_key(
        &self,
        request: Request<v1::PreparePublishingKeyRequest>,
    ) -> Result<Response<v1::PreparePublishingKeyResponse>, Status> {
        let action = |_: &v1::PreparePublishingKeyRequest| Action::new("prepare_publishing_key", "");
        let keys = self.clone();
        let work = |_| async {
            let prepared = keys.prepare().await;
            Ended::naming(prepared, |prepared| {
                named(prepared.publishers.as_ref(), KeyState::Prepared)
            })
        };
        self.desk.serve(request, action, work).await
    }

    async fn activate_publishing_key(
        &self,
        request: Request<v1::ActivatePublishingKeyRequest>,
    ) -> Result<Response<v1::ActivatePublishingKeyResponse>, Status> {
        let action = |request: &v1::ActivatePublishingKeyRequest| {
            about("activate_publishing_key", &request.kid).because(&request.force_reason)
        };
        let keys = self.clone();
        let work = |request| async {
            let activated = keys.activate(request).await;
            Ended::naming(activated, |activated| {
                named(activated.publishers.as_ref(), KeyState::Active)
            })
        };
        self.desk.serve(request, action, work).await
    }

    async fn retire_publishing_key(
        &self,
        request: Request<v1::RetirePublishingKeyRequest>,
    ) -> Result<Response<v1::RetirePublishingKeyResponse>, Status> {
        let action = |_: &v1::RetirePublishingKeyRequest| Action::new("retire_publishing_key", "");
        let keys = self.clone();
        let work = |_| async {
            let retired = keys.retire().await;
            Ended::naming(retired, |retired| {
                named(retired.publishers.as_ref(), KeyState::Active)
            })
        };
        self.desk.serve(request, action, work).await
    }
}
