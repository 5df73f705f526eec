//! An authority that starts while its predecessor still holds what it needs.

use std::any::Any;
use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use countersign_authority::app::AppError;
use countersign_authority::store::redb::RedbStore;
use countersign_runtime::busy::PATIENCE;
use tokio::time::Instant;

use crate::deployment::{Deployment, eventually};

/// Holds the store of `deployment`, or a port that its configuration then names; and what is said of it.
async fn hold(deployment: &Deployment, what: &str) -> (Box<dyn Any>, String) {
    if what == "store" {
        let store = RedbStore::open(&deployment.path("store.redb"))
            .await
            .expect("opens");
        return (
            Box::new(store),
            "the store cannot be opened: another process has the store open".to_owned(),
        );
    }
    let holder = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = holder.local_addr().expect("is bound");
    name_port(deployment, what, &address.to_string());
    (Box::new(holder), format!("`{address}` cannot be listened on"))
}

fn name_port(deployment: &Deployment, setting: &str, address: &str) {
    let config = std::fs::read_to_string(deployment.config()).expect("reads");
    let any = format!("{setting} = \"127.0.0.1:0\"");
    assert!(config.contains(&any));
    let named = config.replace(&any, &format!("{setting} = \"{address}\""));
    std::fs::write(deployment.config(), named).expect("writes");
}

fn told(error: &AppError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

/// How long a predecessor goes on. Several attempts, and most of the patience is left.
const RELEASE: Duration = Duration::from_millis(300);

/// D07: whatever the predecessor lets go of in time is taken over, and what it keeps is named.
#[tokio::test]
async fn whatever_is_held_is_waited_for_and_not_for_ever() {
    for what in ["store", "listen", "admin"] {
        tokio::time::pause();
        let deployment = Deployment::new();
        let (holder, expected) = hold(&deployment, what).await;
        let started = Instant::now();
        let refused = deployment.build().await.expect_err("it is held");
        let took = started.elapsed();
        assert!(told(&refused).contains(&expected), "{}", told(&refused));
        assert!(
            (PATIENCE..PATIENCE + Duration::from_secs(1)).contains(&took),
            "{what}: {took:?}"
        );

        // Letting go takes real time: of the threads of the start before, and of a process that another test has just
        // forked, which has all our files open until it is another program.
        tokio::time::resume();
        let release = async {
            tokio::time::sleep(RELEASE).await;
            drop(holder);
        };
        let (built, ()) = tokio::join!(deployment.build(), release);
        built.unwrap_or_else(|error| panic!("{what}: {}", told(&error)));
    }
}

/// A store that is damaged does not get better, and an address that this machine does not have will not come.
#[tokio::test(start_paused = true)]
async fn what_nobody_holds_is_refused_at_once() {
    let deployment = Deployment::new();
    let started = Instant::now();
    std::fs::write(deployment.path("store.redb"), "").expect("writes");
    let refused = deployment.build().await.expect_err("is damaged");
    assert!(told(&refused).contains("damaged"), "{}", told(&refused));
    std::fs::remove_file(deployment.path("store.redb")).expect("removes");
    name_port(&deployment, "listen", "192.0.2.1:0");
    let refused = deployment.build().await.expect_err("is not ours");
    assert!(told(&refused).contains("192.0.2.1:0"), "{}", told(&refused));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

/// A process of the program, and what it says.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(deployment: &Deployment, name: &str) -> Self {
        let log = deployment.path(name);
        let child = Command::new(env!("CARGO_BIN_EXE_countersign-authority"))
            .args(["serve", "--config"])
            .arg(deployment.config())
            .stdin(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn();
        Self {
            child: child.expect("starts"),
            log,
        }
    }

    async fn says(&self, text: &str) {
        eventually(text, async || {
            std::fs::read_to_string(&self.log).expect("a log").contains(text)
        })
        .await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// SIGKILL, with the next one started already and nobody who waits for the end of the first.
#[tokio::test]
async fn a_killed_process_is_followed_by_the_next_without_a_pause() {
    let deployment = Deployment::new();
    let mut first = Process::start(&deployment, "first.log");
    first.says("\"serving\"").await;
    let second = Process::start(&deployment, "second.log");
    second.says("waiting for it to let go").await;
    first.child.kill().expect("is killed");
    second.says("\"serving\"").await;
}
