//! Tokens that are issued, shown to every sidecar over connections old and new, and held on to in streams.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_core::jose::decode_segment;
use countersign_proto::demo::v1::{ChatRequest, EchoRequest, ExpandRequest};
use countersign_proto::token::v1::IssueTokenRequest;
use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use countersign_proto::verify::v1::verify_response::Verdict;
use countersign_proto::verify::v1::verify_service_client::VerifyServiceClient;
use countersign_proto::verify::v1::{VerifyRequest, VerifyResponse};
use countersign_runtime::backoff::Jitter;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::oracle::{Due, Oracle, Token};
use super::tally::Counts;
use crate::calling::{Answer, bearing, now_millis, sidecar};

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long tokens live, in seconds: the least, and by how much it differs.
const LIFETIME: (i64, u64) = (5, 50);

/// How often a stream says something.
const SAYS: Duration = Duration::from_secs(1);

/// How long a stream may outlive its token: it is judged again when its first second is over.
const OUTLIVES: u64 = 2_000;

/// A sidecar.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) listener: SocketAddr,
    pub(super) verify_api: SocketAddr,
    /// Whether it is there and knows the latest tokens; and how often that has changed.
    pub(super) up: Mutex<(bool, u64)>,
}

/// What all tasks share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) oracle: Mutex<Oracle>,
    pub(super) counts: Mutex<Counts>,
    pub(super) places: Vec<Place>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Place {
    pub(super) fn becomes(&self, up: bool) {
        let mut state = lock(&self.up);
        *state = (up, state.1 + 1);
    }

    fn state(&self) -> (bool, u64) {
        *lock(&self.up)
    }

    fn steady_since(&self, state: (bool, u64)) -> bool {
        state.0 && self.state() == state
    }

    fn verify(&self) -> VerifyServiceClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.verify_api)).expect("an address");
        VerifyServiceClient::new(endpoint.connect_lazy())
    }

    /// Whether its Verify API says that `token` is good.
    pub(super) async fn accepts(&self, token: &str) -> bool {
        let answer = timeout(PATIENCE, verify(self.verify(), token)).await;
        answer.is_ok_and(|answer| answer.is_through())
    }
}

/// Who gets tokens.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) name: String,
    pub(super) secret: String,
}

/// Gets tokens, each for one of `clients` and with a life of its own, at this distance.
pub(super) async fn issue(
    world: Arc<World>,
    authority: Channel,
    clients: Vec<Client>,
    audience: String,
    every: Duration,
    mut random: Jitter,
) {
    let mut tokens = TokenServiceClient::new(authority);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let count = u64::try_from(clients.len()).expect("few");
        let client = usize::try_from(random.next() % count).expect("few");
        let client = clients.get(client).expect("one of them");
        let lifetime = LIFETIME.0 + i64::try_from(random.next() % LIFETIME.1).expect("short");
        let request = IssueTokenRequest {
            grant_type: "client_credentials".to_owned(),
            audience: audience.clone(),
            client_id: client.name.clone(),
            client_secret: client.secret.clone(),
            lifetime_seconds: Some(lifetime),
            ..IssueTokenRequest::default()
        };
        let asked = now_millis();
        let Ok(issued) = tokens.issue_token(request).await else {
            lock(&world.counts).not_issued += 1;
            continue;
        };
        let text = issued.into_inner().access_token;
        let mut oracle = lock(&world.oracle);
        let number = oracle.next_number();
        oracle.add(Token {
            number,
            client: client.name.clone(),
            kid: member(&text, 0, "kid"),
            expires: member(&text, 1, "exp").parse::<u64>().expect("a time") * 1000,
            text,
            asked,
            given: now_millis(),
        });
    }
}

/// A member of a part of a token, as it is written there.
fn member(token: &str, part: usize, name: &str) -> String {
    let part = token.split('.').nth(part).expect("three parts");
    let json = decode_segment(part.as_bytes()).expect("base64url");
    let json = String::from_utf8(json).expect("text");
    let (_, rest) = json.split_once(&format!("\"{name}\":")).expect("the member");
    let value = rest.split([',', '}']).next().expect("a value");
    value.trim_matches('"').to_owned()
}

/// Shows tokens to a sidecar, one after another: most over one connection, some over a new one, some to the Verify API.
pub(super) async fn call(world: Arc<World>, place: usize, every: Duration, mut random: Jitter) {
    let place = world.places.get(place).expect("a place");
    let (mut service, verify_api) = (sidecar(place.listener), place.verify());
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(token) = lock(&world.oracle).any(random.next()) else {
            continue;
        };
        let (state, began) = (place.state(), now_millis());
        let (how, answer) = match random.next() % 10 {
            0 => (
                "Echo over a new connection",
                echo(&mut sidecar(place.listener), &token.text).await,
            ),
            1 | 2 => ("Verify", verify(verify_api.clone(), &token.text).await),
            3 => ("Expand", expand(&mut service, &token.text).await),
            _ => ("Echo", echo(&mut service, &token.text).await),
        };
        let due = lock(&world.oracle).due(&token, began, now_millis());
        let steady = place.steady_since(state);
        let what = format!("{how} at {}", place.name);
        lock(&world.counts).judge(&what, &token, (due, began), &answer, steady);
    }
}

type Demo = countersign_proto::demo::v1::demo_service_client::DemoServiceClient<Channel>;

fn of<T>(answer: Result<T, Status>) -> Answer {
    answer
        .err()
        .map_or_else(Answer::through, |status| Answer::refused(&status))
}

fn nothing_came() -> Answer {
    Answer {
        code: Code::DeadlineExceeded,
        reason: String::new(),
    }
}

async fn echo(service: &mut Demo, token: &str) -> Answer {
    let answer = timeout(PATIENCE, service.echo(bearing(EchoRequest::default(), token))).await;
    answer.map_or_else(|_late| nothing_came(), of)
}

async fn expand(service: &mut Demo, token: &str) -> Answer {
    let wanted = ExpandRequest {
        count: 5,
        ..ExpandRequest::default()
    };
    let all = async {
        let mut parts = service.expand(bearing(wanted, token)).await?.into_inner();
        while parts.message().await?.is_some() {}
        Ok(())
    };
    timeout(PATIENCE, all)
        .await
        .map_or_else(|_late| nothing_came(), of)
}

async fn verify(mut api: VerifyServiceClient<Channel>, token: &str) -> Answer {
    let request = VerifyRequest {
        token: token.to_owned(),
        path: "/countersign.demo.v1.DemoService/Echo".to_owned(),
        ..VerifyRequest::default()
    };
    match timeout(PATIENCE, api.verify(request)).await {
        Err(_late) => nothing_came(),
        Ok(Err(status)) => Answer::refused(&status),
        Ok(Ok(response)) => verdict(response.into_inner()),
    }
}

fn verdict(response: VerifyResponse) -> Answer {
    match response.verdict {
        Some(Verdict::Allowed(_)) => Answer::through(),
        Some(Verdict::Refused(refused)) => Answer {
            code: Code::from_i32(refused.grpc_code),
            reason: refused.reason,
        },
        None => nothing_came(),
    }
}

/// Holds on to streams through a sidecar, one after another, each over a connection of its own and until its token is good no more.
pub(super) async fn hold(world: Arc<World>, place: usize) {
    let place = world.places.get(place).expect("a place");
    loop {
        // Whether it is there is not of interest: there may be no token yet.
        let good = lock(&world.oracle).latest_good();
        match good {
            Some(token) => hold_one(&world, place, &token).await,
            None => sleep(SAYS).await,
        }
    }
}

async fn hold_one(world: &World, place: &Place, token: &Token) {
    let (state, began) = (place.state(), now_millis());
    let (sender, messages) = mpsc::channel(1);
    let opened = timeout(
        PATIENCE,
        sidecar(place.listener).chat(bearing(ReceiverStream::new(messages), &token.text)),
    )
    .await;
    let (answer, answers) = match opened {
        Err(_late) => (nothing_came(), None),
        Ok(Err(status)) => (Answer::refused(&status), None),
        Ok(Ok(response)) => (Answer::through(), Some(response.into_inner())),
    };
    let due = lock(&world.oracle).due(token, began, now_millis());
    let steady = place.steady_since(state);
    let what = format!("Chat at {}", place.name);
    lock(&world.counts).judge(&what, token, (due, began), &answer, steady);
    match answers {
        Some(answers) => {
            let how = converse(world, token, &sender, answers).await;
            let steady = place.steady_since(state);
            judge_end(world, &what, token, how, steady);
        }
        // Not at once again, at a sidecar that is away.
        None => sleep(SAYS).await,
    }
}

/// How a stream ended; nothing, when it has gone on for too long.
async fn converse(
    world: &World,
    token: &Token,
    sender: &mpsc::Sender<ChatRequest>,
    mut answers: Streaming<countersign_proto::demo::v1::ChatResponse>,
) -> Option<Answer> {
    let began = Instant::now();
    let mut ticks = interval(SAYS);
    loop {
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(_)) => {}
                Ok(None) => return Some(Answer::through()),
                Err(status) => return Some(Answer::refused(&status)),
            },
            _ = ticks.tick() => {
                let then = now_millis().saturating_sub(OUTLIVES);
                let over = lock(&world.oracle).due(token, then, then) == Due::Refusal;
                if over && began.elapsed() > Duration::from_millis(2 * OUTLIVES) {
                    return None;
                }
                // One that has not been sent yet is not followed by another.
                let _sent = sender.try_send(ChatRequest::default());
            }
        }
    }
}

fn judge_end(world: &World, what: &str, token: &Token, how: Option<Answer>, steady: bool) {
    let now = now_millis();
    let due = lock(&world.oracle).due(token, now, now);
    let mut counts = lock(&world.counts);
    match how {
        None => counts.is_wrong(&format!("{what}: goes on"), token),
        Some(answer) if answer.code == Code::Unauthenticated && due != Due::Pass => counts.streams += 1,
        // Its sidecar was stopped.
        Some(answer) if !steady && answer.reason.is_empty() => {}
        Some(answer) => counts.is_wrong(
            &format!("{what}: {due:?} was due, and it ended with {answer:?}"),
            token,
        ),
    }
}
