//! The services as callers meet them: over HTTP/2, with the certificate of the connection given.

mod admin;
mod audit;
mod border;
mod clients;
mod drills;
mod fleet;
mod issuing;
mod newcomers;
mod recovering;
mod revocations;
mod stage;
mod sync;
mod trust;
mod whole_client;
