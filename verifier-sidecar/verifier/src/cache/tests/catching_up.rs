//! A crash between the records and the floor, which is written after them: the floor is behind what is put in force at the next
//! start.

use super::super::floor;
use super::*;

/// I-07: without it, what is in force now could be taken away together with the records, and something older be put in force.
#[tokio::test]
async fn a_start_raises_a_floor_that_a_crash_left_behind() {
    let mut desk = Desk::filled().await;
    let file = desk.path().join(floor::FILE);
    let behind = fs::read(&file).unwrap();
    let opened = desk.open().await;
    assert!(desk.save_revocation(&opened.cache, "fourth").await.durable);
    assert!(opened.cache.close().await);
    let reached = fs::read(&file).unwrap();
    assert_ne!(behind, reached);
    fs::write(&file, &behind).unwrap();

    let opened = desk.open().await;
    assert_eq!(trust(&opened).0.epoch(), desk.reached().epoch);
    assert!(opened.cache.close().await);
    assert_eq!(fs::read(&file).unwrap(), reached);

    fs::remove_dir_all(desk.database()).unwrap();
    let opened = desk.open().await;
    assert!(matches!(opened.found, Found::Unusable(_)), "{:?}", opened.found);
    assert_eq!(opened.floor, Some(desk.reached()));
}
