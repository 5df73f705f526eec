//! The token agent: where the app asks it, and how much it keeps.

use std::net::SocketAddr;
use std::path::PathBuf;

use countersign_runtime::config::Period;
use serde::Deserialize;

use super::{Checker, defaults};
use crate::agent::AgentLimits;

/// The section `[agent]` as the operator wrote it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    unix: Option<PathBuf>,
    grpc: Option<String>,
    max_tokens: Option<usize>,
    idle: Option<Period>,
}

/// Where the app asks for tokens, if it does, and how many are kept.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// A unix socket.
    pub unix: Option<PathBuf>,
    /// A loopback address.
    pub grpc: Option<SocketAddr>,
    /// What is kept.
    pub limits: AgentLimits,
}

impl AgentConfig {
    /// Whether the app asks for tokens.
    #[must_use]
    pub const fn is_served(&self) -> bool {
        self.unix.is_some() || self.grpc.is_some()
    }
}

impl Checker {
    pub(super) fn agent(&mut self, file: &File) -> AgentConfig {
        let usual = defaults::AGENT;
        let max_tokens = file.max_tokens.unwrap_or(usual.max_tokens);
        self.within("agent.max_tokens", max_tokens, 1, defaults::MAX_TOKENS);
        AgentConfig {
            unix: file.unix.as_ref().map(|path| self.path(path)),
            grpc: file
                .grpc
                .as_ref()
                .and_then(|address| self.loopback("agent.grpc", address)),
            limits: AgentLimits {
                max_tokens,
                idle: file.idle.map_or(usual.idle, Into::into),
            },
        }
    }
}
