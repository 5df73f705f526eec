//! Rules about the repository as a whole that no compiler checks, as tests: which crate may see which, how long a file may
//! grow, that documents say what the code does.
//!
//! There is nothing to call here. Each module below is one group of rules; `cargo test -p countersign-architecture` runs them.

#[cfg(test)]
mod dashboards;
#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod links;
#[cfg(test)]
mod repository;
#[cfg(test)]
mod sources;
