//! A sidecar that starts while its predecessor still holds what it needs.

use std::any::Any;
use std::fs::{DirBuilder, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use countersign_runtime::busy::PATIENCE;
use countersign_sidecar::app::{App, StartError};
use countersign_sidecar::config::Config;
use countersign_verifier::test_util::SetClock;
use tokio::time::Instant;

use crate::command::{GOOD, command, folder};
use crate::support::{eventually, within};

/// What a predecessor holds, and what is said of it when it does not let go.
struct Held {
    _holder: Box<dyn Any>,
    setting: Option<(&'static str, String)>,
    told: String,
}

impl Held {
    fn state_directory(folder: &Path) -> Self {
        let mut private = DirBuilder::new();
        private.mode(0o700).create(folder.join("state")).expect("made");
        let lock = File::create(folder.join("state/lock")).expect("made");
        lock.try_lock().expect("locked");
        Self {
            _holder: Box::new(lock),
            setting: None,
            told: "state directory".to_owned(),
        }
    }

    fn socket(folder: &Path) -> Self {
        let path = folder.join("verify.sock");
        Self {
            _holder: Box::new(UnixListener::bind(&path).expect("bound")),
            setting: None,
            told: format!("unix://{}", path.display()),
        }
    }

    /// The port of the address that `setting` gives.
    fn port(setting: &'static str) -> Self {
        let holder = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = holder.local_addr().expect("bound").to_string();
        Self {
            _holder: Box::new(holder),
            told: address.clone(),
            setting: Some((setting, address)),
        }
    }
}

/// How long a predecessor goes on. Several attempts, and most of the patience is left.
const RELEASE: Duration = Duration::from_millis(300);

const SETTINGS: &str = r#"
[[listener]]
address = "PLAIN"
plaintext = true
[[listener]]
address = "TLS"
tls = { certificate = "sidecar.crt", private_key = "sidecar.key", trust_roots = "ca.crt" }
[verify]
unix = "verify.sock"
grpc = "VERIFY"
"#;

/// A configuration that wants what is held.
fn config(folder: &Path, held: &Held) -> Config {
    let (top, _) = GOOD.split_once("[[listener]]").expect("a listener");
    let mut text = format!("{top}{SETTINGS}").replace(r#"admin = "127.0.0.1:0""#, r#"admin = "ADMIN""#);
    if let Some((setting, address)) = &held.setting {
        assert!(text.contains(setting));
        text = text.replace(setting, address);
    }
    for setting in ["PLAIN", "TLS", "VERIFY", "ADMIN"] {
        text = text.replace(setting, "127.0.0.1:0");
    }
    let config = Config::parse(&folder.join("sidecar.toml"), &text);
    config.unwrap_or_else(|complaints| panic!("{complaints}"))
}

async fn build(config: Config) -> Result<App, StartError> {
    App::build(config, SetClock::new(), &[tokio::runtime::Handle::current()]).await
}

fn told(error: &StartError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

/// D07: whatever the predecessor lets go of in time is taken over, and what it keeps is named.
#[tokio::test]
async fn whatever_is_held_is_waited_for_and_not_for_ever() {
    let kinds: [fn(&Path) -> Held; 6] = [
        Held::state_directory,
        Held::socket,
        |_| Held::port("PLAIN"),
        |_| Held::port("TLS"),
        |_| Held::port("VERIFY"),
        |_| Held::port("ADMIN"),
    ];
    for kind in kinds {
        let folder = folder(GOOD);
        let held = kind(folder.path());
        let wanted = config(folder.path(), &held);
        tokio::time::pause();
        let started = Instant::now();
        let refused = build(wanted.clone()).await.expect_err("it is held");
        let took = started.elapsed();
        assert!(told(&refused).contains(&held.told), "{}", told(&refused));
        assert!(
            (PATIENCE..PATIENCE + Duration::from_secs(1)).contains(&took),
            "{}: {took:?}",
            held.told
        );

        // Letting go takes real time: of the thread that had the database of the start before, and of a process that
        // another test has just forked, which has all our files open until it is another program.
        tokio::time::resume();
        let what = held.told.clone();
        let release = async {
            tokio::time::sleep(RELEASE).await;
            drop(held);
        };
        let (built, ()) = tokio::join!(build(wanted), release);
        built.unwrap_or_else(|error| panic!("{what}: {}", told(&error)));
    }
}

/// An address that this machine does not have will not come.
#[tokio::test(start_paused = true)]
async fn what_nobody_holds_is_refused_at_once() {
    let folder = folder(GOOD);
    let held = Held {
        _holder: Box::new(()),
        setting: Some(("TLS", "192.0.2.1:0".to_owned())),
        told: String::new(),
    };
    let started = Instant::now();
    let refused = build(config(folder.path(), &held)).await.expect_err("not ours");
    assert!(told(&refused).contains("192.0.2.1:0"), "{}", told(&refused));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

/// A process of the binary, and what it says.
struct Process {
    child: Child,
    log: std::path::PathBuf,
}

impl Process {
    fn start(folder: &Path, name: &str) -> Self {
        let log = folder.join(name);
        let stderr = File::create(&log).expect("a log");
        let child = command(folder, &[]).stderr(stderr).stdin(Stdio::null()).spawn();
        Self {
            child: child.expect("spawned"),
            log,
        }
    }

    async fn says(&self, text: &str) {
        eventually(text, async || {
            std::fs::read_to_string(&self.log).expect("a log").contains(text)
        })
        .await;
    }

    /// How it ends.
    async fn code(&mut self) -> Option<i32> {
        let mut ended = None;
        eventually("the end", async || {
            ended = self.child.try_wait().expect("waited");
            ended.is_some()
        })
        .await;
        ended?.code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().expect("bound")
}

/// F71: whoever waits for a predecessor can be told to stop.
#[tokio::test]
async fn a_start_that_waits_ends_when_asked_to() {
    let folder = folder(GOOD);
    let _held = Held::state_directory(folder.path());
    let mut waiting = Process::start(folder.path(), "waiting.log");
    waiting.says("waiting for it to let go").await;
    let pid = rustix::process::Pid::from_child(&waiting.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    // Whoever has waited in vain ends with 1.
    assert_eq!(waiting.code().await, Some(0));
}

/// D07: a second process on the directory says so and ends; one whose predecessor is killed meanwhile takes everything over.
#[tokio::test]
async fn a_killed_process_is_followed_by_the_next_without_a_pause() {
    let address = free_port();
    let text = GOOD.replace(r#"address = "127.0.0.1:0""#, &format!(r#"address = "{address}""#));
    let folder = folder(&text);
    let mut first = Process::start(folder.path(), "first.log");
    first.says("the sidecar serves").await;

    let mut second = Process::start(folder.path(), "second.log");
    assert_eq!(second.code().await, Some(1));
    second.says("another process uses the state directory").await;

    let third = Process::start(folder.path(), "third.log");
    third.says("waiting for it to let go").await;
    // SIGKILL; and nobody has waited for it when the next one goes on.
    first.child.kill().expect("killed");
    third.says("the sidecar serves").await;
    let connected = within("the port", tokio::net::TcpStream::connect(address)).await;
    connected.expect("it listens");
    UnixStream::connect(folder.path().join("verify.sock")).expect("it listens");
}
