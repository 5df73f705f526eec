//! Documents say what the code does: what can be compared is compared.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Command, CommandFactory as _};
use countersign_cli::args::Cli;
use countersign_core::Rejection;
use countersign_core::issuing::IssueError;
use countersign_core::jwk::KeySetError;
use countersign_core::publishers::LinkRefused;
use countersign_core::trust::UpdateRefused;
use countersign_wire::status::{self, Disclosure, Failure};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::repository::{self, production_lines};

/// The name of a gRPC code as documents write it.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// What a status says: its reason as it stands in metrics, and its code.
fn told(status: &Status) -> (String, String) {
    let info = status.get_details_error_info().expect("an ErrorInfo");
    (info.metadata["reason"].clone(), code_name(status.code()))
}

/// Every reason that the code knows, with its code; `-` where it is no status.
fn known_reasons() -> BTreeMap<String, String> {
    let refusals = Rejection::ALL.into_iter().flat_map(|rejection| {
        [Disclosure::Coarse, Disclosure::Precise]
            .map(|disclosure| told(&status::refused(rejection, disclosure)))
    });
    let issuing = IssueError::ALL
        .into_iter()
        .map(|error| told(&status::not_issued(error, None)));
    let failures = Failure::ALL
        .into_iter()
        .map(|failure| told(&status::failed(failure)));
    let field = told(&status::invalid("field", "is wrong"));
    let updates = UpdateRefused::ALL
        .into_iter()
        .map(UpdateRefused::reason)
        .chain(KeySetError::ALL.into_iter().map(KeySetError::reason))
        .chain(LinkRefused::ALL.into_iter().map(LinkRefused::reason))
        .map(|reason| (reason.to_owned(), "-".to_owned()));
    refusals
        .chain(issuing)
        .chain(failures)
        .chain([field])
        .chain(updates)
        .collect()
}

/// The first two cells of each table row whose first cell is one name in backticks.
fn rows(document: &str) -> BTreeMap<String, String> {
    document
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some((name.to_owned(), cells.next()?.to_owned()))
        })
        .collect()
}

#[test]
fn every_reason_is_documented_with_its_code_and_no_other() {
    let documented = rows(&repository::text("docs/errors.md"));
    let known = known_reasons();
    let differs = |reason: &&String| documented.get(*reason) != known.get(*reason);
    let wrong: Vec<String> = known
        .keys()
        .chain(documented.keys())
        .filter(differs)
        .map(|reason| {
            format!(
                "{reason}: documented {:?}, true {:?}",
                documented.get(reason),
                known.get(reason)
            )
        })
        .collect();
    assert!(wrong.is_empty(), "docs/errors.md:\n{}", wrong.join("\n"));
}

/// The contracts name reasons in their comments; each of them exists.
#[test]
fn the_contracts_name_only_reasons_that_exist() {
    let known = known_reasons();
    let mut unknown = Vec::new();
    for path in repository::files(&["proto"]) {
        let name = repository::name(&path);
        for line in repository::text(&name).lines().filter(|line| line.contains("//")) {
            for word in line.split('`').skip(1).step_by(2) {
                let is_reason =
                    word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
                if is_reason && !known.contains_key(&word.to_ascii_lowercase()) {
                    unknown.push(format!("{name}: {word}"));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "unknown reasons:\n{}", unknown.join("\n"));
}

/// The page before the block that shows `file`, the block, and the rest of the page.
fn block<'a>(page: &'a str, file: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let marker = format!("<!-- {file} -->\n\n```toml\n");
    let start = page.find(&marker)? + marker.len();
    let (before, rest) = page.split_at_checked(start)?;
    let (shown, after) = rest.split_at_checked(rest.find("```\n")?)?;
    Some((before, shown, after))
}

/// The page on configuration shows the very files that the crates' own tests read.
/// `UPDATE_GENERATED=1 cargo test -p countersign-architecture` copies them.
#[test]
fn the_page_on_configuration_shows_the_example_files() {
    const PAGE: &str = "docs/config.md";
    for file in [
        "authority/config.example.toml",
        "verifier-sidecar/config.example.toml",
    ] {
        let page = repository::text(PAGE);
        let example = repository::text(file);
        let (before, shown, after) =
            block(&page, file).unwrap_or_else(|| panic!("{PAGE} has no block for {file}"));
        if shown != example && std::env::var_os("UPDATE_GENERATED").is_some() {
            let updated = [before, &example, after].concat();
            std::fs::write(repository::root().join(PAGE), updated).expect("the page is written");
            continue;
        }
        assert!(
            shown == example,
            "{PAGE} shows another {file}: UPDATE_GENERATED=1 cargo test -p countersign-architecture"
        );
    }
}

/// The metrics that a source registers: the literal that each registering call begins with. The registry puts the prefix
/// before it, and a unit behind.
fn registered(source: &str) -> BTreeSet<String> {
    let calls = [
        (".register(", ""),
        (".register_with_unit(", "_seconds"),
        ("encode_descriptor(", ""),
        // Functions that take an encoder and a name.
        ("encoder,", ""),
    ];
    let source = production_lines(source).join("\n");
    let mut found = BTreeSet::new();
    for (call, unit) in calls {
        for arguments in source.split(call).skip(1) {
            let first = arguments.trim_start().strip_prefix('"');
            let literal = first.and_then(|text| text.split('"').next());
            found.extend(literal.map(|name| format!("countersign_{name}{unit}")));
        }
    }
    found
}

/// The metrics in one section of the page, without the suffixes that the text format adds.
fn listed(page: &str, section: &str) -> BTreeSet<String> {
    let (_, rest) = page
        .split_once(&format!("\n## {section}\n"))
        .unwrap_or_else(|| panic!("docs/metrics.md has no section {section}"));
    let section = rest.split("\n## ").next().unwrap_or_default();
    let bare = |name: String| {
        let stripped = ["_total", "_info"].iter().find_map(|end| name.strip_suffix(end));
        stripped.unwrap_or(&name).to_owned()
    };
    rows(section).into_keys().map(bare).collect()
}

/// The sections of docs/metrics.md, each with where its metrics are.
const METRICS: [(&str, &[&str]); 2] = [
    ("Authority", &["authority/src/metrics"]),
    (
        "Sidecar",
        &[
            "verifier-sidecar/src/metrics",
            "verifier-sidecar/verifier/src/metrics",
        ],
    ),
];

/// The sources of the metrics in these folders, and of those that every process has.
fn metric_sources(folders: &[&str]) -> impl Iterator<Item = String> {
    const OF_ALL: &str = "shared/runtime/src/metrics.rs";
    repository::production_sources()
        .into_iter()
        .map(|path| repository::name(&path))
        .filter(|name| name == OF_ALL || folders.iter().any(|folder| name.starts_with(folder)))
        .map(|name| repository::text(&name))
}

#[test]
fn every_metric_is_documented_and_no_other() {
    let page = repository::text("docs/metrics.md");
    for (section, folders) in METRICS {
        let known: BTreeSet<String> = metric_sources(folders)
            .flat_map(|source| registered(&source))
            .collect();
        let documented = listed(&page, section);
        let wrong: Vec<&String> = known.symmetric_difference(&documented).collect();
        assert!(wrong.is_empty(), "docs/metrics.md, {section}: {wrong:?}");
    }
}

/// The labels that a source gives to metrics: the fields of label sets, and pairs in brackets.
fn labelled(source: &str) -> BTreeSet<String> {
    let source = production_lines(source).join("\n");
    let sets = source.split("EncodeLabelSet)]").skip(1);
    let fields = sets.filter_map(|rest| rest.split_once('{')?.1.split_once('}'));
    let fields = fields.flat_map(|(fields, _)| fields.lines().map(str::trim));
    let fields = fields.filter(|line| !line.starts_with("//"));
    let fields = fields
        .filter_map(|field| field.split_once(": "))
        .map(|(name, _)| name);
    let brackets = source
        .split('[')
        .skip(1)
        .filter_map(|rest| rest.split(']').next());
    let pairs = brackets.filter(|inside| inside.starts_with("(\""));
    let pairs = pairs.flat_map(|inside| inside.split("(\"").skip(1));
    let named = pairs.filter_map(|pair| pair.split('"').next());
    fields.chain(named).map(str::to_owned).collect()
}

#[test]
fn every_label_is_documented_and_no_other() {
    let page = repository::text("docs/metrics.md");
    for (section, folders) in METRICS {
        let (_, rest) = page.split_once(&format!("\n## {section}\n")).expect("a section");
        let rows = rest.split("\n## ").next().unwrap_or_default().lines();
        let cells = rows.filter_map(|row| row.strip_prefix("| `")?.split('|').nth(2));
        let documented: BTreeSet<String> = cells
            .flat_map(|labels| labels.split('`').skip(1).step_by(2))
            .map(str::to_owned)
            .collect();
        let known: BTreeSet<String> = metric_sources(folders)
            .flat_map(|source| labelled(&source))
            .collect();
        let wrong: Vec<&String> = known.symmetric_difference(&documented).collect();
        assert!(wrong.is_empty(), "docs/metrics.md, {section}: {wrong:?}");
    }
}

/// The two commands of the README are those that are promised and that CI runs.
#[test]
fn the_readme_has_the_commands_that_are_checked() {
    let readme = repository::text("README.md");
    let ci = repository::text(".ci/run");
    let commands = [
        "cargo run --release --bin countersign -- dev",
        "cargo test --workspace",
    ];
    for command in commands {
        let stands_alone = readme.lines().any(|line| line == command);
        assert!(stands_alone, "README.md lacks the line `{command}`");
    }
    assert!(ci.contains("cargo test --workspace "), "CI runs the same command");
}

/// Every command that does something, as it is typed, with the names of its options. Hidden commands are left out.
fn commands(command: &Command, typed: &str, found: &mut BTreeMap<String, BTreeSet<String>>) {
    let shown = |inner: &&Command| !inner.is_hide_set() && inner.get_name() != "help";
    let inner: Vec<&Command> = command.get_subcommands().filter(shown).collect();
    if inner.is_empty() {
        let options = command.get_arguments().filter_map(|option| option.get_long());
        let options = options.filter(|name| !matches!(*name, "help" | "version"));
        let options = options.map(|name| format!("--{name}")).collect();
        found.insert(typed.to_owned(), options);
    }
    for command in inner {
        commands(command, &format!("{typed} {}", command.get_name()), found);
    }
}

/// The options that a text names.
fn options(text: &str) -> BTreeSet<String> {
    text.split(|letter: char| !letter.is_ascii_lowercase() && letter != '-')
        .filter(|word| word.len() > 2 && word.starts_with("--"))
        .map(str::to_owned)
        .collect()
}

/// What most commands take stands in a section of its own; a row has the rest, and nothing that its command lacks.
#[test]
fn every_command_is_documented_with_its_options_and_no_other() {
    let page = repository::text("docs/cli.md");
    let (before, table) = page.split_once("\n## Commands\n").expect("a section on commands");
    let (_, connection) = before.split_once("\n## Finding an authority\n").expect("another");
    let connection = options(connection);
    let mut known = BTreeMap::new();
    commands(&Cli::command(), "countersign", &mut known);
    let documented: BTreeMap<String, BTreeSet<String>> = table
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let command = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some((command.to_owned(), options(cells.nth(1)?)))
        })
        .collect();
    for options in known.values_mut() {
        options.retain(|option| !connection.contains(option));
    }
    let wrong = known.keys().chain(documented.keys());
    let wrong: BTreeSet<String> = wrong
        .filter(|command| known.get(*command) != documented.get(*command))
        .map(|command| {
            let (documented, known) = (documented.get(command), known.get(command));
            format!("`{command}`: documented {documented:?}, true {known:?}")
        })
        .collect();
    assert!(wrong.is_empty(), "docs/cli.md: {wrong:#?}");
}
