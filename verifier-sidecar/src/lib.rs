//! The verifier that stands beside a service.

pub mod trust;
