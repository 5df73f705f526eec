//! `TrustService`: operators take the trust along as a file.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_core::fleet::trust_file_until;
use countersign_core::staleness::MAX_BUDGET;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::trust_service_server::TrustService;
use countersign_wire::read_duration;
use countersign_wire::status::{self, Failure};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

use super::{Action, Desk, Ended, ledger_status};
use crate::feed::{Exported, Feed};
use crate::fleet::Fleet;

/// Bytes in one message.
const PIECE: usize = 64 * 1024;

/// How long taking a file may take: the largest over a slow line.
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// How long a file may be decided on, when the operator does not say.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// The shortest that an operator may say.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(60);

/// The service.
#[derive(Clone, Debug)]
pub struct Exports {
    desk: Desk,
    feed: Feed,
    fleet: Fleet,
    /// Held for as long as a file is given out. It is as large as a snapshot, and no stream shares it.
    turn: Arc<Semaphore>,
}

type Piece = Result<v1::ExportTrustResponse, Status>;
type Pieces = futures_util::stream::BoxStream<'static, Piece>;

impl Exports {
    /// Gives out what `feed` tells verifiers, and has `fleet` count on whoever starts from it.
    #[must_use]
    pub fn new(desk: Desk, feed: Feed, fleet: Fleet) -> Self {
        Self {
            desk,
            feed,
            fleet,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    pub(super) async fn export(
        self,
        request: &v1::ExportTrustRequest,
    ) -> Result<(Exported, OwnedSemaphorePermit), Status> {
        let lifetime = read_lifetime(request)?;
        // A heartbeat of an authority that is behind what it published must not confirm anything.
        self.desk.ledger.changeable().map_err(ledger_status)?;
        let turn = Arc::clone(&self.turn).try_acquire_owned();
        let turn = turn.map_err(|_taken| status::failed(Failure::TooManyStreams))?;
        let expires_at = self.fleet.now().saturating_add(lifetime);
        let until = trust_file_until(expires_at, lifetime);
        // INVARIANT (a bound holds): known to the register before the file is made, let alone given out. A change that comes in
        // between is in the file, or counts with it.
        let epoch = self
            .desk
            .ledger
            .export(until)
            .await
            .map_err(ledger_status)?
            .answer;
        self.fleet.exported(epoch, until);
        let exported = self.feed.export(lifetime, expires_at).await;
        let exported = exported.map_err(|_failed| status::failed(Failure::Internal))?;
        Ok((exported, turn))
    }
}

fn read_lifetime(request: &v1::ExportTrustRequest) -> Result<Duration, Status> {
    let Some(lifetime) = &request.lifetime else {
        return Ok(DEFAULT_LIFETIME);
    };
    read_duration(lifetime)
        .filter(|lifetime| (SHORTEST_LIFETIME..=MAX_BUDGET).contains(lifetime))
        .ok_or_else(|| status::invalid("lifetime", "is not between a minute and 7 days"))
}

/// `file` in pieces, and `turn` until the last is sent.
pub(super) fn pieces(file: Bytes, turn: OwnedSemaphorePermit) -> impl Stream<Item = Piece> {
    let ends = tokio::time::Instant::now() + LONGEST;
    futures_util::stream::unfold((file, turn), move |(mut file, turn)| async move {
        if file.is_empty() {
            return None;
        }
        let piece = if tokio::time::Instant::now() < ends {
            let piece = file.split_to(file.len().min(PIECE)).to_vec();
            Ok(v1::ExportTrustResponse { piece })
        } else {
            file.clear();
            Err(status::failed(Failure::DeadlineExceeded))
        };
        Some((piece, (file, turn)))
    })
}

#[tonic::async_trait]
impl TrustService for Exports {
    type ExportTrustStream = Pieces;

    async fn export_trust(
        &self,
        request: Request<v1::ExportTrustRequest>,
    ) -> Result<Response<Self::ExportTrustStream>, Status> {
        let action = |_: &v1::ExportTrustRequest| Action::new("export_trust", "");
        let exports = self.clone();
        let work = |request| async move {
            let exported = exports.export(&request).await;
            let ended = Ended::naming(exported, |(exported, _)| format!("epoch {}", exported.epoch));
            Ended {
                result: ended
                    .result
                    .map(|(exported, turn)| pieces(exported.file, turn).boxed()),
                subject: ended.subject,
            }
        };
        self.desk.serve(request, action, work).await
    }
}
