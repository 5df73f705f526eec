//! The repository's files, as the other modules read them.

use std::fs;
use std::path::{Path, PathBuf};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder
        .ancestors()
        .nth(2)
        .expect("this crate is two folders deep")
        .to_owned()
}

/// A file's path as it is written in messages: from the root, with `/`.
pub(crate) fn name(path: &Path) -> String {
    let relative = path.strip_prefix(root()).expect("the file is in the repository");
    relative.to_string_lossy().replace('\\', "/")
}

/// The text of a file, by its path from the root.
pub(crate) fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file with one of these extensions, in order. Build output and version control are left out.
pub(crate) fn files(extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&root(), extensions, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no file with extension {extensions:?}");
    found
}

fn collect(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the entry is readable").path();
        let file_name = path
            .file_name()
            .expect("an entry has a name")
            .to_string_lossy()
            .into_owned();
        if path.is_symlink() || matches!(file_name.as_str(), "target" | ".git") {
            continue;
        }
        let has_extension = path
            .extension()
            .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted));
        if path.is_dir() {
            collect(&path, extensions, found);
        } else if has_extension {
            found.push(path);
        }
    }
}

/// The Rust files that are part of the product: no tests, no generated code.
pub(crate) fn production_sources() -> Vec<PathBuf> {
    let is_production = |path: &PathBuf| {
        let name = name(path);
        let is_test = name.starts_with("tests/")
            || name
                .split('/')
                .any(|part| matches!(part, "tests" | "tests.rs" | "benches"));
        !is_test && !is_generated(&name)
    };
    files(&["rs"]).into_iter().filter(is_production).collect()
}

/// Whether the file is written by a program.
pub(crate) fn is_generated(name: &str) -> bool {
    name.starts_with("proto/src/gen/")
}

/// The lines of a source before its test module, which stands at the end by convention.
pub(crate) fn production_lines(source: &str) -> Vec<&str> {
    let lines: Vec<&str> = source.lines().collect();
    let starts_tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests");
    let end = lines.windows(2).position(starts_tests).unwrap_or(lines.len());
    lines[..end].to_vec()
}
