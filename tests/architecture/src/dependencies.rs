//! Which crate may depend on which: arrows point inward only (ARCHITECTURE.md has the picture).

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

use crate::repository;

/// What each crate of the product may depend on, of ours. Tests may see everything.
const ALLOWED: [(&str, &[&str]); 11] = [
    ("countersign-core", &[]),
    ("countersign-proto", &[]),
    ("countersign-crypto", &[CORE]),
    ("countersign-mtls", &[CORE]),
    ("countersign-runtime", &[CORE]),
    ("countersign-wire", &[CORE, PROTO]),
    ("countersign-authority", &SHARED),
    ("countersign-verifier", &SHARED),
    ("countersign-sidecar", &WITH_VERIFIER),
    ("countersign-tower", &WITH_VERIFIER),
    // `countersign dev` starts both roles from one binary.
    ("countersign-cli", &EVERYTHING),
];

const CORE: &str = "countersign-core";
const PROTO: &str = "countersign-proto";

const SHARED: [&str; 6] = [
    CORE,
    PROTO,
    "countersign-crypto",
    "countersign-mtls",
    "countersign-runtime",
    "countersign-wire",
];

const WITH_VERIFIER: [&str; 7] = [
    CORE,
    PROTO,
    "countersign-crypto",
    "countersign-mtls",
    "countersign-runtime",
    "countersign-wire",
    "countersign-verifier",
];

const EVERYTHING: [&str; 9] = [
    CORE,
    PROTO,
    "countersign-crypto",
    "countersign-mtls",
    "countersign-runtime",
    "countersign-wire",
    "countersign-authority",
    "countersign-verifier",
    "countersign-sidecar",
];

/// What core may name in its manifest. Each is a value or a data structure: nothing here does I/O, waits, reads a clock,
/// draws randomness or computes a signature.
const CORE_MAY_NAME: [&str; 8] = [
    "base64",
    "roaring",
    "rpds",
    "serde",
    "serde_json",
    "thiserror",
    "twox-hash",
    "zeroize",
];

/// What must not even come in through somebody else.
const NEVER_UNDER_CORE: [&str; 26] = [
    "async-trait",
    "aws-lc-rs",
    "aws-lc-sys",
    "chrono",
    "futures-core",
    "futures-util",
    "getrandom",
    "h2",
    "http",
    "hyper",
    "jsonwebtoken",
    "libc",
    "mio",
    "p256",
    "prost",
    "rand",
    "rand_core",
    "redb",
    "reqwest",
    "ring",
    "rustix",
    "rustls",
    "sled",
    "time",
    "tokio",
    "tonic",
];

/// The dependency graph as it is built here, tests and all. It reads only what building this very test has fetched.
fn metadata() -> Metadata {
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc answers");
    let version = String::from_utf8(rustc.stdout).expect("rustc answers in UTF-8");
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("rustc names its host");
    let options = ["--locked", "--offline", "--filter-platform", host].map(str::to_owned);
    MetadataCommand::new()
        .manifest_path(repository::root().join("Cargo.toml"))
        .other_options(options)
        .exec()
        .expect("cargo describes the workspace")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(repository::root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo answers in UTF-8")
}

fn is_ours(name: &str) -> bool {
    name.starts_with("countersign-")
}

fn is_test(package: &Package) -> bool {
    let folder = repository::root().join("tests");
    package
        .manifest_path
        .starts_with(folder.to_string_lossy().as_ref())
}

#[test]
fn dependencies_point_inward_only() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        if is_test(package) {
            continue;
        }
        let name = package.name.as_str();
        let Some(may_see) = allowed.get(name) else {
            wrong.push(format!("{name} has no row in the table of this test"));
            continue;
        };
        for dependency in &package.dependencies {
            let sees = dependency.name.as_str();
            // A crate's own tests may use an adapter as it is used in earnest, and the crate itself with its fakes, but never
            // what lies outside of it.
            let in_tests =
                dependency.kind == DependencyKind::Development && (SHARED.contains(&sees) || sees == name);
            let of_core = matches!(name, CORE | PROTO);
            if is_ours(sees) && !may_see.contains(&sees) && (!in_tests || of_core) {
                wrong.push(format!("{name} -> {sees}"));
            }
        }
    }
    assert!(wrong.is_empty(), "against the rule:\n{}", wrong.join("\n"));
}

#[test]
fn core_names_only_values_and_data_structures() {
    let metadata = metadata();
    let core = package(&metadata, CORE);
    let named: Vec<&str> = core
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind == DependencyKind::Normal)
        .map(|dependency| dependency.name.as_str())
        .filter(|name| !CORE_MAY_NAME.contains(name))
        .collect();
    assert!(named.is_empty(), "core names {named:?}");
}

#[test]
fn nothing_under_core_does_io_waits_or_computes_signatures() {
    let metadata = metadata();
    let under = tree(&metadata, &package(&metadata, CORE).id);
    let found: Vec<&&str> = NEVER_UNDER_CORE
        .iter()
        .filter(|name| under.contains(**name))
        .collect();
    assert!(found.is_empty(), "core's tree has {found:?}");
    assert!(
        under.contains("serde"),
        "the tree is read: serde is in it, {under:?}"
    );
}

/// Asks `cargo tree`, because the metadata also lists optional dependencies that nothing turns on.
#[test]
fn one_crypto_library_is_linked() {
    let tree = cargo(&[
        "tree",
        "--workspace",
        "--locked",
        "--offline",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    for name in ["ring", "openssl", "openssl-sys", "native-tls"] {
        assert!(!names.contains(name), "{name} is linked: cargo tree -i {name}");
    }
    assert!(names.contains("aws-lc-rs"), "the tree is read: {tree}");
}

/// Only generated code is exempt from the workspace's lints.
#[test]
fn every_crate_takes_the_workspace_lints() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let manifest = std::fs::read_to_string(&package.manifest_path).expect("the manifest is readable");
        let takes = manifest.contains("[lints]\nworkspace = true");
        assert!(
            takes || package.name.as_str() == PROTO,
            "{} lacks `[lints] workspace = true`",
            package.name
        );
    }
}

/// Bugs on purpose are for the simulation to find. In a program they would be one variable away.
#[test]
fn nothing_but_the_simulation_can_plant_bugs() {
    let metadata = metadata();
    let asks = |package: &&Package| {
        let on_core = package.dependencies.iter().filter(|found| found.name == CORE);
        on_core
            .flat_map(|found| &found.features)
            .any(|feature| feature == "planted-bugs")
    };
    let asking: Vec<&str> = metadata
        .packages
        .iter()
        .filter(asks)
        .map(|package| package.name.as_str())
        .collect();
    assert_eq!(asking, ["countersign-simulation"]);
    let core = package(&metadata, CORE);
    assert!(
        core.features
            .iter()
            .all(|(name, turns_on)| name == "planted-bugs" || !turns_on.contains(&"planted-bugs".to_owned())),
        "no other feature turns it on"
    );
}

fn package<'a>(metadata: &'a Metadata, name: &str) -> &'a Package {
    metadata
        .workspace_packages()
        .into_iter()
        .find(|package| package.name.as_str() == name)
        .unwrap_or_else(|| panic!("{name} is in the workspace"))
}

/// The names of everything that `id` is built with: its dependencies and theirs, without those of tests.
fn tree<'a>(metadata: &'a Metadata, id: &'a PackageId) -> BTreeSet<&'a str> {
    let resolve = metadata.resolve.as_ref().expect("cargo resolves");
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut open = vec![id];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        for dependency in &nodes[id].deps {
            let in_earnest = dependency
                .dep_kinds
                .iter()
                .any(|kind| kind.kind != DependencyKind::Development);
            if in_earnest && seen.insert(&dependency.pkg) {
                open.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter().map(|id| metadata[id].name.as_str()).collect()
}
