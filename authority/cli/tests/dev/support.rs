//! One environment of real processes for one test, and how to call what runs in it.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use countersign_cli::environment::Environment;
use countersign_core::ports::Clock as _;
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

/// How long anything may take that comes by itself, on a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = SystemClock.elapsed() + LIMIT;
    while !condition().await {
        assert!(SystemClock.elapsed() < deadline, "not in time: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The same where nothing else goes on.
fn block_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = SystemClock.elapsed() + LIMIT;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(SystemClock.elapsed() < deadline, "not in time: {what}");
        std::thread::sleep(POLL);
    }
}

/// Code and reason of a refusal.
pub(crate) fn told(status: Status) -> (Code, String) {
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
pub(crate) fn is_running(pid: u32) -> bool {
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

/// Which way a call takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Through {
    /// The listener with certificates, with that of this client.
    Tls(&'static str),
    /// The listener without.
    Plaintext,
}

/// How a command failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) exit: i32,
    pub(crate) reason: String,
}

/// A running environment.
pub(crate) struct Dev {
    folder: Option<TempDir>,
    pub(crate) environment: Environment,
    supervisor: Child,
    restarted: Vec<Child>,
}

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");

fn countersign() -> Command {
    by(Path::new(PROGRAM))
}

fn by(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

impl Dev {
    /// Starts one in a new folder.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), &[])
    }

    /// Starts one in a folder that may have been used before, and waits until it is ready.
    pub(crate) fn start_in(folder: TempDir, more: &[&str]) -> Self {
        Self::start_by(Path::new(PROGRAM), folder, more, || {})
    }

    /// Starts one by a program of ours that lies elsewhere, and does `meanwhile` as soon as that runs.
    pub(crate) fn start_by(program: &Path, folder: TempDir, more: &[&str], meanwhile: impl FnOnce()) -> Self {
        countersign_mtls::install_default_provider();
        let log = File::create(folder.path().join("output")).expect("a log");
        let dir = folder.path().join("dev");
        let supervisor = by(program)
            .args(["dev", "--dir"])
            .arg(&dir)
            .args(more)
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn();
        let mut supervisor = supervisor.expect("it starts");
        meanwhile();
        let environment = block_until("the environment is ready", || {
            let ended = supervisor.try_wait().expect("it can be asked");
            let said = || std::fs::read_to_string(folder.path().join("output")).expect("a log");
            assert!(ended.is_none(), "it has ended: {}", said());
            // It is there whole or not at all. A run that was killed has left its own.
            let content = std::fs::read(dir.join("dev.json")).ok()?;
            let environment: Environment = serde_json::from_slice(&content).expect("as documented");
            is_running(environment.processes.authority.pid).then_some(environment)
        });
        Self {
            folder: Some(folder),
            environment,
            supervisor,
            restarted: Vec::new(),
        }
    }

    fn folder(&self) -> &Path {
        self.folder.as_ref().expect("it has not stopped").path()
    }

    /// The environment's folder.
    pub(crate) fn dir(&self) -> PathBuf {
        self.folder().join("dev")
    }

    /// A file beside the environment.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Runs a command of the command line on this environment.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let output = countersign()
            .args(arguments)
            .arg("--dir")
            .arg(self.dir())
            .output();
        output.expect("it runs")
    }

    /// What a command that succeeds writes on stdout.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{arguments:?}: {:?}: {said}",
            output.status
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// The same with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[&["--json"], arguments].concat())).expect("JSON")
    }

    /// How a command fails.
    pub(crate) fn failed(&self, arguments: &[&str]) -> Failed {
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
    pub(crate) fn token(&self, arguments: &[&str]) -> String {
        let printed = self.text(&[&["token", "get"], arguments].concat());
        let token = printed.strip_suffix('\n').expect("a line");
        assert_eq!(token.split('.').count(), 3);
        assert!(!token.contains(char::is_whitespace), "and nothing else");
        token.to_owned()
    }

    fn channel(&self, through: Through) -> Channel {
        let environment = &self.environment;
        let clients = &environment.clients;
        let (certificate, private_key) = match through {
            Through::Plaintext => {
                let uri = format!("http://{}", environment.sidecar.proxy_plaintext);
                return Endpoint::from_shared(uri).expect("an address").connect_lazy();
            }
            Through::Tls("orders") => (clients.orders.cert.clone(), clients.orders.key.clone()),
            Through::Tls(_) => (clients.billing.cert.clone(), clients.billing.key.clone()),
        };
        let files = TlsFiles {
            certificate,
            private_key,
            trust_roots: environment.ca_cert.clone(),
        };
        let tls =
            ClientTls::load(&files, ExpectedServer::default(), Arc::new(SystemClock)).expect("usable files");
        let uri = format!("https://{}", environment.sidecar.proxy);
        tls.channel(&uri, ChannelOptions::default()).expect("an address")
    }

    /// Calls the demo service through its sidecar; answers who it took us for.
    pub(crate) async fn call(&self, through: Through, token: Option<&str>) -> Result<Caller, Status> {
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
    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.path("output")).expect("a log")
    }

    /// Waits until the environment's own output has `text` in it.
    pub(crate) async fn said(&self, text: &str) {
        until(&format!("`{text}` is said"), async || {
            self.output().contains(text)
        })
        .await;
    }

    /// Kills a process of the environment.
    pub(crate) fn kill(&self, pid: u32) {
        kill_process(process(pid), Signal::KILL).expect("it runs");
        block_until("it is gone", || (!is_running(pid)).then_some(()));
    }

    /// Starts a part by hand.
    pub(crate) fn restart(&mut self, arguments: &[&str]) {
        let mut command = countersign();
        command.args(arguments);
        self.restart_with(command);
    }

    /// Starts a part by a command that was printed.
    pub(crate) fn restart_as_told(&mut self, line: &str) {
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
    pub(crate) fn second_run(&self) -> Output {
        let output = countersign().arg("dev").arg("--dir").arg(self.dir()).output();
        output.expect("it runs")
    }

    /// Stops everything, as Ctrl-C does, and looks whether all is gone.
    pub(crate) fn stop(mut self) -> TempDir {
        for mut child in std::mem::take(&mut self.restarted) {
            kill_process(process(child.id()), Signal::TERM).expect("it runs");
            assert!(end_of(&mut child).success(), "it stops in order");
        }
        kill_process(process(self.supervisor.id()), Signal::INT).expect("it runs");
        let ended = end_of(&mut self.supervisor);
        assert!(ended.success(), "{ended:?}: {}", self.output());
        let processes = &self.environment.processes;
        for pid in [processes.authority.pid, processes.sidecar.pid, processes.demo.pid] {
            assert!(!is_running(pid), "process {pid} is left");
        }
        self.folder.take().expect("it has not stopped")
    }

    /// Kills the process that holds the environment together, and nothing else.
    pub(crate) fn kill_supervisor(mut self) -> TempDir {
        self.supervisor.kill().expect("it runs");
        self.supervisor.wait().expect("it ends");
        self.folder.take().expect("it has not stopped")
    }
}

fn end_of(child: &mut Child) -> ExitStatus {
    block_until("it ends", || child.try_wait().expect("it can be asked"))
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
