//! `FleetService`: operators see the verifiers.

use countersign_core::jose::{decode_segment, encode_segment};
use countersign_core::spiffe::SpiffeId;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::fleet_service_server::FleetService;
use countersign_wire::{status, write_time};
use tonic::{Request, Response, Status};

use super::{Action, Desk, page_size};
use crate::fleet::{Fleet, Place, Verifier};

/// The service.
#[derive(Clone, Debug)]
pub struct Verifiers {
    /// Where operators are served.
    pub desk: Desk,
    /// The verifiers.
    pub fleet: Fleet,
}

impl Verifiers {
    fn list(&self, request: &v1::ListVerifiersRequest) -> Result<v1::ListVerifiersResponse, Status> {
        let size = page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(read_page_token(token)?),
        };
        let ledger = &self.desk.ledger;
        // Before the page: who joins in between is in the page.
        let gathering = self.fleet.is_gathering(ledger.timeline().clock().elapsed());
        let page = self.fleet.page(request.lacking_epoch, after, size);
        let books = ledger.books();
        Ok(v1::ListVerifiersResponse {
            verifiers: page.verifiers.iter().map(write_verifier).collect(),
            epoch: books.trust.epoch(),
            state_digest: books.trust.digest().to_vec(),
            next_page_token: page.next.as_ref().map_or_else(String::new, write_page_token),
            total: u64::try_from(page.total).unwrap_or(u64::MAX),
            gathering,
        })
    }
}

fn write_page_token((spiffe_id, stream): &Place) -> String {
    encode_segment(format!("{stream} {}", spiffe_id.as_str()).as_bytes())
}

fn read_page_token(token: &str) -> Result<Place, Status> {
    let read = || {
        let text = String::from_utf8(decode_segment(token.as_bytes())?).ok()?;
        let (stream, spiffe_id) = text.split_once(' ')?;
        Some((SpiffeId::parse(spiffe_id).ok()?, stream.parse().ok()?))
    };
    read().ok_or_else(|| status::invalid("page_token", "is not one that was given out here"))
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
        ..v1::Verifier::default()
    }
}

#[tonic::async_trait]
impl FleetService for Verifiers {
    async fn list_verifiers(
        &self,
        request: Request<v1::ListVerifiersRequest>,
    ) -> Result<Response<v1::ListVerifiersResponse>, Status> {
        let action = |_: &v1::ListVerifiersRequest| Action::new("list_verifiers", "");
        let verifiers = self.clone();
        self.desk
            .serve(request, action, |request| async move { verifiers.list(&request) })
            .await
    }
}
