//! The loop against an authority that speaks gRPC, over pipes in memory and on paused time.

mod leaving;
mod uses;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_core::Timestamp;
use countersign_core::freshness::Freshness;
use countersign_core::names::VerifierId;
use countersign_core::ports::Clock;
use countersign_core::trust::Epoch;
use countersign_proto::sync::v1::hello::Proof;
use countersign_proto::sync::v1::sync_response::Message as Response;
use countersign_proto::sync::v1::sync_service_server::{SyncService, SyncServiceServer};
use countersign_proto::sync::v1::{Hello, KeyUse, Pong};
use countersign_proto::trust::v1::Signed;
use countersign_wire::status::{Failure, failed, invalid};
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::time::Instant;
use tonic::transport::{Endpoint, Server, Uri};
use tonic::{Request, Response as Answer};

use super::*;
use crate::cache::{CacheIdentity, CacheSettings, Found};
use crate::sync::scripted::{ISSUER, REFUSE_AFTER, START, ScriptedAuthority, rules};
use crate::trust::TrustAlarm;

const SECOND: Duration = Duration::from_secs(1);

/// A clock that moves with tokio's timers, so that one advance moves both.
#[derive(Debug)]
struct TimerClock(Instant);

impl TimerClock {
    fn shared() -> Arc<dyn Clock> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for TimerClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(self.now_millis() / 1000)
    }

    fn now_millis(&self) -> u64 {
        START * 1000 + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// How the authority behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// As it should.
    Well,
    /// It takes connections and says nothing any more.
    Frozen,
    /// It ends every stream at once.
    Refusing,
    /// It was restored, and does not know the epoch in force.
    Restored,
    /// It sends more than anybody reads.
    Huge,
}

/// What verifiers said to it.
#[derive(Debug, Default)]
struct Heard {
    hellos: Vec<Hello>,
    /// The epoch acknowledged, whether durably, and what was on disk at that moment.
    acks: Vec<(Epoch, bool, Epoch)>,
    uses: Vec<KeyUse>,
    /// What was on disk when leave was taken.
    leaves: Vec<Epoch>,
}

/// An authority in this process.
#[derive(Clone)]
struct FakeAuthority {
    scripted: Arc<Mutex<ScriptedAuthority>>,
    clock: Arc<dyn Clock>,
    mood: Arc<Mutex<Mood>>,
    away: Arc<AtomicBool>,
    heard: Arc<Mutex<Heard>>,
    streams: Arc<Mutex<Vec<Responses>>>,
    /// The disk that acknowledgements are compared with.
    disk: Arc<Mutex<Option<Arc<TrustCache>>>>,
}

type Responses = mpsc::Sender<Result<SyncResponse, Status>>;

fn response(message: Response) -> SyncResponse {
    SyncResponse {
        message: Some(message),
    }
}

impl FakeAuthority {
    fn new(clock: &Arc<dyn Clock>) -> Self {
        Self {
            scripted: Arc::new(Mutex::new(ScriptedAuthority::new())),
            clock: Arc::clone(clock),
            mood: Arc::new(Mutex::new(Mood::Well)),
            away: Arc::default(),
            heard: Arc::default(),
            streams: Arc::default(),
            disk: Arc::default(),
        }
    }

    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    fn set_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn publishers(&self) -> Publishers {
        self.scripted.lock().unwrap().publishers()
    }

    /// Revokes a token, and tells everybody.
    fn revoke(&self, token_id: &str) {
        let delta = self.scripted.lock().unwrap().revoke(token_id);
        for stream in self.streams.lock().unwrap().iter() {
            let _gone = stream.try_send(Ok(response(Response::Update(delta.clone()))));
        }
    }

    fn epoch(&self) -> Epoch {
        self.scripted.lock().unwrap().state.epoch()
    }

    /// Goes away: no new connections, and the streams break.
    fn leave(&self) {
        self.away.store(true, Ordering::SeqCst);
        self.streams.lock().unwrap().clear();
    }

    fn come_back(&self) {
        self.away.store(false, Ordering::SeqCst);
    }

    /// A way to it, over a pipe of its own for every connection.
    fn dial(&self) -> Dial {
        let authority = self.clone();
        Arc::new(move || {
            let authority = authority.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let authority = authority.clone();
                async move { authority.connect().map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_static("http://authority.test");
            Ok(endpoint.connect_with_connector_lazy(connector))
        })
    }

    fn connect(&self) -> std::io::Result<DuplexStream> {
        if self.away.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let service = SyncServiceServer::new(self.clone());
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(ours));
        tokio::spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        Ok(theirs)
    }

    async fn serve(
        self,
        mut requests: Streaming<SyncRequest>,
        responses: mpsc::WeakSender<Result<SyncResponse, Status>>,
    ) {
        while let Ok(Some(request)) = requests.message().await {
            let Some(responses) = responses.upgrade() else {
                return;
            };
            if self.mood() == Mood::Frozen {
                continue;
            }
            let Some(answer) = self.answer(request) else {
                continue;
            };
            if responses.send(Ok(response(answer))).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: SyncRequest) -> Option<Response> {
        let mut heard = self.heard.lock().unwrap();
        let mut scripted = self.scripted.lock().unwrap();
        match request.message.unwrap() {
            Message::Hello(hello) => {
                let current = hello.epoch == scripted.state.epoch();
                heard.hellos.push(hello);
                let update = match self.mood() {
                    Mood::Huge => Signed {
                        payload: vec![0; MAX_UPDATE_LENGTH + 1].into(),
                        ..Signed::default()
                    },
                    Mood::Well | Mood::Frozen | Mood::Refusing | Mood::Restored => scripted.snapshot(),
                };
                (!current).then_some(Response::Update(update))
            }
            Message::Ack(ack) => {
                let disk = self.disk.lock().unwrap();
                let on_disk = disk.as_ref().map_or(0, |disk| disk.durable_epoch());
                heard.acks.push((ack.epoch, ack.durable, on_disk));
                None
            }
            Message::KeyUses(uses) => {
                heard.uses.extend(uses.uses);
                None
            }
            Message::Leave(_) => {
                let disk = self.disk.lock().unwrap();
                heard
                    .leaves
                    .push(disk.as_ref().map_or(0, |disk| disk.durable_epoch()));
                self.streams.lock().unwrap().clear();
                None
            }
            Message::Nack(nack) => nack.resync.then(|| Response::Update(scripted.snapshot())),
            Message::Ping(ping) => Some(Response::Pong(Pong {
                ping_sequence: ping.sequence,
                heartbeat: Some(scripted.heartbeat(self.clock.now_millis())),
                lease_ms: 10_000,
                quarantined: false,
            })),
        }
    }
}

#[tonic::async_trait]
impl SyncService for FakeAuthority {
    type SyncStream = ReceiverStream<Result<SyncResponse, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<SyncRequest>>,
    ) -> Result<Answer<Self::SyncStream>, Status> {
        match self.mood() {
            Mood::Refusing => return Err(failed(Failure::NotAVerifier)),
            Mood::Restored => return Err(invalid("hello.epoch", "is one that was never reached here")),
            Mood::Well | Mood::Frozen | Mood::Huge => {}
        }
        let (responses, stream) = mpsc::channel(64);
        tokio::spawn(self.clone().serve(request.into_inner(), responses.downgrade()));
        self.streams.lock().unwrap().push(responses);
        Ok(Answer::new(ReceiverStream::new(stream)))
    }
}

/// A sidecar's half of it all.
struct Sidecar {
    key_uses: Arc<KeyUses>,
    trust: Arc<TrustStore>,
    cache: Arc<TrustCache>,
    metrics: SyncMetrics,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    found: Found,
    floor: Option<crate::trust::StateId>,
}

impl Sidecar {
    /// Starts as the program does: the disk first, then the stream.
    async fn start(authority: &FakeAuthority, state: &std::path::Path) -> Self {
        Self::start_to(OnStop::Keep, authority, state).await
    }

    /// The same, and at the end the trust is kept or forgotten.
    async fn start_to(on_stop: OnStop, authority: &FakeAuthority, state: &std::path::Path) -> Self {
        let clock = Arc::clone(&authority.clock);
        let trust = Arc::new(TrustStore::new(rules(), Arc::default(), Arc::clone(&clock)));
        let identity = CacheIdentity {
            issuer: ISSUER.to_owned(),
            trust_domain: "example.com".to_owned(),
            audience: "orders".to_owned(),
            sidecar: "spiffe://example.com/sidecar".to_owned(),
        };
        let settings = CacheSettings::new(state.to_owned(), identity, VerifierId::parse("one").unwrap());
        let opened = TrustCache::open(settings, authority.publishers(), rules(), clock)
            .await
            .unwrap();
        opened.restore(&trust).unwrap();
        let cache = Arc::new(opened.cache);
        let metrics = SyncMetrics::default();
        let supervisor = Supervisor::new(
            SyncSettings {
                on_stop,
                ..SyncSettings::new("instance".to_owned(), opened.verifier_id)
            },
            authority.dial(),
            authority.publishers(),
            Arc::clone(&trust),
            Arc::clone(&cache),
            metrics.clone(),
        );
        let key_uses = Arc::new(KeyUses::default());
        let supervisor = supervisor.telling_of(Arc::clone(&key_uses));
        let stop = CancellationToken::new();
        let running = tokio::spawn(supervisor.run(stop.clone()));
        Self {
            key_uses,
            trust,
            cache,
            metrics,
            stop,
            running,
            found: opened.found,
            floor: opened.floor,
        }
    }

    /// Waits until the trust in force is at `epoch` and fresh.
    async fn until_fresh(&self, epoch: Epoch) {
        self.until(|status| status.epoch == epoch && status.freshness == Some(Freshness::Fresh))
            .await;
    }

    async fn until(&self, condition: impl Fn(&crate::trust::TrustStatus) -> bool) {
        let waiting = async {
            while !condition(&self.trust.status()) {
                tokio::time::sleep(SECOND / 100).await;
            }
        };
        timeout(1200 * SECOND, waiting)
            .await
            .unwrap_or_else(|_| panic!("still {:?}", self.trust.status()));
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
        assert!(Arc::into_inner(self.cache).unwrap().close().await);
    }

    fn ended(&self, ended: Ended) -> u64 {
        self.metrics
            .sessions_ended
            .get_or_create(&crate::sync::Reason {
                reason: ended.reason(),
            })
            .get()
    }
}

#[tokio::test(start_paused = true)]
async fn a_cold_sidecar_is_ready_as_soon_as_the_authority_has_answered() {
    let authority = FakeAuthority::new(&TimerClock::shared());
    let state = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let sidecar = Sidecar::start(&authority, state.path()).await;
    sidecar.until_fresh(1).await;
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    authority.revoke("a");
    sidecar.until_fresh(2).await;
    assert_eq!(sidecar.metrics.connected.get(), 1);
    assert_eq!(sidecar.metrics.cache_durable.get(), 1);
    sidecar.stop().await;
}

/// An epoch is acknowledged when it is on disk and in force, and not before.
#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_is_on_disk() {
    let authority = FakeAuthority::new(&TimerClock::shared());
    let state = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(&authority, state.path()).await;
    sidecar.until_fresh(1).await;
    *authority.disk.lock().unwrap() = Some(Arc::clone(&sidecar.cache));
    for n in 0..20 {
        authority.revoke(&format!("t{n}"));
    }
    sidecar.until_fresh(21).await;
    *authority.disk.lock().unwrap() = None;
    let acks = std::mem::take(&mut authority.heard.lock().unwrap().acks);
    assert_eq!(acks.last().map(|ack| ack.0), Some(21));
    assert!(
        acks[1..]
            .iter()
            .all(|(epoch, durable, on_disk)| *durable && epoch <= on_disk)
    );
    sidecar.stop().await;
}

/// F42, F43: without the authority, a sidecar decides from its disk as long as the budget lasts; without that either it
/// waits, and becomes ready by itself.
#[tokio::test(start_paused = true)]
async fn a_restart_without_the_authority_goes_on_where_it_was() {
    let authority = FakeAuthority::new(&TimerClock::shared());
    let state = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(&authority, state.path()).await;
    sidecar.until_fresh(1).await;
    authority.revoke("a");
    sidecar.until_fresh(2).await;
    authority.leave();
    sidecar.stop().await;
    tokio::time::sleep(300 * SECOND).await;

    let sidecar = Sidecar::start(&authority, state.path()).await;
    assert!(matches!(sidecar.found, Found::Trust { .. }));
    let status = sidecar.trust.status();
    assert_eq!((status.epoch, status.revocations), (2, 1));
    assert!(status.decides());
    assert!(status.age.is_some_and(|age| age >= 300 * SECOND), "{status:?}");
    sidecar.until(|status| !status.decides()).await;
    assert!(sidecar.trust.status().age >= Some(REFUSE_AFTER));
    authority.revoke("b");
    authority.come_back();
    let back = Instant::now();
    sidecar.until_fresh(3).await;
    assert!(back.elapsed() < 20 * SECOND, "{:?}", back.elapsed());
    assert_eq!(authority.heard.lock().unwrap().hellos.last().unwrap().epoch, 2);
    sidecar.stop().await;

    let empty = tempfile::tempdir().unwrap();
    authority.leave();
    let sidecar = Sidecar::start(&authority, empty.path()).await;
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(sidecar.trust.status().freshness_name(), "cold");
    authority.come_back();
    sidecar.until_fresh(3).await;
    sidecar.stop().await;
}

/// F15: a stream on which nothing comes any more is left behind, with its connection.
#[tokio::test(start_paused = true)]
async fn a_frozen_stream_is_replaced() {
    let authority = FakeAuthority::new(&TimerClock::shared());
    let state = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(&authority, state.path()).await;
    sidecar.until_fresh(1).await;
    authority.set_mood(Mood::Frozen);
    let frozen = Instant::now();
    sidecar.until(|_| sidecar.ended(Ended::NoAnswer) == 1).await;
    assert!(
        (4 * SECOND..9 * SECOND).contains(&frozen.elapsed()),
        "{:?}",
        frozen.elapsed()
    );
    authority.set_mood(Mood::Well);
    authority.revoke("while-frozen");
    sidecar.until_fresh(2).await;
    sidecar.stop().await;
}

/// F18, F14: an authority that refuses, or a link that flaps, is tried again at a bounded rate, for ever.
#[tokio::test(start_paused = true)]
async fn a_failing_authority_is_tried_again_at_a_bounded_rate() {
    let authority = FakeAuthority::new(&TimerClock::shared());
    let state = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(&authority, state.path()).await;
    sidecar.until_fresh(1).await;
    authority.set_mood(Mood::Refusing);
    authority.streams.lock().unwrap().clear();
    tokio::time::sleep(600 * SECOND).await;
    let tried = sidecar.ended(Ended::NotAdmitted);
    assert!((120..400).contains(&tried), "{tried} in ten minutes");
    authority.set_mood(Mood::Well);
    sidecar.until_fresh(1).await;

    let before = sidecar.metrics.sessions.get();
    for _ in 0..600 {
        tokio::time::sleep(SECOND).await;
        authority.streams.lock().unwrap().clear();
    }
    let flapped = sidecar.metrics.sessions.get() - before;
    assert!((80..400).contains(&flapped), "{flapped} in ten minutes");
    sidecar.until_fresh(authority.epoch()).await;
    sidecar.stop().await;
}

/// A message over the limit ends the stream, and changes nothing.
#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_large_is_not_read() {
    let authority = FakeAuthority::new(&TimerClock::shared());
    let state = tempfile::tempdir().unwrap();
    authority.set_mood(Mood::Huge);
    let sidecar = Sidecar::start(&authority, state.path()).await;
    sidecar.until(|_| sidecar.ended(Ended::Failed) > 0).await;
    assert_eq!(sidecar.trust.epoch(), 0);
    authority.set_mood(Mood::Well);
    sidecar.until_fresh(1).await;
    sidecar.stop().await;
}

/// A stream is opened anew every hour, without a pause.
#[tokio::test(start_paused = true)]
async fn a_stream_is_renewed_in_time() {
    let authority = FakeAuthority::new(&TimerClock::shared());
    let state = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(&authority, state.path()).await;
    sidecar.until_fresh(1).await;
    tokio::time::sleep(3700 * SECOND).await;
    assert_eq!(sidecar.ended(Ended::Renewed), 1);
    assert_eq!(sidecar.metrics.sessions.get(), 2);
    assert_eq!(sidecar.trust.status().freshness, Some(Freshness::Fresh));
    sidecar.stop().await;
}

/// D17, K12: an authority that was restored from a backup is alarmed, confirms nothing, and is tried again until it is past
/// what was in force here.
#[tokio::test(start_paused = true)]
async fn a_restored_authority_is_alarmed() {
    let authority = FakeAuthority::new(&TimerClock::shared());
    let state = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(&authority, state.path()).await;
    sidecar.until_fresh(1).await;
    authority.set_mood(Mood::Restored);
    authority.streams.lock().unwrap().clear();
    sidecar
        .until(|status| status.alarm == Some(TrustAlarm::Regressed))
        .await;
    sidecar.until(|status| !status.decides()).await;
    assert_eq!(sidecar.trust.epoch(), 1);
    authority.set_mood(Mood::Well);
    authority.revoke("after-the-operator-raised-the-epoch");
    sidecar.until_fresh(2).await;
    assert_eq!(sidecar.trust.status().alarm, None);
    // What the authority had signed is shown to it when it comes back.
    let hellos = authority.heard.lock().unwrap().hellos.clone();
    let shown = hellos.into_iter().map(|hello| hello.proof);
    let epochs = shown.map(|proof| match proof {
        None => 0,
        Some(Proof::Heartbeat(signed)) => authority.publishers().heartbeat(&signed).unwrap().epoch,
        Some(Proof::Update(signed)) => authority.publishers().update(&signed).unwrap().epoch,
    });
    assert_eq!(epochs.collect::<Vec<_>>(), [0, 1]);
    sidecar.stop().await;
}

#[derive(Debug, thiserror::Error)]
#[error("cannot connect")]
struct NoConnection(#[source] std::io::Error);

/// What is behind a failure is what helps; what repeats itself does not.
#[test]
fn a_failure_is_told_with_what_it_comes_from() {
    let inner = std::io::Error::other(std::io::Error::other("not the one who should be there"));
    let words = in_words(&NoConnection(inner));
    assert_eq!(words, "cannot connect: not the one who should be there");
}
