//! What operators get wrong.

use std::os::unix::fs::PermissionsExt as _;

use countersign_core::names::CertificateThumbprint;
use countersign_core::revocation::{Revocation, RevocationList, RevokedSubject};
use countersign_core::trust::UpdateRules;
use countersign_core::verifier::MAX_CLOCK_DIFFERENCE;

use super::*;

const EXAMPLE: &str = include_str!("../../config.example.toml");

/// The least that an authority needs.
const LEAST: &str = r#"
issuer = "https://auth.example.com"
trust_domain = "prod.example.com"
listen = "127.0.0.1:8443"
admin = "127.0.0.1:9901"

[tls]
certificate = "tls.crt"
private_key = "tls.key"
trust_roots = "ca.crt"

[store]
path = "store.redb"

[keys]
key_encryption_key = "kek"

[access]
operators = ["spiffe://prod.example.com/operator/anna"]
verifiers = ["spiffe://prod.example.com/sidecar/"]
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse("/etc/authority.toml".as_ref(), text).map_err(|complaints| complaints.to_string())
}

/// The complaints about the least file with one line of it replaced.
fn complaints_with(line: &str, replacement: &str) -> String {
    assert!(LEAST.contains(line), "{line}");
    parse(&LEAST.replacen(line, replacement, 1)).expect_err(replacement)
}

/// The complaints about the least file with more at its end.
fn complaints_about(more: &str) -> String {
    parse(&format!("{LEAST}{more}")).expect_err(more)
}

#[test]
fn the_example_is_a_configuration() {
    let config = parse(EXAMPLE).expect("the example");
    assert_eq!(config.issuing.default_lifetime, Duration::from_secs(900));
    assert_eq!(config.rotation.lifetime, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(config.rotation.retention, Duration::from_secs(3605));
    assert_eq!(config.ledger.revocation_life, Duration::from_secs(3600 + 5 + 900));
    assert_eq!(config.ledger.certificate_life, Duration::from_secs(24 * 3600));
    assert!(!config.reflection);
    assert_eq!(config.roles.operators.len(), 1);
}

/// What the example says in comments is what holds when nothing is said.
#[test]
fn the_defaults_that_the_example_shows_are_the_defaults() {
    let shown = |line: &str| {
        let setting = line.strip_prefix("# ")?;
        let (key, _) = setting.split_once(" = ")?;
        // These depend on the machine, or have none.
        let fixed = !["workers", "otlp_endpoint"].contains(&key);
        let is_key = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        (fixed && is_key).then(|| setting.to_owned())
    };
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| shown(line).unwrap_or_else(|| line.to_owned()) + "\n")
        .collect();
    assert!(uncommented.contains("\nlifetime = \"30d\"\n"), "{uncommented}");
    assert!(uncommented.contains("\ndrain = \"10s\"\n"), "{uncommented}");
    let (shown, silent) = (
        parse(&uncommented).expect("shown"),
        parse(EXAMPLE).expect("silent"),
    );
    assert_eq!(format!("{shown:?}"), format!("{silent:?}"));
}

#[test]
fn paths_are_relative_to_the_file() {
    let config = parse(LEAST).expect("the least");
    assert_eq!(config.store, Path::new("/etc/store.redb"));
    assert_eq!(config.key_encryption_key, Path::new("/etc/kek"));
    assert_eq!(config.tls.private_key, Path::new("/etc/tls.key"));
}

/// C01: unknown, misspelt, doubled and misplaced keys, each with its line.
#[test]
fn keys_that_are_not_known_are_refused_with_their_line() {
    for (line, replacement, expected) in [
        ("admin = ", "admn = ", "/etc/authority.toml:5:"),
        ("admin = ", "admin = \"x\"\nadmin = ", "duplicate key"),
        (
            "path = ",
            "key_encryption_key = \"x\"\npath = ",
            "/etc/authority.toml:13:",
        ),
        ("[access]", "[acces]", "/etc/authority.toml:"),
        ("issuer = ", "verify = true\nissuer = ", "`verify`"),
    ] {
        let complaints = complaints_with(line, replacement);
        assert!(complaints.contains(expected), "{replacement}: {complaints}");
    }
}

/// Everything that is wrong is said at once.
#[test]
fn all_complaints_come_at_once() {
    let text = LEAST
        .replacen("https://", "http://", 1)
        .replacen("prod.example.com\"", "PROD\"", 1)
        .replacen("127.0.0.1:9901", "0.0.0.0:9901", 1);
    let text = format!("{text}[tokens]\nmax_lifetime = \"2h\"\n[limits]\ntokens_per_second = 0\n");
    let complaints = parse(&text).expect_err("is refused");
    for key in [
        "`issuer`",
        "`trust_domain`",
        "`admin`",
        "`tokens.max_lifetime`",
        "`limits.tokens_per_second`",
    ] {
        assert!(complaints.contains(key), "{key}: {complaints}");
    }
}

/// C02: durations that could mean two things, or nothing.
#[test]
fn durations_have_a_unit_and_a_length() {
    for value in ["5", "-1s", "5 min", "1e9s", "0s", ""] {
        let complaints = complaints_about(&format!("[tokens]\ndefault_lifetime = \"{value}\"\n"));
        assert!(complaints.contains("default_lifetime"), "{value}: {complaints}");
    }
    let number = complaints_about("[tokens]\ndefault_lifetime = 5\n");
    assert!(number.contains("default_lifetime"), "{number}");
}

/// C03: a lease that one lost answer would end, or that is longer than anybody waits for.
#[test]
fn leases_have_bounds() {
    for (lease, expected) in [
        (
            "2s",
            "`trust.lease`: is under 4s, twice the 2s after which verifiers ping",
        ),
        ("3999ms", "`trust.lease`: is under 4s"),
        ("61s", "`trust.lease`: is over 1m"),
    ] {
        let complaints = complaints_about(&format!("[trust]\nlease = \"{lease}\"\n"));
        assert!(complaints.contains(expected), "{lease}: {complaints}");
    }
    for (lease, seconds) in [("4s", 4), ("1m", 60)] {
        let config = parse(&format!("{LEAST}[trust]\nlease = \"{lease}\"\n")).expect(lease);
        assert_eq!(config.lease, Duration::from_secs(seconds));
    }
    assert_eq!(parse(LEAST).expect("the least").lease, Duration::from_secs(10));
}

/// C03: contradictions are refused with the inequality named.
#[test]
fn contradictions_are_named() {
    for (more, expected) in [
        (
            "[tokens]\nmax_lifetime = \"61m\"",
            "`tokens.max_lifetime`: is over 1h",
        ),
        (
            "[tokens]\nmax_lifetime = \"10m\"\ndefault_lifetime = \"11m\"",
            "`tokens.default_lifetime`: is over `tokens.max_lifetime`",
        ),
        ("[tokens]\nleeway = \"61s\"", "`tokens.leeway`: is over 1m"),
        (
            "[tokens]\nmax_lifetime = \"20s\"\nleeway = \"11s\"",
            "`tokens.leeway`: is over half of `tokens.default_lifetime`",
        ),
        (
            "[tokens]\nmax_lifetime = \"1500ms\"\nleeway = \"0s\"",
            "`tokens.max_lifetime`: is no whole number of seconds",
        ),
        (
            "[revocations]\nslack = \"24h\"",
            "`revocations.slack`: is over 23h",
        ),
        (
            "[revocations]\nmax = 2000001",
            "`revocations.max`: is not between 100 and 2000000",
        ),
        (
            "[limits]\nstreams_per_verifier = 0",
            "`limits.streams_per_verifier`: is not between",
        ),
        ("[limits]\ntimeout = \"6m\"", "`limits.timeout`: is over 5m"),
    ] {
        let complaints = complaints_about(&format!("{more}\n"));
        assert!(complaints.contains(expected), "{more}: {complaints}");
    }
    for (more, expected) in [
        (
            "lifetime = \"15m\"",
            "`keys.propagation`: is not below `keys.lifetime`",
        ),
        (
            "lifetime = \"3m\"\npropagation = \"1s\"",
            "`keys.lifetime`: is less than a sixteenth of an hour",
        ),
        ("activation_lead = \"61s\"", "`keys.activation_lead`: is over 1m"),
        (
            "rotation = \"manual\"\nlifetime = \"1d\"",
            "`keys.lifetime`: has no meaning",
        ),
        ("algorithm = \"HS256\"", "`keys.algorithm`: is none of"),
        ("rotation = \"never\"", "keys.rotation"),
    ] {
        let kek = "key_encryption_key = \"kek\"";
        let complaints = complaints_with(kek, &format!("{kek}\n{more}"));
        assert!(complaints.contains(expected), "{more}: {complaints}");
    }
}

/// I-11: tokens that were issued before `max_lifetime` was lowered live on, and so do the revocations and keys for them.
#[test]
fn lowering_the_longest_lifetime_shortens_no_revocation_and_drops_no_key_early() {
    let long = parse(LEAST).expect("a configuration");
    let short = parse(&format!("{LEAST}[tokens]\nmax_lifetime = \"10m\"\n")).expect("a configuration");
    assert_eq!(short.issuing.max_lifetime, Duration::from_secs(600));
    assert_eq!(short.ledger.revocation_life, long.ledger.revocation_life);
    assert_eq!(short.rotation.retention, long.rotation.retention);
}

/// The entry about a certificate goes before no other, and is one that verifiers take, also those whose clock is behind.
#[test]
fn the_revocation_of_a_certificate_is_kept_for_longest_and_taken_by_verifiers() {
    for (more, seconds) in [
        ("", 24 * 3600),
        ("slack = \"23h\"", 24 * 3600 + 5),
        ("certificate_life = \"75m5s\"", 4505),
        ("certificate_life = \"24h55m\"", 24 * 3600 + 55 * 60),
    ] {
        let config = parse(&format!("{LEAST}[revocations]\n{more}\n")).expect("allowed");
        let life = config.ledger.certificate_life;
        assert_eq!(life, Duration::from_secs(seconds), "{more}");
        assert!(life >= config.ledger.revocation_life, "{more}");
        let rules = UpdateRules {
            issuer: config.issuing.issuer,
            max_revocations: 1,
            max_revocation_life: countersign_wire::MAX_REVOCATION_LIFE,
            leeway: Duration::ZERO,
        };
        let now = Timestamp::from_seconds(1_800_000_000);
        let entry = |life| {
            RevocationList::from([Revocation {
                subject: RevokedSubject::Certificate(CertificateThumbprint::new([7; 32])),
                issued_before: now,
                expires_at: now.saturating_add(life),
            }])
        };
        let behind = now.saturating_sub(MAX_CLOCK_DIFFERENCE);
        assert_eq!(rules.overlong(&entry(life), behind), 0, "{more}");
        let beyond = defaults::MAX_CERTIFICATE_LIFE.saturating_add(Duration::from_secs(1));
        assert_eq!(rules.overlong(&entry(beyond), behind), 1);
    }
}

/// C03: the entry about a certificate would go before another, or be refused by verifiers.
#[test]
fn the_revocation_of_a_certificate_is_kept_within_bounds() {
    for (more, expected) in [
        ("certificate_life = \"75m4s\"", "is under 1h15m5s"),
        ("slack = \"1h\"\ncertificate_life = \"2h\"", "is under 2h5s"),
        ("certificate_life = \"24h55m1s\"", "is over 24h55m"),
    ] {
        let complaints = complaints_about(&format!("[revocations]\n{more}\n"));
        let expected = format!("`revocations.certificate_life`: {expected}");
        assert!(complaints.contains(&expected), "{more}: {complaints}");
    }
}

/// C03: a file that is named without a folder lies in the one of the process.
#[test]
fn a_plain_file_name_is_a_path() {
    for (path, folder) in [
        ("x.redb", "."),
        ("a/x.redb", "a"),
        ("/x.redb", "/"),
        ("/a/x.redb", "/a"),
    ] {
        assert_eq!(folder_of(path.as_ref()), Path::new(folder), "{path}");
    }
    let text = LEAST.replace("store.redb", "x.redb");
    let config = Config::parse("authority.toml".as_ref(), &text).expect("a configuration");
    assert!(folder_of(&config.store).is_dir());
}

/// C04: an empty list is not everybody, and neither is a pattern.
#[test]
fn nobody_is_let_in_by_an_empty_list_or_a_pattern() {
    let operators = "operators = [\"spiffe://prod.example.com/operator/anna\"]";
    let verifiers = "verifiers = [\"spiffe://prod.example.com/sidecar/\"]";
    for (line, replacement, expected) in [
        (operators, "operators = []", "`access.operators`: is empty"),
        (verifiers, "verifiers = []", "`access.verifiers`: is empty"),
        (operators, "", "missing field `operators`"),
        (
            operators,
            "operators = [\"spiffe://prod.example.com/operator/\"]",
            "`access.operators`: a SPIFFE path",
        ),
        (
            operators,
            "operators = [\"spiffe://other.example.com/a\"]",
            "`other.example.com` is not the `trust_domain`",
        ),
        (
            operators,
            "operators = [\"spiffe://prod.example.com/a\", \"spiffe://prod.example.com/a\"]",
            "is there twice",
        ),
        (
            operators,
            "operators = [\"spiffe://prod.example.com/sidecar/x\"]",
            "is also a verifier",
        ),
        (
            verifiers,
            "verifiers = [\"spiffe://prod.example.com/\"]",
            "`access.verifiers`",
        ),
        (
            verifiers,
            "verifiers = [\"spiffe://prod.example.com/*\"]",
            "`access.verifiers`",
        ),
        (
            verifiers,
            "verifiers = [\"spiffe://other.example.com/sidecar/\"]",
            "is not the `trust_domain`",
        ),
    ] {
        let complaints = complaints_with(line, replacement);
        assert!(complaints.contains(expected), "{replacement}: {complaints}");
    }
}

/// C06: an issuer that two readers could write differently.
#[test]
fn the_issuer_is_a_plain_https_url() {
    for issuer in [
        "http://auth.example.com",
        "https://auth.example.com/",
        "https://auth.example.com?x",
        "https://auth.example.com#x",
        "auth.example.com",
        "",
    ] {
        let complaints = complaints_with("https://auth.example.com", issuer);
        assert!(complaints.contains("`issuer`"), "{issuer}: {complaints}");
    }
}

/// C07: nothing without TLS leaves this machine, and no two listeners want one port.
#[test]
fn ports_are_apart_and_the_admin_port_is_local() {
    for (address, expected) in [
        ("0.0.0.0:9901", "must be a loopback address"),
        ("192.0.2.1:9901", "must be a loopback address"),
        ("[::]:9901", "must be a loopback address"),
        ("127.0.0.1:8443", "wants the same port as `listen`"),
        ("localhost:9901", "is no address"),
        ("127.0.0.1", "is no address"),
    ] {
        let complaints = complaints_with("127.0.0.1:9901", address);
        assert!(complaints.contains(expected), "{address}: {complaints}");
    }
    let text = LEAST.replacen("127.0.0.1:8443", "0.0.0.0:9901", 1);
    assert!(
        parse(&text)
            .expect_err("is refused")
            .contains("wants the same port")
    );
    let text = LEAST.replacen(":8443", ":0", 1).replacen(":9901", ":0", 1);
    assert!(parse(&text).is_ok());
}

/// C12: a file that is no configuration at all.
#[test]
fn large_and_deep_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("authority.toml");
    std::fs::write(&path, "#".repeat(2 * 1024 * 1024)).expect("writes");
    assert!(Config::load(&path).is_err());
    let deep = format!("x = {}{}\n", "[".repeat(10_000), "]".repeat(10_000));
    assert!(parse(&format!("{deep}{LEAST}")).is_err());
    assert!(Config::load("/dev/zero".as_ref()).is_err());
    assert!(Config::load(folder.path()).is_err());
}

/// C09: every file that is wrong is named before anything starts.
#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("authority.toml");
    let key = folder.path().join("kek");
    std::fs::write(&key, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").expect("writes");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("sets");
    let text = LEAST.replacen("store.redb", "nowhere/store.redb", 1);
    let config = Config::parse(&path, &text).expect("reads");
    let complaints = config.check_files(&path).expect_err("is refused").to_string();
    for expected in [
        "`tls`",
        "tls.crt",
        "`keys.key_encryption_key`",
        "mode 644",
        "`store.path`",
    ] {
        assert!(complaints.contains(expected), "{expected}: {complaints}");
    }
}

#[test]
fn what_revocations_can_come_to_is_computed_from_the_numbers() {
    let usual = parse(LEAST).expect("the least").implied().to_string();
    assert!(
        usual.contains("at most 1h15m5s, that of a certificate for 1d:"),
        "{usual}"
    );
    // 100 a second for 4505 seconds, and 200 at once.
    assert!(usual.contains("holds at most 450700\n"), "{usual}");
    assert!(usual.contains("at most 2000000 (`revocations.max`)"), "{usual}");
    assert!(
        usual.contains("about 50 MB when they are single tokens"),
        "{usual}"
    );
    assert!(usual.contains("at most 50 MB more for the 100000"), "{usual}");

    let less = "[limits]\ntokens_per_second = 10\n[revocations]\nmax = 50000\nslack = \"1m\"\ncertificate_life = \"2h\"\n";
    let less = parse(&format!("{LEAST}{less}"))
        .expect("allowed")
        .implied()
        .to_string();
    assert!(
        less.contains("at most 1h1m5s, that of a certificate for 2h:"),
        "{less}"
    );
    assert!(less.contains("holds at most 36850\n"), "{less}");
    assert!(less.contains("about 2 MB"), "{less}");
    assert!(less.contains("for the 50000 of them"), "{less}");
}
