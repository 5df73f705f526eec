//! D01, D02, D03, D08, D12: a disk that lies. Whatever is done to the files, the outcome is the state that was saved or a
//! cold start that works again; never fewer revocations, never a panic that gets out, never a hang.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::time::Instant;

use rustix::fs::Mode;

use super::*;

/// Copies a directory.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file that holds something, in order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Splitmix64: the same damage for the same seed, in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// The database's log, which is nearly everything, or as often any of the files.
    fn pick(&mut self, directory: &Path) -> PathBuf {
        let paths = files(directory);
        if self.below(2) == 0 {
            return directory.join("cache").join("db");
        }
        let index = self.below(u64::try_from(paths.len()).unwrap());
        paths[usize::try_from(index).unwrap()].clone()
    }
}

fn change_at(path: &Path, offset: u64, change: impl FnOnce(&mut [u8]), length: usize) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; length];
    file.seek(SeekFrom::Start(offset)).unwrap();
    let read = file.read(&mut bytes).unwrap();
    change(&mut bytes[..read]);
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(&bytes[..read]).unwrap();
}

fn flip_one_bit(directory: &Path, dice: &mut Dice) {
    let path = dice.pick(directory);
    let offset = dice.below(fs::metadata(&path).unwrap().len());
    let bit = dice.below(8);
    change_at(&path, offset, |bytes| bytes[0] ^= 1 << bit, 1);
}

fn zero_one_page(directory: &Path, dice: &mut Dice) {
    let path = dice.pick(directory);
    let pages = fs::metadata(&path).unwrap().len().div_ceil(4096);
    change_at(&path, 4096 * dice.below(pages), |bytes| bytes.fill(0), 4096);
}

fn cut_one_file(directory: &Path, dice: &mut Dice) {
    let path = dice.pick(directory);
    let length = dice.below(fs::metadata(&path).unwrap().len());
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(length)
        .unwrap();
}

/// A cache with some history: several starts, and a heartbeat written many times.
async fn lived_in() -> Desk {
    let mut desk = Desk::filled_with(300).await;
    for _ in 0..3 {
        let opened = desk.open().await;
        for _ in 0..10 {
            assert!(desk.save_heartbeat(&opened.cache).await.durable);
        }
        assert!(opened.cache.close().await);
    }
    desk
}

/// Counts of what came out: intact, cold.
type Outcomes = (u32, u32);

/// Does `harm` to a copy of a filled cache, once for each seed, and opens it.
async fn trial(seeds: Range<u64>, harm: impl Fn(&Path, &mut Dice)) -> Outcomes {
    let desk = lived_in().await;
    let mut outcomes = (0, 0);
    for seed in seeds {
        let place = tempfile::tempdir().unwrap();
        copy(&desk.path(), place.path());
        harm(place.path(), &mut Dice(seed));
        if is_intact(&desk, place.path(), seed).await {
            outcomes.0 += 1;
        } else {
            outcomes.1 += 1;
        }
    }
    outcomes
}

/// Opens a damaged copy, and checks what came out. True when it is the state that was saved, false for a cold start.
async fn is_intact(desk: &Desk, path: &Path, seed: u64) -> bool {
    let opened = desk.try_open_at(path).await.unwrap();
    let intact = match &opened.found {
        Found::Trust { state, ages } => {
            assert_eq!(state.digest(), desk.authority.state.digest(), "seed {seed}");
            assert_eq!(state.revocations().len(), 302, "seed {seed}");
            assert!(
                ages.iter().all(|age| *age == Duration::ZERO.into()),
                "seed {seed}"
            );
            true
        }
        Found::Unusable(_) => false,
        Found::Nothing => panic!("seed {seed}: damage was taken for an empty cache"),
    };
    // The floor was not poisoned, and the next start is not a cold one again.
    let store = store(&desk.clock);
    opened.restore(&store).unwrap();
    let update = desk.authority.publishers().update(&desk.authority.snapshot());
    assert!(store.consider(&update.unwrap(), &AwsLc).is_ok(), "seed {seed}");
    assert!(desk.save_snapshot(&opened.cache).await.durable, "seed {seed}");
    assert!(opened.cache.close().await, "seed {seed}");
    if seed.is_multiple_of(10) {
        let again = desk.try_open_at(path).await.unwrap();
        assert_eq!(trust_epoch(&again), 4, "seed {seed}");
    }
    intact
}

/// D01, in one of every kind of file; 300 seeds.
#[tokio::test]
async fn one_flipped_bit_gives_the_state_or_a_cold_start() {
    let (intact, cold) = trial(0..300, flip_one_bit).await;
    assert!(intact > 0 && cold > 0, "{intact} intact, {cold} cold");
}

/// D02.
#[tokio::test]
async fn one_zeroed_page_gives_the_state_or_a_cold_start() {
    let (_, cold) = trial(1000..1040, zero_one_page).await;
    assert!(cold > 0);
}

/// D03.
#[tokio::test]
async fn a_file_cut_anywhere_gives_the_state_or_a_cold_start() {
    let (_, cold) = trial(2000..2040, cut_one_file).await;
    assert!(cold > 0);
}

/// D08: sled's own snapshot half-written, and one that it was about to write.
#[tokio::test]
async fn a_half_written_snapshot_of_the_database_gives_the_state_or_a_cold_start() {
    trial(3000..3010, |directory, dice| {
        let database = directory.join("cache");
        fs::write(database.join("snap.00000000000000FF.generating"), [7; 100]).unwrap();
        for path in files(&database) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("snap.") && !name.ends_with("generating") {
                let length = dice.below(fs::metadata(&path).unwrap().len());
                let half = fs::OpenOptions::new().write(true).open(&path).unwrap();
                half.set_len(length).unwrap();
                fs::copy(&path, database.join("snap.0000000000000FFF")).unwrap();
            }
        }
    })
    .await;
}

/// C09, D03: a pipe in place of a file is damage like any other, and nothing waits for its other end.
#[test]
fn a_pipe_in_place_of_a_file_is_not_waited_for() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let trial = runtime.block_on(async { tokio::time::timeout(60 * SECOND, pipes_everywhere()).await });
    // A thread that waits for a pipe would be waited for.
    runtime.shutdown_background();
    trial.unwrap();
}

async fn pipes_everywhere() {
    for name in [
        "floor",
        "floor.new",
        "opening",
        "cache",
        "carried",
        "carried.new",
        "lock",
    ] {
        let desk = Desk::filled().await;
        put_pipe(&desk.path().join(name));
        let opened = desk.open().await;
        let durable = desk.save_snapshot(&opened.cache).await.durable;
        match (name, &opened.found) {
            ("floor", Found::Unusable(Unusable::FloorMissing))
            | ("cache" | "carried", Found::Unusable(Unusable::Unreadable))
            | ("floor.new" | "carried.new" | "opening", Found::Trust { .. }) => {}
            ("lock", Found::Nothing) => {
                assert_eq!(opened.cache.problem(), Some(NotDurable::Unwritable));
                assert_eq!(opened.floor, Some(desk.reached()));
                continue;
            }
            (_, found) => panic!("{name}: {found:?}"),
        }
        // The pipe is gone.
        assert!(durable, "{name}");
        assert!(opened.cache.close().await, "{name}");
        assert_eq!(trust_epoch(&desk.open().await), 4, "{name}");
    }
}

/// Puts a pipe in place of whatever is at `path`.
fn put_pipe(path: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else if path.exists() {
        fs::remove_file(path).unwrap();
    }
    rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

/// A start that dies while opening, twice: the third does not try again.
#[tokio::test]
async fn a_database_that_kills_the_process_is_set_aside() {
    let desk = Desk::filled().await;
    let marker = desk.path().join("opening");
    fs::write(&marker, ".").unwrap();
    let opened = desk.open().await;
    assert_eq!(trust_epoch(&opened), 4);
    assert!(opened.cache.close().await);
    assert!(!marker.exists());
    fs::write(&marker, "..").unwrap();
    assert_eq!(desk.unusable().await, Unusable::Deadly);
    assert!(desk.path().join("cache.damaged").exists());
    let opened = desk.open().await;
    assert!(matches!(opened.found, Found::Unusable(Unusable::Lost)));
}

/// D12: 50,000 revocations here, where everything is unoptimised.
#[tokio::test]
async fn a_large_cache_opens_and_verifies_in_time() {
    let mut desk = Desk::new();
    let opened = desk.open().await;
    desk.authority.revoke_many("r", 50_000);
    assert!(desk.save_snapshot(&opened.cache).await.durable);
    desk.save_heartbeat(&opened.cache).await;
    assert!(opened.cache.close().await);
    #[expect(clippy::disallowed_methods, reason = "this measures the machine")]
    let began = Instant::now();
    let opened = desk.open().await;
    let took = began.elapsed();
    assert_eq!(trust(&opened).0.revocations().len(), 50_000);
    assert!(took < 10 * SECOND, "{took:?}");
}
