//! Verifiers in full: sidecars as they are shipped, in this process, each with its store on disk. They say of a token whether
//! they accept it, so what is measured is the verdict.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL;
use countersign_cli::pki::Pki;
use countersign_core::Rejection;
use countersign_core::binding::PeerCertificate;
use countersign_core::names::CertificateThumbprint;
use countersign_runtime::{Shutdown, SystemClock};
use countersign_sidecar::app::App;
use countersign_sidecar::config::Config;
use countersign_verifier::verifier::{Question, Verifier};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::board::{Board, LOOK, PATIENCE};
use crate::Failure;
use crate::sidecar::{self, Place};

/// How often each is asked about a token that is good.
const ASKED_EVERY: Duration = Duration::from_millis(50);

/// A token, and the certificate that it is bound to.
#[derive(Clone, Debug, Default)]
pub(super) struct Token {
    pub(super) text: String,
    certificate: Option<PeerCertificate>,
}

impl Token {
    /// Reads `text` as far as it has to be known here.
    pub(super) fn read(text: String) -> Result<Self, Failure> {
        let payload = text.split('.').nth(1).ok_or("this is no token")?;
        let claims: serde_json::Value = serde_json::from_slice(&BASE64_URL.decode(payload)?)?;
        let thumbprint = claims
            .pointer("/cnf/x5t#S256")
            .and_then(|thumbprint| thumbprint.as_str());
        let thumbprint = thumbprint.map(CertificateThumbprint::parse).transpose()?;
        Ok(Self {
            text,
            certificate: thumbprint.map(PeerCertificate::from),
        })
    }
}

/// The sidecars.
#[derive(Debug)]
pub(super) struct Sidecars {
    verifiers: Vec<Arc<Verifier>>,
    /// The token that is about to be revoked, by its number.
    asked: watch::Sender<Option<(u64, Token)>>,
    /// Times that a good token was refused.
    mistakes: Arc<AtomicUsize>,
    runtime: Handle,
    tasks: JoinSet<()>,
}

impl Sidecars {
    /// Nobody yet. They will run on `runtime`.
    pub(super) fn new(runtime: Handle) -> Self {
        Self {
            verifiers: Vec::new(),
            asked: watch::Sender::new(None),
            mistakes: Arc::default(),
            runtime,
            tasks: JoinSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.verifiers.len()
    }

    /// Starts one more, which keeps what it has in `folder` and writes its refusals of asked tokens down on `board`.
    pub(super) async fn start(
        &mut self,
        pki: &Pki,
        folder: &Path,
        authority: u16,
        publishing_keys: &Path,
        board: &Arc<Board>,
    ) -> Result<(), Failure> {
        let name = format!("whole-{}", self.verifiers.len());
        let place = Place {
            name: &name,
            state: &folder.join(&name),
            // Nobody calls.
            upstream: (std::net::Ipv4Addr::LOCALHOST, 1).into(),
            authority,
            publishing_keys,
        };
        let file = folder.join(format!("{name}.toml"));
        fs::write(&file, sidecar::configuration(pki, &place)?)?;
        let config = Config::load(&file).map_err(|complaints| complaints.to_string())?;
        let app = App::build(config, Arc::new(SystemClock), std::slice::from_ref(&self.runtime)).await?;
        let verifier = Arc::clone(app.verifier());
        let watching = watch_verdict(Arc::clone(&verifier), self.asked.subscribe(), Arc::clone(board));
        self.tasks.spawn_on(watching, &self.runtime);
        self.tasks.spawn_on(app.run_until(Shutdown::new()), &self.runtime);
        self.verifiers.push(verifier);
        Ok(())
    }

    /// From now on the question is `token`, which all of them accept.
    pub(super) fn ask(&self, number: u64, token: Token) -> Result<(), Failure> {
        for verifier in &self.verifiers {
            if let Some(refused) = refused(verifier, &token) {
                return Err(format!("a good token was refused: {}", refused.reason()).into());
            }
        }
        self.asked.send_replace(Some((number, token)));
        Ok(())
    }

    /// Asks all of them about `token`, which is good, again and again.
    pub(super) fn keep_asking(&mut self, token: Token) {
        let (verifiers, mistakes) = (self.verifiers.clone(), Arc::clone(&self.mistakes));
        let asking = async move {
            let mut ticks = interval(ASKED_EVERY);
            loop {
                ticks.tick().await;
                let wrong = verifiers
                    .iter()
                    .filter(|verifier| refused(verifier, &token).is_some());
                mistakes.fetch_add(wrong.count(), Ordering::Relaxed);
            }
        };
        self.tasks.spawn_on(asking, &self.runtime);
    }

    /// How often a good token was refused.
    pub(super) fn mistakes(&self) -> usize {
        self.mistakes.load(Ordering::Relaxed)
    }

    /// Waits until all of them hold a lease that was asked for less than `ago()` ago.
    pub(super) async fn leased(&self, ago: impl Fn() -> Duration) -> Result<(), Failure> {
        let is_leased = |verifier: &Arc<Verifier>| {
            let status = verifier.trust().status();
            !status.lease_left.is_zero() && status.age.is_some_and(|age| age < ago())
        };
        let waiting = async {
            while !self.verifiers.iter().all(is_leased) {
                sleep(LOOK).await;
            }
        };
        let in_time = timeout(PATIENCE, waiting).await;
        Ok(in_time.map_err(|_elapsed| "the sidecars got no lease")?)
    }
}

/// Writes down when the verdict about the token that is asked for is that it was revoked.
async fn watch_verdict(
    verifier: Arc<Verifier>,
    asked: watch::Receiver<Option<(u64, Token)>>,
    board: Arc<Board>,
) {
    let mut epochs = verifier.trust().changed();
    let mut last = None;
    while epochs.changed().await.is_ok() {
        let question = asked.borrow().clone();
        if let Some((number, token)) = question
            && last != Some(number)
            && refused(&verifier, &token) == Some(Rejection::TokenRevoked)
        {
            board.arrived(number);
            last = Some(number);
        }
    }
}

/// Why a token is refused, if it is.
fn refused(verifier: &Verifier, token: &Token) -> Option<Rejection> {
    let decision = verifier.decide(&Question {
        token: Ok(token.text.as_bytes()),
        method: None,
        peer_certificate: token.certificate.as_ref(),
    });
    decision.verdict.err().map(|denied| denied.rejection)
}
