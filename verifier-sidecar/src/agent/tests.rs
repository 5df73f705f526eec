//! The agent on paused time, with an authority that does as it is told.

mod disowned;

use std::sync::atomic::AtomicU32;

use countersign_core::Timestamp;
use countersign_core::binding::PeerCertificate;
use countersign_core::claims::Claims;
use countersign_core::issuing::IssueError;
use countersign_core::names::CertificateThumbprint;
use countersign_core::revocation::{Revocation, RevokedSubject};
use countersign_core::spiffe::SpiffeId;
use countersign_proto::token::v1::IssueTokenResponse;
use countersign_runtime::TimerClock;
use countersign_verifier::test_util::{self, START, TestIssuer, bound_claims, claims_bound_to, empty_store};
use prometheus_client::registry::Registry;
use tokio::time::{Instant, advance, sleep};

use super::kept::LEAST_PAUSE;
use super::source::NotFetched;
use super::standing::DISOWNED;
use super::token::Token;
use super::*;

const LIFE: Duration = Duration::from_secs(900);
const CERTIFICATE: CertificateThumbprint = CertificateThumbprint::new([7; 32]);
const RENEWED: CertificateThumbprint = CertificateThumbprint::new([8; 32]);
const AWAY: NoToken = NoToken::Failed(Failure::AuthorityUnreachable);

/// The timers' clock, and the time that the machine slept, of which timers know nothing.
#[derive(Clone, Debug)]
struct SleepingClock {
    awake: TimerClock,
    slept: Arc<Mutex<Duration>>,
}

impl SleepingClock {
    fn suspend(&self, time: Duration) {
        *self.slept.lock().expect("a value") += time;
        self.awake.step_forward(time);
    }
}

impl Clock for SleepingClock {
    fn now(&self) -> Timestamp {
        self.awake.now()
    }

    fn now_millis(&self) -> u64 {
        self.awake.now_millis()
    }

    fn elapsed(&self) -> Duration {
        self.awake.elapsed() + *self.slept.lock().expect("a value")
    }
}

/// An authority whose answers are real tokens, in real forms, or what the test says.
#[derive(Debug)]
struct Authority {
    issuer: TestIssuer,
    clock: SleepingClock,
    certificate: Mutex<PeerCertificate>,
    refuses: Mutex<Option<NotFetched>>,
    /// When it was asked.
    asked: Mutex<Vec<Instant>>,
    under_way: AtomicU32,
    takes: Mutex<Duration>,
}

impl Authority {
    fn asked(&self) -> usize {
        self.asked.lock().expect("a list").len()
    }

    fn refuse(&self, why: NoToken) {
        self.refuse_for(why, None);
    }

    fn refuse_for(&self, why: NoToken, retry_after: Option<Duration>) {
        *self.refuses.lock().expect("a value") = Some(NotFetched { why, retry_after });
    }

    fn answer(&self) {
        *self.refuses.lock().expect("a value") = None;
    }

    /// Bound to the SPIFFE ID of the certificate, if it has one.
    fn bound_claims(&self, token_id: &str) -> Claims {
        let certificate = self.certificate();
        match certificate.spiffe_id {
            Some(id) => claims_bound_to(token_id, id),
            None => bound_claims(token_id, certificate.thumbprint),
        }
    }

    fn issue(&self) -> Token {
        let number = self.asked();
        let issued_at = self.clock.now();
        let claims = Claims {
            issued_at,
            not_before: Some(issued_at),
            expires_at: issued_at.saturating_add(LIFE),
            ..self.bound_claims(&format!("1.{number:x}"))
        };
        Token::read(&IssueTokenResponse {
            access_token: self.issuer.token(&claims),
            token_type: "Bearer".to_owned(),
            expires_in: i64::try_from(LIFE.as_secs()).expect("a number"),
            scopes: Vec::new(),
            audience: test_util::AUDIENCE.to_owned(),
        })
        .expect("a token")
    }
}

#[tonic::async_trait]
impl TokenSource for Authority {
    async fn fetch(&self, _key: &TokenKey) -> Result<Token, NotFetched> {
        self.asked.lock().expect("a list").push(Instant::now());
        let before = self.under_way.fetch_add(1, Ordering::SeqCst);
        assert_eq!(before, 0, "two requests at once for one key");
        let takes = *self.takes.lock().expect("a value");
        sleep(takes).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        let refuses = *self.refuses.lock().expect("a value");
        refuses.map_or_else(|| Ok(self.issue()), Err)
    }

    fn certificate(&self) -> PeerCertificate {
        self.certificate.lock().expect("a value").clone()
    }
}

struct Stage {
    agent: Agent,
    authority: Arc<Authority>,
    trust: Arc<TrustStore>,
    clock: SleepingClock,
}

impl Stage {
    fn new() -> Self {
        Self::with(AgentLimits {
            max_tokens: 4,
            idle: Duration::from_secs(3600),
        })
    }

    fn with(limits: AgentLimits) -> Self {
        let clock = SleepingClock {
            awake: TimerClock::starting_at(Timestamp::from_seconds(START)),
            slept: Arc::default(),
        };
        let authority = Arc::new(Authority {
            issuer: TestIssuer::new("one"),
            clock: clock.clone(),
            certificate: Mutex::new(CERTIFICATE.into()),
            refuses: Mutex::default(),
            asked: Mutex::default(),
            under_way: AtomicU32::default(),
            takes: Mutex::default(),
        });
        let trust = empty_store(Arc::new(clock.clone()));
        let source = Arc::<Authority>::clone(&authority);
        let metrics = AgentMetrics::register(&mut Registry::default());
        Self {
            agent: Agent::new(source, Arc::clone(&trust), limits, metrics),
            authority,
            trust,
            clock,
        }
    }

    async fn token(&self) -> Result<String, Unavailable> {
        self.token_of("demo").await
    }

    async fn token_of(&self, audience: &str) -> Result<String, Unavailable> {
        let token = self.agent.token(&key(audience)).await?;
        Ok(token.token.claims().token_id.as_str().to_owned())
    }

    /// Lets the time until `at` after the start pass, and everything that happens in it.
    async fn until(&self, at: Duration) {
        let passed = Duration::from_secs(self.clock.now().as_seconds() - START);
        sleep(at.checked_sub(passed).expect("it is ahead")).await;
    }

    fn revoke(&self, subject: RevokedSubject, epoch: u64) {
        let revoked = Revocation {
            subject,
            issued_before: self.clock.now(),
            expires_at: self.clock.now().saturating_add(LIFE * 2),
        };
        let state = self.authority.issuer.state(epoch, [revoked]);
        self.trust.install(state).expect("it is new");
    }
}

fn key(audience: &str) -> TokenKey {
    TokenKey {
        audience: Some(Audience::parse(audience).expect("an audience")),
        scopes: BTreeSet::new(),
    }
}

/// Issue 4, 5: any number of callers of one key cause one request.
#[tokio::test(start_paused = true)]
async fn a_thousand_callers_at_once_cause_one_request() {
    let stage = Stage::new();
    *stage.authority.takes.lock().expect("a value") = Duration::from_secs(3);
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let agent = stage.agent.clone();
            tokio::spawn(async move { agent.token(&key("demo")).await })
        })
        .collect();
    for call in calls {
        let token = call.await.expect("no panic").expect("a token");
        assert_eq!(token.token.claims().token_id.as_str(), "1.1");
    }
    assert_eq!(stage.authority.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_all_who_wait_and_to_all_who_come_in_the_pause() {
    let stage = Stage::new();
    stage
        .authority
        .refuse(NoToken::NotIssued(IssueError::InvalidTarget));
    *stage.authority.takes.lock().expect("a value") = Duration::from_secs(1);
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let agent = stage.agent.clone();
            tokio::spawn(async move { agent.token(&key("demo")).await })
        })
        .collect();
    for call in calls {
        let refused = call.await.expect("no panic").expect_err("refused");
        assert_eq!(refused.why, NoToken::NotIssued(IssueError::InvalidTarget));
    }
    let before = Instant::now();
    let refused = stage.token().await.expect_err("refused");
    assert_eq!(before.elapsed(), Duration::ZERO, "at once");
    assert!(refused.retry_after <= Duration::from_secs(2), "{refused:?}");
    assert_eq!(stage.authority.asked(), 1);
    // Whoever comes back when told to, gets what there is then.
    stage.authority.answer();
    sleep(refused.retry_after).await;
    stage.token().await.expect("a token");
    assert!(stage.authority.asked() <= 3);
}

/// F14: the old token is served while refreshing fails, until shortly before it expires, and the authority is asked ever less often.
#[tokio::test(start_paused = true)]
async fn the_old_token_is_served_in_an_outage_until_shortly_before_it_expires() {
    let stage = Stage::new();
    assert_eq!(stage.token().await, Ok("1.1".to_owned()));
    stage.authority.refuse(AWAY);
    stage.until(LIFE - Duration::from_secs(11)).await;
    assert_eq!(stage.token().await, Ok("1.1".to_owned()));
    let status = &stage.agent.status()[0];
    assert_eq!(status.last_error, Some(AWAY));
    assert!(
        (1..=2).contains(&status.good_for.as_secs()),
        "{:?} of autonomy are left",
        status.good_for
    );
    let asked = stage.authority.asked();
    assert!((10..100).contains(&asked), "asked {asked} times");
    stage.until(LIFE - Duration::from_secs(9)).await;
    assert_eq!(stage.token().await.expect_err("none").why, AWAY);

    stage.authority.answer();
    // Nobody has to ask for it.
    sleep(Duration::from_secs(31)).await;
    let asked = stage.authority.asked();
    stage.token().await.expect("a token");
    assert_eq!(stage.authority.asked(), asked);
}

/// A third of its life, with spread: no two agents of a fleet ask together.
#[tokio::test(start_paused = true)]
async fn agents_that_began_together_come_apart_around_a_third_of_the_life() {
    let stages: Vec<Stage> = (0..200).map(|_| Stage::new()).collect();
    for stage in &stages {
        stage.token().await.expect("a token");
    }
    let begun = Instant::now();
    sleep(LIFE / 2 + Duration::from_secs(1)).await;
    let mut refreshed: Vec<Duration> = Vec::new();
    for stage in &stages {
        let asked = stage.authority.asked.lock().expect("a list");
        refreshed.push(asked[1] - begun);
    }
    refreshed.sort_unstable();
    let (first, last) = (refreshed[0], refreshed[199]);
    assert!(first >= LIFE / 6 && last <= LIFE / 2, "{first:?} to {last:?}");
    let mean = refreshed.iter().sum::<Duration>() / 200;
    let third = LIFE / 3;
    assert!(mean > third - third / 6 && mean < third + third / 6, "{mean:?}");
    let in_a_minute = refreshed
        .iter()
        .map(|at| {
            refreshed
                .iter()
                .filter(|other| **other >= *at && **other < *at + Duration::from_secs(60))
                .count()
        })
        .max();
    assert!(in_a_minute < Some(80), "{in_a_minute:?} of 200 in one minute");
}

/// I-08: what the trust in force says is revoked is not served, and another is asked for without anybody's asking.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_revoked_is_fetched_anew_and_never_served() {
    let stage = Stage::new();
    let first = stage.agent.token(&key("demo")).await.expect("a token");
    sleep(Duration::from_secs(5)).await;
    let revoked = RevokedSubject::Token(first.token.claims().token_id.clone());
    stage.revoke(revoked, 1);
    assert_eq!(stage.token().await, Ok("1.2".to_owned()));
    // The client as a whole: what is issued later is good.
    sleep(Duration::from_secs(5)).await;
    stage.revoke(RevokedSubject::Client(first.token.claims().client_id.clone()), 2);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.authority.asked(), 3);
    // It came in the second after.
    let answer = stage.token().await;
    assert!(answer != Ok("1.2".to_owned()), "{answer:?}");
}

/// I-05, F13: the same where the key was compromised.
#[tokio::test(start_paused = true)]
async fn a_token_whose_key_is_compromised_is_not_served() {
    let stage = Stage::new();
    stage.token().await.expect("a token");
    stage.authority.refuse(AWAY);
    sleep(Duration::from_secs(5)).await;
    let mut compromised = stage.authority.issuer.clone();
    compromised.key_times.compromised_at = Some(stage.clock.now());
    stage.trust.install(compromised.state(1, [])).expect("it is new");
    assert_eq!(stage.token().await.expect_err("none").why, AWAY);
}

/// I-42: a token of the certificate that we had before is replaced at once, and served while that fails.
#[tokio::test(start_paused = true)]
async fn a_new_certificate_has_new_tokens_fetched() {
    let stage = Stage::new();
    stage.token().await.expect("a token");
    stage.authority.refuse(AWAY);
    *stage.authority.certificate.lock().expect("a value") = RENEWED.into();
    sleep(Duration::from_secs(11)).await;
    assert!(stage.authority.asked() > 1, "within ten seconds");
    assert_eq!(
        stage.token().await,
        Ok("1.1".to_owned()),
        "old connections take it"
    );
    stage.authority.answer();
    sleep(Duration::from_secs(31)).await;
    let token = stage.agent.token(&key("demo")).await.expect("a token");
    let bound = countersign_core::claims::Confirmation::Certificate(RENEWED);
    assert_eq!(token.token.claims().confirmation, bound);
    let asked = stage.authority.asked();
    // It may be as old as the wait above.
    sleep(LIFE / 6 - Duration::from_secs(32)).await;
    assert_eq!(stage.authority.asked(), asked, "once");
}

/// A token that is bound to the SPIFFE ID goes on over the new certificate; over one with another SPIFFE ID it does not.
#[tokio::test(start_paused = true)]
async fn a_new_certificate_of_the_same_spiffe_id_has_no_new_tokens_fetched() {
    let stage = Stage::new();
    let show = |thumbprint, path: &str| {
        let certificate = PeerCertificate {
            thumbprint,
            spiffe_id: SpiffeId::parse(&format!("spiffe://prod.example.com/{path}")).ok(),
        };
        *stage.authority.certificate.lock().expect("a value") = certificate;
    };
    show(CERTIFICATE, "orders");
    let first = stage.token().await.expect("a token");
    show(RENEWED, "orders");
    sleep(Duration::from_secs(31)).await;
    assert_eq!(stage.token().await, Ok(first.clone()));
    assert_eq!(stage.authority.asked(), 1);
    show(RENEWED, "billing");
    sleep(Duration::from_secs(31)).await;
    assert_ne!(stage.token().await, Ok(first));
}

/// Verifiers refuse what is bound to the SPIFFE ID over a certificate that is revoked, whatever was issued since. So it is given to nobody, and no other
/// is asked for, until there is another certificate: with that it is good again.
#[tokio::test(start_paused = true)]
async fn a_token_over_a_revoked_certificate_waits_for_the_next_certificate() {
    let stage = Stage::new();
    let show = |thumbprint| {
        *stage.authority.certificate.lock().expect("a value") = PeerCertificate {
            thumbprint,
            spiffe_id: SpiffeId::parse("spiffe://prod.example.com/orders").ok(),
        };
    };
    show(CERTIFICATE);
    let first = stage.token().await.expect("a token");
    stage.revoke(RevokedSubject::Certificate(CERTIFICATE), 1);
    for _ in 0..4 {
        let told = stage.token().await.expect_err("nobody would accept it");
        assert_eq!(
            (told.why.reason(), told.retry_after),
            ("invalid_client", Duration::from_secs(10))
        );
        sleep(told.retry_after).await;
    }
    let status = &stage.agent.status()[0];
    assert_eq!(status.last_error.map(NoToken::reason), Some("invalid_client"));
    assert_eq!(status.good_for, Duration::ZERO);
    assert_eq!(stage.authority.asked(), 1);
    show(RENEWED);
    assert_eq!(stage.token().await, Ok(first));
    assert_eq!(stage.agent.status()[0].last_error, None);
    assert_eq!(stage.authority.asked(), 1);
}

/// The same of one that comes from an authority that has not heard of it. It is asked again, with pauses.
#[tokio::test(start_paused = true)]
async fn a_token_that_comes_over_a_revoked_certificate_is_not_kept() {
    let stage = Stage::new();
    let certificate = PeerCertificate {
        thumbprint: CERTIFICATE,
        spiffe_id: SpiffeId::parse("spiffe://prod.example.com/orders").ok(),
    };
    *stage.authority.certificate.lock().expect("a value") = certificate;
    stage.revoke(RevokedSubject::Certificate(CERTIFICATE), 1);
    let told = stage.token().await.expect_err("nobody would accept it");
    assert_eq!(told.why.reason(), "invalid_client");
    let before = stage.authority.asked();
    stage.agent.pin(key("pinned"));
    sleep(Duration::from_secs(600)).await;
    let asked = stage.authority.asked() - before;
    assert!((20..200).contains(&asked), "{asked}");
    assert!(stage.agent.status().iter().all(|status| status.token.is_none()));
}

/// X05: the machine slept; its timers did not see the time pass, and the token is over.
#[tokio::test(start_paused = true)]
async fn no_token_outlives_a_sleep_of_the_machine() {
    let stage = Stage::new();
    stage.token().await.expect("a token");
    stage.authority.refuse(AWAY);
    stage.clock.suspend(LIFE);
    let before = Instant::now();
    assert_eq!(stage.token().await.expect_err("none").why, AWAY);
    assert!(
        before.elapsed() <= Duration::from_secs(10),
        "{:?}",
        before.elapsed()
    );
}

/// The authority's wish is heeded, but not for ever.
#[tokio::test(start_paused = true)]
async fn the_authority_says_when_it_wants_to_be_asked_again() {
    for (wish, heeded) in [(20, 20), (86_400, 300)] {
        let stage = Stage::new();
        let limited = NoToken::NotIssued(IssueError::RateLimited);
        stage
            .authority
            .refuse_for(limited, Some(Duration::from_secs(wish)));
        let refused = stage.token().await.expect_err("refused");
        assert_eq!(refused.retry_after, Duration::from_secs(heeded));
        sleep(refused.retry_after - Duration::from_millis(1)).await;
        stage.token().await.expect_err("still refused");
        assert_eq!(stage.authority.asked(), 1);
    }
}

/// G, S: as many keys as configured. The one that was unused longest makes room, unless it is in use.
#[tokio::test(start_paused = true)]
async fn the_number_of_keys_is_bounded_and_the_least_recently_used_makes_room() {
    let stage = Stage::new();
    for audience in ["a", "b", "c", "d"] {
        stage.token_of(audience).await.expect("a token");
        advance(Duration::from_secs(1)).await;
    }
    let full = stage.token_of("e").await.expect_err("full");
    assert_eq!(full.why, NoToken::Failed(Failure::TooManyTokens));
    advance(IN_USE).await;
    for audience in ["b", "c", "d", "a"] {
        stage.token_of(audience).await.expect("a token");
        advance(Duration::from_secs(1)).await;
    }
    advance(IN_USE).await;
    let asked = stage.authority.asked();
    stage.token_of("e").await.expect("a token");
    for audience in ["c", "d", "a"] {
        stage.token_of(audience).await.expect("a token");
    }
    assert_eq!(stage.authority.asked(), asked + 1, "`b` made room");
    assert_eq!(stage.agent.status().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_nobody_asks_for_is_dropped_and_a_pinned_one_is_not() {
    let stage = Stage::new();
    let pinned = stage.agent.pin(key("pinned"));
    stage.token_of("asked").await.expect("a token");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.agent.status().len(), 2);
    assert_eq!(stage.authority.asked(), 2, "nobody had to ask for the pinned one");
    sleep(Duration::from_secs(3600 + 11)).await;
    let left: Vec<_> = stage
        .agent
        .status()
        .into_iter()
        .map(|status| status.key)
        .collect();
    assert_eq!(left, [key("pinned")]);
    stage.agent.pinned_token(&pinned).await.expect("a token");
    let asked = stage.authority.asked();
    sleep(LIFE).await;
    assert!(stage.authority.asked() > asked);
}

/// A pinned key is asked for again and again; one that somebody asked for in vain waits until somebody does again.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_had_is_asked_for_only_while_somebody_wants_it() {
    let stage = Stage::new();
    stage
        .authority
        .refuse(NoToken::NotIssued(IssueError::InvalidScope));
    stage.token_of("asked").await.expect_err("refused");
    sleep(Duration::from_secs(600)).await;
    assert!(stage.authority.asked() <= 2);
    let before = stage.authority.asked();
    stage.agent.pin(key("pinned"));
    sleep(Duration::from_secs(600)).await;
    let asked = stage.authority.asked() - before;
    assert!((20..200).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stops_tells_those_who_wait() {
    let stage = Stage::new();
    *stage.authority.takes.lock().expect("a value") = Duration::from_secs(3600);
    let agent = stage.agent.clone();
    let waiting = tokio::spawn(async move { agent.token(&key("demo")).await });
    sleep(Duration::from_secs(1)).await;
    let stop = CancellationToken::new();
    stop.cancel();
    stage.agent.clone().run(stop).await;
    let told = waiting.await.expect("no panic").expect_err("none");
    assert_eq!(told.why, NoToken::Failed(Failure::Draining));
}

/// Assurance rule: no token in a `Debug`.
#[tokio::test(start_paused = true)]
async fn no_token_is_shown() {
    let stage = Stage::new();
    let token = stage.agent.token(&key("demo")).await.expect("a token");
    let shown = format!("{:?} {:?} {token:?}", stage.agent, stage.agent.status());
    assert!(!shown.contains(token.token.text()), "{shown}");
}
