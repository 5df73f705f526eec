//! `FleetService`: operators see the verifiers, and how far an epoch has come on them.

use std::pin::Pin;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::fleet::VerifierKey;
use countersign_core::jose::{decode_segment, encode_segment};
use countersign_core::names::{KeyId, VerifierId};
use countersign_core::spiffe::SpiffeId;
use countersign_core::trust::Epoch;
use countersign_proto::admin::v1;
use countersign_proto::admin::v1::fleet_service_server::FleetService;
use countersign_wire::status::{self, Failure};
use countersign_wire::{read_time, write_time};
use futures_util::Stream;
use tonic::{Request, Response, Status};

use super::reach::{write_bounds, write_reach};
use super::{Action, Desk, ledger_status, page_size, required_reason};
use crate::fleet::{Fleet, KeyUsage, Listed, Untold};

/// How long a watcher waits between two answers, at least.
const PAUSE: Duration = Duration::from_millis(250);

/// How long a watcher waits for a change. What ends by itself is told of then.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long an epoch is watched: no verifier may decide for longer on what it was granted.
const LONGEST_WATCH: Duration = Duration::from_secs(8 * 24 * 3600);

/// The service.
#[derive(Clone, Debug)]
pub struct Verifiers {
    /// Where operators are served.
    pub desk: Desk,
    /// The verifiers.
    pub fleet: Fleet,
}

type Watched = Result<v1::WatchEpochResponse, Status>;

impl Verifiers {
    fn list(&self, request: &v1::ListVerifiersRequest) -> Result<v1::ListVerifiersResponse, Status> {
        let size = page_size(request.page_size)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(read_page_token(token)?),
        };
        let page = self.fleet.page(request.lacking_epoch, after.as_ref(), size);
        let books = self.desk.ledger.books();
        let write = |listed: &Listed| write_verifier(&self.fleet, listed);
        Ok(v1::ListVerifiersResponse {
            verifiers: page.verifiers.iter().map(write).collect(),
            epoch: books.trust.epoch(),
            state_digest: books.trust.digest().to_vec(),
            next_page_token: page.next.as_ref().map_or_else(String::new, write_page_token),
            total: u64::try_from(page.total).unwrap_or(u64::MAX),
        })
    }

    /// What is to be watched.
    fn watched(&self, request: &v1::WatchEpochRequest) -> Result<Watch, Status> {
        let current = self.desk.ledger.books().trust.epoch();
        let epoch = match request.epoch {
            0 => current,
            epoch if epoch <= current => epoch,
            _ => return Err(status::invalid("epoch", "is not reached yet")),
        };
        let tokens_end = request.tokens_end.as_ref().map(|time| {
            read_time(time).ok_or_else(|| status::invalid("tokens_end", "is no time that tokens have"))
        });
        Ok(Watch {
            changes: self.fleet.changes(),
            fleet: self.fleet.clone(),
            epoch,
            tokens_end: tokens_end.transpose()?,
            last: None,
        })
    }

    async fn quarantine(
        self,
        request: v1::QuarantineVerifierRequest,
    ) -> Result<v1::QuarantineVerifierResponse, Status> {
        let spiffe_id = read_spiffe_id(&request.spiffe_id)?;
        required_reason(&request.reason)?;
        let done = self.desk.ledger.quarantine(spiffe_id.clone()).await;
        done.map_err(ledger_status)?;
        self.fleet.quarantine(spiffe_id.clone(), true);
        Ok(v1::QuarantineVerifierResponse {
            bounds: write_bounds(&self.fleet, &self.fleet.ends(&spiffe_id), None),
            trust_files_until: self.fleet.files_until().map(write_time),
        })
    }

    async fn release(
        self,
        request: v1::ReleaseVerifierRequest,
    ) -> Result<v1::ReleaseVerifierResponse, Status> {
        let spiffe_id = read_spiffe_id(&request.spiffe_id)?;
        let done = self.desk.ledger.release(spiffe_id.clone()).await;
        done.map_err(ledger_status)?;
        self.fleet.quarantine(spiffe_id, false);
        Ok(v1::ReleaseVerifierResponse {})
    }

    async fn forget(self, request: v1::ForgetVerifierRequest) -> Result<v1::ForgetVerifierResponse, Status> {
        let key = VerifierKey {
            spiffe_id: read_spiffe_id(&request.spiffe_id)?,
            verifier_id: VerifierId::parse(&request.verifier_id)
                .map_err(|invalid| status::invalid("verifier_id", invalid.expected))?,
        };
        required_reason(&request.reason)?;
        self.desk.ledger.changeable().map_err(ledger_status)?;
        match self.fleet.is_connected(&key) {
            None => return Err(status::failed(Failure::VerifierUnknown)),
            Some(true) => return Err(status::failed(Failure::VerifierConnected)),
            Some(false) => {}
        }
        // In memory first: should it come back meanwhile, it is taken down anew.
        self.fleet.forget(&key);
        let untold = Untold {
            gone: vec![key],
            ..Untold::default()
        };
        let done = self.desk.ledger.enrol(untold).await;
        done.map_err(ledger_status)?;
        Ok(v1::ForgetVerifierResponse {})
    }
}

/// Follows an epoch.
struct Watch {
    fleet: Fleet,
    changes: tokio::sync::watch::Receiver<()>,
    epoch: Epoch,
    /// After which no bound is.
    tokens_end: Option<Timestamp>,
    last: Option<v1::EpochReach>,
}

impl Watch {
    fn stream(self) -> impl Stream<Item = Watched> {
        let ends = tokio::time::Instant::now() + LONGEST_WATCH;
        futures_util::stream::unfold(self, move |mut watch| async move {
            let next = tokio::time::timeout_at(ends, watch.next()).await;
            next.ok().flatten().map(|reach| (Ok(reach), watch))
        })
    }

    /// How far it has come, once that is something new. Nothing after it was complete.
    async fn next(&mut self) -> Option<v1::WatchEpochResponse> {
        if self.last.as_ref().is_some_and(|last| last.complete) {
            return None;
        }
        loop {
            if self.last.is_some() {
                tokio::time::sleep(PAUSE).await;
                // Whether something changed or only time has passed, it is looked at anew.
                let _changed = tokio::time::timeout(LONGEST_PAUSE, self.changes.changed()).await;
            }
            self.changes.mark_unchanged();
            let reach = self.fleet.reach(self.epoch);
            let written = write_reach(&self.fleet, self.epoch, &reach, self.tokens_end);
            if self.last.as_ref() != Some(&written) {
                self.last = Some(written.clone());
                return Some(v1::WatchEpochResponse { reach: Some(written) });
            }
        }
    }
}

fn read_spiffe_id(text: &str) -> Result<SpiffeId, Status> {
    SpiffeId::parse(text).map_err(|_form| status::invalid("spiffe_id", "is no SPIFFE ID"))
}

fn write_page_token(key: &VerifierKey) -> String {
    encode_segment(format!("{} {}", key.verifier_id, key.spiffe_id.as_str()).as_bytes())
}

fn read_page_token(token: &str) -> Result<VerifierKey, Status> {
    let read = || {
        let text = String::from_utf8(decode_segment(token.as_bytes())?).ok()?;
        let (verifier_id, spiffe_id) = text.split_once(' ')?;
        Some(VerifierKey {
            spiffe_id: SpiffeId::parse(spiffe_id).ok()?,
            verifier_id: VerifierId::parse(verifier_id).ok()?,
        })
    };
    read().ok_or_else(|| status::invalid("page_token", "is not one that was given out here"))
}

fn write_verifier(fleet: &Fleet, listed: &Listed) -> v1::Verifier {
    let Listed {
        key,
        verifier,
        quarantined,
        ends,
        usage,
    } = listed;
    let seen = verifier.last_seen_at.as_seconds() > 0;
    v1::Verifier {
        spiffe_id: key.spiffe_id.as_str().to_owned(),
        verifier_id: key.verifier_id.as_str().to_owned(),
        instance_id: verifier.instance_id.clone(),
        version: verifier.version.clone(),
        connected: verifier.stream.is_some(),
        acknowledged_epoch: verifier.acknowledged,
        durable: verifier.acknowledged > 0 && verifier.durable == verifier.acknowledged,
        connected_at: seen.then(|| write_time(verifier.connected_at)),
        last_seen_at: seen.then(|| write_time(verifier.last_seen_at)),
        last_nack: verifier.last_nack.to_owned(),
        quarantined: *quarantined,
        bounds: write_bounds(fleet, ends, None),
        key_usage: usage.iter().map(write_usage).collect(),
    }
}

fn write_usage((key_id, usage): (&KeyId, &KeyUsage)) -> v1::KeyUsage {
    v1::KeyUsage {
        kid: key_id.as_str().to_owned(),
        tokens: usage.tokens,
        last_used_at: Some(write_time(usage.last_used_at)),
        clients: usage
            .clients
            .iter()
            .map(|client| client.as_str().to_owned())
            .collect(),
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

    type WatchEpochStream = Pin<Box<dyn Stream<Item = Watched> + Send>>;

    async fn watch_epoch(
        &self,
        request: Request<v1::WatchEpochRequest>,
    ) -> Result<Response<Self::WatchEpochStream>, Status> {
        let action = |request: &v1::WatchEpochRequest| Action::new("watch_epoch", &request.epoch.to_string());
        let verifiers = self.clone();
        self.desk
            .serve(request, action, |request| async move {
                let stream: Self::WatchEpochStream = Box::pin(verifiers.watched(&request)?.stream());
                Ok::<_, Status>(stream)
            })
            .await
    }

    async fn quarantine_verifier(
        &self,
        request: Request<v1::QuarantineVerifierRequest>,
    ) -> Result<Response<v1::QuarantineVerifierResponse>, Status> {
        let action = |request: &v1::QuarantineVerifierRequest| {
            Action::new("quarantine_verifier", &request.spiffe_id).because(&request.reason)
        };
        let verifiers = self.clone();
        self.desk
            .serve(request, action, |request| verifiers.quarantine(request))
            .await
    }

    async fn release_verifier(
        &self,
        request: Request<v1::ReleaseVerifierRequest>,
    ) -> Result<Response<v1::ReleaseVerifierResponse>, Status> {
        let action =
            |request: &v1::ReleaseVerifierRequest| Action::new("release_verifier", &request.spiffe_id);
        let verifiers = self.clone();
        self.desk
            .serve(request, action, |request| verifiers.release(request))
            .await
    }

    async fn forget_verifier(
        &self,
        request: Request<v1::ForgetVerifierRequest>,
    ) -> Result<Response<v1::ForgetVerifierResponse>, Status> {
        let action = |request: &v1::ForgetVerifierRequest| {
            let which = format!("{} {}", request.spiffe_id, request.verifier_id);
            Action::new("forget_verifier", &which).because(&request.reason)
        };
        let verifiers = self.clone();
        self.desk
            .serve(request, action, |request| verifiers.forget(request))
            .await
    }
}
