//! The commands, one module for each noun. Each says what it takes, asks the authority, and shows the answer.

pub(crate) mod agent;
pub(crate) mod client;
pub(crate) mod completions;
pub(crate) mod fleet;
pub(crate) mod inspect;
pub(crate) mod key;
pub(crate) mod local;
pub(crate) mod observed;
pub(crate) mod pages;
pub(crate) mod reach;
pub(crate) mod revoke;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod trust;
