//! Tokens that are issued, and verified on every sidecar, without a pause.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_proto::token::v1::token_service_client::TokenServiceClient;
use countersign_proto::verify::v1::verify_response::Verdict;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::Channel;

use crate::Failure;
use crate::installation::{Sidecar, issue};
use crate::measure::float;
use crate::million::Random;

/// Who asks each sidecar at the same time.
const CALLERS: u64 = 4;

/// Between two tokens. A new one is asked about at once, everywhere.
const BETWEEN: Duration = Duration::from_millis(2);

/// Between two attempts at what is not there.
const AGAIN: Duration = Duration::from_millis(5);

/// Earlier tokens that are asked about, too: under keys that no longer sign.
const EARLIER: u64 = 256;

/// One in so many questions is about an earlier token.
const ONE_IN: u64 = 4;

/// What was counted, in all installations.
#[derive(Debug, Default)]
pub(super) struct Counts {
    passed: AtomicU64,
    failed: AtomicU64,
    /// Questions to a process that was not there.
    unanswered: AtomicU64,
    issued: AtomicU64,
    /// Tokens that were not issued although the authority was there.
    denied: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

impl Counts {
    /// Answers about good tokens.
    pub(super) fn verified(&self) -> u64 {
        self.passed.load(Ordering::Relaxed) + self.failed()
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn first_failure(&self) -> String {
        let first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
        first
            .as_ref()
            .map(|failure| format!("; the first: {failure}"))
            .unwrap_or_default()
    }

    pub(super) fn details(&self) -> [(&'static str, f64); 3] {
        let read = |count: &AtomicU64| float(count.load(Ordering::Relaxed));
        [
            ("tokens_issued", read(&self.issued)),
            ("tokens_denied_while_authority_up", read(&self.denied)),
            ("asked_of_killed_sidecars", read(&self.unanswered)),
        ]
    }

    fn fail(&self, why: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(why);
    }
}

fn one_more(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

#[derive(Debug)]
struct Tokens {
    latest: Arc<str>,
    earlier: Vec<Arc<str>>,
    random: Random,
}

/// The traffic of one installation.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) counts: Arc<Counts>,
    stopped: AtomicBool,
    tokens: Mutex<Tokens>,
    authority_down: AtomicBool,
    sidecars_down: Vec<AtomicBool>,
}

impl Traffic {
    pub(super) fn new(first: &str, sidecars: usize, counts: Arc<Counts>) -> Self {
        let first: Arc<str> = first.into();
        Self {
            counts,
            stopped: AtomicBool::new(false),
            tokens: Mutex::new(Tokens {
                earlier: (0..EARLIER).map(|_| Arc::clone(&first)).collect(),
                latest: first,
                random: Random(1),
            }),
            authority_down: AtomicBool::new(false),
            sidecars_down: (0..sidecars).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// From before it is killed until it answers again.
    pub(super) fn authority_is_down(&self, down: bool) {
        self.authority_down.store(down, Ordering::SeqCst);
    }

    /// The same for a sidecar.
    pub(super) fn sidecar_is_down(&self, number: usize, down: bool) {
        if let Some(sidecar) = self.sidecars_down.get(number) {
            sidecar.store(down, Ordering::SeqCst);
        }
    }

    pub(super) fn latest(&self) -> Arc<str> {
        Arc::clone(&self.tokens().latest)
    }

    fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    fn is_down(&self, number: usize) -> bool {
        let sidecar = self.sidecars_down.get(number);
        sidecar.is_some_and(|sidecar| sidecar.load(Ordering::SeqCst))
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets tokens until it is stopped.
    pub(super) async fn issue(self: Arc<Self>, authority: Channel) -> Result<(), Failure> {
        let mut client = TokenServiceClient::new(authority);
        while self.goes_on() {
            let was_down = self.authority_down.load(Ordering::SeqCst);
            match issue(&mut client).await {
                Ok(token) => self.add(token.into()),
                Err(_) if was_down || self.authority_down.load(Ordering::SeqCst) => sleep(AGAIN).await,
                Err(_denied) => one_more(&self.counts.denied),
            }
            sleep(BETWEEN).await;
        }
        Ok(())
    }

    fn add(&self, token: Arc<str>) {
        one_more(&self.counts.issued);
        let mut tokens = self.tokens();
        let place = tokens.random.below(EARLIER);
        let before = std::mem::replace(&mut tokens.latest, token);
        if let Some(earlier) = usize::try_from(place)
            .ok()
            .and_then(|place| tokens.earlier.get_mut(place))
        {
            *earlier = before;
        }
    }

    /// Mostly the latest, which is under the newest key.
    fn token(&self, random: &mut Random) -> Arc<str> {
        let tokens = self.tokens();
        let place = random.below(EARLIER * ONE_IN);
        let earlier = usize::try_from(place)
            .ok()
            .and_then(|place| tokens.earlier.get(place));
        Arc::clone(earlier.unwrap_or(&tokens.latest))
    }

    /// Has callers ask the sidecar with this number until it is stopped.
    pub(super) fn verify(
        self: &Arc<Self>,
        number: usize,
        sidecar: &Sidecar,
        running: &mut JoinSet<Result<(), Failure>>,
    ) {
        for caller in 0..CALLERS {
            running.spawn(Arc::clone(self).ask(number, sidecar.clone(), Random(caller)));
        }
    }

    async fn ask(
        self: Arc<Self>,
        number: usize,
        sidecar: Sidecar,
        mut random: Random,
    ) -> Result<(), Failure> {
        let mut api = sidecar.verify_api()?;
        while self.goes_on() {
            let token = self.token(&mut random);
            let was_down = self.is_down(number);
            match api.ask(&token).await {
                Ok(Verdict::Allowed(_)) => one_more(&self.counts.passed),
                Ok(Verdict::Refused(refused)) => self.counts.fail(refused.reason),
                // A process that is not there verifies nothing.
                Err(_) if was_down || self.is_down(number) => {
                    one_more(&self.counts.unanswered);
                    sleep(AGAIN).await;
                    api = sidecar.verify_api()?;
                }
                Err(status) => self.counts.fail(status.to_string()),
            }
        }
        Ok(())
    }
}
