use std::io;
use std::sync::Mutex;

use countersign_core::staleness::StalenessBudget;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use countersign_verifier::test_util::{
    REFUSE_AFTER, SetClock, TestIssuer, WARN_AFTER, confirm, empty_store, trust,
};

/// A log that can be read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The levels of the lines since the last time.
    fn levels(&self) -> Vec<String> {
        let text = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(text).unwrap();
        let level = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        text.lines().map(level).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
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

/// Trust that grows old is told of once at each step, also while nothing else happens; a class that is refused before the
/// default class is a step.
#[tokio::test(start_paused = true)]
async fn trust_that_grows_old_is_told_in_the_log() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .without_time()
        .with_ansi(false);
    // For this thread, which is all that the test's runtime has.
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let clock = SetClock::new();
    let rules = empty_store(Arc::<SetClock>::clone(&clock))
        .snapshot()
        .rules()
        .clone();
    let quick = ClassBudget {
        class: ClassName::parse("quick").unwrap(),
        budget: StalenessBudget::both(2 * WARN_AFTER),
    };
    let mut staleness = StalenessRules::default();
    staleness.classes.push(Arc::new(quick));
    let store = TrustStore::new(rules, Arc::new(staleness), Arc::<SetClock>::clone(&clock));
    let store = Arc::new(store);
    let (reporter, _health) = tonic_health::server::health_reporter();
    let service = "test.Service";
    tokio::spawn(report_health(
        vec![Health { reporter, service }],
        Arc::clone(&store),
    ));
    let told = async || {
        tokio::time::sleep(3 * HEALTH_INTERVAL).await;
        log.levels()
    };
    assert_eq!(told().await, ["WARN"]);
    trust(&store, TestIssuer::new("issuer").state(1, []));
    assert_eq!(told().await, ["INFO"]);
    clock.advance(WARN_AFTER);
    assert_eq!(told().await, ["WARN"]);
    assert_eq!(told().await, [""; 0]);
    clock.advance(WARN_AFTER);
    assert_eq!(told().await, ["ERROR"]);
    assert!(store.status().decides(), "the default class is");
    clock.advance(REFUSE_AFTER - 2 * WARN_AFTER);
    assert_eq!(told().await, ["ERROR"]);
    confirm(&store, Duration::from_secs(10));
    assert_eq!(told().await, ["INFO"]);
}

/// The log does not call trust too old that has just come: only what was given time and not confirmed is a fault.
#[test]
fn trust_that_has_just_come_is_not_called_too_old() {
    let clock = SetClock::new();
    let shared: Arc<SetClock> = Arc::clone(&clock);
    let store = empty_store(shared);
    let staleness = StalenessRules::default();
    let news = |waited| News::of(&store.status(), &staleness, waited);
    assert_eq!(news(Duration::ZERO), News::Cold);
    store.install(TestIssuer::new("one").state(1, [])).expect("new");
    assert_eq!(news(Duration::ZERO), News::Awaited);
    assert_eq!(news(FAIR_CHANCE), News::NeverConfirmed);
    confirm(&store, Duration::from_secs(10));
    assert_eq!(news(Duration::ZERO), News::Confirmed);
    clock.advance(Duration::from_secs(2000));
    assert!(matches!(news(Duration::ZERO), News::Refusing(_)));
}
