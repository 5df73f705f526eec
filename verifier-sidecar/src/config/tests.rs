use countersign_core::jwk::write_set;
use countersign_core::requirements::{Access, MethodPath};
use countersign_crypto::{SigningKey, publishing};

use countersign_core::freshness::StalenessRules;

use super::*;

mod access_log;
mod agent;
mod apps;
mod ext_authz;
mod identity_headers;
mod outbound;
mod staleness;

const EXAMPLE: &str = include_str!("../../config.example.toml");

/// A folder with publishing keys in it, as the name of a configuration file there.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let key = SigningKey::generate(publishing::ALGORITHM).expect("a key");
    std::fs::write(folder.path().join("publishing-keys.json"), write_set([key.jwk()])).expect("written");
    let file = folder.path().join("sidecar.toml");
    (folder, file)
}

/// The least that a sidecar needs.
const LEAST: &str = r#"
issuer = "https://auth.example.com"
trust_domain = "prod.example.com"
audience = "orders"
publishing_keys = "publishing-keys.json"
state_dir = "state"
upstream = "http://127.0.0.1:50051"
admin = "127.0.0.1:9902"

[authority]
uri = "https://authority.example.com:8443"
spiffe_id = "spiffe://prod.example.com/countersign/authority"
certificate = "tls.crt"
private_key = "tls.key"
trust_roots = "ca.crt"

[[listener]]
address = "127.0.0.1:8080"
plaintext = true
"#;

fn parse(text: &str) -> Result<Config, String> {
    let (_folder, file) = folder();
    Config::parse(&file, text).map_err(|complaints| complaints.to_string())
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

/// C03: what is promised at the end is not broken at the beginning.
#[test]
fn a_warm_start_and_forgetting_contradict_each_other() {
    let config = parse(&format!("{LEAST}[trust]\nwarm_start = \"trust\"\n")).expect("good");
    assert!(config.trust.warm_start.expect("a file").ends_with("trust"));
    assert_eq!(config.trust.on_stop, OnStop::Keep);
    let config = parse(&format!("{LEAST}[trust]\non_stop = \"forget\"\n")).expect("good");
    assert_eq!(
        (config.trust.warm_start, config.trust.on_stop),
        (None, OnStop::Forget)
    );
    let both = complaints_about("[trust]\nwarm_start = \"trust\"\non_stop = \"forget\"\n");
    assert!(both.contains("trust.on_stop"), "{both}");
    let wrong = complaints_about("[trust]\non_stop = \"lose\"\n");
    assert!(wrong.contains("on_stop"), "{wrong}");
}

#[test]
fn the_example_is_a_configuration() {
    let config = parse(EXAMPLE).expect("the example");
    assert_eq!(config.expectations.audience.as_str(), "orders");
    assert_eq!(config.listeners.len(), 2);
    let disclosures = config.listeners.iter().map(|listener| listener.disclosures);
    let unless_said = Disclosures::unless_said(None);
    assert!(disclosures.eq([unless_said, unless_said]));
    let access = |path| {
        &config
            .methods
            .find(MethodPath::parse(path).expect("a method"))
            .access
    };
    assert!(
        matches!(access("/shop.v1.Orders/Cancel"), Access::Protected(asks) if asks.bound && asks.scopes.len() == 2)
    );
    assert_eq!(access("/shop.v1.Catalogue/Anything"), &Access::Open);
    assert!(matches!(access("/shop.v1.Other/Do"), Access::Protected(asks) if asks.scopes.is_empty()));
}

/// What the example says in comments is what holds when nothing is said.
#[test]
fn the_defaults_that_the_example_shows_are_the_defaults() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            // These have no default: what is shown is an example.
            Some(setting)
                if ["default_scopes", "server_name", "upstream ="]
                    .iter()
                    .any(|key| setting.starts_with(key)) =>
            {
                line
            }
            Some(setting)
                if setting.starts_with("otlp_endpoint") || setting.starts_with("disclose_reasons") =>
            {
                line
            }
            Some(table) if table.starts_with("[staleness.") => table,
            Some(setting) if setting.split_once(" = ").is_some_and(|(key, _)| is_key(key)) => setting,
            Some(_) | None => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    assert!(uncommented.contains("\nheartbeat = \"2s\"\n"), "{uncommented}");
    assert!(
        uncommented.contains("\n[staleness.class.tolerant]\nrevocations = \"1d\"\n"),
        "{uncommented}"
    );
    let (shown, silent) = (
        parse(&uncommented).expect("shown"),
        parse(EXAMPLE).expect("silent"),
    );
    // The publishing keys are made anew for each, and the folder is.
    let comparable = |config: Config| {
        let Config {
            expectations,
            trust,
            limits,
            longest_timeout,
            token_cache_bytes,
            tokens,
            workers,
            identity_headers,
            listeners,
            apps,
            upstream_connections,
            telemetry,
            agent,
            outbound,
            ..
        } = config;
        let TrustSettings {
            rules,
            staleness,
            heartbeat,
            ..
        } = trust;
        format!(
            "{expectations:?} {rules:?} {staleness:?} {heartbeat:?} {limits:?} {longest_timeout:?} {token_cache_bytes} {tokens:?} {workers} {identity_headers:?} {listeners:?} {apps:?} {upstream_connections} {telemetry:?} {agent:?} {outbound:?}"
        )
    };
    assert_eq!(comparable(shown), comparable(silent));
}

fn is_key(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[test]
fn the_least_is_enough_and_paths_are_relative_to_the_file() {
    let (folder, file) = folder();
    std::fs::write(&file, LEAST).expect("written");
    let config = Config::load(&file).expect("the least");
    assert_eq!(config.trust.state_dir, folder.path().join("state"));
    assert_eq!(
        config.trust.authority.files.certificate,
        folder.path().join("tls.crt")
    );
    assert_eq!(*config.trust.staleness, StalenessRules::default());
    assert!(config.verify.grpc.is_none() && config.verify.unix.is_none());
}

/// A verifier does not start without its own issuer, trust domain and audience.
#[test]
fn issuer_trust_domain_and_audience_are_not_optional() {
    for line in [
        "issuer = \"https://auth.example.com\"",
        "trust_domain = \"prod.example.com\"",
        "audience = \"orders\"",
        "publishing_keys = \"publishing-keys.json\"",
        "spiffe_id = \"spiffe://prod.example.com/countersign/authority\"",
    ] {
        let key = line.split(' ').next().expect("a key");
        let complaints = complaints_with(line, "");
        assert!(
            complaints.contains(&format!("missing field `{key}`")),
            "{key}: {complaints}"
        );
        assert!(
            parse(&LEAST.replacen(line, &format!("{key} = \"\""), 1)).is_err(),
            "{key} empty"
        );
    }
}

/// C01: unknown, misspelt, doubled and misplaced keys, each with its line.
#[test]
fn keys_that_are_not_known_are_refused_with_their_line() {
    let line = |key: &str| {
        format!(
            "sidecar.toml:{}:",
            LEAST.lines().position(|l| l.starts_with(key)).expect("there") + 1
        )
    };
    let complaints = complaints_with("audience = \"orders\"", "audiences = \"orders\"");
    assert!(
        complaints.contains(&line("audience")) && complaints.contains("audiences"),
        "{complaints}"
    );
    let complaints = complaints_with("admin = ", "audience = \"x\"\nadmin = ");
    assert!(complaints.contains("duplicate key"), "{complaints}");
    let complaints = complaints_with(
        "certificate = \"tls.crt\"",
        "certificate = \"tls.crt\"\nstate_dir = \"x\"",
    );
    assert!(complaints.contains("state_dir"), "{complaints}");
}

/// C05: switches that would open everything do not exist.
#[test]
fn there_is_no_way_to_fail_open() {
    for setting in [
        "failure_mode = \"open\"",
        "verify = false",
        "insecure = true",
        "insecure_skip_verify = true",
        "fail_open = true",
    ] {
        assert!(parse(&format!("{setting}\n{LEAST}")).is_err(), "{setting}");
        assert!(
            parse(&format!("{LEAST}{setting}\n")).is_err(),
            "{setting} for a listener"
        );
    }
}

/// All complaints at once, in the order of the file.
#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = LEAST
        .replacen("https://auth.example.com", "http://auth.example.com", 1)
        .replacen("\"orders\"", "\"*\"", 1)
        .replacen("127.0.0.1:9902", "0.0.0.0:9902", 1)
        .replacen("127.0.0.1:8080", "0.0.0.0:8080", 1);
    let complaints = parse(&text).expect_err("refused");
    let keys: Vec<_> = complaints
        .lines()
        .map(|line| line.split('`').nth(1).expect("a key"))
        .collect();
    assert_eq!(
        keys,
        ["issuer", "audience", "admin", "listener.0.address"],
        "{complaints}"
    );
}

/// C02: durations without unit, sign, fraction, or nothing where that is no duration.
#[test]
fn durations_are_strict() {
    for value in ["5", "-1s", "5 min", "1e9s", "0s", "", "1.5s"] {
        let complaints = complaints_about(&format!("[trust]\nheartbeat = \"{value}\"\n"));
        assert!(complaints.contains("heartbeat"), "{value}: {complaints}");
    }
    assert!(complaints_about("[trust]\nheartbeat = 5\n").contains("heartbeat"));
}

/// C03: contradictions are refused with the inequality named.
#[test]
fn contradictions_are_refused() {
    for (more, needles) in [
        (
            "[tokens]\nmax_lifetime = \"2h\"\n",
            ["tokens.max_lifetime", "over 1h"],
        ),
        ("[tokens]\nleeway = \"2m\"\n", ["tokens.leeway", "over 1m"]),
        (
            "[tokens]\nmax_lifetime = \"8s\"\n",
            ["tokens.leeway", "half of `tokens.max_lifetime`"],
        ),
        ("[limits]\ntimeout = \"25h\"\n", ["limits.timeout", "over 24h"]),
        ("[limits]\nconnections = 0\n", ["limits.connections", "between 1"]),
        ("[limits]\nstreams = 0\n", ["limits.streams", "between 1"]),
        (
            "[limits]\nkeepalive = \"999ms\"\n",
            ["limits.keepalive`", "between 1s and 1h"],
        ),
        (
            "[limits]\nkeepalive = \"61m\"\n",
            ["limits.keepalive`", "between 1s and 1h"],
        ),
        (
            "[limits]\nkeepalive_timeout = \"1m1s\"\n",
            ["limits.keepalive_timeout`", "between 1s and 1m"],
        ),
        (
            "[trust]\nmax_revocations = 0\n",
            ["trust.max_revocations", "between 1"],
        ),
    ] {
        let complaints = complaints_about(more);
        assert!(
            needles.iter().all(|needle| complaints.contains(needle)),
            "{more}: {complaints}"
        );
    }
}

/// C04: an empty list is not "anybody".
#[test]
fn empty_lists_are_refused() {
    let complaints = parse(&format!("default_scopes = []\n{LEAST}")).expect_err("refused");
    assert!(complaints.contains("`default_scopes`: is empty"), "{complaints}");
    let complaints = complaints_about("[[method]]\npath = \"/a.B/C\"\nscopes = []\n");
    assert!(complaints.contains("`method.0.scopes`: is empty"), "{complaints}");
    let complaints = complaints_with("[[listener]]\naddress = \"127.0.0.1:8080\"\nplaintext = true", "");
    assert!(complaints.contains("`listener`: is missing"), "{complaints}");
}

/// C06: issuers of the wrong form.
#[test]
fn issuers_are_https_urls_without_more() {
    for issuer in [
        "http://auth.example.com",
        "https://auth.example.com/",
        "https://auth.example.com?x",
        "https://auth.example.com#x",
        "https://u@auth.example.com",
        "auth",
    ] {
        let complaints = complaints_with("https://auth.example.com", issuer);
        assert!(complaints.contains("`issuer`"), "{issuer}: {complaints}");
    }
}

/// C07: two listeners on one port; without TLS only on loopback.
#[test]
fn listeners_have_their_own_ports_and_tls_unless_local() {
    let plaintext = |address: &str| format!("[[listener]]\naddress = \"{address}\"\nplaintext = true\n");
    let tls = "tls = { certificate = \"a\", private_key = \"b\", trust_roots = \"c\" }\n";
    for (more, needle) in [
        (
            plaintext("127.0.0.1:8080"),
            "`listener.1.address`: wants the same port as `listener.0.address`",
        ),
        (
            plaintext("127.0.0.1:9902"),
            "`admin`: wants the same port as `listener.1.address`",
        ),
        (
            format!("[[listener]]\naddress = \"0.0.0.0:8080\"\n{tls}"),
            "`listener.1.address`: wants the same port",
        ),
        (
            "[verify]\ngrpc = \"127.0.0.1:8080\"\n".to_owned(),
            "`verify.grpc`: wants the same port",
        ),
        (
            "[verify]\ngrpc = \"10.0.0.1:9000\"\n".to_owned(),
            "`verify.grpc`: has no TLS",
        ),
        (plaintext("10.0.0.1:8081"), "`listener.1.address`: has no TLS"),
        (plaintext("localhost:8081"), "`listener.1.address`: is no address"),
        (
            "[[listener]]\naddress = \"127.0.0.1:1\"\n".to_owned(),
            "`listener.1`: needs `tls`, or `plaintext = true`",
        ),
        (
            format!("[[listener]]\naddress = \"127.0.0.1:1\"\nplaintext = true\n{tls}"),
            "`listener.1`: has both",
        ),
    ] {
        let complaints = complaints_about(&more);
        assert!(complaints.contains(needle), "{more}: {complaints}");
    }
    assert!(complaints_with("127.0.0.1:9902", "0.0.0.0:9902").contains("`admin`: has no TLS"));
    assert!(
        parse(&format!(
            "{}{}",
            LEAST.replace(":8080", ":0"),
            plaintext("127.0.0.1:0")
        ))
        .is_ok()
    );
}

/// Methods are named exactly, once, and each says what it asks for.
#[test]
fn methods_are_named_exactly_and_say_what_they_ask_for() {
    for (more, needle) in [
        ("path = \"/a.*/C\"\nopen = true", "a method is written"),
        ("path = \"a.B/C\"\nopen = true", "a method is written"),
        ("path = \"/*\"\nopen = true", "a method is written"),
        (
            "path = \"/a.B/C\"",
            "needs `open = true`, `scopes`, `bound = true`, `class` or `mode`",
        ),
        ("path = \"/a.B/C\"\nopen = true\nbound = true", "remove one"),
        ("path = \"/a.B/C\"\nopen = true\nscopes = [\"x\"]", "remove one"),
        ("path = \"/a.B/C\"\nscopes = [\"*\"]", "a scope is"),
        ("path = \"/a.B/C\"\nscopes = [\"x\", \"x\"]", "`x` is there twice"),
        (
            "path = \"/a.B/C\"\nbound = true\n[[method]]\npath = \"/a.B/C\"\nopen = true",
            "`/a.B/C` is there already",
        ),
    ] {
        let complaints = complaints_about(&format!("[[method]]\n{more}\n"));
        assert!(complaints.contains(needle), "{more}: {complaints}");
    }
}

#[test]
fn health_and_reflection_are_open_only_by_choice() {
    let access = |text: &str, path| {
        let config = parse(text).expect("a configuration");
        let path = MethodPath::parse(path).expect("a method");
        config.methods.find(path).access.clone()
    };
    let (health, reflection) = (
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    );
    assert!(matches!(access(LEAST, health), Access::Protected(_)));
    assert!(matches!(access(LEAST, reflection), Access::Protected(_)));
    let open = format!("open_health = true\nopen_reflection = true\n{LEAST}");
    assert_eq!(access(&open, health), Access::Open);
    assert_eq!(access(&open, reflection), Access::Open);
    assert_eq!(
        access(
            &open,
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        ),
        Access::Open
    );
}

/// K01 to K08 for the keys that publish: what is no safe set is no configuration.
#[test]
fn publishing_keys_are_a_set_of_ed25519_keys() {
    let (folder, file) = folder();
    let keys = folder.path().join("publishing-keys.json");
    let token_key = SigningKey::generate(countersign_core::jose::Algorithm::Es256).expect("a key");
    for jwks in [
        String::new(),
        "{}".to_owned(),
        "{\"keys\":[]}".to_owned(),
        "<html>".to_owned(),
        write_set([token_key.jwk()]),
    ] {
        std::fs::write(&keys, &jwks).expect("written");
        let complaints = Config::parse(&file, LEAST).expect_err(&jwks).to_string();
        assert!(complaints.contains("`publishing_keys`"), "{jwks}: {complaints}");
    }
    std::fs::remove_file(&keys).expect("removed");
    assert!(
        Config::parse(&file, LEAST)
            .expect_err("missing")
            .to_string()
            .contains("cannot be read")
    );
}

#[test]
fn the_authority_is_an_https_address_with_an_identity() {
    for uri in [
        "http://authority.example.com:8443",
        "authority.example.com:8443",
        "https://",
        "https://a/path",
    ] {
        let complaints = complaints_with("https://authority.example.com:8443", uri);
        assert!(complaints.contains("`authority.uri`"), "{uri}: {complaints}");
    }
    let complaints = complaints_with(
        "spiffe://prod.example.com/countersign/authority",
        "spiffe://prod.example.com",
    );
    assert!(complaints.contains("`authority.spiffe_id`"), "{complaints}");
}

/// What is only observed is named as such, and nothing is by itself.
#[test]
fn methods_are_enforced_unless_it_is_said_otherwise() {
    let modes = |text: &str| {
        let methods = parse(&format!("{text}{LEAST}\n[[method]]\npath = \"/a.B/Observed\"\nmode = \"observe\"\n[[method]]\npath = \"/a.B/Enforced\"\nmode = \"enforce\"\nscopes = [\"x\"]\n[[method]]\npath = \"/a.B/Silent\"\nscopes = [\"x\"]\n"))
            .expect("it makes sense")
            .methods;
        ["/a.B/Observed", "/a.B/Enforced", "/a.B/Silent", "/a.B/Other"]
            .map(|path| methods.find(MethodPath::parse(path).expect("a path")).mode)
    };
    use countersign_core::requirements::Mode::{Enforce, Observe};
    assert_eq!(modes(""), [Observe, Enforce, Enforce, Enforce]);
    assert_eq!(
        modes("mode = \"observe\"\n"),
        [Observe, Enforce, Observe, Observe]
    );
    assert!(complaints_about("[[method]]\npath = \"/a.B/C\"\nmode = \"off\"\n").contains("mode"));
}
