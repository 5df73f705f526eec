//! A long call, looked at again: its token may expire, be revoked, or the trust may grow too old for the method.
//!
//! The decision is made again at the token's expiry, whenever the trust changes, and when the trust is about to be too old for
//! the method's class; so a stream outlives its revocation no longer than a new call would (I-29, G31, G32). In its first second a
//! call is not looked at again, whatever happens: a stream that has just begun may go on for that much longer. A caller who named
//! the call may present a newer token for it, which is then looked at in the other's place ([`crate::renewal`]).

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::Rejection;
use countersign_core::binding::PeerCertificate;
use countersign_core::requirements::{MethodPath, Mode};
use http::Uri;
use tokio::time::sleep;

use crate::renewal::Renewal;
use crate::verifier::{Admitted, Denied, Verifier};

/// How long a call goes on before its token is looked at again. Nearly every call ends within that, and costs no more
/// than one timer.
const SHORT_CALL: Duration = Duration::from_secs(1);

/// How long a call goes on unseen after that, at most. Timers stand still while the machine is suspended, and trust ages: a call
/// that was open then goes on for no longer than this after it.
const UNSEEN: Duration = Duration::from_secs(10);

/// A token in use by a call.
#[derive(Debug)]
pub struct TokenWatch {
    /// Who judges it.
    pub verifier: Arc<Verifier>,
    /// The token, and what it was good for.
    pub admitted: Admitted,
    /// The target of the call, which names the method.
    pub uri: Uri,
    /// The certificate of the connection.
    pub peer_certificate: Option<PeerCertificate>,
    /// Brings newer tokens, if the caller has given the call a name.
    pub renewal: Option<Renewal>,
}

/// A call has outlived what it was let in with.
#[derive(Clone, Debug)]
pub struct Outlived {
    /// Why a new call would be refused.
    pub denied: Denied,
    /// Whether this one has to end for it. On a method that is only observed, it goes on.
    pub mode: Mode,
}

impl TokenWatch {
    /// Waits until the call has to end because its token is no longer good for it. On a method that is only observed, that never comes.
    pub async fn refused(self) -> Denied {
        let Outlived { denied, mode } = self.outlived().await;
        match mode {
            Mode::Enforce => denied,
            Mode::Observe => pending().await,
        }
    }

    /// Waits until the token is no longer good for the call, whether or not it has to end for that.
    pub async fn outlived(mut self) -> Outlived {
        self.go_on_for(SHORT_CALL).await;
        let mut epochs = self.verifier.trust().changed();
        loop {
            if let Err(denied) = self.judge_again() {
                return self.with(denied);
            }
            tokio::select! {
                () = self.go_on_for(UNSEEN) => {}
                changed = epochs.changed() => if changed.is_err() {
                    // The store is gone, and with it whatever could still be known.
                    return self.with(Rejection::TrustCold.into());
                }
            }
        }
    }

    fn with(&self, denied: Denied) -> Outlived {
        let mode = self.method().map(|method| self.verifier.rule(method).mode);
        Outlived {
            denied,
            mode: mode.unwrap_or(Mode::Enforce),
        }
    }

    /// Lets the call be until its token may have ended, at most for `longest`, or until there is a newer one.
    async fn go_on_for(&mut self, longest: Duration) {
        let pause = sleep(self.good_for().min(longest));
        let Some(renewal) = &mut self.renewal else {
            return pause.await;
        };
        tokio::select! {
            () = renewal.changed() => {}
            () = pause => {}
        }
    }

    fn judge_again(&mut self) -> Result<(), Denied> {
        // Whatever woke us: what was presented before counts.
        if let Some(renewal) = &mut self.renewal {
            self.admitted = renewal.newest();
        }
        self.verifier
            .judge_again(&self.admitted, self.method()?, self.peer_certificate.as_ref())
    }

    fn method(&self) -> Result<MethodPath<'_>, Rejection> {
        // The grammar of gRPC is part of it, and no path is another one in it.
        MethodPath::of_http(self.uri.path_and_query().map_or("", |path| path.as_str()))
    }

    /// How long the token is good if nothing changes: until it expires, or the trust is too old for the method's class.
    fn good_for(&self) -> Duration {
        let expires_at = self.admitted.claims().expires_at;
        let now = self.verifier.trust().now();
        let expires_in = now.map_or(Duration::ZERO, |now| expires_at.since(now));
        let trusted_for = self
            .method()
            .map_or(Duration::ZERO, |method| self.verifier.refuses_in(method));
        // Never nothing: should a clock be a little behind, this is not to spin.
        expires_in.min(trusted_for).max(Duration::from_millis(20))
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::requirements::{MethodTable, Requirements};

    use tokio::time::Instant;

    use super::*;
    use crate::test_util::{REFUSE_AFTER, SetClock, TestIssuer, claims, empty_store, trust, verifier};
    use crate::verifier::{Admission, Question};

    /// X05, I-29: a machine that sleeps wakes with its timers as they were. The clock that trust ages by has gone on.
    #[tokio::test(start_paused = true)]
    async fn a_stream_that_was_open_in_the_machines_sleep_is_judged_soon_after() {
        let clock = SetClock::new();
        let store = empty_store(Arc::<SetClock>::clone(&clock));
        trust(&store, TestIssuer::new("one").state(1, []));
        let verifier = Arc::new(verifier(
            &store,
            MethodTable::new(Requirements::default()),
            1 << 20,
        ));
        let token = TestIssuer::new("one").token(&claims("1.1"));
        let uri = Uri::from_static("http://orders/a.A/Stream");
        let question = Question {
            token: Ok(token.as_bytes()),
            method: Some(MethodPath::parse(uri.path()).expect("a method")),
            peer_certificate: None,
        };
        let Ok(Admission::Token(admitted)) = verifier.decide(&question).verdict else {
            panic!("the token is good");
        };
        let watch = TokenWatch {
            verifier,
            admitted,
            uri,
            peer_certificate: None,
            renewal: None,
        };
        let over = tokio::spawn(watch.refused());
        sleep(SHORT_CALL * 2).await;
        clock.advance(REFUSE_AFTER + Duration::from_secs(60));
        let woken = Instant::now();
        over.await.expect("it ends");
        assert!(woken.elapsed() <= UNSEEN, "{:?}", woken.elapsed());
    }
}
