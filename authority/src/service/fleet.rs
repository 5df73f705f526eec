//! `FleetService`: operators see the verifiers.

use countersign_proto::admin::v1;
use countersign_proto::admin::v1::fleet_service_server::FleetService;
use countersign_wire::write_time;
use tonic::{Request, Response, Status};

use super::{Action, Desk};
use crate::fleet::{Fleet, Verifier};

/// The service.
#[derive(Clone, Debug)]
pub struct Verifiers {
    /// Where operators are served.
    pub desk: Desk,
    /// The verifiers.
    pub fleet: Fleet,
}

impl Verifiers {
    fn list(&self) -> v1::ListVerifiersResponse {
        let books = self.desk.ledger.books();
        v1::ListVerifiersResponse {
            verifiers: self.fleet.list().iter().map(write_verifier).collect(),
            epoch: books.trust.epoch(),
            state_digest: books.trust.digest().to_vec(),
        }
    }
}

fn write_verifier(verifier: &Verifier) -> v1::Verifier {
    v1::Verifier {
        spiffe_id: verifier.spiffe_id.as_str().to_owned(),
        instance_id: verifier.instance_id.clone(),
        version: verifier.version.clone(),
        connected: verifier.connected,
        acknowledged_epoch: verifier.acknowledged,
        durable: verifier.durable,
        connected_at: Some(write_time(verifier.connected_at)),
        last_seen_at: Some(write_time(verifier.last_seen_at)),
        last_nack: verifier.last_nack.to_owned(),
    }
}

#[tonic::async_trait]
impl FleetService for Verifiers {
    async fn list_verifiers(
        &self,
        request: Request<v1::ListVerifiersRequest>,
    ) -> Result<Response<v1::ListVerifiersResponse>, Status> {
        let action = |_: &v1::ListVerifiersRequest| Action::new("list_verifiers", "");
        self.desk
            .serve(request, action, |_| async move { Ok(self.list()) })
            .await
    }
}
