//! A verifier that does what the protocol asks for and keeps nothing: it reads each update, acknowledges it, and pings. Some
//! kilobytes each, so that one process can be thousands.
//!
//! Where it comes and how it comes again is as a sidecar does: a certificate, a connection and a stream of its own, and pauses
//! that grow. The signature over bytes that all of them are sent is verified once and the bytes are compared: elsewhere each
//! would verify it on a machine of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_core::names::VerifierId;
use countersign_core::verifier::StateId;
use countersign_mtls::{ChannelOptions, ClientTls};
use countersign_proto::sync::v1::sync_request::Message as Request;
use countersign_proto::sync::v1::sync_response::Message as Response;
use countersign_proto::sync::v1::sync_service_client::SyncServiceClient;
use countersign_proto::sync::v1::{Ack, Hello, Ping, Pong, SyncRequest, SyncResponse};
use countersign_proto::trust::v1::Signed;
use countersign_runtime::backoff::{Backoff, Jitter};
use countersign_verifier::sync::{Publishers, SyncSettings};
use countersign_wire::MAX_UPDATE_LENGTH;
use tokio::sync::mpsc;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::board::{Board, Ending};
use crate::Failure;

/// As the sidecar has them.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
const SILENT_PERIODS: u32 = 3;

/// Messages that the server has not read yet.
const OUTGOING: usize = 64;

/// Reads what is signed.
#[derive(Debug)]
pub(super) struct Reader {
    publishers: Publishers,
    update: Mutex<Option<(Signed, StateId)>>,
    heartbeat: Mutex<Option<Signed>>,
}

impl Reader {
    pub(super) fn new(publishers: Publishers) -> Self {
        Self {
            publishers,
            update: Mutex::default(),
            heartbeat: Mutex::default(),
        }
    }

    /// The state that an update leads to.
    fn update(&self, signed: Signed) -> Result<StateId, Failure> {
        let mut last = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((verified, state)) = last.as_ref()
            && *verified == signed
        {
            return Ok(*state);
        }
        let update = self.publishers.update(&signed)?;
        let state = StateId::stated_by(&update);
        *last = Some((signed, state));
        Ok(state)
    }

    fn heartbeat(&self, signed: Signed) -> Result<(), Failure> {
        let mut last = self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() != Some(&signed) {
            self.publishers.heartbeat(&signed)?;
            *last = Some(signed);
        }
        Ok(())
    }
}

/// What verifiers of one run share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) uri: String,
    pub(super) reader: Arc<Reader>,
    pub(super) board: Arc<Board>,
}

/// One verifier.
#[derive(Debug)]
pub(super) struct Light {
    shared: Shared,
    tls: Arc<ClientTls>,
    settings: SyncSettings,
    in_force: StateId,
    backoff: Backoff,
    /// When its lease ends, or ended.
    lease_ends: Option<Instant>,
}

impl Light {
    /// The verifier of this name.
    pub(super) fn new(shared: Shared, tls: Arc<ClientTls>, verifier_id: VerifierId) -> Self {
        let settings = SyncSettings::new(verifier_id.to_string(), verifier_id);
        Self {
            backoff: Backoff::new(SHORTEST_PAUSE, settings.longest_pause, Jitter::unpredictable()),
            shared,
            tls,
            settings,
            in_force: StateId::default(),
            lease_ends: None,
        }
    }

    /// Opens one stream after another.
    pub(super) async fn run(mut self) {
        loop {
            let mut stream = Stream::default();
            let ended = self.stream(&mut stream).await.err();
            let ending = ended.map_or(Ending::Unavailable, |failure| ending(&failure));
            self.shared.board.ended(ending, stream.leased);
            let opened_at = stream.opened_at.filter(|_| stream.leased);
            if opened_at.is_some_and(|at| at.elapsed() >= HEALTHY_AFTER) {
                self.backoff.reset();
            }
            sleep(self.backoff.next_delay()).await;
        }
    }

    async fn stream(&mut self, stream: &mut Stream) -> Result<(), Failure> {
        let channel = self.tls.channel(&self.shared.uri, ChannelOptions::default())?;
        let mut client = SyncServiceClient::new(channel).max_decoding_message_size(MAX_UPDATE_LENGTH);
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        say(&outgoing, Request::Hello(self.hello()))?;
        self.ping(stream, &outgoing)?;
        let opening = timeout(OPEN_TIMEOUT, client.sync(ReceiverStream::new(requests)));
        let responses = opening.await??.into_inner();
        self.drive(stream, &outgoing, responses).await
    }

    async fn drive(
        &mut self,
        stream: &mut Stream,
        outgoing: &mpsc::Sender<SyncRequest>,
        mut responses: Streaming<SyncResponse>,
    ) -> Result<(), Failure> {
        let opened_at = Instant::now();
        stream.opened_at = Some(opened_at);
        stream.heard_at = Some(opened_at);
        let period = self.settings.heartbeat_period;
        let mut ticks = interval_at(opened_at + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let response = tokio::select! {
                response = responses.message() => Some(response?),
                _ = ticks.tick() => None,
            };
            match response {
                None if stream.is_silent(period) => return Err(Box::new(NoAnswer)),
                None => self.ping(stream, outgoing)?,
                Some(None) => return Ok(()),
                Some(Some(response)) => self.receive(stream, outgoing, response)?,
            }
        }
    }

    fn receive(
        &mut self,
        stream: &mut Stream,
        outgoing: &mpsc::Sender<SyncRequest>,
        response: SyncResponse,
    ) -> Result<(), Failure> {
        match response.message {
            Some(Response::Update(signed)) => {
                self.in_force = self.shared.reader.update(signed)?;
                self.shared.board.arrived(self.in_force.epoch);
                let ack = Ack {
                    epoch: self.in_force.epoch,
                    state_digest: self.in_force.digest.to_vec(),
                    durable: true,
                };
                say(outgoing, Request::Ack(ack))?;
                self.ping(stream, outgoing)
            }
            Some(Response::Pong(pong)) => self.answered(stream, pong),
            // Of no concern to one that decides nothing.
            Some(_) | None => Ok(()),
        }
    }

    fn answered(&mut self, stream: &mut Stream, pong: Pong) -> Result<(), Failure> {
        stream.heard_at = Some(Instant::now());
        let sent_at = stream.answered(pong.ping_sequence);
        if let Some(heartbeat) = pong.heartbeat {
            self.shared.reader.heartbeat(heartbeat)?;
        }
        if let Some(sent_at) = sent_at.filter(|_| pong.lease_ms > 0) {
            if !std::mem::replace(&mut stream.leased, true) {
                let lapsed = self
                    .lease_ends
                    .map(|end| Instant::now().saturating_duration_since(end));
                self.shared.board.leased(lapsed.unwrap_or_default());
            }
            self.lease_ends = Some(sent_at + Duration::from_millis(pong.lease_ms));
        }
        Ok(())
    }

    fn hello(&self) -> Hello {
        Hello {
            instance_id: self.settings.instance_id.clone(),
            version: "bench".to_owned(),
            epoch: self.in_force.epoch,
            state_digest: if self.in_force.epoch == 0 {
                Vec::new()
            } else {
                self.in_force.digest.to_vec()
            },
            highest_epoch: self.in_force.epoch,
            verifier_id: self.settings.verifier_id.to_string(),
            ..Hello::default()
        }
    }

    fn ping(&self, stream: &mut Stream, outgoing: &mpsc::Sender<SyncRequest>) -> Result<(), Failure> {
        let sequence = stream.next_ping();
        say(
            outgoing,
            Request::Ping(Ping {
                sequence,
                epoch: self.in_force.epoch,
                state_digest: self.in_force.digest.to_vec(),
            }),
        )
    }
}

/// Pings that are remembered.
const PINGS: usize = 8;

/// What is known of a stream.
#[derive(Debug, Default)]
struct Stream {
    opened_at: Option<Instant>,
    heard_at: Option<Instant>,
    /// Whether it was granted a lease.
    leased: bool,
    sequence: u64,
    /// The pings sent last.
    pings: VecDeque<(u64, Instant)>,
}

impl Stream {
    fn next_ping(&mut self) -> u64 {
        self.sequence += 1;
        if self.pings.len() == PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back((self.sequence, Instant::now()));
        self.sequence
    }

    /// When the ping was sent that is answered.
    fn answered(&mut self, sequence: u64) -> Option<Instant> {
        let index = self.pings.iter().position(|(sent, _)| *sent == sequence)?;
        let answered = self.pings.drain(..=index).next_back();
        answered.map(|(_, at)| at)
    }

    fn is_silent(&self, period: Duration) -> bool {
        self.heard_at
            .is_some_and(|at| at.elapsed() >= period * SILENT_PERIODS)
    }
}

/// The server has not answered for three periods.
#[derive(Debug, thiserror::Error)]
#[error("the server does not answer")]
struct NoAnswer;

fn say(outgoing: &mpsc::Sender<SyncRequest>, message: Request) -> Result<(), Failure> {
    let request = SyncRequest {
        message: Some(message),
    };
    Ok(outgoing.try_send(request)?)
}

/// What a stream ended by.
fn ending(failure: &Failure) -> Ending {
    if failure.is::<NoAnswer>() || failure.is::<Elapsed>() {
        return Ending::NoAnswer;
    }
    let Some(status) = failure.downcast_ref::<Status>() else {
        return Ending::Away;
    };
    let refusals = [
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::ResourceExhausted,
        Code::InvalidArgument,
        Code::FailedPrecondition,
    ];
    if refusals.contains(&status.code()) {
        Ending::Refused
    } else if status.code() == Code::Unavailable {
        Ending::Unavailable
    } else {
        Ending::Away
    }
}
