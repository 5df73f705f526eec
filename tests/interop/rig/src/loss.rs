//! Sidecars whose network to the authority is bad (F15, F17, F70): no revoked token is accepted after the time that the receipt
//! told, and no good one is refused while a lease can be had.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use countersign_runtime::backoff::Jitter;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::calling::{Answer, Authority, AuthorityArguments, Method, call, latest_bound, now_millis};
use crate::relay::{Fault, Relay};
use crate::report::{Report, say};
use crate::schedule::{History, RECOVERY, drawn_fault};

/// What is called, of class `normal`.
const METHOD: Method = Method::Echo;

/// Between two calls of one caller.
const PAUSE: Duration = Duration::from_millis(20);

/// Between two revocations.
const REVOKE_EVERY: Duration = Duration::from_millis(400);

/// What [`run`] needs.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    authority: AuthorityArguments,
    /// Where the authority listens.
    #[arg(long)]
    authority_at: SocketAddr,
    /// The plaintext listeners of the sidecars.
    #[arg(long)]
    sidecar: Vec<SocketAddr>,
    /// Where each of them takes the authority to be, in the same order.
    #[arg(long)]
    relay: Vec<SocketAddr>,
    /// The lease, in seconds.
    #[arg(long)]
    lease: u64,
    /// The budget of that class, in seconds.
    #[arg(long)]
    budget: u64,
    /// The heartbeat, in seconds.
    #[arg(long)]
    heartbeat: u64,
    /// How long faults come and go, in seconds.
    #[arg(long)]
    faults: u64,
    /// What the faults are drawn by.
    #[arg(long)]
    seed: u64,
}

impl Arguments {
    /// The longest that a sidecar decides without an answer.
    fn exposure(&self) -> Duration {
        Duration::from_secs(self.lease + self.budget)
    }

    /// The least that it goes on.
    fn ride_through(&self) -> Duration {
        Duration::from_secs(self.lease + self.budget - self.heartbeat)
    }
}

/// A call with a good token.
#[derive(Debug)]
struct Call {
    began: Instant,
    answer: Answer,
}

/// One sidecar and its network.
#[derive(Debug)]
struct Place {
    sidecar: SocketAddr,
    relay: Relay,
    history: Mutex<History>,
    calls: Mutex<Vec<Call>>,
}

impl Place {
    fn set(&self, fault: Fault) {
        lock(&self.history).note(fault);
        self.relay.set(fault);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Places = Arc<Vec<Place>>;

/// What became of a revoked token at one sidecar.
#[derive(Debug, Default)]
struct Revoked {
    /// Calls after the bound that were accepted. There must be none.
    late: usize,
    /// Calls before it that were accepted.
    early: usize,
    /// Whether it was refused for being revoked in the end, and not only because nothing was decided.
    known: bool,
    /// Whether the receipt named a time, rather than that it is in force everywhere.
    awaited: bool,
}

/// Runs everything.
pub(crate) async fn run(arguments: Arguments, report: &mut Report) {
    let places = start(&arguments).await;
    let good = arguments.authority.open().token().await;
    let stop = CancellationToken::new();
    let mut callers = JoinSet::new();
    for index in 0..places.len() {
        let calling = keep_calling(Arc::clone(&places), index, good.clone());
        callers.spawn(stop.clone().run_until_cancelled_owned(calling));
    }
    let revoker = tokio::spawn(keep_revoking(
        arguments.authority.open(),
        Arc::clone(&places),
        stop.clone(),
    ));

    sleep(RECOVERY).await;
    let faults = come_and_go(&arguments, &places).await;
    say(&format!(
        "      {faults} faults of {} s at most have come and gone, by seed {}",
        LONGEST.as_secs_f64(),
        arguments.seed
    ));
    all(&places, Fault::Clean);
    sleep(RECOVERY + Duration::from_secs(1)).await;
    // One-way partitions, longer than lease and budget.
    for (place, fault) in places
        .iter()
        .zip([Fault::StallUp, Fault::StallDown].into_iter().cycle())
    {
        place.set(fault);
    }
    sleep(arguments.exposure() + Duration::from_secs(2)).await;
    all(&places, Fault::Clean);
    sleep(RECOVERY + Duration::from_secs(1)).await;
    stop.cancel();
    callers.join_all().await;
    judge_revoked(&revoker.await.expect("it goes through"), report);
    for (index, place) in places.iter().enumerate() {
        judge_good(index, place, &arguments, report);
    }
}

async fn start(arguments: &Arguments) -> Places {
    let mut places = Vec::new();
    for (sidecar, relay) in arguments.sidecar.iter().zip(&arguments.relay) {
        places.push(Place {
            sidecar: *sidecar,
            relay: Relay::start(*relay, arguments.authority_at).await,
            history: Mutex::new(History::new()),
            calls: Mutex::default(),
        });
    }
    for place in &places {
        let token = arguments.authority.open().token().await;
        while !call(place.sidecar, METHOD, &token).await.is_through() {
            sleep(PAUSE).await;
        }
    }
    Arc::new(places)
}

fn all(places: &Places, fault: Fault) {
    for place in places.iter() {
        place.set(fault);
    }
}

/// The longest of the faults that come and go.
const LONGEST: Duration = Duration::from_millis(1500);

/// Faults, one after another on each network. Answers how many.
async fn come_and_go(arguments: &Arguments, places: &Places) -> usize {
    let mut jitter = Jitter::seeded(arguments.seed);
    let end = Instant::now() + Duration::from_secs(arguments.faults);
    let mut count = 0;
    while Instant::now() < end {
        for place in places.iter() {
            place.set(drawn_fault(&mut jitter));
            count += 1;
        }
        sleep(jitter.up_to(LONGEST)).await;
        all(places, Fault::Clean);
        sleep(jitter.up_to(LONGEST)).await;
    }
    count
}

async fn keep_calling(places: Places, index: usize, token: String) {
    let place = places.get(index).expect("a place");
    loop {
        let began = Instant::now();
        let answer = call(place.sidecar, METHOD, &token).await;
        lock(&place.calls).push(Call { began, answer });
        sleep(PAUSE).await;
    }
}

async fn keep_revoking(mut authority: Authority, places: Places, stop: CancellationToken) -> Vec<Revoked> {
    let mut watched = JoinSet::new();
    while !stop.is_cancelled() {
        let token = authority.token().await;
        for place in places.iter() {
            let answer = call(place.sidecar, METHOD, &token).await;
            assert_ne!(answer.reason, "TOKEN_REVOKED", "it is not yet");
        }
        let reach = authority.revoke(&token).await;
        let bound = latest_bound(&reach);
        for index in 0..places.len() {
            let (places, token) = (Arc::clone(&places), token.clone());
            watched.spawn(async move {
                let place = places.get(index).expect("a place");
                watch(place.sidecar, &token, bound).await
            });
        }
        sleep(REVOKE_EVERY).await;
    }
    watched.join_all().await
}

/// Calls with a revoked token until it is refused for that, and at least until a second after the bound.
async fn watch(sidecar: SocketAddr, token: &str, bound: Option<u64>) -> Revoked {
    let by = bound.unwrap_or_else(now_millis);
    let mut revoked = Revoked {
        awaited: bound.is_some(),
        ..Revoked::default()
    };
    loop {
        let began = now_millis();
        let answer = call(sidecar, METHOD, token).await;
        match answer.reason.as_str() {
            "TOKEN_REVOKED" => revoked.known = true,
            "TRUST_STALE" => {}
            _ if answer.is_through() && began > by => revoked.late += 1,
            _ => revoked.early += 1,
        }
        if revoked.known || began > by + 30_000 {
            return revoked;
        }
        sleep(PAUSE).await;
    }
}

fn judge_revoked(revoked: &[Revoked], report: &mut Report) {
    let sum = |count: fn(&Revoked) -> usize| revoked.iter().map(count).sum::<usize>();
    let (late, early) = (sum(|one| one.late), sum(|one| one.early));
    let awaited = sum(|one| usize::from(one.awaited));
    let unknown = sum(|one| usize::from(!one.known));
    report.check(
        late == 0 && unknown == 0 && revoked.len() >= 50,
        &format!(
            "no revoked token is accepted after the time told: {} looked at, {awaited} with a time to wait for, \
             {early} calls accepted before it, {late} after; {unknown} never known as revoked",
            revoked.len()
        ),
    );
}

fn judge_good(index: usize, place: &Place, arguments: &Arguments, report: &mut Report) {
    let (calls, history) = (lock(&place.calls), lock(&place.history));
    let accepted = |call: &&Call| call.answer.is_through();
    let stale = |call: &&Call| call.answer.reason == "TRUST_STALE";
    let wrongly_refused = calls
        .iter()
        .filter(|call| !accepted(call))
        .filter(|call| !stale(call) || history.must_decide(call.began, arguments.ride_through()));
    let wrongly_accepted = calls
        .iter()
        .filter(accepted)
        .filter(|call| history.must_refuse(call.began, arguments.exposure()));
    let due = calls
        .iter()
        .filter(|call| history.must_decide(call.began, arguments.ride_through()));
    let refused = calls.iter().filter(stale).count();
    let (due, wrongly_refused, wrongly_accepted) =
        (due.count(), wrongly_refused.count(), wrongly_accepted.count());
    report.check(
        wrongly_refused == 0 && due > 0,
        &format!(
            "sidecar {}: of {} calls with a good token, {wrongly_refused} were refused while a lease could be had ({due} \
             calls), {refused} with TRUST_STALE while none could",
            index + 1,
            calls.len()
        ),
    );
    report.check(
        wrongly_accepted == 0 && refused > 0,
        &format!(
            "sidecar {}: cut off one way, {wrongly_accepted} calls were accepted later than {:?} after that",
            index + 1,
            arguments.exposure()
        ),
    );
}
