use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa};
use rustls::{HandshakeKind, NamedGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::pki::{Authority, Leaf, dns, other_name, self_signed, uri};
use super::rig::{Server, Stranger, echo, eventually, refused, server, server_for, server_speaking};
use crate::{ClientCertificates, HandshakeFailure, Limits, PeerIdentity, Protocols};

fn named(params: &mut CertificateParams) {
    params.subject_alt_names = vec![uri("spiffe://test/client")];
}

/// Who is let in, is let in as who.
async fn admitted(server: &mut Server, leaf: &Leaf) -> PeerIdentity {
    let client = Stranger::new(&server.root, Some(leaf));
    let mut theirs = client.connect(server.address).await.expect("connected");
    let (mut ours, peer) = server.listener.accept().await.expect("accepted");
    echo(&mut theirs, &mut ours).await.expect("alive");
    PeerIdentity::clone(&peer.identity.expect("certificate"))
}

async fn check_refused(server: &Server, what: &str, leaf: Option<&Leaf>, reason: HandshakeFailure) {
    let before = refused(&server.stats, reason);
    assert!(
        Stranger::new(&server.root, leaf).is_refused(server.address).await,
        "{what}"
    );
    eventually(what, || refused(&server.stats, reason) == before + 1).await;
    assert_eq!(server.stats.accepted(), 0, "{what}");
}

#[tokio::test]
async fn a_peer_is_who_its_certificate_names() {
    let mut server = server().await;
    let leaf = server.root.workload("orders");
    let identity = admitted(&mut server, &leaf).await;
    assert_eq!(
        identity.spiffe_id.expect("SPIFFE ID").as_str(),
        "spiffe://test/orders"
    );
    let below = server.root.below("intermediate", |_| {}).leaf(named);
    assert!(admitted(&mut server, &below).await.spiffe_id.is_some());
    let nameless = server.root.leaf(|_| {});
    let identity = admitted(&mut server, &nameless).await;
    assert_eq!(
        (identity.spiffe_id.clone(), identity),
        (None, PeerIdentity::from_der(nameless.der()).expect("leaf"))
    );
}

/// S01 to S05: refused in the handshake, with a reason, and no handler sees the peer.
#[tokio::test]
async fn a_certificate_that_does_not_hold_is_refused_in_the_handshake() {
    use HandshakeFailure::{CertificateNotInForce, CertificateUntrusted, NoCertificate};
    let server = server().await;
    let root = &server.root;
    let past = root.leaf(|params| params.not_after = rcgen::date_time_ymd(2025, 12, 31));
    let future = root.leaf(|params| params.not_before = rcgen::date_time_ymd(2026, 1, 2));
    for (what, leaf, reason) in [
        ("S01 none", None, NoCertificate),
        ("S02 self-signed", Some(self_signed(named)), CertificateUntrusted),
        (
            "S03 unknown authority",
            Some(Authority::root("other").leaf(named)),
            CertificateUntrusted,
        ),
        (
            "S03 another of the same name",
            Some(Authority::root("root").leaf(named)),
            CertificateUntrusted,
        ),
        ("S04 expired", Some(past), CertificateNotInForce),
        ("S05 not yet valid", Some(future), CertificateNotInForce),
    ] {
        check_refused(&server, what, leaf.as_ref(), reason).await;
    }
}

/// S01 to S05 where certificates are optional: nobody is who shows none, and one that is shown has to hold all the same.
#[tokio::test]
async fn who_shows_no_certificate_is_nobody_where_none_is_needed() {
    use HandshakeFailure::{CertificateNotInForce, CertificateUntrusted, IdentityRefused};
    let mut server = server_for(ClientCertificates::Optional, Limits::default()).await;
    let past = server
        .root
        .leaf(|params| params.not_after = rcgen::date_time_ymd(2025, 12, 31));
    let two = server.root.leaf(|params| {
        params.subject_alt_names = vec![uri("spiffe://test/a"), uri("spiffe://test/b")];
    });
    for (what, leaf, reason) in [
        ("S02 self-signed", self_signed(named), CertificateUntrusted),
        (
            "S03 unknown authority",
            Authority::root("other").leaf(named),
            CertificateUntrusted,
        ),
        ("S04 expired", past, CertificateNotInForce),
        ("S10 two identities", two, IdentityRefused),
    ] {
        check_refused(&server, what, Some(&leaf), reason).await;
    }
    let mut theirs = Stranger::new(&server.root, None)
        .connect(server.address)
        .await
        .expect("S01 none");
    let (mut ours, peer) = server.listener.accept().await.expect("accepted");
    echo(&mut theirs, &mut ours).await.expect("alive");
    assert_eq!(peer.identity, None);
    let leaf = server.root.workload("orders");
    let identity = admitted(&mut server, &leaf).await;
    assert_eq!(
        identity.spiffe_id.expect("SPIFFE ID").as_str(),
        "spiffe://test/orders"
    );
}

/// S06 to S08: so is one whose chain or purpose is not right.
#[tokio::test]
async fn a_certificate_of_a_broken_chain_is_refused_in_the_handshake() {
    use HandshakeFailure::{CertificateNotInForce, CertificateUntrusted};
    let server = server().await;
    let root = &server.root;
    let expired = root.below("old", |params| {
        params.not_after = rcgen::date_time_ymd(2025, 12, 31)
    });
    let short = root.below("short", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))
    });
    let no_ca = root.below("leaf that signs", |params| params.is_ca = IsCa::ExplicitNoCa);
    let unmarked = root.below("unmarked", |params| params.is_ca = IsCa::NoCa);
    let is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let servers = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    for (what, leaf, reason) in [
        (
            "S06 expired intermediate",
            expired.leaf(named),
            CertificateNotInForce,
        ),
        ("S07 a server's only", root.leaf(servers), CertificateUntrusted),
        (
            "S08 authority as leaf",
            root.leaf(|params| params.is_ca = is_ca),
            CertificateUntrusted,
        ),
        (
            "S08 leaf signed by a leaf",
            no_ca.leaf(named),
            CertificateUntrusted,
        ),
        (
            "S08 no basic constraints",
            unmarked.leaf(named),
            CertificateUntrusted,
        ),
        (
            "S08 path too long",
            short.below("deep", |_| {}).leaf(named),
            CertificateUntrusted,
        ),
    ] {
        check_refused(&server, what, Some(&leaf), reason).await;
    }
}

/// S10: so is one that identifies nobody; the table of these is with the identity itself.
#[tokio::test]
async fn a_certificate_that_identifies_nobody_is_refused_in_the_handshake() {
    let server = server().await;
    for names in [
        vec![uri("spiffe://test/a"), uri("spiffe://test/b")],
        vec![uri("spiffe://test/*")],
        vec![other_name("a")],
    ] {
        let leaf = server.root.leaf(|params| params.subject_alt_names = names);
        check_refused(&server, "S10", Some(&leaf), HandshakeFailure::IdentityRefused).await;
    }
}

/// S12: equal serial and subject from another trusted authority is another peer.
#[tokio::test]
async fn certificates_of_equal_serial_and_subject_are_different_peers() {
    let mut server = server().await;
    let (one, two) = (
        server.root.workload("orders"),
        server.root.below("other", |_| {}).workload("orders"),
    );
    let (one, two) = (
        admitted(&mut server, &one).await,
        admitted(&mut server, &two).await,
    );
    assert_eq!(one.spiffe_id, two.spiffe_id);
    assert_ne!(one.thumbprint, two.thumbprint);
}

/// A ClientHello of TLS 1.0 to 1.2, with a cipher that TLS 1.2 servers like.
fn old_hello(minor: u8, cipher: [u8; 2], compression: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("short");
    let mut body = vec![3, minor];
    body.extend([0x5a; 32]);
    body.extend([0, 0, 2, cipher[0], cipher[1], length(compression)]);
    body.extend(compression);
    // Curves, point formats, signature algorithms.
    let extensions = b"\0\x0a\0\x04\0\x02\0\x17\0\x0b\0\x02\x01\0\0\x0d\0\x04\0\x02\x04\x03";
    body.extend([0, length(extensions)]);
    body.extend(extensions);
    let mut hello = vec![22, 3, 1, 0, length(&body) + 4, 1, 0, 0, length(&body)];
    hello.extend(body);
    hello
}

/// S15: TLS 1.0 to 1.2 are refused by an alert (70: protocol version), with good ciphers, without any, with compression.
#[tokio::test]
async fn only_tls_1_3_is_spoken() {
    let server = server().await;
    let ecdhe = [0xc0, 0x2b];
    let hellos = [
        (1, ecdhe, [0].as_slice()),
        (2, ecdhe, &[0]),
        (3, ecdhe, &[0]),
        (3, [0, 1], &[0]),
        (3, ecdhe, &[1, 0]),
    ];
    for (count, (minor, cipher, compression)) in (1..).zip(hellos) {
        let mut tcp = TcpStream::connect(server.address).await.expect("connected");
        tcp.write_all(&old_hello(minor, cipher, compression))
            .await
            .expect("sent");
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).await.expect("closed");
        assert_eq!(answer.first(), Some(&21), "an alert and no handshake: {answer:?}");
        assert_eq!(answer.last(), Some(&70), "{answer:?}");
        eventually("counted", || {
            refused(&server.stats, HandshakeFailure::Protocol) == count
        })
        .await;
    }
}

/// S16, S17: no tickets, so nothing to resume and nothing to send early: the second connection is a full handshake.
#[tokio::test]
async fn every_connection_is_a_full_handshake() {
    let mut server = server().await;
    let leaf = server.root.workload("orders");
    let mut client = Stranger::new(&server.root, Some(&leaf));
    client.config.enable_early_data = true;
    for _ in 0..3 {
        let mut theirs = client.connect(server.address).await.expect("connected");
        let (mut ours, _) = server.listener.accept().await.expect("accepted");
        echo(&mut theirs, &mut ours).await.expect("alive");
        let session = theirs.get_mut().1;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
        let exchange = session.negotiated_key_exchange_group().expect("done").name();
        assert_eq!(exchange, NamedGroup::X25519MLKEM768, "post-quantum first");
        assert!(session.early_data().is_none());
    }
    assert!(!server.tls.current().session_storage.can_cache());
}

/// S18: a peer that does not agree to HTTP/2 is refused, one that agrees to nothing too.
#[tokio::test]
async fn a_peer_that_does_not_speak_http2_is_refused() {
    let server = server().await;
    let leaf = server.root.workload("orders");
    let mut client = Stranger::new(&server.root, Some(&leaf));
    for (count, protocols) in (1..).zip([vec![b"http/1.1".to_vec()], Vec::new()]) {
        client.config.alpn_protocols = protocols;
        assert!(client.is_refused(server.address).await);
        eventually("counted", || {
            refused(&server.stats, HandshakeFailure::NoHttp2) == count
        })
        .await;
    }
    assert_eq!(server.stats.accepted(), 0);
}

/// S18, where HTTP/1.1 is taken too: what a peer names has to be one of the two, and he may name nothing.
#[tokio::test]
async fn a_server_of_http1_takes_peers_that_speak_it() {
    let http1 = b"http/1.1".to_vec();
    let mut server = server_speaking(Protocols::Any, ClientCertificates::Required, Limits::default()).await;
    let leaf = server.root.workload("orders");
    let mut client = Stranger::new(&server.root, Some(&leaf));
    for (named, agreed) in [
        (vec![b"h2".to_vec()], Some(&b"h2"[..])),
        (vec![http1.clone()], Some(&b"http/1.1"[..])),
        (vec![http1.clone(), b"h2".to_vec()], Some(&b"h2"[..])),
        (Vec::new(), None),
    ] {
        client.config.alpn_protocols = named;
        let mut theirs = client.connect(server.address).await.expect("connected");
        assert_eq!(theirs.get_ref().1.alpn_protocol(), agreed);
        let (mut ours, peer) = server.listener.accept().await.expect("accepted");
        echo(&mut theirs, &mut ours).await.expect("alive");
        assert!(peer.identity.is_some());
    }
    client.config.alpn_protocols = vec![b"http/1.0".to_vec(), b"h3".to_vec()];
    assert!(client.is_refused(server.address).await);
    eventually("counted", || {
        refused(&server.stats, HandshakeFailure::NoHttp2) == 1
    })
    .await;
}

/// S20: a long chain, a large certificate and one-byte records cost a bounded amount and stop nobody.
#[tokio::test]
async fn oversized_handshakes_are_refused_and_others_go_on() {
    let mut server = server().await;
    let mut long = server.root.workload("orders");
    long.chain
        .extend(std::iter::repeat_n(server.root.certificate.clone(), 100));
    assert!(
        Stranger::new(&server.root, Some(&long))
            .is_refused(server.address)
            .await
    );
    let large = server.root.leaf(|params| {
        params.subject_alt_names = (0..40_000).map(|n| dns(&format!("a{n:020}.test"))).collect();
    });
    assert!(
        Stranger::new(&server.root, Some(&large))
            .is_refused(server.address)
            .await
    );
    let mut dribble = TcpStream::connect(server.address).await.expect("connected");
    for _ in 0..70_000 {
        // A handshake record of one byte each: a hello that claims 64 KiB and never ends.
        if dribble.write_all(&[22, 3, 1, 0, 1, 1]).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _reset = dribble.read_to_end(&mut answer).await;
    assert_eq!(server.stats.accepted(), 0);
    let leaf = server.root.workload("orders");
    admitted(&mut server, &leaf).await;
}

/// S21: peers that leave in the middle of a handshake do not stop the listener.
#[tokio::test]
async fn broken_off_handshakes_stop_nobody() {
    let mut server = server().await;
    let leaf = server.root.workload("orders");
    for bytes in [
        b"".as_slice(),
        b"\x16\x03\x01",
        b"\x15\x03\x03\x00\x02\x01\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0xff; 20_000],
    ] {
        let mut tcp = TcpStream::connect(server.address).await.expect("connected");
        let _reset = tcp.write_all(bytes).await;
        // With a reset in place of an orderly end.
        tcp.set_zero_linger().expect("linger");
        drop(tcp);
    }
    let ended = || {
        let refused = server.stats.refused();
        refused.iter().map(|one| one.count).sum::<u64>() + server.stats.accept_errors()
    };
    eventually("all six ended", || ended() == 6).await;
    admitted(&mut server, &leaf).await;
}
