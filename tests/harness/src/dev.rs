//! A development environment of real processes, started as a user starts it: `countersign dev`.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use countersign_cli::environment::{self, Environment};
use countersign_mtls::{ChannelOptions, ClientTls, ExpectedServer, TlsFiles};
use countersign_proto::demo::v1::demo_service_client::DemoServiceClient;
use countersign_proto::demo::v1::{Caller, EchoRequest};
use countersign_runtime::SystemClock;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::eventually;

/// The file that all that an environment says itself is in.
const OUTPUT: &str = "output";

/// Code and reason of a refusal.
pub fn told(status: Status) -> (Code, String) {
    let reason = status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default();
    (status.code(), reason)
}

fn process(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id")
}

/// Whether a process runs. One that has ended and that nobody has waited for does not.
pub fn is_running(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat
            .rsplit(')')
            .next()
            .expect("a state")
            .trim_start()
            .starts_with('Z'),
        Err(_gone) if Path::new("/proc/self/stat").exists() => false,
        Err(_no_such_files) => test_kill_process(process(pid)).is_ok(),
    }
}

/// What `dev.json` says, once it is there: whole or not at all. A run that was killed has left its own.
fn read(dir: &Path) -> Option<Environment> {
    let content = std::fs::read(dir.join(environment::FILE)).ok()?;
    let environment: Environment = serde_json::from_slice(&content).expect("as documented");
    is_running(environment.processes.authority.pid).then_some(environment)
}

/// Which way a call takes.
#[derive(Clone, Copy, Debug)]
pub enum Through {
    /// The listener with certificates, with that of this client.
    Tls(&'static str),
    /// The listener without.
    Plaintext,
}

/// How a command failed.
#[derive(Debug)]
pub struct Failed {
    /// The exit code.
    pub exit: i32,
    /// The stable reason that a server named, or nothing.
    pub reason: String,
}

/// A running environment. When it is dropped it is killed; [`Dev::stop`] stops it in order.
#[derive(Debug)]
pub struct Dev {
    program: PathBuf,
    folder: Option<TempDir>,
    /// What `dev.json` says.
    pub environment: Environment,
    supervisor: Child,
    /// What was started by hand, and is to end with it.
    restarted: Vec<Child>,
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

impl Dev {
    /// Starts one in a new folder with `program`, which is the command line `countersign`, and waits until it is ready.
    pub async fn start(program: &Path) -> Self {
        Self::start_in(program, tempfile::tempdir().expect("a folder"), &[]).await
    }

    /// The same in a folder that may have been used before, with `more` arguments.
    pub async fn start_in(program: &Path, folder: TempDir, more: &[&str]) -> Self {
        Self::launch(program, program, folder, more, || {}).await
    }

    /// The same by `link`, another path of the program, and does `meanwhile` as soon as that runs.
    pub async fn start_by(program: &Path, link: &Path, meanwhile: impl FnOnce()) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::launch(program, link, folder, &[], meanwhile).await
    }

    async fn launch(
        program: &Path,
        link: &Path,
        folder: TempDir,
        more: &[&str],
        meanwhile: impl FnOnce(),
    ) -> Self {
        countersign_mtls::install_default_provider();
        let log = File::create(folder.path().join(OUTPUT)).expect("a log");
        let dir = folder.path().join("dev");
        let supervisor = command(link)
            .args(["dev", "--dir"])
            .arg(&dir)
            .args(more)
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn();
        let mut supervisor = supervisor.expect("it starts");
        meanwhile();
        let mut ready = None;
        eventually("the environment is ready", async || {
            let ended = supervisor.try_wait().expect("it can be asked");
            let said = || std::fs::read_to_string(folder.path().join(OUTPUT)).expect("a log");
            assert!(ended.is_none(), "it has ended: {}", said());
            ready = read(&dir);
            ready.is_some()
        })
        .await;
        Self {
            program: program.to_owned(),
            folder: Some(folder),
            environment: ready.expect("it is ready"),
            supervisor,
            restarted: Vec::new(),
        }
    }

    fn folder(&self) -> &Path {
        self.folder.as_ref().expect("it has not stopped").path()
    }

    /// The environment's folder.
    pub fn dir(&self) -> PathBuf {
        self.folder().join("dev")
    }

    /// A file beside the environment.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Runs a command of the command line on this environment.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = command(&self.program)
            .args(arguments)
            .arg("--dir")
            .arg(self.dir())
            .output();
        output.expect("it runs")
    }

    /// What a command that succeeds writes on stdout.
    pub fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{arguments:?}: {:?}: {said}",
            output.status
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// The same of a command that is not about this environment.
    pub fn plain(&self, arguments: &[&str]) -> String {
        let output = command(&self.program).args(arguments).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The same with `--json`.
    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[&["--json"], arguments].concat())).expect("JSON")
    }

    /// How a command fails.
    pub fn failed(&self, arguments: &[&str]) -> Failed {
        let output = self.run(&[&["--json"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        let report: Value = said
            .lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or_default();
        let exit = output.status.code().expect("it ends by itself");
        let error = report.get("error").cloned().unwrap_or_default();
        assert_eq!(error.get("exit"), Some(&exit.into()), "{arguments:?}: {said}");
        Failed {
            exit,
            reason: error
                .get("reason")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        }
    }

    /// A token, as `token get` prints it: that and a line break, nothing else.
    pub fn token(&self, arguments: &[&str]) -> String {
        let printed = self.text(&[&["token", "get"], arguments].concat());
        let token = printed.strip_suffix('\n').expect("a line");
        assert_eq!(token.split('.').count(), 3);
        assert!(!token.contains(char::is_whitespace), "and nothing else");
        token.to_owned()
    }

    /// A channel to the authority with the operator's certificate.
    #[must_use]
    pub fn operator(&self) -> Channel {
        let operator = &self.environment.operator;
        self.tls_channel(&self.environment.authority.grpc, &operator.cert, &operator.key)
    }

    /// A channel to the authority with the certificate of the client `orders`.
    #[must_use]
    pub fn orders(&self) -> Channel {
        let orders = &self.environment.clients.orders;
        self.tls_channel(&self.environment.authority.grpc, &orders.cert, &orders.key)
    }

    /// A channel to the sidecar.
    #[must_use]
    pub fn channel(&self, through: Through) -> Channel {
        let sidecar = &self.environment.sidecar;
        let (orders, billing) = (
            &self.environment.clients.orders,
            &self.environment.clients.billing,
        );
        match through {
            Through::Plaintext => {
                let uri = format!("http://{}", sidecar.proxy_plaintext);
                Endpoint::from_shared(uri).expect("an address").connect_lazy()
            }
            Through::Tls("orders") => self.tls_channel(&sidecar.proxy, &orders.cert, &orders.key),
            Through::Tls(_) => self.tls_channel(&sidecar.proxy, &billing.cert, &billing.key),
        }
    }

    fn tls_channel(&self, address: &str, certificate: &Path, key: &Path) -> Channel {
        let files = TlsFiles {
            certificate: certificate.to_owned(),
            private_key: key.to_owned(),
            trust_roots: self.environment.ca_cert.clone(),
        };
        let tls =
            ClientTls::load(&files, ExpectedServer::default(), Arc::new(SystemClock)).expect("usable files");
        let uri = format!("https://{address}");
        tls.channel(&uri, ChannelOptions::default()).expect("an address")
    }

    /// Calls the demo service through its sidecar; answers who it took us for.
    pub async fn call(&self, through: Through, token: Option<&str>) -> Result<Caller, Status> {
        let mut request = Request::new(EchoRequest {
            message: "hello".to_owned(),
        });
        request.set_timeout(Duration::from_secs(10));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().expect("a header");
            request.metadata_mut().insert("authorization", value);
        }
        let mut demo = DemoServiceClient::new(self.channel(through));
        let answer = demo.echo(request).await?.into_inner();
        assert_eq!(answer.message, "hello");
        Ok(answer.caller.expect("a caller"))
    }

    /// What the environment has said so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.path(OUTPUT)).expect("a log")
    }

    /// Waits until the environment's own output has `text` in it.
    pub async fn said(&self, text: &str) {
        eventually(&format!("`{text}` is said"), async || {
            self.output().contains(text)
        })
        .await;
    }

    /// Kills a process of the environment.
    pub async fn kill(&self, pid: u32) {
        kill_process(process(pid), Signal::KILL).expect("it runs");
        eventually("it is gone", async || !is_running(pid)).await;
    }

    /// Stops a process of the environment where it is, or lets it go on.
    pub fn pause(&self, pid: u32, paused: bool) {
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        kill_process(process(pid), signal).expect("it runs");
    }

    /// Kills the authority, or the part that was started last by hand, and starts an authority at once. It is left to that
    /// to wait until the other has ended.
    pub fn restart_authority(&mut self) {
        match self.restarted.pop() {
            Some(mut running) => {
                running.kill().expect("it runs");
                running.wait().expect("it ends");
            }
            None => {
                let authority = process(self.environment.processes.authority.pid);
                kill_process(authority, Signal::KILL).expect("it runs");
            }
        }
        let config = self.environment.processes.authority.config.clone();
        let config = config.to_str().expect("text");
        self.restart(&["run", "authority", "serve", "--config", config]);
    }

    /// Kills the part that was started last by hand.
    pub fn kill_last(&mut self) {
        let mut running = self.restarted.pop().expect("one was started");
        running.kill().expect("it runs");
        running.wait().expect("it ends");
    }

    /// The process of the part that was started last by hand.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.restarted.last().expect("one was started").id()
    }

    /// Starts a part by hand.
    pub fn restart(&mut self, arguments: &[&str]) {
        let mut part = command(&self.program);
        part.args(arguments);
        self.restart_with(part);
    }

    /// Starts a part by a command that was printed.
    pub fn restart_as_told(&mut self, line: &str) {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("exec {line}")).stdin(Stdio::null());
        self.restart_with(command);
    }

    fn restart_with(&mut self, mut command: Command) {
        let log = File::create(self.path(&format!("restarted-{}", self.restarted.len()))).expect("a log");
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        self.restarted.push(child.expect("it starts"));
    }

    /// Tries to run a second one in the same folder.
    pub fn second_run(&self) -> Output {
        self.run(&["dev"])
    }

    /// Stops everything, as Ctrl-C does, and looks whether all is gone.
    pub async fn stop(mut self) -> TempDir {
        for mut child in std::mem::take(&mut self.restarted) {
            kill_process(process(child.id()), Signal::TERM).expect("it runs");
            assert!(end_of(&mut child).await.success(), "it stops in order");
        }
        kill_process(process(self.supervisor.id()), Signal::INT).expect("it runs");
        let ended = end_of(&mut self.supervisor).await;
        assert!(ended.success(), "{ended:?}: {}", self.output());
        let processes = &self.environment.processes;
        for pid in [processes.authority.pid, processes.sidecar.pid, processes.demo.pid] {
            assert!(!is_running(pid), "process {pid} is left");
        }
        self.folder.take().expect("it has not stopped")
    }

    /// Kills the process that holds the environment together, and nothing else.
    pub fn kill_supervisor(mut self) -> TempDir {
        self.supervisor.kill().expect("it runs");
        self.supervisor.wait().expect("it ends");
        self.folder.take().expect("it has not stopped")
    }
}

async fn end_of(child: &mut Child) -> ExitStatus {
    let mut ended = None;
    eventually("it ends", async || {
        ended = child.try_wait().expect("it can be asked");
        ended.is_some()
    })
    .await;
    ended.expect("it has ended")
}

impl Dev {
    /// The end of everything that was written, for whoever has to find out why a test failed.
    fn logs(&self) -> Option<String> {
        let folder = self.folder.as_ref()?.path();
        let listed = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
        let files = listed(folder.to_owned()).chain(listed(folder.join("dev").join("logs")));
        let mut said = String::new();
        for path in files.map(|entry| entry.path()).filter(|path| path.is_file()) {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let end = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
            said.push_str(&format!("== {}\n{}\n", path.display(), end.join("\n")));
        }
        Some(said)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.logs().unwrap_or_default();
            // There is nobody else to tell.
            drop(writeln!(std::io::stderr().lock(), "{logs}"));
        }
        for child in self.restarted.iter_mut().chain([&mut self.supervisor]) {
            // Whatever has ended already cannot be killed, and the parts follow their supervisor.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
