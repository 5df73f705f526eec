//! The thread that writes lines, and what is told when it cannot.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_core::ports::Clock;
use countersign_runtime::ErrorChain;
use tokio::sync::oneshot;

use super::file::Place;
use super::lines::{Batch, Lines};
use crate::metrics::AccessLogMetrics;

/// Lost lines are told of at most this often.
const TELLING: Duration = Duration::from_secs(60);

/// Counts lines, and tells when some are lost.
#[derive(Debug)]
pub(super) struct Tally {
    metrics: AccessLogMetrics,
    clock: Arc<dyn Clock>,
    told_at: Mutex<Option<Duration>>,
}

impl Tally {
    pub(super) fn new(metrics: AccessLogMetrics, clock: Arc<dyn Clock>) -> Self {
        Self {
            metrics,
            clock,
            told_at: Mutex::new(None),
        }
    }

    /// There was no room for a line.
    pub(super) fn no_room(&self) {
        self.metrics.no_room.inc();
        self.tell(None);
    }

    fn failed(&self, lines: u64, error: &io::Error) {
        self.metrics.failed.inc_by(lines);
        self.tell(Some(error));
    }

    fn tell(&self, error: Option<&io::Error>) {
        if !self.is_due() {
            return;
        }
        tracing::warn!(
            error = error.map(|error| tracing::field::display(ErrorChain(error))),
            no_room = self.metrics.no_room.get(),
            failed = self.metrics.failed.get(),
            written = self.metrics.written.get(),
            "lines of the access log are lost"
        );
    }

    fn is_due(&self) -> bool {
        let now = self.clock.elapsed();
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told_at.is_none_or(|told_at| now.saturating_sub(told_at) >= TELLING);
        if is_due {
            *told_at = Some(now);
        }
        is_due
    }
}

/// Writes lines to a place.
#[derive(Debug)]
pub(super) struct Writer {
    place: Place,
    tally: Arc<Tally>,
    /// What was written last was cut off within a line.
    torn: bool,
}

impl Writer {
    pub(super) const fn new(place: Place, tally: Arc<Tally>) -> Self {
        Self {
            place,
            tally,
            torn: false,
        }
    }

    /// Writes in a thread of its own what comes through `lines`, until they end. The answer comes then.
    pub(super) fn start(mut self, lines: Arc<Lines>) -> io::Result<oneshot::Receiver<()>> {
        let (done, ended) = oneshot::channel();
        let write = move || {
            while let Some(batch) = lines.take() {
                self.write(&batch);
            }
            // Whoever waited may have gone.
            let _gone = done.send(());
        };
        let thread = std::thread::Builder::new().name("countersign-access-log".to_owned());
        thread.spawn(write)?;
        Ok(ended)
    }

    fn write(&mut self, batch: &Batch) {
        let mended: Vec<u8>;
        let text = if self.torn {
            mended = [b"\n", batch.text.as_slice()].concat();
            mended.as_slice()
        } else {
            batch.text.as_slice()
        };
        let Err((count, error)) = self.place.write(text) else {
            self.torn = false;
            self.tally.metrics.written.inc_by(batch.lines);
            return;
        };
        let (there, _lost) = text.split_at_checked(count).unwrap_or_default();
        let ends = there.iter().filter(|byte| **byte == b'\n').count();
        let ends = ends.saturating_sub(usize::from(self.torn));
        let written = u64::try_from(ends).unwrap_or(batch.lines);
        self.torn = there.last().map_or(self.torn, |last| *last != b'\n');
        self.tally.metrics.written.inc_by(written);
        self.tally.failed(batch.lines.saturating_sub(written), &error);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use countersign_verifier::test_util::SetClock;
    use prometheus_client::registry::Registry;

    use super::*;

    fn tally(clock: &Arc<SetClock>) -> Arc<Tally> {
        let metrics = AccessLogMetrics::register(&mut Registry::default());
        Arc::new(Tally::new(metrics, Arc::<SetClock>::clone(clock)))
    }

    fn batch(text: &str) -> Batch {
        let lines = text.matches('\n').count();
        Batch {
            text: text.as_bytes().to_vec(),
            lines: lines.try_into().expect("a number"),
        }
    }

    fn counts(tally: &Tally) -> [u64; 3] {
        let metrics = &tally.metrics;
        [&metrics.written, &metrics.no_room, &metrics.failed].map(|counter| counter.get())
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted() {
        let clock = SetClock::new();
        let tally = tally(&clock);
        let full = File::options().write(true).open("/dev/full");
        let mut writer = Writer::new(Place::of(full.expect("Linux has it")), Arc::clone(&tally));
        writer.write(&batch("one\ntwo\n"));
        assert_eq!(counts(&tally), [0, 0, 2]);
    }

    /// The other end of a pipe takes what it has room for, and no more.
    #[test]
    fn a_line_that_was_torn_does_not_spoil_the_next() {
        let clock = SetClock::new();
        let tally = tally(&clock);
        let (reader, writer) = io::pipe().expect("a pipe");
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).expect("is set");
        let mut writer = Writer::new(Place::of(OwnedFd::from(writer).into()), Arc::clone(&tally));
        let line = format!("{}\n", "x".repeat(999));
        writer.write(&batch(&line.repeat(100)));
        let [written, _, failed] = counts(&tally);
        assert!(written > 0 && failed > 0, "{written} {failed}");
        assert_eq!(written + failed, 100);

        let mut reader = File::from(OwnedFd::from(reader));
        let mut text = vec![0; 200_000];
        let first = reader.read(&mut text).expect("reads");
        writer.write(&batch("after\n"));
        let second = reader.read(&mut text[first..]).expect("reads");
        let text = String::from_utf8_lossy(&text[..first + second]).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.last(), Some(&"after"));
        let whole = lines.iter().filter(|line| line.len() == 999).count();
        assert_eq!(u64::try_from(whole).expect("a number"), written);
        assert_eq!(counts(&tally), [written + 1, 0, failed]);
    }

    #[test]
    fn losses_are_told_of_once_a_minute() {
        let clock = SetClock::new();
        let tally = tally(&clock);
        let due = |seconds| {
            clock.advance(Duration::from_secs(seconds));
            (0..100).filter(|_| tally.is_due()).count()
        };
        assert_eq!([due(0), due(59), due(1), due(30), due(600)], [1, 0, 1, 0, 1]);
    }

    #[tokio::test]
    async fn lines_that_wait_are_written_before_the_end() {
        let clock = SetClock::new();
        let tally = tally(&clock);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        let lines = Arc::new(Lines::default());
        let place = Place::file(&path).expect("opens");
        let ended = Writer::new(place, Arc::clone(&tally)).start(Arc::clone(&lines));
        for number in 0..1000 {
            let line = format!("{number}\n");
            assert!(lines.add(line.as_bytes(), super::super::lines::Weight::Ordinary));
        }
        lines.end();
        ended.expect("a thread").await.expect("it ends");
        let text = std::fs::read_to_string(&path).expect("a file");
        assert_eq!(text.lines().count(), 1000);
        assert_eq!(counts(&tally), [1000, 0, 0]);
    }
}
