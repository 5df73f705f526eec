//! What time it is, for a verifier.
//!
//! Decisions need a time that is right and does not go back, or an expired token would be good again. The wall clock is
//! neither for sure: it may be wrong at the start, and somebody may set it. So it is read once, at the start, and counted on
//! by elapsed time, which never steps; what it reads later changes nothing and is merely told. The authority's time comes
//! with every heartbeat, and this verifier's is moved into what that leaves open, by the least that is needed.
//!
//! ```text
//!      ping sent                   answer here
//! ---------|----------------------------|------>   elapsed time
//!             A: heartbeat signed                  the authority's time is now between A and A + the whole way,
//!             '---------------------->             and a second, for which one heartbeat is given to everybody
//! ```
//!
//! INVARIANT (time does not go back): what [`VerifierClock::now`] says is never less than what it said before. Where time
//! would have to be moved back, it stands still. The one exception is the first heartbeat after a start, when it shows the
//! wall clock to have been wrong by more than clocks may be apart: until then nobody but that clock had said what time it is.

use std::sync::Arc;
use std::time::Duration;

use super::{MAX_CLOCK_DIFFERENCE, Moment};
use crate::planted::{Bug, planted};
use crate::time::Timestamp;

/// The authority gives the same heartbeat to everybody who asks within this time.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// A wall clock that has moved by this much more or less than time has passed was set.
const STEP: Duration = Duration::from_secs(1);

/// Names one start of the machine. Elapsed time is comparable within it.
pub type BootId = Arc<str>;

/// It is not known what time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time is in doubt until the authority is heard")]
pub struct ClockInDoubt;

/// Where the clocks stood at one moment, for a later start to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockMark {
    /// What this machine's clocks said.
    pub moment: Moment,
    /// The verifier's time, in milliseconds since 1970; only the latest that is known to have come, unless it was heard.
    pub time_millis: u64,
    /// Which start of the machine it was, if that is known.
    pub boot: Option<BootId>,
    /// Whether the authority had said what time it is. If not, nobody but the wall clock had.
    pub heard: bool,
}

impl ClockMark {
    /// How long ago it was at `elapsed`, where `boot` is this start of the machine. Nothing when it was another one, in which
    /// elapsed time began anew.
    #[must_use]
    pub fn passed(&self, boot: Option<&BootId>, elapsed: Duration) -> Option<Duration> {
        let same_boot = boot.is_some() && boot == self.boot.as_ref();
        let passed = elapsed.checked_sub(self.moment.elapsed);
        passed.filter(|_| same_boot)
    }

    /// The earliest that it can be at `elapsed`, in milliseconds since 1970, as far as the clocks said then.
    #[must_use]
    pub fn earliest(&self, boot: Option<&BootId>, elapsed: Duration) -> u64 {
        let said = if self.heard {
            self.time_millis
        } else {
            self.moment.wall_millis
        };
        said.saturating_add(millis(self.passed(boot, elapsed).unwrap_or_default()))
    }
}

/// What a heartbeat says about the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeStated {
    /// The authority's time when it was signed, in milliseconds since 1970.
    pub authority_millis: u64,
    /// When the ping was sent that it answers.
    pub sent_at: Duration,
}

/// A time farther away than clocks may be apart. It is not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFar;

/// The time of one verifier.
#[derive(Clone, Debug)]
pub struct VerifierClock {
    boot: Option<BootId>,
    /// Elapsed time when it was `time_millis`.
    anchor: Duration,
    time_millis: u64,
    /// The latest time that was said when the anchor was set.
    floor_millis: u64,
    /// The latest time before the start that is known of.
    seen_millis: u64,
    source: Source,
    last_look: Moment,
}

/// Who says what time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The wall clock, and it contradicts what was seen before the start.
    DoubtedWall,
    /// The wall clock.
    Wall,
    /// The authority, and elapsed time since it did.
    Authority,
}

/// From `earliest` to `latest`, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Span {
    earliest: u64,
    latest: u64,
}

impl Span {
    const fn clamp(self, millis: u64) -> u64 {
        if millis < self.earliest {
            self.earliest
        } else if millis > self.latest {
            self.latest
        } else {
            millis
        }
    }

    /// Whether `millis` is no farther away than clocks may be apart.
    fn is_near(self, millis: u64) -> bool {
        Duration::from_millis(self.clamp(millis).abs_diff(millis)) <= MAX_CLOCK_DIFFERENCE
    }
}

impl VerifierClock {
    /// The time by the wall clock, `now`.
    #[must_use]
    pub const fn start(boot: Option<BootId>, now: Moment) -> Self {
        Self {
            boot,
            anchor: now.elapsed,
            time_millis: now.wall_millis,
            floor_millis: 0,
            seen_millis: 0,
            source: Source::Wall,
            last_look: now,
        }
    }

    /// Goes on from `mark`, which an earlier process left. Within one start of the machine, time is counted on from there,
    /// and is exact, if the authority had said it. Otherwise only the wall clock can say how long ago that was; when it reads
    /// clearly earlier, the time is in doubt.
    pub fn resume(&mut self, mark: &ClockMark, now: Moment) {
        let passed = mark.passed(self.boot.as_ref(), now.elapsed);
        let passed = passed.filter(|_| mark.heard);
        let tolerated = now.wall_millis.saturating_add(millis(MAX_CLOCK_DIFFERENCE));
        (self.time_millis, self.source) = match passed {
            Some(passed) => (mark.time_millis.saturating_add(millis(passed)), Source::Authority),
            None if tolerated < mark.time_millis => (now.wall_millis, Source::DoubtedWall),
            None => (now.wall_millis, Source::Wall),
        };
        self.anchor = now.elapsed;
        self.floor_millis = mark.time_millis;
        self.seen_millis = mark.time_millis;
        self.last_look = now;
    }

    /// The time at `elapsed`.
    ///
    /// # Errors
    /// [`ClockInDoubt`].
    pub fn now(&self, elapsed: Duration) -> Result<Timestamp, ClockInDoubt> {
        match self.source {
            Source::DoubtedWall => Err(ClockInDoubt),
            Source::Wall | Source::Authority => Ok(self.best(elapsed)),
        }
    }

    /// The time at `elapsed` as far as anybody can tell, also while it is in doubt. Not to decide about tokens by.
    #[must_use]
    pub fn best(&self, elapsed: Duration) -> Timestamp {
        Timestamp::from_seconds(self.millis(elapsed) / 1000)
    }

    /// The same in milliseconds since 1970.
    #[must_use]
    pub fn millis(&self, elapsed: Duration) -> u64 {
        self.counted(elapsed).max(self.floor_millis)
    }

    /// Where the clocks stood at `then`, for a later start; `now` is after it.
    #[must_use]
    pub fn mark(&self, then: Moment, now: Moment) -> ClockMark {
        let since = now.elapsed.saturating_sub(then.elapsed);
        ClockMark {
            moment: then,
            time_millis: self.millis(now.elapsed).saturating_sub(millis(since)),
            boot: self.boot.clone(),
            heard: self.is_heard(),
        }
    }

    /// Where the clocks stand as a trust file is taken in which the authority stated `authority_millis`, after `before`, so that
    /// nothing makes it younger: by what the authority has said in this start of the machine, or as far as the wall clock says, which
    /// went on from where it was when a file was taken before. One that reads clearly earlier than what the authority stated in the
    /// file, or than what was seen here, tells no age.
    #[must_use]
    pub fn taken(&self, authority_millis: u64, before: Option<&ClockMark>, now: Moment) -> ClockMark {
        let (seen, earliest) = before.map_or((0, 0), |mark| {
            (mark.time_millis, mark.earliest(self.boot.as_ref(), now.elapsed))
        });
        let latest = authority_millis.max(seen);
        let time_millis = self.millis(now.elapsed).max(earliest);
        let tolerated = time_millis.saturating_add(millis(MAX_CLOCK_DIFFERENCE));
        if self.now(now.elapsed).is_err() || tolerated < latest {
            return ClockMark {
                moment: Moment {
                    elapsed: Duration::ZERO,
                    wall_millis: latest,
                },
                time_millis: latest,
                boot: None,
                heard: false,
            };
        }
        let heard = self.is_heard();
        ClockMark {
            moment: Moment {
                elapsed: now.elapsed,
                wall_millis: if heard { now.wall_millis } else { time_millis },
            },
            time_millis: if heard { time_millis.max(latest) } else { latest },
            boot: self.boot.clone(),
            heard,
        }
    }

    /// Which start of the machine this is, if that is known.
    #[must_use]
    pub const fn boot(&self) -> Option<&BootId> {
        self.boot.as_ref()
    }

    /// Whether the authority has said what time it is. Until then it may turn out to be much earlier.
    #[must_use]
    pub const fn is_heard(&self) -> bool {
        matches!(self.source, Source::Authority)
    }

    /// How much the wall clock is ahead of the time, in milliseconds; negative when it is behind.
    #[must_use]
    pub fn wall_ahead_millis(&self, now: Moment) -> i64 {
        difference(now.wall_millis, self.counted(now.elapsed))
    }

    /// Looks at the wall clock. By how many milliseconds it was set since the last look, if it was.
    pub fn look(&mut self, now: Moment) -> Option<i64> {
        let last = std::mem::replace(&mut self.last_look, now);
        let passed = millis(now.elapsed.saturating_sub(last.elapsed));
        let step = difference(now.wall_millis, last.wall_millis.saturating_add(passed));
        if planted(Bug::TimeFollowsWall) {
            (self.time_millis, self.anchor, self.floor_millis) = (now.wall_millis, now.elapsed, 0);
        }
        (step.unsigned_abs() >= millis(STEP)).then_some(step)
    }

    /// Takes over what a heartbeat says about the time, which came just `now`.
    ///
    /// # Errors
    /// [`TooFar`].
    pub fn hear(&mut self, stated: TimeStated, now: Moment) -> Result<(), TooFar> {
        let way = now
            .elapsed
            .saturating_sub(stated.sent_at)
            .saturating_add(SHARED_FOR);
        let span = Span {
            earliest: stated.authority_millis,
            latest: stated.authority_millis.saturating_add(millis(way)),
        };
        let floor_millis = match self.source {
            Source::DoubtedWall | Source::Wall => self.floor_at_first(span, now)?,
            Source::Authority => self.floor_later(span, now)?,
        };
        self.time_millis = span.clamp(self.counted(now.elapsed));
        self.anchor = now.elapsed;
        self.floor_millis = floor_millis;
        self.source = Source::Authority;
        Ok(())
    }

    /// Once the authority was heard, it is believed if this time or the wall clock agrees.
    fn floor_later(&self, span: Span, now: Moment) -> Result<u64, TooFar> {
        if span.is_near(self.counted(now.elapsed)) || span.is_near(now.wall_millis) {
            Ok(self.millis(now.elapsed))
        } else {
            Err(TooFar)
        }
    }

    /// At first it is believed over the wall clock, unless it goes back behind what it said itself before the start. If the
    /// wall clock agrees with that, what was seen before was wrong.
    fn floor_at_first(&self, span: Span, now: Moment) -> Result<u64, TooFar> {
        if span.latest < self.seen_millis && !span.is_near(self.seen_millis) {
            return if span.is_near(now.wall_millis) {
                Ok(0)
            } else {
                Err(TooFar)
            };
        }
        let was_said = self.source == Source::Wall && span.is_near(self.counted(now.elapsed));
        Ok(if was_said {
            self.millis(now.elapsed)
        } else {
            self.seen_millis
        })
    }

    /// The time counted on from the anchor.
    fn counted(&self, elapsed: Duration) -> u64 {
        self.time_millis
            .saturating_add(millis(elapsed.saturating_sub(self.anchor)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn difference(one: u64, other: u64) -> i64 {
    i64::try_from(i128::from(one) - i128::from(other)).unwrap_or(i64::MAX)
}
