//! When to end a connection, as a function of what has happened on it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::writing::writes_through;
use crate::server::Limits;

/// How long the HTTP/2 preface may take, or as much of a request of HTTP/1.1 (G25).
const PREFACE_TIME: Duration = Duration::from_secs(10);

/// The preface's length (RFC 9113, section 3.4). No request of HTTP/1.1 is as short.
pub(super) const PREFACE_LENGTH: usize = 24;

/// How long the first call may take to come. Callers that connect ahead of their first call connect again.
const FIRST_CALL_TIME: Duration = Duration::from_secs(20);

/// How long a connection on which nothing can be under way may take to say goodbye.
const GOODBYE_TIME: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer closed it.
    Closed,
    /// It broke, or the peer did not speak what is served.
    Error,
    /// No preface came.
    NoPreface,
    /// No call came.
    NoCall,
    /// No call was open for too long.
    Idle,
    /// It was open for as long as it may be, or the certificate that it was opened with has ended.
    Aged,
    /// The process is about to stop.
    Drained,
    /// It was wound up, and its calls did not end in time.
    Cut,
}

impl End {
    /// The name in metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Error => "error",
            Self::NoPreface => "no_preface",
            Self::NoCall => "no_call",
            Self::Idle => "idle",
            Self::Aged => "aged",
            Self::Drained => "drained",
            Self::Cut => "cut",
        }
    }
}

/// What has happened on a connection. Times count from its start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) now: Duration,
    pub(super) preface: bool,
    pub(super) any_call: bool,
    pub(super) active: usize,
    pub(super) quiet_since: Duration,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Look again then, counted from the start.
    Wait(Duration),
    /// No new calls.
    WindUp,
    /// Close at once.
    Cut(End),
}

/// Decides.
#[derive(Debug)]
pub(super) struct Vigil {
    limits: Limits,
    wind_up_at: Duration,
    /// Why, and since when.
    winding_up: Option<(End, Duration)>,
}

impl Vigil {
    /// Over a connection whose certificate is valid for so long yet.
    pub(super) fn new(limits: Limits, valid_for: Option<Duration>) -> Self {
        Self {
            limits,
            wind_up_at: valid_for.map_or(limits.age, |valid| valid.min(limits.age)),
            winding_up: None,
        }
    }

    pub(super) const fn is_winding_up(&self) -> bool {
        self.winding_up.is_some()
    }

    /// Takes note that the connection is wound up because the process is about to stop.
    pub(super) const fn drain(&mut self, seen: &Seen) {
        self.begin(End::Drained, seen);
    }

    /// Why a connection ended that ended by itself.
    pub(super) fn end(&self, well: bool) -> End {
        match self.winding_up {
            Some((why, _)) => why,
            None if well => End::Closed,
            None => End::Error,
        }
    }

    pub(super) fn step(&mut self, seen: &Seen) -> Step {
        if let Some((_, since)) = self.winding_up {
            let time = if self.may_have_more(seen, since) {
                self.limits.drain
            } else {
                GOODBYE_TIME.min(self.limits.drain)
            };
            let until = since.saturating_add(time);
            return if seen.now >= until {
                Step::Cut(End::Cut)
            } else {
                Step::Wait(until)
            };
        }
        if !seen.preface {
            return if seen.now >= PREFACE_TIME {
                Step::Cut(End::NoPreface)
            } else {
                Step::Wait(self.or_sooner(seen.now, PREFACE_TIME))
            };
        }
        if !seen.any_call && seen.now < self.wind_up_at.min(FIRST_CALL_TIME) {
            return Step::Wait(self.or_sooner(seen.now, FIRST_CALL_TIME));
        }
        if !seen.any_call {
            self.begin(End::NoCall, seen);
            return Step::WindUp;
        }
        let idle_at = if seen.active == 0 {
            seen.quiet_since.saturating_add(self.limits.idle)
        } else {
            // Not before then can it have been quiet for long enough.
            seen.now.saturating_add(self.limits.idle)
        };
        let (at, why) = if idle_at < self.wind_up_at {
            (idle_at, End::Idle)
        } else {
            (self.wind_up_at, End::Aged)
        };
        self.due(seen, at, why)
    }

    /// Whether the peer may have more to take on a connection that was wound up at `since`. A call may have come in while
    /// he did not know yet, and one that is over here may not have reached him in full: a slow reader has as long for that
    /// as for a call that goes on.
    fn may_have_more(&self, seen: &Seen, since: Duration) -> bool {
        let quiet_for = since.saturating_sub(seen.quiet_since);
        seen.active > 0 || seen.any_call && quiet_for < self.limits.drain
    }

    /// `at`, or when the connection ages or may have been quiet for too long: nobody tells when a preface or a call comes.
    fn or_sooner(&self, now: Duration, at: Duration) -> Duration {
        let soonest = at.min(now.saturating_add(self.limits.idle));
        if now < self.wind_up_at {
            soonest.min(self.wind_up_at)
        } else {
            soonest
        }
    }

    fn due(&mut self, seen: &Seen, at: Duration, why: End) -> Step {
        if seen.now < at {
            return Step::Wait(at);
        }
        self.begin(why, seen);
        Step::WindUp
    }

    const fn begin(&mut self, why: End, seen: &Seen) {
        self.winding_up = Some((why, seen.now));
    }
}

/// Takes note of what happens on a connection.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    preface: AtomicBool,
    any_call: AtomicBool,
    active: AtomicUsize,
    quiet_since_ms: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            preface: AtomicBool::new(false),
            any_call: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            quiet_since_ms: AtomicU64::new(0),
        }
    }

    /// The moment `since` the start.
    pub(super) fn at(&self, since: Duration) -> Instant {
        self.start + since
    }

    pub(super) fn seen(&self) -> Seen {
        Seen {
            now: self.start.elapsed(),
            preface: self.preface.load(Ordering::Relaxed),
            any_call: self.any_call.load(Ordering::Relaxed),
            active: self.active.load(Ordering::Relaxed),
            quiet_since: Duration::from_millis(self.quiet_since_ms.load(Ordering::Relaxed)),
        }
    }

    /// A call has begun. It is active until the value is dropped.
    pub(super) fn call(self: &Arc<Self>) -> Busy {
        self.any_call.store(true, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }
}

/// An active call.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.quiet_since_ms.store(now, Ordering::Relaxed);
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that takes note of the preface having come. The bytes themselves are the HTTP/2 layer's to judge.
#[derive(Debug)]
pub(super) struct Watched<T> {
    stream: T,
    left_of_preface: usize,
    activity: Arc<Activity>,
}

impl<T> Watched<T> {
    pub(super) const fn new(stream: T, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            left_of_preface: PREFACE_LENGTH,
            activity,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.left_of_preface > 0 {
            let read = buffer.filled().len().saturating_sub(before);
            self.left_of_preface = self.left_of_preface.saturating_sub(read);
            if self.left_of_preface == 0 {
                self.activity.preface.store(true, Ordering::Relaxed);
            }
        }
        outcome
    }
}

writes_through!(Watched);

#[cfg(test)]
mod tests;
