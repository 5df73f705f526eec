//! Keeps a stream to the authority open: the loop around [`super::session`].
//!
//! Every stream has a connection of its own, so that a frozen one is left behind with it, and new certificates are used.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::verifier::Saved;
use countersign_proto::sync::v1::sync_request::Message;
use countersign_proto::sync::v1::sync_service_client::SyncServiceClient;
use countersign_proto::sync::v1::{KeyUses as KeyUsesMessage, SyncRequest, SyncResponse};
use countersign_runtime::backoff::{Backoff, Jitter};
use countersign_wire::MAX_UPDATE_LENGTH;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::metrics::SyncMetrics;
use super::repeats::Repeats;
use super::session::{Accepted, Beginning, Effect, Parts, Session, Signing};
use super::{Ended, OnStop, Publishers, SyncSettings, leaving};
use crate::cache::{NotDurable, TrustCache};
use crate::key_uses::KeyUses;
use crate::trust::TrustStore;

/// No connection could be prepared.
pub type DialError = Box<dyn std::error::Error + Send + Sync>;

/// Prepares a new connection to the authority, which is made when it is used. Asked once for every stream, so it may name
/// another authority each time.
pub type Dial = Arc<dyn Fn() -> Result<Channel, DialError> + Send + Sync>;

/// The first pause; the longest one is configured.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// The authority answers an opening at once; this is for the handshake on a bad link.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A stream that lived this long counts as recovery: the pauses begin anew. Less, and a flapping link is a failing one.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// Messages that the authority has not read yet. More, and it does not read at all.
const OUTGOING: usize = 64;

/// How often the authority is told which keys were used: with acknowledgements, and without.
const SHORTEST_TELLING: Duration = Duration::from_secs(5);
const LONGEST_TELLING: Duration = Duration::from_secs(60);

/// A stream is not ended more often than this to shorten the log on disk.
const LOG_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Keeps the trust up to date, for as long as the sidecar runs.
pub struct Supervisor {
    parts: Parts,
    dial: Dial,
    cache: Arc<TrustCache>,
    backoff: Backoff,
    failures: Repeats,
    /// What the last stream ended with, in its own words.
    cause: Option<String>,
    /// Whether the stream that is open, or was last, lived long enough.
    healthy: bool,
    may_end_for_log_from: Duration,
    key_uses: Arc<KeyUses>,
    told_uses_at: Duration,
    /// Whether it has let go of the trust, or tried to.
    has_forgotten: bool,
    /// Whether something was acknowledged since it was last looked whether to tell of the uses.
    acknowledged: bool,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

impl Supervisor {
    /// A supervisor that feeds `trust` from where `dial` leads, and keeps it in `cache`.
    #[must_use]
    pub fn new(
        settings: SyncSettings,
        dial: Dial,
        publishers: Publishers,
        trust: Arc<TrustStore>,
        cache: Arc<TrustCache>,
        metrics: SyncMetrics,
    ) -> Self {
        let durable = cache.problem().is_none();
        metrics.cache_durable.set(i64::from(durable));
        metrics.publishers(publishers.generation(), publishers.durable());
        let backoff = Backoff::new(SHORTEST_PAUSE, settings.longest_pause, Jitter::unpredictable());
        Self {
            parts: Parts {
                settings,
                trust,
                publishers,
                metrics,
                leases: Arc::default(),
                proof: None,
            },
            dial,
            cache,
            backoff,
            failures: Repeats::default(),
            cause: None,
            healthy: false,
            may_end_for_log_from: Duration::ZERO,
            key_uses: Arc::default(),
            told_uses_at: Duration::ZERO,
            acknowledged: false,
            has_forgotten: false,
        }
    }

    /// Tells the authority of the uses that `key_uses` counts.
    #[must_use]
    pub fn telling_of(mut self, key_uses: Arc<KeyUses>) -> Self {
        self.key_uses = key_uses;
        self
    }

    /// Runs until `stop`, and lets go of the trust then if that is what the settings say.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let ended = self.stream(&stop).await;
            self.parts.metrics.connected.set(0);
            SyncMetrics::count(&self.parts.metrics.sessions_ended, ended.reason());
            let pause = self.after(ended);
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        if !self.has_forgotten {
            self.forget().await;
        }
    }

    /// How long to wait now.
    fn after(&mut self, ended: Ended) -> Duration {
        if ended == Ended::LogFull {
            self.may_end_for_log_from = self.parts.trust.clock().elapsed().saturating_add(LOG_PAUSE);
        }
        if ended == Ended::Disowned {
            self.parts.trust.disowned();
        }
        let reason = ended.reason();
        let cause = self.cause.take();
        let cause = cause.as_deref();
        if ended.is_orderly() {
            tracing::debug!(reason, "the trust stream ended");
            return Duration::ZERO;
        }
        let pause = self.backoff.next_delay();
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        if self.healthy {
            // An authority renews streams, and restarts. That is news only when the next stream does not come about.
            tracing::info!(reason, cause, pause_ms, "the trust stream ended; opening another");
        } else if self.failures.is_news(reason) {
            tracing::warn!(
                reason,
                cause,
                pause_ms,
                "no trust stream; decisions go on with the trust there is, if any"
            );
        } else {
            tracing::debug!(reason, cause, pause_ms, "no trust stream");
        }
        pause
    }

    /// One stream, from opening to end.
    async fn stream(&mut self, stop: &CancellationToken) -> Ended {
        self.healthy = false;
        let epoch = self.parts.trust.epoch();
        let parts = Parts {
            proof: self.cache.proof(),
            ..self.parts.clone()
        };
        let mut session = Session::new(
            parts,
            Beginning {
                durable: epoch != 0 && self.cache.durable_epoch() == epoch,
                replaces_log: self.cache.wants_snapshot() || self.parts.publishers.drops_keys(),
                may_end_for_log_from: self.may_end_for_log_from,
            },
        );
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        let effects = session.begin();
        if let Some(ended) = self.perform(&mut session, &outgoing, effects).await {
            return ended;
        }
        let opened = stop.run_until_cancelled(self.open(requests)).await;
        let mut responses = match opened.unwrap_or(Err(Ended::Stopped)) {
            Ok(responses) => responses,
            Err(ended) => return ended,
        };
        self.parts.metrics.sessions.inc();
        self.parts.metrics.connected.set(1);
        let ended = self.drive(session, &outgoing, &mut responses, stop).await;
        if ended == Ended::Stopped && self.forget().await {
            leaving::take_leave(outgoing, responses).await;
        }
        ended
    }

    /// Stops deciding, and lets go of what is on disk. False when it is to be kept, or cannot be let go of.
    async fn forget(&mut self) -> bool {
        self.has_forgotten = true;
        self.parts.settings.on_stop == OnStop::Forget && leaving::forget(&self.parts.trust, &self.cache).await
    }

    fn ended_by(&mut self, status: &Status) -> Ended {
        let ended = ended_by(status);
        self.cause = Some(match std::error::Error::source(status) {
            Some(source) => in_words(source),
            None => status.message().to_owned(),
        });
        ended
    }

    async fn open(
        &mut self,
        requests: mpsc::Receiver<SyncRequest>,
    ) -> Result<Streaming<SyncResponse>, Ended> {
        let channel = (self.dial)().map_err(|error| {
            self.cause = Some(in_words(error.as_ref()));
            Ended::Dial
        })?;
        let mut client = SyncServiceClient::new(channel).max_decoding_message_size(MAX_UPDATE_LENGTH);
        let opening = client.sync(ReceiverStream::new(requests));
        let opened = timeout(OPEN_TIMEOUT, opening)
            .await
            .map_err(|_elapsed| Ended::OpenTimeout)?;
        opened
            .map(tonic::Response::into_inner)
            .map_err(|status| self.ended_by(&status))
    }

    async fn drive(
        &mut self,
        mut session: Session,
        outgoing: &mpsc::Sender<SyncRequest>,
        responses: &mut Streaming<SyncResponse>,
        stop: &CancellationToken,
    ) -> Ended {
        let period = self.parts.settings.heartbeat_period;
        let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                () = stop.cancelled() => return Ended::Stopped,
                message = responses.message() => Some(message),
                _ = ticks.tick() => None,
            };
            let effects = match message {
                None => session.tick(),
                Some(Ok(Some(response))) => {
                    let effects;
                    (session, effects) = match receive(session, response).await {
                        Ok(received) => received,
                        Err(ended) => return ended,
                    };
                    effects
                }
                Some(Ok(None)) => return Ended::Closed,
                Some(Err(status)) => return self.ended_by(&status),
            };
            if let Some(ended) = self.perform(&mut session, outgoing, effects).await {
                return ended;
            }
            if let Err(ended) = self.tell_uses(outgoing) {
                return ended;
            }
            self.note_health(&session);
        }
    }

    /// Tells which keys were used, soon after an acknowledgement and now and then otherwise. What is lost with a stream is
    /// told by nobody: it is a hint to operators, and no account.
    fn tell_uses(&mut self, outgoing: &mpsc::Sender<SyncRequest>) -> Result<(), Ended> {
        let now = self.parts.trust.clock().elapsed();
        let pause = if std::mem::take(&mut self.acknowledged) {
            SHORTEST_TELLING
        } else {
            LONGEST_TELLING
        };
        if now.saturating_sub(self.told_uses_at) < pause {
            return Ok(());
        }
        let uses = self.key_uses.take();
        if uses.is_empty() {
            return Ok(());
        }
        self.told_uses_at = now;
        send(outgoing, Message::KeyUses(KeyUsesMessage { uses }))
    }

    /// Does what the session asks for. The end, when that is what it asks for.
    async fn perform(
        &mut self,
        session: &mut Session,
        outgoing: &mpsc::Sender<SyncRequest>,
        effects: Vec<Effect>,
    ) -> Option<Ended> {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send(message) => {
                    self.acknowledged |= matches!(*message, Message::Ack(_));
                    if let Err(ended) = send(outgoing, *message) {
                        return Some(ended);
                    }
                }
                Effect::Save(accepted) => {
                    let saved = self.save(&accepted).await;
                    self.count(saved);
                    effects.extend(session.saved(*accepted, saved));
                }
                Effect::Keep(kept) => {
                    let saved = self
                        .cache
                        .save_heartbeat(&kept.signed, kept.epoch, &kept.sent)
                        .await;
                    self.count(saved);
                    effects.extend(session.kept(saved));
                }
                Effect::Probe(kept) => {
                    let saved = self.cache.probe(&kept.signed, kept.epoch).await;
                    self.count(saved);
                    effects.extend(session.kept(saved));
                }
                Effect::End(ended) => return Some(ended),
            }
        }
        None
    }

    async fn save(&self, accepted: &Accepted) -> Saved {
        let leads_to = accepted.leads_to;
        let publishers = &self.parts.publishers;
        let saved = match &accepted.signed {
            Signing::Snapshot(signed, deltas) => {
                self.cache
                    .save_snapshot(signed, deltas, leads_to, &accepted.carried, publishers)
                    .await
            }
            Signing::Delta(signed) => self.cache.save_delta(signed, leads_to, publishers).await,
        };
        self.parts
            .metrics
            .publishers(publishers.generation(), publishers.durable());
        saved
    }

    fn count(&self, saved: Saved) {
        let metrics = &self.parts.metrics;
        metrics.cache_durable.set(i64::from(saved.durable));
        if saved.durable {
            metrics.cache_saves.inc();
        } else {
            let problem = self.cache.problem().unwrap_or(NotDurable::Failed);
            SyncMetrics::count(&metrics.cache_failures, problem.reason());
        }
    }

    fn note_health(&mut self, session: &Session) {
        if session.is_confirmed() && session.age() >= HEALTHY_AFTER {
            self.healthy = true;
            self.backoff.reset();
            if self.failures.recovered() {
                tracing::info!(epoch = self.parts.trust.epoch(), "the trust stream is back");
            }
        }
    }
}

/// What the session makes of a message. A large update takes seconds to verify and to apply: on a thread of its own, so
/// that nothing else of the sidecar waits for it. What it leads to is put in force as a whole, afterwards.
async fn receive(mut session: Session, response: SyncResponse) -> Result<(Session, Vec<Effect>), Ended> {
    let receiving = tokio::task::spawn_blocking(move || {
        let effects = session.receive(response);
        (session, effects)
    });
    receiving.await.map_err(|_panicked| Ended::Failed)
}

pub(super) fn send(outgoing: &mpsc::Sender<SyncRequest>, message: Message) -> Result<(), Ended> {
    let request = SyncRequest {
        message: Some(message),
    };
    outgoing.try_send(request).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => Ended::SendBlocked,
        mpsc::error::TrySendError::Closed(_) => Ended::Closed,
    })
}

fn ended_by(status: &Status) -> Ended {
    let code = status.code();
    if [Code::Unavailable, Code::DeadlineExceeded].contains(&code) {
        Ended::Unavailable
    } else if [Code::PermissionDenied, Code::Unauthenticated].contains(&code) {
        Ended::NotAdmitted
    } else if code == Code::ResourceExhausted {
        Ended::TooMany
    } else if code == Code::InvalidArgument {
        // Everything else in a greeting is always of its form.
        Ended::Disowned
    } else {
        Ended::Failed
    }
}

/// `error` and what it comes from, each once.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        source = error.source();
    }
    words
}

#[cfg(test)]
mod tests;
