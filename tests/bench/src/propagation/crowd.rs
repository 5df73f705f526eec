//! One server in a process of its own, and its verifiers in this one: most of them light, some whole.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_cli::pki::{Pki, Usage};
use countersign_core::names::{Issuer, VerifierId};
use countersign_core::ports::Clock as _;
use countersign_crypto::AwsLc;
use countersign_crypto::publishing::PinnedKeys;
use countersign_mtls::{ChannelOptions, ClientTls, ExpectedServer, TlsFiles};
use countersign_runtime::SystemClock;
use countersign_verifier::sync::Publishers;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::board::{Board, Marks};
use super::light::{Light, Reader, Shared};
use super::sidecars::Sidecars;
use crate::authority::{Certificates, PUBLISHING_KEYS, identity};
use crate::child::Child;
use crate::fixture::ISSUER;
use crate::{Failure, authority};

/// Verifiers that come at one time, when they need not all come at once.
const AT_A_TIME: usize = 100;

/// A server and its verifiers.
#[derive(Debug)]
pub(super) struct Crowd<'a> {
    /// As which child the server runs.
    role: &'static str,
    folder: &'a Path,
    pki: Pki,
    certificates: Certificates,
    server: Option<Child>,
    address: SocketAddr,
    /// Where light verifiers write down to which epoch they came.
    pub(super) board: Arc<Board>,
    lights: JoinSet<()>,
    lights_run_on: Handle,
    shared: Shared,
    /// Where sidecars write down which token they refuse.
    pub(super) verdicts: Arc<Board>,
    pub(super) sidecars: Sidecars,
}

impl<'a> Crowd<'a> {
    /// Starts the server, which keeps what it has in `folder`.
    pub(super) fn start(role: &'static str, folder: &'a Path) -> Result<Self, Failure> {
        let certificates = Certificates::open(folder)?;
        let any = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        let server = serve(role, folder, any)?;
        let pinned = PinnedKeys::read(&fs::read(folder.join(PUBLISHING_KEYS))?, &AwsLc)?;
        let issuer = Issuer::parse(ISSUER)?;
        let board = Arc::new(Board::default());
        Ok(Self {
            role,
            folder,
            pki: Pki::open(&folder.join("pki"), SystemClock.now())?,
            certificates,
            address: server.address,
            lights: JoinSet::new(),
            lights_run_on: background()?,
            shared: Shared {
                uri: format!("https://localhost:{}", server.address.port()),
                reader: Arc::new(Reader::new(Publishers::new(issuer, &pinned, Arc::new(AwsLc)))),
                board: Arc::clone(&board),
            },
            server: Some(server),
            board,
            verdicts: Arc::default(),
            sidecars: Sidecars::new(background()?),
        })
    }

    /// How many verifiers there are.
    pub(super) fn len(&self) -> usize {
        self.lights.len() + self.sidecars.len()
    }

    /// How many of them are light.
    pub(super) fn lights(&self) -> usize {
        self.lights.len()
    }

    /// A connection of the operator, or of the client.
    pub(super) fn channel(&self, files: &TlsFiles) -> Result<Channel, Failure> {
        let tls = ClientTls::load(files, ExpectedServer::default(), Arc::new(SystemClock))?;
        Ok(tls.channel(&self.shared.uri, ChannelOptions::default())?)
    }

    pub(super) const fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Lets light verifiers come until there are `count`, and waits until each holds a lease.
    pub(super) async fn let_in(&mut self, count: usize) -> Result<(), Failure> {
        while self.lights.len() < count {
            let come = count.min(self.lights.len() + AT_A_TIME);
            for number in self.lights.len()..come {
                let light = self.light(number)?;
                self.lights.spawn_on(light.run(), &self.lights_run_on);
            }
            let leased = move |marks: &Marks| marks.leased == come;
            self.board.wait("a lease for everybody", leased).await?;
        }
        Ok(())
    }

    fn light(&self, number: usize) -> Result<Light, Failure> {
        let (name, now) = (format!("light-{number}"), SystemClock.now());
        let identity = identity(&format!("sidecar/{name}"))?;
        let leaf = self.pki.leaf(&name, &identity, Usage::Client, now)?;
        let files = TlsFiles {
            certificate: leaf.certificate,
            private_key: leaf.key,
            trust_roots: self.pki.trust_roots().to_owned(),
        };
        let tls = ClientTls::load(&files, ExpectedServer::default(), Arc::new(SystemClock))?;
        Ok(Light::new(self.shared.clone(), tls, VerifierId::parse(&name)?))
    }

    /// Lets `count` sidecars come, and waits until each holds a lease.
    pub(super) async fn let_in_sidecars(&mut self, count: usize) -> Result<(), Failure> {
        let began = Instant::now();
        for _ in 0..count {
            let keys = self.folder.join(PUBLISHING_KEYS);
            let port = self.address.port();
            self.sidecars
                .start(&self.pki, self.folder, port, &keys, &self.verdicts)
                .await?;
        }
        self.sidecars.leased(|| began.elapsed()).await
    }

    /// The server's process.
    pub(super) fn server(&self) -> Result<u32, Failure> {
        Ok(self.server.as_ref().ok_or("the server has gone")?.id())
    }

    /// The CPU time that the server has used, and that this process has.
    pub(super) fn cpu(&mut self) -> Result<[Duration; 2], Failure> {
        let server = self.server.as_mut().ok_or("the server has gone")?.cpu()?;
        let own = clock_gettime(ClockId::ProcessCPUTime);
        Ok([
            server,
            Duration::new(own.tv_sec.try_into()?, own.tv_nsec.try_into()?),
        ])
    }

    /// Kills the server, and starts it again where it was. When it was ready.
    pub(super) fn crash(&mut self) -> Result<Instant, Failure> {
        self.board.forget();
        if let Some(server) = self.server.take() {
            server.kill()?;
        }
        self.server = Some(serve(self.role, self.folder, self.address)?);
        Ok(Instant::now())
    }
}

fn serve(role: &str, folder: &Path, listen: SocketAddr) -> Result<Child, Failure> {
    let folder_name = folder.display().to_string();
    let arguments = [
        "--folder".to_owned(),
        folder_name,
        "--listen".to_owned(),
        listen.to_string(),
    ];
    Child::start(role, &arguments, Some(authority::log(folder)?))
}

/// A runtime with a thread of its own.
fn background() -> Result<Handle, Failure> {
    let runtime = countersign_runtime::build(1)?;
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    Ok(handle)
}
