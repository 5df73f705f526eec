//! The reverse proxy before one service: judges every call, and passes on those that are good.
//!
//! ```text
//! form (G01..G12) -> verdict -> headers -> service -> frames and trailers, both ways, as they come
//! ```
//!
//! Nothing of a call reaches the service before the verdict, not even a connection (I-28). What is passed on is what was
//! judged, less the reserved headers, plus ours (I-27).

pub(crate) mod answer;
pub(crate) mod apps;
pub(crate) mod body;
mod headers;
mod hop;
pub(crate) mod lifetime;
pub(crate) mod request;
pub(crate) mod respond;
mod service;
mod stream_tokens;
pub(crate) mod upstream;
mod web;

pub use apps::Speaks;
pub use headers::TokenForwarding;
pub use upstream::UpstreamAddress;

pub(crate) use respond::{Refusal, code_name};
pub(crate) use service::{Proxy, ProxyService, ProxySettings};
pub(crate) use upstream::{Dial, Upstream};
