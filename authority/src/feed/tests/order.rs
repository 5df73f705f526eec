//! What is queued for a stream is in the order in which it became true.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::test_util::ManualClock;

/// I-08: the answer to a ping and the update to the next epoch come in the order in which they became true. One that was overtaken
/// would say of an earlier epoch that it is current, with a lease that nobody who published the later one knows of.
#[tokio::test]
async fn no_answer_is_overtaken_by_the_update_that_ends_what_it_says() {
    const EPOCHS: u64 = 400;
    let mut authority = Authority::new();
    let mut stream = authority.join(1).await.subscription;
    let handle = stream.handle();
    let publisher = std::thread::spawn(move || (0..EPOCHS).for_each(|_| authority.advance()));
    let (mut latest, mut sequence) = (1, 0);
    while latest <= EPOCHS {
        sequence += 1;
        handle.answer(sequence, false, || None);
        for seen in waiting(&mut stream) {
            match seen {
                Seen::Snapshot(epoch) | Seen::Delta(epoch) => {
                    latest = epoch;
                    let digest = [0; 32];
                    let _unknown = handle.acknowledge(epoch, &digest);
                }
                Seen::Pong(_, epoch, _) => assert_eq!(epoch, latest, "an answer was overtaken"),
                Seen::Link => {}
            }
        }
    }
    publisher.join().expect("publishes");
}

/// A clock that notes that it was asked for the time of a heartbeat.
#[derive(Debug)]
struct Asked {
    clock: Arc<ManualClock>,
    asked: AtomicBool,
}

impl Clock for Asked {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn now_millis(&self) -> u64 {
        self.asked.store(true, Ordering::SeqCst);
        self.clock.now_millis()
    }

    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }
}

/// I-08: the same, for whoever may publish at any moment: from when an answer is begun until it is queued, nobody gets at the
/// state. Somebody tries without a pause, until he was seen to do so in the middle of many answers.
#[tokio::test]
async fn nobody_gets_in_between_an_answer_and_its_place_in_the_queue() {
    const MET: u64 = 2000;
    // Where only one of the two runs at a time, they hardly ever meet.
    const MOST_ANSWERS: u64 = 200_000;
    let bench = Bench::new();
    let clock = Arc::new(Asked {
        clock: Arc::clone(&bench.clock),
        asked: AtomicBool::new(false),
    });
    let authority = Authority::with(bench, Arc::<Asked>::clone(&clock));
    let mut stream = authority.join(1).await.subscription;
    let handle = stream.handle();
    let (tries, between, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let answering = || clock.asked.load(Ordering::SeqCst);
    let is_queued = |state: &State| {
        let later = clock.elapsed() + Duration::from_secs(1);
        let mut queues = state.queues.values();
        queues.any(|queue| queue.waits_since(later) > Duration::ZERO)
    };
    let try_on = || {
        while !over.load(Ordering::SeqCst) {
            // The queue is emptied only after the note is withdrawn.
            if let Ok(state) = authority.feed.0.state.try_lock()
                && answering()
                && !is_queued(&state)
                && answering()
            {
                between.fetch_add(1, Ordering::SeqCst);
            }
            tries.fetch_add(1, Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(try_on);
        let mut met = 0;
        for sequence in 1..=MOST_ANSWERS {
            let before = tries.load(Ordering::SeqCst);
            handle.answer(sequence, false, || None);
            met += u64::from(tries.load(Ordering::SeqCst) != before);
            clock.asked.store(false, Ordering::SeqCst);
            assert_eq!(waiting(&mut stream).len(), 1);
            if met == MET || between.load(Ordering::SeqCst) > 0 {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    assert_eq!(between.load(Ordering::SeqCst), 0);
}
