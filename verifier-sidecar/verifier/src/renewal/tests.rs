use std::time::Duration;

use countersign_core::claims::Claims;
use countersign_core::names::{ClientId, Scope};
use countersign_core::requirements::{MethodTable, Requirements};
use http::HeaderValue;
use tokio::task::JoinHandle;

use super::*;
use crate::test_util::{
    SCOPE, START, SetClock, TestIssuer, claims, confirm, empty_store, revoke_token, trust, verifier,
};
use crate::watch::TokenWatch;

const STREAMS: &str = "http://orders/a.A/Stream";

struct World {
    clock: Arc<SetClock>,
    verifier: Arc<Verifier>,
    renewals: Arc<Renewals>,
}

impl World {
    fn new() -> Self {
        let clock = SetClock::new();
        let store = empty_store(Arc::<SetClock>::clone(&clock));
        trust(&store, TestIssuer::new("one").state(1, []));
        confirm(&store, Duration::from_secs(3600));
        let requirements = Requirements {
            scopes: vec![Scope::parse(SCOPE).expect("a scope")],
            ..Requirements::default()
        };
        let methods = MethodTable::new(requirements);
        Self {
            clock,
            verifier: Arc::new(verifier(&store, methods, 1 << 20)),
            renewals: Arc::default(),
        }
    }

    /// A stream that is open with `token`, until it is refused.
    fn open(&self, id: &str, token: &Claims) -> JoinHandle<Denied> {
        let uri = Uri::from_static(STREAMS);
        let signed = TestIssuer::new("one").token(token);
        let question = Question {
            token: Ok(signed.as_bytes()),
            method: Some(MethodPath::parse(uri.path()).expect("a method")),
            peer_certificate: None,
        };
        let Ok(Admission::Token(admitted)) = self.verifier.decide(&question).verdict else {
            panic!("the token is good");
        };
        let stream = Stream {
            uri: uri.clone(),
            peer_certificate: None,
        };
        let watch = TokenWatch {
            verifier: Arc::clone(&self.verifier),
            renewal: Some(self.renewals.register(named(id), stream, &admitted)),
            admitted,
            uri,
            peer_certificate: None,
        };
        tokio::spawn(watch.refused())
    }

    fn present(&self, id: &str, token: &Claims) -> Result<Taken, NotTaken> {
        let signed = TestIssuer::new("one").token(token);
        let token = Ok(signed.as_bytes());
        self.renewals.present(&self.verifier, token, None, &named(id))
    }

    /// Lets time pass, by the clock and by timers.
    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn named(id: &str) -> StreamId {
    read(&[id]).expect("a name").expect("one")
}

fn read(ids: &[&str]) -> Result<Option<StreamId>, Rejection> {
    let mut headers = HeaderMap::new();
    for id in ids {
        headers.append(STREAM_ID, HeaderValue::from_str(id).expect("a value"));
    }
    StreamId::read(&headers)
}

/// A token that lasts from now on for `seconds`.
fn lasting(token_id: &str, seconds: u64) -> Claims {
    Claims {
        expires_at: Timestamp::from_seconds(START + seconds),
        ..claims(token_id)
    }
}

fn refused(rejection: Rejection) -> NotTaken {
    NotTaken::Denied(rejection.into())
}

/// G31: a stream ends with its token, and with a newer one it ends with that.
#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_with_a_newer_token_and_ends_with_that() {
    let world = World::new();
    let named = world.open("feed", &lasting("1.1", 60));
    let other = world.open("other", &lasting("1.1", 60));
    world.pass(30).await;
    let taken = world.present("feed", &lasting("1.2", 120)).expect("it is taken");
    assert_eq!(
        taken,
        Taken {
            streams: 1,
            expires_at: Timestamp::from_seconds(START + 120)
        }
    );
    world.pass(32).await;
    assert!(other.is_finished() && !named.is_finished());
    world.pass(57).await;
    assert!(!named.is_finished());
    world.pass(3).await;
    assert!(named.is_finished());
    assert_eq!(named.await.expect("it ends").rejection, Rejection::TokenExpired);
}

/// I-29: what decides over a stream is the token that it goes on with, from the moment that it was presented.
#[tokio::test(start_paused = true)]
async fn the_newer_token_is_the_one_that_is_revoked() {
    let world = World::new();
    let [older, newer] = ["older", "newer"].map(|id| world.open(id, &lasting("1.1", 300)));
    world.pass(2).await;
    world.present("newer", &lasting("1.2", 600)).expect("it is taken");
    let state = TestIssuer::new("one").state(2, [revoke_token("1.1")]);
    trust(world.verifier.trust(), state);
    world.pass(1).await;
    assert!(older.is_finished() && !newer.is_finished());
    let state = TestIssuer::new("one").state(3, [revoke_token("1.2")]);
    trust(world.verifier.trust(), state);
    world.pass(1).await;
    assert_eq!(newer.await.expect("it ends").rejection, Rejection::TokenRevoked);
}

/// Names are one's own, and what a service was told of its caller stays true.
#[tokio::test(start_paused = true)]
async fn a_token_of_another_or_of_less_is_not_taken() {
    let world = World::new();
    let both = ["demo.call", "demo.more"].map(|scope| Scope::parse(scope).expect("a scope"));
    let opened = Claims {
        scopes: both.to_vec(),
        ..lasting("1.1", 300)
    };
    let open = world.open("feed", &opened);
    assert_eq!(
        world.present("feed", &lasting("1.2", 600)),
        Err(refused(Rejection::ScopeInsufficient))
    );
    assert_eq!(
        world.present("another", &lasting("1.2", 600)),
        Err(NotTaken::StreamUnknown)
    );
    let mut stranger = lasting("1.3", 600);
    stranger.client_id = ClientId::parse("billing").expect("a client");
    stranger.subject.client_id = stranger.client_id.clone();
    stranger.scopes = both.to_vec();
    assert_eq!(world.present("feed", &stranger), Err(NotTaken::StreamUnknown));
    let ended = Claims {
        scopes: both.to_vec(),
        ..lasting("1.4", 60)
    };
    world.pass(61).await;
    assert_eq!(
        world.present("feed", &ended),
        Err(refused(Rejection::TokenExpired))
    );
    assert!(!open.is_finished());
}

/// A token of the same second ends when the other does, and is the one presented all the same.
#[tokio::test(start_paused = true)]
async fn the_token_that_was_presented_last_counts_however_long_it_lasts() {
    let world = World::new();
    let open = [
        world.open("one", &lasting("1.1", 300)),
        world.open("two", &lasting("1.1", 300)),
    ];
    world.present("one", &lasting("1.2", 300)).expect("it is taken");
    let taken = world.present("two", &lasting("1.3", 60)).expect("it is taken");
    assert_eq!(taken.expires_at, Timestamp::from_seconds(START + 60));
    let state = TestIssuer::new("one").state(2, [revoke_token("1.1")]);
    trust(world.verifier.trust(), state);
    world.pass(59).await;
    assert!(open.iter().all(|stream| !stream.is_finished()));
    world.pass(3).await;
    assert!(!open[0].is_finished() && open[1].is_finished());
}

#[tokio::test(start_paused = true)]
async fn streams_of_one_name_go_on_together_or_not_at_all() {
    let world = World::new();
    let wide = Claims {
        scopes: ["demo.call", "demo.more"]
            .map(|scope| Scope::parse(scope).expect("a scope"))
            .to_vec(),
        ..lasting("1.1", 60)
    };
    let open = [world.open("feed", &lasting("1.2", 60)), world.open("feed", &wide)];
    assert!(world.present("feed", &lasting("1.3", 600)).is_err());
    let newer = Claims {
        expires_at: Timestamp::from_seconds(START + 600),
        ..wide
    };
    world.pass(30).await;
    assert!(
        world
            .renewals
            .named()
            .values()
            .flatten()
            .all(|open| { open.token.borrow().claims().expires_at == Timestamp::from_seconds(START + 60) })
    );
    assert_eq!(world.present("feed", &newer).expect("it is taken").streams, 2);
    world.pass(60).await;
    assert!(open.iter().all(|stream| !stream.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_streams_that_have_ended() {
    let world = World::new();
    let open: Vec<_> = (0..3).map(|_| world.open("feed", &lasting("1.1", 60))).collect();
    world.pass(62).await;
    for stream in open {
        stream.await.expect("it ends");
    }
    assert!(world.renewals.named().is_empty());
    assert_eq!(
        world.present("feed", &lasting("1.2", 120)),
        Err(NotTaken::StreamUnknown)
    );
}

#[test]
fn a_name_is_short_and_plain_and_the_only_one() {
    let longest = "a".repeat(64);
    assert_eq!(read(&[]), Ok(None));
    assert!(read(&[&longest]).expect("a name").is_some());
    let longer = "a".repeat(65);
    for wrong in [vec![""], vec!["a b"], vec!["a/b"], vec![&*longer], vec!["a", "a"]] {
        assert_eq!(read(&wrong), Err(Rejection::RequestMalformed), "{wrong:?}");
    }
    let mut headers = HeaderMap::new();
    headers.append(STREAM_ID, HeaderValue::from_bytes(&[0xff]).expect("a value"));
    assert_eq!(StreamId::read(&headers), Err(Rejection::RequestMalformed));
}
