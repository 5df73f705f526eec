//! Values and fakes for the tests of this crate.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::binding::TokenBinding;
use countersign_core::client::{Grant, Registration};
use countersign_core::feed::Held;
use countersign_core::fleet::{Introduction, VerifierKey, assumed_budgets};
use countersign_core::jose::Algorithm;
use countersign_core::names::{Audience, CertificateThumbprint, ClientId, Issuer, Scope, VerifierId};
use countersign_core::ports::Clock;
use countersign_core::spiffe::{SpiffeId, TrustDomain};
use countersign_crypto::Envelope;
use countersign_mtls::{Peer, PeerIdentity};
use countersign_proto::sync::v1::{SyncResponse, sync_response};
use countersign_proto::trust::v1::Signed;
use futures_util::StreamExt as _;
use prost::Message as _;

use crate::alarm::Alarm;
use crate::fleet::{Fleet, FleetLimits};
use crate::ledger::{self, Activation, LedgerPolicy, Opened, Opening};
use crate::metrics::Metrics;
use crate::store::memory::MemoryStore;
use crate::store::{Commit, Store, read_all};

/// A clock that stands still until it is set.
#[derive(Debug)]
pub(crate) struct ManualClock {
    wall: AtomicU64,
    elapsed: AtomicU64,
}

impl ManualClock {
    pub(crate) fn at(seconds: u64) -> Self {
        Self {
            wall: AtomicU64::new(seconds * 1000),
            elapsed: AtomicU64::new(0),
        }
    }

    /// Steps the wall clock only.
    pub(crate) fn set(&self, seconds: u64) {
        self.wall.store(seconds * 1000, Ordering::SeqCst);
    }

    /// Steps the wall clock ahead.
    pub(crate) fn step_millis(&self, by: u64) {
        self.wall.fetch_add(by, Ordering::SeqCst);
    }

    /// Lets time go by.
    pub(crate) fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).expect("short");
        self.wall.fetch_add(millis, Ordering::SeqCst);
        self.elapsed.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(self.wall.load(Ordering::SeqCst) / 1000)
    }

    fn now_millis(&self) -> u64 {
        self.wall.load(Ordering::SeqCst)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.elapsed.load(Ordering::SeqCst))
    }
}

/// An authority's inner parts over a store that a test keeps.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) kek: [u8; 32],
    pub(crate) issuer: Issuer,
    pub(crate) fleet: Fleet,
    pub(crate) metrics: Arc<Metrics>,
}

pub(crate) const START: u64 = 1_700_000_000;

impl Bench {
    pub(crate) fn new() -> Self {
        Self::over(Arc::new(MemoryStore::default()))
    }

    pub(crate) fn over(store: Arc<dyn Store>) -> Self {
        let metrics = Arc::new(Metrics::default());
        let mut kek = [7; 32];
        kek[0] = 1;
        let clock = Arc::new(ManualClock::at(START));
        let told_by = Arc::<ManualClock>::clone(&clock);
        Self {
            store,
            clock,
            kek,
            issuer: Issuer::parse("https://auth.example.org").expect("valid"),
            fleet: fleet(told_by, &metrics),
            metrics,
        }
    }

    pub(crate) fn policy() -> LedgerPolicy {
        LedgerPolicy {
            trust_domain: TrustDomain::parse("example.org").expect("valid"),
            revocation_life: Duration::from_secs(3600 + 5 + 900),
            certificate_life: Duration::from_secs(24 * 3600),
            revocation_slack: Duration::from_secs(5 + 900),
            max_revocations: 100,
            max_clients: 50,
        }
    }

    pub(crate) fn opening(&self) -> Opening {
        Opening {
            store: Arc::clone(&self.store),
            envelope: Arc::new(Envelope::new(self.kek).expect("a key")),
            issuer: self.issuer.clone(),
            algorithm: Algorithm::Es256,
            policy: Self::policy(),
            leeway: Duration::from_secs(5),
            accepted_time: None,
            clock: Arc::<ManualClock>::clone(&self.clock),
            fleet: self.fleet.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    pub(crate) async fn open(&self) -> Opened {
        ledger::open(self.opening()).await.expect("opens")
    }

    /// An authority on a copy of the store as it is now, in the same time: a backup that is restored, or a twin.
    pub(crate) async fn copied(&self) -> Self {
        let copy = Self::new();
        let mut commit = Commit::default();
        for record in read_all(self.store.as_ref(), "").await.expect("reads") {
            commit.put(record.name, record.value);
        }
        copy.store.commit(commit).await.expect("copies");
        Self {
            fleet: fleet(Arc::<ManualClock>::clone(&self.clock), &copy.metrics),
            clock: Arc::clone(&self.clock),
            ..copy
        }
    }

    pub(crate) fn alarms(&self, alarm: Alarm) -> u64 {
        self.metrics.alarms(alarm)
    }
}

/// Nobody yet, by `clock`.
pub(crate) fn fleet(clock: Arc<dyn Clock>, metrics: &Arc<Metrics>) -> Fleet {
    let limits = FleetLimits {
        streams_per_identity: 2,
        streams: 100,
    };
    Fleet::new(limits, Duration::from_secs(10), clock, Arc::clone(metrics))
}

/// What an authority has published: a snapshot and deltas that lead to its state, and a heartbeat for it.
pub(crate) struct Published {
    pub(crate) links: Vec<Signed>,
    pub(crate) updates: Vec<Signed>,
    pub(crate) heartbeat: Signed,
}

impl Published {
    pub(crate) async fn by(opened: &Opened) -> Self {
        let joined = opened.feed.join(&Held::default()).await.expect("joins");
        let mut stream = joined.subscription;
        stream.handle().answer(1, false, || None);
        let mut next = async || said(&stream.next().await.expect("more").expect("goes on"));
        let (mut links, mut updates) = (Vec::new(), Vec::new());
        loop {
            match next().await {
                sync_response::Message::Publishers(link) => links.push(link),
                sync_response::Message::Update(update) => updates.push(update),
                sync_response::Message::Pong(pong) => {
                    let heartbeat = pong.heartbeat.expect("a heartbeat");
                    return Self {
                        links,
                        updates,
                        heartbeat,
                    };
                }
            }
        }
    }

    /// The update that leads to the state.
    pub(crate) fn update(&self) -> Signed {
        self.updates.last().expect("a snapshot at least").clone()
    }
}

/// Waits for the verifiers, and then `seconds`.
pub(crate) const fn in_turn(seconds: u64) -> Activation {
    Activation {
        lead: Duration::from_secs(seconds),
        forced: false,
    }
}

/// The only verifier of an identity.
pub(crate) fn verifier_key(path: &str) -> VerifierKey {
    VerifierKey {
        spiffe_id: spiffe_id(path),
        verifier_id: VerifierId::parse("1").expect("valid"),
    }
}

/// What a verifier that holds nothing says when it comes.
pub(crate) fn introduction(instance_id: &str) -> Introduction {
    Introduction {
        version: "1".to_owned(),
        instance_id: instance_id.to_owned(),
        budgets: assumed_budgets(),
        decides: false,
    }
}

pub(crate) fn client_id(text: &str) -> ClientId {
    ClientId::parse(text).expect("valid")
}

pub(crate) fn spiffe_id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org/{path}")).expect("valid")
}

/// A registration for the audience `shop` with `read` and `write`, `read` by default, authenticated by
/// `spiffe://example.org/<path>` if there is one.
pub(crate) fn registration(path: Option<&str>) -> Registration {
    let scope = |text: &str| Scope::parse(text).expect("valid");
    Registration {
        description: "for tests".to_owned(),
        grants: vec![Grant {
            audience: Audience::parse("shop").expect("valid"),
            scopes: vec![scope("read"), scope("write")],
            default_scopes: vec![scope("read")],
        }],
        spiffe_ids: path.into_iter().map(spiffe_id).collect(),
        thumbprints: Vec::new(),
        binding: TokenBinding::default(),
    }
}

/// Who shows a certificate with this SPIFFE ID, told apart by one byte, valid until `not_after`.
pub(crate) fn identity(spiffe_id: Option<&str>, thumbprint: u8, not_after: u64) -> PeerIdentity {
    PeerIdentity {
        spiffe_id: spiffe_id.map(|id| SpiffeId::parse(id).expect("valid")),
        thumbprint: CertificateThumbprint::new([thumbprint; 32]),
        not_after: Timestamp::from_seconds(not_after),
    }
}

/// The same at the other end of a connection.
pub(crate) fn peer(spiffe_id: Option<&str>, thumbprint: u8, not_after: u64) -> Peer {
    Peer {
        remote: ([127, 0, 0, 1], 1).into(),
        identity: Some(Arc::new(identity(spiffe_id, thumbprint, not_after))),
    }
}

/// What a message of a trust stream says, as it is sent.
pub(crate) fn said(framed: &[u8]) -> sync_response::Message {
    let response = SyncResponse::decode(&framed[5..]).expect("reads");
    response.message.expect("a message")
}

/// What was logged by this thread while it was captured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logs(Arc<Mutex<Vec<u8>>>);

thread_local! {
    static CAPTURED: RefCell<Option<Logs>> = const { RefCell::new(None) };
}

/// Ends the capture when it is dropped.
pub(crate) struct Capture;

impl Drop for Capture {
    fn drop(&mut self) {
        CAPTURED.set(None);
    }
}

impl Logs {
    /// One subscriber for all threads: where another thread has none, tracing may take it that nobody listens to what that
    /// thread is the first to say, for good.
    pub(crate) fn capture(&self) -> Capture {
        static LISTENING: Once = Once::new();
        LISTENING.call_once(|| {
            tracing_subscriber::fmt()
                .json()
                .with_max_level(tracing::Level::TRACE)
                .with_writer(|| CAPTURED.with_borrow(|logs| logs.clone().unwrap_or_default()))
                .init();
        });
        CAPTURED.set(Some(self.clone()));
        Capture
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("text")
    }
}

impl std::io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
