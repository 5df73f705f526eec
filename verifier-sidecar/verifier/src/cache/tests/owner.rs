//! Whose directory it is, and who else may look into it or change it.

use super::*;

/// D07: the second process is told, and harms nothing.
#[tokio::test]
async fn a_second_process_on_the_directory_is_refused() {
    let mut desk = Desk::filled().await;
    let first = desk.open().await;
    assert_eq!(
        desk.try_open_at(&desk.path()).await.err(),
        Some(CacheError::InUse)
    );
    assert!(desk.save_revocation(&first.cache, "fourth").await.durable);
    assert!(first.cache.close().await);
    assert_eq!(trust_epoch(&desk.open().await), 5);
}

/// Threat 36: what others can exchange is not used, and a start says so. Volumes that Kubernetes shares with a pod's group
/// are.
#[tokio::test]
async fn a_directory_that_others_can_change_is_refused() {
    for (mode, allowed) in [
        (0o700, true),
        (0o755, true),
        (0o2770, true),
        (0o2775, true),
        (0o770, false),
        (0o775, false),
        (0o702, false),
        (0o777, false),
        (0o1777, false),
        (0o2777, false),
    ] {
        let desk = Desk::filled().await;
        fs::set_permissions(desk.path(), fs::Permissions::from_mode(mode)).unwrap();
        let refused = desk.try_open_at(&desk.path()).await.err();
        let exposed = CacheError::Exposed(Exposed::WritableByOthers { mode });
        assert_eq!(refused, (!allowed).then_some(exposed), "{mode:o}");
    }
}

/// Threat 36: what root lets happen to its directories is root's decision; anybody else's are not ours.
#[test]
fn the_directory_of_another_user_is_refused() {
    assert_eq!(directory::access(1000, 0o700, 1000), Ok(()));
    assert_eq!(directory::access(0, 0o2775, 1000), Ok(()));
    for user in [0, 1001] {
        let refused = directory::access(1000, 0o700, user);
        assert_eq!(refused, Err(Exposed::ForeignOwner { owner: 1000 }));
    }
}

#[tokio::test]
async fn nobody_else_may_look_into_the_directory() {
    let desk = Desk::filled().await;
    let opened = desk.open().await;
    assert!(opened.cache.let_go(&carried()).await);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(desk.path()), 0o700);
    assert_eq!(mode(desk.database()), 0o700);
    assert_eq!(mode(desk.path().join("floor")), 0o600);
    assert_eq!(mode(desk.path().join("carried")), 0o600);
}
