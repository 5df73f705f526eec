//! `KeyService`: operators move signing keys through their life.

use std::time::Duration;

use countersign_core::jose::Algorithm;
use countersign_core::names::KeyId;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::key_service_server::KeyService;
use countersign_wire::admin::{read_key_id, write_key};
use countersign_wire::status::{self, Failure};
use tonic::{Request, Response, Status};

use super::reach::count;
use super::{Action, Desk, Ended, check_reason, ledger_status, required_reason};
use crate::fleet::Fleet;
use crate::keyring::RingKey;
use crate::ledger::{Activation, Books};

/// What operators do to keys, here and by `Revoke`.
#[derive(Clone, Debug)]
pub struct KeyPolicy {
    /// What new keys are for when nothing is said.
    pub algorithm: Algorithm,
    /// How far ahead an activation is announced. Also when nobody is connected: who comes back in that time hears of it.
    pub activation_lead: Duration,
}

/// The service.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Where operators are served.
    pub desk: Desk,
    /// The verifiers.
    pub fleet: Fleet,
    /// The rules.
    pub policy: KeyPolicy,
}

impl Keys {
    fn written(&self, key: &RingKey) -> v1::Key {
        let reach = self.fleet.reach(key.published_in);
        let now = self.desk.ledger.timeline().now();
        v1::Key {
            acknowledged_by: count(reach.durable),
            verifiers: count(reach.live),
            published_in: key.published_in,
            shadow: key.shadow,
            ..write_key(&key.published, now)
        }
    }

    fn find(&self, books: &Books, key_id: &KeyId) -> Result<v1::Key, Status> {
        let key = books.ring.find(key_id);
        key.map(|key| self.written(key))
            .ok_or_else(|| status::failed(Failure::KeyUnknown))
    }

    fn list(&self) -> v1::ListKeysResponse {
        let books = self.desk.ledger.books();
        let mut keys: Vec<&RingKey> = books.ring.keys().iter().collect();
        keys.sort_by_key(|key| std::cmp::Reverse(key.times().prepared_at));
        v1::ListKeysResponse {
            keys: keys.into_iter().map(|key| self.written(key)).collect(),
            epoch: books.trust.epoch(),
        }
    }

    async fn prepare(self, request: v1::PrepareKeyRequest) -> Result<v1::PrepareKeyResponse, Status> {
        let algorithm = match request.algorithm.as_str() {
            "" => self.policy.algorithm,
            name => Algorithm::from_name(name)
                .ok_or_else(|| status::invalid("algorithm", "is none of ES256, EdDSA, RS256"))?,
        };
        let done = self.desk.ledger.prepare_key(algorithm).await;
        let done = done.map_err(ledger_status)?;
        let epoch = done.books.trust.epoch();
        // The answer says who holds it, and an activation may follow at once.
        self.fleet.reach_soon(epoch).await;
        Ok(v1::PrepareKeyResponse {
            key: Some(self.find(&done.books, &done.answer)?),
            epoch,
        })
    }

    async fn activate(self, request: v1::ActivateKeyRequest) -> Result<v1::ActivateKeyResponse, Status> {
        let key_id = match request.kid.as_str() {
            "" => None,
            kid => Some(read_key_id(kid)?),
        };
        check_reason(&request.force_reason)?;
        let activation = Activation {
            lead: self.policy.activation_lead,
            forced: !request.force_reason.is_empty(),
        };
        let done = self.desk.ledger.activate_key(key_id, activation).await;
        let done = done.map_err(ledger_status)?;
        Ok(v1::ActivateKeyResponse {
            key: Some(self.find(&done.books, &done.answer)?),
            epoch: done.books.trust.epoch(),
        })
    }

    async fn retire(self, request: v1::RetireKeyRequest) -> Result<v1::RetireKeyResponse, Status> {
        let done = self.desk.ledger.retire_key(read_key_id(&request.kid)?).await;
        let epoch = done.map_err(ledger_status)?.books.trust.epoch();
        Ok(v1::RetireKeyResponse { epoch })
    }

    async fn compromise(
        self,
        request: v1::CompromiseKeyRequest,
    ) -> Result<v1::CompromiseKeyResponse, Status> {
        let key_id = read_key_id(&request.kid)?;
        required_reason(&request.reason)?;
        let done = self
            .desk
            .ledger
            .compromise_key(key_id, self.policy.algorithm)
            .await;
        let done = done.map_err(ledger_status)?;
        let signing = done.answer.signing.as_ref();
        let signing = signing.map(|key_id| self.find(&done.books, key_id)).transpose()?;
        let epoch = done.books.trust.epoch();
        Ok(v1::CompromiseKeyResponse {
            epoch,
            signing_key: signing,
            // Whoever has the key signs new tokens.
            reach: Some(self.desk.reach_soon(&self.fleet, epoch, None).await),
        })
    }
}

fn kid(key: Option<&v1::Key>) -> String {
    key.map_or_else(String::new, |key| key.kid.clone())
}

/// What is done to a key. What is no `kid` is not written down.
pub(super) fn about(action: &'static str, key_id: &str) -> Action {
    let is_key_id = key_id.is_empty() || KeyId::parse(key_id).is_ok();
    Action::new(action, if is_key_id { key_id } else { "(malformed)" })
}

#[tonic::async_trait]
impl KeyService for Keys {
    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let action = |_: &v1::ListKeysRequest| Action::new("list_keys", "");
        let keys = self.clone();
        self.desk
            .serve(request, action, |_| async move { Ok(keys.list()) })
            .await
    }

    async fn prepare_key(
        &self,
        request: Request<v1::PrepareKeyRequest>,
    ) -> Result<Response<v1::PrepareKeyResponse>, Status> {
        let action = |_: &v1::PrepareKeyRequest| Action::new("prepare_key", "");
        let keys = self.clone();
        let work = |request| async {
            let prepared = keys.prepare(request).await;
            Ended::naming(prepared, |prepared| kid(prepared.key.as_ref()))
        };
        self.desk.serve(request, action, work).await
    }

    async fn activate_key(
        &self,
        request: Request<v1::ActivateKeyRequest>,
    ) -> Result<Response<v1::ActivateKeyResponse>, Status> {
        let action = |request: &v1::ActivateKeyRequest| {
            about("activate_key", &request.kid).because(&request.force_reason)
        };
        let keys = self.clone();
        let work = |request| async {
            let activated = keys.activate(request).await;
            Ended::naming(activated, |activated| kid(activated.key.as_ref()))
        };
        self.desk.serve(request, action, work).await
    }

    async fn retire_key(
        &self,
        request: Request<v1::RetireKeyRequest>,
    ) -> Result<Response<v1::RetireKeyResponse>, Status> {
        let action = |request: &v1::RetireKeyRequest| about("retire_key", &request.kid);
        let keys = self.clone();
        self.desk
            .serve(request, action, |request| keys.retire(request))
            .await
    }

    async fn compromise_key(
        &self,
        request: Request<v1::CompromiseKeyRequest>,
    ) -> Result<Response<v1::CompromiseKeyResponse>, Status> {
        let action = |request: &v1::CompromiseKeyRequest| {
            about("compromise_key", &request.kid).because(&request.reason)
        };
        let keys = self.clone();
        self.desk
            .serve(request, action, |request| keys.compromise(request))
            .await
    }

    async fn get_publishing_keys(
        &self,
        request: Request<v1::GetPublishingKeysRequest>,
    ) -> Result<Response<v1::GetPublishingKeysResponse>, Status> {
        let action = |_: &v1::GetPublishingKeysRequest| Action::new("get_publishing_keys", "");
        let jwks = self.desk.ledger.books().publishing.to_jwks();
        let work = |_| async { Ok(v1::GetPublishingKeysResponse { jwks }) };
        self.desk.serve(request, action, work).await
    }
}
