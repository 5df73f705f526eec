//! A development environment of real processes, started as a user starts it: `countersign dev`.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use countersign_cli::environment::{self, Environment};
use countersign_mtls::{ChannelOptions, ClientTls, ExpectedServer, TlsFiles};
use countersign_runtime::SystemClock;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::eventually;

/// A running environment. It is stopped when this is dropped.
#[derive(Debug)]
pub struct Dev {
    program: PathBuf,
    folder: TempDir,
    /// What `dev.json` says.
    pub environment: Environment,
    supervisor: Child,
    restarted: Vec<Child>,
}

impl Dev {
    /// Starts one with `program`, which is the command line `countersign`, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start(program: &Path) -> Self {
        countersign_mtls::install_default_provider();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = File::create(folder.path().join("output.log")).expect("a log");
        let dir = folder.path().join("dev");
        let supervisor = Command::new(program)
            .arg("dev")
            .arg("--dir")
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let file = dir.join(environment::FILE);
        eventually("the environment is ready", || {
            let there = file.exists();
            async move { there }
        })
        .await;
        let content = std::fs::read(&file).expect("dev.json is readable");
        let environment = serde_json::from_slice(&content).expect("dev.json is as documented");
        Self {
            program: program.to_owned(),
            folder,
            environment,
            supervisor,
            restarted: Vec::new(),
        }
    }

    /// The folder of the environment.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("dev")
    }

    /// Runs the command line with `args` and `--dir`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(&self.program)
            .args(args)
            .arg("--dir")
            .arg(self.dir())
            .stdin(Stdio::null())
            .output()
            .expect("the program runs")
    }

    /// A channel to the authority with the operator's certificate.
    ///
    /// # Panics
    /// When the files cannot be used.
    #[must_use]
    pub fn operator(&self) -> Channel {
        let operator = &self.environment.operator;
        self.channel(&operator.cert, &operator.key)
    }

    /// A channel to the authority with the certificate of the client `orders`.
    ///
    /// # Panics
    /// When the files cannot be used.
    #[must_use]
    pub fn orders(&self) -> Channel {
        let orders = &self.environment.clients.orders;
        self.channel(&orders.cert, &orders.key)
    }

    fn channel(&self, certificate: &Path, key: &Path) -> Channel {
        let files = TlsFiles {
            certificate: certificate.to_owned(),
            private_key: key.to_owned(),
            trust_roots: self.environment.ca_cert.clone(),
        };
        let tls =
            ClientTls::load(&files, ExpectedServer::default(), Arc::new(SystemClock)).expect("usable files");
        let uri = format!("https://{}", self.environment.authority.grpc);
        tls.channel(&uri, ChannelOptions::default()).expect("an address")
    }

    /// Kills the process `pid` of this environment with SIGKILL.
    ///
    /// # Panics
    /// When the signal cannot be sent.
    pub fn kill(&self, pid: u32) {
        let killed = Command::new("kill").arg("-KILL").arg(pid.to_string()).status();
        assert!(killed.expect("kill runs").success(), "no process {pid}");
    }

    /// Kills the authority and starts it again, with the same configuration.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn restart_authority(&mut self) {
        match self.restarted.last_mut() {
            Some(running) => {
                running.kill().expect("it runs");
                running.wait().expect("it ends");
            }
            None => self.kill(self.environment.processes.authority.pid),
        }
        let log = File::create(self.folder.path().join("authority-again.log")).expect("a log");
        let child = Command::new(&self.program)
            .args(["run", "authority", "serve", "--config"])
            .arg(&self.environment.processes.authority.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.restarted.push(child);
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        for child in &mut self.restarted {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
        // SIGTERM, so that it stops its own children.
        drop(
            Command::new("kill")
                .arg(self.supervisor.id().to_string())
                .status(),
        );
        drop(self.supervisor.wait());
    }
}

/// A port that was free a moment ago.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}

/// How long a call of a drill may take.
pub const CALL: Duration = Duration::from_secs(5);
