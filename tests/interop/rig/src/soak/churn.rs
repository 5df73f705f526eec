//! What happens meanwhile: revocations, rotations, compromised keys, and a sidecar that is stopped and killed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_proto::admin::v1::key_service_client::KeyServiceClient;
use countersign_proto::admin::v1::revocation_service_client::RevocationServiceClient;
use countersign_proto::admin::v1::revoke_request::Subject as Revoked;
use countersign_proto::admin::v1::{
    ActivateKeyRequest, CompromiseKeyRequest, KeyState, ListKeysRequest, PrepareKeyRequest, RevokeRequest,
};
use countersign_runtime::backoff::Jitter;
use tokio::process::Child;
use tokio::time::{Instant, sleep};
use tonic::Code;
use tonic::transport::Channel;

use super::oracle::{Due, Subject};
use super::processes::start_sidecar;
use super::traffic::{Client, World, lock};
use crate::calling::now_millis;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// How long a sidecar is away.
const AWAY: Duration = Duration::from_secs(2);

const REASON: &str = "a soak";

/// How often what happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) token: Duration,
    pub(super) client: Duration,
    pub(super) rotation: Duration,
    pub(super) compromise: Duration,
    pub(super) restart: Duration,
}

/// Revokes tokens that are good, one after another.
pub(super) async fn revoke_tokens(
    world: Arc<World>,
    authority: Channel,
    every: Duration,
    mut random: Jitter,
) {
    let mut revocations = RevocationServiceClient::new(authority);
    loop {
        sleep(every).await;
        let good = {
            let (oracle, now) = (lock(&world.oracle), now_millis());
            let drawn = oracle.any(random.next());
            drawn.filter(|token| oracle.due(token, now, now) == Due::Pass)
        };
        if let Some(token) = good {
            let subject = Revoked::Token(token.text.clone());
            revoke(&world, &mut revocations, Subject::Token(token.number), subject).await;
            lock(&world.counts).tokens_revoked += 1;
        }
    }
}

/// Revokes what clients have so far, one client after another.
pub(super) async fn revoke_clients(
    world: Arc<World>,
    authority: Channel,
    clients: Vec<Client>,
    every: Duration,
) {
    let mut revocations = RevocationServiceClient::new(authority);
    for client in clients.iter().cycle() {
        sleep(every).await;
        let subject = Revoked::ClientId(client.name.clone());
        revoke(
            &world,
            &mut revocations,
            Subject::Client(client.name.clone()),
            subject,
        )
        .await;
        lock(&world.counts).clients_revoked += 1;
    }
}

async fn revoke(
    world: &World,
    revocations: &mut RevocationServiceClient<Channel>,
    subject: Subject,
    revoked: Revoked,
) {
    lock(&world.oracle).sends(subject.clone());
    let request = RevokeRequest {
        subject: Some(revoked),
        reason: REASON.to_owned(),
    };
    let answer = revocations.revoke(request).await.expect("revoked").into_inner();
    let at_once = lock(&world.oracle).receives(&subject, &answer.reach.expect("a receipt"));
    lock(&world.counts).in_force_at_once += u64::from(at_once);
}

/// Replaces keys: most by rotation, some because they are said to be compromised.
pub(super) async fn replace_keys(world: Arc<World>, authority: Channel, pace: Pace) {
    let mut keys = KeyServiceClient::new(authority);
    let mut compromise_at = Instant::now() + pace.compromise;
    loop {
        sleep(pace.rotation).await;
        if Instant::now() >= compromise_at {
            compromise(&world, &mut keys).await;
            compromise_at = Instant::now() + pace.compromise;
        } else {
            rotate(&mut keys).await;
            lock(&world.counts).rotations += 1;
        }
    }
}

async fn rotate(keys: &mut KeyServiceClient<Channel>) {
    let prepared = keys.prepare_key(PrepareKeyRequest::default()).await;
    let kid = prepared.expect("a key").into_inner().key.expect("a key").kid;
    let request = ActivateKeyRequest {
        kid,
        ..ActivateKeyRequest::default()
    };
    let end = Instant::now() + PATIENCE;
    // It waits for the sidecar that is away.
    while let Err(status) = keys.activate_key(request.clone()).await {
        let waits = status.code() == Code::FailedPrecondition && Instant::now() < end;
        assert!(waits, "a rotation does not come to its end: {status}");
        sleep(LOOK).await;
    }
}

async fn compromise(world: &World, keys: &mut KeyServiceClient<Channel>) {
    let listed = keys.list_keys(ListKeysRequest {}).await;
    let listed = listed.expect("the keys").into_inner().keys;
    let signs = listed.iter().find(|key| key.state() == KeyState::Active);
    let kid = signs.expect("a key that signs").kid.clone();
    let subject = Subject::Key(kid.clone());
    lock(&world.oracle).sends(subject.clone());
    let request = CompromiseKeyRequest {
        kid,
        reason: REASON.to_owned(),
    };
    let answer = keys
        .compromise_key(request)
        .await
        .expect("compromised")
        .into_inner();
    let at_once = lock(&world.oracle).receives(&subject, &answer.reach.expect("a receipt"));
    let mut counts = lock(&world.counts);
    counts.in_force_at_once += u64::from(at_once);
    counts.keys_compromised += 1;
}

/// A sidecar that is stopped and killed by turns, and started again.
#[derive(Debug)]
pub(super) struct Restarted {
    pub(super) world: Arc<World>,
    /// Which of the places.
    pub(super) place: usize,
    pub(super) countersign: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) process: Child,
    /// Where its process is told.
    pub(super) id: Arc<Mutex<u32>>,
}

impl Restarted {
    pub(super) async fn keep_restarting(mut self, every: Duration) {
        for number in 0_u64.. {
            sleep(every).await;
            let world = Arc::clone(&self.world);
            let place = world.places.get(self.place).expect("a place");
            place.becomes(false);
            if number % 2 == 0 {
                self.ask_to_stop().await;
            } else {
                self.process.start_kill().expect("it lives");
            }
            self.process.wait().await.expect("it ends");
            sleep(AWAY).await;
            self.process = start_sidecar(&self.countersign, &self.folder, &place.name);
            *lock(&self.id) = self.process.id().expect("it lives");
            until_up(&world, self.place).await;
            lock(&world.counts).restarts += 1;
        }
    }

    async fn ask_to_stop(&self) {
        let id = self.process.id().expect("it lives");
        let asked = tokio::process::Command::new("kill")
            .arg(id.to_string())
            .status()
            .await;
        assert!(asked.is_ok_and(|status| status.success()), "it is asked to stop");
    }
}

/// Waits until the sidecar is there and accepts the latest token.
pub(super) async fn until_up(world: &World, place: usize) {
    let place = world.places.get(place).expect("a place");
    let end = Instant::now() + PATIENCE;
    loop {
        let latest = lock(&world.oracle).latest_good();
        if let Some(token) = latest
            && place.accepts(&token.text).await
        {
            place.becomes(true);
            return;
        }
        assert!(Instant::now() < end, "{} does not come back", place.name);
        sleep(LOOK).await;
    }
}
