//! `TrustService`: operators take the trust along as a file.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::trust_service_server::TrustService;
use countersign_wire::status::{self, Failure};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

use super::{Action, Desk, Ended, ledger_status};
use crate::feed::{Exported, Feed};

/// Bytes in one message.
const PIECE: usize = 64 * 1024;

/// How long taking a file may take: the largest over a slow line.
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// The service.
#[derive(Clone, Debug)]
pub struct Exports {
    desk: Desk,
    feed: Feed,
    /// Held for as long as a file is given out. It is as large as a snapshot, and no stream shares it.
    turn: Arc<Semaphore>,
}

type Piece = Result<v1::ExportTrustResponse, Status>;
type Pieces = futures_util::stream::BoxStream<'static, Piece>;

impl Exports {
    /// Gives out what `feed` tells verifiers.
    #[must_use]
    pub fn new(desk: Desk, feed: Feed) -> Self {
        Self {
            desk,
            feed,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    pub(super) async fn export(self) -> Result<(Exported, OwnedSemaphorePermit), Status> {
        // A heartbeat of an authority that is behind what it published must not confirm anything.
        self.desk.ledger.changeable().map_err(ledger_status)?;
        let turn = Arc::clone(&self.turn).try_acquire_owned();
        let turn = turn.map_err(|_taken| status::failed(Failure::TooManyStreams))?;
        let exported = self.feed.export().await;
        let exported = exported.map_err(|_failed| status::failed(Failure::Internal))?;
        Ok((exported, turn))
    }
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
        let work = |_| async {
            let exported = exports.export().await;
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
