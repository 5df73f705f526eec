//! Waits for an epoch: reads how far it has come until it is everywhere, through restarts of the authority.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_core::ports::Clock as _;
use countersign_mtls::ConnectError;
use countersign_proto::admin::v1;
use countersign_runtime::SystemClock;
use countersign_wire::write_time;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::Reach;
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::present::At;
use crate::progress::Tally;

/// How often a countdown moves.
const TICK: Duration = Duration::from_secs(1);

/// The first and the longest pause before the authority is asked again. Each question is in its audit trail.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How long an authority that does not answer is waited for when nothing else bounds the wait.
const OUT_OF_TOUCH: Duration = Duration::from_secs(5 * 60);

const DOING: &str = "cannot follow the epoch";

/// Waits until the epoch of `known` is in force everywhere, for at most `limit`; answers how far it has come by then. The bounds
/// of `known` are kept to. Epoch 0 is the current one.
///
/// # Errors
/// When the authority refuses to tell, or does not answer at the end of the wait.
pub(crate) async fn follow(
    connection: &Connection,
    known: Reach,
    limit: Option<Duration>,
    output: Output,
) -> Result<Reach, Failure> {
    let mut follower = Follower {
        connection,
        promised: known.bounds.clone(),
        reach: known,
        clock: None,
        heard_at: Instant::now(),
        tally: Tally::new(output),
    };
    let ends = limit.map(|limit| Instant::now() + limit);
    let mut pause = PAUSES.0;
    loop {
        let asked_at = Instant::now();
        match follower.watch(ends).await {
            Ok(()) => return Ok(follower.reach),
            Err(Broken::ForGood(failure)) => return Err(failure),
            Err(Broken::ForNow(failure)) => {
                if follower.heard_at > asked_at {
                    pause = PAUSES.0;
                }
                let ends = ends.unwrap_or(follower.heard_at + OUT_OF_TOUCH);
                let left = ends.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(failure);
                }
                follower.show("the authority does not answer");
                sleep(pause.min(left)).await;
                pause = pause.saturating_mul(2).min(PAUSES.1);
            }
        }
    }
}

/// Why a stream ended early.
enum Broken {
    /// It may be opened again.
    ForNow(Failure),
    /// The authority does not tell.
    ForGood(Failure),
}

struct Follower<'a> {
    connection: &'a Connection,
    promised: BTreeMap<String, At>,
    reach: Reach,
    clock: Option<AuthorityClock>,
    heard_at: Instant,
    tally: Tally,
}

impl Follower<'_> {
    /// Reads one stream, until the epoch is everywhere or the time is up.
    async fn watch(&mut self, ends: Option<Instant>) -> Result<(), Broken> {
        let request = v1::WatchEpochRequest {
            epoch: self.reach.epoch,
            tokens_end: self.reach.tokens_end.map(|ends| write_time(ends.0)),
        };
        let mut service = self.connection.watching();
        let opening = async {
            let answer = service.watch_epoch(request).await?;
            let clock = AuthorityClock::read(answer.metadata());
            let mut stream = answer.into_inner();
            let first = stream.message().await?;
            Ok::<_, Status>((clock, stream, first))
        };
        let opened = timeout(self.connection.timeout, opening).await;
        let opened = opened.map_err(|_elapsed| silent())?;
        let (clock, mut stream, mut answer) = opened.map_err(|status| broken(&status))?;
        self.clock = clock;
        loop {
            self.take(answer.ok_or_else(silent)?);
            // Nothing comes while nothing changes, but time passes.
            let next = loop {
                self.passes();
                if self.reach.complete || ends.is_some_and(|ends| ends <= Instant::now()) {
                    return Ok(());
                }
                let left = ends.map_or(TICK, |ends| ends.saturating_duration_since(Instant::now()));
                if let Ok(next) = timeout(left.min(TICK), stream.message()).await {
                    break next;
                }
            };
            // What was told well is not refused half-way: the connection is gone.
            answer = next.map_err(|status| Broken::ForNow(Failure::answered(DOING, &status)))?;
        }
    }

    fn take(&mut self, answer: v1::WatchEpochResponse) {
        self.heard_at = Instant::now();
        self.reach = Reach::read(answer.reach.unwrap_or_default()).within(&self.promised);
    }

    /// Looks at the time.
    fn passes(&mut self) {
        if let Some(clock) = &self.clock {
            self.reach.passed(clock.now());
        }
        let sentence = self.reach.sentence(SystemClock.now());
        self.show(&sentence);
    }

    fn show(&mut self, what: &str) {
        let line = format!("epoch {}: {what}", self.reach.epoch);
        let left = self.clock.as_ref().zip(self.reach.by);
        let left = left.map(|(clock, by)| by.0.since(clock.now()));
        let counts = (self.reach.in_force, self.reach.live);
        self.tally.show(counts, &line, left);
    }
}

/// The authority's clock: bounds are by it, and ours may be another. Told by HTTP's `date`, to the second that has begun, so it is
/// never ahead.
struct AuthorityClock {
    told: Timestamp,
    at: Instant,
}

impl AuthorityClock {
    fn read(metadata: &MetadataMap) -> Option<Self> {
        let date = metadata.get("date")?.to_str().ok()?;
        let date = httpdate::parse_http_date(date).ok()?;
        let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Self {
            told: Timestamp::from_seconds(since.as_secs()),
            at: Instant::now(),
        })
    }

    fn now(&self) -> Timestamp {
        self.told.saturating_add(self.at.elapsed())
    }
}

fn silent() -> Broken {
    let message = format!("{DOING}: the authority does not answer");
    Broken::ForNow(Failure::new(Exit::Unavailable, message))
}

/// Whether it is worth asking again: what a restart of the authority looks like is.
fn broken(status: &Status) -> Broken {
    let failure = Failure::answered(DOING, status);
    let may_pass = match (ConnectError::in_chain(status), status.code()) {
        (None, Code::Unknown) => true,
        (Some(_), _) | (None, _) => failure.exit == Exit::Unavailable,
    };
    if may_pass {
        Broken::ForNow(failure)
    } else {
        Broken::ForGood(failure)
    }
}

#[cfg(test)]
mod tests;
