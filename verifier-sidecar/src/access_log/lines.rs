//! The lines that wait to be written: in memory, up to a limit, so that no call waits for a disk.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that wait at most: some three thousand lines.
const MOST: usize = 1024 * 1024;

/// Of these, what ordinary lines may fill. The rest is kept for what must be told.
const MOST_ORDINARY: usize = MOST / 2;

/// With so much waiting it is written at once.
const MUCH: usize = MOST / 16;

/// How long lines may wait for more, so that many calls make one write.
const GATHERING: Duration = Duration::from_millis(100);

/// How much depends on a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// One of many like it.
    Ordinary,
    /// A refusal, or a failure.
    MustBeTold,
}

/// Lines, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The lines, each with its end.
    pub(super) text: Vec<u8>,
    /// How many.
    pub(super) lines: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    batch: Batch,
    ended: bool,
}

/// Lines between the calls that they tell of and the thread that writes them.
#[derive(Debug, Default)]
pub(super) struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Lines {
    /// Adds `line`, which has its end. False where there is no room for it, or nobody left to write it.
    pub(super) fn add(&self, line: &[u8], weight: Weight) -> bool {
        let room = match weight {
            Weight::Ordinary => MOST_ORDINARY,
            Weight::MustBeTold => MOST,
        };
        let mut waiting = self.lock();
        let before = waiting.batch.text.len();
        let after = before.saturating_add(line.len());
        if waiting.ended || after > room {
            return false;
        }
        waiting.batch.text.extend_from_slice(line);
        waiting.batch.lines += 1;
        drop(waiting);
        if before == 0 || (before < MUCH && after >= MUCH) {
            self.changed.notify_one();
        }
        true
    }

    /// Nothing comes after what is there.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_one();
    }

    /// Waits for lines and takes them all; nothing once they have ended.
    pub(super) fn take(&self) -> Option<Batch> {
        let idle = |waiting: &mut Waiting| waiting.batch.text.is_empty() && !waiting.ended;
        let waiting = self.lock();
        let waiting = self
            .changed
            .wait_while(waiting, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let few = |waiting: &mut Waiting| waiting.batch.text.len() < MUCH && !waiting.ended;
        let (mut waiting, _) = self
            .changed
            .wait_timeout_while(waiting, GATHERING, few)
            .unwrap_or_else(PoisonError::into_inner);
        let batch = std::mem::take(&mut waiting.batch);
        (!batch.text.is_empty()).then_some(batch)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Lines are added whole; nothing behind the lock can be half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: [u8; 1024] = [b'x'; 1024];

    fn added(lines: &Lines, weight: Weight) -> usize {
        (0..MOST).take_while(|_| lines.add(&LINE, weight)).count()
    }

    #[test]
    fn a_flood_of_ordinary_lines_leaves_room_for_refusals() {
        let lines = Lines::default();
        assert_eq!(added(&lines, Weight::Ordinary), MOST_ORDINARY / LINE.len());
        assert_eq!(added(&lines, Weight::MustBeTold), MOST_ORDINARY / LINE.len());
        assert!(!lines.add(&LINE, Weight::MustBeTold), "memory is bounded");
        let batch = lines.take().expect("lines");
        assert_eq!((batch.text.len(), batch.lines), (MOST, 1024));
        assert!(lines.add(&LINE, Weight::Ordinary), "there is room again");
    }

    #[test]
    fn what_was_added_is_taken_in_order_before_the_end() {
        let lines = Lines::default();
        assert!(lines.add(b"one\n", Weight::Ordinary));
        assert!(lines.add(b"two\n", Weight::MustBeTold));
        lines.end();
        assert!(!lines.add(b"three\n", Weight::MustBeTold), "nobody writes it");
        let batch = lines.take().expect("lines");
        assert_eq!((batch.text.as_slice(), batch.lines), (&b"one\ntwo\n"[..], 2));
        assert!(lines.take().is_none());
    }

    #[test]
    fn whoever_waits_for_lines_is_woken() {
        let lines = Lines::default();
        std::thread::scope(|threads| {
            let taken = threads.spawn(|| lines.take());
            assert!(lines.add(b"one\n", Weight::Ordinary));
            assert_eq!(taken.join().expect("takes").expect("lines").lines, 1);
            let ended = threads.spawn(|| lines.take());
            lines.end();
            assert!(ended.join().expect("takes").is_none());
        });
    }
}
