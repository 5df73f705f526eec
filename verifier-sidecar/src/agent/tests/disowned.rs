//! While our certificate is revoked, as far as verifiers know: also by what the state in force does not say.

use std::io;

use countersign_core::claims::Confirmation;
use countersign_core::trust::{Change, Update, UpdateContent};
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// The certificate with the SPIFFE ID of the app in it.
fn with_spiffe_id(thumbprint: CertificateThumbprint) -> PeerCertificate {
    PeerCertificate {
        thumbprint,
        spiffe_id: SpiffeId::parse("spiffe://prod.example.com/orders").ok(),
    }
}

impl Stage {
    fn show(&self, certificate: PeerCertificate) {
        *self.authority.certificate.lock().expect("a value") = certificate;
    }

    fn revoked(&self, subject: RevokedSubject) -> Revocation {
        Revocation {
            subject,
            issued_before: self.clock.now(),
            expires_at: self.clock.now().saturating_add(LIFE * 2),
        }
    }

    /// An authority that was recovered does not say it any more. It is carried along.
    fn revoke_and_forget(&self, subject: RevokedSubject) {
        self.revoke(subject, 1);
        let forgetful = self.authority.issuer.state(2, []);
        self.trust.install(forgetful).expect("it is new");
    }

    /// It is said by an update on a base that is not here. It is heeded.
    fn revoke_out_of_turn(&self, subject: RevokedSubject) {
        let state = self.authority.issuer.state(1, []);
        let update = Update {
            issuer: state.issuer().clone(),
            epoch: 3,
            state_digest: *state.digest(),
            published_at: self.clock.now(),
            content: UpdateContent::Delta {
                base_epoch: 2,
                base_digest: *state.digest(),
                change: Change {
                    revoked: [self.revoked(subject)].into(),
                    ..Change::default()
                },
            },
        };
        self.trust.install(state).expect("it is new");
        let now = self.trust.moment();
        self.trust.write(|held| held.heed(&update, now));
    }
}

type Revoke = fn(&Stage, RevokedSubject);

const BEYOND_THE_STATE: [Revoke; 2] = [Stage::revoke_and_forget, Stage::revoke_out_of_turn];

/// I-08: the same of whatever verifiers refuse, though the state in force does not say it.
#[tokio::test(start_paused = true)]
async fn what_is_revoked_beyond_the_state_in_force_is_given_to_nobody() {
    let stage = Stage::new();
    let first = stage.agent.token(&key("demo")).await.expect("a token");
    sleep(Duration::from_secs(5)).await;
    let revoked = RevokedSubject::Token(first.token.claims().token_id.clone());
    stage.revoke_out_of_turn(revoked);
    assert_eq!(stage.token().await, Ok("1.2".to_owned()));

    for revoke in BEYOND_THE_STATE {
        let stage = Stage::new();
        stage.show(with_spiffe_id(CERTIFICATE));
        let first = stage.token().await.expect("a token");
        revoke(&stage, RevokedSubject::Certificate(CERTIFICATE));
        let told = stage.token().await.expect_err("nobody would accept it");
        assert_eq!(told.why.reason(), "invalid_client");
        stage.show(with_spiffe_id(RENEWED));
        assert_eq!(stage.token().await, Ok(first));
        assert_eq!(stage.authority.asked(), 1);
    }
}

/// What an authority gives us that has forgotten that our certificate is revoked is good for nobody, whatever it is bound to; and no
/// better when we have another certificate, if it is bound to this one.
#[tokio::test(start_paused = true)]
async fn what_comes_over_a_revoked_certificate_is_not_kept_whatever_it_is_bound_to() {
    for certificate in [PeerCertificate::from(CERTIFICATE), with_spiffe_id(CERTIFICATE)] {
        for revoke in BEYOND_THE_STATE {
            let stage = Stage::new();
            stage.show(certificate.clone());
            revoke(&stage, RevokedSubject::Certificate(CERTIFICATE));
            sleep(Duration::from_secs(1)).await;
            let told = stage.token().await.expect_err("nobody would accept it");
            assert_eq!(told.why.reason(), "invalid_client");
            assert!(stage.agent.status()[0].token.is_none());
        }
    }
}

/// What is kept, bound to the certificate that we had before, goes when that is found to be revoked.
#[tokio::test(start_paused = true)]
async fn a_token_of_the_certificate_before_is_not_served_when_that_is_revoked() {
    let stage = Stage::new();
    stage.token().await.expect("a token");
    stage.authority.refuse(AWAY);
    stage.show(RENEWED.into());
    assert_eq!(stage.token().await, Ok("1.1".to_owned()));
    // From before the token, as a list that was lost has it.
    let before = Revocation {
        issued_before: Timestamp::from_seconds(START - 60),
        ..stage.revoked(RevokedSubject::Certificate(CERTIFICATE))
    };
    let state = stage.authority.issuer.state(1, [before]);
    stage.trust.install(state).expect("it is new");
    assert_eq!(stage.token().await.expect_err("none").why, AWAY);
}

/// The pause after an attempt is for what failed it. Where that is our certificate, another one ends it.
#[tokio::test(start_paused = true)]
async fn a_new_certificate_ends_the_pause_after_one_that_was_revoked() {
    let invalid = NoToken::NotIssued(IssueError::InvalidClient);
    for refuses in [None, Some(invalid)] {
        let stage = Stage::new();
        stage.show(with_spiffe_id(CERTIFICATE));
        stage.revoke(RevokedSubject::Certificate(CERTIFICATE), 1);
        if let Some(refused) = refuses {
            stage.authority.refuse(refused);
        }
        // Until a pause is long.
        let told = loop {
            let told = stage.token().await.expect_err("nobody would accept it");
            if told.retry_after > Duration::from_secs(15) {
                break told;
            }
            sleep(told.retry_after).await;
        };
        sleep(LEAST_PAUSE).await;
        let (asked, before) = (stage.authority.asked(), Instant::now());
        let still = stage.token().await.expect_err("the pause is not over");
        assert_eq!(still.retry_after, told.retry_after - LEAST_PAUSE);
        stage.authority.answer();
        stage.show(with_spiffe_id(RENEWED));
        let token = stage.agent.token(&key("demo")).await.expect("at once");
        assert_eq!(before.elapsed(), Duration::ZERO);
        let id = with_spiffe_id(RENEWED).spiffe_id.expect("a SPIFFE ID");
        assert_eq!(token.token.claims().confirmation, Confirmation::SpiffeId(id));
        assert_eq!(stage.authority.asked(), asked + 1);
    }
}

/// And nobody has to ask for it. What has nothing to do with the certificate goes on holding back.
#[tokio::test(start_paused = true)]
async fn a_new_certificate_ends_no_other_pause() {
    let limited = NoToken::NotIssued(IssueError::RateLimited);
    for (refused, waits) in [(DISOWNED, false), (limited, true)] {
        let stage = Stage::new();
        stage
            .authority
            .refuse_for(refused, Some(Duration::from_secs(300)));
        stage.agent.pin(key("pinned"));
        sleep(Duration::from_secs(3)).await;
        assert_eq!(stage.authority.asked(), 1);
        stage.authority.answer();
        stage.show(RENEWED.into());
        sleep(Duration::from_secs(10)).await;
        let has_token = stage.agent.status()[0].token.is_some();
        assert_eq!(has_token, !waits, "{refused:?}");
    }
}

/// A log that can be read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The reasons that were told since the last time, in this order.
    fn reasons(&self) -> Vec<&'static str> {
        let text = std::mem::take(&mut *self.0.lock().expect("a log"));
        let text = String::from_utf8(text).expect("UTF-8");
        let known = ["invalid_client", "authority_unreachable"];
        let reason = |line: &str| known.into_iter().find(|reason| line.contains(reason));
        text.lines().filter_map(reason).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("a log").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Each reason is told once, in its turn: what is kept and disowned, until it is over; then why there is no other.
#[tokio::test(start_paused = true)]
async fn a_revoked_certificate_and_an_authority_that_is_away_are_told_in_the_log_once_each() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false);
    // For this thread, which is all that the test's runtime has.
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let stage = Stage::new();
    stage.show(with_spiffe_id(CERTIFICATE));
    stage.agent.pin(key("pinned"));
    sleep(Duration::from_secs(5)).await;
    stage.authority.refuse(AWAY);
    stage.revoke(RevokedSubject::Certificate(CERTIFICATE), 1);
    stage.until(LIFE / 2).await;
    let last_error = || stage.agent.last_error(&key("pinned")).map(NoToken::reason);
    assert_eq!(last_error(), Some("invalid_client"));
    assert_eq!(log.reasons(), ["invalid_client"]);
    stage.until(LIFE * 2).await;
    assert_eq!(log.reasons(), ["authority_unreachable"]);
    assert_eq!(last_error(), Some("authority_unreachable"));
    assert!(stage.authority.asked() > 10);
}
