use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::pki::{Authority, NOW};
use super::rig::{Folder, Server, SetClock, Stranger, echo, eventually, server, write};
use crate::{ClientCertificates, ClientTls, ExpectedServer, ServerTls, TlsError, TlsFiles};

/// S16: after the roots changed, a new handshake is judged by the new ones; connections that exist live on.
#[tokio::test]
async fn new_roots_count_for_new_handshakes_while_old_connections_live() {
    let mut server = server().await;
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    write(&server.folder.files.trust_roots, &old.pem);
    let stop = CancellationToken::new();
    let watching = tokio::spawn(server.tls.watch(Duration::from_millis(10), stop.clone()));
    eventually("first change seen", || server.tls.health().reloads == 1).await;

    let (from_old, from_new) = (old.workload("orders"), new.workload("orders"));
    let (of_old, of_new) = (
        Stranger::new(&server.root, Some(&from_old)),
        Stranger::new(&server.root, Some(&from_new)),
    );
    let mut theirs = of_old.connect(server.address).await.expect("connected");
    let (mut ours, _) = server.listener.accept().await.expect("accepted");
    assert!(of_new.is_refused(server.address).await);

    write(&server.folder.files.trust_roots, &new.pem);
    eventually("second change seen", || server.tls.health().reloads == 2).await;
    assert!(of_old.is_refused(server.address).await);
    echo(&mut theirs, &mut ours)
        .await
        .expect("the old connection lives");
    let mut theirs = of_new.connect(server.address).await.expect("connected");
    let (mut ours, _) = server.listener.accept().await.expect("accepted");
    echo(&mut theirs, &mut ours).await.expect("alive");

    stop.cancel();
    watching.await.expect("the watch ends");
}

fn half(text: &str) -> &str {
    text.split_at(text.len() / 2).0
}

/// States of the files that cannot be used: which file, and what is in it.
fn unusable(server: &Server) -> Vec<(&'static str, PathBuf, String)> {
    let TlsFiles {
        certificate,
        private_key,
        trust_roots,
    } = &server.folder.files;
    let [chain, key, roots] =
        [certificate, private_key, trust_roots].map(|path| std::fs::read_to_string(path).expect("good"));
    let other = server.root.workload("other").key_pem;
    let [two_keys, encrypted] = [
        key.clone() + &other,
        key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
    ];
    vec![
        ("key of another certificate", private_key.clone(), other),
        ("half-written key", private_key.clone(), half(&key).to_owned()),
        ("two keys", private_key.clone(), two_keys),
        ("encrypted key", private_key.clone(), encrypted),
        (
            "half-written certificate",
            certificate.clone(),
            half(&chain).to_owned(),
        ),
        ("byte order mark", certificate.clone(), format!("\u{feff}{chain}")),
        ("key among certificates", certificate.clone(), chain + &key),
        (
            "certificate of an authority",
            certificate.clone(),
            server.root.pem.clone(),
        ),
        ("empty", trust_roots.clone(), String::new()),
        (
            "root that is damaged",
            trust_roots.clone(),
            roots.replace('M', "N"),
        ),
    ]
}

/// S23, C13: files that cannot be used are counted and complained about once, and the last good ones stay in force.
#[tokio::test]
async fn a_bad_reload_keeps_the_last_good_files() {
    let server = server().await;
    let tls = &server.tls;
    for (count, (what, path, content)) in (1..).zip(unusable(&server)) {
        let (in_force, good) = (tls.current(), std::fs::read(&path).expect("good"));
        write(&path, content);
        let error = tls.reload().expect_err(what);
        assert!(
            !format!("{error} {error:?}").contains("PRIVATE KEY-----"),
            "{what}"
        );
        assert!(!tls.reload().expect(what), "{what}: complained about once");
        assert!(Arc::ptr_eq(&in_force, &tls.current()), "{what}");
        let health = tls.health();
        assert_eq!((health.failed_reloads, health.failing), (count, true), "{what}");
        write(&path, good);
        assert!(tls.reload().expect(what), "{what}: cured");
        assert!(!tls.health().failing, "{what}");
    }
    std::fs::remove_file(&server.folder.files.private_key).expect("removed");
    assert!(matches!(tls.reload(), Err(TlsError::File(_))));
    assert!(!tls.reload().expect("complained about once"));
}

#[test]
fn line_ends_and_text_around_the_sections_do_not_matter() {
    let root = Authority::root("root");
    let mut leaf = root.workload("a");
    leaf.chain_pem = format!("subject=workload\r\n{}", leaf.chain_pem.replace('\n', "\r\n"));
    leaf.key_pem = leaf.key_pem.replace('\n', "\r\n") + "\r\n\r\n";
    let folder = Folder::with(&leaf, &root.pem);
    let clock = SetClock::at(NOW);
    let tls = ServerTls::load(&folder.files, ClientCertificates::Required, clock).expect("loaded");
    assert_eq!(tls.health().not_after.as_seconds(), 1_780_272_000);
}

#[test]
fn a_key_of_another_certificate_is_said_to_be_one() {
    let root = Authority::root("root");
    let folder = Folder::with(&root.workload("a"), &root.pem);
    write(&folder.files.private_key, root.workload("b").key_pem);
    let clock = SetClock::at(NOW);
    let error = ServerTls::load(
        &folder.files,
        ClientCertificates::None,
        Arc::<SetClock>::clone(&clock),
    )
    .expect_err("refused");
    assert!(
        error.to_string().contains("is not the key of the certificate in"),
        "{error}"
    );
    let error = ClientTls::load(&folder.files, ExpectedServer::default(), clock).expect_err("refused");
    assert!(matches!(error, TlsError::KeyMismatch { .. }), "{error}");
}

#[test]
fn without_client_certificates_no_roots_are_needed() {
    let root = Authority::root("root");
    let folder = Folder::with(&root.workload("a"), &root.pem);
    std::fs::remove_file(&folder.files.trust_roots).expect("removed");
    let load = |clients| ServerTls::load(&folder.files, clients, SetClock::at(NOW));
    assert!(load(ClientCertificates::None).is_ok());
    assert!(load(ClientCertificates::Required).is_err());
    assert!(load(ClientCertificates::Optional).is_err());
}
