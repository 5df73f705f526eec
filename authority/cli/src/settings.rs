//! What the environment says that is no option of a command. The only place that reads it; options read theirs
//! (`COUNTERSIGN_*`) where they are declared.

/// Whether the user wants no colour (<https://no-color.org>).
#[must_use]
pub(crate) fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// The folder of a development environment when none is named: fixed, so that every command finds it.
#[must_use]
pub(crate) fn default_folder() -> std::path::PathBuf {
    std::env::temp_dir().join("countersign-dev")
}
